//! The stages of a burst look-up, in blocks of eight keys, as many blocks as there are positions in use. None branches on what it
//! loaded until the last lines are asked for, because a mispredicted branch keeps the next misses from starting:
//!
//! 1. Hash all keys and fetch their primary lines.
//! 2. Compare. The slot found, or the one beyond the last for none, picks the value or the meta word out of the line. Eight such
//!    words go into one vector, without a detour through memory (a vector load of what was stored piece by piece waits until
//!    all of it has left the store buffer, which a short burst feels).
//! 3. Of these, judge the age of values and ask the filters of meta words: those not found whose bit is set in the primary's
//!    filter get their secondary line fetched, while the next block is compared. The others' primary line is "fetched" again, for
//!    choosing a line costs nothing and choosing whether is a branch.
//! 4. Compare the secondary lines, eight at once.
//!
//! At load 0.8 one key in eight comes to stage 4; of keys that are in the table nowhere, one in twenty.
//!
//! Between the last line asked for and the first compare of the next burst the memory has nothing to do: a fifth of the time of a
//! burst in a large table. [`finish_and_start`] fills that gap with the next burst's lines.

use super::{Engine, LINE_BYTES, first_slot, needs_second, prefetch};
use crate::ageing::Clock;
use crate::bucket::{Bucket as _, Line, NarrowBucket, WideBucket};
use crate::burst::{BLOCKS, BURST, Hits, Keys, LANES, Offsets};
use crate::cuckoo::{Cells, bits};
use crate::hash::{primary, secondary, tag};
use crate::state::Word;
use crate::sync::AtomicU32;
use wire::key::WideKey;

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
    if keys.len() <= FEW && keys.wide_mask == 0 {
        hits.within(narrow.lines().len());
        hits.wide_mask = 0;
        return lookup_few(engine, narrow, keys, clock, hits);
    }
    let narrow_mask = place(engine, narrow, wide, keys, hits);
    for places in hits.offsets.iter().take(blocks(narrow_mask)) {
        fetch(narrow.lines(), places);
    }
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
    let next_mask = place(engine, narrow, wide, next_keys, next_hits);
    let lines = narrow.lines();
    // It may have been begun elsewhere.
    hits.within(lines.len());
    let narrow_mask = present(engine, keys);
    finish_at(engine, narrow, wide, keys, clock, hits, narrow_mask, |stage| {
        let next = match stage {
            Between::Block(block) if block < EARLY_BLOCKS => block..block + 1,
            Between::Block(_) => return,
            Between::Waits(done) => done.min(EARLY_BLOCKS)..BLOCKS,
        };
        for places in next_hits.offsets.iter().take(blocks(next_mask)).take(next.end).skip(next.start) {
            fetch(lines, places);
        }
    });
}

/// Fewer keys than this, and one more, are looked up one by one.
const FEW: usize = 8;

/// Where in stages 2 to 4 there is time for something else.
#[derive(Clone, Copy)]
enum Between {
    /// After this block was compared.
    Block(usize),
    /// After so many blocks, all there are, when the secondary lines are on their way and nothing is left to do before they
    /// arrive.
    Waits(usize),
}

/// Blocks of the next burst that are asked for while this one is compared; the others while its secondary lines come. Measured:
/// 14.3 ns a key of four million flows; 14.6 with one, 15.2 with three, 16.3 with all.
const EARLY_BLOCKS: usize = 2;

/// Hashes of all keys, where the narrow ones' lines are, and the positions of these.
#[inline(always)]
fn place<E: Engine>(
    engine: E,
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    hits: &mut Hits,
) -> u32 {
    let len = narrow.lines().len();
    hits.within(len);
    let mut narrow_mask = 0;
    for block in 0..keys.blocks().min(BLOCKS) {
        let wanted = lanes(&keys.narrow, block);
        let present = engine.present(wanted);
        narrow_mask |= present << (LANES * block);
        // A burst of wide keys has none.
        if present != 0 {
            let (hashes, places) = (lanes_mut(&mut hits.hashes, block), &mut hits.offsets[block]);
            engine.place(narrow.hasher(), len as u64, wanted, hashes, places);
        }
    }
    hits.asked = narrow_mask | keys.wide_mask;
    hits.found = 0;
    start_wide(wide, keys, hits);
    narrow_mask
}

