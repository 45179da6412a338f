//! The fast path: packets of the plain shape ([`wire::plain`]) whose flows are known and need no write, are new, or whose slot alone
//! decides, go from parse to tunnel where they lie in the burst, with eight bytes of description each. Everything it does not carry
//! to the end it leaves untouched for the stages that know every case; what these would do with its packets, it does, only sooner.
//!
//! A burst that it carries whole is sent as it was received. Otherwise its frames take their places among the others in the
//! lane of their port.
//!
//! It exists because the general description of a packet, passed from stage to stage, costs several hundred
//! instructions a packet, and this a fifth of them.

use crate::decide::known::place_in;
use crate::describe::columns::{self, FlowEvent, HeaderColumns, MacFilter, ServiceKey, Summary};
use crate::describe::general::{Fate, Packet, classify, is_possible_source_v6, key_of};
use crate::io::{Burst, Frame, PacketIo};
use crate::lookup::LookedUp;
use crate::send::Label;
use crate::view::{BackendState, BackendView, HashOn, PortView, ServiceView, View};
use crate::{BURST, Worker};
use arrayvec::ArrayVec;
use core::hint::cold_path;
use flow::{Hits, Keys, Lanes, Stamp, State};
use steer::{Maglev, Match};
use wire::encap::{ForShape, Inner, Prepend, entropy};
use wire::parse::{ETHERNET_LEN, TCP, TcpFlags, UDP};
use wire::plain::PlainV6;
use wire::{Addr, BackendId, PortId, ServiceId, Tick, Tuple};

/// Services whose packets of a burst are found together, by comparing all packets with one; those of any further service are
/// looked up one by one.
const SERVICES_TOGETHER: usize = 4;

/// A received burst after the first stage, by position.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) columns: HeaderColumns,
    /// The positions of the plain shape that have a service, a bit each.
    plain: u32,
    /// Services with packets in this burst, and the positions of these, a bit each: at most [`SERVICES_TOGETHER`].
    groups: ArrayVec<(u32, ServiceId), SERVICES_TOGETHER>,
    /// Of the plain ones, the ones of IPv6.
    v6: u32,
    /// Of these, the ones of services that remember slots.
    remembered: u32,
    /// Of these, the ones whose slot is still to be found, because it alone may decide.
    undecided: u32,
    /// Of these, the ones whose slot does decide.
    by_slot: u32,
    /// SYNs of other services, whose slots are found already.
    pub(crate) slotted: u32,
    /// Slots of the packets that need one.
    pub(crate) slots: [u32; BURST],
    /// Backends of packets that were decided without an entry, by their slot or as new flows; when a burst is carried, of all others, too,
    /// as their entries have it.
    pub(crate) decided: [BackendId; BURST],
    /// Frames of other shapes, in order.
    pub(crate) others: ArrayVec<Packet, BURST>,
}

impl Default for Batch {
    fn default() -> Batch {
        Batch {
            columns: HeaderColumns::new(),
            plain: 0,
            groups: ArrayVec::new(),
            v6: 0,
            remembered: 0,
            undecided: 0,
            by_slot: 0,
            slotted: 0,
            slots: [0; BURST],
            decided: [BackendId(0); BURST],
            others: ArrayVec::new(),
        }
    }
}

impl Batch {
    #[inline(always)]
    pub(crate) fn is_plain(&self, position: usize) -> bool {
        self.plain >> (position % BURST) & 1 == 1
    }

    #[inline(always)]
    fn at(&self, position: usize) -> Summary {
        Summary(self.columns.summary[position % BURST])
    }

    /// Of these positions, those that have the first one's service, as far as they were found together.
    #[inline(always)]
    pub(crate) fn of_first(&self, positions: u32) -> u32 {
        let first = positions & positions.wrapping_neg();
        let group = self.groups.iter().find(|(of_it, _)| of_it & first != 0);
        group.map_or(first, |(of_it, _)| of_it & positions)
    }

    /// The positions whose flows, where the burst look-up does not find them, are placed by `fresh`.
    pub(crate) fn may_be_fresh(&self) -> u32 {
        self.plain & !self.v6 & !self.remembered
    }

    /// Index of its service in the view.
    #[inline(always)]
    pub(crate) fn service_index(&self, position: usize) -> usize {
        usize::from(self.at(position).index())
    }

