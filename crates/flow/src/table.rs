//! The table: narrow and wide flows under one roof, written by one worker.

use crate::ageing::{Ageing, Clock, Idle};
use crate::bits::bits;
use crate::bucket::{Line, NarrowBucket, WideBucket};
use crate::burst::{Entered, Hits, Keys, Miss, NewFlows};
use crate::cuckoo::{Cuckoo, Placed};
use crate::hash::Hasher;
use crate::insert::{Insert, InsertRefusal, Inserted};
use crate::lookup_pipeline::{Compared, LookupPipeline, Places};
use crate::memory::Memory;
use crate::reader::Reader;
use crate::search::Search;
use crate::simd::{self, Available, Isa};
use crate::stamp::Stamp;
use crate::state::{Hit, Place, State, Word};
use wire::key::WideKey;
use wire::{BackendId, FlowKey, Tick};

/// Why a table was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TableError {
    /// A key needs two buckets to choose from.
    #[error("{0} buckets are too few for a flow table; at least 2 of each kind are needed")]
    TooFewBuckets(usize),
    /// Positions are 32 bits.
    #[error("{0} buckets are too many for a flow table; at most 2^32 - 1 of each kind are possible")]
    TooManyBuckets(usize),
    /// Not a percentage.
    #[error("the share of untrusted flows is {0} %; give 0 to 100")]
    NotAPercentage(u8),
    /// The memory is another table's, or was not zeroed.
    #[error("the memory of a flow table is in use already")]
    InUse,
}

/// A flow table. Sizes are fixed; see the crate's rules.
///
/// Call [`advance`](Table::advance) once at the start of each turn, before the first look-up, and use one `now`
/// throughout the turn; time must not go backwards.
#[derive(Debug)]
pub struct Table {
    narrow: Cuckoo<NarrowBucket>,
    wide: Cuckoo<WideBucket>,
    ageing: Ageing,
    isa: Available,
    /// The moment up to which the sweep has kept pace.
    swept: Tick,
    /// The latest time an entry was stamped with.
    stamped: Tick,
    /// The bucket that is swept next, narrow ones first.
    cursor: usize,
    /// Product of buckets and microseconds that is not yet worth a bucket.
    credit: u64,
    /// Buckets that may hold entries of the former idle times.
    stale: usize,
}

impl Table {
    /// A table in this memory, which must be empty (zeroed) and is this table's for good: that is checked, by touching
    /// all of it. `seed` should be random: it keeps clients from choosing
    /// keys that collide. At most `untrusted_percent` of the [`capacity`](Table::capacity) of each kind is given to
    /// flows of which one packet was seen.
    ///
    /// # Errors
    /// See [`TableError`].
    pub fn new(
        narrow: Memory<NarrowBucket>,
        wide: Memory<WideBucket>,
        seed: u64,
        idle: Idle,
        untrusted_percent: u8,
    ) -> Result<Table, TableError> {
        for len in [narrow.len(), wide.len()] {
            if len < 2 {
                return Err(TableError::TooFewBuckets(len));
            }
            if u32::try_from(len).is_err() {
                return Err(TableError::TooManyBuckets(len));
            }
        }
        if untrusted_percent > 100 {
            return Err(TableError::NotAPercentage(untrusted_percent));
        }
        if !narrow.iter().all(Line::claim) || !wide.iter().all(Line::claim) {
            return Err(TableError::InUse);
        }
        let hasher = Hasher::new(seed);
        Ok(Table {
            narrow: Cuckoo::new(narrow, hasher.clone(), untrusted_percent),
            wide: Cuckoo::new(wide, hasher, untrusted_percent),
            ageing: Ageing::new(&idle),
            isa: Available::best(),
            swept: Tick(0),
            stamped: Tick(0),
            cursor: 0,
            credit: 0,
            stale: 0,
        })
    }

    /// The instruction set that burst look-ups use: the best there is, unless [`use_isa`](Table::use_isa) chose another.
    pub const fn isa(&self) -> Isa {
        self.isa.isa()
    }

