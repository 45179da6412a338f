//! Placement: two-choice cuckoo hashing with buckets, for one kind of key.
//!
//! A key lives in one of two buckets, its primary and its secondary, named by the two halves of its hash. It goes to the
//! primary while that has room, so that most look-ups touch one line, and else to the secondary; the primary then notes in
//! its filter that it did ([`bucket`](crate::bucket)). When both are full, a short chain of entries moves each to its
//! other bucket (found breadth first, so the chain is the shortest). Load 0.8 is always reached: the threshold is
//! above 0.98 for five slots a bucket and near 0.9 for two; of five, an eighth of the keys are then in their secondary. The first
//! refusal comes at load 0.97 (five slots; 0.98 in tables of less than a million), where each further search would take longer.

use crate::ageing::{Ageing, Clock, Conversion, Fill};
use crate::bits::bits;
use crate::bucket::Probe;
use crate::burst::{BURST, Entered};
use crate::cells::{Cells, Pair, place};
use crate::dirty::DirtyBuckets;
use crate::hash::{Hasher, primary, secondary, tag};
use crate::insert::InsertRefusal;
use crate::memory::Memory;
use crate::search::Search;
use crate::simd::{Available, prefetch};
use crate::state::{Hit, Place, State, Word};
use wire::{BackendId, Tick};

/// Buckets from which a search for a chain of moves may go on, each to the others of its entries. The first search is short: it
/// finds nearly all chains, and a long one begins with some kilobytes to clear. So no insertion looks at more than 1340 buckets.
const SEARCH_MAX: usize = 256;
const SEARCH_SHORT_MAX: usize = 12;
/// Buckets of the first search where a bucket has only two slots, and a search grows by one bucket a step instead of four.
const SEARCH_SHORT_NARROWLY_MAX: usize = 64;

/// What long searches may cost, in buckets: each insertion into two full buckets saves up so much, to no more than the second, so
/// that a flood of insertions into a full table does not cost a search each.
const SEARCH_SAVED: usize = 8;
const SEARCH_SAVED_MAX: usize = 1 << 16;

/// Within this time after the first packet of a UDP flow no other UDP flow takes its place: microseconds. Most that go on do so by then, a flood finds
/// other places or is refused one, and a flow that was placed by load does not lose its answer to the next newcomer.
const GRACE_US: u64 = 2_000_000;

/// Buckets that are looked at for an untrusted entry when both of a key have none: with a quota of half a table one in seven has
/// none, so that of a million newcomers one is refused.
const NEAR: u64 = 7;

/// How many buckets ahead of the sweep lines are fetched: in steady state one bucket is due in a turn, and its line is
/// there by then.
const SWEEP_AHEAD: usize = 16;

/// How an insertion ended.
pub(crate) enum Placed {
    /// Done; the entry that was removed for it, if any.
    Done(Option<Victim>),
    Refused(InsertRefusal),
}

/// An entry that was removed for another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Victim {
    pub(crate) word: Word,
    /// It was not expired.
    pub(crate) is_live: bool,
}

/// A slot for a new entry.
#[derive(Clone, Copy, Debug)]
struct Vacancy {
    at: Place,
    /// The entry that goes for it.
    victim: Option<Word>,
    /// It was at the other end of a chain of moves and is overwritten already; here is an entry that has moved.
    moved: bool,
}

/// A bucket on the search for a chain.
#[derive(Clone, Copy)]
struct SearchStep {
    bucket: u32,
    /// Whose entry would move here: a step, and its slot.
    parent: u16,
    slot: u8,
}

const ROOT: u16 = u16::MAX;

/// The writer's side of one kind of key. Whatever stores to a bucket notes it in `dirty`: answers of look-ups before are judged by it.
#[derive(Debug)]
pub(crate) struct Cuckoo<B: Search> {
    pub(crate) cells: Cells<B>,
    /// Slots in use, expired ones that were not swept included.
    pub(crate) used: usize,
    /// Of these, untrusted.
    pub(crate) untrusted: usize,
    untrusted_max: usize,
    /// Entries that fit for sure.
    pub(crate) flows: usize,
    /// Which buckets were stored to.
    pub(crate) dirty: DirtyBuckets,
    /// What its buckets are compared with.
    pub(crate) isa: Available,
    /// Buckets that long searches may look at before more are saved up.
    search_left: usize,
    /// Whose entry was taken last although it was not expired.
    pub(crate) displaced: Option<B::Key>,
}

