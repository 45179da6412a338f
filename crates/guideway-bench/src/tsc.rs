//! The time-stamp counter in nanoseconds, without EAL.

use dpdk::clock::stamp;
use std::time::{Duration, Instant};
use wire::Tick;

/// Pairs of readings from which the cost of one is taken.
const PAIRS: usize = 4096;

/// The counter's rate, measured against the kernel's clock.
#[derive(Clone, Copy, Debug)]
pub struct Tsc {
    cycles_per_ns: f64,
    /// What a begin and an end with nothing between them read, cycles.
    pair_cycles: f64,
    origin: u64,
}

impl Tsc {
    /// Measures the rate for 50 ms.
    pub fn measure() -> Tsc {
        let (started, first) = (Instant::now(), stamp());
        std::thread::sleep(Duration::from_millis(50));
        let (elapsed, last) = (started.elapsed(), stamp());
        let cycles_per_ns = (last - first) as f64 / elapsed.as_nanos() as f64;
        let mut pairs: Vec<f64> = (0..PAIRS)
            .map(|_| {
                let begin = stamp();
                (stamp() - begin) as f64
            })
            .collect();
        pairs.sort_unstable_by(f64::total_cmp);
        Tsc { cycles_per_ns, pair_cycles: crate::statistics::quantile(&pairs, 0.5), origin: stamp() }
    }

    /// Nanoseconds between two readings, less the cost of reading; never negative.
    pub fn nanoseconds(&self, begin: u64, end: u64) -> f64 {
        (end.saturating_sub(begin) as f64 - self.pair_cycles).max(0.0) / self.cycles_per_ns
    }

    /// Cycles a nanosecond.
    pub fn cycles_per_ns(&self) -> f64 {
        self.cycles_per_ns
    }

    /// The engine's time now; starts at one second.
    pub fn tick(&self) -> Tick {
        let ns = stamp().saturating_sub(self.origin) as f64 / self.cycles_per_ns;
        Tick(1_000_000 + (ns / 1000.0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_kernels_clock() {
        let tsc = Tsc::measure();
        let (started, begin) = (Instant::now(), stamp());
        std::thread::sleep(Duration::from_millis(30));
        let (elapsed, end) = (started.elapsed().as_nanos() as f64, stamp());
        let ratio = tsc.nanoseconds(begin, end) / elapsed;
        assert!((0.9..1.1).contains(&ratio), "{ratio}");
        assert_eq!(tsc.nanoseconds(5, 5), 0.0);
        let first = tsc.tick();
        assert!(first >= Tick(1_000_000) && tsc.tick() >= first);
    }
}
