//! Vector instructions, and the burst look-up that uses them: the one module with unsafe code.
//!
//! The instruction set is chosen once, when a table is made, and dispatched on once a burst: the stages in `simd::stages`
//! are generic over an engine and compiled once for each set, so that everything inlines. Every engine has the same
//! answers as the safe `Baseline`, which the tests hold against it.
//!
//! Measured, a key of a hit in a table of 10 000 flows on a 2.5 GHz Xeon: baseline 12.6 ns, AVX2 7.3, AVX-512 6.2; instructions of
//! the first two 121 and 42 (callgrind knows no AVX-512).
//!
//! **Few vectors are longer than 32 bytes**: AVX-512 hashes and compares with 64, which makes all other code of the thread
//! slower by 1 % on the same CPU, and does the rest with 32. With 64 throughout it was 3 %, and 15 % in another state of the machine.
//!
//! **Why vector loads of atomics are sound here.** Look-ups by the writer read whole lines with one load, which is not an
//! atomic access. Nothing is stored to a bucket but by a [`Cuckoo`](crate::cuckoo) through `&mut Table` (the methods that
//! store are private to this crate, and a table claims its memory, so no two tables share a bucket). Who looks up has
//! `&Table`, so no store can happen meanwhile; who inserts has `&mut Table`, and stores on the same thread, before or after. Readers on other threads have no `&Table`: they use the atomics and the
//! sequence lock.
#![allow(unsafe_code)]

use crate::ageing::Clock;
use crate::bucket::{Bucket as _, Line, NarrowBucket, WideBucket};
use crate::burst::{BURST, Hits, Keys, LANES, NO_SLOT, Offsets};
use crate::cuckoo::Cells;
use crate::hash::{Hasher, primary, secondary, tag};
use crate::state::{TimingSet, Word};

mod stages;
mod vectors;

pub use vectors::{Lanes, Vectors};

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

/// Bytes of a line.
const LINE_BYTES: u64 = size_of::<NarrowBucket>() as u64;

/// The steps of a burst look-up that instruction sets do differently.
trait Engine: Copy {
    /// The positions that have a narrow key.
    fn present(self, keys: &[u64; BURST]) -> u32;
    /// Hashes of as many blocks of eight keys.
    #[inline(always)]
    fn hash(self, hasher: &Hasher, blocks: usize, keys: &[u64; BURST], hashes: &mut [u64; BURST]) {
        for (key, hash) in keys.iter().zip(hashes).take(blocks * LANES) {
            *hash = hasher.narrow(*key);
        }
    }
    /// Where both lines begin, and the primary buckets.
    #[inline(always)]
    fn place(self, len: u64, hashes: &[u64; LANES], places: &mut Offsets, buckets: &mut [u32; LANES]) {
        for lane in 0..LANES {
            let first = primary(hashes[lane], len);
            buckets[lane] = first;
            places.first[lane] = u64::from(first) * LINE_BYTES;
            places.second[lane] = u64::from(secondary(hashes[lane], len, first)) * LINE_BYTES;
        }
    }
    /// The lanes whose key was not found but may be in its secondary line, by the meta word: a bit each. Makes the secondary
    /// line the one that these lanes fetch next; the others' is the primary, which is there.
    #[inline(always)]
    fn overflow(
        self,
        words: &[u32; LANES],
        slots: &[u8; LANES],
        hashes: &[u64; LANES],
        places: &mut Offsets,
    ) -> u32 {
        let mut needed = 0;
        for lane in 0..LANES {
            let is_needed = (slots[lane] == NO_SLOT) & (words[lane] >> tag(hashes[lane]) & 1 == 1);
            places.first[lane] = if is_needed { places.second[lane] } else { places.first[lane] };
            needed |= u32::from(is_needed) << lane;
        }
        needed
    }
    /// The lowest slot that holds the key, or the one beyond the last.
    fn slot(self, line: &NarrowBucket, key: u64) -> u32;
    /// The positions whose slot is one, and whose value is live by the clock.
    fn live(self, slots: &[u8; BURST], words: &[u32; BURST], clock: &Clock) -> u32;
}

const _: () = assert!(NarrowBucket::SLOTS == NO_SLOT as usize && WideBucket::SLOTS < NO_SLOT as usize);

/// The lowest of these slots, or the one beyond the last.
#[inline(always)]
fn first_slot<L: Line>(slots: u32) -> u32 {
    (slots | 1 << L::SLOTS).trailing_zeros()
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
    fn slot(self, line: &NarrowBucket, key: u64) -> u32 {
        first_slot::<NarrowBucket>(line.matches(key))
    }

    #[inline(always)]
    fn live(self, slots: &[u8; BURST], words: &[u32; BURST], clock: &Clock) -> u32 {
        let mut mask = 0;
        for (position, (&slot, &word)) in slots.iter().zip(words).enumerate() {
            mask |= u32::from((slot != NO_SLOT) & clock.is_live(Word(word))) << position;
        }
        mask
    }
}

/// As [`Line::expired`].
#[inline]
pub(crate) fn expired(isa: Available, line: &NarrowBucket, clock: &Clock) -> u32 {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    if isa.0 >= Isa::Avx2 {
        // SAFETY: an `Available` is made only of what the CPU has.
        // JUSTIFICATION: five entries are judged at once: 25 instructions of an insertion into a full bucket instead of 70.
        return unsafe { x86::expired(line, clock) };
    }
    let _ = isa;
    slots_with(line, |word| !clock.is_live(word))
}

/// As [`Line::due`].
#[inline]
pub(crate) fn due(isa: Available, line: &NarrowBucket, clock: &Clock, current: TimingSet) -> u32 {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    if isa.0 >= Isa::Avx2 {
        // SAFETY: as above.
        // JUSTIFICATION: as above, of a swept bucket.
        return unsafe { x86::due(line, clock, current) };
    }
    let _ = isa;
    slots_with(line, |word| !clock.is_live(word) | (word.timing() != current))
}

/// The slots with such a value, without a branch.
#[inline(always)]
fn slots_with(line: &NarrowBucket, is_such: impl Fn(Word) -> bool) -> u32 {
    let mut mask = 0;
    for slot in 0..NarrowBucket::SLOTS {
        mask |= u32::from(is_such(line.word(slot))) << slot;
    }
    mask
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

/// Starts to fetch the secondary lines that insertions of these hashes will come to: the primary is full, or its filter does not
/// tell.
#[inline]
pub(crate) fn fetch_seconds(
    isa: Available,
    narrow: &Cells<NarrowBucket>,
    hashes: &[u64; BURST],
    positions: u32,
) {
    dispatch!(isa, fetch_seconds_avx2, fetch_seconds_avx2, fetch_seconds, (narrow, hashes, positions));
}

/// The rest, and the beginning of another burst in between: its lines are on their way while this one's are compared.
#[expect(clippy::too_many_arguments, reason = "two bursts, and the table's parts")]
#[inline]
pub(crate) fn finish_and_start(
    isa: Available,
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
    next_keys: &Keys,
    next_hits: &mut Hits,
) {
    dispatch!(
        isa,
        finish_and_start_avx512,
        finish_and_start_avx2,
        finish_and_start,
        (narrow, wide, keys, clock, hits, next_keys, next_hits)
    );
}

#[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
mod x86;

#[cfg(not(loom))]
#[cfg(test)]
mod tests;
