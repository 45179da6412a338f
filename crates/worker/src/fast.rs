//! The fast path: a packet of the plain shape ([`wire::plain`]) whose flow is known and needs no write, or whose slot alone
//! decides, goes from parse to tunnel with eight bytes of description. Everything it does not carry to the end it leaves
//! untouched for the stages that know every case; what these would do with its packets, it does, only sooner.
//!
//! It exists because the general description of a packet, passed from stage to stage, costs several hundred
//! instructions a packet, and this a quarter of them.

use crate::classify::{Fate, Packet, is_possible_source_v4};
use crate::emit::Label;
use crate::io::{Frame, PacketIo, RxMeta};
use crate::steering::place_in;
use crate::view::{BackendState, BackendView, HashOn, PortView, View};
use crate::{BURST, Counters, Worker};
use arrayvec::ArrayVec;
use flow::{Stamp, State};
use steer::Match;
use steer::hash::lanes::{TupleV4, tuples_v4};
use wire::encap::{Inner, encapsulate_untagged, entropy};
use wire::parse::{TCP, TcpFlags};
use wire::plain::Plain;
use wire::{Addr, BackendId, PortId, ServiceId, Tick, Tuple};

/// What the later stages of the fast path know of a packet.
#[derive(Clone, Copy, Debug, Default)]
struct Lean {
    /// One past the last byte of the datagram.
    end: u16,
    service: ServiceId,
    tos: u8,
    /// None for UDP.
    flags: u8,
    tcp: bool,
    /// Its slot alone decides: the backend is in `Batch::by_slot`.
    by_slot: bool,
}

/// A received burst after the first stage, by position.
#[derive(Debug)]
pub(crate) struct Batch {
    lean: [Lean; BURST],
    by_slot: [BackendId; BURST],
    /// The positions in `lean`, a bit each.
    plain: u32,
    /// Of these, the ones whose slot is still to be found, because it alone may decide.
    undecided: u32,
    tuples: [TupleV4; BURST],
    /// Index in the view of the service of each of them.
    services: [u16; BURST],
    /// Frames of other shapes, in order.
    pub(crate) others: ArrayVec<Packet, BURST>,
}

impl Batch {
    pub(crate) fn new() -> Batch {
        Batch {
            lean: [Lean::default(); BURST],
            by_slot: [BackendId(0); BURST],
            plain: 0,
            undecided: 0,
            tuples: [TupleV4::default(); BURST],
            services: [0; BURST],
            others: ArrayVec::new(),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.plain = 0;
        self.undecided = 0;
        self.others.clear();
    }

    #[inline(always)]
    pub(crate) fn is_plain(&self, position: usize) -> bool {
        self.plain >> (position % BURST) & 1 == 1
    }

    #[inline(always)]
    fn at(&self, position: usize) -> Lean {
        self.lean[position % BURST]
    }
}

/// Which frames a port takes, by their Ethernet addresses: one comparison of the first eight bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gate {
    mask: u64,
    value: u64,
}

impl Gate {
    /// To the port's own station, or, where all stations are served, not to a group; and not from a group.
    pub(crate) fn of(view: &View, port: PortId) -> Gate {
        let first_eight =
            |[a, b, c, d, e, f]: [u8; 6], from: u8| u64::from_ne_bytes([a, b, c, d, e, f, from, 0]);
        match view.ports.get(port.index()).and_then(PortView::station) {
            Some(mac) => Gate { mask: first_eight([0xff; 6], 1), value: first_eight(mac, 0) },
            None => Gate { mask: first_eight([1, 0, 0, 0, 0, 0], 1), value: 0 },
        }
    }

    #[inline(always)]
    fn admits(self, bytes: &[u8]) -> bool {
        bytes.first_chunk().is_some_and(|first| u64::from_ne_bytes(*first) & self.mask == self.value)
    }
}

/// What the entries of flows that need no write look like in this turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamps {
    tcp: Stamp,
    udp: Stamp,
}

/// Packets and bytes of consecutive packets of one service, added to its counters once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Run {
    service: ServiceId,
    packets: u64,
    bytes: u64,
}

