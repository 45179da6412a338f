//! The stages, one behind the other: of a burst, and of a single frame.
//!
//! A burst is described, looked up (by [`turn`](crate::turn), which may have several on their way), decided and carried out: in place
//! for the positions for which a column of eight bytes says all ([`new_flow`], [`slots`], [`encapsulate`]), and for every
//! other position by the same decisions one by one ([`Stages::run`]). The latter is the way of every frame that comes from another
//! worker, another machine, the kernel, or the fragment store, too.
//!
//! This is the only module besides `turn` that knows all stages' states. No stage knows another's.

use crate::act::cut;
use crate::act::encapsulate::{self, Carried, Stamps};
use crate::act::path_mtu::PathErrors;
use crate::act::punt::{PuntBudgets, punt};
use crate::act::reply::{self, ReplyBudgets};
use crate::action::{Action, Hop, Reply, Route};
use crate::burst::Burst;
use crate::cluster::{ClusterStage, StateSync};
use crate::commands::CommandQueue;
use crate::decide::flows::Flows;
use crate::decide::known::usable;
use crate::decide::{new_flow, slots};
use crate::describe;
use crate::describe::general::{Fate, Packet, classify, probe};
use crate::fragments::{self, Arrived, DatagramPlace, Store};
use crate::io::{Frame, Frames, PacketIo};
use crate::label::Label;
use crate::lookup::{LookedUp, LookupResult};
use crate::positions::{bits, everything};
use crate::rings::Relay;
use crate::send::Egress;
use crate::view::{BackendView, OnClosedPort, OnEmpty, View};
use crate::{BURST, DropReason};
use flow::{Keys, State};
use statesync::{Ports, Question};
use wire::parse::Kind;
use wire::{PortId, Tick};

/// The states of all stages.
pub(crate) struct Stages<Io: PacketIo> {
    /// What decides: the flow table, and what is known beside it.
    pub(crate) flows: Flows,
    /// Datagrams in fragments.
    pub(crate) fragments: Store<Io::Frame>,
    /// What may be answered.
    pub(crate) replies: ReplyBudgets,
    /// What may be given to the kernel.
    pub(crate) punts: PuntBudgets,
    pub(crate) path_errors: PathErrors,
    /// What it knows as a member of a cluster.
    pub(crate) sync: Option<Box<StateSync>>,
    /// What control asks.
    pub(crate) commands: Option<CommandQueue>,
    /// To and from the other workers.
    pub(crate) rings: Ports<Relay<Io::Frame>>,
    /// Where every frame ends.
    pub(crate) egress: Egress<Io>,
}

impl<Io: PacketIo> Stages<Io> {
    /// Describes a burst and writes its keys. Returns its bytes.
    #[inline]
    pub(crate) fn describe(
        &mut self,
        view: &View,
        port: PortId,
        frames: &Frames<Io::Frame>,
        burst: &mut Burst,
        keys: &mut Keys,
    ) -> usize {
        let vectors = self.flows.table.vectors();
        let (bytes, left) = describe::burst(view, port, frames, burst, keys, vectors);
        for position in bits(left) {
            if let Some(frame) = frames.get(position) {
                self.describe_other(view, position, frame, burst, keys);
            }
        }
        bytes
    }

    #[inline(never)]
    fn describe_other(
        &mut self,
        view: &View,
        position: usize,
        frame: &Io::Frame,
        burst: &mut Burst,
        keys: &mut Keys,
    ) {
        let mut packet = classify(view, frame.bytes(), frame.meta());
        let key = self.flows.key(view, frame.bytes(), &mut packet);
        keys.set(position, key.as_ref());
        if burst.others.try_push(packet).is_err() {
            debug_assert!(false, "no more frames than a burst has");
        }
    }

    /// Decides for a burst that was looked up, and carries out.
    #[inline(never)]
    pub(crate) fn finish(
        &mut self,
        view: &View,
        frames: &mut Frames<Io::Frame>,
        burst: &mut Burst,
        looked_up: LookedUp<'_>,
        now: Tick,
    ) {
        let flows = &mut self.flows;
        (flows.rewritten, flows.changed) = (false, false);
        new_flow::place(view, burst, flows, looked_up, now);
        let stamps = Stamps {
            tcp: flows.table.stamp(State::TcpEstablished, now),
            udp: flows.table.stamp(State::Udp, now),
        };
        new_flow::enter(view, burst, flows, looked_up, now);
        let carried = flows.table.vectors().run(
            #[inline(always)]
            |lanes| {
                if burst.by_slot != 0 {
                    let placed = slots::place_all(view, burst, burst.by_slot);
                    (burst.by_slot, burst.by_empty_slot) = (placed, burst.by_slot & !placed);
                }
                let carried = encapsulate::carry(view, frames, burst, looked_up, stamps, lanes);
                count_carried(flows, burst, &carried);
                carried
            },
        );
        if carried.done == everything(frames.len()) {
            self.egress.send_burst(view, carried.port, frames, carried.bytes as u64, burst);
        } else {
            self.finish_rest(view, frames, burst, carried, looked_up, now);
        }
    }

