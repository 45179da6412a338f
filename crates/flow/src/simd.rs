//! Vector instructions, and the burst look-up that uses them: the one module with unsafe code.
//!
//! The instruction set is chosen once, when a table is made, and dispatched on once a burst: the stages in `simd::stages`
//! are generic over an engine and compiled once for each set, so that everything inlines. Every engine has the same
//! answers as the safe `Baseline`, which the tests hold against it.
//!
//! Measured, a key of a burst of 32 hits in a table of 10 000 flows on a Xeon at 4 GHz, filling in keys and reading answers
//! included: AVX2 3.9 ns, AVX-512 3.3; a burst of one 14 ns. Instructions of AVX2: 45 a key, 176 for a burst of one (callgrind
//! knows no AVX-512).
//!
//! **Few vectors are longer than 32 bytes**: AVX-512 hashes, places and compares with 64, and judges with 32. With 64 throughout
//! all other code of the thread was slower by 3 %, and by 15 % in another state of the machine.
//!
//! **Why vector loads of atomics are sound here.** Look-ups by the writer read whole lines with one load, which is not an
//! atomic access. Nothing is stored to a bucket but by a [`Cuckoo`](crate::cuckoo) through `&mut Table` (the methods that
//! store are private to this crate, and a table claims its memory, so no two tables share a bucket). Who looks up has
//! `&Table`, so no store can happen meanwhile; who inserts has `&mut Table`, and stores on the same thread, before or after. Readers on other threads have no `&Table`: they use the atomics and the
//! sequence lock.
#![allow(unsafe_code)]

use crate::ageing::Clock;
use crate::bucket::{Bucket as _, Line, MARK, NarrowBucket, Probe, WideBucket};
use crate::burst::{BURST, Entered, Hits, Keys, LANES, LINE_BYTES, NewFlows};
use crate::cuckoo::Cells;
use crate::dirty::DirtyBuckets;
use crate::hash::{Hasher, primary, secondary, tag};
use crate::lookup_pipeline::Places;
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

/// Starts to fetch a line into the nearest cache.
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

/// Starts to fetch a line that is not needed soon, into the second cache, which waits for more lines at a time than the first.
#[inline(always)]
pub(crate) fn prefetch_far<T>(line: &T) {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    // SAFETY: as above.
    // JUSTIFICATION: as above. A pipeline of bursts in a table of four million flows: 11 ns a key instead of 13.5.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T1 }>(
            core::ptr::from_ref(line).cast(),
        );
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
    let _ = line;
}

/// The steps of a burst look-up that instruction sets do differently, each for eight keys.
trait Engine: Copy {
    /// The lanes that have a key.
    #[inline(always)]
    fn present(self, keys: &[u64; LANES]) -> u32 {
        keys.iter().enumerate().fold(0, |mask, (lane, &key)| mask | u32::from(key != 0) << lane)
    }
    /// Hashes, and where both lines begin in a table of `len`.
    #[inline(always)]
    fn place(
        self,
        hasher: &Hasher,
        len: u64,
        keys: &[u64; LANES],
        hashes: &mut [u64; LANES],
        firsts: &mut [u64; LANES],
        seconds: &mut [u64; LANES],
    ) {
        for lane in 0..LANES {
            let hash = hasher.narrow(keys[lane]);
            let first = primary(hash, len);
            hashes[lane] = hash;
            firsts[lane] = u64::from(first) * LINE_BYTES;
            seconds[lane] = u64::from(secondary(hash, len, first)) * LINE_BYTES;
        }
    }
    /// Stores the words that the lines said, values or meta words, and judges them.
    #[inline(always)]
    fn judge(
        self,
        said: [u32; LANES],
        words: &mut [u32; LANES],
        hashes: &[u64; LANES],
        clock: &Clock,
    ) -> Judged {
        *words = said;
        let mut judged = Judged { live: 0, needed: 0 };
        for lane in 0..LANES {
            judged.needed |= u32::from(needs_second(said[lane], hashes[lane])) << lane;
            judged.live |= u32::from(clock.is_live(Word(said[lane]))) << lane;
        }
        judged
    }
    /// Which of these words are values that are not expired.
    #[inline(always)]
    fn live(self, words: &[u32; LANES], clock: &Clock) -> u32 {
        words
            .iter()
            .enumerate()
            .fold(0, |mask, (lane, &word)| mask | u32::from(clock.is_live(Word(word))) << lane)
    }
    /// The lowest slot that holds the key, or the one beyond the last.
    fn slot(self, line: &NarrowBucket, key: u64) -> u32;
    /// As [`Line::expired`].
    #[inline(always)]
    fn expired(self, line: &NarrowBucket, clock: &Clock) -> u32 {
        slots_with(line, |word| !clock.is_live(word))
    }
}

