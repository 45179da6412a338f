//! The stages of a burst look-up. None branches on what it loaded until the last lines are asked for, because a
//! mispredicted branch keeps the next misses from starting:
//!
//! 1. Hash all keys, eight at a time, and fetch their primary lines.
//! 2. Compare. The slot found, or the one beyond the last for none, picks the value or the meta word out of the line.
//! 3. After each block of eight: those not found whose bit is set in the primary's filter get their secondary line fetched, while
//!    the next block is compared. The others' primary line is "fetched" again, for choosing a line costs nothing and choosing
//!    whether is a branch.
//! 4. Compare the secondary lines.
//! 5. Judge the age of all values found.
//!
//! At load 0.8 one key in eight comes to stage 4; of keys that are in the table nowhere, one in twenty.
//!
//! Between the last line asked for and the first compare of the next burst the memory has nothing to do: a fifth of the time of a
//! burst in a large table. [`finish_and_start`] fills that gap with the next burst's lines.

use super::{Engine, LINE_BYTES, first_slot, prefetch};
use crate::ageing::Clock;
use crate::bucket::{Line, NarrowBucket, WideBucket};
use crate::burst::{BLOCKS, BURST, Hits, Keys, LANES, NO_SLOT, Offsets};
use crate::cuckoo::{Cells, bits};
use crate::hash::{primary, secondary, tag};
use crate::sync::{AtomicU32, Ordering};

/// Stage 1. As [`super::start`].
#[inline(always)]
pub(super) fn start<E: Engine>(
    engine: E,
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    hits: &mut Hits,
) {
    start_at(engine, narrow, wide, keys, hits);
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
    let narrow_mask = resume(engine, narrow, keys, hits);
    finish_at(engine, narrow, wide, keys, clock, hits, narrow_mask, |_| ());
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
    let narrow_mask = start_at(engine, narrow, wide, keys, hits);
    finish_at(engine, narrow, wide, keys, clock, hits, narrow_mask, |_| ());
}

/// As [`super::finish_and_start`].
#[expect(clippy::too_many_arguments, reason = "two bursts, and the table's parts")]
#[inline(always)]
pub(super) fn finish_and_start<E: Engine>(
    engine: E,
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
    next_keys: &Keys,
    next_hits: &mut Hits,
) {
    let next_mask = begin(engine, next_keys, next_hits);
    hash_and_place(engine, narrow, next_keys, next_hits, next_mask);
    let narrow_mask = resume(engine, narrow, keys, hits);
    start_wide(wide, next_keys, next_hits);
    let (lines, count) = (narrow.lines(), blocks(next_mask));
    finish_at(engine, narrow, wide, keys, clock, hits, narrow_mask, |stage| {
        let next = match stage {
            Between::Block(block) if block < EARLY_BLOCKS => block..block + 1,
            Between::Block(_) => return,
            Between::Waits(done) => done.min(EARLY_BLOCKS)..BLOCKS,
        };
        for places in next_hits.offsets.iter().take(count).take(next.end).skip(next.start) {
            fetch(lines, places);
        }
    });
}

/// Where in [`finish`] there is time for something else.
#[derive(Clone, Copy)]
enum Between {
    /// After this block was compared.
    Block(usize),
    /// After so many blocks, all there are, when the secondary lines are on their way and nothing is left to do before they
    /// arrive.
    Waits(usize),
}

/// Blocks of the next burst that are asked for while this one is compared; the others while its secondary lines come. Measured:
/// 18.3 ns a key of four million flows; 18.7 with one, 19.8 with all.
const EARLY_BLOCKS: usize = 2;

/// [`start`], and where the lines are.
#[inline(always)]
fn start_at<E: Engine>(
    engine: E,
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    hits: &mut Hits,
) -> u32 {
    let narrow_mask = begin(engine, keys, hits);
    hash_and_place(engine, narrow, keys, hits, narrow_mask);
    for places in hits.offsets.iter().take(blocks(narrow_mask)) {
        fetch(narrow.lines(), places);
    }
    start_wide(wide, keys, hits);
    narrow_mask
}

/// Notes which positions have a key, and gives those of narrow ones.
#[inline(always)]
fn begin<E: Engine>(engine: E, keys: &Keys, hits: &mut Hits) -> u32 {
    let narrow_mask = engine.present(&keys.narrow);
    hits.asked = narrow_mask | keys.wide_mask;
    hits.found = 0;
    narrow_mask
}