impl Vacancy {
    const fn of((at, word): (Place, Word)) -> Vacancy {
        Vacancy { at, victim: Some(word), moved: false }
    }
}

impl<B: Search> Cuckoo<B> {
    pub(crate) fn new(memory: Memory<B>, hasher: Hasher, untrusted_percent: u8) -> Cuckoo<B> {
        let flows = memory.flows();
        let untrusted_max = flows * usize::from(untrusted_percent) / 100;
        Cuckoo {
            cells: Cells::new(memory, hasher),
            used: 0,
            untrusted: 0,
            untrusted_max,
            flows,
            dirty: DirtyBuckets::new(),
            isa: Available::best(),
            search_left: SEARCH_SAVED_MAX,
            displaced: None,
        }
    }

    /// Keys that the filters count as being in their secondary bucket; as many as there are, unless a bucket has more
    /// than can be counted.
    #[cfg(test)]
    pub(crate) fn overflowed(&self) -> usize {
        self.cells.lines().iter().map(B::overflow_count).sum()
    }

    #[inline]
    fn count_in(&mut self, word: Word) {
        self.used += 1;
        self.untrusted += usize::from(word.is_untrusted());
    }

    #[inline]
    fn count_out(&mut self, word: Word) {
        self.used -= 1;
        self.untrusted -= usize::from(word.is_untrusted());
    }

    /// Where the key is, if it still is in the bucket where it was.
    #[inline]
    pub(crate) fn locate(&self, key: B::Key, bucket: u32) -> Option<(Place, Word)> {
        if let Some(line) = self.cells.lines().get(bucket as usize).filter(|_| B::is_key(key)) {
            let slot = line.slot_of(key) as usize;
            if slot < B::SLOTS {
                return Some((place(bucket, slot), line.word(slot)));
            }
        }
        self.find(key, self.cells.hash(key))
    }

    /// The writer's look-up: goes on to the secondary bucket only if the primary's filter says so.
    #[inline]
    pub(crate) fn find(&self, key: B::Key, hash: u64) -> Option<(Place, Word)> {
        if !B::is_key(key) {
            return None;
        }
        let home = primary(hash, self.cells.len() as u64);
        let line = self.cells.bucket(home);
        let slot = line.slot_of(key) as usize;
        if slot < B::SLOTS {
            return Some((place(home, slot), line.word(slot)));
        }
        if line.may_overflow(tag(hash)) { self.find_elsewhere(key, hash, home) } else { None }
    }

    /// A key that is not in its primary bucket.
    #[inline(never)]
    fn find_elsewhere(&self, key: B::Key, hash: u64, home: u32) -> Option<(Place, Word)> {
        let bucket = secondary(hash, self.cells.len() as u64, home);
        let line = self.cells.bucket(bucket);
        let slot = line.slot_of(key) as usize;
        (slot < B::SLOTS).then(|| (place(bucket, slot), line.word(slot)))
    }

    /// Gives an entry another value; writes only if it is another.
    #[inline]
    pub(crate) fn update(&mut self, at: Place, old: Word, new: Word) {
        if old != new {
            self.dirty.note(at.bucket);
            self.cells.bucket(at.bucket).store_word(usize::from(at.slot), new);
            self.untrusted += usize::from(new.is_untrusted());
            self.untrusted -= usize::from(old.is_untrusted());
        }
    }

    pub(crate) fn remove(&mut self, at: Place, word: Word) {
        self.leaves(at);
        self.dirty.note(at.bucket);
        self.cells.bucket(at.bucket).empty(1 << at.slot);
        self.count_out(word);
    }

    /// The entry in this slot is about to go: its primary bucket forgets that it overflowed.
    #[inline]
    fn leaves(&mut self, at: Place) {
        if let Some(home) = self.cells.home_elsewhere(at) {
            self.dirty.note(home);
            self.cells.bucket(home).returned();
        }
    }

    /// How full it is.
    pub(crate) fn fill(&self) -> Fill {
        let of = |part: usize, whole: usize| {
            let fill = (part * Fill::FULL as usize).checked_div(whole);
            fill.and_then(|fill| u32::try_from(fill).ok()).unwrap_or(Fill::FULL)
        };
        Fill { used: of(self.used, self.flows), untrusted: of(self.untrusted, self.untrusted_max) }
    }

    /// Whether untrusted flows have used up their share.
    #[inline]
    pub(crate) const fn quota_is_full(&self) -> bool {
        self.untrusted >= self.untrusted_max
    }