/// The positions of narrow keys.
#[inline(always)]
fn present<E: Engine>(engine: E, keys: &Keys) -> u32 {
    (0..keys.blocks().min(BLOCKS))
        .fold(0, |mask, block| mask | engine.present(lanes(&keys.narrow, block)) << (LANES * block))
}

/// Stages 2 to 4. `between` is called where there is time for something else.
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
    let mut found = finish_narrow(engine, narrow, keys, narrow_mask, clock, hits, between);
    if keys.wide_mask != 0 {
        found |= finish_wide(wide, keys, clock, hits);
    }
    hits.found = found & hits.asked;
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
    // SAFETY: every offset here is one of `Hits::offsets` after `Hits::within` with the length of these lines: 0, or made by
    // `Engine::place` with that length, an index below it (proven by a property test) times the size of a line.
    // JUSTIFICATION: as for `line`; offsets, made by vectors, save a shift a line besides.
    unsafe { &*lines.as_ptr().byte_add(offset as usize) }
}

/// A value, or the meta word: `slot` is at most the number of slots.
#[cfg(not(loom))]
#[expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "a step within the words, and a read of the one there"
)]
#[inline(always)]
fn tail(tail: &[AtomicU32], slot: u32) -> u32 {
    debug_assert!((slot as usize) < tail.len());
    // SAFETY: the slot is the lowest bit of a mask of slots, with the bit of the one beyond the last set; and nobody stores to the
    // line while the table is borrowed (see the module above).
    // JUSTIFICATION: as for `line`; and an atomic load is never made part of the instruction that puts the word into a vector.
    unsafe { tail.as_ptr().cast::<u32>().add(slot as usize).read() }
}

/// Likewise.
#[cfg(loom)]
fn tail(tail: &[AtomicU32], slot: u32) -> u32 {
    tail[slot as usize].load(crate::sync::Ordering::Relaxed)
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

/// Up to the last narrow key, in whole blocks: positions without a key go along, and their answers are masked out.
#[inline(always)]
const fn blocks(narrow_mask: u32) -> usize {
    ((u32::BITS - narrow_mask.leading_zeros()) as usize).div_ceil(LANES)
}

/// Starts to fetch eight lines.
#[inline(always)]
fn fetch(lines: &[NarrowBucket], places: &Offsets) {
    for &offset in &places.first {
        prefetch(line_at(lines, offset));
    }
}

/// Stage 3: starts to fetch the secondary lines of a block that are needed, the first two of eight: more are rare, and wait their
/// turn. Two are fetched whatever their number; where there are fewer, a primary line, which is there.
#[inline(always)]
fn fetch_second(lines: &[NarrowBucket], places: &Offsets, needed: u32) {
    let all: [&[u64; LANES]; 2] = [&places.first, &places.second];
    let mut left = needed;
    for _ in 0..2 {
        // Lane 8 for none.
        let lane = (left | 1 << LANES).trailing_zeros() as usize;
        let of = all[usize::from(lane < LANES)];
        prefetch(line_at(lines, of[lane % LANES]));
        left &= left.wrapping_sub(1);
    }
}

/// Stages 2 to 4; the positions whose entry is live.
#[inline(always)]
fn finish_narrow<E: Engine>(
    engine: E,
    cells: &Cells<NarrowBucket>,
    keys: &Keys,
    narrow_mask: u32,
    clock: &Clock,
    hits: &mut Hits,
    mut between: impl FnMut(Between),
) -> u32 {
    let lines = cells.lines();
    let (mut needed, mut found) = (0, 0);
    let count = blocks(narrow_mask).min(BLOCKS);
    let mut before = (&Offsets::ZERO, 0);
    for block in 0..count {
        let (keys, places) = (lanes(&keys.narrow, block), &hits.offsets[block]);
        let said =
            core::array::from_fn(|lane| compare(engine, line_at(lines, places.first[lane]), keys[lane]));
        let (words, hashes) = (lanes_mut(&mut hits.words, block), lanes(&hits.hashes, block));
        let judged = engine.judge(said, words, hashes, clock);
        found |= judged.live << (LANES * block);
        needed |= judged.needed << (LANES * block);
        between(Between::Block(block));
        // One block later, when they are known.
        fetch_second(lines, before.0, before.1);
        before = (places, judged.needed);
    }
    fetch_second(lines, before.0, before.1);
    between(Between::Waits(count));
    hits.second = needed & narrow_mask;
    found & narrow_mask | finish_second(engine, lines, keys, clock, hits)
}

/// Stage 4; those of the positions whose entry is live.
#[inline(always)]
fn finish_second<E: Engine>(
    engine: E,
    lines: &[NarrowBucket],
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
) -> u32 {
    let mut found = 0;
    for position in bits(hits.second) {
        let offset = hits.offsets[position / LANES % BLOCKS].second[position % LANES];
        let word = compare(engine, line_at(lines, offset), keys.narrow[position]);
        hits.words[position] = word;
        found |= u32::from(clock.is_live(Word(word))) << position;
    }
    found
}

/// Stages 1 to 4 of a few narrow keys, one by one: vectors of eight would cost as much as eight keys, and wait for the keys to
/// leave the store buffer.
#[inline(always)]
fn lookup_few<E: Engine>(
    engine: E,
    cells: &Cells<NarrowBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
) {
    let lines = cells.lines();
    let len = lines.len() as u64;
    let (mut asked, mut found, mut second) = (0, 0, 0);
    let places = &mut hits.offsets[0];
    for ((&key, hash), place) in
        keys.narrow.iter().zip(&mut hits.hashes).zip(&mut places.first).take(keys.len().min(FEW))
    {
        *hash = cells.hasher().narrow(key);
        let first = primary(*hash, len);
        prefetch(line(lines, first));
        *place = u64::from(first) * LINE_BYTES;
    }
    let all = keys
        .narrow
        .iter()
        .zip(&hits.hashes)
        .zip(&mut hits.words)
        .zip(places.first.iter().zip(&mut places.second));
    for (position, (((&key, &hash), word), (&first, place))) in all.take(keys.len().min(FEW)).enumerate() {
        *word = compare(engine, line_at(lines, first), key);
        if needs_second(*word, hash) {
            let at = secondary(hash, len, primary(hash, len));
            *word = compare(engine, line(lines, at), key);
            *place = u64::from(at) * LINE_BYTES;
            second |= 1 << position;
        }
        asked |= u32::from(key != 0) << position;
        found |= u32::from(clock.is_live(Word(*word))) << position;
    }
    (hits.asked, hits.found, hits.second) = (asked, found & asked, second);
}

/// Stage 2 and 4 for one key: what its line says.
#[inline(always)]
fn compare<E: Engine>(engine: E, line: &NarrowBucket, key: u64) -> u32 {
    tail(&line.tail, engine.slot(line, key))
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
        let is_full = engine.slot(home, 0) == NarrowBucket::SLOTS as u32;
        let is_needed = is_full | home.may_overflow(tag(hash));
        // Always one of them, for there is no telling beforehand.
        prefetch(line(lines, if is_needed { secondary(hash, len, first) } else { first }));
    }
}

