//! Huge-page memory for tables.

use crate::eal::{self, Eal};
use crate::huge_pages::remedy;
use std::ptr::NonNull;

/// A huge-page allocation failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no {bytes} bytes of contiguous huge-page memory for {what}; {help}")]
pub struct NoMemory {
    /// What it was for.
    pub what: String,
    /// Bytes asked for.
    pub bytes: u64,
    /// What to do.
    pub help: String,
}

/// `count` default values of `T` in huge-page memory of the given NUMA socket (of any, where that one has none).
///
/// The memory stays for the life of the process and the values are never dropped, so `T` should own nothing.
///
/// # Errors
/// [`NoMemory`].
pub fn slice<T: Default + Send + Sync + 'static>(
    _eal: &Eal,
    what: &str,
    count: usize,
    socket: Option<u16>,
) -> Result<&'static [T], NoMemory> {
    let no_memory =
        |bytes: usize| NoMemory { what: what.to_owned(), bytes: bytes as u64, help: remedy(bytes as u64) };
    let bytes = count.checked_mul(size_of::<T>()).ok_or_else(|| no_memory(usize::MAX))?;
    if bytes == 0 {
        return Ok(&[]);
    }
    // A cache line at least, so that a table of lines does not straddle them.
    let align = u32::try_from(align_of::<T>().max(64)).map_err(|_| no_memory(bytes))?;
    let sockets = [socket.map_or(dpdk_sys::SOCKET_ID_ANY, i32::from), dpdk_sys::SOCKET_ID_ANY];
    let start = sockets.into_iter().find_map(|socket| {
        // SAFETY: EAL is started; a null type name is allowed; the alignment is a power of two.
        let start = unsafe { dpdk_sys::rte_malloc_socket(std::ptr::null(), bytes, align, socket) };
        NonNull::new(start.cast::<T>())
    });
    let start = start.ok_or_else(|| no_memory(bytes))?;
    eal::pin_memory(); // the slice is 'static
    // SAFETY: room for `count` aligned values, owned by nobody else and never freed nor unmapped (pinned above).
    Ok(unsafe { defaults(start, count) })
}

/// Writes `count` default values and gives them for ever.
///
/// # Safety
/// `start` is aligned and begins room for `count` values, which nobody else refers to and which stays mapped.
pub(crate) unsafe fn defaults<T: Default>(start: NonNull<T>, count: usize) -> &'static [T] {
    for index in 0..count {
        // SAFETY: `start` is the beginning of `count` values, so the address is inside the allocation.
        let place = unsafe { start.add(index) };
        // SAFETY: inside the allocation, aligned, and owned by nobody else.
        unsafe { place.write(T::default()) };
    }
    // SAFETY: `count` initialized values, never freed; only shared references exist.
    unsafe { std::slice::from_raw_parts(start.as_ptr(), count) }
}

/// Asks for the line of `place`, without waiting for it.
#[inline(always)]
pub fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch never faults, and the address is that of a live value.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(place).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
