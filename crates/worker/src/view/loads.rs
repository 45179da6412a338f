//! How busy backends are: figures that control writes and workers read, without a new view.
//!
//! Control makes one of these at its start, and every view shares it. Writes are seen one by one; the sequence only tells that some
//! have changed since, so a worker that reads in the middle of a round has some figures of the one before, for one round.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use wire::BackendId;

/// A load of one: as many flows as the backend is meant to carry, in millionths.
pub const FULL_PPM: u32 = 1_000_000;
/// The largest load that can be said, millionths: 2147 times what the backend is meant to carry.
pub const LOAD_MAX_PPM: u32 = JOINING - 1;

/// In a word: the backend joins.
const JOINING: u32 = 1 << 31;

/// A backend's load.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Load {
    /// Millionths of what the backend is meant to carry, 0 to [`LOAD_MAX_PPM`].
    pub ppm: u32,
    /// It came up lately, and its service has `join = "slow-start"`: no worker gives it two new flows in a row.
    pub joining: bool,
}

/// The loads of all backends, by id. One writer, any reader; nothing is ever locked.
#[derive(Debug, Default)]
pub struct Loads {
    of: Box<[AtomicU32]>,
    sequence: AtomicU64,
}

impl Loads {
    /// Loads of backends with ids below `backends`, all 0.
    pub fn new(backends: usize) -> Loads {
        Loads { of: (0..backends).map(|_| AtomicU32::new(0)).collect(), sequence: AtomicU64::new(0) }
    }

    /// Sets a load; a larger one than can be said is said as the largest. What is set for an id beyond the limit is lost.
    pub fn set(&self, backend: BackendId, load: Load) {
        if let Some(of) = self.of.get(backend.index()) {
            let joining = if load.joining { JOINING } else { 0 };
            of.store(load.ppm.min(LOAD_MAX_PPM) | joining, Ordering::Relaxed);
        }
    }

    /// Tells workers to read again. Call it after a round of [`Loads::set`].
    pub fn publish(&self) {
        self.sequence.fetch_add(1, Ordering::Release);
    }

    /// The load of a backend; 0 for an id beyond the limit.
    #[inline]
    pub fn get(&self, backend: BackendId) -> Load {
        let word = self.of.get(backend.index()).map_or(0, |of| of.load(Ordering::Relaxed));
        Load { ppm: word & LOAD_MAX_PPM, joining: word & JOINING != 0 }
    }

    /// Counts the rounds published.
    #[inline]
    pub fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::{LOAD_MAX_PPM, Load, Loads};
    use wire::BackendId;

    #[test]
    fn what_is_set_is_read_and_the_largest_stands_for_more() {
        let loads = Loads::new(3);
        let (one, beyond) = (BackendId(1), BackendId(3));
        for (ppm, expected) in [(0, 0), (7, 7), (LOAD_MAX_PPM, LOAD_MAX_PPM), (u32::MAX, LOAD_MAX_PPM)] {
            for joining in [false, true] {
                loads.set(one, Load { ppm, joining });
                assert_eq!(loads.get(one), Load { ppm: expected, joining });
            }
        }
        loads.set(beyond, Load { ppm: 9, joining: true });
        assert_eq!(loads.get(beyond), Load::default());
        assert_eq!(loads.get(BackendId(0)), Load::default());
        assert_eq!(loads.sequence(), 0);
        loads.publish();
        assert_eq!(loads.sequence(), 1);
    }
}
