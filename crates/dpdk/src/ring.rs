//! DPDK's own ring (`rte_ring`), single producer and single consumer, for measurements beside ours.

use crate::eal::Eal;
use crate::errno::Errno;
use core::ffi::c_void;
use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;

/// `RING_F_SP_ENQ | RING_F_SC_DEQ`.
const SINGLE: u32 = 1 | 2;
/// Items moved in one call at the most.
pub const BURST_MAX: usize = 64;

/// No ring.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("DPDK makes no ring of {depth} places [{errno}]; the depth must be a power of two")]
pub struct RingError {
    /// Places asked for.
    pub depth: u32,
    /// DPDK's reason.
    pub errno: Errno,
}

#[derive(Debug)]
struct RingHandle {
    ring: NonNull<dpdk_sys::rte_ring>,
    _eal: Eal,
}

// SAFETY: one producer and one consumer may work at the same time, and the two ends below exist once each.
unsafe impl Send for RingHandle {}
// SAFETY: as above.
unsafe impl Sync for RingHandle {}

impl Drop for RingHandle {
    fn drop(&mut self) {
        // SAFETY: made by rte_ring_create and freed once, after both ends.
        unsafe { dpdk_sys::rte_ring_free(self.ring.as_ptr()) };
    }
}

/// The producer's end.
#[derive(Debug)]
pub struct RingSender(Arc<RingHandle>);

/// The consumer's end.
#[derive(Debug)]
pub struct RingReceiver(Arc<RingHandle>);

/// A ring of `depth` (a power of two) places, of which one stays empty.
///
/// # Errors
/// [`RingError`].
pub fn channel(eal: &Eal, name: &str, depth: u32) -> Result<(RingSender, RingReceiver), RingError> {
    let refused = |errno| RingError { depth, errno };
    let name = CString::new(name).map_err(|_| refused(Errno::INVAL))?;
    // SAFETY: EAL is started; the name is copied.
    let ring = unsafe { dpdk_sys::rte_ring_create(name.as_ptr(), depth, dpdk_sys::SOCKET_ID_ANY, SINGLE) };
    let ring = NonNull::new(ring).ok_or_else(|| refused(Errno::last()))?;
    let inner = Arc::new(RingHandle { ring, _eal: eal.clone() });
    Ok((RingSender(Arc::clone(&inner)), RingReceiver(inner)))
}

impl RingSender {
    /// Puts items from the front in; how many is returned.
    #[inline]
    pub fn push(&mut self, items: &[u64]) -> usize {
        let count = items.len().min(BURST_MAX) as u32;
        let first = items.as_ptr().cast::<*mut c_void>();
        // SAFETY: `count` items of pointer size; this is the only producer.
        unsafe { dpdk_sys::shim_ring_enqueue_burst(self.0.ring.as_ptr(), first, count) as usize }
    }
}

impl RingReceiver {
    /// Takes items out; how many is returned.
    #[inline]
    pub fn pop(&mut self, items: &mut [u64; BURST_MAX], count: usize) -> usize {
        let count = count.min(BURST_MAX) as u32;
        let first = items.as_mut_ptr().cast::<*mut c_void>();
        // SAFETY: room for `count` items of pointer size; this is the only consumer.
        unsafe { dpdk_sys::shim_ring_dequeue_burst(self.0.ring.as_ptr(), first, count) as usize }
    }
}
