//! What goes into a burst look-up and what comes out of it.

use crate::ageing::{Timings, idle_us};
use crate::bits::bits;
use crate::bucket::NarrowBucket;
use crate::dirty::Filter;
use crate::simd::Lanes;
use crate::state::{Hit, State, Word};
use wire::key::WideKey;
use wire::{BackendId, FlowKey, Tick};

/// Keys that are looked up at once.
pub const BURST: usize = 32;

/// The keys of a burst, by position. Keep one and use it again: a look-up costs by the positions in use.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Keys {
    /// 0 where there is no narrow key; from `len` on, anything.
    pub(crate) narrow: [u64; BURST],
    /// Meaningful where `wide_mask` has its bit, so that a burst without wide keys does not touch it.
    pub(crate) wide: [WideKey; BURST],
    pub(crate) wide_mask: u32,
    /// Positions in use: there is no key from here on, and here goes the next [`push`](Keys::push).
    len: usize,
}

impl Default for Keys {
    fn default() -> Keys {
        Keys::new()
    }
}

impl Keys {
    /// No keys.
    pub const fn new() -> Keys {
        Keys {
            narrow: [0; BURST],
            wide: [WideKey { src: [0, 0], middle: 0, dport: 0 }; BURST],
            wide_mask: 0,
            len: 0,
        }
    }

    /// Forgets all.
    #[inline]
    pub fn clear(&mut self) {
        self.wide_mask = 0;
        self.len = 0;
    }

    /// Makes so many positions be in use, at least; those that were not have no key.
    #[inline(always)]
    fn extend(&mut self, len: usize) {
        if self.len == 0 {
            // Whole blocks, which are vectors and no call.
            for block in self.narrow.as_chunks_mut::<LANES>().0.iter_mut().take(len.div_ceil(LANES)) {
                *block = [0; LANES];
            }
            self.len = len;
        } else if let Some(added) = self.narrow.get_mut(self.len..len) {
            added.fill(0);
            self.len = len;
        }
    }

    /// The key of the position after the last one in use, or none there. False, and nothing done, when all [`BURST`] are
    /// taken.
    #[inline]
    pub fn push(&mut self, key: Option<&FlowKey>) -> bool {
        let fits = self.len < BURST;
        self.set(self.len, key);
        fits
    }

    /// As [`push`](Keys::push), of a narrow key; 0 for none.
    #[inline]
    pub fn push_narrow(&mut self, key: u64) {
        if let Some(narrow) = self.narrow.get_mut(self.len) {
            *narrow = key;
            self.len += 1;
        }
    }

    /// The narrow keys by position, 0 for none, to be filled in by a caller that goes over a whole burst of `count`: the
    /// positions from there on are not looked up.
    #[inline]
    pub fn narrow_mut(&mut self, count: usize) -> &mut [u64; BURST] {
        self.extend(count.min(BURST));
        &mut self.narrow
    }

    /// These narrow keys, 0 for none, by position, and nothing else; of more than [`BURST`] the first.
    #[inline]
    pub fn copy_narrow(&mut self, keys: &[u64]) {
        self.wide_mask = 0;
        // A whole burst is some vectors, and no call.
        if let Some(keys) = keys.first_chunk() {
            (self.narrow, self.len) = (*keys, BURST);
        } else if let Some(first) = self.narrow.get_mut(..keys.len()) {
            first.copy_from_slice(keys);
            self.len = keys.len();
        }
    }

    /// The narrow key of a position; 0 for none.
    #[inline]
    pub fn narrow(&self, position: usize) -> u64 {
        if position < self.len { self.narrow.get(position).copied().unwrap_or(0) } else { 0 }
    }

    /// Whether two positions have a key, and the same one.
    pub fn are_same(&self, one: usize, other: usize) -> bool {
        let wide = |position: usize| {
            let is_wide = position < self.len && self.wide_mask >> (position % BURST) & 1 == 1;
            self.wide.get(position).filter(|_| is_wide)
        };
        match (wide(one), wide(other)) {
            (None, None) => self.narrow(one) != 0 && self.narrow(one) == self.narrow(other),
            (one, other) => one == other,
        }
    }

