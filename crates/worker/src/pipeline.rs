//! The stages, one behind the other: of a burst, and of a single frame.
//!
//! A burst is described, looked up (by [`turn`](crate::turn), which may have several on their way), decided and carried out: in place
//! for the positions for which a column of eight bytes says all ([`new_flow`], [`slots`], [`encapsulate`]), and for every
//! other position by the same decisions one by one ([`Stages::decide`] and [`Stages::act`]). That is the way of every frame that comes from
//! another worker, another machine, the kernel, or the fragment store, too.
//!
//! This is the only module besides `turn` that knows all stages' states. No stage knows another's.

use crate::act::encapsulate::{self, Carried, Stamps};
use crate::act::path_mtu::PathErrors;
use crate::act::punt::PuntBudgets;
use crate::act::reply::{Replier, ReplyBudgets};
use crate::action::{Action, Hop, Reply, Route};
use crate::burst::{Burst, bits, everything, is_in};
use crate::cluster::{ClusterStage, StateSync};
use crate::commands::CommandQueue;
use crate::decide::flows::Flows;
use crate::decide::known::usable;
use crate::decide::{new_flow, slots};
use crate::describe;
use crate::describe::general::{Fate, FlowPacket, Packet, classify, probe};
use crate::fragments::{self, Arrived, DatagramPlace, Decision, Store};
use crate::io::{Frame, Frames, PacketIo};
use crate::label::Label;
use crate::lookup::{LookedUp, LookupResult};
use crate::rings::Relay;
use crate::send::Egress;
use crate::view::{BackendView, Moment, View};
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