/// The positions of narrow keys, and where their lines are: not as `start` found them, in case it was of other keys, or of
/// another table.
#[inline(always)]
fn resume<E: Engine>(engine: E, narrow: &Cells<NarrowBucket>, keys: &Keys, hits: &mut Hits) -> u32 {
    let narrow_mask = engine.present(&keys.narrow);
    hits.asked &= narrow_mask | keys.wide_mask;
    place(engine, narrow, hits, narrow_mask);
    narrow_mask
}

/// Stages 2 to 5, with the positions of narrow keys, and where their lines are.
#[expect(clippy::too_many_arguments, reason = "a burst, and the table's parts")]
#[inline(always)]
fn finish_at<E: Engine>(
    engine: E,
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
    narrow_mask: u32,
    between: impl FnMut(Between),
) {
    hits.slots = [NO_SLOT; BURST];
    finish_narrow(engine, narrow, keys, narrow_mask, hits, between);
    if keys.wide_mask != 0 {
        finish_wide(wide, keys, hits);
    }
    hits.found = engine.live(&hits.slots, &hits.words, clock) & hits.asked;
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

/// A bucket by where it begins.
#[expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "a step within the lines, and a reference to where it ends"
)]
#[inline(always)]
fn line_at(lines: &[NarrowBucket], offset: u64) -> &NarrowBucket {
    debug_assert!(offset as usize / size_of::<NarrowBucket>() < lines.len());
    debug_assert!((offset as usize).is_multiple_of(size_of::<NarrowBucket>()));
    // SAFETY: every offset here is made by `Engine::place` with the length of these lines, in the same function: an index below
    // that length (proven by a property test) times the size of a line.
    // JUSTIFICATION: as for `line`; offsets, made by vectors, save a shift a line besides.
    unsafe { &*lines.as_ptr().byte_add(offset as usize) }
}

/// A value, or the meta word: `slot` is at most the number of slots.
#[inline(always)]
fn tail(tail: &[AtomicU32], slot: u32) -> u32 {
    debug_assert!((slot as usize) < tail.len());
    // SAFETY: the slot is the lowest bit of a mask of slots, with the bit of the one beyond the last set.
    // JUSTIFICATION: as for `line`.
    unsafe { tail.get_unchecked(slot as usize) }.load(Ordering::Relaxed)
}

/// Eight of a burst.
#[inline(always)]
fn lanes<T>(all: &[T; BURST], block: usize) -> &[T; LANES] {
    &all.as_chunks().0[block % BLOCKS]
}

/// Likewise.
#[inline(always)]
fn lanes_mut<T>(all: &mut [T; BURST], block: usize) -> &mut [T; LANES] {
    &mut all.as_chunks_mut().0[block % BLOCKS]
}

/// Up to the last key, in whole blocks: positions without a key go along, and their answers are masked out.
#[inline(always)]
const fn blocks(narrow_mask: u32) -> usize {
    ((u32::BITS - narrow_mask.leading_zeros()) as usize).div_ceil(LANES)
}

/// Hashes, and where the lines are.
#[inline(always)]
fn hash_and_place<E: Engine>(
    engine: E,
    cells: &Cells<NarrowBucket>,
    keys: &Keys,
    hits: &mut Hits,
    narrow_mask: u32,
) {
    engine.hash(cells.hasher(), blocks(narrow_mask), &keys.narrow, &mut hits.hashes);
    place(engine, cells, hits, narrow_mask);
}

/// Where the lines of these hashes are.
#[inline(always)]
fn place<E: Engine>(engine: E, cells: &Cells<NarrowBucket>, hits: &mut Hits, narrow_mask: u32) {
    let len = cells.lines().len() as u64;
    for (block, places) in hits.offsets.iter_mut().enumerate().take(blocks(narrow_mask)) {
        engine.place(len, lanes(&hits.hashes, block), places, lanes_mut(&mut hits.buckets, block));
    }
}

/// Starts to fetch eight lines.
#[inline(always)]
fn fetch(lines: &[NarrowBucket], places: &Offsets) {
    for &offset in &places.first {
        prefetch(line_at(lines, offset));
    }
}

