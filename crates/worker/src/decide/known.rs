//! Third stage: hit or miss to a backend. A hit keeps its backend; a miss is placed by the service's Maglev table, or by load,
//! and remembered. Where a service remembers slots instead of flows ([`slots`](crate::view::slots)), a miss may belong to the
//! table of before.

use crate::counters::CLOSED_SOON_US;
use crate::decide::least_load::Picked;
use crate::describe::general::{Fate, Packet, key_of};
use crate::io::PacketIo;
use crate::sources;
use crate::view::slots::base_in_force;
use crate::view::{BackendState, HashOn, OnDown, ServiceView, View};
use crate::{DropReason, Worker};
use flow::{Hit, Insert, Inserted, State};
use wire::parse::{TCP, TcpFlags};
use wire::{BackendId, FlowKey, Tick, Tuple};

/// A SYN on a flow of a backend that takes no new flows is a retransmission when the flow was used this recently.
pub(crate) const SYN_RETRY_US: u64 = 500_000;

/// What the burst look-up said of a packet's key.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LookupResult {
    /// Its entry.
    pub(crate) hit: Option<Hit>,
    /// Its hash, for insertion.
    pub(crate) miss: Option<flow::Miss>,
}

impl<Io: PacketIo> Worker<Io> {
    /// Turns `Flow` and `Quoted` into `To` or `Drop`.
    #[inline]
    pub(crate) fn steer(
        &mut self,
        view: &View,
        bytes: &[u8],
        packet: &mut Packet,
        answer: LookupResult,
        now: Tick,
    ) {
        if !matches!(packet.fate, Fate::Flow | Fate::Quoted) {
            return;
        }
        let Some(service) = packet.service.and_then(|index| view.service.get(usize::from(index))) else {
            packet.fate = Fate::Drop(DropReason::NoService);
            return;
        };
        if packet.fate == Fate::Flow {
            self.count_for(service, packet);
            if let Some(hit) = answer.hit
                && !self.rewritten
                && usable(view, service, &hit, packet)
            {
                self.tally.hits += 1;
                self.keep(view, service, bytes, packet, &hit, now);
                packet.fate = Fate::To(hit.backend);
                return;
            }
        }
        if let Some(cluster) = &view.cluster
            && let Some(fate) = self.steer_tainted(view, cluster, bytes, packet, answer, now)
        {
            packet.fate = fate;
            return;
        }
        packet.fate = match self.steer_slowly(view, service, bytes, packet, answer, now) {
            Ok(backend) => Fate::To(backend),
            Err(reason) => self.nobody(service, reason),
        };
    }

    /// TCP of a service that remembers slots instead of flows, in an untainted slot: the table's answer, and nothing to
    /// look up or to enter. False for everything else.
    pub(crate) fn steer_by_slot(
        &mut self,
        view: &View,
        service: &ServiceView,
        bytes: &[u8],
        packet: &mut Packet,
    ) -> bool {
        let flow = packet.flow(bytes);
        if flow.protocol != TCP {
            return false;
        }
        let slot = slot(view, service, &flow);
        if !service.is_stateless(slot) {
            return false;
        }
        if packet.fate == Fate::Flow {
            self.count_for(service, packet);
        }
        self.tally.stateless += 1;
        packet.fate = match place_in(view, service, slot) {
            Some(backend) => Fate::To(backend),
            None => self.nobody(service, DropReason::NoBackend),
        };
        true
    }

    #[inline]
    pub(crate) fn count_for(&self, service: &ServiceView, packet: &Packet) {
        if let Some(of) = self.counters.service(service.id) {
            of.packets.add(1);
            of.bytes.add(u64::from(packet.parsed.end - packet.parsed.l3));
        }
    }

    /// A packet that no backend gets.
    #[inline]
    pub(crate) fn nobody(&self, service: &ServiceView, reason: DropReason) -> Fate {
        let count = match reason {
            DropReason::Overload => self.counters.overload(service.id),
            _ => self.counters.service(service.id).map(|of| &of.no_backend),
        };
        if let Some(count) = count {
            count.add(1);
        }
        Fate::Drop(reason)
    }