    /// Makes burst look-ups use this instruction set. False, and nothing done, where the CPU does not have it.
    pub fn use_isa(&mut self, isa: Isa) -> bool {
        let available = Available::new(isa);
        self.isa = available.unwrap_or(self.isa);
        (self.narrow.isa, self.wide.isa) = (self.isa, self.isa);
        available.is_some()
    }

    /// For other threads.
    pub fn reader(&self) -> Reader {
        Reader::new(self.narrow.cells.clone(), self.wide.cells.clone(), self.ageing.shared())
    }

    /// Changes the idle times. An entry follows when it is next used or swept; until then the former ones hold for it.
    /// Cheap, unless called again before one round of the sweep: then that round is finished here.
    pub fn set_idle(&mut self, idle: Idle) {
        if self.ageing.is(&idle) {
            return;
        }
        if self.stale > 0 {
            self.restamp();
        }
        self.ageing.change(&idle);
        self.stale = self.buckets();
        self.credit = 0;
    }

    /// Brings every entry to the idle times in force. Expired ones stay expired, for the sweep to report.
    fn restamp(&mut self) {
        let now = self.swept.max(self.stamped);
        self.narrow.restamp(&self.ageing, now);
        self.wide.restamp(&self.ageing, now);
        self.stale = 0;
    }

    /// The instruction set that look-ups use: for loops over arrays that the compiler turns into vectors.
    #[inline]
    pub const fn vectors(&self) -> simd::Vectors {
        simd::Vectors::of(self.isa)
    }

    /// Looks up a burst, in stages, so that the cache misses of its keys overlap (see [`simd`]). Most keys,
    /// in the table or not, cost one line.
    #[inline]
    pub fn lookup(&self, keys: &Keys, now: Tick, hits: &mut Hits) {
        self.with_clock(now, hits, |clock, hits| {
            simd::lookup(self.isa, &self.narrow.cells, &self.wide.cells, keys, clock, hits);
        });
    }

    /// Starts to fetch the lines of keys that will be looked up soon: for a caller that has the keys of the next burst at hand while
    /// it inserts those of this one.
    #[inline]
    pub fn prefetch(&self, keys: &Keys) {
        simd::fetch_primaries(self.isa, &self.narrow.cells, &self.wide.cells, keys);
    }