impl Run {
    #[inline(always)]
    fn count(&mut self, counters: &Counters, service: ServiceId, bytes: u16) {
        if self.service != service {
            self.end(counters);
            self.service = service;
        }
        self.packets += 1;
        self.bytes += u64::from(bytes);
    }

    #[cold]
    pub(crate) fn end(&mut self, counters: &Counters) {
        if self.packets > 0
            && let Some(of) = counters.service(self.service)
        {
            of.packets.add(self.packets);
            of.bytes.add(self.bytes);
        }
        *self = Run::default();
    }
}

impl<Io: PacketIo> Worker<Io> {
    /// First stage: describes the packet and notes its key, if it has the plain shape and a service. False: the general
    /// stages have to look.
    #[inline(always)]
    pub(crate) fn classify_plain(
        &mut self,
        view: &View,
        gate: Gate,
        position: usize,
        bytes: &[u8],
        meta: RxMeta,
    ) -> bool {
        let Some(plain) = Plain::read(bytes) else { return false };
        let Match::Service(index) = view.services.find_v4(plain.dst, plain.dport, plain.protocol) else {
            return false;
        };
        let Some(service) = view.service.get(usize::from(index)) else { return false };
        let is_refused = meta.truncated || meta.multi_segment || !gate.admits(bytes) || service.wide;
        if is_refused || !is_possible_source_v4(plain.src) || plain.src == plain.dst {
            return false;
        }
        let tcp = plain.protocol == TCP;
        self.keys.push_narrow(wire::key::narrow(plain.src, plain.sport, service.id));
        self.batch.lean[position % BURST] = Lean {
            end: plain.end,
            service: service.id,
            tos: plain.tos,
            flags: plain.flags.0,
            tcp,
            by_slot: false,
        };
        if service.memory.is_some() && tcp {
            let ports = u32::from(plain.sport) << 16 | u32::from(plain.dport);
            self.batch.undecided |= 1 << (position % BURST);
            self.batch.tuples[position % BURST] =
                TupleV4 { src: plain.src, dst: plain.dst, ports, protocol: plain.protocol };
            self.batch.services[position % BURST] = index;
        }
        self.batch.plain |= 1 << (position % BURST);
        true
    }

    /// Decides by its slot each packet whose slot is enough, and takes back its key.
    pub(crate) fn steer_by_slots(&mut self, view: &View) {
        const LANES: usize = 4;
        while self.batch.undecided != 0 {
            let mut positions = [0; LANES];
            let mut count = 0;
            for position in &mut positions {
                if self.batch.undecided != 0 {
                    *position = self.batch.undecided.trailing_zeros() as usize % BURST;
                    self.batch.undecided &= self.batch.undecided - 1;
                    count += 1;
                }
            }
            let tuples = positions.map(|position| self.batch.tuples[position]);
            let hashes = tuples_v4(&view.cluster_key, &tuples);
            for ((position, hash), tuple) in positions.into_iter().zip(hashes).zip(tuples).take(count) {
                self.steer_by_hash(view, position, hash, &tuple);
            }
        }
    }

    #[inline(always)]
    fn steer_by_hash(&mut self, view: &View, position: usize, hash: u64, tuple: &TupleV4) {
        let lean = &mut self.batch.lean[position % BURST];
        let index = self.batch.services[position % BURST];
        let Some(service) = view.service.get(usize::from(index)) else { return };
        let slot = match service.hash {
            HashOn::Tuple => service.maglev.slot(hash),
            HashOn::Source => {
                service.maglev.slot(steer::hash::source(&view.cluster_key, Addr::V4(tuple.src)))
            }
        };
        if service.is_stateless(slot)
            && let Some(backend) = place_in(view, service, slot)
        {
            lean.by_slot = true;
            self.batch.by_slot[position % BURST] = backend;
            self.keys.set(position, None);
        }
    }

