//! Last stage: frames leave in bursts, one lane a port, and every frame's end is counted once, here.

use crate::describe::general::Packet;
use crate::io::{Burst, Frame, Outcome, PacketIo, RxMeta, Verdict};
use crate::view::{PORTS_MAX, PortRole, View};
use crate::{BURST, DropReason, Worker};
use arrayvec::ArrayVec;
use core::hint::cold_path;
use core::mem::take;
use wire::{BackendId, PortId, ServiceId};

/// What is counted once a frame has left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label {
    /// Whom it is for.
    tag: Tag,
    /// Made here: nobody waits to hear how it ended.
    originated: bool,
}

/// Whom a frame is for: eight bytes that are kept for every frame waiting.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Tag {
    /// [`NOBODY`] for none.
    backend: BackendId,
    /// 0 for none.
    service: ServiceId,
    /// Bytes from the inner IP header on.
    inner_bytes: u16,
}

/// No backend: above [`BackendId::MAX`].
const NOBODY: BackendId = BackendId(u32::MAX);

impl Label {
    /// A frame of our own.
    pub(crate) const ORIGINATED: Label = Label { originated: true, ..Label::KERNEL };
    /// A frame of the kernel on its way out, or one for it.
    pub(crate) const KERNEL: Label =
        Label { tag: Tag { backend: NOBODY, service: ServiceId(0), inner_bytes: 0 }, originated: false };

    /// A received frame of the fast path on its way to a backend.
    #[inline(always)]
    pub(crate) fn plain(service: ServiceId, backend: BackendId, inner_bytes: u16) -> Label {
        Label { tag: Tag { backend, service, inner_bytes }, originated: false }
    }

    /// A received frame on its way to a backend.
    pub(crate) fn received(view: &View, packet: &Packet, backend: Option<BackendId>) -> Label {
        let tag = Tag {
            backend: backend.unwrap_or(NOBODY),
            service: service_id(view, packet).unwrap_or_default(),
            inner_bytes: packet.parsed.end - packet.parsed.l3,
        };
        Label { tag, originated: packet.made_here }
    }
}

impl Tag {
    #[inline(always)]
    fn backend(self) -> Option<BackendId> {
        (self.backend != NOBODY).then_some(self.backend)
    }

    fn outcome(self, verdict: Verdict) -> Outcome {
        let service = (self.service != ServiceId(0)).then_some(self.service);
        Outcome { verdict, service, backend: self.backend() }
    }
}

fn service_id(view: &View, packet: &Packet) -> Option<ServiceId> {
    packet.service.and_then(|index| view.service.get(usize::from(index))).map(|service| service.id)
}

/// Whether a port is the kernel's side of another.
fn is_to_kernel(view: &View, port: PortId) -> bool {
    matches!(view.ports.get(port.index()).map(|p| p.role), Some(PortRole::Exception { .. }))
}

struct Lane<F> {
    frames: Burst<F>,
    /// Bytes of all of them.
    bytes: u64,
    /// Of the frames, by position.
    tags: [Tag; BURST],
    /// What is told of each, by position, where somebody listens; none for frames of our own.
    metas: [Option<RxMeta>; BURST],
}

/// Frames waiting for their port, at most a burst each.
pub(crate) struct Outbox<F> {
    lanes: Box<[Lane<F>]>,
}

impl<F> Outbox<F> {
    pub(crate) fn new() -> Outbox<F> {
        let lane = || Lane {
            frames: Burst::new(),
            bytes: 0,
            tags: [Label::KERNEL.tag; BURST],
            metas: [None; BURST],
        };
        Outbox { lanes: (0..PORTS_MAX).map(|_| lane()).collect() }
    }
}

