//! What the core and the memory give at this moment: an add loop that a busy sibling thread slows, and random lines.

use crate::bound::Lines;
use crate::failure::Failure;
use crate::machine;
use crate::random::Random;
use crate::statistics::median;
use crate::tsc::Tsc;
use dpdk::clock::stamp;
use serde::Serialize;
use std::hint::black_box;

/// Adds of one run: some 10 µs.
const ADDS: u64 = 100_000;
/// Runs of the add loop, of which the median counts.
const RUNS: usize = 9;
/// Memory of the line loop: beyond every cache that a guest has to itself.
const LINE_BYTES: usize = 128 << 20;
/// Lines of one window.
const WINDOW: usize = 2048;
/// Windows, of which the median counts. With 25 of them two calibrations in a row differed by more than 5 % more often than not,
/// whatever the machine did; with 100, in one case of ten.
const WINDOWS: usize = 100;
/// How long a core remembers wide vectors.
const REST_NS: f64 = 2_000_000.0;
/// Any seed, as long as it is always the same.
const SEED: u64 = 0xca11;

/// One calibration.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Calibration {
    /// Independent adds a TSC cycle; clock rate and width of the core, halved by a busy sibling.
    pub adds_per_tsc: f64,
    /// One random line of 128 MiB with 32 in flight, nanoseconds.
    pub line_ns: f64,
}

/// Takes calibrations.
#[derive(Debug)]
pub struct Calibrator {
    tsc: Tsc,
    lines: Lines,
    random: Random,
    picks: Vec<u32>,
    /// The CPU to calibrate, and the one to return to.
    elsewhere: Option<(usize, usize)>,
}

impl Calibrator {
    /// Prepares its memory.
    ///
    /// # Errors
    /// No memory.
    pub fn new(tsc: Tsc) -> Result<Calibrator, Failure> {
        let lines = Lines::new(LINE_BYTES)?;
        Ok(Calibrator { tsc, lines, random: Random::new(SEED), picks: vec![0; WINDOW], elsewhere: None })
    }

    /// Calibrates `cpu`, where somebody else works between calibrations; this thread's own is `own`.
    ///
    /// # Errors
    /// No memory.
    pub fn of(cpu: usize, own: usize, tsc: Tsc) -> Result<Calibrator, Failure> {
        Ok(Calibrator { elsewhere: Some((cpu, own)), ..Calibrator::new(tsc)? })
    }

    /// Scalar work for so long that the core forgets the wide vectors of whoever ran before: a core that has used AVX-512
    /// is slower for up to 2 ms after it (Intel's optimization manual, "Skylake Server Power Management"), and that is
    /// neither the next contestant's fault nor the machine's state.
    pub fn rest(&self) {
        let begin = stamp();
        while self.tsc.nanoseconds(begin, stamp()) < REST_NS {
            black_box(adds(black_box(64)));
        }
    }

    /// Some 4 ms of work.
    ///
    /// # Errors
    /// Memory did not hold what was written, or the kernel refuses a CPU.
    pub fn take(&mut self) -> Result<Calibration, Failure> {
        let Some((cpu, own)) = self.elsewhere else { return self.take_here() };
        machine::move_to(cpu)?;
        let taken = self.take_here();
        machine::move_to(own)?;
        taken
    }

    fn take_here(&mut self) -> Result<Calibration, Failure> {
        let runs: Vec<f64> = (0..RUNS)
            .map(|_| {
                let begin = stamp();
                let sum = adds(black_box(ADDS));
                let cycles = stamp() - begin;
                black_box(sum);
                ADDS as f64 / cycles as f64
            })
            .collect();
        let mut windows = Vec::with_capacity(WINDOWS);
        for _ in 0..WINDOWS {
            for pick in &mut self.picks {
                *pick = self.random.below(self.lines.len()) as u32;
            }
            let begin = stamp();
            let sum = self.lines.read(&self.picks);
            let end = stamp();
            Lines::check(&self.picks, sum)?;
            windows.push(self.tsc.nanoseconds(begin, end) / WINDOW as f64);
        }
        Ok(Calibration { adds_per_tsc: median(&runs), line_ns: median(&windows) })
    }
}

/// `count` adds in four independent chains, which the compiler may neither fold nor vectorise.
#[inline(never)]
fn adds(count: u64) -> u64 {
    let (mut a, mut b, mut c, mut d) = (1_u64, 2_u64, 3_u64, 4_u64);
    let mut left = count / 16;
    while left > 0 {
        for _ in 0..4 {
            a = black_box_register(a.wrapping_add(left));
            b = black_box_register(b.wrapping_add(left));
            c = black_box_register(c.wrapping_add(left));
            d = black_box_register(d.wrapping_add(left));
        }
        left -= 1;
    }
    a ^ b ^ c ^ d
}

/// Hides a value from the optimiser without a trip to memory.
#[inline(always)]
fn black_box_register(value: u64) -> u64 {
    dpdk::clock::opaque(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_are_done() {
        // 16 adds a step of 16, each chain gets 4 * (sum of 1 ..= 2).
        assert_eq!(adds(32), 13 ^ 14 ^ 15 ^ 16);
    }

    #[test]
    fn a_calibration_is_plausible() {
        let calibration = Calibrator::new(Tsc::measure()).expect("memory").take().expect("right sums");
        // No core retires 20 adds a cycle, and no wall clock is asked how slow a test build is.
        assert!(calibration.adds_per_tsc > 0.0 && calibration.adds_per_tsc < 20.0, "{calibration:?}");
        assert!(calibration.line_ns > 0.0 && calibration.line_ns.is_finite(), "{calibration:?}");
    }
}