    /// The key of a position below [`BURST`], or none there; any other position is ignored. One store for a narrow
    /// key. A key without a service, which no flow has, counts as none.
    #[inline]
    pub fn set(&mut self, position: usize, key: Option<&FlowKey>) {
        if position >= self.len {
            self.extend(position + 1);
        }
        let Some(narrow) = self.narrow.get_mut(position) else { return };
        *narrow = match key {
            Some(&FlowKey::Narrow(key)) => key,
            _ => 0,
        };
        if self.wide_mask != 0 {
            self.wide_mask &= !(1 << position);
        }
        if let Some(FlowKey::Wide(key)) = key
            && let Some(wide) = self.wide.get_mut(position)
        {
            *wide = *key;
            self.wide_mask |= u32::from(key.middle != 0) << position;
        }
    }

    /// Positions in use.
    #[inline(always)]
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// The positions in use, a bit each.
    #[inline(always)]
    pub(crate) fn used(&self) -> u32 {
        (u64::from(u32::MAX) >> (BURST - self.len.min(BURST))) as u32
    }

    /// Blocks with positions in use.
    #[inline(always)]
    pub(crate) const fn blocks(&self) -> usize {
        self.len.div_ceil(LANES)
    }
}

/// Keys done at once by a look-up.
pub(crate) const LANES: usize = 8;
/// Times that it does so.
pub(crate) const BLOCKS: usize = BURST / LANES;

/// Bytes of a line of any kind.
pub(crate) const LINE_BYTES: u64 = size_of::<NarrowBucket>() as u64;

/// The answers to a burst, by position. Keep one and use it again; [`Table::lookup`](crate::Table::lookup) overwrites it.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Hits {
    pub(crate) hashes: [u64; BURST],
    /// Values; for a key that was not found, the meta word of the last bucket looked at.
    pub(crate) words: [u32; BURST],
    /// Where the primary lines of narrow keys begin, bytes from the first line of the table. They, and the secondary ones, are
    /// within a table of `lines` buckets, always.
    pub(crate) firsts: [u64; BURST],
    /// The secondary ones. Beyond the last position is the table's first line, always, to be fetched where there is nothing to fetch.
    pub(crate) seconds: [u64; BURST + LANES],
    pub(crate) lines: usize,
    /// The positions whose secondary line was looked at, too.
    pub(crate) second: u32,
    /// The bucket of a wide key that was looked at last.
    pub(crate) wide_buckets: [u32; BURST],
    /// Positions with a wide key.
    pub(crate) wide_mask: u32,
    pub(crate) timings: Timings,
    pub(crate) now: Tick,
    /// Positions with a key.
    pub(crate) asked: u32,
    /// Of these, the ones with an entry.
    pub(crate) found: u32,
}

/// Where a key would have been, for [`Table::insert_at`](crate::Table::insert_at): saves the second hash. Good for this
/// key in this table only, and for as long as the table lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Miss(pub(crate) u64);

impl Miss {
    /// The key's hash in its table: keyed, so nobody outside can tell it.
    #[inline]
    pub const fn hash(self) -> u64 {
        self.0
    }
}

/// New flows of a burst, for [`Table::insert_plainly`](crate::Table::insert_plainly).
#[derive(Clone, Copy, Debug)]
pub struct NewFlows<'f> {
    /// Where their keys are, a bit each.
    pub positions: u32,
    /// Their backends, by position.
    pub backends: &'f [BackendId; BURST],
    /// The state of all of them.
    pub state: State,
}

/// What became of new flows: see [`Table::insert_plainly`](crate::Table::insert_plainly).
#[derive(Clone, Copy, Debug)]
pub struct Entered {
    /// The positions of those that have an entry now, a bit each.
    pub done: u32,
    /// Of these, the ones for which an expired entry had to go.
    pub replaced: u32,
    /// Its value.
    pub(crate) victims: [u32; BURST],
}

impl Entered {
    pub(crate) const NONE: Entered = Entered { done: 0, replaced: 0, victims: [0; BURST] };

