//! The physical bound: one random line a look-up, 32 in flight. Nothing that has to look into memory once is faster.

use crate::failure::{Failure, wrong};
use crate::random::Random;
use crate::tsc::Tsc;
use dpdk::clock::stamp;
use dpdk::memory::prefetch;
use dpdk::pages::{self, Mapped, PageKind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Lines asked for before the first is read.
pub const BURST: usize = 32;
/// Any seed, as long as it is always the same.
const SEED: u64 = 3;

/// A cache line; each of its words holds the line's number.
#[derive(Debug)]
#[repr(align(64))]
pub struct CacheLine([AtomicU64; 8]);

impl Default for CacheLine {
    fn default() -> CacheLine {
        CacheLine(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// Lines to read at random.
#[derive(Debug)]
pub struct Lines {
    lines: Mapped<CacheLine>,
}

impl Lines {
    /// At least `bytes`, in the best pages there are.
    ///
    /// # Errors
    /// No memory.
    pub fn new(bytes: usize) -> Result<Lines, Failure> {
        let lines = pages::map::<CacheLine>(bytes.div_ceil(size_of::<CacheLine>()).max(1))?;
        for (number, line) in (0_u64..).zip(lines.values) {
            for word in &line.0 {
                word.store(number, Relaxed);
            }
        }
        Ok(Lines { lines })
    }

    /// Number of lines.
    pub fn len(&self) -> u64 {
        self.lines.values.len() as u64
    }

    /// Never, but for clippy.
    pub fn is_empty(&self) -> bool {
        self.lines.values.is_empty()
    }

    /// Their pages.
    pub fn pages(&self) -> PageKind {
        self.lines.pages
    }

    /// Reads the lines named by `picks` (numbers below [`len`](Lines::len)) and gives the sum of what they hold.
    #[inline(never)]
    pub fn read(&self, picks: &[u32]) -> u64 {
        let lines = self.lines.values;
        let mut sum = 0_u64;
        for burst in picks.chunks(BURST) {
            for &pick in burst {
                if let Some(line) = lines.get(pick as usize) {
                    prefetch(line);
                }
            }
            for &pick in burst {
                if let Some(line) = lines.get(pick as usize) {
                    sum = sum.wrapping_add(line.0[(pick & 7) as usize].load(Relaxed));
                }
            }
        }
        sum
    }

    /// Reads at random, as a cell of a round: `windows` times `reads` lines.
    pub fn cell(
        &self,
        tsc: Tsc,
        reads: usize,
        windows: usize,
    ) -> impl FnMut(&mut Vec<f64>) -> Result<(), Failure> + '_ {
        let mut random = Random::new(SEED);
        let mut picks = vec![0_u32; reads];
        move |costs| {
            for _ in 0..windows {
                for pick in &mut picks {
                    *pick = random.below(self.len()) as u32;
                }
                let begin = stamp();
                let sum = self.read(&picks);
                let end = stamp();
                Lines::check(&picks, sum)?;
                costs.push(tsc.nanoseconds(begin, end) / reads as f64);
            }
            Ok(())
        }
    }

    /// Compares a sum given by [`read`](Lines::read).
    ///
    /// # Errors
    /// It is not what the picks must give.
    pub fn check(picks: &[u32], sum: u64) -> Result<(), Failure> {
        let want: u64 = picks.iter().map(|&pick| u64::from(pick)).sum();
        if want == sum { Ok(()) } else { Err(wrong("the one-line bound read other lines than it should")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_is_told() {
        let lines = Lines::new(64 * 1000).expect("memory");
        assert_eq!(lines.len(), 1000);
        let picks = [0, 999, 5, 5, 77];
        assert_eq!(lines.read(&picks), 1086);
        assert!(Lines::check(&picks, 1086).is_ok());
        assert!(Lines::check(&picks, 1085).is_err());
    }
}