    /// Notes that a flow was used.
    #[inline]
    pub(crate) fn keep(
        &mut self,
        view: &View,
        service: &ServiceView,
        bytes: &[u8],
        packet: &Packet,
        hit: &Hit,
        now: Tick,
    ) {
        let mut state = next_state(hit.state, packet, bytes);
        if !self.flows.is_current(hit, state, now) || state == State::TcpHandshake {
            let key = key_of(service, &packet.parsed.tuple(bytes));
            // As it is now: of two packets in one burst the first has changed it.
            let Some(hit) = &self.flows.get(&key, now) else { return };
            state = next_state(hit.state, packet, bytes);
            if state == State::TcpHandshake && self.is_proved(view, packet, bytes, &key, hit, now) {
                state = State::TcpEstablished;
            }
            self.flows.touch(&key, hit, state, now);
            if hit.state == State::TcpNew
                && state == State::TcpHandshake
                && let Some(of) = self.counters.flows_of(hit.backend)
            {
                of.handshakes.add(1);
            }
            if packet.tcp_flags().is_some_and(TcpFlags::is_closing) {
                self.client_closes(&key, hit, now);
            }
            if hit.state.is_open() != state.is_open() {
                self.counters.flow_left(hit.backend, hit.state);
                self.counters.flow_came(hit.backend, state);
            }
            if let Some(cluster) = &view.cluster
                && hit.idle_us > cluster.max_idle_us / 4
            {
                self.refresh_revived(view, cluster, packet, bytes, hit, now);
            }
        }
    }

    /// Counts the first FIN or RST of a client after its handshake.
    fn client_closes(&self, key: &FlowKey, hit: &Hit, now: Tick) {
        if !matches!(hit.state, State::TcpHandshake | State::TcpEstablished) {
            return;
        }
        let Some(ends) = self.counters.ends(hit.backend) else { return };
        ends.closes.add(1);
        if self.probation.was_noted(self.flows.hash_of(key), now, CLOSED_SOON_US) {
            ends.soon.add(1);
        }
    }

    /// Whether a packet of a handshake goes on where the one before ended ([`probation`](crate::decide::probation)); of the first two, the number is
    /// noted.
    fn is_proved(
        &mut self,
        view: &View,
        packet: &Packet,
        bytes: &[u8],
        key: &FlowKey,
        hit: &Hit,
        now: Tick,
    ) -> bool {
        let Some(number) = packet.parsed.tcp_number(bytes) else { return false };
        let hash = self.flows.hash_of(key);
        let follows = self.probation.follows(hash, number, now, view.timeouts.syn_us);
        follows && hit.state == State::TcpHandshake
    }

    /// New flows, ICMP errors, entries that do not decide any more.
    #[inline(never)]
    fn steer_slowly(
        &mut self,
        view: &View,
        service: &ServiceView,
        bytes: &[u8],
        packet: &Packet,
        answer: LookupResult,
        now: Tick,
    ) -> Result<BackendId, DropReason> {
        let flow = packet.flow(bytes);
        let key = key_of(service, &flow);
        // A packet earlier in this burst may have inserted or rewritten what the burst look-up saw.
        let hit = match (answer.hit, answer.miss) {
            (Some(hit), _) if !self.rewritten => Some(hit),
            (_, Some(miss)) => self.flows.get_at(&key, miss, now),
            _ => self.flows.get(&key, now),
        };
        let decides = hit.filter(|hit| usable(view, service, hit, packet));
        if packet.fate == Fate::Quoted {
            // An ICMP error goes where its flow goes, and changes nothing.
            return decides
                .map(|hit| hit.backend)
                .or_else(|| self.known_elsewhere(view, service, packet, &key, now))
                .or_else(|| place(view, service, &flow, false))
                .ok_or(DropReason::NoBackend);
        }
        if let Some(hit) = decides {
            self.tally.hits += 1;
            self.keep(view, service, bytes, packet, &hit, now);
            return Ok(hit.backend);
        }
        self.counters.totals.resteered.add(u64::from(hit.is_some()));
        self.tally.misses += 1;
        let begins = begins_a_flow(packet);
        let known = self.known_elsewhere(view, service, packet, &key, now);
        if known.is_none() && !begins && flow.protocol == TCP && service.memory.is_some() {
            self.counters.totals.flow_guessed.add(1);
        }
        let (backend, by_load) = match known {
            Some(backend) => (backend, false),
            None => self.place_anew(view, service, packet, (&flow, &key), now)?,
        };
        let state = first_state(packet);
        if hit.is_none() && service.memory.is_some() && !self.flows.has_room(&key) {
            // It needs no entry: without one it is at its slot's base, and stays there. Nobody should lose his for it.
            self.enter_nothing(&key, now);
        } else if self.remember(service, &key, (hit, answer.miss), backend, state, now) {
            if by_load {
                self.queues.charge();
            }
            if !begins {
                self.count_met(backend);
            }
            return Ok(backend);
        }
        if service.memory.is_none() && (service.least_load().is_none() || known.is_some()) {
            return Ok(backend);
        }
        // Without an entry the next packet of this flow will be taken to be from before the change, or go by its slot because it shows
        // no beginning: so does this one.
        place(view, service, &flow, false).ok_or(DropReason::NoBackend)
    }

