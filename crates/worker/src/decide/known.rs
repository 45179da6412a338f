//! A packet of a flow: a hit keeps its backend; a miss is placed by the service's Maglev table, or by load, and remembered. Where
//! a service remembers slots instead of flows, a miss may belong to the table of before ([`slots`](crate::decide::slots)).

use crate::DropReason;
use crate::counters::CLOSED_SOON_US;
use crate::decide::flows::{Flows, PlacedFlow};
use crate::decide::least_load::Placement;
use crate::decide::slots::{place, place_in, slot};
use crate::describe::general::{Fate, FlowPacket, Packet, key_of};
use crate::lookup::LookupResult;
use crate::view::{BackendState, OnDown, View};
use flow::{Hit, State};
use wire::parse::{TCP, TcpFlags};
use wire::{BackendId, FlowKey, Tick, Tuple};

/// A SYN on a flow of a backend that takes no new flows is a retransmission when the flow was used this recently.
pub(crate) const SYN_RETRY_US: u64 = 500_000;

impl Flows {
    /// The key to look up for a packet of a flow, if any. TCP of an untainted slot needs none: it is decided here, by the slot.
    #[inline(never)]
    pub(crate) fn key(&mut self, view: &View, bytes: &[u8], packet: &mut Packet) -> Option<FlowKey> {
        let service = packet.service_in(view)?;
        let flow = packet.flow(bytes);
        if service.memory.is_some() && flow.protocol == TCP {
            let slot = slot(view, service, &flow);
            if service.is_stateless(slot) {
                if packet.fate == Fate::Flow {
                    self.count_for(service, packet);
                }
                self.tally.stateless += 1;
                let decided = place_in(view, service, slot).ok_or(DropReason::NoBackend);
                packet.fate = Fate::Decided(self.action(service, decided));
                return None;
            }
        }
        Some(key_of(service, &flow))
    }

    /// Notes that a flow was used. True: in a cluster, after so long a silence that the record of its owner must not end before its entry.
    #[inline]
    pub(crate) fn keep(&mut self, of: &FlowPacket<'_>, hit: &Hit) -> bool {
        let FlowPacket { view, now, service, packet, bytes } = *of;
        let state = next_state(hit.state, packet, bytes);
        if !self.changed && state != State::TcpHandshake && self.table.is_current(hit, state, now) {
            return false;
        }
        let key = key_of(service, &packet.parsed.tuple(bytes));
        // As it is now: of two packets in one burst the first has changed it.
        let Some(hit) = &self.table.get(&key, now) else { return false };
        let mut state = next_state(hit.state, packet, bytes);
        if state == State::TcpHandshake && self.is_proved(of, &key, hit) {
            state = State::TcpEstablished;
        }
        self.table.touch(&key, hit, state, now);
        self.changed |= hit.state != state;
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
        view.cluster.as_ref().is_some_and(|cluster| hit.idle_us > cluster.max_idle_us / 4)
    }

    /// Counts the first FIN or RST of a client after its handshake.
    fn client_closes(&self, key: &FlowKey, hit: &Hit, now: Tick) {
        if !matches!(hit.state, State::TcpHandshake | State::TcpEstablished) {
            return;
        }
        let Some(ends) = self.counters.ends(hit.backend) else { return };
        ends.closes.add(1);
        if self.probation.was_noted(self.table.hash_of(key), now, CLOSED_SOON_US) {
            ends.soon.add(1);
        }
    }

    /// Whether a packet of a handshake goes on where the one before ended ([`probation`](crate::decide::probation)); of the first two, the number is
    /// noted.
    fn is_proved(&mut self, of: &FlowPacket<'_>, key: &FlowKey, hit: &Hit) -> bool {
        let Some(number) = of.packet.parsed.tcp_number(of.bytes) else { return false };
        let hash = self.table.hash_of(key);
        let follows = self.probation.follows(hash, number, of.now, of.view.timeouts.syn_us);
        follows && hit.state == State::TcpHandshake
    }

    /// New flows, ICMP errors, entries that do not decide any more.
    #[inline(never)]
    pub(crate) fn steer_unknown(&mut self, of: &FlowPacket<'_>, answer: LookupResult) -> Placement {
        let FlowPacket { view, now, service, packet, bytes } = *of;
        let flow = packet.flow(bytes);
        let key = key_of(service, &flow);
        let hit = self.entry(&key, answer, now);
        let decides = hit.filter(|hit| usable(of, hit));
        if packet.fate == Fate::Quoted {
            // An ICMP error goes where its flow goes, and changes nothing.
            return decides
                .map(|hit| hit.backend)
                .or_else(|| self.known_elsewhere(of, &key))
                .or_else(|| place(view, service, &flow, false))
                .ok_or(DropReason::NoBackend);
        }
        if let Some(hit) = decides {
            self.tally.hits += 1;
            // Its slot is not tainted, so nobody keeps a record of it.
            let _is_revived = self.keep(of, &hit);
            return Ok(hit.backend);
        }
        self.counters.totals.resteered.add(u64::from(hit.is_some()));
        self.tally.misses += 1;
        let begins = begins_a_flow(packet);
        let known = self.known_elsewhere(of, &key);
        if known.is_none() && !begins && flow.protocol == TCP && service.memory.is_some() {
            self.counters.totals.flow_guessed.add(1);
        }
        let (backend, by_load) = match known {
            Some(backend) => (backend, false),
            None => self.place_anew(of, (&flow, &key))?,
        };
        let new = PlacedFlow { backend, state: first_state(flow.protocol == TCP), begins };
        if hit.is_none() && service.memory.is_some() && !self.table.has_room(&key) {
            // It needs no entry: without one it is at its slot's base, and stays there. Nobody should lose his for it.
            self.enter_nothing(&key, now);
        } else if self.remember(&key, LookupResult { hit, ..answer }, new, now) {
            if by_load {
                self.queues.charge();
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
        of: &FlowPacket<'_>,
        (flow, key): (&Tuple, &FlowKey),
    ) -> Result<(BackendId, bool), DropReason> {
        let FlowPacket { view, now, service, packet, .. } = *of;
        let begins = begins_a_flow(packet);
        let may_lose = self.may_lose_entries(view, key, now);
        let picked = packet
            .service
            .filter(|_| begins || flow.protocol != TCP && !may_lose)
            .and_then(|index| self.queues.pick(view, usize::from(index), now));
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
    fn may_lose_entries(&self, view: &View, key: &FlowKey, now: Tick) -> bool {
        let lately = self.crowded.is_some_and(|last| now.since_us(last) <= view.timeouts.udp_us);
        lately || !self.table.has_room(key)
    }
}

/// Whether an entry still decides. Not: a removed backend; one that is down, where the service reselects; and for
/// a SYN an entry that is closing or long idle, or one of a backend that takes no new flows, unless it may be the SYN that made the
/// entry, sent again: more than SYNs of a flow that were seen tell that it is another.
#[inline]
pub(crate) fn usable(of: &FlowPacket<'_>, hit: &Hit) -> bool {
    let FlowPacket { view, service, packet, .. } = *of;
    let Some(backend) = view.backend_of(service.id, hit.backend) else { return false };
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

/// The state of a flow of which one packet was seen.
pub(crate) const fn first_state(is_tcp: bool) -> State {
    if is_tcp { State::TcpNew } else { State::UdpNew }
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
