//! The fast path: a packet of the plain shape ([`wire::plain`]) whose flow is known and needs no write, or whose slot alone
//! decides, goes from parse to tunnel with eight bytes of description. Everything it does not carry to the end it leaves
//! untouched for the stages that know every case; what these would do with its packets, it does, only sooner.
//!
//! It exists because the general description of a packet, passed from stage to stage, costs several hundred
//! instructions a packet, and this a quarter of them.

use crate::classify::{Fate, Packet, classify, is_possible_source_v4, is_possible_source_v6, key_of};
use crate::emit::Label;
use crate::fresh::{LANES, hashes};
use crate::io::{Burst, Frame, PacketIo};
use crate::steering::place_in;
use crate::view::{HashOn, PortView, View};
use crate::{BURST, Counters, Worker};
use arrayvec::ArrayVec;
use flow::{Stamp, State};
use steer::Match;
use steer::hash::lanes::TupleV4;
use wire::encap::{Inner, encapsulate_untagged, entropy};
use wire::parse::{ETHERNET_LEN, TCP, TcpFlags, UDP};
use wire::plain::{Datagram, Plain, PlainV6};
use wire::{Addr, BackendId, PortId, ServiceId, Tick, Tuple};

/// What the later stages of the fast path know of a packet.
#[derive(Clone, Copy, Debug, Default)]
struct Lean {
    /// Bytes of the datagram.
    len: u16,
    service: ServiceId,
    /// Index of the service in the view.
    index: u16,
    course: Course,
    tos: u8,
}

/// How a packet comes to its backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Course {
    /// TCP without SYN, FIN or RST: by its flow's entry, which stays as it is.
    #[default]
    Tcp,
    /// UDP: likewise.
    Udp,
    /// TCP with one of them: the entry changes.
    Turning,
    /// Of these, a connection's first packet.
    Syn,
    /// Its slot alone decides: the backend is in `Batch::by_slot`.
    Slot,
}

/// A received burst after the first stage, by position.
#[derive(Debug)]
pub(crate) struct Batch {
    lean: [Lean; BURST],
    by_slot: [BackendId; BURST],
    /// The positions in `lean`, a bit each.
    plain: u32,
    /// Of these, the ones of IPv6.
    v6: u32,
    /// Of these, the ones whose slot is still to be found, because it alone may decide.
    undecided: u32,
    /// Of these, the ones whose slot did decide.
    by_slot_mask: u32,
    tuples: [TupleV4; BURST],
    /// Frames of other shapes, in order.
    pub(crate) others: ArrayVec<Packet, BURST>,
}

impl Batch {
    pub(crate) fn new() -> Batch {
        Batch {
            lean: [Lean::default(); BURST],
            by_slot: [BackendId(0); BURST],
            plain: 0,
            v6: 0,
            undecided: 0,
            by_slot_mask: 0,
            tuples: [TupleV4::default(); BURST],
            others: ArrayVec::new(),
        }
    }

    #[inline(always)]
    pub(crate) fn is_plain(&self, position: usize) -> bool {
        self.plain >> (position % BURST) & 1 == 1
    }

    #[inline(always)]
    fn at(&self, position: usize) -> Lean {
        self.lean[position % BURST]
    }

    /// The positions whose flows, where the burst look-up does not find them, are placed by `fresh`.
    pub(crate) fn may_be_fresh(&self) -> u32 {
        self.plain & !self.v6 & !self.by_slot_mask
    }

    pub(crate) fn is_syn(&self, position: usize) -> bool {
        self.at(position).course == Course::Syn
    }

    pub(crate) fn is_tcp(&self, position: usize) -> bool {
        self.at(position).course != Course::Udp
    }

    /// Index of its service in the view.
    pub(crate) fn service_index(&self, position: usize) -> usize {
        usize::from(self.at(position).index)
    }