    /// Where a flow goes that nobody knows, and whether load said so. With policy least-load, where it shows that it begins, to the least
    /// loaded backend. TCP in the middle goes by its slot: its next packet may come to another worker, who must say the same.
    ///
    /// While new flows lose their entries to others, or find no room, a flow that seems to begin may be one that has lost its own: all
    /// that begin then go where they would go without one, and so they stay there.
    fn place_anew(
        &mut self,
        view: &View,
        service: &ServiceView,
        packet: &Packet,
        (flow, key): (&Tuple, &FlowKey),
        now: Tick,
    ) -> Result<(BackendId, bool), DropReason> {
        let begins = begins_a_flow(packet);
        let may_lose = self.may_lose_entries(view, key, now);
        let picked = packet
            .service
            .filter(|_| begins || flow.protocol != TCP && !may_lose)
            .and_then(|index| self.pick(view, usize::from(index), service, now));
        match picked {
            Some(picked) if !may_lose => picked.map(|backend| (backend, true)),
            Some(Err(DropReason::Overload)) => Err(DropReason::Overload),
            _ => {
                let begins = begins && !(may_lose && service.memory.is_some());
                place(view, service, flow, begins)
                    .map(|backend| (backend, false))
                    .ok_or(DropReason::NoBackend)
            }
        }
    }

    /// Whether a new flow might be one whose entry was refused or displaced, or will be: untrusted flows have used up their share, or
    /// had within the idle time of UDP.
    pub(crate) fn may_lose_entries(&self, view: &View, key: &FlowKey, now: Tick) -> bool {
        let lately = self.crowded.is_some_and(|last| now.since_us(last) <= view.timeouts.udp_us);
        lately || !self.flows.has_room(key)
    }

    /// The least loaded backend, of a service with that policy. [`Queues::charge`](crate::decide::least_load::Queues::charge) it when the flow is
    /// entered.
    pub(crate) fn pick(
        &mut self,
        view: &View,
        index: usize,
        service: &ServiceView,
        now: Tick,
    ) -> Option<Result<BackendId, DropReason>> {
        let policy = service.least_load()?;
        Some(match self.queues.pick(view, index, service, policy, now)? {
            Picked::Backend(backend) => Ok(backend),
            Picked::Nobody => Err(DropReason::NoBackend),
            Picked::Overloaded => Err(DropReason::Overload),
        })
    }

    /// Enters the decision into the flow table. False when there is no room, which is no failure: the next packet is
    /// steered by the table again.
    pub(crate) fn remember(
        &mut self,
        service: &ServiceView,
        key: &FlowKey,
        (unusable, miss): (Option<Hit>, Option<flow::Miss>),
        backend: BackendId,
        state: State,
        now: Tick,
    ) -> bool {
        // As it is now: a correction may have changed or removed it since it was found.
        if unusable.is_some()
            && let Some(old) = self.flows.get(key, now)
        {
            self.counters.flow_left(old.backend, old.state);
            self.flows.set_backend(key, &old, backend, state, now);
            self.rewritten = true;
            self.count_new(service, backend);
            return true;
        }
        self.enter(service, key, miss, backend, state, now)
    }

    /// Makes an entry where there is none. False when there is no room.
    #[inline]
    pub(crate) fn enter(
        &mut self,
        service: &ServiceView,
        key: &FlowKey,
        miss: Option<flow::Miss>,
        backend: BackendId,
        state: State,
        now: Tick,
    ) -> bool {
        let inserted = match miss {
            Some(miss) => self.flows.insert_at(key, miss, backend, state, now),
            None => self.flows.insert(key, backend, state, now),
        };
        let is_entered = self.settle_insert(key, inserted, now);
        if is_entered {
            self.count_new(service, backend);
        }
        is_entered
    }

    /// Counts what went for an insertion; false when there was no room for it.
    pub(crate) fn settle_insert(&mut self, key: &FlowKey, inserted: Inserted, now: Tick) -> bool {
        if let Some((old, state)) = inserted.evicted {
            self.counters.flow_left(old, state);
            let totals = &self.counters.totals;
            if inserted.displaced {
                totals.flow_displaced.add(1);
                self.crowded = Some(now);
                // Its flow is one that finds no room, as far as others have to know.
                if let (Some(sync), Some(lost)) = (self.sync.as_mut(), self.flows.displaced_by(key)) {
                    sync.refuse(lost, now);
                }
                self.sampler.note(&self.counters.sources, || Some(sources::of_key(key)));
            } else {
                totals.flow_expired.add(1);
            }
        }
        match inserted.outcome {
            Insert::Done => true,
            Insert::Replaced(old) => {
                self.counters.flow_left(old.backend, old.state);
                true
            }
            Insert::Refused(_) => {
                self.enter_nothing(key, now);
                false
            }
        }
    }