    /// Sends what was carried, and lets the general stages carry the rest, in order.
    #[inline(never)]
    fn finish_rest(
        &mut self,
        view: &View,
        frames: &mut Frames<Io::Frame>,
        burst: &Burst,
        carried: Carried,
        looked_up: LookedUp<'_>,
        now: Tick,
    ) {
        let mut others = 0;
        // Taken from the end of the burst turned round: a third of the work of draining it.
        frames.reverse();
        let mut next = 0;
        while let Some(frame) = frames.pop() {
            let position = next;
            next += 1;
            if carried.done >> (position % BURST) & 1 == 1 {
                self.egress.send(view, carried.port, frame, burst.label(position));
            } else if burst.is_plain(position) {
                let is_known = carried.current >> (position % BURST) & 1 == 1 && !self.flows.rewritten;
                let left = if is_known {
                    self.carry_current(view, frame, burst, looked_up, position)
                } else {
                    Some(frame)
                };
                if let Some(frame) = left {
                    self.run_plain(view, frame, burst, position, looked_up.at(position), now);
                }
            } else {
                let packet = burst.others.get(others).copied();
                let mut packet = packet.unwrap_or_else(|| classify(view, frame.bytes(), frame.meta()));
                self.run(view, frame, &mut packet, looked_up.at(position), now);
                others += 1;
            }
        }
    }

    /// A packet of a known flow that could not be carried where it lay, but behind those before it. Returns the frame where that takes
    /// more.
    #[inline(always)]
    fn carry_current(
        &mut self,
        view: &View,
        frame: Io::Frame,
        burst: &Burst,
        looked_up: LookedUp<'_>,
        position: usize,
    ) -> Option<Io::Frame> {
        let id = looked_up.hits.backend(position % BURST);
        let left = encapsulate::carry_one(view, frame, burst, position, id, &mut self.egress);
        if left.is_none() {
            let bytes = usize::from(burst.summary(position).len());
            burst.each_service(1 << (position % BURST), bytes, |service, packets, bytes| {
                self.flows.count_packets(service, u64::from(packets), bytes as u64);
            });
            self.flows.tally.hits += 1;
        }
        left
    }

    /// The general stages for a packet of the plain shape.
    #[inline(never)]
    fn run_plain(
        &mut self,
        view: &View,
        frame: Io::Frame,
        burst: &Burst,
        position: usize,
        answer: LookupResult,
        now: Tick,
    ) {
        let mut packet = classify(view, frame.bytes(), frame.meta());
        let is_in = |mask: u32| mask >> (position % BURST) & 1 == 1;
        let is_by_slot = is_in(burst.by_slot | burst.by_empty_slot);
        if (is_by_slot || is_in(burst.placed))
            && let Some(service) = packet.service.and_then(|index| view.service.get(usize::from(index)))
        {
            self.flows.count_for(service, &packet);
            self.flows.tally.stateless += u64::from(is_by_slot);
            packet.fate = Fate::Decided(if is_in(burst.by_empty_slot) {
                self.flows.nobody(service, DropReason::NoBackend)
            } else {
                Action::Encapsulate(burst.backends[position % BURST])
            });
        }
        self.decide(view, frame.bytes(), &mut packet, answer, now);
        let left = match packet.fate {
            Fate::Decided(Action::Encapsulate(id)) => {
                encapsulate::carry_one(view, frame, burst, position, id, &mut self.egress)
            }
            _ => Some(frame),
        };
        if let Some(frame) = left {
            self.act(view, frame, &packet, now);
        }
    }

    /// The general stages of a frame that is described.
    pub(crate) fn run(
        &mut self,
        view: &View,
        frame: Io::Frame,
        packet: &mut Packet,
        answer: LookupResult,
        now: Tick,
    ) {
        self.decide(view, frame.bytes(), packet, answer, now);
        self.act(view, frame, packet, now);
    }