    /// Whether the quota has room for this value, in place of the other one if there is one.
    #[inline]
    pub(crate) fn quota_allows(&self, word: Word, instead: Option<Word>) -> bool {
        let freed = instead.is_some_and(Word::is_untrusted);
        !word.is_untrusted() || self.untrusted - usize::from(freed) < self.untrusted_max
    }

    /// Puts a key into a slot.
    #[inline]
    fn put(&mut self, Vacancy { at, victim, moved }: Vacancy, key: B::Key, hash: u64, word: Word) {
        if let Some(victim) = victim {
            if !moved {
                self.leaves(at);
            }
            self.count_out(victim);
        }
        if moved {
            self.dirty.note_all();
        }
        self.dirty.note(at.bucket);
        self.cells.bucket(at.bucket).fill(usize::from(at.slot), key, word);
        let home = primary(hash, self.cells.len() as u64);
        if home != at.bucket {
            self.dirty.note(home);
            self.cells.bucket(home).overflowed(tag(hash));
        }
        self.count_in(word);
    }

    /// A slot of the bucket that is empty, or else whose entry is expired, with that entry.
    #[inline]
    fn free(&self, bucket: u32, clock: &Clock) -> Option<Vacancy> {
        let empty = self.cells.bucket(bucket).empty_slot() as usize;
        if empty < B::SLOTS {
            return Some(Vacancy { at: place(bucket, empty), victim: None, moved: false });
        }
        self.expired_of_full(bucket, clock)
    }

    /// An expired entry of a full bucket.
    #[inline]
    fn expired_of_full(&self, bucket: u32, clock: &Clock) -> Option<Vacancy> {
        let line = self.cells.bucket(bucket);
        let slot = line.expired(self.isa, clock).trailing_zeros() as usize;
        (slot < B::SLOTS).then(|| Vacancy::of((place(bucket, slot), line.word(slot))))
    }

    /// Inserts a key.
    ///
    /// When the quota is used up, an untrusted entry makes room for an untrusted one, most often of the primary bucket, so
    /// that a flood beyond the quota costs one line a packet.
    ///
    /// # Errors
    /// It has an entry, and nothing is changed: this is it.
    #[inline]
    pub(crate) fn insert(
        &mut self,
        key: B::Key,
        hash: u64,
        word: Word,
        ageing: &Ageing,
        now: Tick,
    ) -> Result<Placed, (Place, Word)> {
        let home = primary(hash, self.cells.len() as u64);
        let line = self.cells.bucket(home);
        let Probe { slot, empty } = line.probe(self.isa, key);
        if (slot as usize) < B::SLOTS {
            return Err((place(home, slot as usize), line.word(slot as usize)));
        }
        if line.may_overflow(tag(hash))
            && let Some(found) = self.find_elsewhere(key, hash, home)
        {
            return Err(found);
        }
        if (empty as usize) < B::SLOTS && self.quota_allows(word, None) {
            line.fill(empty as usize, key, word);
            self.dirty.note(home);
            self.count_in(word);
            return Ok(Placed::Done(None));
        }
        Ok(self.insert_in_place(key, hash, home, word, ageing, now))
    }

    /// Whether the quota has room for so many more of this value.
    #[inline]
    pub(crate) const fn quota_allows_all(&self, word: Word, count: usize) -> bool {
        !word.is_untrusted() || self.untrusted + count <= self.untrusted_max
    }

    /// These, of this value, were entered.
    #[inline]
    pub(crate) fn count_all(&mut self, word: Word, entered: &Entered) {
        let count = entered.done.count_ones() as usize;
        self.used += count;
        self.untrusted += if word.is_untrusted() { count } else { 0 };
        for victim in bits(entered.replaced).filter_map(|position| entered.victims.get(position)) {
            self.count_out(Word(*victim));
        }
    }