    /// A flow gets no entry.
    fn enter_nothing(&mut self, key: &FlowKey, now: Tick) {
        self.counters.totals.flow_refused.add(1);
        self.crowded = Some(now);
        self.sampler.note(&self.counters.sources, || Some(sources::of_key(key)));
        if let Some(sync) = self.sync.as_mut() {
            sync.refuse(*key, now);
        }
    }

    #[inline]
    fn count_new(&self, service: &ServiceView, backend: BackendId) {
        self.counters.totals.flow_inserts.add(1);
        if let Some(of) = self.counters.service(service.id) {
            of.flows_new.add(1);
        }
        if let Some(of) = self.counters.flows_of(backend) {
            of.flows_new.add(1);
            of.flows.add(1);
        }
    }

    /// A flow has its entry that no SYN began.
    pub(crate) fn count_met(&self, backend: BackendId) {
        if let Some(of) = self.counters.flows_of(backend) {
            of.met.add(1);
        }
    }
}

/// Whether an entry still decides. Not: a removed backend; one that is down, where the service reselects; and for
/// a SYN an entry that is closing or long idle, or one of a backend that takes no new flows, unless it may be the SYN that made the
/// entry, sent again: more than SYNs of a flow that were seen tell that it is another.
#[inline]
pub(crate) fn usable(view: &View, service: &ServiceView, hit: &Hit, packet: &Packet) -> bool {
    let Some(backend) = view.backends.get(hit.backend.index()).and_then(Option::as_ref) else {
        return false;
    };
    if backend.service != service.id {
        return false;
    }
    if backend.state == BackendState::Down && service.on_down == OnDown::Reselect {
        return false;
    }
    if begins_a_flow(packet) {
        let stale = !hit.state.is_open() || hit.idle_us > view.timeouts.tcp_established_us / 4;
        let is_again = hit.state == State::TcpNew && hit.idle_us <= SYN_RETRY_US;
        return !stale && (is_again || backend.state == BackendState::Up);
    }
    true
}

/// Whether a packet says that its flow begins: a SYN.
#[inline]
pub(crate) fn begins_a_flow(packet: &Packet) -> bool {
    packet.tcp_flags().is_some_and(TcpFlags::is_syn)
}

/// Where a flow without an entry belongs: if it began before its slot's answer changed, to the slot's base; else to the
/// table's answer. Only TCP shows whether it `begins`.
pub fn place(view: &View, service: &ServiceView, flow: &Tuple, begins: bool) -> Option<BackendId> {
    let slot = slot(view, service, flow);
    if flow.protocol == TCP
        && !begins
        && let Some(base) = base_in_force(view, service, slot)
    {
        return Some(base);
    }
    place_in(view, service, slot)
}

/// The slot of a flow.
#[inline]
pub fn slot(view: &View, service: &ServiceView, flow: &Tuple) -> u32 {
    let hash = match service.hash {
        HashOn::Tuple => steer::hash::tuple(&view.cluster_key, flow),
        HashOn::Source => steer::hash::source(&view.cluster_key, flow.src),
    };
    service.maglev.slot(hash)
}

/// The Maglev table's answer for a slot, past backends that take no new flows.
#[inline]
pub(crate) fn place_in(view: &View, service: &ServiceView, slot: u32) -> Option<BackendId> {
    let takes_new = |member: u16| {
        service
            .members
            .get(usize::from(member))
            .and_then(|id| view.backends.get(id.index())?.as_ref())
            .is_some_and(|backend| backend.state == BackendState::Up)
    };
    let member = service.maglev.pick(slot, takes_new)?;
    service.members.get(usize::from(member)).copied()
}

/// The state of a flow of which this is the first packet.
pub(crate) fn first_state(packet: &Packet) -> State {
    if packet.tcp_flags().is_some() { State::TcpNew } else { State::UdpNew }
}

/// The state of a flow after a further packet. Repeated SYNs make no trust, nor do two packets of TCP: what the third must show is for
/// [`probation`](crate::decide::probation) to say. Any packet but a RST tells that a RST ended nothing (RFC 6146 3.5.2.2), and data that a FIN did not.
fn next_state(before: State, packet: &Packet, bytes: &[u8]) -> State {
    use State::{TcpClosing, TcpEstablished, TcpHalfClosed, TcpHandshake, TcpNew, Udp};
    let Some(flags) = packet.tcp_flags() else { return Udp };
    match before {
        TcpNew if flags.is_syn() => TcpNew,
        // What ends before it was trusted is forgotten soon.
        TcpNew | TcpHandshake if flags.is_closing() => TcpNew,
        TcpNew | TcpHandshake => TcpHandshake,
        _ if flags.is_reset() => TcpClosing,
        _ if flags.is_closing() => TcpHalfClosed,
        TcpHalfClosed if !packet.parsed.has_tcp_data(bytes) => TcpHalfClosed,
        _ => TcpEstablished,
    }
}