    /// Begins the burst of [`LookupPipeline::next_keys`], and finishes the one begun two calls before, which it gives: an empty one at first.
    /// The answers are those of this moment: those read in a bucket that was changed since the last call are read again.
    ///
    /// While the lines of one burst are compared, those of others are on their way: half the time of
    /// [`lookup`](Table::lookup) in a table larger than the caches, within a fifth of one random line a key.
    #[inline]
    pub fn lookup_pipelined<'r>(&self, pipeline: &'r mut LookupPipeline, now: Tick) -> (&'r Keys, &'r Hits) {
        let made;
        let clock = match self.ageing.clock_at_hand(now) {
            Some(clock) => clock,
            None => {
                made = self.ageing.clock(now);
                &made
            }
        };
        let (narrow, wide) = (&self.narrow.cells, &self.wide.cells);
        let compared = Compared {
            table: narrow.lines().as_ptr().addr(),
            stores: (self.narrow.dirty.count(), self.wide.dirty.count()),
            clock: (clock.epochs, clock.limits),
        };
        let (places, before) = pipeline.advance(compared);
        let Places { last, middle, next } = places;
        simd::step(self.isa, narrow, wide, clock, Places { last: &mut *last, middle, next });
        let (keys, hits) = last;
        hits.now = now;
        hits.timings = *self.ageing.timings();
        if before.table != compared.table {
            simd::lookup(self.isa, narrow, wide, keys, clock, hits);
        } else if before != compared {
            let is_of_now = before.clock == compared.clock
                && (before.stores.1 == compared.stores.1 || keys.wide_mask == 0);
            match self.narrow.dirty.since(before.stores.0).filter(|_| is_of_now) {
                Some(buckets) => {
                    let stale = self.vectors().run(
                        #[inline(always)]
                        |lanes| hits.read_in(buckets, lanes),
                    );
                    if stale != 0 {
                        simd::compare_some(self.isa, narrow, keys, clock, hits, stale);
                    }
                }
                None => simd::compare_again(self.isa, narrow, wide, keys, clock, hits),
            }
        }
        (keys, hits)
    }

    #[inline(always)]
    fn with_clock(&self, now: Tick, hits: &mut Hits, look: impl FnOnce(&Clock, &mut Hits)) {
        hits.now = now;
        hits.timings = *self.ageing.timings();
        match self.ageing.clock_at_hand(now) {
            Some(clock) => look(clock, hits),
            None => look(&self.ageing.clock(now), hits),
        }
    }

    /// Fetches what inserting the narrow keys not found will touch beyond what the look-up fetched: call it once, before the
    /// insertions of a burst with new flows.
    pub fn prefetch_inserts(&self, keys: &Keys, hits: &Hits) {
        let missed = hits.asked & !hits.found & !keys.wide_mask;
        if missed != 0 && !self.narrow.quota_is_full() {
            let clock = self.ageing.clock(hits.now);
            simd::fetch_seconds(self.isa, &self.narrow.cells, &hits.hashes, missed, &clock);
        }
    }

    /// Inserts those of the new flows of a burst, all with narrow keys, one of whose buckets has room or an expired entry, where the
    /// untrusted share has room for all of them. The others, which include those that have an entry, are for
    /// [`insert_at`](Table::insert_at), the one after the other, and [`prefetch_moves`](Table::prefetch_moves) before.
    ///
    /// `hits` is of a look-up of these keys in this table, as for [`Miss`].
    #[inline]
    pub fn insert_plainly(&mut self, keys: &Keys, hits: &Hits, new: NewFlows<'_>, now: Tick) -> Entered {
        let word = self.ageing.stamp(BackendId(0), new.state, now);
        let positions = new.positions & hits.asked & !hits.wide_mask;
        debug_assert!(bits(positions).all(|position| {
            hits.miss(position) == Some(self.miss(&FlowKey::Narrow(keys.narrow(position))))
        }));
        if !self.narrow.quota_allows_all(word, positions.count_ones() as usize) {
            return Entered::NONE;
        }
        self.stamped = self.stamped.max(now);
        let clock = self.ageing.clock(now);
        let new = NewFlows { positions, ..new };
        let Cuckoo { cells, dirty, .. } = &mut self.narrow;
        let entered = simd::enter(self.isa, cells, keys, &hits.hashes, new, word, &clock, dirty);
        self.narrow.count_all(word, &entered);
        entered
    }

    /// Fetches what inserting these narrow keys will touch where both their buckets are full of live entries, one of which has to move:
    /// call it before the insertions of what [`insert_plainly`](Table::insert_plainly) left.
    pub fn prefetch_moves(&self, hits: &Hits, positions: u32) {
        if !self.narrow.quota_is_full() {
            let positions = positions & hits.asked & !hits.wide_mask;
            self.narrow.fetch_moves(&hits.hashes, positions, &self.ageing.clock(hits.now));
        }
    }

    /// The flow's entry, unless it is expired, swept or not.
    #[inline]
    pub fn get(&self, key: &FlowKey, now: Tick) -> Option<Hit> {
        self.get_at(key, self.miss(key), now)
    }

    /// As [`get`](Table::get), for a key whose hash a burst look-up has done: for a second look after that burst's own
    /// insertions.
    #[inline]
    pub fn get_at(&self, key: &FlowKey, miss: Miss, now: Tick) -> Option<Hit> {
        debug_assert_eq!(miss, self.miss(key), "of another key or table");
        let found = match *key {
            FlowKey::Narrow(key) => self.narrow.find(key, miss.0),
            FlowKey::Wide(key) => self.wide.find(key, miss.0),
        };
        Cuckoo::<NarrowBucket>::hit(found, &self.ageing, now)
    }

    #[inline]
    fn miss(&self, key: &FlowKey) -> Miss {
        Miss(match *key {
            FlowKey::Narrow(key) => self.narrow.cells.hash(key),
            FlowKey::Wide(key) => self.wide.cells.hash(key),
        })
    }

    /// Inserts a flow, or overwrites its entry. When both its buckets are full and no chain of moves frees a slot, a
    /// trusted flow takes the place of the untrusted one there that was idle longest; an untrusted one beyond the quota that of
    /// another, chosen at random. A trusted flow is never removed for another.
    pub fn insert(&mut self, key: &FlowKey, backend: BackendId, state: State, now: Tick) -> Inserted {
        self.insert_at(key, self.miss(key), backend, state, now)
    }

    /// As [`insert`](Table::insert), for a key whose hash a burst look-up has done and whose bucket it has fetched.
    ///
    /// A [`Miss`] of another key or table makes an entry that is not found again (debug builds panic instead).
    pub fn insert_at(
        &mut self,
        key: &FlowKey,
        miss: Miss,
        backend: BackendId,
        state: State,
        now: Tick,
    ) -> Inserted {
        debug_assert_eq!(miss, self.miss(key), "of another key or table");
        let word = self.ageing.stamp(backend, state, now);
        self.insert_word(key, miss, word, now)
    }

    /// As [`insert`](Table::insert), of a flow that was last used so long ago: what [`Hit::idle_us`] said of an entry makes one of the same
    /// age. `None`, and nothing done, when that is beyond the idle time of its state.
    pub fn insert_idle(
        &mut self,
        key: &FlowKey,
        backend: BackendId,
        state: State,
        idle_us: u64,
        now: Tick,
    ) -> Option<Inserted> {
        let word = self.ageing.stamp_idle(backend, state, idle_us, now)?;
        Some(self.insert_word(key, self.miss(key), word, now))
    }

    #[inline]
    fn insert_word(&mut self, key: &FlowKey, miss: Miss, word: Word, now: Tick) -> Inserted {
        self.stamped = self.stamped.max(now);
        match *key {
            FlowKey::Narrow(key) => insert(&mut self.narrow, key, miss.0, word, &self.ageing, now),
            FlowKey::Wide(key) => insert_wide(&mut self.wide, key, miss.0, word, &self.ageing, now),
        }
    }

    /// What an entry used now in this state holds beside its backend: see [`Hits::stamped`].
    pub fn stamp(&self, state: State, now: Tick) -> Stamp {
        Stamp::of(self.ageing.stamp(BackendId(0), state, now))
    }

    /// Whether [`touch`](Table::touch) with this state would write nothing. Touches no memory, and needs no key.
    #[inline]
    pub fn is_current(&self, hit: &Hit, state: State, now: Tick) -> bool {
        self.ageing.stamp(hit.backend, state, now) == hit.word
    }

    /// The flow was used: sets its state and the time. Touches memory only when something changes that the hit had
    /// not seen, so a busy flow costs one write a quantum. A promotion from untrusted to trusted gives its share of the quota back. False when there
    /// was something to write and the entry is gone.
    #[inline]
    pub fn touch(&mut self, key: &FlowKey, hit: &Hit, state: State, now: Tick) -> bool {
        self.set_backend(key, hit, hit.backend, state, now)
    }

    /// Notes a packet of an entry as [`touch`](Table::touch) does, and gives it another backend. A trusted flow may become untrusted this way (a new connection from the same
    /// port): it keeps its slot, also above the quota. False when there was something to write and the entry is gone.
    #[inline]
    pub fn set_backend(
        &mut self,
        key: &FlowKey,
        hit: &Hit,
        backend: BackendId,
        state: State,
        now: Tick,
    ) -> bool {
        let word = self.ageing.stamp(backend, state, now);
        if word == hit.word {
            return true;
        }
        self.stamped = self.stamped.max(now);
        match *key {
            FlowKey::Narrow(key) => update(&mut self.narrow, key, hit, word),
            FlowKey::Wide(key) => update(&mut self.wide, key, hit, word),
        }
    }

    /// Removes a flow's entry, expired or not, and gives it; its `idle_us` is as of the last
    /// [`advance`](Table::advance), and 0 for an expired one.
    pub fn remove(&mut self, key: &FlowKey) -> Option<Hit> {
        let now = self.swept.max(self.stamped);
        match *key {
            FlowKey::Narrow(key) => remove(&mut self.narrow, key, &self.ageing, now),
            FlowKey::Wide(key) => remove(&mut self.wide, key, &self.ageing, now),
        }
    }

    /// Lets time pass: sweeps as many buckets as are due since the last call, so that the table is gone round twice in
    /// the time that epochs allow ([`ageing`](crate::ageing)), and all of them after a long pause, before old
    /// entries can be taken for young ones. Call it first in every turn. `ended` is told of each entry removed.
    ///
    /// In steady state this is a comparison and a multiplication; a bucket is due every some ten microseconds (one
    /// million flows, shortest idle time 30 s: 8000 buckets a second).
    pub fn advance(&mut self, now: Tick, mut ended: impl FnMut(BackendId, State)) {
        let passed_us = now.since_us(self.swept);
        if passed_us == 0 {
            return;
        }
        let round_shift = self.ageing.round_shift();
        let due = (passed_us.checked_mul(self.buckets() as u64))
            .and_then(|product| product.checked_add(self.credit))
            .filter(|_| passed_us >> round_shift == 0);
        // Entries stamped later than `swept`, by a caller that lets time pass late, must not seem old.
        let seen = self.swept.max(self.stamped).min(now);
        self.swept = self.swept.max(now);
        let (narrow, wide) = (&self.narrow, &self.wide);
        self.ageing.tick(now, || narrow.fill().max(wide.fill()));
        match due {
            Some(credit) => {
                self.credit = credit & ((1 << round_shift) - 1);
                let count = usize::try_from(credit >> round_shift).unwrap_or(usize::MAX);
                self.sweep_some(count, now, now, &mut ended);
            }
            None => {
                self.credit = 0;
                self.sweep_some(self.buckets(), seen, now, &mut ended);
            }
        }
    }

    /// [`advance`](Table::advance), and then sweeps `buckets` more.
    pub fn sweep(&mut self, buckets: usize, now: Tick, mut ended: impl FnMut(BackendId, State)) {
        self.advance(now, &mut ended);
        self.sweep_some(buckets, now, now, &mut ended);
    }

    /// [`advance`](Table::advance), and then sweeps all buckets.
    pub fn sweep_all(&mut self, now: Tick, ended: impl FnMut(BackendId, State)) {
        self.sweep(self.buckets(), now, ended);
    }

    #[expect(clippy::cast_possible_truncation, reason = "a table has less than 2^32 buckets of a kind")]
    fn sweep_some(&mut self, count: usize, seen: Tick, now: Tick, ended: &mut impl FnMut(BackendId, State)) {
        if count == 0 {
            return;
        }
        let clock = self.ageing.clock(now);
        for _ in 0..count.min(self.buckets()) {
            match self.cursor.checked_sub(self.narrow.cells.len()) {
                None => self.narrow.sweep(self.cursor as u32, &self.ageing, seen, &clock, ended),
                Some(index) => self.wide.sweep(index as u32, &self.ageing, seen, &clock, ended),
            }
            self.cursor += 1;
            if self.cursor >= self.buckets() {
                self.cursor = 0;
            }
            self.stale = self.stale.saturating_sub(1);
        }
    }

    /// Forgets all flows.
    pub fn clear(&mut self) {
        self.narrow.clear();
        self.wide.clear();
        self.stale = 0;
    }

    /// Number of entries, expired ones that were not swept included.
    pub fn len(&self) -> usize {
        self.narrow.used + self.wide.used
    }

    /// Whether a new flow with such a key would be entered without taking the place of another that may still be in use.
    #[inline]
    pub fn has_room(&self, key: &FlowKey) -> bool {
        match key {
            FlowKey::Narrow(_) => !self.narrow.quota_is_full(),
            FlowKey::Wide(_) => !self.wide.quota_is_full(),
        }
    }

    /// Whose entry was taken by the last newcomer with such a key of which [`Inserted::displaced`] was said.
    pub fn displaced_by(&self, key: &FlowKey) -> Option<FlowKey> {
        match key {
            FlowKey::Narrow(_) => self.narrow.displaced.map(FlowKey::Narrow),
            FlowKey::Wide(_) => self.wide.displaced.map(FlowKey::Wide),
        }
    }

    /// The hash of a key: seeded, so that nobody outside can tell which keys share one.
    #[inline]
    pub fn hash_of(&self, key: &FlowKey) -> u64 {
        self.miss(key).hash()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of untrusted entries, expired ones that were not swept included.
    pub fn untrusted(&self) -> usize {
        self.narrow.untrusted + self.wide.untrusted
    }

    /// How many flows fit for sure, narrow and wide: load 0.8.
    pub fn capacity(&self) -> (usize, usize) {
        (self.narrow.flows, self.wide.flows)
    }

    /// Size, bytes.
    pub fn bytes(&self) -> usize {
        self.narrow.cells.bytes() + self.wide.cells.bytes()
    }

    /// Number of buckets: narrow ones, then wide ones.
    pub fn buckets(&self) -> usize {
        self.narrow.cells.len() + self.wide.cells.len()
    }
}