    /// Inserts a key whose primary bucket is full, or one beyond the quota.
    #[inline(never)]
    fn insert_in_place(
        &mut self,
        key: B::Key,
        hash: u64,
        home: u32,
        word: Word,
        ageing: &Ageing,
        now: Tick,
    ) -> Placed {
        let made;
        let clock = match ageing.clock_at_hand(now) {
            Some(clock) => clock,
            None => {
                made = ageing.clock(now);
                &made
            }
        };
        let mut from_elsewhere = None;
        let room = if self.quota_allows(word, None) {
            self.expired_of_full(home, clock)
                .or_else(|| self.free(secondary(hash, self.cells.len() as u64, home), clock))
                .or_else(|| self.room_for(self.cells.pair(hash), word, clock, ageing, now))
                .ok_or(InsertRefusal::TableFull)
        } else {
            self.expired_untrusted(home, clock)
                .or_else(|| self.untrusted_for(hash, home, word, ageing, now))
                .or_else(|| {
                    let (room, victim) = self.untrusted_elsewhere(hash, home, word, ageing, now)?;
                    from_elsewhere = Some(victim);
                    Some(room)
                })
                .ok_or(InsertRefusal::QuotaFull)
        };
        match room {
            Ok(room) => {
                let is_live = |word| Victim { word, is_live: clock.is_live(word) };
                let victim = room.victim.or(from_elsewhere).map(is_live);
                if room.victim.is_some() && victim.is_some_and(|victim| victim.is_live) {
                    self.displaced = self.cells.bucket(room.at.bucket).key(usize::from(room.at.slot));
                }
                self.put(room, key, hash, word);
                Placed::Done(victim)
            }
            Err(refusal) => Placed::Refused(refusal),
        }
    }

    /// The place of another untrusted entry, for one beyond the quota: so newcomers are tracked during a flood, too, for as long as the flood
    /// needs to get to their entry, and their flows are trusted by then.
    #[cold]
    fn untrusted_for(&self, hash: u64, home: u32, word: Word, ageing: &Ageing, now: Tick) -> Option<Vacancy> {
        let secondary = secondary(hash, self.cells.len() as u64, home);
        [home, secondary].into_iter().find_map(|bucket| self.victim(bucket, hash, word, ageing, now))
    }

    /// An empty slot of either bucket, for one beyond the quota, and the value of the untrusted entry that was removed for it in a
    /// bucket near by.
    #[cold]
    #[expect(clippy::cast_possible_truncation, reason = "a table has less than 2^32 buckets of a kind")]
    fn untrusted_elsewhere(
        &mut self,
        hash: u64,
        home: u32,
        word: Word,
        ageing: &Ageing,
        now: Tick,
    ) -> Option<(Vacancy, Word)> {
        let len = self.cells.len() as u64;
        let secondary = secondary(hash, len, home);
        let empty = |bucket| {
            let slot = self.cells.bucket(bucket).empty_slot() as usize;
            (slot < B::SLOTS).then(|| Vacancy { at: place(bucket, slot), victim: None, moved: false })
        };
        let room = empty(home).or_else(|| empty(secondary))?;
        let near = (1..=NEAR).map(|step| {
            let bucket = u64::from(secondary) + step;
            (if bucket < len { bucket } else { (bucket - len).min(len - 1) }) as u32
        });
        let victim = near
            .filter(|&bucket| bucket != room.at.bucket)
            .find_map(|bucket| self.victim(bucket, hash, word, ageing, now))?;
        let gone = victim.victim?;
        self.displaced = self.cells.bucket(victim.at.bucket).key(usize::from(victim.at.slot));
        self.remove(victim.at, gone);
        Some((room, gone))
    }

    /// An untrusted entry of the bucket, for one with this hash and value: one at random of those that showed least.
    fn victim(&self, bucket: u32, hash: u64, word: Word, ageing: &Ageing, now: Tick) -> Option<Vacancy> {
        let line = self.cells.bucket(bucket);
        // Bits that hardly decide a bucket.
        let turn = (hash & 0xffff) as usize % B::SLOTS;
        let slots = B::ALL & (line.occupied() >> turn | line.occupied() << (B::SLOTS - turn));
        let (mut second, mut third) = (None, None);
        for slot in bits(slots).map(|turned| (turned + turn) % B::SLOTS) {
            let found = (place(bucket, slot), line.word(slot));
            match found.1.state() {
                State::TcpNew => return Some(Vacancy::of(found)),
                State::UdpNew if ageing.idle_us(found.1, now).is_none_or(|idle_us| idle_us >= GRACE_US) => {
                    return Some(Vacancy::of(found));
                }
                State::TcpHandshake => second = second.or(Some(found)),
                State::UdpNew => third = third.or(Some(found)),
                State::TcpEstablished | State::TcpClosing | State::TcpHalfClosed | State::Udp => {}
            }
        }
        // What began a moment ago and shows no handshake makes room for what does only.
        let third = third.filter(|_| word.state() != State::UdpNew);
        second.or(third).map(Vacancy::of)
    }

