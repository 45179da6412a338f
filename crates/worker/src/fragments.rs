//! Fragments meet their first fragment here: a bounded store, one entry a datagram, at the worker that owns
//! (source, destination, identification, protocol).
//!
//! The first fragment carries the ports and is steered like any packet; its decision is kept for the others. So an ICMP error goes
//! where the flow goes that its first fragment quotes, and an echo request is answered piece by piece. Later
//! fragments that come before it are held, and follow it at once when it comes; those whose first fragment does not
//! come in time are dropped as `fragment_timeout`, and those that have to make room as `fragment_store_full`. A datagram of which everything has passed is forgotten, and a new first
//! fragment begins a new one, because identifications are soon used again (RFC 4963).

mod coverage;
mod held;

use crate::DropReason;
use crate::action::{Action, Reply};
use crate::describe::general::{Fate, Packet, classify, whole_for_vip};
use crate::io::Frame;
use crate::view::{Moment, View};
use coverage::Coverage;
pub use held::HELD_MAX;
use held::{Held, NONE};
use wire::parse::Parsed;
use wire::{Addr, CoreId, Tick, reply};

/// Sets of the store; a datagram's entry is in one set.
const SETS: usize = 2048;
/// Entries a set.
const WAYS: usize = 4;
/// Frames held at once for one datagram; 64 KiB in pieces of 576 bytes are 119.
pub const HELD_PER_DATAGRAM_MAX: u16 = 128;
const _: () = assert!(SETS * WAYS < NONE as usize);

/// What names a datagram. For IPv6 the protocol is 0: only the first fragment knows it (RFC 8200 section 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DatagramKey {
    src: Addr,
    dst: Addr,
    id: u32,
    protocol: u8,
}

/// What was decided for a datagram by its first fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Decision {
    service: Option<u16>,
    /// Decided.
    fate: Fate,
}

impl Decision {
    /// What of a first fragment's fate is its datagram's: not that somebody else was asked about it.
    pub(crate) const fn of(first: &Packet) -> Decision {
        let fate = match first.fate {
            Fate::Decided(Action::Encapsulate(_) | Action::Reply(_) | Action::Drop(_)) => first.fate,
            _ => Fate::drop(DropReason::NoService),
        };
        Decision { service: first.service, fate }
    }

    const fn bring(self, packet: &mut Packet) {
        packet.service = self.service;
        packet.fate = self.fate;
    }
}

#[derive(Clone, Copy)]
struct Datagram {
    key: DatagramKey,
    decision: Option<Decision>,
    /// What has passed since the decision.
    passed: Coverage,
    deadline: Tick,
    first: u16,
    last: u16,
    held: u16,
}

/// The store. All memory is taken at start: 8,192 datagrams, [`HELD_MAX`] frames.
pub(crate) struct Store<F> {
    datagrams: Box<[Option<Datagram>]>,
    held: Held<F>,
    /// No entry that holds frames ends before this.
    next_deadline: Tick,
    /// Where the search for ended entries goes on, and the earliest deadline it has passed.
    search: (usize, Tick),
}

impl<F> Store<F> {
    pub(crate) fn new() -> Store<F> {
        Store {
            datagrams: vec![None; SETS * WAYS].into(),
            held: Held::new(),
            next_deadline: Tick(u64::MAX),
            search: (0, Tick(u64::MAX)),
        }
    }

    fn datagram(&self, at: usize) -> Option<&Datagram> {
        self.datagrams.get(at)?.as_ref()
    }

    fn position(&self, place: &DatagramPlace, now: Tick) -> Option<usize> {
        set(place.hash).find(|&at| {
            self.datagram(at).is_some_and(|of| of.key == place.key && (of.held > 0 || of.deadline > now))
        })
    }

    /// The place's entry, made if need be in place of an ended one, or of the oldest that holds nothing.
    fn entry(&mut self, place: &DatagramPlace, now: Tick) -> Option<usize> {
        if let Some(at) = self.position(place, now) {
            return Some(at);
        }
        let at = set(place.hash)
            .filter(|&at| self.datagram(at).is_none_or(|of| of.held == 0))
            .min_by_key(|&at| self.datagram(at).map_or(Tick(0), |of| of.deadline))?;
        *self.datagrams.get_mut(at)? = Some(Datagram {
            key: place.key,
            decision: None,
            passed: Coverage::default(),
            deadline: place.deadline,
            first: NONE,
            last: NONE,
            held: 0,
        });
        Some(at)
    }

