//! The one seam for atomics: `core`'s, or under `cfg(loom)` loom's, which explore every order that the memory model
//! allows. Lock-free code of this crate takes its atomics from here and from nowhere else.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// The writer's load of a word that nobody else writes.
///
/// Under loom it is no event: loom remembers one access of a word only, and the writer's own load would hide the
/// reader's from it, and with that the interleavings that matter.
#[cfg(not(loom))]
#[inline]
pub(crate) fn load_own(word: &AtomicU32) -> u32 {
    word.load(Ordering::Relaxed)
}

/// Reads a word of which the calling thread is the only writer.
#[cfg(loom)]
#[expect(unsafe_code, reason = "loom checks that no other thread writes at the same time")]
pub(crate) fn load_own(word: &AtomicU32) -> u32 {
    // SAFETY: only the one writer calls this, and only it writes.
    unsafe { word.unsync_load() }
}

/// Told before a retry: lets a sibling hyper-thread run, and under loom the writer.
#[inline]
pub fn relax() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}