#[inline(always)]
fn start_wide(cells: &Cells<WideBucket>, keys: &Keys, hits: &mut Hits) {
    hits.wide_mask = keys.wide_mask;
    let lines = cells.lines();
    for position in bits(keys.wide_mask) {
        let hash = cells.hasher().wide(&keys.wide[position]);
        hits.hashes[position] = hash;
        prefetch(line(lines, primary(hash, lines.len() as u64)));
    }
}

/// Stages 2 to 4 for wide keys; the positions whose entry is live.
#[inline(always)]
fn finish_wide(cells: &Cells<WideBucket>, keys: &Keys, clock: &Clock, hits: &mut Hits) -> u32 {
    let lines = cells.lines();
    let len = lines.len() as u64;
    let (mut needed, mut found) = (0, 0);
    for position in bits(keys.wide_mask) {
        let hash = hits.hashes[position];
        let first = primary(hash, len);
        let word = compare_wide(line(lines, first), &keys.wide[position]);
        (hits.words[position], hits.wide_buckets[position]) = (word, first);
        let is_needed = needs_second(word, hash);
        prefetch(line(lines, if is_needed { secondary(hash, len, first) } else { first }));
        needed |= u32::from(is_needed) << position;
        found |= u32::from(clock.is_live(Word(word))) << position;
    }
    for position in bits(needed) {
        let second = secondary(hits.hashes[position], len, hits.wide_buckets[position]);
        let word = compare_wide(line(lines, second), &keys.wide[position]);
        (hits.words[position], hits.wide_buckets[position]) = (word, second);
        found |= u32::from(clock.is_live(Word(word))) << position;
    }
    found
}

#[inline(always)]
fn compare_wide(line: &WideBucket, key: &WideKey) -> u32 {
    tail(line.tail(), first_slot::<WideBucket>(line.matches(*key)))
}
