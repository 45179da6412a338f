//! Last stage: frames leave in bursts, one lane a port, and every frame's end is counted once, here.
//!
//! What the members of a cluster tell each other leaves here, too ([`datagrams`]), because it must leave before the frames that depend on it.

pub(crate) mod datagrams;

use crate::action::{Action, Reply};
use crate::burst::Burst;
use crate::capture::Tap;
use crate::describe::general::{Fate, Packet};
use crate::io::{Frame, Frames, Outcome, PacketIo, RxMeta, Verdict};
use crate::label::{Label, Tag, service_id};
use crate::sources::Sampler;
use crate::view::{PORTS_MAX, PortRole, View};
use crate::{BURST, Counters, DropReason};
use arrayvec::ArrayVec;
use core::hint::cold_path;
use core::mem::take;
use datagrams::NoteQueue;
use std::sync::Arc;
use wire::{PortId, Tick};

/// Whether a port is the kernel's side of another.
fn is_to_kernel(view: &View, port: PortId) -> bool {
    matches!(view.ports.get(port.index()).map(|p| p.role), Some(PortRole::Exception { .. }))
}

struct Lane<F> {
    frames: Frames<F>,
    /// Bytes of all of them.
    bytes: u64,
    /// Of the frames, by position.
    tags: [Tag; BURST],
    /// What is told of each, by position, where somebody listens; none for frames of our own.
    metas: [Option<RxMeta>; BURST],
}

/// See the module.
pub(crate) struct Egress<Io: PacketIo> {
    pub(crate) io: Io,
    /// Frames waiting for their port, at most a burst each.
    lanes: Box<[Lane<Io::Frame>]>,
    /// For buffers of frames of our own, while they are filled.
    pub(crate) spare: Frames<Io::Frame>,
    /// Frames to be freed together.
    garbage: Frames<Io::Frame>,
    /// Of those whose packets are dropped.
    sampler: Sampler,
    /// What is to be told to other machines; `None` outside of clusters.
    pub(crate) notes: Option<Box<NoteQueue>>,
    pub(crate) counters: Arc<Counters>,
    /// Who looks on, if anybody does.
    pub(crate) tap: Option<Box<Tap>>,
}

impl<Io: PacketIo> Egress<Io> {
    pub(crate) fn new(io: Io, counters: Arc<Counters>) -> Egress<Io> {
        let lane = || Lane {
            frames: Frames::new(),
            bytes: 0,
            tags: [Label::KERNEL.tag; BURST],
            metas: [None; BURST],
        };
        Egress {
            io,
            lanes: (0..PORTS_MAX).map(|_| lane()).collect(),
            spare: Frames::new(),
            garbage: Frames::new(),
            sampler: Sampler::default(),
            notes: None,
            counters,
            tap: None,
        }
    }

    /// Puts a frame into its port's lane; a full lane leaves at once.
    pub(crate) fn send(&mut self, view: &View, port: PortId, frame: Io::Frame, label: Label) {
        let Some(lane) = self.lanes.get_mut(port.index()) else {
            // Control builds views within PORTS_MAX; a frame for a port beyond it still needs an end.
            return self.end(frame, DropReason::TxFull, None, &label);
        };
        let position = lane.frames.len();
        if Io::OBSERVES
            && let Some(meta) = lane.metas.get_mut(position)
        {
            *meta = (!label.originated).then(|| frame.meta());
        }
        lane.bytes += frame.bytes().len() as u64;
        if let Err(full) = lane.frames.try_push(frame) {
            // Never so: a lane that is full leaves at once.
            return self.end(full.element(), DropReason::TxFull, None, &label);
        }
        lane.tags[position % BURST] = label.tag;
        if position + 1 == BURST {
            self.flush(view, port);
        }
    }

    /// Sends a burst that leaves as it came, all of it carried by the fast path; what waits for its port goes first. No frame that is
    /// captured goes this way.
    #[inline(always)]
    pub(crate) fn send_burst(
        &mut self,
        view: &View,
        port: PortId,
        frames: &mut Frames<Io::Frame>,
        bytes: u64,
        burst: &Burst,
    ) {
        self.flush(view, port);
        let metas: ArrayVec<RxMeta, BURST> =
            frames.iter().filter(|_| Io::OBSERVES).map(Frame::meta).collect();
        let offered = frames.len().min(BURST);
        let sent = self.transmit(view, port, frames, bytes);
        // Found once: for all the compiler knows, a counter might lie where the burst is.
        let backends = self.counters.backends();
        for position in 0..sent.min(BURST) {
            let Tag { backend, inner_bytes, .. } = burst.label(position).tag;
            let Some(of) = backends.get(backend.index()) else {
                cold_path();
                continue;
            };
            of.packets.add(1);
            of.bytes.add(u64::from(inner_bytes));
        }
        if Io::OBSERVES {
            for (position, meta) in metas.into_iter().enumerate().take(offered) {
                let tag = burst.label(position).tag;
                self.observe(view, port, meta, tag, position < sent);
            }
        }
        self.io.recycle(frames);
    }