    fn decision(&self, place: &DatagramPlace, now: Tick) -> Option<Decision> {
        let of = self.datagram(self.position(place, now)?)?;
        of.decision.filter(|_| of.deadline > now)
    }

    /// Notes that a piece follows its datagram's decision; with the last one missing the datagram is forgotten.
    pub(crate) fn pass(&mut self, place: &DatagramPlace, piece: &Parsed, now: Tick) {
        let at = self.position(place, now);
        let Some(entry) = at.and_then(|at| self.datagrams.get_mut(at)) else { return };
        if let Some(of) = entry {
            of.passed.add(piece);
            if of.passed.is_complete() && of.held == 0 {
                *entry = None;
            }
        }
    }

    /// Keeps the first fragment's decision, also in place of that of a datagram before it; false when the store has no room.
    pub(crate) fn settle(&mut self, place: &DatagramPlace, decision: Decision, now: Tick) -> bool {
        let Some(at) = self.entry(place, now) else { return false };
        if let Some(Some(of)) = self.datagrams.get_mut(at) {
            of.decision = Some(decision);
            of.passed = Coverage::default();
            of.deadline = place.deadline;
        }
        true
    }

    /// Holds a later fragment of a source, if there is room for it or another frame can make room.
    fn hold(&mut self, place: &DatagramPlace, source: u64, frame: F, now: Tick) -> Arrived<F> {
        let Some(at) = self.entry(place, now) else {
            return Arrived::Refused(frame, DropReason::FragmentStoreFull);
        };
        if self.datagram(at).is_some_and(|of| of.held >= HELD_PER_DATAGRAM_MAX) {
            return Arrived::Refused(frame, DropReason::FragmentLimit);
        }
        let victim = if self.held.is_full() { self.held.victim() } else { None };
        // It may be of this very datagram.
        let evicted = victim.and_then(|at| self.take(at));
        let Some(Some(of)) = self.datagrams.get_mut(at) else {
            debug_assert!(evicted.is_none(), "the entry was there");
            return Arrived::Refused(frame, DropReason::FragmentStoreFull);
        };
        match self.held.put(frame, at, source, of.last) {
            Ok(place) => {
                self.next_deadline = self.next_deadline.min(of.deadline);
                of.held += 1;
                of.last = place;
                if of.first == NONE {
                    of.first = place;
                }
                evicted.map_or(Arrived::Held, Arrived::HeldFor)
            }
            Err(frame) => Arrived::Refused(frame, DropReason::FragmentStoreFull),
        }
    }

    /// Takes the oldest frame held at an entry.
    fn take(&mut self, at: usize) -> Option<F> {
        let of = self.datagrams.get_mut(at)?.as_mut()?;
        let (frame, next) = self.held.take(of.first)?;
        of.first = next;
        of.held -= 1;
        if next == NONE {
            of.last = NONE;
        }
        Some(frame)
    }

    /// Takes a frame that waited too long, if there is one. Asked until `None`, it goes over the store once.
    pub(crate) fn expired(&mut self, now: Tick) -> Option<F> {
        if self.next_deadline > now {
            return None;
        }
        while let Some(of) = self.datagrams.get(self.search.0) {
            match of.filter(|of| of.held > 0) {
                Some(of) if of.deadline <= now => return self.take(self.search.0),
                Some(of) => self.search.1 = self.search.1.min(of.deadline),
                None => {}
            }
            self.search.0 += 1;
        }
        self.next_deadline = core::mem::replace(&mut self.search, (0, Tick(u64::MAX))).1;
        None
    }

    /// When fragments must be looked for that have waited too long; may be earlier than any has. `None`: none waits.
    pub(crate) fn next_due(&self) -> Option<Tick> {
        (self.next_deadline != Tick(u64::MAX)).then_some(self.next_deadline)
    }