    /// The backend and state of the expired entry that had to go for the flow at a position of `replaced`.
    #[inline]
    pub const fn victim(&self, position: usize) -> (BackendId, State) {
        let word = Word(self.victims[position % BURST]);
        (word.backend(), word.state())
    }
}

impl Default for Hits {
    fn default() -> Hits {
        Hits::new()
    }
}

impl Hits {
    /// No answers.
    pub fn new() -> Hits {
        Hits {
            hashes: [0; BURST],
            words: [0; BURST],
            firsts: [0; BURST],
            seconds: [0; BURST + LANES],
            lines: 0,
            second: 0,
            wide_buckets: [0; BURST],
            wide_mask: 0,
            timings: Timings::default(),
            now: Tick(0),
            asked: 0,
            found: 0,
        }
    }

    /// Makes sure that all offsets are within a narrow table of so many buckets.
    #[inline(always)]
    pub(crate) fn within(&mut self, lines: usize) {
        if self.lines != lines {
            self.forget_lines(lines);
        }
    }

    #[cold]
    fn forget_lines(&mut self, lines: usize) {
        self.firsts = [0; BURST];
        self.seconds = [0; BURST + LANES];
        self.lines = lines;
    }

    /// The positions whose keys have an entry that is not expired, a bit each.
    #[inline]
    pub const fn found(&self) -> u32 {
        self.found
    }

    /// The entry at a position, if its bit is in [`found`](Hits::found).
    #[inline]
    pub fn get(&self, position: usize) -> Option<Hit> {
        let word = self.word(position)?;
        let idle_us = idle_us(self.timings[word.kind()], word, self.now).unwrap_or(0);
        Some(Hit::new(self.bucket(position), word, idle_us))
    }

    /// The backend and state of the entry at a position: as [`get`](Hits::get), without the idle time.
    #[inline]
    pub fn of(&self, position: usize) -> Option<(BackendId, State)> {
        let word = self.word(position)?;
        Some((word.backend(), word.state()))
    }

    /// The backends' numbers by position, 0 where there is no entry: without a branch, for a caller that goes over a whole burst.
    #[inline]
    pub fn backends(&self) -> [u32; BURST] {
        core::array::from_fn(|position| {
            Word(self.words[position]).backend().0 & (self.found >> position & 1).wrapping_neg()
        })
    }

    /// What is known of the key at a position for a later insertion. `None` where there was no key.
    #[inline]
    pub fn miss(&self, position: usize) -> Option<Miss> {
        let was_asked = position < BURST && self.asked >> position & 1 == 1;
        was_asked.then(|| Miss(self.hashes[position]))
    }

    /// The positions of narrow keys whose answers may have been read in one of these buckets.
    #[inline(always)]
    pub(crate) fn read_in(&self, buckets: Filter, lanes: Lanes) -> u32 {
        let first = self.firsts.map(|offset| buckets.may_hold(offset / LINE_BYTES));
        let mut mask = lanes.bit::<63>(&first);
        for position in bits(self.second) {
            let second = self.seconds.get(position).map_or(0, |offset| buckets.may_hold(offset / LINE_BYTES));
            mask |= u32::from(second & 1 == 1) << position;
        }
        mask & self.asked & !self.wide_mask
    }

    #[inline]
    fn word(&self, position: usize) -> Option<Word> {
        let is_found = position < BURST && self.found >> position & 1 == 1;
        is_found.then(|| Word(self.words[position]))
    }

    /// The bucket in which the entry was found.
    #[expect(clippy::cast_possible_truncation, reason = "a table has less than 2^32 buckets of a kind")]
    #[inline]
    const fn bucket(&self, position: usize) -> u32 {
        if self.wide_mask >> (position % BURST) & 1 == 1 {
            self.wide_buckets[position % BURST]
        } else {
            let is_second = self.second >> (position % BURST) & 1 == 1;
            let at = if is_second { self.seconds[position % BURST] } else { self.firsts[position % BURST] };
            (at / LINE_BYTES) as u32
        }
    }
}
