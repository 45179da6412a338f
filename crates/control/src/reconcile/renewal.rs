//! Exception interfaces that are gone. Their devices are made anew in three steps: the workers are given a view without the exception port; when all
//! use it, a thread makes the device and exchanges the workers' queues; then the view has the port again.

use std::collections::BTreeMap;
use std::time::Duration;
use wire::PortId;

/// Pause after a failure; each further one is twice as long …
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// … up to this.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Exception devices that are being made anew, by data port.
#[derive(Debug, Default)]
pub(crate) struct Renewals {
    under_way: BTreeMap<PortId, Renewal>,
    made: BTreeMap<PortId, u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Renewal {
    stage: RenewalStage,
    failures: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RenewalStage {
    /// Until the workers use a view of this generation or a later one.
    Withdrawing(u64),
    Making,
    Waiting(Duration),
}

impl Renewals {
    /// How often a port's device was made anew.
    pub(crate) fn made(&self, port: PortId) -> u64 {
        self.made.get(&port).copied().unwrap_or_default()
    }

    /// The port has no exception port for now.
    pub(crate) fn is_under_way(&self, port: PortId) -> bool {
        self.under_way.contains_key(&port)
    }

    /// An exception interface is gone, or is there all the same. True if the view changes by that; it will be of `generation`.
    pub(crate) fn seen(&mut self, port: PortId, absent: bool, generation: u64) -> bool {
        match self.under_way.get(&port).map(|renewal| renewal.stage) {
            None if absent => {
                let stage = RenewalStage::Withdrawing(generation);
                self.under_way.insert(port, Renewal { stage, failures: 0 });
                true
            }
            Some(RenewalStage::Withdrawing(_) | RenewalStage::Waiting(_)) if !absent => {
                self.under_way.remove(&port);
                true
            }
            _ => false,
        }
    }

    /// Ports whose devices are to be made now: all workers use `acknowledged`.
    pub(crate) fn due(&mut self, acknowledged: u64, now: Duration) -> Vec<PortId> {
        let mut due = Vec::new();
        for (port, renewal) in &mut self.under_way {
            let is_due = match renewal.stage {
                RenewalStage::Withdrawing(generation) => acknowledged >= generation,
                RenewalStage::Waiting(until) => now >= until,
                RenewalStage::Making => false,
            };
            if is_due {
                renewal.stage = RenewalStage::Making;
                due.push(*port);
            }
        }
        due
    }

    /// A device was made, or not. True if this is a failure that is to be told: the first one in a row.
    pub(crate) fn ended(&mut self, port: PortId, well: bool, now: Duration) -> bool {
        if well {
            self.under_way.remove(&port);
            *self.made.entry(port).or_default() += 1;
            return false;
        }
        let Some(renewal) = self.under_way.get_mut(&port) else { return false };
        let pause = PAUSE_MIN.saturating_mul(1 << renewal.failures.min(8)).min(PAUSE_MAX);
        renewal.failures = renewal.failures.saturating_add(1);
        renewal.stage = RenewalStage::Waiting(now + pause);
        renewal.failures == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: PortId = PortId(0);

    #[test]
    fn a_device_is_made_when_no_worker_uses_the_old_one() {
        let (mut renewals, now) = (Renewals::default(), Duration::ZERO);
        assert!(!renewals.seen(PORT, false, 5));
        assert!(renewals.seen(PORT, true, 5));
        assert!(!renewals.seen(PORT, true, 6), "once");
        assert!(renewals.is_under_way(PORT));
        assert_eq!(renewals.due(4, now), []);
        assert_eq!(renewals.due(5, now), [PORT]);
        assert_eq!(renewals.due(6, now), [], "once");
        // While it is being made, what is seen says nothing.
        assert!(!renewals.seen(PORT, false, 6));
        assert!(!renewals.ended(PORT, true, now));
        assert!(!renewals.is_under_way(PORT));
        assert_eq!(renewals.made(PORT), 1);
    }

    #[test]
    fn a_failure_is_told_once_and_tried_again_later_each_time() {
        let (mut renewals, mut now) = (Renewals::default(), Duration::ZERO);
        renewals.seen(PORT, true, 1);
        let mut pauses = Vec::new();
        for number in 0..6 {
            assert_eq!(renewals.due(1, now), [PORT]);
            assert_eq!(renewals.ended(PORT, false, now), number == 0);
            let begun = now;
            while renewals.under_way[&PORT].stage > now {
                now += Duration::from_millis(1);
            }
            pauses.push((now - begun).as_millis());
        }
        assert_eq!(pauses, [250, 500, 1000, 2000, 2000, 2000]);
        // It has come back by itself.
        assert!(renewals.seen(PORT, false, 2));
        assert!(!renewals.is_under_way(PORT));
        assert_eq!(renewals.made(PORT), 0);
    }

    impl PartialEq<Duration> for RenewalStage {
        fn eq(&self, other: &Duration) -> bool {
            matches!(self, RenewalStage::Waiting(until) if until == other)
        }
    }

    impl PartialOrd<Duration> for RenewalStage {
        fn partial_cmp(&self, other: &Duration) -> Option<std::cmp::Ordering> {
            match self {
                RenewalStage::Waiting(until) => until.partial_cmp(other),
                _ => None,
            }
        }
    }
}