    /// Takes everything, at shut-down.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(F)) {
        for at in 0..self.datagrams.len() {
            while let Some(frame) = self.take(at) {
                each(frame);
            }
        }
        self.datagrams.fill(None);
    }
}

fn set(hash: u64) -> core::ops::Range<usize> {
    let set = (hash >> 48) as usize % SETS;
    set * WAYS..(set + 1) * WAYS
}

/// What becomes of a fragment at its datagram's owner.
pub(crate) enum Arrived<F> {
    /// The datagram's first fragment: it is steered, and its decision kept by [`Store::settle`].
    First(F, DatagramPlace),
    /// Its datagram is decided: it follows.
    Follows(F),
    /// It is kept until the first one comes.
    Held,
    /// It is kept until the first one comes, and another one had to make room for it.
    HeldFor(F),
    /// There is no room.
    Refused(F, DropReason),
}

/// Where a datagram is in the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DatagramPlace {
    key: DatagramKey,
    hash: u64,
    deadline: Tick,
}

/// The worker that owns a fragment's datagram, of so many.
pub(crate) fn owner(view: &View, bytes: &[u8], packet: &Packet, cores: u8) -> CoreId {
    steer::core_of(datagram(view, bytes, packet).1, cores)
}

impl<F: Frame> Store<F> {
    /// A fragment at its datagram's owner.
    pub(crate) fn meet(&mut self, at: Moment<'_>, frame: F, packet: &mut Packet) -> Arrived<F> {
        let Moment { view, now } = at;
        let (key, hash) = datagram(view, frame.bytes(), packet);
        let place = DatagramPlace { key, hash, deadline: Tick(now.0 + view.timeouts.fragment_us) };
        if packet.parsed.fragment.is_none_or(|fragment| fragment.offset == 0) {
            return Arrived::First(frame, place);
        }
        if let Some(decision) = self.decision(&place, now) {
            decision.bring(packet);
            self.pass(&place, &packet.parsed, now);
            return Arrived::Follows(frame);
        }
        let source = steer::hash::source(&view.cluster_key, who_sends(key.src));
        self.hold(&place, source, frame, now)
    }

    /// The next fragment that waited for this datagram's first one, with the decision.
    pub(crate) fn release(
        &mut self,
        at: Moment<'_>,
        place: &DatagramPlace,
        decision: Decision,
    ) -> Option<(F, Packet)> {
        let frame = self.take(self.position(place, at.now)?)?;
        let mut held = classify(at.view, frame.bytes(), frame.meta());
        if held.fate == Fate::Fragment {
            decision.bring(&mut held);
        }
        self.pass(place, &held.parsed, at.now);
        Some((frame, held))
    }
}

/// A first fragment, as if its datagram were whole.
pub(crate) fn as_whole(view: &View, bytes: &[u8], packet: &Packet) -> Packet {
    let tuple = packet.parsed.tuple(bytes);
    let found = view.services.find(tuple.dst, tuple.dport, tuple.protocol);
    whole_for_vip(view, bytes, packet.parsed, found)
}

/// An echo request in pieces is answered piece by piece, if it can be.
pub(crate) fn judge_echo(bytes: &[u8], first: &mut Packet) {
    let is_echo = first.fate == Fate::Decided(Action::Reply(Reply::Echo));
    if is_echo && !reply::is_echo_in_pieces(bytes, &first.parsed) {
        first.fate = Fate::drop(DropReason::IcmpUnhandled);
    }
}

/// Whose share of the store it is. An IPv6 host has at least 2^64 addresses to choose from (RFC 4291 section 2.5.1).
fn who_sends(source: Addr) -> Addr {
    match source {
        Addr::V4(_) => source,
        Addr::V6(address) => Addr::V6(address >> 64 << 64),
    }
}

fn datagram(view: &View, bytes: &[u8], packet: &Packet) -> (DatagramKey, u64) {
    let tuple = packet.parsed.tuple(bytes);
    let key = DatagramKey {
        src: tuple.src,
        dst: tuple.dst,
        id: packet.parsed.fragment.map_or(0, |fragment| fragment.id),
        protocol: if tuple.src.is_v6() { 0 } else { tuple.protocol },
    };
    (key, steer::hash::fragment(&view.cluster_key, key.src, key.dst, key.id, key.protocol))
}
