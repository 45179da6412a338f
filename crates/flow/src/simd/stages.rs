//! The stages of a burst look-up. Each goes over the whole burst before the next begins, so that the cache misses of all
//! keys overlap, and none branches on what it loaded, for a mispredicted branch keeps the next misses from starting:
//!
//! 1. Hash all keys (one loop over arrays, which the compiler turns into vectors), and fetch the primary lines.
//! 2. Compare. The slot found, or the one beyond the last for none, picks the value or the meta word out of the line.
//! 3. Of those, the ones whose bit is set in the primary's filter: fetch the secondary line.
//! 4. Compare these.
//! 5. Judge the age of all values found.
//!
//! At load 0.8 one key in eight comes to stage 4; of keys that are in the table nowhere, one in twenty.

use super::{Engine, prefetch};
use crate::ageing::Clock;
use crate::bucket::{Line, NarrowBucket, WideBucket};
use crate::burst::{BURST, Hits, Keys};
use crate::cuckoo::{Cells, bits};
use crate::hash::{primary, secondary, tag};
use crate::sync::{AtomicU32, Ordering};

/// Hashes done at once.
pub(super) const LANES: usize = 8;

/// Stage 1. As [`super::start`].
#[inline(always)]
pub(super) fn start<E: Engine>(
    engine: E,
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    hits: &mut Hits,
) {
    let narrow_mask = engine.present(&keys.narrow);
    hits.asked = narrow_mask | keys.wide_mask;
    hits.found = 0;
    if narrow_mask != 0 {
        start_narrow(engine, narrow, keys, narrow_mask, hits);
    }
    if keys.wide_mask != 0 {
        start_wide(wide, keys, hits);
    }
}

/// Stages 2 to 5. As [`super::finish`].
#[inline(always)]
pub(super) fn finish<E: Engine>(
    engine: E,
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
) {
    // Not as `start` left it: in case these are not its keys.
    let narrow_mask = engine.present(&keys.narrow);
    hits.asked &= narrow_mask | keys.wide_mask;
    hits.slots = [0; BURST];
    if narrow_mask != 0 {
        finish_narrow(engine, narrow, keys, narrow_mask, hits);
    }
    if keys.wide_mask != 0 {
        finish_wide(wide, keys, hits);
    }
    hits.found = engine.live(&hits.slots, &hits.words, clock) & hits.asked;
}

/// As [`super::lookup`].
#[inline(always)]
pub(super) fn lookup<E: Engine>(
    engine: E,
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
) {
    start(engine, narrow, wide, keys, hits);
    finish(engine, narrow, wide, keys, clock, hits);
}

/// A bucket by an index that was scaled to their number.
#[inline(always)]
fn line<B>(lines: &[B], index: u32) -> &B {
    debug_assert!((index as usize) < lines.len());
    // SAFETY: every index here is made by `primary` or `secondary` with the length of these lines, in the same
    // function, and both are below it (proven by a property test).
    // JUSTIFICATION: a bounds check for each line is two instructions, and brings panics into the burst.
    unsafe { lines.get_unchecked(index as usize) }
}

/// A value, or the meta word: `slot` is at most the number of slots.
#[inline(always)]
fn tail(tail: &[AtomicU32], slot: u32) -> u32 {
    debug_assert!((slot as usize) < tail.len());
    // SAFETY: the slot is the lowest bit of a mask of slots, with the bit of the one beyond the last set.
    // JUSTIFICATION: as for `line`.
    unsafe { tail.get_unchecked(slot as usize) }.load(Ordering::Relaxed)
}

/// Stage 2 and 4 for one key: what its line says. The slots are a mask, of which no more than one bit is set for a key that
/// can be in the table.
#[expect(clippy::cast_possible_truncation, reason = "at most five slots")]
#[inline(always)]
fn compare<L: Line>(line: &L, slots: u32, hits: &mut Hits, position: usize) {
    hits.words[position] = tail(line.tail(), (slots | 1 << L::SLOTS).trailing_zeros());
    hits.slots[position] = slots as u8;
}

