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

mod engine;
mod isa;
mod prefetch;
mod stages;
mod vectors;

pub(crate) use isa::Available;
pub use isa::{Isa, isa};
pub(crate) use prefetch::prefetch;
pub use vectors::{Lanes, Vectors};

use crate::ageing::Clock;
use crate::bucket::{Line, NarrowBucket, Probe, WideBucket};
use crate::burst::{BURST, Entered, Hits, Keys, NewFlows};
use crate::cells::Cells;
use crate::dirty::DirtyBuckets;
use crate::lookup_pipeline::Places;
use crate::state::{TimingSet, Word};
use engine::{Baseline, slots_with};

/// As [`Search::probe`](crate::search::Search::probe).
#[inline]
pub(crate) fn probe(isa: Available, line: &NarrowBucket, key: u64) -> Probe {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    if isa.isa() >= Isa::Avx2 {
        // SAFETY: an `Available` is made only of what the CPU has.
        // JUSTIFICATION: ten compares in four instructions: an insertion of 134 instead of 162 instructions.
        return unsafe { x86::probe(line, key) };
    }
    let _ = isa;
    Probe { slot: line.slot_of(key), empty: line.empty_slot() }
}

/// As [`Search::expired`](crate::search::Search::expired).
#[inline]
pub(crate) fn expired(isa: Available, line: &NarrowBucket, clock: &Clock) -> u32 {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    if isa.isa() >= Isa::Avx2 {
        // SAFETY: an `Available` is made only of what the CPU has.
        // JUSTIFICATION: five entries are judged at once: 25 instructions of an insertion into a full bucket instead of 70.
        return unsafe { x86::expired(line, clock) };
    }
    let _ = isa;
    slots_with(line, |word| !clock.is_live(word))
}

/// As [`Search::due`](crate::search::Search::due).
#[inline]
pub(crate) fn due(isa: Available, line: &NarrowBucket, clock: &Clock, current: TimingSet) -> u32 {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    if isa.isa() >= Isa::Avx2 {
        // SAFETY: as above.
        // JUSTIFICATION: as above, of a swept bucket.
        return unsafe { x86::due(line, clock, current) };
    }
    let _ = isa;
    slots_with(line, |word| !clock.is_live(word) | (word.timing() != current))
}

/// One call for the whole burst, into code for the instruction set.
macro_rules! dispatch {
    ($isa:expr, $avx512:ident, $avx2:ident, $stages:ident, ($($argument:expr),*)) => {
        match $isa.isa() {
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
