//! Placement: two-choice cuckoo hashing with buckets, for one kind of key.
//!
//! A key lives in one of two buckets, named by the two halves of its hash. A new one goes to the emptier; when both are
//! full, a short chain of entries moves each to its other bucket (found breadth first, so the chain is the
//! shortest). Load 0.8 is always reached: the threshold is above 0.98 for five slots a bucket and near 0.9 for two.
//!
//! **Readers never miss a live key.** An entry that moves is written to its new bucket before its old slot is
//! overwritten. A reader that looked into the new one before and into the old one after would miss it; so it looks at
//! the version of its first bucket again when it found nothing, and starts over if that has changed.

use crate::ageing::{Ageing, Conversion};
use crate::bucket::Bucket;
use crate::memory::Memory;
use crate::state::{Hit, Place, State, Word};
use crate::sync::{Ordering, relax};
use crate::table::Refusal;
use ahash::RandomState;
use wire::{BackendId, Tick};

/// How often a reader tries again before it reports that the writer is in its way.
#[cfg(not(loom))]
const TRIES_MAX: usize = 4096;
#[cfg(loom)]
const TRIES_MAX: usize = 2;

/// Buckets that a search for a chain of moves may look at; fewer when the table is nearly full, so that a
/// flood of inserts into a full table does not cost a search each.
const SEARCH_MAX: usize = 256;
const SEARCH_NEARLY_FULL_MAX: usize = 12;

/// The writer was in the way all the time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Busy;

/// The two buckets of a key; always different.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair(pub(crate) u32, pub(crate) u32);

/// The entries of a bucket, by slot; a bucket with fewer slots leaves the rest empty.
pub(crate) type Entries<K> = [Option<(K, Word)>; 5];

/// What both sides share: memory and hash.
#[derive(Debug)]
pub(crate) struct Cells<B: 'static> {
    memory: Memory<B>,
    hasher: RandomState,
}

impl<B> Clone for Cells<B> {
    fn clone(&self) -> Cells<B> {
        Cells { memory: self.memory.clone(), hasher: self.hasher.clone() }
    }
}