    /// Decides for a packet of a flow; leaves every other as it is.
    #[inline]
    fn decide(&mut self, view: &View, bytes: &[u8], packet: &mut Packet, answer: LookupResult, now: Tick) {
        if !matches!(packet.fate, Fate::Flow | Fate::Quoted) {
            return;
        }
        let Some(service) = packet.service.and_then(|index| view.service.get(usize::from(index))) else {
            packet.fate = Fate::drop(DropReason::NoService);
            return;
        };
        if packet.fate == Fate::Flow {
            self.flows.count_for(service, packet);
            if let Some(hit) = answer.hit
                && !self.flows.rewritten
                && usable(view, service, &hit, packet)
            {
                self.flows.tally.hits += 1;
                let is_revived = self.flows.keep(view, service, bytes, packet, &hit, now);
                if is_revived && let Some(mut member) = self.member(view, now) {
                    member.refresh_revived(packet, bytes, &hit);
                }
                packet.fate = Fate::Decided(Action::Encapsulate(hit.backend));
                return;
            }
        }
        if let Some(mut member) = self.member(view, now)
            && let Some(action) = member.steer_tainted(bytes, packet, answer)
        {
            packet.fate = Fate::Decided(action);
            return;
        }
        let action = match self.flows.steer_unknown(view, service, bytes, packet, answer, now) {
            Ok(backend) => Action::Encapsulate(backend),
            Err(reason) => self.flows.nobody(service, reason),
        };
        packet.fate = Fate::Decided(action);
    }

    /// Carries out: afterwards the frame is in a lane, on a ring, held, or at its end.
    pub(crate) fn act(&mut self, view: &View, frame: Io::Frame, packet: &Packet, now: Tick) {
        match packet.fate {
            Fate::Decided(action) => self.act_on(view, frame, packet, action, now),
            Fate::Peer => self.hear_peer(view, frame, packet, now),
            Fate::Fragment => self.hand_over_fragment(view, frame, packet, now),
            // These were decided before.
            Fate::Flow | Fate::Quoted => self.egress.drop_frame(view, frame, packet, DropReason::NoService),
        }
    }

    #[inline(always)]
    fn act_on(&mut self, view: &View, frame: Io::Frame, packet: &Packet, action: Action, now: Tick) {
        match action {
            Action::Encapsulate(id) => match view.backends.get(id.index()).and_then(Option::as_ref) {
                Some(backend) => self.forward(view, frame, packet, backend, now),
                None => self.egress.drop_frame(view, frame, packet, DropReason::NoBackend),
            },
            Action::Pass(port) => self.egress.send(view, port, frame, Label::KERNEL),
            Action::Reply(Reply::Echo) => {
                reply::echo(view, frame, packet, &mut self.replies, &mut self.egress, now);
            }
            Action::Reply(Reply::Refusal(reason)) => self.refuse(view, frame, packet, reason, now),
            Action::Reply(Reply::TooBig) => self.egress.drop_frame(view, frame, packet, DropReason::TooBig),
            Action::Relay(Route { to, question: Some(question) }) => match self.member(view, now) {
                Some(mut member) => member.relay(frame, packet, (to, question)),
                None => self.egress.drop_frame(view, frame, packet, DropReason::NotReady),
            },
            Action::Relay(Route { to, question: None }) => self.relay_fragment(view, frame, packet, to),
            Action::Hold => self.meet_fragment(view, frame, *packet, now),
            Action::Punt => {
                if packet.parsed.kind == Kind::IcmpError {
                    self.path_errors.hear(view, frame.bytes(), &packet.parsed, now);
                }
                punt(view, frame, packet, &mut self.punts, &mut self.egress, now);
            }
            Action::Drop(reason @ (DropReason::NoBackend | DropReason::Overload | DropReason::NoService)) => {
                self.refuse(view, frame, packet, reason, now);
            }
            Action::Drop(reason) => self.egress.drop_frame(view, frame, packet, reason),
        }
    }

    fn forward(&mut self, view: &View, frame: Io::Frame, packet: &Packet, backend: &BackendView, now: Tick) {
        let parsed = &packet.parsed;
        if backend.next_hop.is_none() {
            return self.egress.drop_frame(view, frame, packet, DropReason::NoNeighbour);
        }
        let len = parsed.end - parsed.l3;
        if len > backend.room.get() {
            let mtu = backend.inner_mtu_now(parsed.v6, now);
            if len > mtu && parsed.dont_fragment {
                return reply::too_big(view, frame, packet, mtu, &mut self.replies, &mut self.egress, now);
            }
            if len > mtu {
                return cut::cut(view, frame, packet, (backend, mtu), &mut self.egress);
            }
        }
        encapsulate::tunnel(view, frame, packet, backend, &mut self.egress);
    }