/// What eight words say, a bit for each lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Judged {
    /// Values that are not expired.
    live: u32,
    /// Meta words whose filter has the key's bit.
    needed: u32,
}

/// Whether what the primary line said is that the key may be in the secondary.
#[inline(always)]
const fn needs_second(word: u32, hash: u64) -> bool {
    (word & MARK == MARK) & (word >> tag(hash) & 1 == 1)
}

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
    fn slot(self, line: &NarrowBucket, key: u64) -> u32 {
        first_slot::<NarrowBucket>(line.matches(key))
    }
}

/// As [`Line::probe`].
#[inline]
pub(crate) fn probe(isa: Available, line: &NarrowBucket, key: u64) -> Probe {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    if isa.0 >= Isa::Avx2 {
        // SAFETY: an `Available` is made only of what the CPU has.
        // JUSTIFICATION: ten compares in four instructions: an insertion of 134 instead of 162 instructions.
        return unsafe { x86::probe(line, key) };
    }
    let _ = isa;
    Probe { slot: line.slot_of(key), empty: line.empty_slot() }
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

/// Looks up a burst.
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

/// Starts to fetch the primary lines of keys that will be looked up soon.
#[inline]
pub(crate) fn fetch_primaries(
    isa: Available,
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
) {
    dispatch!(isa, fetch_primaries_avx512, fetch_primaries_avx2, fetch_primaries, (narrow, wide, keys));
}

/// Starts to fetch the other lines that insertions of these hashes will come to because the primary is full: the primary line of the
/// expired entry that has to go, or, where all are live, the secondary line.
#[inline]
pub(crate) fn fetch_seconds(
    isa: Available,
    narrow: &Cells<NarrowBucket>,
    hashes: &[u64; BURST],
    positions: u32,
    clock: &Clock,
) {
    dispatch!(isa, fetch_seconds_avx2, fetch_seconds_avx2, fetch_seconds, (narrow, hashes, positions, clock));
}

/// Looks up a burst whose keys are hashed and whose lines are there.
#[inline]
pub(crate) fn compare_again(
    isa: Available,
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
) {
    dispatch!(
        isa,
        compare_again_avx512,
        compare_again_avx2,
        compare_again,
        (narrow, wide, keys, clock, hits)
    );
}

/// Looks up some narrow keys that are hashed and whose lines are there.
#[inline]
pub(crate) fn compare_some(
    isa: Available,
    narrow: &Cells<NarrowBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
    positions: u32,
) {
    dispatch!(
        isa,
        compare_some_avx512,
        compare_some_avx2,
        compare_some,
        (narrow, keys, clock, hits, positions)
    );
}

/// Enters those of the new flows that are not there and one of whose lines has room or an expired entry. `word` is the value of all of
/// them, but for the backend.
#[expect(clippy::too_many_arguments, reason = "a burst, and the table's parts")]
#[inline]
pub(crate) fn enter(
    isa: Available,
    narrow: &Cells<NarrowBucket>,
    keys: &Keys,
    hashes: &[u64; BURST],
    new: NewFlows<'_>,
    word: Word,
    clock: &Clock,
    dirty: &mut DirtyBuckets,
) -> Entered {
    dispatch!(isa, enter_avx512, enter_avx2, enter, (narrow, keys, hashes, new, word, clock, dirty))
}

/// One step of a pipeline of bursts: begins the next, compares the one in the middle with its primary lines, finishes the last. Each
/// line was asked for a step ago.
#[inline]
pub(crate) fn step(
    isa: Available,
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    clock: &Clock,
    places: Places<'_>,
) {
    dispatch!(isa, step_avx512, step_avx2, step, (narrow, wide, clock, places));
}

#[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
mod x86;

#[cfg(not(loom))]
#[cfg(test)]
mod tests;