impl<B: Bucket> Cells<B> {
    pub(crate) fn len(&self) -> usize {
        self.memory.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    #[inline]
    pub(crate) fn bucket(&self, index: u32) -> &B {
        &self.memory[index as usize]
    }

    /// The key's buckets: each half of the hash reduced to the number of buckets by multiplication.
    #[inline]
    pub(crate) fn pair(&self, key: B::Key) -> Pair {
        let hash = B::hash(key, &self.hasher);
        let len = self.memory.len() as u64;
        let first = (((hash >> 32) * len) >> 32) as u32;
        let second = (((hash & u64::from(u32::MAX)) * len) >> 32) as u32;
        if first != second {
            return Pair(first, second);
        }
        Pair(first, if u64::from(first) + 1 < len { first + 1 } else { 0 })
    }

    fn other(&self, key: B::Key, bucket: u32) -> u32 {
        let Pair(first, second) = self.pair(key);
        if first == bucket { second } else { first }
    }

    /// Loads one word of each bucket, so that the lines are on their way before they are needed.
    #[inline]
    pub(crate) fn warm(&self, pair: Pair) -> u32 {
        self.bucket(pair.0).version().load(Ordering::Relaxed)
            ^ self.bucket(pair.1).version().load(Ordering::Relaxed)
    }

    /// The writer's look-up.
    #[inline]
    pub(crate) fn find_in(&self, key: B::Key, pair: Pair) -> Option<(Place, Word)> {
        for bucket in [pair.0, pair.1] {
            let line = self.bucket(bucket);
            if let Some(slot) = line.position(key) {
                return Some((place(bucket, slot), line.word(slot)));
            }
        }
        None
    }

    /// Anyone's look-up.
    ///
    /// # Errors
    /// [`Busy`] after many tries: the writer was stopped in the middle of a change, or makes nothing but changes here.
    pub(crate) fn read(&self, key: B::Key) -> Result<Option<(Place, Word)>, Busy> {
        self.read_in(key, self.pair(key))
    }

    pub(crate) fn read_in(&self, key: B::Key, pair: Pair) -> Result<Option<(Place, Word)>, Busy> {
        let (first, second) = (self.bucket(pair.0), self.bucket(pair.1));
        let look = |bucket: u32, line: &B| {
            line.read(|| line.position(key).map(|slot| (place(bucket, slot), line.word(slot))))
        };
        for _ in 0..TRIES_MAX {
            if let Some((in_first, version)) = look(pair.0, first) {
                if in_first.is_some() {
                    return Ok(in_first);
                }
                if let Some((in_second, _)) = look(pair.1, second)
                    && (in_second.is_some() || first.version().load(Ordering::Relaxed) == version)
                // R-again
                {
                    return Ok(in_second);
                }
            }
            relax();
        }
        Err(Busy)
    }

    /// A consistent copy of a bucket's entries, for anyone; `None` when the writer was in the way all the time.
    pub(crate) fn copy(&self, index: u32) -> Option<Entries<B::Key>> {
        let line = self.bucket(index);
        for _ in 0..TRIES_MAX {
            let copy = line.read(|| {
                core::array::from_fn(|slot| {
                    if slot < B::SLOTS { line.key(slot).map(|key| (key, line.word(slot))) } else { None }
                })
            });
            if let Some((entries, _)) = copy {
                return Some(entries);
            }
            relax();
        }
        None
    }

    /// Moves an entry to a slot whose entry is no longer wanted. Its old slot still holds it, until it is overwritten.
    pub(crate) fn duplicate(&self, from: Place, to: Place) {
        let source = self.bucket(from.bucket);
        if let Some(key) = source.key(usize::from(from.slot)) {
            self.bucket(to.bucket).fill(usize::from(to.slot), key, source.word(usize::from(from.slot)));
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "at most five slots")]
#[inline]
pub(crate) const fn place(bucket: u32, slot: usize) -> Place {
    Place { bucket, slot: slot as u8 }
}

/// How an insertion ended.
pub(crate) enum Placed {
    /// Done; the value of the entry that was removed for it, if any.
    Done(Option<Word>),
    Refused(Refusal),
}

/// A bucket on the search for a chain.
#[derive(Clone, Copy)]
struct Step {
    bucket: u32,
    /// Whose entry would move here: a step, and its slot.
    parent: u16,
    slot: u8,
}

const ROOT: u16 = u16::MAX;

/// The writer's side of one kind of key.
#[derive(Debug)]
pub(crate) struct Cuckoo<B: 'static> {
    pub(crate) cells: Cells<B>,
    /// Slots in use, expired ones that were not swept included.
    pub(crate) used: usize,
    /// Of these, untrusted.
    pub(crate) untrusted: usize,
    untrusted_max: usize,
}

impl<B: Bucket> Cuckoo<B> {
    pub(crate) fn new(memory: Memory<B>, hasher: RandomState, untrusted_percent: u8) -> Cuckoo<B> {
        let untrusted_max = memory.flows() * usize::from(untrusted_percent) / 100;
        Cuckoo { cells: Cells { memory, hasher }, used: 0, untrusted: 0, untrusted_max }
    }

    pub(crate) fn flows(&self) -> usize {
        self.cells.memory.flows()
    }

    fn count_in(&mut self, word: Word) {
        self.used += 1;
        self.untrusted += usize::from(word.state().is_untrusted());
    }

    fn count_out(&mut self, word: Word) {
        self.used -= 1;
        self.untrusted -= usize::from(word.state().is_untrusted());
    }

    #[inline]
    pub(crate) fn find(&self, key: B::Key) -> Option<(Place, Word)> {
        self.cells.find_in(key, self.cells.pair(key))
    }

    /// Where the key is, if it still is where it was.
    #[inline]
    pub(crate) fn locate(&self, key: B::Key, place: Place) -> Option<(Place, Word)> {
        let slot = usize::from(place.slot);
        if slot < B::SLOTS
            && let Some(line) = self.cells.memory.get(place.bucket as usize)
            && line.key(slot) == Some(key)
        {
            return Some((place, line.word(slot)));
        }
        self.find(key)
    }

    /// Gives an entry another value; writes only if it is another.
    #[inline]
    pub(crate) fn update(&mut self, at: Place, old: Word, new: Word) {
        if old != new {
            self.cells.bucket(at.bucket).store_word(usize::from(at.slot), new);
            self.untrusted += usize::from(new.state().is_untrusted());
            self.untrusted -= usize::from(old.state().is_untrusted());
        }
    }

    pub(crate) fn remove(&mut self, at: Place, word: Word) {
        self.cells.bucket(at.bucket).empty(usize::from(at.slot));
        self.count_out(word);
    }

    /// Whether the quota has room for this value, in place of the other one if there is one.
    pub(crate) fn quota_allows(&self, word: Word, instead: Option<Word>) -> bool {
        let freed = instead.is_some_and(|word| word.state().is_untrusted());
        !word.state().is_untrusted() || self.untrusted - usize::from(freed) < self.untrusted_max
    }

