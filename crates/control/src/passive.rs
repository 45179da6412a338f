//! Passive health: which backends answer fewer clients than the others of their service.
//!
//! Rule of this module: pure; it is told counts and the time. With direct server return the balancer sees no answer of a backend, but it sees
//! whether a client goes on after its SYN. Of a backend that is silent, few do. A flood of SYNs that nobody goes on from
//! hits all backends of a service alike, so each is compared with the median of its service, and not with a fixed number. What comes of it is a
//! suspicion, no verdict: the backend is probed, and the probe decides.

use std::collections::HashMap;
use wire::BackendId;

/// Shortest time over which backends are compared, milliseconds.
pub(crate) const WINDOW_MS: u64 = 5_000;
/// Longest; what was counted before is forgotten.
const WINDOW_MAX_MS: u64 = 60_000;
/// Fewest SYNs that say anything of a backend.
pub(crate) const SYNS: u64 = 50;
/// Fewest backends with so many SYNs that have a median.
const BACKENDS: usize = 3;

/// What was counted of a backend until now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    /// Flows that a SYN began.
    pub(crate) syns: u64,
    /// Flows that went on.
    pub(crate) handshakes: u64,
}

/// The backends of a service, compared again and again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Comparison {
    /// When each backend's window began, and what had been counted by then.
    windows: HashMap<BackendId, (u64, Counts)>,
}

impl Comparison {
    /// Takes in the counts of all backends of the service that take new flows. Gives those that are worse than half the median, each once a
    /// window. A backend that is named for the first time, or whose counts have gone back, begins a window.
    pub(crate) fn observe(&mut self, counts: &[(BackendId, Counts)], now_ms: u64) -> Vec<BackendId> {
        self.windows.retain(|id, _| counts.iter().any(|(of, _)| of == id));
        let mut ready: Vec<(BackendId, u64)> = Vec::new();
        for &(id, count) in counts {
            let (began, then) = self.windows.entry(id).or_insert((now_ms, count));
            let passed = now_ms.saturating_sub(*began);
            if count.syns < then.syns || count.handshakes < then.handshakes || passed > WINDOW_MAX_MS {
                (*began, *then) = (now_ms, count);
                continue;
            }
            let (syns, handshakes) = (count.syns - then.syns, count.handshakes - then.handshakes);
            if passed >= WINDOW_MS && syns >= SYNS {
                // Flows met in the middle count as handshakes alone.
                ready.push((id, handshakes.min(syns) * 1_000_000 / syns));
            }
        }
        if ready.len() < BACKENDS {
            return Vec::new();
        }
        for (id, count) in counts.iter().filter(|(id, _)| ready.iter().any(|(of, _)| of == id)) {
            self.windows.insert(*id, (now_ms, *count));
        }
        let median = median(ready.iter().map(|(_, ratio)| *ratio).collect());
        ready.into_iter().filter(|(_, ratio)| ratio * 2 < median).map(|(id, _)| id).collect()
    }
}

/// The middle one, or the mean of the two in the middle; 0 of none.
fn median(mut of: Vec<u64>) -> u64 {
    of.sort_unstable();
    let upper = of.get(of.len() / 2).copied().unwrap_or(0);
    let lower = of.get(of.len().saturating_sub(1) / 2).copied().unwrap_or(0);
    u64::midpoint(lower, upper)
}

#[cfg(test)]
mod tests {
    use super::{Comparison, Counts, WINDOW_MS, median};
    use wire::BackendId;

    /// A service in which backend n has had so many SYNs and handshakes.
    fn counts(of: &[(u64, u64)]) -> Vec<(BackendId, Counts)> {
        (0..).map(BackendId).zip(of.iter().map(|&(syns, handshakes)| Counts { syns, handshakes })).collect()
    }

    /// What comes of such counts within a window.
    fn after_a_window(of: &[(u64, u64)]) -> Vec<u32> {
        let mut comparison = Comparison::default();
        assert!(comparison.observe(&counts(&vec![(0, 0); of.len()]), 1000).is_empty());
        comparison.observe(&counts(of), 1000 + WINDOW_MS).into_iter().map(|id| id.0).collect()
    }

    #[test]
    fn one_that_is_silent_is_found() {
        assert_eq!(after_a_window(&[(100, 99), (100, 98), (100, 0)]), [2]);
        assert_eq!(after_a_window(&[(100, 99), (100, 49), (100, 100)]), [1]);
        assert_eq!(after_a_window(&[(1000, 20), (100, 99), (100, 97), (80, 80)]), [0]);
    }

    #[test]
    fn a_flood_is_no_backends_fault() {
        assert_eq!(after_a_window(&[(10_000, 100), (10_100, 99), (9_900, 97)]), []);
        assert_eq!(after_a_window(&[(10_000, 0), (10_100, 0), (9_900, 0)]), [], "nor if nobody goes on");
        assert_eq!(after_a_window(&[(10_000, 100), (10_100, 0), (9_900, 97)]), [1], "but a dead one shows all the same");
    }

    #[test]
    fn too_few_say_nothing() {
        assert_eq!(after_a_window(&[(100, 99), (100, 0)]), [], "two have no median");
        assert_eq!(after_a_window(&[(100, 99), (49, 0), (100, 99)]), [], "nor has one with few SYNs a part in it");
        assert_eq!(after_a_window(&[]), []);
    }

    #[test]
    fn a_window_is_long_enough_and_comes_again() {
        let mut comparison = Comparison::default();
        let at = |n: u64| counts(&[(100 * n, 100 * n), (100 * n, 100 * n), (100 * n, 0)]);
        assert!(comparison.observe(&at(0), 0).is_empty());
        assert!(comparison.observe(&at(1), WINDOW_MS - 1).is_empty());
        assert_eq!(comparison.observe(&at(1), WINDOW_MS), [BackendId(2)]);
        assert!(comparison.observe(&at(2), WINDOW_MS + 250).is_empty(), "a new window");
        assert_eq!(comparison.observe(&at(3), 2 * WINDOW_MS), [BackendId(2)]);
        // Counts of a worker that started anew, and long silence.
        assert!(comparison.observe(&at(0), 3 * WINDOW_MS).is_empty());
        assert!(comparison.observe(&at(9), 3 * WINDOW_MS + 60_001).is_empty());
        assert_eq!(comparison.observe(&at(10), 4 * WINDOW_MS + 60_001), [BackendId(2)]);
    }

    #[test]
    fn the_middle() {
        assert_eq!(median(vec![]), 0);
        assert_eq!(median(vec![7]), 7);
        assert_eq!(median(vec![9, 1]), 5);
        assert_eq!(median(vec![3, 1, 2]), 2);
    }
}