    pub(crate) fn datagram_len(&self, position: usize) -> u16 {
        self.at(position).len
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

/// What the entries of flows that need no write look like in this turn, by course.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamps([Stamp; 5]);

/// Packets and bytes of consecutive packets of one service, added to its counters once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Run {
    service: ServiceId,
    packets: u64,
    bytes: u64,
}

impl Run {
    #[inline(always)]
    pub(crate) fn count(&mut self, counters: &Counters, service: ServiceId, bytes: u16) {
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
    /// First stage: describes the packets of the plain shape that have a service, notes their keys, and gives the
    /// positions of the others, at which the general stages have to look.
    #[inline(always)]
    pub(crate) fn classify_plain(&mut self, view: &View, gate: Gate, burst: &Burst<Io::Frame>) -> u32 {
        self.keys.clear();
        self.batch.others.clear();
        (self.batch.undecided, self.batch.by_slot_mask, self.batch.v6) = (0, 0, 0);
        let mut rows = Rows { view, gate, keys: self.keys.narrow_mut(burst.len()), batch: &mut self.batch };
        let count = burst.len().min(BURST);
        let mut left = 0;
        for position in 0..count {
            let frame = &burst[position];
            let noted = Datagram::read(frame.bytes()).and_then(|datagram| match datagram.protocol() {
                TCP => rows.note::<TCP>(frame, &datagram, position),
                UDP => rows.note::<UDP>(frame, &datagram, position),
                _ => None,
            });
            left |= u32::from(noted.is_none()) << position;
        }
        self.batch.plain = everything(count) & !left;
        left
    }

    /// The same for a packet of IPv6. False: the general stages have to look.
    #[inline(always)]
    pub(crate) fn classify_plain_v6(
        &mut self,
        view: &View,
        gate: Gate,
        position: usize,
        frame: &Io::Frame,
    ) -> bool {
        let (bytes, meta) = (frame.bytes(), frame.meta());
        let Some(plain) = PlainV6::read(bytes) else { return false };
        let Match::Service(index) = view.services.find_v6(plain.dst, plain.dport, plain.protocol) else {
            return false;
        };
        let Some(service) = view.service.get(usize::from(index)) else { return false };
        let is_refused = meta.truncated || meta.multi_segment || !gate.admits(bytes);
        // What remembers slots looks them up first, in the general stages.
        if is_refused
            || service.memory.is_some()
            || !is_possible_source_v6(plain.src)
            || plain.src == plain.dst
        {
            return false;
        }
        let tuple = Tuple {
            src: Addr::V6(plain.src),
            dst: Addr::V6(plain.dst),
            sport: plain.sport,
            dport: plain.dport,
            protocol: plain.protocol,
        };
        self.keys.set(position, Some(&key_of(service, &tuple)));
        let course = Course::of(plain.protocol, plain.flags);
        self.batch.lean[position % BURST] =
            Lean { len: plain.len, service: service.id, index, course, tos: plain.tos };
        self.batch.plain |= 1 << (position % BURST);
        self.batch.v6 |= 1 << (position % BURST);
        true
    }

    /// Decides by its slot each packet whose slot is enough, and takes back its key.
    pub(crate) fn steer_by_slots(&mut self, view: &View) {
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
            let hashes = hashes(&self.flows, &view.cluster_key, &tuples);
            for ((position, hash), tuple) in positions.into_iter().zip(hashes).zip(tuples).take(count) {
                self.steer_by_hash(view, position, hash, &tuple);
            }
        }
    }

    #[inline(always)]
    fn steer_by_hash(&mut self, view: &View, position: usize, hash: u64, tuple: &TupleV4) {
        let lean = &mut self.batch.lean[position % BURST];
        let Some(service) = view.service.get(usize::from(lean.index)) else { return };
        let slot = match service.hash {
            HashOn::Tuple => service.maglev.slot(hash),
            HashOn::Source => {
                service.maglev.slot(steer::hash::source(&view.cluster_key, Addr::V4(tuple.src)))
            }
        };
        if service.is_stateless(slot)
            && let Some(backend) = place_in(view, service, slot)
        {
            lean.course = Course::Slot;
            self.batch.by_slot[position % BURST] = backend;
            self.batch.by_slot_mask |= 1 << (position % BURST);
            self.keys.set(position, None);
        }
    }

    /// The general description of a packet of the plain shape that the fast path does not carry to the end.
    pub(crate) fn describe_plain(&mut self, view: &View, frame: &Io::Frame, position: usize) -> Packet {
        let mut packet = classify(view, frame.bytes(), frame.meta());
        if self.batch.at(position).course == Course::Slot {
            packet.fate = Fate::To(self.batch.by_slot[position % BURST]);
            if let Some(service) = packet.service.and_then(|index| view.service.get(usize::from(index))) {
                self.count_for(service, &packet);
            }
            self.tally.stateless += 1;
        }
        packet
    }

    /// The stamps of this turn.
    pub(crate) fn stamps(&self, now: Tick) -> Stamps {
        let stamp = |state| self.flows.stamp(state, now);
        Stamps([stamp(State::TcpEstablished), stamp(State::Udp), Stamp::NEVER, Stamp::NEVER, Stamp::NEVER])
    }