#[inline]
fn insert<B: Search>(
    cuckoo: &mut Cuckoo<B>,
    key: B::Key,
    hash: u64,
    word: Word,
    ageing: &Ageing,
    now: Tick,
) -> Inserted {
    if !B::is_key(key) {
        return Inserted::without_victim(Insert::Refused(InsertRefusal::TableFull));
    }
    match cuckoo.insert(key, hash, word, ageing, now) {
        Ok(Placed::Done(victim)) => Inserted {
            outcome: Insert::Done,
            evicted: victim.map(|victim| (victim.word.backend(), victim.word.state())),
            displaced: victim.is_some_and(|victim| victim.is_live),
        },
        Ok(Placed::Refused(refusal)) => Inserted::without_victim(Insert::Refused(refusal)),
        Err((at, old)) => overwrite(cuckoo, at, old, word, ageing, now),
    }
}

/// Apart from the other kind, whose way would be longer for it.
#[inline(never)]
fn insert_wide(
    cuckoo: &mut Cuckoo<WideBucket>,
    key: WideKey,
    hash: u64,
    word: Word,
    ageing: &Ageing,
    now: Tick,
) -> Inserted {
    insert(cuckoo, key, hash, word, ageing, now)
}

/// Inserts a flow that has an entry.
#[inline(never)]
fn overwrite<B: Search>(
    cuckoo: &mut Cuckoo<B>,
    at: Place,
    old: Word,
    word: Word,
    ageing: &Ageing,
    now: Tick,
) -> Inserted {
    if let Some(hit) = Cuckoo::<B>::hit(Some((at, old)), ageing, now) {
        cuckoo.update(at, old, word);
        return Inserted::without_victim(Insert::Replaced(hit));
    }
    let evicted = Some((old.backend(), old.state()));
    if !cuckoo.quota_allows(word, Some(old)) {
        cuckoo.remove(at, old);
        return Inserted { outcome: Insert::Refused(InsertRefusal::QuotaFull), evicted, displaced: false };
    }
    cuckoo.update(at, old, word);
    Inserted { outcome: Insert::Done, evicted, displaced: false }
}

/// False: the entry is gone.
#[inline]
fn update<B: Search>(cuckoo: &mut Cuckoo<B>, key: B::Key, hit: &Hit, word: Word) -> bool {
    let Some((at, old)) = cuckoo.locate(key, hit.bucket()) else { return false };
    cuckoo.update(at, old, word);
    true
}

fn remove<B: Search>(cuckoo: &mut Cuckoo<B>, key: B::Key, ageing: &Ageing, now: Tick) -> Option<Hit> {
    let (at, word) = cuckoo.find(key, cuckoo.cells.hash(key))?;
    cuckoo.remove(at, word);
    let idle_us = ageing.idle_us(word, now).unwrap_or(0);
    Some(Hit::new(at.bucket, word, idle_us))
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests;