    /// Sends what waits, on every port.
    #[inline(always)]
    pub(crate) fn flush_all(&mut self, view: &View) {
        for port in 0..view.ports.len() {
            self.flush(view, PortId(u16::try_from(port).unwrap_or(u16::MAX)));
        }
    }

    /// Sends what waits.
    #[inline(always)]
    fn flush(&mut self, view: &View, port: PortId) {
        if self.lanes.get(port.index()).is_some_and(|lane| !lane.frames.is_empty()) {
            self.flush_lane(view, port);
        }
    }

    #[inline(never)]
    fn flush_lane(&mut self, view: &View, port: PortId) {
        let Some(lane) = self.lanes.get_mut(port.index()) else { return };
        let (mut frames, bytes) = (take(&mut lane.frames), take(&mut lane.bytes));
        let (offered, tag) = (frames.len(), lane.tags[0]);
        let sent = if self.tap.is_some() {
            self.transmit_tapped(view, port, &mut frames, bytes, tag)
        } else {
            self.transmit(view, port, &mut frames, bytes)
        };
        // The lane is empty now, but its tags and metas are those of the frames.
        for position in 0..offered {
            let Some(lane) = self.lanes.get(port.index()) else { break };
            let (tag, meta) = (lane.tags[position % BURST], lane.metas[position % BURST]);
            if position < sent {
                self.count_sent(tag);
            }
            if Io::OBSERVES
                && let Some(meta) = meta
            {
                self.observe(view, port, meta, tag, position < sent);
            }
        }
        self.io.recycle(&mut frames);
    }

    /// A frame sets out that may be captured; what left before it has left.
    pub(crate) fn begin_capture(&mut self, view: &View, frame: &Io::Frame, now: Tick) {
        self.flush_all(view);
        if let Some(tap) = &mut self.tap {
            tap.begin(view, frame, &self.counters, now);
        }
    }

    /// It has gone through the stages, which came to `fate`: what is sent for it leaves at once.
    pub(crate) fn end_capture(&mut self, view: &View, fate: Fate) {
        self.flush_all(view);
        if let Some(tap) = &mut self.tap {
            tap.end(&self.counters, fate);
        }
    }

    /// Transmits as [`transmit`](Self::transmit) does, under the eyes of the tap; `tag` is of all of them.
    #[cold]
    #[inline(never)]
    fn transmit_tapped(
        &mut self,
        view: &View,
        port: PortId,
        frames: &mut Frames<Io::Frame>,
        bytes: u64,
        tag: Tag,
    ) -> usize {
        let before = self.tap.as_mut().map_or(0, |tap| tap.offer(port, frames, tag));
        let sent = self.transmit(view, port, frames, bytes);
        if let Some(tap) = &mut self.tap {
            tap.sent(before, sent);
        }
        sent
    }

    /// Gives frames to their port and counts how they ended, but for whom they were. What the port refused stays in `frames`, to be
    /// recycled. Gives the number of those sent.
    fn transmit(&mut self, view: &View, port: PortId, frames: &mut Frames<Io::Frame>, bytes: u64) -> usize {
        // A record leaves before the frame that depends on it.
        if self.notes.as_ref().is_some_and(|notes| notes.is_due()) {
            self.flush_notes(view);
        }
        let offered = frames.len();
        self.io.tx(port, frames);
        let refused = frames.len();
        let sent = offered - refused;
        let bytes_refused: usize = frames.iter().map(|frame| frame.bytes().len()).sum();
        let bytes_sent = bytes.saturating_sub(bytes_refused as u64);
        let totals = &self.counters.totals;
        if is_to_kernel(view, port) {
            totals.punted.add(sent as u64);
            self.counters.drops(DropReason::PuntFull).add(refused as u64);
        } else {
            totals.tx.add(sent as u64);
            totals.tx_bytes.add(bytes_sent);
            self.counters.drops(DropReason::TxFull).add(refused as u64);
        }
        if let Some(of) = self.counters.port(port) {
            of.tx.add(sent as u64);
            of.tx_bytes.add(bytes_sent);
            of.tx_full.add(refused as u64);
        }
        sent
    }

    #[inline(always)]
    fn count_sent(&self, tag: Tag) {
        if let Some(of) = tag.backend().and_then(|id| self.counters.backend(id)) {
            of.packets.add(1);
            of.bytes.add(u64::from(tag.inner_bytes));
        }
    }