    /// Notes the backends of entries beside those that were decided without.
    #[inline(always)]
    fn join(&mut self, decided: u32, hits: &Hits) {
        for (position, backend) in self.decided.iter_mut().enumerate() {
            let by_entry = (decided >> position & 1).wrapping_sub(1);
            backend.0 = hits.backend(position).0 & by_entry | backend.0 & !by_entry;
        }
    }

    /// Whom a packet goes to that was decided without an entry, or whose entry decides; once the burst is carried.
    #[inline(always)]
    pub(crate) fn backend(&self, position: usize) -> BackendId {
        self.decided[position % BURST]
    }

    /// What is counted of a packet that was carried.
    #[inline(always)]
    pub(crate) fn label(&self, position: usize) -> Label {
        self.label_to(position, self.backend(position))
    }

    /// What is counted of a packet that goes to this backend.
    #[inline(always)]
    pub(crate) fn label_to(&self, position: usize, backend: BackendId) -> Label {
        let summary = self.at(position);
        Label::plain(ServiceId(summary.service()), backend, summary.len())
    }
}

/// The positions whose bits are set.
#[inline(always)]
pub(crate) fn bits(mut mask: u32) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let position = (mask != 0).then(|| mask.trailing_zeros() as usize)?;
        mask &= mask - 1;
        Some(position)
    })
}

/// The first so many positions, a bit each.
#[inline(always)]
pub(crate) const fn everything(count: usize) -> u32 {
    if count < BURST { (1 << count) - 1 } else { u32::MAX }
}

/// To the port's own MAC address, or, where all are served, not to a group.
fn mac_filter(view: &View, port: PortId) -> MacFilter {
    let first_eight = |[a, b, c, d, e, f]: [u8; 6]| u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
    match view.ports.get(port.index()).and_then(PortView::own_mac) {
        Some(mac) => MacFilter { mask: first_eight([0xff; 6]), value: first_eight(mac) },
        None => MacFilter { mask: first_eight([1, 0, 0, 0, 0, 0]), value: 0 },
    }
}

/// What the entries of flows that need no write look like in this turn.
#[derive(Clone, Copy, Debug)]
struct Stamps {
    tcp: Stamp,
    udp: Stamp,
}

/// How far a burst came where it lay.
#[derive(Clone, Copy, Debug, Default)]
struct Carried {
    /// The positions whose frames are ready to be sent, a bit each.
    done: u32,
    /// The positions whose entries stay as they are.
    current: u32,
    /// The port of all of them.
    port: PortId,
    /// Bytes of all of them.
    bytes: usize,
}

impl<Io: PacketIo> Worker<Io> {
    /// First stage: describes the packets of the plain shape that have a service, notes their keys, and lets the general stages look at
    /// the others. Gives the bytes of the burst.
    #[inline(never)]
    pub(crate) fn classify_burst(
        &mut self,
        view: &View,
        port: PortId,
        burst: &Burst<Io::Frame>,
        keys: &mut Keys,
    ) -> usize {
        let mac_filter = mac_filter(view, port);
        let batch = &mut *self.batch;
        batch.others.clear();
        batch.groups.clear();
        (batch.plain, batch.v6) = (0, 0);
        (batch.remembered, batch.undecided, batch.by_slot, batch.slotted) = (0, 0, 0, 0);
        let bytes = self.flows.vectors().run(
            #[inline(always)]
            |lanes| {
                let (bytes, is_any_plain) = self.batch.columns.read(mac_filter, burst);
                if !is_any_plain {
                    return bytes;
                }
                self.match_services(view, burst.len(), keys, lanes);
                if self.batch.undecided != 0 {
                    self.steer_by_slots(view, keys, lanes);
                }
                // Those of flows that nobody knows yet, most likely: their slots' lines have until the look-up is done.
                let (_, _, syn) = self.batch.columns.events(lanes);
                self.batch.slotted = syn & self.batch.plain & !self.batch.remembered;
                if self.batch.slotted != 0 {
                    self.find_slots(view, self.batch.slotted, lanes);
                }
                bytes
            },
        );
        let others = everything(burst.len()) & !self.batch.plain;
        if others != 0 {
            // Once, and not each time that one of them is set.
            keys.narrow_mut(burst.len());
        }
        for position in bits(others) {
            if let Some(frame) = burst.get(position)
                && !self.classify_plain_v6(view, mac_filter, position, frame, keys)
            {
                self.classify_other(view, position, frame, keys);
            }
        }
        bytes
    }

