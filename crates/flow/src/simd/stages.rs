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
//! burst in a large table, and before stage 4 the processor has nothing to do. In a pipeline of bursts [`step`] does stage 4 of
//! one, stages 2 and 3 of the one behind it and stage 1 of the next.

use super::engine::{Engine, first_slot, needs_second};
use super::prefetch::{prefetch, prefetch_far};
use crate::ageing::Clock;
use crate::bits::bits;
use crate::bucket::{Bucket as _, Line, NarrowBucket, WideBucket};
use crate::burst::{BLOCKS, BURST, Entered, Hits, Keys, LANES, LINE_BYTES, NewFlows};
use crate::cells::Cells;
use crate::dirty::DirtyBuckets;
use crate::hash::{primary, secondary, tag};
use crate::lookup_pipeline::Places;
use crate::state::Word;
use crate::sync::AtomicU32;
use core::ops::Range;
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
    for block in 0..blocks(narrow_mask) {
        fetch::<false>(narrow.lines(), lanes(&hits.firsts, block));
    }
    compare_all::<_, false>(engine, narrow, wide, keys, clock, hits, narrow_mask, |_| ());
    finish_second(engine, narrow, keys, clock, hits);
}

/// As [`super::compare_again`].
#[inline(always)]
pub(super) fn compare_again<E: Engine>(
    engine: E,
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
) {
    hits.within(narrow.lines().len());
    let narrow_mask = present(engine, keys);
    compare_all::<_, false>(engine, narrow, wide, keys, clock, hits, narrow_mask, |_| ());
    finish_second(engine, narrow, keys, clock, hits);
}

/// As [`super::step`].
#[inline(always)]
pub(super) fn step<E: Engine>(
    engine: E,
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    clock: &Clock,
    Places { last, middle, next }: Places<'_>,
) {
    let lines = narrow.lines();
    // They may have been begun elsewhere.
    last.1.within(lines.len());
    middle.1.within(lines.len());
    let next_mask = place(engine, narrow, wide, &next.0, &mut next.1);
    finish_second(engine, narrow, &last.0, clock, &mut last.1);
    let count = blocks(next_mask);
    let narrow_mask = present(engine, &middle.0);
    compare_all::<_, true>(engine, narrow, wide, &middle.0, clock, &mut middle.1, narrow_mask, |blocks| {
        for block in blocks.start..blocks.end.min(count) {
            fetch::<true>(lines, lanes(&next.1.firsts, block));
        }
    });
}

/// So many keys are looked up one by one.
const FEW: usize = 8;

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
            let hashes = lanes_mut(&mut hits.hashes, block);
            let (firsts, seconds) = (lanes_mut(&mut hits.firsts, block), lanes_mut(&mut hits.seconds, block));
            engine.place(narrow.hasher(), len as u64, wanted, hashes, firsts, seconds);
        }
    }
    let narrow_mask = narrow_mask & keys.used();
    hits.asked = narrow_mask | keys.wide_mask;
    hits.found = 0;
    start_wide(wide, keys, hits);
    narrow_mask
}

/// The positions of narrow keys.
#[inline(always)]
fn present<E: Engine>(engine: E, keys: &Keys) -> u32 {
    let all = (0..keys.blocks().min(BLOCKS))
        .fold(0, |mask, block| mask | engine.present(lanes(&keys.narrow, block)) << (LANES * block));
    all & keys.used()
}

