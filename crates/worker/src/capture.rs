//! Copies of frames, as they were received and as they were sent, for `guideway capture`.
//!
//! Control gives a worker a [`Tap`] by command: what is wanted, and blank copies, which come home written. While a worker has one, frames
//! that may be wanted go through the same stages in bursts of one, and each leaves at once. How one ended is read off the counters: by the
//! conservation law of [`Totals`](crate::counters::Totals) exactly one of them has grown. Without a tap all this costs a branch a burst.
//!
//! Nothing is allocated here, and nobody waits: frames for which no blank copy is left are carried as ever, and counted as missed.

use crate::action::{Action, Hop, Reply, Route};
use crate::counters::Count;
use crate::describe::general::{Fate, Packet, classify};
use crate::io::Frame;
use crate::label::{Tag, service_id};
use crate::view::View;
use crate::{BURST, Counters, DropReason};
use arrayvec::ArrayVec;
use statesync::spsc::{Receiver, Sender, channel};
use std::sync::Arc;
use wire::{Addr, BackendId, CoreId, PortId, ServiceId, Tick};

/// Copies made of one received frame at most: as received, and a burst of its pieces.
const COPIES_MAX: usize = 1 + BURST;

/// Which frames are wanted: those that meet all of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CaptureFilter {
    /// Packets of this service.
    pub service: Option<ServiceId>,
    /// Frames dropped, or answered, for this reason.
    pub reason: Option<DropReason>,
    /// Packets from or to this address, by their outermost header.
    pub client: Option<Addr>,
}

impl CaptureFilter {
    /// Whether a received frame may be wanted, as far as it alone can tell. A fragment's service is not known.
    fn may_want(&self, view: &View, packet: &Packet, bytes: &[u8]) -> bool {
        let is_clients = |client: Addr| {
            let parsed = &packet.parsed;
            parsed.l3 > 0 && (parsed.src(bytes) == client || parsed.dst(bytes) == client)
        };
        self.client.is_none_or(is_clients)
            && self.service.is_none_or(|service| {
                packet.fate == Fate::Fragment || service_id(view, packet) == Some(service)
            })
    }

    fn wants(&self, end: &CaptureEnd) -> bool {
        self.service.is_none_or(|service| end.service == Some(service))
            && self.reason.is_none_or(|reason| end.reason == Some(reason))
    }
}

/// On which side of the balancer a frame was copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// As it was received.
    Received,
    /// As it was sent, where that is not the same.
    Sent,
}

/// What became of a received frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CaptureEnd {
    /// The name of its [`Action`].
    pub action: &'static str,
    /// Why it was dropped, or answered.
    pub reason: Option<DropReason>,
    /// The service it was for.
    pub service: Option<ServiceId>,
    /// The backend it went to.
    pub backend: Option<BackendId>,
}

const NO_END: CaptureEnd = CaptureEnd { action: "", reason: None, service: None, backend: None };

/// A frame's copy.
#[derive(Debug)]
pub struct CapturedFrame {
    /// As received, or as sent.
    pub side: Side,
    /// By which port.
    pub port: PortId,
    /// When its turn began.
    pub at: Tick,
    /// The frame's length, bytes.
    pub len: usize,
    /// What became of the received frame.
    pub end: CaptureEnd,
    /// Sent as it came.
    is_as_received: bool,
    room: Box<[u8]>,
}

impl CapturedFrame {
    fn blank(snap: usize) -> CapturedFrame {
        let room = vec![0; snap].into_boxed_slice();
        CapturedFrame {
            side: Side::Received,
            port: PortId(0),
            at: Tick(0),
            len: 0,
            end: NO_END,
            is_as_received: false,
            room,
        }
    }

    /// The frame's first bytes, from the Ethernet header on: as many as are wanted.
    pub fn bytes(&self) -> &[u8] {
        self.room.get(..self.len).unwrap_or(&self.room)
    }

    fn write(&mut self, side: Side, port: PortId, at: Tick, bytes: &[u8]) {
        (self.side, self.port, self.at, self.len) = (side, port, at, bytes.len());
        for (to, from) in self.room.iter_mut().zip(bytes) {
            *to = *from;
        }
    }
}

/// The worker's end of a capture.
#[derive(Debug)]
pub struct Tap {
    filter: CaptureFilter,
    blanks: Receiver<Box<CapturedFrame>>,
    written: Sender<Box<CapturedFrame>>,
    missed: Arc<Count>,
    /// Of the frame that is on its way through the stages: as received, then as sent.
    copies: ArrayVec<Box<CapturedFrame>, COPIES_MAX>,
    /// Blank ones that were not wanted in the end.
    spare: ArrayVec<Box<CapturedFrame>, COPIES_MAX>,
    /// What the counters said before it, and what is known of it.
    before: Ends,
    packet: Option<Packet>,
    service: Option<ServiceId>,
    backend: Option<BackendId>,
}