    /// All later stages for a packet of the plain shape. Gives the frame back untouched where the general stages have to look.
    #[inline(always)]
    pub(crate) fn forward_plain(
        &mut self,
        view: &View,
        frame: Io::Frame,
        position: usize,
        stamps: &Stamps,
        run: &mut Run,
    ) -> Option<Io::Frame> {
        let position = position % BURST;
        let lean = self.batch.at(position);
        let (id, by_slot) = match self.hits.current(position, stamps.0[lean.course as usize]) {
            Some(id) if !self.rewritten => (id, false),
            _ if lean.course == Course::Slot => (self.batch.by_slot[position], true),
            _ => return Some(frame),
        };
        let left = self.carry(view, frame, position, id);
        if left.is_none() {
            run.count(&self.counters, lean.service, lean.len);
            let tally = if by_slot { &mut self.tally.stateless } else { &mut self.tally.hits };
            *tally += 1;
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
        let Lean { len, service, .. } = self.batch.at(position);
        let Some(backend) = view.backends.get(id.index()).and_then(Option::as_ref) else {
            return Some(frame);
        };
        if backend.service != service || len > backend.room {
            return Some(frame);
        }
        let header = &backend.header;
        let entropy = if header.has_entropy() { entropy_of(frame.bytes()) } else { 0 };
        // Ethernet padding is no part of the datagram and must not travel inside the tunnel.
        let (end, grown) = (usize::from(len) + ETHERNET_LEN, header.len());
        let Ok(bytes) = frame.cut_and_grow(end, grown) else { return Some(frame) };
        encapsulate_untagged(bytes, header, Inner { len, tos: self.batch.at(position).tos }, entropy);
        self.send_sized(view, backend.port, frame, end + grown, Label::plain(service, id, len));
        None
    }
}

/// Where the first stage writes what it finds.
struct Rows<'t> {
    view: &'t View,
    gate: Gate,
    keys: &'t mut [u64; BURST],
    batch: &'t mut Batch,
}

impl Rows<'_> {
    /// Notes a packet of the plain shape for a service with narrow keys; `None`, and nothing noted, for any other.
    #[inline(always)]
    fn note<const PROTOCOL: u8>(
        &mut self,
        frame: &impl Frame,
        datagram: &Datagram<'_>,
        position: usize,
    ) -> Option<()> {
        let packet = datagram.plain::<PROTOCOL>()?;
        let index = self.view.services.exact_v4(packet.dst, packet.dport, PROTOCOL)?;
        let service = self.view.service.get(usize::from(index))?;
        let meta = frame.meta();
        let is_refused = meta.truncated || meta.multi_segment || service.wide;
        if is_refused
            || !self.gate.admits(frame.bytes())
            || !is_possible_source_v4(packet.src)
            || packet.src == packet.dst
        {
            return None;
        }
        let position = position % BURST;
        self.keys[position] = wire::key::narrow(packet.src, packet.sport, service.id);
        let course = Course::of(PROTOCOL, packet.flags);
        self.batch.lean[position] =
            Lean { len: packet.len, service: service.id, index, course, tos: packet.tos };
        if PROTOCOL == TCP && service.memory.is_some() {
            let ports = u32::from(packet.sport) << 16 | u32::from(packet.dport);
            self.batch.undecided |= 1 << position;
            self.batch.tuples[position] = TupleV4 { src: packet.src, dst: packet.dst, ports, protocol: TCP };
        }
        Some(())
    }
}

impl Course {
    /// By the lower flags of TCP, so that a packet costs one load.
    const OF_TCP: [Course; 32] = {
        const CHANGES: u8 = TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST;
        let mut courses = [Course::Tcp; 32];
        let mut flags = 0;
        while flags < 32 {
            if TcpFlags(flags).is_syn() {
                courses[flags as usize] = Course::Syn;
            } else if flags & CHANGES != 0 {
                courses[flags as usize] = Course::Turning;
            }
            flags += 1;
        }
        courses
    };

    #[inline(always)]
    const fn of(protocol: u8, flags: TcpFlags) -> Course {
        if protocol == UDP { Course::Udp } else { Course::OF_TCP[flags.0 as usize % 32] }
    }
}

/// The first so many positions, a bit each.
#[inline(always)]
const fn everything(count: usize) -> u32 {
    if count < BURST { (1 << count) - 1 } else { u32::MAX }
}

#[inline(never)]
fn entropy_of(bytes: &[u8]) -> u32 {
    let tuple = match (Plain::read(bytes), PlainV6::read(bytes)) {
        (Some(plain), _) => plain.parsed().tuple(bytes),
        (None, Some(plain)) => plain.parsed().tuple(bytes),
        (None, None) => return 0,
    };
    entropy(&tuple)
}