impl<Io: PacketIo> Worker<Io> {
    /// Puts a frame into its port's lane; a full lane leaves at once.
    pub(crate) fn send(&mut self, view: &View, port: PortId, frame: Io::Frame, label: Label) {
        let Some(lane) = self.outbox.lanes.get_mut(port.index()) else {
            // Control builds views within PORTS_MAX; a frame for a port beyond it still needs an end.
            return self.end(frame, DropReason::TxFull, &label);
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
            return self.end(full.element(), DropReason::TxFull, &label);
        }
        lane.tags[position % BURST] = label.tag;
        if position + 1 == BURST {
            self.flush(view, port);
        }
    }

    /// Sends a burst that leaves as it came, all of it carried by the fast path; what waits for its port goes first.
    #[inline(always)]
    pub(crate) fn send_burst(&mut self, view: &View, port: PortId, burst: &mut Burst<Io::Frame>, bytes: u64) {
        self.flush(view, port);
        let metas: ArrayVec<RxMeta, BURST> = burst.iter().filter(|_| Io::OBSERVES).map(Frame::meta).collect();
        let offered = burst.len().min(BURST);
        let sent = self.transmit(view, port, burst, bytes);
        // Found once: for all the compiler knows, a counter might lie where the batch is.
        let (batch, backends) = (&*self.batch, self.counters.backends());
        for position in 0..sent.min(BURST) {
            let Tag { backend, inner_bytes, .. } = batch.label(position).tag;
            let Some(of) = backends.get(backend.index()) else {
                cold_path();
                continue;
            };
            of.packets.add(1);
            of.bytes.add(u64::from(inner_bytes));
        }
        if Io::OBSERVES {
            for (position, meta) in metas.into_iter().enumerate().take(offered) {
                let tag = self.batch.label(position).tag;
                self.observe(view, port, meta, tag, position < sent);
            }
        }
        self.io.recycle(burst);
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
        if self.outbox.lanes.get(port.index()).is_some_and(|lane| !lane.frames.is_empty()) {
            self.flush_lane(view, port);
        }
    }

    #[inline(never)]
    fn flush_lane(&mut self, view: &View, port: PortId) {
        let Some(lane) = self.outbox.lanes.get_mut(port.index()) else { return };
        let (mut frames, bytes) = (take(&mut lane.frames), take(&mut lane.bytes));
        let offered = frames.len();
        let sent = self.transmit(view, port, &mut frames, bytes);
        // The lane is empty now, but its tags and metas are those of the frames.
        for position in 0..offered {
            let Some(lane) = self.outbox.lanes.get(port.index()) else { break };
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

    /// Gives frames to their port and counts how they ended, but for whom they were. What the port refused stays in `frames`, to be
    /// recycled. Gives the number of those sent.
    fn transmit(&mut self, view: &View, port: PortId, frames: &mut Burst<Io::Frame>, bytes: u64) -> usize {
        // A record leaves before the frame that depends on it.
        if self.sync.as_ref().is_some_and(|sync| sync.has_notes()) {
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
        let verdict = match (is_to_kernel(view, port), was_sent) {
            (false, true) => Verdict::Sent,
            (true, true) => Verdict::Punted,
            (false, false) => Verdict::Dropped(DropReason::TxFull),
            (true, false) => Verdict::Dropped(DropReason::PuntFull),
        };
        self.io.observe(meta, tag.outcome(verdict));
    }

    /// Drops a received frame.
    pub(crate) fn drop_frame(&mut self, view: &View, frame: Io::Frame, packet: &Packet, reason: DropReason) {
        let backend = match packet.fate {
            crate::describe::general::Fate::To(id) => Some(id),
            _ => None,
        };
        if reason != DropReason::Answered && packet.parsed.l3 > 0 {
            self.sampler.note(&self.counters.sources, || Some(packet.parsed.src(frame.bytes())));
        }
        let label = Label::received(view, packet, backend);
        self.end(frame, reason, &label);
    }

    #[cold]
    #[inline(never)]
    fn end(&mut self, frame: Io::Frame, reason: DropReason, label: &Label) {
        self.counters.drops(reason).add(1);
        if !label.originated {
            self.io.observe(frame.meta(), label.tag.outcome(Verdict::Dropped(reason)));
        }
        self.give_back(frame);
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
}
