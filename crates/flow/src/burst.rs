//! What goes into a burst look-up and what comes out of it.

use crate::ageing::{Timings, idle_us};
use crate::state::{Hit, Place, State, Word};
use wire::key::WideKey;
use wire::{BackendId, FlowKey, Tick};

/// Keys that are looked up at once.
pub const BURST: usize = 32;

/// The keys of a burst, by position. Keep one and use it again: [`clear`](Keys::clear) is four vector stores.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Keys {
    /// 0 where there is no narrow key.
    pub(crate) narrow: [u64; BURST],
    /// Meaningful where `wide_mask` has its bit, so that a burst without wide keys does not touch it.
    pub(crate) wide: [WideKey; BURST],
    pub(crate) wide_mask: u32,
    /// Where the next [`push`](Keys::push) goes.
    next: usize,
}

impl Default for Keys {
    fn default() -> Keys {
        Keys::new()
    }
}

impl Keys {
    /// None.
    pub const fn new() -> Keys {
        Keys {
            narrow: [0; BURST],
            wide: [WideKey { src: [0, 0], middle: 0, dport: 0 }; BURST],
            wide_mask: 0,
            next: 0,
        }
    }

    /// Forgets all.
    #[inline]
    pub fn clear(&mut self) {
        self.narrow = [0; BURST];
        self.wide_mask = 0;
        self.next = 0;
    }

    /// The key of the position after the last one pushed, or none there. False, and nothing done, when all [`BURST`] are
    /// taken.
    #[inline]
    pub fn push(&mut self, key: Option<&FlowKey>) -> bool {
        let position = self.next;
        let fits = position < BURST;
        if fits {
            self.set(position, key);
            self.next = position + 1;
        }
        fits
    }

    /// As [`push`](Keys::push), of a narrow key; 0 for none.
    #[inline]
    pub fn push_narrow(&mut self, key: u64) {
        if let Some(narrow) = self.narrow.get_mut(self.next) {
            *narrow = key;
            self.next += 1;
        }
    }

    /// The narrow keys by position, 0 for none, to be filled in by a caller that goes over a whole burst. What is pushed
    /// later begins at position 0 again.
    #[inline(always)]
    pub const fn narrow_mut(&mut self) -> &mut [u64; BURST] {
        &mut self.narrow
    }

    /// The key of a position below [`BURST`], or none there; any other position is ignored. One store for a narrow
    /// key. A key without a service, which no flow has, counts as none.
    #[inline]
    pub fn set(&mut self, position: usize, key: Option<&FlowKey>) {
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
}

/// Keys done at once by a look-up.
pub(crate) const LANES: usize = 8;
/// Times that it does so.
pub(crate) const BLOCKS: usize = BURST / LANES;

/// Where the lines of eight keys begin, bytes from the first line of the table.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Offsets {
    /// The primary lines; after the first compare, the lines to compare next.
    pub(crate) first: [u64; LANES],
    /// The secondary lines.
    pub(crate) second: [u64; LANES],
}

impl Offsets {
    pub(crate) const ZERO: Offsets = Offsets { first: [0; LANES], second: [0; LANES] };
}

/// Stands for none, in any kind of bucket: the one beyond the last slot of the largest.
pub(crate) const NO_SLOT: u8 = 5;

/// The answers to a burst, by position. Keep one and use it again; [`Table::lookup`](crate::Table::lookup) overwrites it.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Hits {
    pub(crate) hashes: [u64; BURST],
    /// Where the narrow lines are, until the look-up has ended.
    pub(crate) offsets: [Offsets; BLOCKS],
    pub(crate) buckets: [u32; BURST],
    /// Values; for a key that was not found, the meta word of the last bucket looked at.
    pub(crate) words: [u32; BURST],
    /// The slot found, or [`NO_SLOT`].
    pub(crate) slots: [u8; BURST],
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
            offsets: [Offsets::ZERO; BLOCKS],
            buckets: [0; BURST],
            words: [0; BURST],
            slots: [NO_SLOT; BURST],
            timings: Timings::default(),
            now: Tick(0),
            asked: 0,
            found: 0,
        }
    }

    /// The positions whose keys have an entry that is not expired, a bit each.
    #[inline]
    pub const fn found(&self) -> u32 {
        self.found
    }

    /// The entry at a position, if its bit is in [`found`](Hits::found).
    #[inline]
    pub fn get(&self, position: usize) -> Option<Hit> {
        let place = self.place(position)?;
        let word = Word(self.words[position]);
        let idle_us = idle_us(self.timings[word.kind()], word, self.now).unwrap_or(0);
        Some(Hit::new(place, word, idle_us))
    }

    /// The backend and state of the entry at a position: as [`get`](Hits::get), without the idle time.
    #[inline]
    pub fn of(&self, position: usize) -> Option<(BackendId, State)> {
        self.place(position)?;
        let word = Word(self.words[position]);
        Some((word.backend(), word.state()))
    }

    /// What is known of the key at a position for a later insertion. `None` where there was no key.
    #[inline]
    pub fn miss(&self, position: usize) -> Option<Miss> {
        let was_asked = position < BURST && self.asked >> position & 1 == 1;
        was_asked.then(|| Miss(self.hashes[position]))
    }

    #[inline]
    fn place(&self, position: usize) -> Option<Place> {
        let is_found = position < BURST && self.found >> position & 1 == 1;
        is_found.then(|| Place { bucket: self.buckets[position], slot: self.slots[position] })
    }
}