    /// Finds the services of the packets of the plain shape, and completes their keys.
    #[inline(always)]
    fn match_services(&mut self, view: &View, count: usize, keys: &mut Keys, lanes: Lanes) {
        let mut left = everything(count);
        while left != 0 {
            let first = left.trailing_zeros() as usize % BURST;
            let service_key = ServiceKey(self.batch.columns.service_key[first]);
            let Some((index, service)) = service_of(view, service_key) else {
                left &= left - 1;
                continue;
            };
            let id = u64::from(service.id.0);
            let place = id << Summary::SERVICE | u64::from(index) << Summary::INDEX;
            let of_it = if self.batch.groups.is_full() {
                keys.narrow_mut(count)[first] = self.batch.columns.key[first] | id;
                self.batch.columns.summary[first] |= place;
                1 << first
            } else {
                let of_it = lanes.equal(&self.batch.columns.service_key, service_key.0) & left;
                let _ = self.batch.groups.try_push((of_it, service.id));
                self.claim(count, service_key, id, place, keys);
                of_it
            };
            left &= !of_it;
            self.batch.plain |= of_it;
            if service.memory.is_some() {
                self.batch.remembered |= of_it;
                self.batch.undecided |= if service_key.protocol() == TCP { of_it } else { 0 };
            }
        }
    }

    /// Completes what is known of all packets of a service in a burst of `count`.
    #[inline(always)]
    fn claim(&mut self, count: usize, service_key: ServiceKey, id: u64, place: u64, keys: &mut Keys) {
        let HeaderColumns { service_key: service_keys, key, summary, .. } = &mut self.batch.columns;
        let keys = keys.narrow_mut(count);
        let blocks = count.div_ceil(columns::LANES).min(BURST / columns::LANES);
        for position in 0..blocks * columns::LANES {
            let position = position % BURST;
            let is_its = u64::from(service_keys[position] == service_key.0).wrapping_neg();
            keys[position] |= (key[position] | id) & is_its;
            summary[position] |= place & is_its;
        }
    }

    /// The same for a packet of IPv6. False: the general stages have to look.
    #[inline(always)]
    fn classify_plain_v6(
        &mut self,
        view: &View,
        mac_filter: MacFilter,
        position: usize,
        frame: &Io::Frame,
        keys: &mut Keys,
    ) -> bool {
        let (bytes, meta) = (frame.bytes(), frame.meta());
        let Some(plain) = PlainV6::read(bytes) else { return false };
        let Match::Service(index) = view.services.find_v6(plain.dst, plain.dport, plain.protocol) else {
            return false;
        };
        let Some(service) = view.service.get(usize::from(index)) else { return false };
        let is_refused = meta.truncated || meta.multi_segment || !mac_filter.admits(bytes);
        // What remembers slots looks them up first, in the general stages.
        if is_refused
            || index > Summary::INDEX_MAX
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
        keys.set(position, Some(&key_of(service, &tuple)));
        const CHANGES: u8 = TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST;
        let event = match plain.protocol {
            UDP => FlowEvent::Udp,
            _ if plain.flags.0 & CHANGES == 0 => FlowEvent::Tcp,
            _ if plain.flags.is_syn() => FlowEvent::Syn,
            _ => FlowEvent::Turning,
        };
        self.batch.columns.summary[position % BURST] =
            Summary::new(plain.len, plain.tos, event, service.id.0, index).0;
        self.batch.plain |= 1 << (position % BURST);
        self.batch.v6 |= 1 << (position % BURST);
        true
    }

    /// Tells whose slot is enough, and takes back their keys.
    #[inline(always)]
    fn steer_by_slots(&mut self, view: &View, keys: &mut Keys, lanes: Lanes) {
        let undecided = self.batch.undecided;
        self.find_slots(view, undecided, lanes);
        let mut left = undecided;
        while left != 0 {
            let its = self.batch.of_first(left);
            left &= !its;
            let memory = self.service_at(view, its).and_then(|service| service.memory.as_ref());
            let Some(memory) = memory else { continue };
            self.batch.by_slot |= its;
            if memory.is_any_tainted() {
                for position in bits(its) {
                    let is_tainted = memory.is_tainted(self.batch.slots[position % BURST]);
                    self.batch.by_slot &= !(u32::from(is_tainted) << (position % BURST));
                }
            }
        }
        let by_slot = self.batch.by_slot;
        for (position, key) in keys.narrow_mut(0).iter_mut().enumerate() {
            *key &= (u64::from(by_slot) >> position & 1).wrapping_sub(1);
        }
    }