    /// Nobody gets the packet: its sender is told, if the service or the VIP says so.
    fn refuse(&mut self, view: &View, frame: Io::Frame, packet: &Packet, reason: DropReason, now: Tick) {
        let answers = match reason {
            DropReason::NoService => view.on_closed_port == OnClosedPort::Reset,
            _ => {
                let service = packet.service.and_then(|index| view.service.get(usize::from(index)));
                service.is_some_and(|service| service.on_empty == OnEmpty::Reset)
            }
        };
        let (replies, egress) = (&mut self.replies, &mut self.egress);
        reply::refuse(view, frame, packet, (reason, answers), replies, egress, now);
    }

    /// Sends a fragment to the worker that owns its datagram, which may be this one.
    fn hand_over_fragment(&mut self, view: &View, frame: Io::Frame, packet: &Packet, now: Tick) {
        let owner = fragments::owner(view, frame.bytes(), packet, self.flows.cores());
        let action = if owner == self.flows.core {
            Action::Hold
        } else {
            Action::Relay(Route { to: Hop::Core(owner), question: None })
        };
        self.act(view, frame, &Packet { fate: Fate::Decided(action), ..*packet }, now);
    }

    fn relay_fragment(&mut self, view: &View, frame: Io::Frame, packet: &Packet, to: Hop) {
        // Machines are asked about flows alone.
        let Hop::Core(owner) = to else {
            return self.egress.drop_frame(view, frame, packet, DropReason::RelayLimit);
        };
        match self.rings.send(owner, Relay::Fragment(frame)) {
            Ok(()) => self.flows.counters.totals.ring_out.add(1),
            Err(Relay::Fragment(frame)) => self.egress.drop_frame(view, frame, packet, DropReason::RingFull),
            // What comes back is what was sent.
            Err(_) => self.flows.counters.drops(DropReason::RingFull).add(1),
        }
    }

    /// A fragment at its datagram's owner.
    fn meet_fragment(&mut self, view: &View, frame: Io::Frame, mut packet: Packet, now: Tick) {
        match self.fragments.meet(view, frame, &mut packet, now) {
            Arrived::First(frame, place) => self.first_fragment(view, frame, packet, &place, now),
            Arrived::Follows(frame) => self.act(view, frame, &packet, now),
            Arrived::Held => self.flows.counters.totals.held.add(1),
            Arrived::HeldFor(evicted) => {
                let packet = classify(view, evicted.bytes(), evicted.meta());
                self.egress.drop_frame(view, evicted, &packet, DropReason::FragmentStoreFull);
            }
            Arrived::Refused(frame, reason) => self.egress.drop_frame(view, frame, &packet, reason),
        }
    }

    /// The first fragment is steered like a whole packet; those that waited for it follow.
    fn first_fragment(
        &mut self,
        view: &View,
        frame: Io::Frame,
        packet: Packet,
        place: &DatagramPlace,
        now: Tick,
    ) {
        let mut first = fragments::as_whole(view, frame.bytes(), &packet);
        if self.flows.key(view, frame.bytes(), &mut first).is_some() {
            self.decide(view, frame.bytes(), &mut first, LookupResult::default(), now);
        }
        fragments::judge_echo(frame.bytes(), &mut first);
        let lasting = fragments::lasting(first.fate);
        if !self.fragments.settle(place, &first, lasting, now) {
            return self.egress.drop_frame(view, frame, &first, DropReason::FragmentStoreFull);
        }
        self.act(view, frame, &first, now);
        while let Some((frame, held)) = self.fragments.release(view, place, (&first, lasting), now) {
            self.flows.counters.totals.held.sub(1);
            self.act(view, frame, &held, now);
        }
    }

    /// Drops fragments that waited too long.
    pub(crate) fn expire_fragments(&mut self, view: &View, now: Tick) {
        while let Some(frame) = self.fragments.expired(now) {
            self.flows.counters.totals.held.sub(1);
            let packet = classify(view, frame.bytes(), frame.meta());
            self.egress.drop_frame(view, frame, &packet, DropReason::FragmentTimeout);
        }
    }

    /// What another worker gives.
    pub(crate) fn run_relayed(&mut self, view: &View, relay: Relay<Io::Frame>, now: Tick) {
        match relay {
            Relay::Fragment(frame) => self.run_fragment(view, frame, now),
            Relay::Question(frame, question) => self.run_question(view, frame, question, now),
            Relay::Note(note) => {
                if let Some(mut member) = self.member(view, now) {
                    member.receive_note(note);
                }
            }
        }
    }