    /// Tells how a received frame ended that was offered to its port.
    fn observe(&mut self, view: &View, port: PortId, meta: RxMeta, tag: Tag, was_sent: bool) {
        let (verdict, action) = match (is_to_kernel(view, port), was_sent) {
            (false, true) => (Verdict::Sent, tag.backend().map_or(Action::Pass(port), Action::Encapsulate)),
            (true, true) => (Verdict::Punted, Action::Punt),
            (false, false) => (Verdict::Dropped(DropReason::TxFull), Action::Drop(DropReason::TxFull)),
            (true, false) => (Verdict::Dropped(DropReason::PuntFull), Action::Drop(DropReason::PuntFull)),
        };
        self.io.observe(meta, tag.outcome(verdict, action));
    }

    /// Counts frames received from a port.
    #[inline(always)]
    pub(crate) fn count_received(&self, port: PortId, frames: usize, bytes: usize) {
        self.counters.totals.rx.add(frames as u64);
        self.counters.totals.rx_bytes.add(bytes as u64);
        if let Some(of) = self.counters.port(port) {
            of.rx.add(frames as u64);
            of.rx_bytes.add(bytes as u64);
        }
    }

    /// Drops a received frame.
    pub(crate) fn drop_frame(&mut self, view: &View, frame: Io::Frame, packet: &Packet, reason: DropReason) {
        self.end_frame(view, frame, packet, reason, None);
    }

    /// Drops and counts a frame that was answered.
    pub(crate) fn drop_answered(
        &mut self,
        view: &View,
        frame: Io::Frame,
        packet: &Packet,
        (reason, reply): (DropReason, Reply),
    ) {
        self.end_frame(view, frame, packet, reason, Some(reply));
    }

    #[inline(always)]
    fn end_frame(
        &mut self,
        view: &View,
        frame: Io::Frame,
        packet: &Packet,
        reason: DropReason,
        reply: Option<Reply>,
    ) {
        let backend = match packet.fate {
            Fate::Decided(Action::Encapsulate(id)) => Some(id),
            _ => None,
        };
        if reason != DropReason::Answered && packet.parsed.l3 > 0 {
            self.sampler.note(&self.counters.sources, || packet.parsed.src(frame.bytes()));
        }
        let label = Label::received(view, packet, backend);
        self.end(frame, reason, reply, &label);
    }

    #[cold]
    #[inline(never)]
    fn end(&mut self, frame: Io::Frame, reason: DropReason, reply: Option<Reply>, label: &Label) {
        self.counters.drops(reason).add(1);
        if Io::OBSERVES && !label.originated {
            let action = reply.map_or(Action::Drop(reason), Action::Reply);
            self.io.observe(frame.meta(), label.tag.outcome(Verdict::Dropped(reason), action));
        }
        self.give_back(frame);
    }

    /// A frame for the kernel that has no kernel to go to, as in a replay.
    pub(crate) fn punt_to_nowhere(&mut self, frame: Io::Frame) {
        self.counters.totals.punted.add(1);
        if Io::OBSERVES {
            let outcome =
                Outcome { verdict: Verdict::Punted, action: Action::Punt, service: None, backend: None };
            self.io.observe(frame.meta(), outcome);
        }
        self.give_back(frame);
    }

    /// A frame that was relayed to another machine, in datagrams of our own.
    pub(crate) fn end_relayed(&mut self, view: &View, frame: Io::Frame, packet: &Packet, action: Action) {
        let outcome =
            Outcome { verdict: Verdict::Relayed, action, service: service_id(view, packet), backend: None };
        self.io.observe(frame.meta(), outcome);
        self.give_back(frame);
    }

    /// Buffers for frames of our own, as far as there are so many. What is not used is to be [kept](Egress::keep_buffers).
    pub(crate) fn take_buffers(&mut self, count: usize) -> Frames<Io::Frame> {
        let mut buffers = take(&mut self.spare);
        self.io.alloc(count, &mut buffers);
        buffers
    }

    /// Takes back what is left of buffers, and the place in which they were.
    pub(crate) fn keep_buffers(&mut self, mut buffers: Frames<Io::Frame>) {
        self.io.recycle(&mut buffers);
        self.spare = buffers;
    }

    /// A buffer for a frame of our own.
    pub(crate) fn take_buffer(&mut self) -> Option<Io::Frame> {
        self.io.alloc(1, &mut self.spare);
        self.spare.pop()
    }

    /// Frees a frame together with others of this turn.
    pub(crate) fn give_back(&mut self, frame: Io::Frame) {
        if let Err(full) = self.garbage.try_push(frame) {
            // Never so: it was emptied when it became full. To drop a frame is the other way to give it back.
            drop(full);
        }
        if self.garbage.is_full() {
            self.io.recycle(&mut self.garbage);
        }
    }

    /// Frees what was given back in this turn.
    #[inline(always)]
    pub(crate) fn recycle(&mut self) {
        self.io.recycle(&mut self.garbage);
    }
}