    /// The service of the first of these positions.
    #[inline(always)]
    pub(crate) fn service_at<'v>(&self, view: &'v View, positions: u32) -> Option<&'v ServiceView> {
        view.service.get(self.batch.service_index(positions.trailing_zeros() as usize))
    }

    /// Finds the slots at these positions of IPv4, and fetches their lines of the tables.
    #[inline(always)]
    pub(crate) fn find_slots(&mut self, view: &View, positions: u32, lanes: Lanes) {
        self.batch.columns.hash(lanes, &view.cluster_key, positions);
        let mut left = positions;
        while left != 0 {
            let its = self.batch.of_first(left);
            left &= !its;
            let Some(service) = self.service_at(view, its) else { continue };
            if service.hash == HashOn::Source {
                for position in bits(its) {
                    let source = Addr::V4(self.batch.columns.src(position));
                    self.batch.columns.hash[position % BURST] =
                        steer::hash::source(&view.cluster_key, source);
                }
            }
            let (members, size) = (service.maglev.slots(), service.maglev.size());
            for position in bits(its) {
                let slot = Maglev::slot_of(self.batch.columns.hash[position % BURST], size);
                self.batch.slots[position % BURST] = slot;
                match members.get(slot as usize) {
                    Some(member) => lanes.prefetch(member),
                    None => cold_path(),
                }
            }
        }
    }

    /// Asks the tables at positions whose slots were found: gives those with a backend, which is noted. No branch hangs on what is
    /// read, so that the many misses of tables larger than the caches overlap.
    #[inline(always)]
    pub(crate) fn place_slots(&mut self, view: &View, positions: u32) -> u32 {
        let (mut left, mut placed) = (positions, 0);
        while left != 0 {
            let its = self.batch.of_first(left);
            left &= !its;
            let Some(service) = self.service_at(view, its) else { continue };
            let (slots, members, backends) = (service.maglev.slots(), &*service.members, &*view.backends);
            let batch = &mut *self.batch;
            for position in bits(its) {
                let member = slots.get(batch.slots[position % BURST] as usize);
                let Some(&id) = member.and_then(|&member| members.get(usize::from(member))) else {
                    cold_path();
                    continue;
                };
                batch.decided[position % BURST] = id;
                let Some(backend) = backends.get(id.index()) else {
                    cold_path();
                    continue;
                };
                let is_up = backend.as_ref().is_some_and(|backend| backend.state == BackendState::Up);
                placed |= u32::from(is_up) << position;
            }
        }
        if placed != positions {
            placed |= self.place_past(view, positions & !placed);
        }
        placed
    }

    /// The same where the slot's own backend takes no new flows, or there is none.
    #[inline(never)]
    fn place_past(&mut self, view: &View, positions: u32) -> u32 {
        let mut placed = 0;
        for position in bits(positions) {
            let Some(service) = view.service.get(self.batch.service_index(position)) else { continue };
            if let Some(backend) = place_in(view, service, self.batch.slots[position % BURST]) {
                self.batch.decided[position % BURST] = backend;
                placed |= 1 << (position % BURST);
            }
        }
        placed
    }

    /// The general description of a packet of the plain shape that the fast path does not carry to the end.
    pub(crate) fn describe_plain(&mut self, view: &View, frame: &Io::Frame, position: usize) -> Packet {
        let mut packet = classify(view, frame.bytes(), frame.meta());
        let is_by_slot = self.batch.by_slot >> (position % BURST) & 1 == 1;
        if is_by_slot || self.fresh.is_placed(position) {
            packet.fate = Fate::To(self.batch.decided[position % BURST]);
            if let Some(service) = packet.service.and_then(|index| view.service.get(usize::from(index))) {
                self.count_for(service, &packet);
            }
            self.tally.stateless += u64::from(is_by_slot);
        }
        packet
    }

    /// The later stages of the packets that can be carried to the end where they lie, and whatever has to be done for the others.
    #[inline(never)]
    pub(crate) fn forward_burst(
        &mut self,
        view: &View,
        burst: &mut Burst<Io::Frame>,
        looked_up: LookedUp<'_>,
        now: Tick,
    ) {
        self.rewritten = false;
        self.place_fresh(view, looked_up, now);
        let stamps = Stamps {
            tcp: self.flows.stamp(State::TcpEstablished, now),
            udp: self.flows.stamp(State::Udp, now),
        };
        self.enter_fresh(view, looked_up, now);
        let carried = self.flows.vectors().run(
            #[inline(always)]
            |lanes| {
                if self.batch.by_slot != 0 {
                    // Where there is no backend, the general stages say so.
                    self.batch.by_slot = self.place_slots(view, self.batch.by_slot);
                }
                self.carry_burst(view, burst, looked_up, stamps, lanes)
            },
        );
        if carried.done == everything(burst.len()) {
            self.send_burst(view, carried.port, burst, carried.bytes as u64);
        } else {
            self.forward_rest(view, burst, carried, looked_up, now);
        }
    }

    /// Encapsulates, where they lie, the packets whose backends are known, as many as leave by one port with headers of one shape.
    #[inline(always)]
    fn carry_burst(
        &mut self,
        view: &View,
        burst: &mut Burst<Io::Frame>,
        looked_up: LookedUp<'_>,
        stamps: Stamps,
        lanes: Lanes,
    ) -> Carried {
        let hits = looked_up.hits;
        let (udp, turning, syn) = self.batch.columns.events(lanes);
        let plain = self.batch.plain;
        let tcp = hits.stamped(lanes, stamps.tcp) & plain & !(udp | turning | syn);
        let current = tcp | if udp & plain == 0 { 0 } else { hits.stamped(lanes, stamps.udp) & plain & udp };
        let decided = self.decided();
        self.batch.join(decided, hits);
        // Behind a packet that may give an entry of its flow another backend (a SYN, or whatever the general stages classified,
        // of a flow that is known), what the burst look-up saw may be out of date.
        let may_rewrite = (syn | !plain) & hits.found();
        let before = (may_rewrite & may_rewrite.wrapping_neg()).wrapping_sub(1);
        let ready = (current | decided) & before;
        let way = bits(ready).find_map(|position| {
            let backend = backend_of(&view.backends, self.batch.backend(position), self.batch.at(position))?;
            Some((backend.port, backend.header.shape()))
        });
        let Some((port, shape)) = way else { return Carried { current, ..Carried::default() } };
        let (left, datagrams) =
            shape.choose(CarryAs { worker: self, backends: &view.backends, burst, ready, port });
        let done = ready & !left;
        let count = |positions: u32| (done & positions).count_ones() as usize;
        self.tally.hits += count(!decided) as u64;
        self.tally.stateless += count(self.batch.by_slot) as u64;
        self.count_services(done, datagrams);
        let each = ETHERNET_LEN + shape.len();
        Carried { done, current, port, bytes: datagrams + each * count(done) }
    }

    /// Counts packets, of so many bytes in all, for their services.
    #[inline(always)]
    fn count_services(&self, done: u32, datagrams: usize) {
        let count = |service, packets: u32, bytes: usize| {
            if let Some(of) = self.counters.service(service) {
                of.packets.add(u64::from(packets));
                of.bytes.add(bytes as u64);
            }
        };
        match self.batch.groups.first() {
            Some(&(positions, service)) if positions & done == done => {
                count(service, done.count_ones(), datagrams);
            }
            _ => {
                for position in bits(done) {
                    let summary = self.batch.at(position);
                    count(ServiceId(summary.service()), 1, usize::from(summary.len()));
                }
            }
        }
    }

    /// The positions that were decided without an entry.
    #[inline(always)]
    pub(crate) fn decided(&self) -> u32 {
        self.batch.by_slot | self.fresh.placed()
    }

    /// Sends what was carried, and lets the general stages carry the rest, in order.
    #[inline(never)]
    fn forward_rest(
        &mut self,
        view: &View,
        burst: &mut Burst<Io::Frame>,
        carried: Carried,
        looked_up: LookedUp<'_>,
        now: Tick,
    ) {
        let mut others = 0;
        // Taken from the end of the burst turned round: a third of the work of draining it.
        burst.reverse();
        let mut next = 0;
        while let Some(frame) = burst.pop() {
            let position = next;
            next += 1;
            if carried.done >> (position % BURST) & 1 == 1 {
                let label = self.batch.label(position);
                self.send(view, carried.port, frame, label);
            } else if self.batch.is_plain(position) {
                let is_known = carried.current >> (position % BURST) & 1 == 1 && !self.rewritten;
                let left = if is_known {
                    self.forward_current(view, frame, looked_up, position)
                } else {
                    Some(frame)
                };
                if let Some(frame) = left {
                    self.forward_known(view, frame, position, looked_up.answer(position), now);
                }
            } else {
                let packet = self.batch.others.get(others).copied();
                let packet = packet.unwrap_or_else(|| classify(view, frame.bytes(), frame.meta()));
                self.forward_other(view, frame, packet, looked_up.answer(position), now);
                others += 1;
            }
        }
    }

    /// A packet of a known flow that could not be carried where it lay, but behind those before it. Gives the frame back where that takes
    /// more.
    #[inline(always)]
    fn forward_current(
        &mut self,
        view: &View,
        frame: Io::Frame,
        looked_up: LookedUp<'_>,
        position: usize,
    ) -> Option<Io::Frame> {
        let left = self.carry(view, frame, position, looked_up.hits.backend(position % BURST));
        if left.is_none() {
            self.count_services(1 << (position % BURST), usize::from(self.batch.at(position).len()));
            self.tally.hits += 1;
        }
        left
    }

    /// Encapsulates and sends a packet of the plain shape whose backend is known. Gives the frame back where that takes more.
    #[inline]
    pub(crate) fn carry(
        &mut self,
        view: &View,
        mut frame: Io::Frame,
        position: usize,
        id: BackendId,
    ) -> Option<Io::Frame> {
        let summary = self.batch.at(position);
        let Some(backend) = backend_of(&view.backends, id, summary) else { return Some(frame) };
        let shape = backend.header.shape();
        if shape.choose(CarryOne { backend, summary, frame: &mut frame }).is_none() {
            return Some(frame);
        }
        self.send(view, backend.port, frame, self.batch.label_to(position, id));
        None
    }
}