    fn put(&mut self, at: Place, key: B::Key, word: Word) {
        self.cells.bucket(at.bucket).fill(usize::from(at.slot), key, word);
        self.count_in(word);
    }

    /// A slot of the bucket that is empty, or else whose entry is expired, with that entry; and how many such
    /// slots there are.
    fn free(&self, bucket: u32, ageing: &Ageing, now: Tick) -> (usize, Option<(Place, Option<Word>)>) {
        let line = self.cells.bucket(bucket);
        let mut count = 0;
        let mut best: Option<(Place, Option<Word>)> = None;
        for slot in 0..B::SLOTS {
            let victim = match line.key(slot) {
                None => None,
                Some(_) if ageing.idle_us(line.word(slot), now).is_none() => Some(line.word(slot)),
                Some(_) => continue,
            };
            count += 1;
            if best.is_none() || (victim.is_none() && best.is_some_and(|(_, word)| word.is_some())) {
                best = Some((place(bucket, slot), victim));
            }
        }
        (count, best)
    }

    /// Inserts a key that is not in the table.
    pub(crate) fn insert(&mut self, key: B::Key, word: Word, ageing: &Ageing, now: Tick) -> Placed {
        let pair = self.cells.pair(key);
        let untrusted = word.state().is_untrusted();
        if !self.quota_allows(word, None) {
            // Only in the place of one that is expired and counts, too.
            let Some((at, victim)) = self.expired_untrusted(pair, ageing, now) else {
                return Placed::Refused(Refusal::QuotaFull);
            };
            self.count_out(victim);
            self.put(at, key, word);
            return Placed::Done(Some(victim));
        }
        let ((first_count, first), (second_count, second)) =
            (self.free(pair.0, ageing, now), self.free(pair.1, ageing, now));
        let emptier = if second_count > first_count { second } else { first };
        let free = emptier
            .or_else(|| self.make_room(pair, ageing, now))
            .or_else(|| if untrusted { None } else { self.oldest_untrusted(pair, ageing, now) });
        let Some((at, victim)) = free else {
            return Placed::Refused(Refusal::TableFull);
        };
        if let Some(victim) = victim {
            self.count_out(victim);
        }
        self.put(at, key, word);
        Placed::Done(victim)
    }

    fn expired_untrusted(&self, pair: Pair, ageing: &Ageing, now: Tick) -> Option<(Place, Word)> {
        self.entries(pair)
            .find(|&(_, word)| word.state().is_untrusted() && ageing.idle_us(word, now).is_none())
    }

    fn oldest_untrusted(&self, pair: Pair, ageing: &Ageing, now: Tick) -> Option<(Place, Option<Word>)> {
        self.entries(pair)
            .filter(|&(_, word)| word.state().is_untrusted())
            .max_by_key(|&(_, word)| ageing.idle_us(word, now).unwrap_or(u64::MAX))
            .map(|(at, word)| (at, Some(word)))
    }

    fn entries(&self, pair: Pair) -> impl Iterator<Item = (Place, Word)> + '_ {
        [pair.0, pair.1].into_iter().flat_map(move |bucket| {
            let line = self.cells.bucket(bucket);
            (0..B::SLOTS)
                .filter(|&slot| line.key(slot).is_some())
                .map(move |slot| (place(bucket, slot), line.word(slot)))
        })
    }

    /// Frees a slot of either bucket by moving entries, each to its other bucket. Gives the slot, whose entry has been
    /// duplicated elsewhere, and the expired entry that was overwritten at the other end, if any. No bucket is on a
    /// chain twice, so no entry is moved twice.
    #[expect(clippy::cast_possible_truncation, reason = "fewer steps than 2^16, at most five slots")]
    fn make_room(&mut self, pair: Pair, ageing: &Ageing, now: Tick) -> Option<(Place, Option<Word>)> {
        let slots = self.cells.len() * B::SLOTS;
        let search_max = if self.used > slots - slots / 10 { SEARCH_NEARLY_FULL_MAX } else { SEARCH_MAX };
        let mut steps = [Step { bucket: 0, parent: ROOT, slot: 0 }; SEARCH_MAX];
        let mut met = Met::new();
        for (step, bucket) in steps.iter_mut().zip([pair.0, pair.1]) {
            step.bucket = bucket;
            met.is_new(bucket);
        }
        let mut len = 2;
        let mut at = 0;
        while at < len {
            let here = steps[at];
            for slot in 0..B::SLOTS {
                let Some(key) = self.cells.bucket(here.bucket).key(slot) else { continue };
                let bucket = self.cells.other(key, here.bucket);
                if let (_, Some((end, victim))) = self.free(bucket, ageing, now) {
                    return Some((self.shift(&steps, at, slot, end), victim));
                }
                if len < search_max && met.is_new(bucket) {
                    steps[len] = Step { bucket, parent: at as u16, slot: slot as u8 };
                    len += 1;
                }
            }
            at += 1;
        }
        None
    }

