//! The one seam for atomics: `core`'s, or under `cfg(loom)` loom's, which explore every order that the memory model
//! allows. Lock-free code of this crate takes its atomics from here and from nowhere else.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Told before a retry: lets a sibling hyper-thread run, and under loom the writer.
#[inline]
pub fn relax() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}
