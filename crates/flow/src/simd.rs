//! Vector instructions, and the burst look-up that uses them: the one module with unsafe code.
//!
//! The instruction set is chosen once, when a table is made, and dispatched on once a burst: the stages in `simd::stages`
//! are generic over an engine and compiled once for each set, so that everything inlines. Every engine has the same
//! answers as the safe [`Baseline`], which the tests hold against it.
//!
//! Measured, a key of a hit in a table of 10 000 flows on a 2.5 GHz Xeon: baseline 11.0 ns, AVX2 9.3, AVX-512 6.5; instructions of
//! the first two 110 and 56 (callgrind knows no AVX-512).
//!
//! **Why vector loads of atomics are sound here.** Look-ups by the writer read whole lines with one load, which is not an
//! atomic access. Nothing is stored to a bucket but by a [`Cuckoo`](crate::cuckoo) through `&mut Table` (the methods that
//! store are private to this crate, and a table claims its memory, so no two tables share a bucket). Who looks up has
//! `&Table`, so no store can happen meanwhile. Readers on other threads have no `&Table`: they use the atomics and the
//! sequence lock.
#![allow(unsafe_code)]

use crate::ageing::Clock;
use crate::bucket::{Line as _, NarrowBucket, WideBucket};
use crate::burst::{BURST, Hits, Keys};
use crate::cuckoo::Cells;
use crate::hash::{Hasher, primary};
use crate::state::Word;

mod stages;

/// Instruction sets that look-ups are compiled for, each including the ones before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Isa {
    /// What every CPU of this architecture has.
    Baseline,
    /// x86-64 with AVX2, BMI1 and BMI2.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl Isa {
    /// All, weakest first.
    pub const ALL: [Isa; 3] = [Isa::Baseline, Isa::Avx2, Isa::Avx512];

    /// In lower case, as tools write it.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Baseline => "baseline",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// Whether this CPU has it, and the operating system keeps its registers.
    pub fn is_available(self) -> bool {
        self <= isa()
    }
}

/// The best that this CPU has.
pub fn isa() -> Isa {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    {
        let has_avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2");
        let has_avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        match (has_avx2, has_avx512) {
            (true, true) => Isa::Avx512,
            (true, false) => Isa::Avx2,
            _ => Isa::Baseline,
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
    Isa::Baseline
}

/// An instruction set that this CPU has: proof of it for the unsafe code here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Available(Isa);

impl Available {
    pub(crate) fn best() -> Available {
        Available(isa())
    }

    pub(crate) fn new(isa: Isa) -> Option<Available> {
        isa.is_available().then_some(Available(isa))
    }

    pub(crate) const fn isa(self) -> Isa {
        self.0
    }
}

/// Starts to fetch a line into the cache.
#[inline(always)]
pub(crate) fn prefetch<T>(line: &T) {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    // SAFETY: a prefetch of a valid reference reads nothing that the program could notice.
    // JUSTIFICATION: there is no safe one, and without it the misses of a burst hardly overlap.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(
            core::ptr::from_ref(line).cast(),
        );
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
    let _ = line;
}

/// The steps of a burst look-up that instruction sets do differently.
trait Engine: Copy {
    /// The positions that have a narrow key.
    fn present(self, keys: &[u64; BURST]) -> u32;
    /// Hashes of as many keys as there are lanes.
    #[inline(always)]
    fn hash(self, hasher: &Hasher, keys: &[u64], hashes: &mut [u64]) {
        for (key, hash) in keys.iter().zip(hashes) {
            *hash = hasher.narrow(*key);
        }
    }
    /// Primary buckets, among `len`, of as many hashes as there are lanes.
    #[inline(always)]
    fn scale(self, len: u64, hashes: &[u64], buckets: &mut [u32]) {
        for (hash, bucket) in hashes.iter().zip(buckets) {
            *bucket = primary(*hash, len);
        }
    }
    /// The positions that have no slot.
    fn absent(self, slots: &[u8; BURST]) -> u32;
    /// As [`matches`](crate::bucket::Line::matches).
    fn matches(self, line: &NarrowBucket, key: u64) -> u32;
    /// The positions whose slot is one, and whose value is live by the clock.
    fn live(self, slots: &[u8; BURST], words: &[u32; BURST], clock: &Clock) -> u32;
}

/// Safe code that any CPU runs.
#[derive(Clone, Copy)]
struct Baseline;

impl Engine for Baseline {
    #[inline(always)]
    fn present(self, keys: &[u64; BURST]) -> u32 {
        let mut mask = 0;
        for (position, &key) in keys.iter().enumerate() {
            mask |= u32::from(key != 0) << position;
        }
        mask
    }

    #[inline(always)]
    fn matches(self, line: &NarrowBucket, key: u64) -> u32 {
        line.matches(key)
    }

    #[inline(always)]
    fn absent(self, slots: &[u8; BURST]) -> u32 {
        let mut mask = 0;
        for (position, &slot) in slots.iter().enumerate() {
            mask |= u32::from(slot == 0) << position;
        }
        mask
    }

    #[inline(always)]
    fn live(self, slots: &[u8; BURST], words: &[u32; BURST], clock: &Clock) -> u32 {
        let mut mask = 0;
        for (position, (&slot, &word)) in slots.iter().zip(words).enumerate() {
            mask |= u32::from((slot != 0) & clock.is_live(Word(word))) << position;
        }
        mask
    }
}

/// One call for the whole burst, into code for the instruction set.
macro_rules! dispatch {
    ($isa:expr, $avx512:ident, $avx2:ident, $stages:ident, ($($argument:expr),*)) => {
        match $isa.0 {
            #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
            // SAFETY: an `Available` is made only of what the CPU has.
            // JUSTIFICATION: calls across instruction sets are unsafe; the gain is with the engines.
            Isa::Avx512 => unsafe { x86::$avx512($($argument),*) },
            #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
            // SAFETY: as above.
            // JUSTIFICATION: as above.
            Isa::Avx2 => unsafe { x86::$avx2($($argument),*) },
            _ => stages::$stages(Baseline, $($argument),*),
        }
    };
}

/// Looks up a burst: [`start`] and [`finish`] in one.
#[inline]
pub(crate) fn lookup(
    isa: Available,
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
) {
    dispatch!(isa, lookup_avx512, lookup_avx2, lookup, (narrow, wide, keys, clock, hits));
}

/// Hashes the keys and starts to fetch their primary buckets.
#[inline]
pub(crate) fn start(
    isa: Available,
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    hits: &mut Hits,
) {
    dispatch!(isa, start_avx512, start_avx2, start, (narrow, wide, keys, hits));
}

/// The rest.
#[inline]
pub(crate) fn finish(
    isa: Available,
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
) {
    dispatch!(isa, finish_avx512, finish_avx2, finish, (narrow, wide, keys, clock, hits));
}

#[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
mod x86;

#[cfg(not(loom))]
#[cfg(test)]
mod tests;