/// Control's end of a capture.
#[derive(Debug)]
pub struct Listener {
    blanks: Sender<Box<CapturedFrame>>,
    written: Receiver<Box<CapturedFrame>>,
    missed: Arc<Count>,
}

/// A capture by one worker, with room for so many copies of at most `snap` bytes each: memory for all of them is taken here.
pub fn tap(filter: CaptureFilter, copies: usize, snap: usize) -> (Box<Tap>, Listener) {
    let (mut to_worker, blanks) = channel(copies);
    let (written, to_control) = channel(copies);
    while to_worker.push(Box::new(CapturedFrame::blank(snap))).is_ok() {}
    let missed = Arc::new(Count::default());
    let tap = Tap {
        filter,
        blanks,
        written,
        missed: Arc::clone(&missed),
        copies: ArrayVec::new(),
        spare: ArrayVec::new(),
        before: Ends::NONE,
        packet: None,
        service: None,
        backend: None,
    };
    (Box::new(tap), Listener { blanks: to_worker, written: to_control, missed })
}

impl Listener {
    /// The next copy: a received frame's, before those of what was sent for it.
    pub fn take(&mut self) -> Option<Box<CapturedFrame>> {
        self.written.pop()
    }

    /// Gives a copy back, to be written again.
    pub fn give_back(&mut self, copy: Box<CapturedFrame>) {
        // There are no more copies than places; and a worker that has let go of its tap needs none.
        drop(self.blanks.push(copy));
    }

    /// Frames, wanted or not, that were not copied because no blank copy was left.
    pub fn missed(&self) -> u64 {
        self.missed.get()
    }
}

impl Tap {
    /// Whether one of these frames may be wanted, and a blank copy is left; without one they are missed, and no work is made of them.
    pub(crate) fn takes<F: Frame>(&mut self, view: &View, frames: &[F]) -> bool {
        if !self.may_want(view, frames) {
            return false;
        }
        let has_blank = !self.spare.is_empty() || self.blanks.waiting() > 0;
        if !has_blank {
            self.missed.add(frames.len() as u64);
        }
        has_blank
    }

    fn may_want<F: Frame>(&self, view: &View, frames: &[F]) -> bool {
        let is_for_all = self.filter.client.is_none() && self.filter.service.is_none();
        is_for_all
            || frames.iter().any(|frame| self.filter.may_want(view, &classified(view, frame), frame.bytes()))
    }

    /// A frame sets out through the stages.
    pub(crate) fn begin<F: Frame>(&mut self, view: &View, frame: &F, counters: &Counters, now: Tick) {
        let packet = classified(view, frame);
        self.backend = None;
        self.packet = self.filter.may_want(view, &packet, frame.bytes()).then_some(packet);
        if self.packet.is_none() {
            return;
        }
        self.service = service_id(view, &packet);
        self.before = Ends::of(counters);
        self.copy(Side::Received, frame.meta().port, now, frame.bytes());
    }

    /// Frames are offered to their port, all of them for whom `tag` says. Gives the number of copies there are without them.
    pub(crate) fn offer<F: Frame>(&mut self, port: PortId, frames: &[F], tag: Tag) -> usize {
        let before = self.copies.len();
        let Some(at) = self.copies.first().map(|received| received.at) else { return before };
        for frame in frames {
            self.copy(Side::Sent, port, at, frame.bytes());
        }
        self.backend = tag.backend().or(self.backend);
        self.service = tag.service().or(self.service);
        before
    }

    /// So many of those that were offered were sent; `before` is what [`offer`](Self::offer) gave.
    pub(crate) fn sent(&mut self, before: usize, count: usize) {
        self.keep(before + count);
    }

    /// The frame is where it ends, or held. `fate` is what the stages came to, as far as that is known.
    pub(crate) fn end(&mut self, counters: &Counters, fate: Fate) {
        let Some(packet) = self.packet.take() else { return };
        if let (None, Fate::Decided(Action::Encapsulate(id))) = (self.backend, fate) {
            self.backend = Some(id);
        }
        // What a held frame has taken the place of has an end of its own.
        let end = match fate {
            Fate::Decided(Action::Hold) => Some((Action::Hold.name(), None)),
            _ => self.before.end(&Ends::of(counters), &packet, self.backend),
        };
        let end = end.map(|(action, reason)| {
            let Tap { service, backend, .. } = *self;
            CaptureEnd { action, reason, service, backend }
        });
        match end.filter(|end| self.filter.wants(end)) {
            Some(end) => self.give(end),
            None => self.keep(0),
        }
    }

