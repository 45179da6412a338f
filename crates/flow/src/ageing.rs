//! Idle times in eight bits an entry.
//!
//! Time of a state is counted in quanta: the largest power of two of microseconds that is at most 1/32 of its idle time
//! (so more than 1/64). An entry keeps the number of the quantum in which it was last used, modulo 256: its *epoch*. It
//! is expired, and from then on invisible, when so many quanta lie between that it must have been idle for its whole
//! idle time; that is never early, and late by less than two quanta, 1/16 of the idle time.
//!
//! **Epochs wrap**: an expired entry that stays in the table for 256 quanta looks young again. A slot must therefore
//! be swept at least once in 128 quanta of the shortest idle time: it expires after at most 65, is gone after at most 193,
//! and the last 8 before the wrap are read as "used just now", for readers whose clock is a little behind the
//! writer's. [`Table::advance`](crate::Table::advance) takes care of it, twice as often as necessary. Readers do not rely on
//! its being called in time: when the last call is long ago, they judge an epoch as of then and add what has passed since.
//!
//! **Idle times shrink as the table fills** ([`Fill`]), so that those who do not use their entries any more make room for those who
//! do: pf's adaptive timeouts (pf.conf(5), `adaptive.start`), but first for what is least likely to be missed.
//!
//! When the idle times change, entries cannot be restamped all at once without a pause. So there are two
//! sets of them: an entry says which one its epoch counts in, and moves to the set in force when it is next used or swept.

use crate::state::{NO_STATE, State, TimingSet, Word};
use crate::sync::{Ordering, fence};
use core::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::Arc;
use wire::Tick;

/// Idle times, microseconds. Values outside [`Idle::MIN_US`] to [`Idle::MAX_US`] are clamped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Idle {
    /// TCP flows of which more than one packet was seen and no RST, half-closed ones included (RFC 5382 REQ-5).
    pub tcp_established_us: u64,
    /// TCP flows after RST.
    pub tcp_closing_us: u64,
    /// TCP flows of which one packet was seen.
    pub syn_us: u64,
    /// UDP flows.
    pub udp_us: u64,
}

impl Idle {
    /// The shortest: 1 s.
    pub const MIN_US: u64 = 1_000_000;
    /// The longest: 24 h.
    pub const MAX_US: u64 = 24 * 3600 * 1_000_000;

    /// The idle time of a state.
    pub const fn of(&self, state: State) -> u64 {
        let us = match state {
            State::TcpNew => self.syn_us,
            State::TcpEstablished | State::TcpHandshake | State::TcpHalfClosed => self.tcp_established_us,
            State::TcpClosing => self.tcp_closing_us,
            State::UdpNew | State::Udp => self.udp_us,
        };
        if us < Self::MIN_US {
            Self::MIN_US
        } else if us > Self::MAX_US {
            Self::MAX_US
        } else {
            us
        }
    }
}

/// How full a table is, in 256ths: of its capacity, and of the untrusted share of that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Fill {
    pub(crate) used: u32,
    pub(crate) untrusted: u32,
}

impl Fill {
    /// The whole.
    pub(crate) const FULL: u32 = 256;

    pub(crate) fn max(self, other: Fill) -> Fill {
        Fill { used: self.used.max(other.used), untrusted: self.untrusted.max(other.untrusted) }
    }

    /// What is left of the idle time of a state, in quanta of which the whole has `limit`.
    ///
    /// Handshakes that went no further are given up while untrusted flows use up the second half of their share, and what a client has
    /// closed before the table is 60 % full. Others keep their time: that a flow stays where it is as long as it is not silent for
    /// longer is what the table is for.
    pub(crate) fn limit(self, state: State, limit: u8) -> u8 {
        let (fill, start, end) = match state {
            State::TcpHandshake => (self.untrusted, 128, 256),
            State::TcpHalfClosed => (self.used, 64, 154),
            _ => return limit,
        };
        let left = u32::from(limit) * u32::saturating_sub(end, fill.max(start)) / (end - start);
        u8::try_from(left).unwrap_or(limit).clamp(LIMIT_LEAST.min(limit), limit)
    }
}

/// Quanta that are left of an idle time at least: an entry used just now is not expired.
const LIMIT_LEAST: u8 = 2;

/// Quanta by which an entry may seem to be from the future.
pub(crate) const FUTURE: u8 = 8;

