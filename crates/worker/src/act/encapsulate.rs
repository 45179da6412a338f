//! Puts tunnel headers in front of packets: of a burst where they lie, as many as leave by one port with headers of one shape; of a plain
//! packet; of any packet.

use crate::BURST;
use crate::DropReason;
use crate::burst::{Burst, bits, those};
use crate::describe::columns::PacketSummary;
use crate::describe::general::Packet;
use crate::io::{Frame, Frames, PacketIo};
use crate::label::Label;
use crate::lookup::LookedUp;
use crate::send::Egress;
use crate::view::{BackendView, View};
use flow::{Keys, Lanes, Stamp};
use wire::encap::{ForShape, Inner, Prepend, encapsulate as prepend_outer, entropy};
use wire::parse::ETHERNET_LEN;
use wire::{BackendId, PortId, Tuple};

/// What the entries of flows that need no write look like in this turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamps {
    pub(crate) tcp: Stamp,
    pub(crate) udp: Stamp,
}

/// How far a burst came where it lay.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Carried {
    /// The positions whose frames are ready to be sent.
    pub(crate) done: u32,
    /// The positions whose entries stay as they are.
    pub(crate) current: u32,
    /// The port of all that are done.
    pub(crate) port: PortId,
    /// Bytes of their frames.
    pub(crate) bytes: usize,
    /// Bytes of their datagrams.
    pub(crate) datagrams: usize,
}

/// Encapsulates, where they lie, the packets whose backends are known, as many as leave by one port with headers of one shape.
#[inline(always)]
pub(crate) fn carry<F: Frame>(
    view: &View,
    frames: &mut Frames<F>,
    burst: &mut Burst,
    looked_up: LookedUp<'_>,
    stamps: Stamps,
    lanes: Lanes,
) -> Carried {
    let hits = looked_up.hits;
    let (udp, turning, syn) = burst.columns.events(lanes);
    let plain = burst.plain;
    let tcp = hits.stamped(lanes, stamps.tcp) & plain & !(udp | turning | syn);
    let mut current = tcp | if udp & plain == 0 { 0 } else { hits.stamped(lanes, stamps.udp) & plain & udp };
    if turning & plain != 0 {
        current &= !behind(looked_up.keys, turning & plain, current);
    }
    let decided = burst.decided();
    burst.join(decided, hits);
    // Behind a packet that may give an entry of its flow another backend (a SYN, or whatever the general stages classified,
    // of a flow that is known), what the burst look-up saw may be out of date.
    let may_rewrite = (syn | !plain) & hits.found();
    let before = (may_rewrite & may_rewrite.wrapping_neg()).wrapping_sub(1);
    let ready = (current | decided) & before;
    let way = bits(ready).find_map(|position| {
        let backend = backend_of(&view.backends, burst.backend(position), burst.summary(position))?;
        Some((backend.port, backend.header.shape()))
    });
    let Some((port, shape)) = way else { return Carried { current, ..Carried::default() } };
    let (left, datagrams) = shape.choose(CarryAs { burst, backends: &view.backends, frames, ready, port });
    let done = ready & !left;
    let each = ETHERNET_LEN + shape.len();
    Carried { done, current, port, bytes: datagrams + each * done.count_ones() as usize, datagrams }
}

/// Of `positions`, those behind one of the same flow that changes its state (FIN, RST): the entry will not be what the look-up saw.
#[cold]
#[inline(never)]
fn behind(keys: &Keys, turning: u32, positions: u32) -> u32 {
    bits(turning).fold(0, |behind, first| {
        let later = positions & !behind & !((2_u32 << (first % BURST)).wrapping_sub(1));
        behind | those(later, |position| keys.are_same(first, position))
    })
}

impl<Io: PacketIo> Egress<Io> {
    /// Encapsulates and sends a packet of the plain shape whose backend is known. Returns the frame where that takes more.
    #[inline]
    pub(crate) fn carry_one(
        &mut self,
        view: &View,
        mut frame: Io::Frame,
        burst: &Burst,
        (position, id): (usize, BackendId),
    ) -> Option<Io::Frame> {
        let summary = burst.summary(position);
        let Some(backend) = backend_of(&view.backends, id, summary) else { return Some(frame) };
        let shape = backend.header.shape();
        if shape.choose(CarryOne { backend, summary, frame: &mut frame }).is_none() {
            return Some(frame);
        }
        self.send(view, backend.port, frame, burst.label_to(position, id));
        None
    }