    /// The general description of a packet of the plain shape that the fast path does not carry to the end.
    pub(crate) fn describe_plain(&mut self, view: &View, bytes: &[u8], position: usize) -> Option<Packet> {
        if !self.batch.is_plain(position) {
            return None;
        }
        let lean = self.batch.at(position);
        let plain = Plain::read(bytes)?;
        let Match::Service(index) = view.services.find_v4(plain.dst, plain.dport, plain.protocol) else {
            return None;
        };
        let fate = if lean.by_slot { Fate::To(self.batch.by_slot[position % BURST]) } else { Fate::Flow };
        let packet = Packet { fate, parsed: plain.parsed(), service: Some(index), made_here: false };
        if lean.by_slot
            && let Some(service) = view.service.get(usize::from(index))
        {
            self.count_for(service, &packet);
            self.tally.stateless += 1;
        }
        Some(packet)
    }

    /// The stamps of this turn.
    pub(crate) fn stamps(&self, now: Tick) -> Stamps {
        Stamps { tcp: self.flows.stamp(State::TcpEstablished, now), udp: self.flows.stamp(State::Udp, now) }
    }

    /// All later stages for a packet of the plain shape. Gives the frame back untouched where the general stages have to look.
    #[inline(always)]
    pub(crate) fn forward_plain(
        &mut self,
        view: &View,
        frame: Io::Frame,
        position: usize,
        stamps: Stamps,
        run: &mut Run,
    ) -> Option<Io::Frame> {
        let position = position % BURST;
        let lean = self.batch.at(position);
        let id = if lean.by_slot {
            Some(self.batch.by_slot[position])
        } else {
            self.current(lean, position, stamps)
        };
        let Some(id) = id else { return Some(frame) };
        let left = self.carry(view, frame, position, id);
        if left.is_none() {
            run.count(&self.counters, lean.service, lean.end - 14);
            if lean.by_slot {
                self.tally.stateless += 1;
            } else {
                self.tally.hits += 1;
            }
        }
        left
    }

    /// Encapsulates and sends a packet of the plain shape whose backend is known. Gives the frame back where that takes more.
    #[inline(always)]
    pub(crate) fn carry(
        &mut self,
        view: &View,
        mut frame: Io::Frame,
        position: usize,
        id: BackendId,
    ) -> Option<Io::Frame> {
        let lean = self.batch.at(position);
        let Some(backend) = view.backends.get(id.index()).and_then(Option::as_ref) else {
            return Some(frame);
        };
        let len = lean.end - 14;
        if !carries(backend, lean.service, len) {
            return Some(frame);
        }
        let header = &backend.header;
        let entropy = if header.has_entropy() { entropy_of(frame.bytes()) } else { 0 };
        // Ethernet padding is no part of the datagram and must not travel inside the tunnel.
        if frame.set_len(usize::from(lean.end)).is_err() {
            return Some(frame);
        }
        let Ok(bytes) = frame.grow_front(header.len()) else { return Some(frame) };
        encapsulate_untagged(bytes, header, Inner { len, tos: lean.tos }, entropy);
        self.send(view, backend.port, frame, Label::plain(lean.service, id, len));
        None
    }

    /// The backend of a flow that stays as it is.
    #[inline(always)]
    fn current(&self, lean: Lean, position: usize, stamps: Stamps) -> Option<BackendId> {
        const CHANGES: u8 = TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST;
        if lean.flags & CHANGES != 0 || self.rewritten {
            return None;
        }
        self.hits.current(position, if lean.tcp { stamps.tcp } else { stamps.udp })
    }
}

/// Whether a packet of a known flow goes to this backend as it is.
#[inline(always)]
fn carries(backend: &BackendView, service: ServiceId, len: u16) -> bool {
    backend.service == service
        && backend.state != BackendState::Down
        && backend.next_hop.is_some()
        && len <= backend.inner_mtu
}

#[inline(never)]
fn entropy_of(bytes: &[u8]) -> u32 {
    Plain::read(bytes).map_or(0, |plain| entropy(&tuple(&plain)))
}

fn tuple(plain: &Plain) -> Tuple {
    Tuple {
        src: Addr::V4(plain.src),
        dst: Addr::V4(plain.dst),
        sport: plain.sport,
        dport: plain.dport,
        protocol: plain.protocol,
    }
}