/// The oldest that an entry can seem; above, it is from the future.
const AGE_MAX: u8 = u8::MAX - FUTURE;

/// Quanta that may pass after a sweep in time before an epoch can wrap.
const CERTAIN: u64 = (AGE_MAX - 65 - 128) as u64;

/// Quanta within which [`Table::advance`](crate::Table::advance) goes round the table; half of what is allowed.
const ROUND_QUANTA: u32 = 64;

/// How one state counts time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Timing {
    /// The quantum is `1 << shift` microseconds.
    shift: u8,
    /// Quanta after which an entry is expired: at most 65.
    limit: u8,
}

impl Timing {
    #[expect(clippy::cast_possible_truncation, reason = "log2 of 64 bits; the limit is at most 65")]
    const fn new(idle_us: u64) -> Timing {
        let shift = (idle_us / 32).ilog2();
        Timing { shift: shift as u8, limit: idle_us.div_ceil(1 << shift) as u8 + 1 }
    }

    const fn quantum_us(self) -> u64 {
        1 << self.shift
    }

    #[expect(clippy::cast_possible_truncation, reason = "epochs are modulo 256")]
    #[inline]
    const fn epoch(self, now: Tick) -> u8 {
        (now.0 >> self.shift) as u8
    }

    /// Quanta since the entry was used.
    #[inline]
    const fn age(self, epoch: u8, now: Tick) -> u8 {
        let age = self.epoch(now).wrapping_sub(epoch);
        if age > AGE_MAX { 0 } else { age }
    }

    /// Microseconds for which an entry of this age has been idle at least.
    #[inline]
    const fn idle_us(self, age: u64, now: Tick) -> u64 {
        match age.checked_sub(1) {
            None => 0,
            Some(whole) => (whole << self.shift) + (now.0 & (self.quantum_us() - 1)) + 1,
        }
    }

    /// That of a state by its bits.
    const fn of_kind(idle: &Idle, kind: usize) -> Timing {
        let timing = Timing::new(idle.of(State::of_kind(kind)));
        if kind & 7 == NO_STATE as usize { Timing { limit: 0, ..timing } } else { timing }
    }

    const fn pack(self) -> u32 {
        (self.limit as u32) << 8 | self.shift as u32
    }

    const fn unpack(packed: u32) -> Timing {
        let [shift, limit, ..] = packed.to_le_bytes();
        Timing { shift: shift & 63, limit }
    }
}

/// By [`Word::kind`]. [`NO_STATE`] is always expired.
pub(crate) type Timings = [Timing; Word::KINDS];

/// What the epochs of live entries must be at one moment, for judging many of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Clock {
    /// The epoch of the moment, by [`Word::kind`]; more by [`FUTURE`], so that an age from the future is no negative one.
    pub(crate) epochs: [u8; Word::KINDS],
    /// Ages, more by as much, from which on an entry is expired, likewise. 0 for what is no entry.
    pub(crate) limits: [u8; Word::KINDS],
    pub(crate) now: Tick,
}

impl Clock {
    fn new(timings: &Timings, now: Tick) -> Clock {
        Clock {
            epochs: timings.map(|timing| timing.epoch(now).wrapping_add(FUTURE)),
            limits: timings.map(|timing| if timing.limit == 0 { 0 } else { timing.limit + FUTURE }),
            now,
        }
    }

    /// Whether the entry is not expired; the same as [`idle_us`] giving some.
    #[inline]
    pub(crate) fn is_live(&self, word: Word) -> bool {
        let kind = word.kind();
        self.epochs[kind].wrapping_sub(word.epoch()) < self.limits[kind]
    }
}

/// The idle times as the writer uses them, and a copy that readers can see.
#[derive(Debug)]
pub(crate) struct Ageing {
    /// As they are now that the table is as full as it is.
    timings: Timings,
    /// As they are in an empty one.
    whole: Timings,
    fill: Fill,
    current: TimingSet,
    clock: Clock,
    /// See [`Ageing::round_shift`].
    round_shift: u32,
    shared: Arc<Shared>,
}

/// The idle times as readers see them. These are `core`'s atomics also under loom: no decision about a key hangs on them.
#[derive(Debug)]
pub(crate) struct Shared {
    timings: [[AtomicU32; State::ALL.len()]; 2],
    /// A moment in the quantum (of the shortest idle time) of the writer's last [`tick`](Ageing::tick): no entry's epoch
    /// had wrapped then.
    swept: AtomicU64,
}