/// Stages 2 and 3; of wide keys all. `between` is called when blocks have been compared, each once, and at last for those there are
/// not.
#[expect(clippy::too_many_arguments, reason = "a burst, and the table's parts")]
#[inline(always)]
fn compare_all<E: Engine, const FAR: bool>(
    engine: E,
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
    narrow_mask: u32,
    between: impl FnMut(Range<usize>),
) {
    let mut found = compare_narrow::<_, FAR>(engine, narrow, keys, narrow_mask, clock, hits, between);
    if keys.wide_mask != 0 {
        found |= finish_wide(engine, wide, keys, clock, hits);
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
    // SAFETY: every offset here is of `Hits::firsts` or `Hits::seconds` after `Hits::within` with the length of these lines, or fresh: 0, or made
    // by `Engine::place` with that length, an index below it (proven by a property test) times the size of a line.
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

/// The word of a slot: loom has its own atomics.
#[cfg(loom)]
fn tail(tail: &[AtomicU32], slot: u32) -> u32 {
    tail[slot as usize].load(crate::sync::Ordering::Relaxed)
}

/// Eight of a burst.
#[inline(always)]
fn lanes<T, const N: usize>(all: &[T; N], block: usize) -> &[T; LANES] {
    &all.as_chunks().0[block % BLOCKS]
}

/// Eight of a burst, for changing.
#[inline(always)]
fn lanes_mut<T, const N: usize>(all: &mut [T; N], block: usize) -> &mut [T; LANES] {
    &mut all.as_chunks_mut().0[block % BLOCKS]
}

/// Up to the last narrow key, in whole blocks: positions without a key go along, and their answers are masked out.
#[inline(always)]
const fn blocks(narrow_mask: u32) -> usize {
    ((u32::BITS - narrow_mask.leading_zeros()) as usize).div_ceil(LANES)
}

/// Starts to fetch a line: `FAR` if others are looked at before.
#[inline(always)]
fn fetch_line<const FAR: bool>(line: &NarrowBucket) {
    if FAR { prefetch_far(line) } else { prefetch(line) }
}

/// Starts to fetch eight lines.
#[inline(always)]
fn fetch<const FAR: bool>(lines: &[NarrowBucket], offsets: &[u64; LANES]) {
    for &offset in offsets {
        fetch_line::<FAR>(line_at(lines, offset));
    }
}

/// Stage 3: starts to fetch the secondary lines of a block that are needed, the first two of eight: more are rare, and wait their
/// turn. Two are fetched whatever their number; where there are fewer, the table's first line, which is there.
#[inline(always)]
fn fetch_second<const FAR: bool>(lines: &[NarrowBucket], seconds: &[u64; BURST + LANES], needed: u32) {
    let mut left = needed;
    for _ in 0..2 {
        if let Some(&offset) = seconds.get(left.trailing_zeros() as usize) {
            fetch_line::<FAR>(line_at(lines, offset));
        }
        left &= left.wrapping_sub(1);
    }
}

/// Stages 2 and 3 of narrow keys; the positions whose entry is live.
#[inline(always)]
fn compare_narrow<E: Engine, const FAR: bool>(
    engine: E,
    cells: &Cells<NarrowBucket>,
    keys: &Keys,
    narrow_mask: u32,
    clock: &Clock,
    hits: &mut Hits,
    mut between: impl FnMut(Range<usize>),
) -> u32 {
    let lines = cells.lines();
    let (mut needed, mut found) = (0, 0);
    let count = blocks(narrow_mask).min(BLOCKS);
    let mut before = 0;
    for block in 0..count {
        let (keys, firsts) = (lanes(&keys.narrow, block), lanes(&hits.firsts, block));
        let said = core::array::from_fn(|lane| compare(engine, line_at(lines, firsts[lane]), keys[lane]));
        let (words, hashes) = (lanes_mut(&mut hits.words, block), lanes(&hits.hashes, block));
        let judged = engine.judge(said, words, hashes, clock);
        found |= judged.live << (LANES * block);
        needed |= judged.needed << (LANES * block);
        between(block..block + 1);
        // One block later, when they are known.
        fetch_second::<FAR>(lines, &hits.seconds, before);
        before = judged.needed << (LANES * block);
    }
    fetch_second::<FAR>(lines, &hits.seconds, before);
    between(count..BLOCKS);
    hits.second = needed & narrow_mask;
    found & narrow_mask
}

/// Stage 4.
#[inline(always)]
fn finish_second<E: Engine>(
    engine: E,
    cells: &Cells<NarrowBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
) {
    let lines = cells.lines();
    let mut found = hits.found;
    for position in bits(hits.second) {
        let offset = hits.seconds[position];
        let word = compare(engine, line_at(lines, offset), keys.narrow[position]);
        hits.words[position] = word;
        found |= u32::from(clock.is_live(Word(word))) << position;
    }
    hits.found = found & hits.asked;
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
    for ((&key, hash), place) in
        keys.narrow.iter().zip(&mut hits.hashes).zip(&mut hits.firsts).take(keys.len().min(FEW))
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
        .zip(hits.firsts.iter().zip(&mut hits.seconds));
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

/// As [`super::fetch_primaries`].
#[inline(always)]
pub(super) fn fetch_primaries<E: Engine>(
    engine: E,
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
) {
    let lines = narrow.lines();
    for block in 0..keys.blocks().min(BLOCKS) {
        let wanted = lanes(&keys.narrow, block);
        if engine.present(wanted) != 0 {
            let [mut hashes, mut firsts, mut seconds] = [[0; LANES]; 3];
            engine.place(narrow.hasher(), lines.len() as u64, wanted, &mut hashes, &mut firsts, &mut seconds);
            fetch::<true>(lines, &firsts);
        }
    }
    let lines = wide.lines();
    for position in bits(keys.wide_mask) {
        let hash = wide.hasher().wide(&keys.wide[position]);
        prefetch_far(line(lines, primary(hash, lines.len() as u64)));
    }
}

/// As [`super::fetch_seconds`].
#[inline(always)]
pub(super) fn fetch_seconds<E: Engine>(
    engine: E,
    cells: &Cells<NarrowBucket>,
    hashes: &[u64; BURST],
    positions: u32,
    clock: &Clock,
) {
    let lines = cells.lines();
    let len = lines.len() as u64;
    for position in bits(positions) {
        let hash = hashes[position];
        let first = primary(hash, len);
        let home = line(lines, first);
        if engine.slot(home, 0) == NarrowBucket::SLOTS as u32 {
            let slot = first_slot::<NarrowBucket>(engine.expired(home, clock));
            let is_live = slot == NarrowBucket::SLOTS as u32;
            prefetch(line(
                lines,
                if is_live { secondary(hash, len, first) } else { home_of(cells, home, slot) },
            ));
        }
    }
}

/// As [`super::compare_some`].
#[inline(always)]
pub(super) fn compare_some<E: Engine>(
    engine: E,
    cells: &Cells<NarrowBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
    positions: u32,
) {
    let lines = cells.lines();
    hits.within(lines.len());
    let (mut found, mut second) = (hits.found & !positions, hits.second & !positions);
    for position in bits(positions) {
        let key = keys.narrow[position];
        let mut word = compare(engine, line_at(lines, hits.firsts[position]), key);
        if needs_second(word, hits.hashes[position]) {
            word = compare(engine, line_at(lines, hits.seconds[position]), key);
            second |= 1 << position;
        }
        hits.words[position] = word;
        found |= u32::from(clock.is_live(Word(word))) << position;
    }
    (hits.second, hits.found) = (second, found & hits.asked);
}

/// As [`super::enter`]. Other than a look-up it stores, but nothing is read by vectors that this thread has not stored before.
#[expect(clippy::too_many_arguments, reason = "a burst, and the table's parts")]
#[inline(always)]
pub(super) fn enter<E: Engine>(
    engine: E,
    cells: &Cells<NarrowBucket>,
    keys: &Keys,
    hashes: &[u64; BURST],
    new: NewFlows<'_>,
    word: Word,
    clock: &Clock,
    dirty: &mut DirtyBuckets,
) -> Entered {
    const NONE: u32 = NarrowBucket::SLOTS as u32;
    let lines = cells.lines();
    let len = lines.len() as u64;
    let mut entered = Entered::NONE;
    for position in bits(new.positions) {
        let (key, hash) = (keys.narrow[position], hashes[position]);
        let home = primary(hash, len);
        let home_line = line(lines, home);
        if (engine.slot(home_line, key) != NONE) | home_line.may_overflow(tag(hash)) {
            continue;
        }
        let mut bucket = home;
        let (mut slot, mut is_full) = room(engine, home_line, clock);
        if slot == NONE {
            bucket = secondary(hash, len, home);
            (slot, is_full) = room(engine, line(lines, bucket), clock);
            if slot == NONE {
                continue;
            }
        }
        let at = line(lines, bucket);
        if is_full {
            entered.victims[position] = at.word(slot as usize).0;
            entered.replaced |= 1 << position;
            let elsewhere = home_of(cells, at, slot);
            if elsewhere != bucket {
                line(lines, elsewhere).returned();
                dirty.note(elsewhere);
            }
        }
        at.fill(slot as usize, key, word.with_backend(new.backends[position]));
        dirty.note(bucket);
        if bucket != home {
            home_line.overflowed(tag(hash));
            dirty.note(home);
        }
        entered.done |= 1 << position;
    }
    entered
}

/// An empty slot of a line, or else one whose entry is expired, and whether the line is full; the slot beyond the last for none.
#[inline(always)]
fn room<E: Engine>(engine: E, line: &NarrowBucket, clock: &Clock) -> (u32, bool) {
    let empty = engine.slot(line, 0);
    if empty < NarrowBucket::SLOTS as u32 {
        return (empty, false);
    }
    (first_slot::<NarrowBucket>(engine.expired(line, clock)), true)
}

/// The primary bucket of the entry in a slot of a full line.
#[inline(always)]
fn home_of(cells: &Cells<NarrowBucket>, line: &NarrowBucket, slot: u32) -> u32 {
    let key = line.key(slot as usize).unwrap_or_default();
    primary(cells.hasher().narrow(key), cells.lines().len() as u64)
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
fn finish_wide<E: Engine>(
    engine: E,
    cells: &Cells<WideBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
) -> u32 {
    let lines = cells.lines();
    let len = lines.len() as u64;
    let mut needed = 0;
    for position in bits(keys.wide_mask) {
        let hash = hits.hashes[position];
        let first = primary(hash, len);
        let word = compare_wide(line(lines, first), &keys.wide[position]);
        (hits.words[position], hits.wide_buckets[position]) = (word, first);
        let is_needed = needs_second(word, hash);
        prefetch(line(lines, if is_needed { secondary(hash, len, first) } else { first }));
        needed |= u32::from(is_needed) << position;
    }
    for position in bits(needed) {
        let second = secondary(hits.hashes[position], len, hits.wide_buckets[position]);
        let word = compare_wide(line(lines, second), &keys.wide[position]);
        (hits.words[position], hits.wide_buckets[position]) = (word, second);
    }
    let live = (0..keys.blocks().min(BLOCKS))
        .fold(0, |live, block| live | engine.live(lanes(&hits.words, block), clock) << (LANES * block));
    live & keys.wide_mask
}

#[inline(always)]
fn compare_wide(line: &WideBucket, key: &WideKey) -> u32 {
    tail(line.tail(), first_slot::<WideBucket>(line.matches(*key)))
}