    /// The turn's part of the cluster.
    pub(crate) fn synchronise(&mut self, view: &View, now: Tick) {
        if let Some(mut member) = self.member(view, now) {
            member.synchronise();
        }
    }

    /// Counts frames received from a port.
    pub(crate) fn count_received(&self, port: PortId, frames: &Frames<Io::Frame>) {
        let bytes = frames.iter().map(|frame| frame.bytes().len()).sum();
        self.egress.count_received(port, frames.len(), bytes);
    }

    /// A fragment that another worker relayed.
    fn run_fragment(&mut self, view: &View, frame: Io::Frame, now: Tick) {
        let mut packet = classify(view, frame.bytes(), frame.meta());
        // Otherwise the view changed under way and the frame is no longer for a service.
        if packet.fate == Fate::Fragment {
            packet.fate = Fate::Decided(Action::Hold);
        }
        self.act(view, frame, &packet, now);
    }

    /// A frame of a flow that this machine is taken to own.
    fn run_question(&mut self, view: &View, frame: Io::Frame, question: Question, now: Tick) {
        let packet = match self.member(view, now) {
            Some(mut member) => member.decide_question(&frame, question),
            None => Packet {
                fate: Fate::drop(DropReason::NoService),
                ..classify(view, frame.bytes(), frame.meta())
            },
        };
        match packet.fate {
            // Nobody is told: the asker's client waits for the answer to its own packet.
            Fate::Decided(Action::Drop(reason @ (DropReason::NoService | DropReason::NotReady))) => {
                self.egress.drop_frame(view, frame, &packet, reason);
            }
            _ => self.act(view, frame, &packet, now),
        }
    }

    /// A message of another machine.
    fn hear_peer(&mut self, view: &View, frame: Io::Frame, packet: &Packet, now: Tick) {
        let heard = match self.member(view, now) {
            Some(mut member) => member.take_in(&frame, packet),
            None => Err(DropReason::PeerRefused),
        };
        let reason = match heard {
            Ok(None) => DropReason::PeerMessage,
            Ok(Some((whole, question))) => {
                self.run_question(view, whole, question, now);
                DropReason::PeerMessage
            }
            Err(reason) => reason,
        };
        self.egress.drop_frame(view, frame, packet, reason);
    }

    /// Received before this machine's join has committed: messages are taken in, the kernel gets what is its, and packets of
    /// services are dropped, because nothing is known yet of their flows.
    pub(crate) fn run_before_joining(&mut self, view: &View, frames: &mut Frames<Io::Frame>, now: Tick) {
        for frame in frames.drain(..) {
            let mut packet = classify(view, frame.bytes(), frame.meta());
            // Which ports are closed is not known either: others may have agreed on more services.
            if matches!(
                packet.fate,
                Fate::Flow
                    | Fate::Quoted
                    | Fate::Fragment
                    | Fate::Decided(Action::Drop(DropReason::NoService))
            ) {
                packet.fate = Fate::drop(DropReason::NotReady);
            }
            self.act(view, frame, &packet, now);
        }
    }

    /// Frames of the kernel go out on the data port as they are, but for probes that travel like the traffic.
    pub(crate) fn run_kernel(
        &mut self,
        view: &View,
        data: PortId,
        frames: &mut Frames<Io::Frame>,
        now: Tick,
    ) {
        for frame in frames.drain(..) {
            match probe(view, frame.bytes()) {
                Some(packet) => self.act(view, frame, &packet, now),
                None => self.egress.send(view, data, frame, Label::KERNEL),
            }
        }
    }

    /// The worker's part in its cluster, if it is in one.
    #[inline]
    fn member<'w>(&'w mut self, view: &'w View, now: Tick) -> Option<ClusterStage<'w, Io>> {
        let (cluster, sync) = (view.cluster.as_deref()?, self.sync.as_mut()?);
        let (flows, rings, egress) = (&mut self.flows, &mut self.rings, &mut self.egress);
        Some(ClusterStage { view, cluster, now, sync, flows, rings, egress })
    }
}

/// Counts what was carried where it lay.
#[inline(always)]
fn count_carried(flows: &mut Flows, burst: &Burst, carried: &Carried) {
    if carried.done == 0 {
        return;
    }
    let count = |positions: u32| u64::from((carried.done & positions).count_ones());
    flows.tally.hits += count(!burst.decided());
    flows.tally.stateless += count(burst.by_slot);
    burst.each_service(carried.done, carried.datagrams, |service, packets, bytes| {
        flows.count_packets(service, u64::from(packets), bytes as u64);
    });
}