    /// Gives the copies to control, but for those of frames that were sent as they came.
    fn give(&mut self, end: CaptureEnd) {
        self.copies.reverse();
        while let Some(mut copy) = self.copies.pop() {
            if copy.is_as_received {
                self.put_by(copy);
                continue;
            }
            copy.end = end;
            let given = self.written.push(copy);
            debug_assert!(given.is_ok(), "it has a place for every copy");
        }
    }

    /// Copies a frame, if a blank copy is left.
    fn copy(&mut self, side: Side, port: PortId, at: Tick, bytes: &[u8]) {
        // No more are in hand than there are places, so that none has to be freed.
        let has_place = !self.copies.is_full();
        let blank = if has_place { self.spare.pop().or_else(|| self.blanks.pop()) } else { None };
        let Some(mut copy) = blank else {
            self.missed.add(1);
            if side == Side::Received {
                self.packet = None;
            }
            return;
        };
        copy.write(side, port, at, bytes);
        copy.is_as_received = match self.copies.first() {
            Some(received) => received.len == copy.len && received.bytes() == copy.bytes(),
            None => false,
        };
        let has_room = self.copies.try_push(copy).is_ok();
        debug_assert!(has_room, "there was a place");
    }

    fn put_by(&mut self, copy: Box<CapturedFrame>) {
        let put = self.spare.try_push(copy);
        debug_assert!(put.is_ok(), "one is taken from the queue only when none is here");
    }

    /// Keeps so many of the copies.
    fn keep(&mut self, count: usize) {
        while self.copies.len() > count
            && let Some(copy) = self.copies.pop()
        {
            self.put_by(copy);
        }
    }
}

fn classified<F: Frame>(view: &View, frame: &F) -> Packet {
    classify(view, frame.bytes(), frame.meta())
}

/// The right side of the conservation law, and what tells its terms apart further.
#[derive(Clone, Copy, Debug)]
struct Ends {
    drops: [u64; DropReason::COUNT],
    answers: u64,
    held: u64,
    relayed: u64,
    punted: u64,
    ring_out: u64,
}

impl Ends {
    const NONE: Ends =
        Ends { drops: [0; DropReason::COUNT], answers: 0, held: 0, relayed: 0, punted: 0, ring_out: 0 };

    fn of(counters: &Counters) -> Ends {
        let t = &counters.totals;
        let mut drops = [0; DropReason::COUNT];
        for (count, &reason) in drops.iter_mut().zip(DropReason::ALL) {
            *count = counters.drops(reason).get();
        }
        Ends {
            drops,
            answers: t.echo_sent.get() + t.reset_sent.get() + t.too_big_sent.get(),
            held: t.held.get(),
            relayed: t.relayed.get(),
            punted: t.punted.get(),
            ring_out: t.ring_out.get(),
        }
    }

    /// What became of a frame between these two; `None`: another worker has it now, whose capture shows it.
    fn end(
        &self,
        after: &Ends,
        packet: &Packet,
        backend: Option<BackendId>,
    ) -> Option<(&'static str, Option<DropReason>)> {
        let has_grown = |of: fn(&Ends) -> u64| of(after) > of(self);
        let grown = self.drops.iter().zip(&after.drops).zip(DropReason::ALL);
        let reason = grown.filter(|((before, after), _)| after > before).map(|(_, &reason)| reason).next();
        // The frame inside another machine's message is a frame of its own.
        let backend = backend.filter(|_| packet.fate != Fate::Peer);
        Some(match (backend, reason) {
            (Some(id), None) => (Action::Encapsulate(id).name(), None),
            // Echo replies are counted when their first piece goes out.
            (_, Some(reason)) if reason == DropReason::Answered || has_grown(|ends| ends.answers) => {
                (Action::Reply(Reply::Echo).name(), Some(reason))
            }
            (_, Some(reason)) => (Action::Drop(reason).name(), Some(reason)),
            (None, None) if has_grown(|ends| ends.punted) => (Action::Punt.name(), None),
            (None, None) if has_grown(|ends| ends.relayed) => (RELAY, None),
            (None, None) if has_grown(|ends| ends.held) => (Action::Hold.name(), None),
            (None, None) if has_grown(|ends| ends.ring_out) => return None,
            (None, None) => (PASS, None),
        })
    }
}

const PASS: &str = Action::Pass(PortId(0)).name();
const RELAY: &str = Action::Relay(Route { to: Hop::Core(CoreId(0)), question: None }).name();