/// A burst that was looked up and carried, as far as it can be where it lies.
#[derive(Clone, Copy)]
struct CarriedBurst<'b> {
    burst: &'b Burst,
    looked_up: LookedUp<'b>,
    carried: Carried,
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
        let key = if packet.is_of_flow() { self.flows.key(view, frame.bytes(), &mut packet) } else { None };
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
        let at = Moment { view, now };
        let flows = &mut self.flows;
        (flows.rewritten, flows.changed) = (false, false);
        burst.placed = 0;
        let missed = burst.may_begin & !looked_up.hits.found();
        if missed != 0 {
            new_flow::place(at, burst, flows, looked_up, missed);
        }
        let stamps = Stamps {
            tcp: flows.table.stamp(State::TcpEstablished, now),
            udp: flows.table.stamp(State::Udp, now),
        };
        if burst.placed != 0 {
            new_flow::enter(view, burst, flows, looked_up, now);
        }
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
            self.finish_rest(at, frames, &CarriedBurst { burst, looked_up, carried });
        }
    }

    /// Sends what was carried, and lets the general stages carry the rest, in order.
    #[inline(never)]
    fn finish_rest(&mut self, at: Moment<'_>, frames: &mut Frames<Io::Frame>, of: &CarriedBurst<'_>) {
        let CarriedBurst { burst, looked_up, carried } = *of;
        let mut others = 0;
        // Taken from the end of the burst turned round: a third of the work of draining it.
        frames.reverse();
        let mut next = 0;
        while let Some(frame) = frames.pop() {
            let position = next;
            next += 1;
            if is_in(carried.done, position) {
                self.egress.send(at.view, carried.port, frame, burst.label(position));
            } else if is_in(burst.plain, position) {
                let is_known = is_in(carried.current, position) && !self.flows.rewritten;
                let left =
                    if is_known { self.carry_current(at.view, frame, of, position) } else { Some(frame) };
                if let Some(frame) = left {
                    self.run_plain(at, frame, of, position);
                }
            } else {
                let packet = burst.others.get(others).copied();
                others += 1;
                let mut packet = packet.unwrap_or_else(|| classify(at.view, frame.bytes(), frame.meta()));
                self.decide(at, frame.bytes(), &mut packet, looked_up.at(position));
                self.act(at, frame, &packet);
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
        of: &CarriedBurst<'_>,
        position: usize,
    ) -> Option<Io::Frame> {
        let id = of.looked_up.hits.backend(position % BURST);
        let left = self.egress.carry_one(view, frame, of.burst, (position, id));
        if left.is_none() {
            self.flows.count_plain(of.burst.summary(position));
            self.flows.tally.hits += 1;
        }
        left
    }

    /// The general stages for a packet of the plain shape.
    #[inline(never)]
    fn run_plain(&mut self, at: Moment<'_>, frame: Io::Frame, of: &CarriedBurst<'_>, position: usize) {
        let (view, burst) = (at.view, of.burst);
        let mut packet = classify(view, frame.bytes(), frame.meta());
        let is_by_slot = is_in(burst.by_slot | burst.by_empty_slot, position);
        if (is_by_slot || is_in(burst.placed, position))
            && let Some(service) = packet.service_in(view)
        {
            self.flows.count_for(service, &packet);
            self.flows.tally.stateless += u64::from(is_by_slot);
            packet.fate = if is_in(burst.by_empty_slot, position) {
                Fate::Decided(self.flows.nobody(service, DropReason::NoBackend))
            } else {
                Fate::to(burst.backends[position % BURST])
            };
        }
        self.decide(at, frame.bytes(), &mut packet, of.looked_up.at(position));
        let left = match packet.fate {
            Fate::Decided(Action::Encapsulate(id)) => {
                self.egress.carry_one(view, frame, burst, (position, id))
            }
            _ => Some(frame),
        };
        if let Some(frame) = left {
            self.act(at, frame, &packet);
        }
    }

    /// All stages for one frame, without a burst. Returns what it came to.
    pub(crate) fn run_alone(&mut self, view: &View, frame: Io::Frame, now: Tick) -> Fate {
        let mut packet = classify(view, frame.bytes(), frame.meta());
        let key = if packet.is_of_flow() { self.flows.key(view, frame.bytes(), &mut packet) } else { None };
        let hit = key.and_then(|key| self.flows.table.get(&key, now));
        self.flows.rewritten = false;
        let at = Moment { view, now };
        self.decide(at, frame.bytes(), &mut packet, LookupResult { hit, miss: None });
        self.act(at, frame, &packet);
        packet.fate
    }

    /// Decides for a packet of a flow; leaves every other as it is.
    #[inline]
    fn decide(&mut self, at: Moment<'_>, bytes: &[u8], packet: &mut Packet, answer: LookupResult) {
        if packet.is_of_flow() {
            packet.fate = match packet.service_in(at.view) {
                Some(service) => {
                    let of = FlowPacket { view: at.view, now: at.now, service, packet, bytes };
                    Fate::Decided(self.decide_flow(at, &of, answer))
                }
                None => Fate::drop(DropReason::NoService),
            };
        }
    }

    #[inline(never)]
    fn decide_flow(&mut self, at: Moment<'_>, of: &FlowPacket<'_>, answer: LookupResult) -> Action {
        let FlowPacket { service, packet, .. } = *of;
        if packet.fate == Fate::Flow {
            self.flows.count_for(service, packet);
            if let Some(hit) = answer.hit
                && !self.flows.rewritten
                && usable(of, &hit)
            {
                self.flows.tally.hits += 1;
                let is_revived = self.flows.keep(of, &hit);
                if is_revived && let Some(mut member) = self.member(at) {
                    member.refresh_revived(of, &hit);
                }
                return Action::Encapsulate(hit.backend);
            }
        }
        if let Some(mut member) = self.member(at)
            && let Some(action) = member.steer_tainted(of, answer)
        {
            return action;
        }
        let decided = self.flows.steer_unknown(of, answer);
        self.flows.action(service, decided)
    }

    /// Carries out: afterwards the frame is in a lane, on a ring, held, or at its end.
    fn act(&mut self, at: Moment<'_>, frame: Io::Frame, packet: &Packet) {
        let view = at.view;
        let action = match packet.fate {
            Fate::Decided(action) => action,
            Fate::Peer => return self.hear_peer(at, frame, packet),
            Fate::Fragment => return self.hand_over_fragment(at, frame, packet),
            // These were decided before.
            Fate::Flow | Fate::Quoted => {
                return self.egress.drop_frame(view, frame, packet, DropReason::NoService);
            }
        };
        match action {
            Action::Encapsulate(id) => match view.backend(id) {
                Some(backend) => self.forward(at, frame, packet, backend),
                None => self.egress.drop_frame(view, frame, packet, DropReason::NoBackend),
            },
            Action::Pass(port) => self.egress.send(view, port, frame, Label::KERNEL),
            Action::Reply(Reply::Echo) => self.replier(at).echo(frame, packet),
            Action::Reply(Reply::TooBig) => self.egress.drop_frame(view, frame, packet, DropReason::TooBig),
            Action::Relay(Route { to, question: Some(question) }) => match self.member(at) {
                Some(mut member) => member.relay(frame, packet, (to, question)),
                None => self.egress.drop_frame(view, frame, packet, DropReason::NotReady),
            },
            Action::Relay(Route { to, question: None }) => self.relay_fragment(view, frame, packet, to),
            Action::Hold => self.meet_fragment(at, frame, *packet),
            Action::Punt => {
                if packet.parsed.kind == Kind::IcmpError {
                    self.path_errors.hear(view, frame.bytes(), &packet.parsed, at.now);
                }
                self.egress.punt(at, frame, packet, &mut self.punts);
            }
            Action::Reply(Reply::Refusal(reason))
            | Action::Drop(reason @ (DropReason::NoBackend | DropReason::Overload | DropReason::NoService)) =>
            {
                self.replier(at).refuse(frame, packet, reason);
            }
            Action::Drop(reason) => self.egress.drop_frame(view, frame, packet, reason),
        }
    }

    fn forward(&mut self, at: Moment<'_>, frame: Io::Frame, packet: &Packet, backend: &BackendView) {
        let (view, parsed, len) = (at.view, &packet.parsed, packet.len());
        if backend.next_hop.is_none() {
            return self.egress.drop_frame(view, frame, packet, DropReason::NoNeighbour);
        }
        if len > backend.room.get() {
            let mtu = backend.inner_mtu_now(parsed.v6, at.now);
            if len > mtu && parsed.dont_fragment {
                return self.replier(at).too_big(frame, packet, mtu);
            }
            if len > mtu {
                return self.egress.cut(view, frame, packet, (backend, mtu));
            }
        }
        self.egress.tunnel(view, frame, packet, backend);
    }

    /// Sends a fragment to the worker that owns its datagram, which may be this one.
    fn hand_over_fragment(&mut self, at: Moment<'_>, frame: Io::Frame, packet: &Packet) {
        let owner = fragments::owner(at.view, frame.bytes(), packet, self.flows.cores());
        let action = if owner == self.flows.core {
            Action::Hold
        } else {
            Action::Relay(Route { to: Hop::Core(owner), question: None })
        };
        self.act(at, frame, &Packet { fate: Fate::Decided(action), ..*packet });
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
    fn meet_fragment(&mut self, at: Moment<'_>, frame: Io::Frame, mut packet: Packet) {
        let view = at.view;
        match self.fragments.meet(at, frame, &mut packet) {
            Arrived::First(frame, place) => self.first_fragment(at, frame, packet, &place),
            Arrived::Follows(frame) => self.act(at, frame, &packet),
            Arrived::Held => self.flows.counters.totals.held.add(1),
            Arrived::HeldFor(evicted) => {
                if self.egress.tap.is_some() {
                    self.egress.end_capture(view, Fate::Decided(Action::Hold));
                }
                self.drop_held(at, evicted, DropReason::FragmentStoreFull);
            }
            Arrived::Refused(frame, reason) => self.egress.drop_frame(view, frame, &packet, reason),
        }
    }

    /// The first fragment is steered like a whole packet; those that waited for it follow.
    fn first_fragment(&mut self, at: Moment<'_>, frame: Io::Frame, packet: Packet, place: &DatagramPlace) {
        let mut first = fragments::as_whole(at.view, frame.bytes(), &packet);
        if first.is_of_flow() && self.flows.key(at.view, frame.bytes(), &mut first).is_some() {
            self.decide(at, frame.bytes(), &mut first, LookupResult::default());
        }
        fragments::judge_echo(frame.bytes(), &mut first);
        let decision = Decision::of(&first);
        if !self.fragments.settle(place, decision, at.now) {
            return self.egress.drop_frame(at.view, frame, &first, DropReason::FragmentStoreFull);
        }
        self.fragments.pass(place, &first.parsed, at.now);
        self.act(at, frame, &first);
        while let Some((frame, held)) = self.fragments.release(at, place, decision) {
            self.flows.counters.totals.held.sub(1);
            self.act(at, frame, &held);
        }
    }

    /// Drops fragments that waited too long.
    pub(crate) fn expire_fragments(&mut self, view: &View, now: Tick) {
        while let Some(frame) = self.fragments.expired(now) {
            self.flows.counters.totals.held.sub(1);
            self.drop_held(Moment { view, now }, frame, DropReason::FragmentTimeout);
        }
    }

    /// Drops a frame that was held. A capture shows it a second time, with this end.
    fn drop_held(&mut self, at: Moment<'_>, frame: Io::Frame, reason: DropReason) {
        let packet = classify(at.view, frame.bytes(), frame.meta());
        let is_tapped = self.egress.tap.is_some();
        if is_tapped {
            self.egress.begin_capture(at.view, &frame, at.now);
        }
        self.egress.drop_frame(at.view, frame, &packet, reason);
        if is_tapped {
            self.egress.end_capture(at.view, packet.fate);
        }
    }

    /// What another worker gives.
    pub(crate) fn run_relayed(&mut self, view: &View, relay: Relay<Io::Frame>, now: Tick) {
        let at = Moment { view, now };
        match relay {
            Relay::Fragment(frame) => {
                let mut packet = classify(view, frame.bytes(), frame.meta());
                // Otherwise the view changed under way and the frame is no longer for a service.
                if packet.fate == Fate::Fragment {
                    packet.fate = Fate::Decided(Action::Hold);
                }
                self.act(at, frame, &packet);
            }
            Relay::Question(frame, question) => self.run_question(at, frame, question),
            Relay::Note(note) => {
                if let Some(mut member) = self.member(at) {
                    member.receive_note(note);
                }
            }
        }
    }

    /// The turn's part of the cluster.
    pub(crate) fn synchronise(&mut self, view: &View, now: Tick) {
        if let Some(mut member) = self.member(Moment { view, now }) {
            member.synchronise();
        }
    }

    /// Counts frames received from a port.
    pub(crate) fn count_received(&self, port: PortId, frames: &Frames<Io::Frame>) {
        let bytes = frames.iter().map(|frame| frame.bytes().len()).sum();
        self.egress.count_received(port, frames.len(), bytes);
    }

    /// A frame of a flow that this machine is taken to own.
    fn run_question(&mut self, at: Moment<'_>, frame: Io::Frame, question: Question) {
        let mut packet = classify(at.view, frame.bytes(), frame.meta());
        packet.fate = match self.member(at) {
            Some(mut member) => Fate::Decided(member.decide_question(frame.bytes(), &packet, question)),
            None => Fate::drop(DropReason::NoService),
        };
        match packet.fate {
            // Nobody is told: the asker's client waits for the answer to its own packet.
            Fate::Decided(Action::Drop(reason @ (DropReason::NoService | DropReason::NotReady))) => {
                self.egress.drop_frame(at.view, frame, &packet, reason);
            }
            _ => self.act(at, frame, &packet),
        }
    }

    /// A message of another machine.
    fn hear_peer(&mut self, at: Moment<'_>, frame: Io::Frame, packet: &Packet) {
        let heard = match self.member(at) {
            Some(mut member) => member.take_in(&frame, packet),
            None => Err(DropReason::PeerRefused),
        };
        let reason = match heard {
            Ok(None) => DropReason::PeerMessage,
            Ok(Some((whole, question))) => {
                self.run_question(at, whole, question);
                DropReason::PeerMessage
            }
            Err(reason) => reason,
        };
        self.egress.drop_frame(at.view, frame, packet, reason);
    }

    /// Received before this machine's join has committed: messages are taken in, the kernel gets what is its, and packets of
    /// services are dropped, because nothing is known yet of their flows.
    pub(crate) fn run_before_joining(&mut self, view: &View, frames: &mut Frames<Io::Frame>, now: Tick) {
        for frame in frames.drain(..) {
            let mut packet = classify(view, frame.bytes(), frame.meta());
            // Which ports are closed is not known either: others may have agreed on more services.
            let is_closed = packet.fate == Fate::drop(DropReason::NoService);
            if is_closed || matches!(packet.fate, Fate::Flow | Fate::Quoted | Fate::Fragment) {
                packet.fate = Fate::drop(DropReason::NotReady);
            }
            self.act(Moment { view, now }, frame, &packet);
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
                Some(packet) => self.act(Moment { view, now }, frame, &packet),
                None => self.egress.send(view, data, frame, Label::KERNEL),
            }
        }
    }

    /// The worker's part in its cluster, if it is in one.
    #[inline]
    fn member<'w>(&'w mut self, Moment { view, now }: Moment<'w>) -> Option<ClusterStage<'w, Io>> {
        let (cluster, sync) = (view.cluster.as_deref()?, self.sync.as_mut()?);
        let (flows, rings, egress) = (&mut self.flows, &mut self.rings, &mut self.egress);
        Some(ClusterStage { view, cluster, now, sync, flows, rings, egress })
    }

    #[inline(always)]
    fn replier<'w>(&'w mut self, at: Moment<'w>) -> Replier<'w, Io> {
        Replier { at, budgets: &mut self.replies, egress: &mut self.egress }
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
    match burst.groups.first() {
        Some(&(of_it, service)) if of_it & carried.done == carried.done => {
            flows.count_packets(service, count(u32::MAX), carried.datagrams as u64);
        }
        _ => bits(carried.done).for_each(|position| flows.count_plain(burst.summary(position))),
    }
}
