//! A packet buffer. The only file that touches fields of `rte_mbuf`.

use crate::mempool::Mempool;
use core::mem::ManuallyDrop;
use std::ptr::NonNull;
use wire::PortId;
use worker::io::NoRoom;
use worker::{Frame, RxMeta};

/// An owned packet buffer; dropping one frees it (and the segments behind it).
///
/// It must not outlive the process's EAL: pools see to that by keeping memory mapped while a buffer is missing.
#[derive(Debug)]
#[repr(transparent)]
pub struct Mbuf(NonNull<dpdk_sys::rte_mbuf>);

// SAFETY: a buffer has one owner, and freeing it into its pool is allowed from any thread.
unsafe impl Send for Mbuf {}

impl Mbuf {
    /// One empty buffer; `None` when the pool is empty.
    pub fn alloc(pool: &Mempool) -> Option<Mbuf> {
        let mut mbuf = std::ptr::null_mut();
        // SAFETY: the pool is alive, and there is room for one pointer.
        let result = unsafe { dpdk_sys::shim_pktmbuf_alloc_bulk(pool.as_ptr(), &raw mut mbuf, 1) };
        if result == 0 { NonNull::new(mbuf).map(Mbuf) } else { None }
    }

    /// Notes what the receiver knows. Called on every received buffer before anyone sees it.
    #[inline(always)]
    pub(crate) fn set_received(&mut self, port: PortId) {
        self.raw_mut().port = port.0;
    }

    #[inline(always)]
    fn raw(&self) -> &dpdk_sys::rte_mbuf {
        // SAFETY: an owned buffer points to a valid rte_mbuf, and nobody else writes it.
        unsafe { self.0.as_ref() }
    }

    #[inline(always)]
    fn raw_mut(&mut self) -> &mut dpdk_sys::rte_mbuf {
        // SAFETY: as above, and `&mut self` is the only reference.
        unsafe { self.0.as_mut() }
    }

    #[inline(always)]
    fn data(&self) -> *mut u8 {
        let raw = self.raw();
        // SAFETY: DPDK and this file keep data_off <= buf_len, so the address is inside the buffer or one past it.
        unsafe { raw.buf_addr.cast::<u8>().add(usize::from(raw.data_off)) }
    }
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        // SAFETY: owned, so it is freed once.
        unsafe { dpdk_sys::shim_pktmbuf_free(self.0.as_ptr()) };
    }
}

/// The first `count` pointers of a list of buffers, as DPDK wants them.
///
/// `Mbuf` is a transparent, non-null pointer, so the two lists look the same in memory.
pub(crate) fn as_raw(first: *mut Mbuf) -> *mut *mut dpdk_sys::rte_mbuf {
    first.cast()
}

/// Frees buffers in one call.
pub(crate) fn free_bulk(mbufs: &mut [ManuallyDrop<Mbuf>]) {
    let count = u32::try_from(mbufs.len()).unwrap_or(u32::MAX);
    // SAFETY: `count` owned buffers, whose destructors do not run.
    unsafe { dpdk_sys::rte_pktmbuf_free_bulk(as_raw(mbufs.as_mut_ptr().cast()), count) };
}

impl Frame for Mbuf {
    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        // SAFETY: data_len bytes from the data offset lie inside the buffer (kept by DPDK and by this file) and are initialized memory of the pool.
        unsafe { std::slice::from_raw_parts(self.data(), usize::from(self.raw().data_len)) }
    }

    #[inline(always)]
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes the reference unique, and buffers are not shared (no clones, refcnt 1).
        unsafe { std::slice::from_raw_parts_mut(self.data(), usize::from(self.raw().data_len)) }
    }

    #[inline(always)]
    fn meta(&self) -> RxMeta {
        let raw = self.raw();
        RxMeta { port: PortId(raw.port), index: 0, multi_segment: raw.nb_segs > 1, truncated: false }
    }

    /// Keeps the port; the other fields describe the buffer itself, or belong to files.
    #[inline(always)]
    fn set_meta(&mut self, meta: RxMeta) {
        self.raw_mut().port = meta.port.0;
    }

    #[inline(always)]
    fn grow_front(&mut self, n: usize) -> Result<&mut [u8], NoRoom> {
        let raw = self.raw_mut();
        let n = u16::try_from(n).map_err(|_| NoRoom)?;
        let data_off = raw.data_off.checked_sub(n).ok_or(NoRoom)?;
        let data_len = raw.data_len.checked_add(n).ok_or(NoRoom)?;
        raw.data_off = data_off;
        raw.data_len = data_len;
        raw.pkt_len += u32::from(n);
        Ok(self.bytes_mut())
    }

    /// Refused for a buffer of several segments, as [`set_len`](Frame::set_len) is.
    #[inline(always)]
    fn cut_and_grow(&mut self, len: usize, n: usize) -> Result<&mut [u8], NoRoom> {
        let raw = self.raw_mut();
        // Both fit: `len` into a data length, `n` into a headroom.
        if len > usize::from(raw.data_len) || n > usize::from(raw.data_off) || raw.nb_segs != 1 {
            return Err(NoRoom);
        }
        let (len, n) = (len as u16, n as u16);
        let data_len = len.checked_add(n).ok_or(NoRoom)?;
        raw.data_off -= n;
        raw.data_len = data_len;
        raw.pkt_len = u32::from(data_len);
        Ok(self.bytes_mut())
    }

    /// Refused for a buffer of several segments, whose length is not in one place.
    #[inline(always)]
    fn set_len(&mut self, len: usize) -> Result<(), NoRoom> {
        let raw = self.raw_mut();
        let room = raw.buf_len.saturating_sub(raw.data_off);
        match u16::try_from(len) {
            Ok(len) if len <= room && raw.nb_segs == 1 => {
                raw.data_len = len;
                raw.pkt_len = u32::from(len);
                Ok(())
            }
            _ => Err(NoRoom),
        }
    }
}