    /// Moves the entries of a chain, last first: the entry in `slot` of step `at` to `end`, the one that was to
    /// follow it into its place, and so on. Gives the slot at the beginning of the chain.
    fn shift(&mut self, steps: &[Step], at: usize, slot: usize, end: Place) -> Place {
        let mut to = end;
        let mut from = place(steps[at].bucket, slot);
        let mut at = at;
        loop {
            self.cells.duplicate(from, to);
            to = from;
            let step = steps[at];
            if step.parent == ROOT {
                return to;
            }
            at = usize::from(step.parent);
            from = Place { bucket: steps[at].bucket, slot: step.slot };
        }
    }

    /// Removes the expired entries of a bucket, and restamps those that count by idle times no longer in force. Every
    /// entry was in order at `seen`.
    pub(crate) fn sweep(
        &mut self,
        bucket: u32,
        ageing: &Ageing,
        seen: Tick,
        now: Tick,
        ended: &mut impl FnMut(BackendId, State),
    ) {
        for slot in 0..B::SLOTS {
            let line = self.cells.bucket(bucket);
            if line.key(slot).is_none() {
                continue;
            }
            let word = line.word(slot);
            let conversion = match ageing.idle_us_since(word, seen, now) {
                Some(idle_us) => ageing.convert(word, idle_us, now),
                None => Conversion::Expired,
            };
            match conversion {
                Conversion::Current => {}
                Conversion::To(new) => self.update(place(bucket, slot), word, new),
                Conversion::Expired => {
                    self.remove(place(bucket, slot), word);
                    ended(word.backend(), word.state());
                }
            }
        }
    }

    /// Restamps all entries that count by idle times no longer in force.
    #[expect(clippy::cast_possible_truncation, reason = "a table has less than 2^32 buckets of a kind")]
    pub(crate) fn restamp(&mut self, ageing: &Ageing, now: Tick) {
        for bucket in 0..self.cells.len() as u32 {
            for slot in 0..B::SLOTS {
                let line = self.cells.bucket(bucket);
                if line.key(slot).is_some() {
                    let word = line.word(slot);
                    let conversion = match ageing.idle_us(word, now) {
                        Some(idle_us) => ageing.convert(word, idle_us, now),
                        None => Conversion::Expired,
                    };
                    match conversion {
                        Conversion::Current => {}
                        Conversion::To(new) => self.update(place(bucket, slot), word, new),
                        Conversion::Expired => {
                            self.update(place(bucket, slot), word, ageing.expired(word, now));
                        }
                    }
                }
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        for line in self.cells.memory.iter() {
            for slot in (0..B::SLOTS).filter(|&slot| line.key(slot).is_some()) {
                line.empty(slot);
            }
        }
        self.used = 0;
        self.untrusted = 0;
    }

    /// The entry as a hit, unless it is expired.
    #[inline]
    pub(crate) fn hit(found: Option<(Place, Word)>, ageing: &Ageing, now: Tick) -> Option<Hit> {
        let (place, word) = found?;
        let idle_us = ageing.idle_us(word, now)?;
        Some(Hit { backend: word.backend(), state: word.state(), idle_us, place })
    }
}

/// Buckets that a search has met: a bit each in a small set, where now and then two share one. Then the second is left
/// out, which costs a chain that might have been, and nothing else.
struct Met([u64; MET_BITS / 64]);

const MET_BITS: usize = 8192;

impl Met {
    fn new() -> Met {
        Met([0; MET_BITS / 64])
    }

    /// Whether it is the first time.
    fn is_new(&mut self, bucket: u32) -> bool {
        let bit = (bucket.wrapping_mul(0x9e37_79b1) >> (32 - MET_BITS.ilog2())) as usize;
        let is_new = self.0[bit / 64] >> (bit % 64) & 1 == 0;
        self.0[bit / 64] |= 1 << (bit % 64);
        is_new
    }
}