    /// Starts to fetch the buckets to which a chain of moves would lead at its first step, for insertions that will need one.
    pub(crate) fn fetch_moves(&self, hashes: &[u64; BURST], positions: u32, clock: &Clock) {
        for (position, &hash) in hashes.iter().enumerate() {
            let pair = self.cells.pair(hash);
            if positions >> position & 1 == 1
                && self.free(pair.0, clock).is_none()
                && self.free(pair.1, clock).is_none()
            {
                self.fetch_others(pair.0);
            }
        }
    }

    /// The other buckets of a bucket's entries, which are fetched; of an empty slot this one.
    #[inline]
    fn fetch_others(&self, bucket: u32) -> [u32; 5] {
        core::array::from_fn(|slot| {
            let key = if slot < B::SLOTS { self.cells.bucket(bucket).key(slot) } else { None };
            let Some(key) = key else { return bucket };
            let Pair(first, second) = self.cells.pair(self.cells.hash(key));
            let other = if first == bucket { second } else { first };
            prefetch(self.cells.bucket(other));
            other
        })
    }

    /// A slot of two full buckets: by a chain of moves, or else that of an untrusted entry for a trusted one.
    #[cold]
    fn room_for(
        &mut self,
        pair: Pair,
        word: Word,
        clock: &Clock,
        ageing: &Ageing,
        now: Tick,
    ) -> Option<Vacancy> {
        let (near, _) = if B::SLOTS > 2 {
            self.make_room::<SEARCH_SHORT_MAX, 8>(pair, clock)
        } else {
            self.make_room::<SEARCH_SHORT_NARROWLY_MAX, 32>(pair, clock)
        };
        near.or_else(|| self.make_room_far(pair, clock))
            .or_else(|| if word.is_untrusted() { None } else { self.oldest_untrusted(pair, ageing, now) })
    }

    /// A long search, if there is enough left for one.
    fn make_room_far(&mut self, pair: Pair, clock: &Clock) -> Option<Vacancy> {
        self.search_left = (self.search_left + SEARCH_SAVED).min(SEARCH_SAVED_MAX);
        if self.search_left < SEARCH_MAX {
            return None;
        }
        let (room, looked_at) = self.make_room::<SEARCH_MAX, 128>(pair, clock);
        self.search_left -= looked_at;
        room
    }

    fn expired_untrusted(&self, bucket: u32, clock: &Clock) -> Option<Vacancy> {
        let line = self.cells.bucket(bucket);
        bits(line.expired(self.isa, clock) & line.occupied())
            .map(|slot| (place(bucket, slot), line.word(slot)))
            .find(|&(_, word)| word.is_untrusted())
            .map(Vacancy::of)
    }

    fn oldest_untrusted(&self, pair: Pair, ageing: &Ageing, now: Tick) -> Option<Vacancy> {
        self.entries(pair.0)
            .chain(self.entries(pair.1))
            .filter(|&(_, word)| word.is_untrusted())
            .max_by_key(|&(_, word)| ageing.idle_us(word, now).unwrap_or(u64::MAX))
            .map(Vacancy::of)
    }