/// Stages 2 to 4. `between` is called where there is time for something else.
#[inline(always)]
fn finish_narrow<E: Engine>(
    engine: E,
    cells: &Cells<NarrowBucket>,
    keys: &Keys,
    narrow_mask: u32,
    hits: &mut Hits,
    mut between: impl FnMut(Between),
) {
    let lines = cells.lines();
    let mut needed = 0;
    let count = blocks(narrow_mask);
    for block in 0..count {
        let places = &hits.offsets[block % BLOCKS];
        let (words, slots) = (lanes_mut(&mut hits.words, block), lanes_mut(&mut hits.slots, block));
        let places_of = places.first.iter().zip(lanes(&keys.narrow, block));
        for ((&offset, &key), (word, slot)) in places_of.zip(words.iter_mut().zip(slots.iter_mut())) {
            (*word, *slot) = compare(engine, line_at(lines, offset), key);
        }
        between(Between::Block(block));
        // One block later, when what was stored one by one can be loaded at once.
        if let Some(before) = block.checked_sub(1) {
            needed |= overflow(engine, lines, hits, before);
        }
    }
    if let Some(last) = count.checked_sub(1) {
        needed |= overflow(engine, lines, hits, last);
    }
    between(Between::Waits(count));
    for position in bits(needed & narrow_mask) {
        let offset = hits.offsets[position / LANES % BLOCKS].first[position % LANES];
        let (word, slot) = compare(engine, line_at(lines, offset), keys.narrow[position]);
        hits.words[position] = word;
        hits.slots[position] = slot;
        hits.buckets[position] = bucket_at(offset);
    }
}

/// Stage 3 for eight keys.
#[inline(always)]
fn overflow<E: Engine>(engine: E, lines: &[NarrowBucket], hits: &mut Hits, block: usize) -> u32 {
    let places = &mut hits.offsets[block % BLOCKS];
    let (words, slots) = (lanes(&hits.words, block), lanes(&hits.slots, block));
    let needed = engine.overflow(words, slots, lanes(&hits.hashes, block), places);
    fetch(lines, places);
    needed << (LANES * block)
}

/// Stage 2 and 4 for one key: what its line says, and the slot that holds it.
#[expect(clippy::cast_possible_truncation, reason = "at most five slots")]
#[inline(always)]
fn compare<E: Engine>(engine: E, line: &NarrowBucket, key: u64) -> (u32, u8) {
    let slot = engine.slot(line, key);
    (tail(&line.tail, slot), slot as u8)
}

/// The index of a bucket by where it begins.
#[expect(clippy::cast_possible_truncation, reason = "a table has less than 2^32 buckets of a kind")]
#[inline(always)]
const fn bucket_at(offset: u64) -> u32 {
    (offset / LINE_BYTES) as u32
}

/// As [`super::fetch_seconds`].
#[inline(always)]
pub(super) fn fetch_seconds<E: Engine>(
    engine: E,
    cells: &Cells<NarrowBucket>,
    hashes: &[u64; BURST],
    positions: u32,
) {
    let lines = cells.lines();
    let len = lines.len() as u64;
    for position in bits(positions) {
        let hash = hashes[position];
        let first = primary(hash, len);
        let home = line(lines, first);
        let is_full = engine.slot(home, 0) == u32::from(NO_SLOT);
        let is_needed = is_full | home.may_overflow(tag(hash));
        // Always one of them, for there is no telling beforehand.
        prefetch(line(lines, if is_needed { secondary(hash, len, first) } else { first }));
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
    let len = lines.len() as u64;
    let mut needed = 0;
    for position in bits(keys.wide_mask) {
        let hash = hits.hashes[position];
        let first = primary(hash, len);
        let slots = compare_wide(lines, first, keys, hits, position);
        let is_needed = (slots == 0) & (hits.words[position] >> tag(hash) & 1 == 1);
        prefetch(line(lines, if is_needed { secondary(hash, len, first) } else { first }));
        needed |= u32::from(is_needed) << position;
    }
    for position in bits(needed) {
        let second = secondary(hits.hashes[position], len, hits.buckets[position]);
        compare_wide(lines, second, keys, hits, position);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "at most two slots")]
#[inline(always)]
fn compare_wide(lines: &[WideBucket], bucket: u32, keys: &Keys, hits: &mut Hits, position: usize) -> u32 {
    let line = line(lines, bucket);
    let slots = line.matches(keys.wide[position]);
    let slot = first_slot::<WideBucket>(slots);
    hits.words[position] = tail(line.tail(), slot);
    hits.slots[position] = if slots == 0 { NO_SLOT } else { slot as u8 };
    hits.buckets[position] = bucket;
    slots
}