    /// Puts the tunnel's header in front of any packet that fits, and sends it.
    pub(crate) fn tunnel(&mut self, view: &View, mut frame: Io::Frame, packet: &Packet, to: &BackendView) {
        let (parsed, header) = (&packet.parsed, &to.header);
        let entropy = if header.has_entropy() { entropy(&outer_flow(packet, frame.bytes())) } else { 0 };
        // Ethernet padding is no part of the datagram and must not travel inside the tunnel.
        if frame.set_len(usize::from(parsed.end)).is_err() {
            return self.drop_frame(view, frame, packet, DropReason::NoHeadroom);
        }
        let Ok(bytes) = frame.grow_front(header.len()) else {
            return self.drop_frame(view, frame, packet, DropReason::NoHeadroom);
        };
        prepend_outer(bytes, header, parsed, entropy);
        self.send(view, to.port, frame, Label::received(view, packet, Some(to.id)));
    }
}

/// What the outer header's entropy is made of: the flow's tuple; without ports for fragments, so that all pieces of a
/// datagram take the same path.
fn outer_flow(packet: &Packet, bytes: &[u8]) -> Tuple {
    if packet.parsed.fragment.is_some() {
        Tuple { sport: 0, dport: 0, ..packet.parsed.tuple(bytes) }
    } else {
        packet.flow(bytes)
    }
}

/// The loop over the packets that are ready, for headers of one shape. Returns the positions of those that could not be carried, and the
/// bytes of the datagrams of all others.
struct CarryAs<'b, F> {
    burst: &'b Burst,
    backends: &'b [Option<BackendView>],
    frames: &'b mut Frames<F>,
    ready: u32,
    port: PortId,
}

impl<F: Frame> ForShape for CarryAs<'_, F> {
    type Output = (u32, usize);

    #[inline(always)]
    fn with<P: Prepend>(self) -> (u32, usize) {
        let (mut left, mut datagrams) = (0, 0);
        let burst = self.burst;
        for position in bits(self.ready) {
            let Some(frame) = self.frames.get_mut(position) else { break };
            let summary = burst.summary(position);
            let backend = backend_of(self.backends, burst.backend(position), summary)
                .filter(|backend| backend.port == self.port);
            match backend.and_then(|backend| encapsulate::<P, _>(backend, summary, frame)) {
                Some(()) => datagrams += usize::from(summary.len()),
                None => leave(&mut left, position),
            }
        }
        (left, datagrams)
    }
}

/// Notes a position whose packet could not be carried. A call, so that the mask takes no register of the loop.
#[cold]
#[inline(never)]
fn leave(left: &mut u32, position: usize) {
    *left |= 1 << (position % BURST);
}

/// The backend, if it can be reached and takes datagrams of this length, and is the service's.
#[inline(always)]
fn backend_of(
    backends: &[Option<BackendView>],
    id: BackendId,
    summary: PacketSummary,
) -> Option<&BackendView> {
    let backend = backends.get(id.index())?.as_ref()?;
    (backend.service.0 == summary.service() && summary.len() <= backend.room.get()).then_some(backend)
}

/// Puts the tunnel's header, of a known shape, in front of a packet of the plain shape. `None`: there is no room, and the frame is
/// as it was.
#[inline(always)]
fn encapsulate<P: Prepend, F: Frame>(
    backend: &BackendView,
    summary: PacketSummary,
    frame: &mut F,
) -> Option<()> {
    let header = backend.header.shaped::<P>()?;
    // Ethernet padding is no part of the datagram and must not travel inside the tunnel.
    let bytes = frame.cut_and_grow(usize::from(summary.len()) + ETHERNET_LEN, P::LEN).ok()?;
    P::prepend(bytes, header, Inner { len: summary.len(), tos: summary.tos() }, entropy_of);
    Some(())
}

/// Puts a backend's header in front of one packet, by the shape of its tunnel.
struct CarryOne<'f, F> {
    backend: &'f BackendView,
    summary: PacketSummary,
    frame: &'f mut F,
}

impl<F: Frame> ForShape for CarryOne<'_, F> {
    type Output = Option<()>;

    #[inline(always)]
    fn with<P: Prepend>(self) -> Option<()> {
        encapsulate::<P, F>(self.backend, self.summary, self.frame)
    }
}

/// Of the tuple alone: padding has been cut off by now, and what is left of a short datagram must leave like the long ones
/// of its flow (RFC 7348 section 5, RFC 6438).
#[inline(never)]
fn entropy_of(bytes: &[u8]) -> u32 {
    entropy(&wire::plain::tuple(bytes))
}