impl Ageing {
    pub(crate) fn new(idle: &Idle) -> Ageing {
        let timings = core::array::from_fn(|kind| Timing::of_kind(idle, kind));
        let share = || State::ALL.map(|state| AtomicU32::new(Timing::new(idle.of(state)).pack()));
        Ageing {
            timings,
            whole: timings,
            fill: Fill::default(),
            current: TimingSet::default(),
            clock: Clock::new(&timings, Tick(0)),
            round_shift: round_shift(&timings),
            shared: Arc::new(Shared { timings: [share(), share()], swept: AtomicU64::new(0) }),
        }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Whether these idle times are the ones in force.
    pub(crate) fn is(&self, idle: &Idle) -> bool {
        State::ALL.iter().all(|&state| Timing::new(idle.of(state)) == self.whole[kind(state, self.current)])
    }

    /// Puts new idle times in force; no entry of the other set may be left.
    pub(crate) fn change(&mut self, idle: &Idle) {
        let set = self.current.other();
        for low in 0..8 {
            self.whole[set.index() << 3 | low] = Timing::of_kind(idle, low);
        }
        self.shrink(set);
        self.current = set;
        self.round_shift = round_shift(&self.timings);
        // A reader that meets an entry of the new set sees its idle times, too: this ends with a release fence.
        self.set_clock(self.clock.now);
    }

    /// The idle times of a set, for the table as full as it is.
    fn shrink(&mut self, set: TimingSet) {
        for low in 0..8 {
            let of = set.index() << 3 | low;
            self.timings[of] = self.whole[of];
        }
        for state in State::ALL {
            let of = kind(state, set);
            self.timings[of].limit = self.fill.limit(state, self.whole[of].limit);
            self.shared.timings[set.index()][state as usize]
                .store(self.timings[of].pack(), Ordering::Relaxed);
        }
    }

    /// Keeps the clock of this moment at hand. Within a quantum of the shortest idle time only the moment is another; from one to the
    /// next the idle times follow the table's fill.
    #[inline]
    pub(crate) fn tick(&mut self, now: Tick, fill: impl FnOnce() -> Fill) {
        let quantum = |tick: Tick| tick.0 >> (self.round_shift - ROUND_QUANTA.ilog2());
        if quantum(now) == quantum(self.clock.now) {
            self.clock.now = now;
        } else {
            self.tick_on(now, fill());
        }
    }

    fn tick_on(&mut self, now: Tick, fill: Fill) {
        if fill != self.fill {
            self.fill = fill;
            self.shrink(self.current);
            self.shrink(self.current.other());
        }
        self.set_clock(now);
    }

    /// A new clock, and a new moment as of which readers judge epochs.
    fn set_clock(&mut self, now: Tick) {
        self.clock = Clock::new(&self.timings, now);
        self.shared.swept.store(now.0, Ordering::Relaxed);
        // A reader that meets an entry stamped from now on sees this moment, too: it has an acquire fence behind its reading of the
        // entry.
        fence(Ordering::Release);
    }

    /// The clock of the last [`tick`](Ageing::tick), if that was this moment.
    #[inline]
    pub(crate) fn clock_at_hand(&self, now: Tick) -> Option<&Clock> {
        (self.clock.now == now).then_some(&self.clock)
    }

    /// The clock of any moment.
    #[inline]
    pub(crate) fn clock(&self, now: Tick) -> Clock {
        self.clock_at_hand(now).copied().unwrap_or_else(|| Clock::new(&self.timings, now))
    }

    #[inline]
    pub(crate) const fn timings(&self) -> &Timings {
        &self.timings
    }

    #[inline]
    pub(crate) const fn current(&self) -> TimingSet {
        self.current
    }

    #[inline]
    fn timing(&self, word: Word) -> Timing {
        self.timings[word.kind()]
    }

    /// An entry's value, used now.
    #[inline]
    pub(crate) fn stamp(&self, backend: wire::BackendId, state: State, now: Tick) -> Word {
        let epoch = self.timings[kind(state, self.current)].epoch(now);
        Word::new(backend, state, self.current, epoch)
    }

    /// How long the entry has been idle at least, or `None` when it is expired.
    #[inline]
    pub(crate) fn idle_us(&self, word: Word, now: Tick) -> Option<u64> {
        idle_us(self.timing(word), word, now)
    }

    /// How long an entry has been idle at least that was last looked at, at the latest, at `seen`: however long ago
    /// that is, wrapped epochs do not deceive. `None` when it is expired.
    pub(crate) fn idle_us_since(&self, word: Word, seen: Tick, now: Tick) -> Option<u64> {
        idle_us_since(self.timing(word), word, seen, now)
    }

    /// The entry's value in the set in force, with its age kept; `None` when it is so already, or when its age is
    /// beyond the new idle time, so that it has to go.
    pub(crate) fn convert(&self, word: Word, idle_us: u64, now: Tick) -> Conversion {
        if word.timing() == self.current {
            return Conversion::Current;
        }
        match self.stamp_idle(word.backend(), word.state(), idle_us, now) {
            Some(new) => Conversion::To(new),
            None => Conversion::Expired,
        }
    }

    /// An entry's value, last used so long ago; `None` when that is beyond the idle time of its state.
    pub(crate) fn stamp_idle(
        &self,
        backend: wire::BackendId,
        state: State,
        idle_us: u64,
        now: Tick,
    ) -> Option<Word> {
        // Epochs are modulo 256, so that the clock may well have begun after that moment.
        let word = self.stamp(backend, state, Tick(now.0.wrapping_sub(idle_us)));
        let is_live = self.idle_us(word, now).is_some() && idle_us < self.timing(word).quantum_us() * 128;
        is_live.then_some(word)
    }

    /// The entry's value in the set in force, expired just now, however full the table is.
    pub(crate) fn expired(&self, word: Word, now: Tick) -> Word {
        let timing = self.whole[kind(word.state(), self.current)];
        let epoch = timing.epoch(now).wrapping_sub(timing.limit);
        Word::new(word.backend(), word.state(), self.current, epoch)
    }

    /// The sweep goes round the table within `1 << round_shift` microseconds.
    #[inline]
    pub(crate) const fn round_shift(&self) -> u32 {
        self.round_shift
    }
}

/// As [`Ageing::round_shift`].
fn round_shift(timings: &Timings) -> u32 {
    const { assert!(ROUND_QUANTA.is_power_of_two()) };
    ROUND_QUANTA.ilog2() + timings.iter().map(|timing| u32::from(timing.shift)).min().unwrap_or(0)
}

/// What becomes of an entry when idle times change.
pub(crate) enum Conversion {
    /// Nothing: it counts by them already.
    Current,
    /// This value.
    To(Word),
    /// It was idle for longer than it now may.
    Expired,
}

impl Shared {
    /// As [`Ageing::idle_us`], for readers, however long ago the writer's last [`tick`](Ageing::tick) is: it may not have had a turn.
    /// For a word that was read before an acquire fence.
    pub(crate) fn idle_us(&self, word: Word, now: Tick) -> Option<u64> {
        let timing = &self.timings[word.timing().index()][word.state() as usize];
        let timing = Timing::unpack(timing.load(Ordering::Relaxed));
        let swept = Tick(self.swept.load(Ordering::Relaxed));
        let passed = (now.0 >> timing.shift).saturating_sub(swept.0 >> timing.shift);
        if passed <= CERTAIN { idle_us(timing, word, now) } else { idle_us_since(timing, word, swept, now) }
    }
}

/// As [`Ageing::idle_us_since`].
fn idle_us_since(timing: Timing, word: Word, seen: Tick, now: Tick) -> Option<u64> {
    let then = u64::from(timing.age(word.epoch(), seen));
    let age = then + (now.0 >> timing.shift).saturating_sub(seen.0 >> timing.shift);
    (age < u64::from(timing.limit)).then(|| timing.idle_us(age, now))
}

/// As [`Word::kind`].
#[inline]
const fn kind(state: State, set: TimingSet) -> usize {
    set.index() << 3 | state as usize
}

/// How long an entry of this timing has been idle at least, or `None` when it is expired.
#[inline]
pub(crate) fn idle_us(timing: Timing, word: Word, now: Tick) -> Option<u64> {
    let age = timing.age(word.epoch(), now);
    (age < timing.limit).then(|| timing.idle_us(u64::from(age), now))
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests;