/// Stage 3 for one key that is not in its primary bucket: whether it may be in the other. Fetches in any case, for
/// choosing a line costs nothing and choosing whether is a branch.
#[inline(always)]
fn overflow<L: Line>(lines: &[L], hits: &mut Hits, position: usize) -> bool {
    let (hash, first) = (hits.hashes[position], hits.buckets[position]);
    let second = secondary(hash, lines.len() as u64, first);
    let is_needed = hits.words[position] >> tag(hash) & 1 == 1;
    hits.seconds[position] = second;
    prefetch(line(lines, if is_needed { second } else { first }));
    is_needed
}

/// Up to the last key, in whole blocks: positions without a key go along, and their answers are masked out.
#[inline(always)]
const fn blocks(narrow_mask: u32) -> usize {
    ((u32::BITS - narrow_mask.leading_zeros()) as usize).div_ceil(LANES)
}

#[inline(always)]
fn start_narrow<E: Engine>(
    engine: E,
    cells: &Cells<NarrowBucket>,
    keys: &Keys,
    narrow_mask: u32,
    hits: &mut Hits,
) {
    let lines = cells.lines();
    let blocks = blocks(narrow_mask);
    for (keys, hashes) in
        keys.narrow.chunks_exact(LANES).zip(hits.hashes.chunks_exact_mut(LANES)).take(blocks)
    {
        engine.hash(cells.hasher(), keys, hashes);
    }
    let len = lines.len() as u64;
    scale(engine, blocks, len, hits);
    for buckets in hits.buckets.chunks_exact(LANES).take(blocks) {
        for &bucket in buckets {
            prefetch(line(lines, bucket));
        }
    }
}

/// The primary buckets of the hashes.
#[inline(always)]
fn scale<E: Engine>(engine: E, blocks: usize, len: u64, hits: &mut Hits) {
    let blocks = hits.hashes.chunks_exact(LANES).zip(hits.buckets.chunks_exact_mut(LANES)).take(blocks);
    for (hashes, buckets) in blocks {
        engine.scale(len, hashes, buckets);
    }
}

#[inline(always)]
fn finish_narrow<E: Engine>(
    engine: E,
    cells: &Cells<NarrowBucket>,
    keys: &Keys,
    narrow_mask: u32,
    hits: &mut Hits,
) {
    let lines = cells.lines();
    let blocks = blocks(narrow_mask).min(BURST / LANES);
    // Again, so that they are within these lines whoever filled in the hashes.
    scale(engine, blocks, lines.len() as u64, hits);
    for block in 0..blocks {
        for position in block * LANES..(block + 1) * LANES {
            let line = line(lines, hits.buckets[position]);
            compare(line, engine.matches(line, keys.narrow[position]), hits, position);
        }
    }
    let missed = engine.absent(&hits.slots) & narrow_mask;
    let mut needed = 0;
    for position in bits(missed) {
        needed |= u32::from(overflow(lines, hits, position)) << position;
    }
    for position in bits(needed) {
        let bucket = hits.seconds[position];
        let line = line(lines, bucket);
        compare(line, engine.matches(line, keys.narrow[position]), hits, position);
        hits.buckets[position] = bucket;
    }
}

#[inline(always)]
fn start_wide(cells: &Cells<WideBucket>, keys: &Keys, hits: &mut Hits) {
    let lines = cells.lines();
    for position in bits(keys.wide_mask) {
        let hash = cells.hasher().wide(&keys.wide[position]);
        hits.hashes[position] = hash;
        prefetch(line(lines, primary(hash, lines.len() as u64)));
    }
}

#[inline(always)]
fn finish_wide(cells: &Cells<WideBucket>, keys: &Keys, hits: &mut Hits) {
    let lines = cells.lines();
    let mut missed = 0;
    for position in bits(keys.wide_mask) {
        hits.buckets[position] = primary(hits.hashes[position], lines.len() as u64);
        let line = line(lines, hits.buckets[position]);
        let slots = line.matches(keys.wide[position]);
        compare(line, slots, hits, position);
        missed |= u32::from(slots == 0) << position;
    }
    let mut needed = 0;
    for position in bits(missed) {
        needed |= u32::from(overflow(lines, hits, position)) << position;
    }
    for position in bits(needed) {
        let bucket = hits.seconds[position];
        let line = line(lines, bucket);
        compare(line, line.matches(keys.wide[position]), hits, position);
        hits.buckets[position] = bucket;
    }
}