    fn entries(&self, bucket: u32) -> impl Iterator<Item = (Place, Word)> + '_ {
        let line = self.cells.bucket(bucket);
        bits(line.occupied()).map(move |slot| (place(bucket, slot), line.word(slot)))
    }

    /// Frees a slot of either bucket by moving entries, each to its other bucket; looks at `MAX` buckets and the
    /// others of their entries. No bucket is on a chain twice, so no entry is moved twice. Gives the number of buckets, too.
    #[expect(clippy::cast_possible_truncation, reason = "fewer steps than 2^16, at most five slots")]
    fn make_room<const MAX: usize, const WORDS: usize>(
        &self,
        pair: Pair,
        clock: &Clock,
    ) -> (Option<Vacancy>, usize) {
        let mut steps = [SearchStep { bucket: 0, parent: ROOT, slot: 0 }; MAX];
        let mut met = Met([0; WORDS]);
        for (step, bucket) in steps.iter_mut().zip([pair.0, pair.1]) {
            step.bucket = bucket;
            met.is_new(bucket);
        }
        let mut len = 2;
        let mut at = 0;
        while let Some(&here) = steps.get(at).filter(|_| at < len) {
            // First fetch the lines, then look at them: their misses overlap.
            let others = self.fetch_others(here.bucket);
            for (slot, bucket) in others.into_iter().enumerate().filter(|&(_, other)| other != here.bucket) {
                if let Some(Vacancy { at: end, victim, .. }) = self.free(bucket, clock) {
                    if victim.is_some()
                        && let Some(home) = self.cells.home_elsewhere(end)
                    {
                        self.cells.bucket(home).returned();
                    }
                    let room = Vacancy { at: self.shift(&steps, at, slot, end), victim, moved: true };
                    return (Some(room), at + 1);
                }
                if let Some(step) = steps.get_mut(len)
                    && met.is_new(bucket)
                {
                    *step = SearchStep { bucket, parent: at as u16, slot: slot as u8 };
                    len += 1;
                }
            }
            at += 1;
        }
        (None, at)
    }

    /// Moves the entries of a chain, last first: the entry in `slot` of step `at` to `end`, the one that was to
    /// follow it into its place, and so on. Gives the slot at the beginning of the chain.
    fn shift(&self, steps: &[SearchStep], at: usize, slot: usize, end: Place) -> Place {
        let mut to = end;
        let mut from = (at, slot);
        // The root is no step.
        while let Some(step) = steps.get(from.0) {
            let place = place(step.bucket, from.1);
            self.cells.duplicate(place, to);
            to = place;
            from = (usize::from(step.parent), usize::from(step.slot));
        }
        to
    }

    /// Removes the expired entries of a bucket, and restamps those that count by idle times no longer in force. Every
    /// entry was in order at `seen`.
    pub(crate) fn sweep(
        &mut self,
        bucket: u32,
        ageing: &Ageing,
        seen: Tick,
        clock: &Clock,
        ended: &mut impl FnMut(BackendId, State),
    ) {
        if let Some(line) = self.cells.lines().get(bucket as usize + SWEEP_AHEAD) {
            prefetch(line);
        }
        let line = self.cells.bucket(bucket);
        let due = if seen == clock.now { line.due(self.isa, clock, ageing.current()) } else { B::ALL };
        let due = due & line.occupied();
        // Nothing to do for nearly all buckets.
        if due != 0 {
            self.sweep_slots(bucket, due, ageing, seen, clock, ended);
        }
    }

    #[inline(never)]
    fn sweep_slots(
        &mut self,
        bucket: u32,
        due: u32,
        ageing: &Ageing,
        seen: Tick,
        clock: &Clock,
        ended: &mut impl FnMut(BackendId, State),
    ) {
        let now = clock.now;
        let expired = if seen == now { self.cells.bucket(bucket).expired(self.isa, clock) } else { 0 };
        let mut gone = 0;
        for slot in bits(due) {
            let word = self.cells.bucket(bucket).word(slot);
            let conversion = if expired >> slot & 1 == 1 {
                Conversion::Expired
            } else {
                match ageing.idle_us_since(word, seen, now) {
                    Some(idle_us) => ageing.convert(word, idle_us, now),
                    None => Conversion::Expired,
                }
            };
            match conversion {
                Conversion::Current => {}
                Conversion::To(new) => self.update(place(bucket, slot), word, new),
                Conversion::Expired => {
                    self.leaves(place(bucket, slot));
                    self.count_out(word);
                    ended(word.backend(), word.state());
                    gone |= 1 << slot;
                }
            }
        }
        if gone != 0 {
            self.dirty.note(bucket);
            self.cells.bucket(bucket).empty(gone);
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
        for line in self.cells.lines().iter() {
            for slot in (0..B::SLOTS).filter(|&slot| line.key(slot).is_some()) {
                line.empty(1 << slot);
            }
            line.returned_all();
        }
        self.dirty.note_all();
        self.used = 0;
        self.untrusted = 0;
    }

    /// The entry as a hit, unless it is expired.
    #[inline]
    pub(crate) fn hit(found: Option<(Place, Word)>, ageing: &Ageing, now: Tick) -> Option<Hit> {
        let (place, word) = found?;
        let idle_us = ageing.idle_us(word, now)?;
        Some(Hit::new(place.bucket, word, idle_us))
    }
}

/// Buckets that a search has met: a bit each in a small set, where now and then two share one. Then the second is left
/// out, which costs a chain that might have been, and nothing else.
struct Met<const WORDS: usize>([u64; WORDS]);

impl<const WORDS: usize> Met<WORDS> {
    /// Whether it is the first time.
    fn is_new(&mut self, bucket: u32) -> bool {
        const { assert!(WORDS.is_power_of_two()) };
        let bit = (bucket.wrapping_mul(0x9e37_79b1) >> 16) as usize % (64 * WORDS);
        let is_new = self.0[bit / 64] >> (bit % 64) & 1 == 0;
        self.0[bit / 64] |= 1 << (bit % 64);
        is_new
    }
}