/// The loop over the packets that are ready, for headers of one shape. Gives the positions of those that could not be carried, and the
/// bytes of the datagrams of all others.
struct CarryAs<'w, Io: PacketIo> {
    worker: &'w Worker<Io>,
    backends: &'w [Option<BackendView>],
    burst: &'w mut Burst<Io::Frame>,
    ready: u32,
    port: PortId,
}

impl<Io: PacketIo> ForShape for CarryAs<'_, Io> {
    type Output = (u32, usize);

    #[inline(always)]
    fn with<P: Prepend>(self) -> (u32, usize) {
        let (mut left, mut datagrams) = (0, 0);
        let batch = &*self.worker.batch;
        for position in bits(self.ready) {
            let Some(frame) = self.burst.get_mut(position) else { break };
            let summary = batch.at(position);
            let backend = backend_of(self.backends, batch.backend(position), summary)
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

/// The service, with its index, of a packet of the plain shape; `None` for a packet of another, and where the general stages have to
/// look.
#[inline(always)]
fn service_of(view: &View, service_key: ServiceKey) -> Option<(u16, &ServiceView)> {
    if service_key.0 == 0 {
        return None;
    }
    let index = view.services.exact_v4(service_key.dst(), service_key.dport(), service_key.protocol())?;
    let service = view.service.get(usize::from(index)).filter(|service| !service.wide)?;
    (index <= Summary::INDEX_MAX).then_some((index, service))
}

/// The backend, if it can be reached and takes datagrams of this length, and is the service's.
#[inline(always)]
fn backend_of(backends: &[Option<BackendView>], id: BackendId, summary: Summary) -> Option<&BackendView> {
    let backend = backends.get(id.index())?.as_ref()?;
    (backend.service.0 == summary.service() && summary.len() <= backend.room.get()).then_some(backend)
}

/// Puts the tunnel's header, of a known shape, in front of a packet of the plain shape. `None`: there is no room, and the frame is
/// as it was.
#[inline(always)]
fn encapsulate<P: Prepend, F: Frame>(backend: &BackendView, summary: Summary, frame: &mut F) -> Option<()> {
    let header = backend.header.shaped::<P>()?;
    // Ethernet padding is no part of the datagram and must not travel inside the tunnel.
    let bytes = frame.cut_and_grow(usize::from(summary.len()) + ETHERNET_LEN, P::LEN).ok()?;
    P::prepend(bytes, header, Inner { len: summary.len(), tos: summary.tos() }, entropy_of);
    Some(())
}

/// The same for one packet.
struct CarryOne<'f, F> {
    backend: &'f BackendView,
    summary: Summary,
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
