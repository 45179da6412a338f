//! Gaps of the machine: what a poller that does nothing but read the clock sees of the hypervisor and of others.

use crate::report::rounded;
use crate::tsc::Tsc;
use dpdk::clock::stamp;
use serde::Serialize;
use std::time::Duration;

/// What takes longer is the machine's doing: a turn takes a few microseconds.
pub const GAP_NS: f64 = 20_000.0;

/// Times for which the machine did something else, longer than 20 us each.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Gaps {
    /// How many.
    pub count: u64,
    /// Together.
    pub sum_us: f64,
    /// The longest.
    pub longest_us: f64,
    /// For so long somebody looked.
    pub watched_us: f64,
}

impl Gaps {
    /// Those that a poller sees on this CPU within `length`.
    pub fn watch(tsc: Tsc, length: Duration) -> Gaps {
        Gaps::of_poller(|begin, end| tsc.nanoseconds(begin, end), stamp, length)
    }

    /// Reads the clock for so long and keeps what lies between two readings, if it is a gap.
    fn of_poller(between: impl Fn(u64, u64) -> f64, clock: impl Fn() -> u64, length: Duration) -> Gaps {
        let mut gaps = Gaps::default();
        let begin = clock();
        let mut last = begin;
        while between(begin, last) < length.as_nanos() as f64 {
            let now = clock();
            gaps.see(between(last, now));
            last = now;
        }
        gaps.watched_us = between(begin, last) / 1000.0;
        gaps
    }

    /// Counts `ns`, if it is a gap.
    pub fn see(&mut self, ns: f64) {
        if ns > GAP_NS {
            self.count += 1;
            self.sum_us += ns / 1000.0;
            self.longest_us = self.longest_us.max(ns / 1000.0);
        }
    }

    /// All of several.
    pub fn sum<'a>(all: impl Iterator<Item = &'a Gaps>) -> Gaps {
        let sum = all.fold(Gaps::default(), |sum, gaps| Gaps {
            count: sum.count + gaps.count,
            sum_us: sum.sum_us + gaps.sum_us,
            longest_us: sum.longest_us.max(gaps.longest_us),
            watched_us: sum.watched_us + gaps.watched_us,
        });
        Gaps {
            sum_us: rounded(sum.sum_us, 1),
            longest_us: rounded(sum.longest_us, 1),
            watched_us: rounded(sum.watched_us, 1),
            ..sum
        }
    }

    /// `12 gaps in 400 ms, 0.3 % of it, the longest 80 us`.
    pub fn words(&self) -> String {
        format!(
            "{} gaps in {:.0} ms, {:.2} % of it, the longest {} us",
            self.count,
            self.watched_us / 1000.0,
            100.0 * self.sum_us / self.watched_us.max(1.0),
            self.longest_us
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_pollers_gaps_are_counted() {
        // A clock that ticks every 100 ns and once jumps by 50 us.
        let now = Cell::new(0_u64);
        let clock = || {
            now.set(now.get() + if now.get() == 1000 { 50_000 } else { 100 });
            now.get()
        };
        let between = |begin: u64, end: u64| (end - begin) as f64;
        let gaps = Gaps::of_poller(between, clock, Duration::from_micros(100));
        assert_eq!((gaps.count, gaps.sum_us, gaps.longest_us), (1, 50.0, 50.0));
        let sum = Gaps::sum([gaps, gaps].iter());
        assert_eq!((sum.count, sum.sum_us, sum.longest_us), (2, 100.0, 50.0));
    }
}
