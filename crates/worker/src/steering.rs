//! Third stage: hit or miss to a backend. A hit keeps its backend; a miss is placed by the service's Maglev table
//! and remembered.

use crate::classify::{Fate, Packet};
use crate::io::PacketIo;
use crate::view::{BackendState, HashOn, OnDown, ServiceView, View};
use crate::{DropReason, Worker};
use flow::{Hit, Insert, State};
use wire::{BackendId, Tick, Tuple};

/// A SYN on a flow of a backend that takes no new flows is a retransmission when the flow was used this recently.
const SYN_RETRY_US: u64 = 500_000;

impl<Io: PacketIo> Worker<Io> {
    /// Turns `Flow` and `Quoted` into `To` or `Drop`.
    pub(crate) fn steer(&mut self, view: &View, bytes: &[u8], packet: &mut Packet, now: Tick) {
        let remember = match packet.fate {
            Fate::Flow => true,
            Fate::Quoted => false,
            _ => return,
        };
        let Some(service) = packet.service.and_then(|index| view.service.get(usize::from(index))) else {
            packet.fate = Fate::Drop(DropReason::NoService);
            return;
        };
        if remember && let Some(of) = self.counters.service(service.id) {
            of.packets.add(1);
            of.bytes.add(u64::from(packet.parsed.end - packet.parsed.l3));
        }
        let chosen = if remember {
            self.steer_flow(view, service, bytes, packet, now)
        } else {
            self.steer_quoted(view, service, bytes, packet, now)
        };
        packet.fate = if let Some(backend) = chosen {
            Fate::To(backend)
        } else {
            if let Some(of) = self.counters.service(service.id) {
                of.no_backend.add(1);
            }
            Fate::Drop(DropReason::NoBackend)
        };
    }

    fn steer_flow(
        &mut self,
        view: &View,
        service: &ServiceView,
        bytes: &[u8],
        packet: &Packet,
        now: Tick,
    ) -> Option<BackendId> {
        // A packet earlier in this burst may have inserted, moved or removed what the burst look-up saw.
        let hit = match packet.hit {
            Some(hit) => Some(hit),
            None => self.flows.get(&packet.key, now),
        };
        if let Some(hit) = hit {
            if self.usable(view, service, &hit, packet) {
                self.counters.totals.flow_hits.add(1);
                self.flows.touch(&packet.key, &hit, next_state(Some(hit.state), packet), now);
                return Some(hit.backend);
            }
            self.counters.totals.resteered.add(1);
        }
        self.counters.totals.flow_misses.add(1);
        let backend = self
            .known_elsewhere(view, service, packet, now)
            .or_else(|| place(view, service, &packet.flow(bytes)))?;
        self.remember(service, packet, hit, backend, now);
        Some(backend)
    }

    /// An ICMP error goes where its flow goes, and changes nothing.
    fn steer_quoted(
        &self,
        view: &View,
        service: &ServiceView,
        bytes: &[u8],
        packet: &Packet,
        now: Tick,
    ) -> Option<BackendId> {
        packet
            .hit
            .filter(|hit| self.usable(view, service, hit, packet))
            .map(|hit| hit.backend)
            .or_else(|| self.known_elsewhere(view, service, packet, now))
            .or_else(|| place(view, service, &packet.flow(bytes)))
    }

    /// Whether an entry still decides. Not: a removed backend; one that is down, where the service reselects; and for
    /// a SYN an entry that is closing, long idle, or of a backend that takes no new flows (unless just used).
    fn usable(&self, view: &View, service: &ServiceView, hit: &Hit, packet: &Packet) -> bool {
        let Some(backend) = view.backends.get(hit.backend.index()).and_then(Option::as_ref) else {
            return false;
        };
        if backend.service != service.id {
            return false;
        }
        if backend.state == BackendState::Down && service.on_down == OnDown::Reselect {
            return false;
        }
        if packet.tcp_flags().is_some_and(wire::parse::TcpFlags::is_syn) {
            let stale = hit.state == State::TcpClosing || hit.idle_us > view.timeouts.tcp_established_us / 4;
            let leaving = backend.state != BackendState::Up && hit.idle_us > SYN_RETRY_US;
            return !stale && !leaving;
        }
        true
    }

    /// A flow that another worker knows: it came here because the NIC's queue choice changed, or as a fragment, or it
    /// is an ICMP error, whose hash has nothing to do with the flow's. A SYN begins anew, so it does not ask.
    fn known_elsewhere(
        &self,
        view: &View,
        service: &ServiceView,
        packet: &Packet,
        now: Tick,
    ) -> Option<BackendId> {
        if self.peers.len() < 2 || packet.tcp_flags().is_some_and(wire::parse::TcpFlags::is_syn) {
            return None;
        }
        let own = usize::from(self.core.0);
        let others = self.peers.iter().enumerate().filter(|(core, _)| *core != own);
        others
            .filter_map(|(_, reader)| reader.get(&packet.key, now))
            .find(|hit| self.usable(view, service, hit, packet))
            .map(|hit| hit.backend)
    }

    /// Enters the decision into the flow table. A refusal is no failure: the next packet is steered by the table again.
    fn remember(
        &mut self,
        service: &ServiceView,
        packet: &Packet,
        unusable: Option<Hit>,
        backend: BackendId,
        now: Tick,
    ) {
        let state = next_state(None, packet);
        if let Some(old) = unusable {
            self.flow_ended(old.backend);
            self.flows.set_backend(&packet.key, &old, backend, state, now);
        } else {
            let inserted = self.flows.insert(&packet.key, backend, state, now);
            if let Some((old, _)) = inserted.evicted {
                self.flow_ended(old);
                self.counters.totals.flow_expired.add(1);
            }
            match inserted.outcome {
                Insert::Done => {}
                Insert::Replaced(old) => self.flow_ended(old.backend),
                Insert::Refused(_) => {
                    self.counters.totals.flow_refused.add(1);
                    return;
                }
            }
        }
        self.counters.totals.flow_inserts.add(1);
        if let Some(of) = self.counters.service(service.id) {
            of.flows_new.add(1);
        }
        if let Some(of) = self.counters.backend(backend) {
            of.flows_new.add(1);
            of.flows.add(1);
        }
    }

    pub(crate) fn flow_ended(&self, backend: BackendId) {
        if let Some(of) = self.counters.backend(backend) {
            of.flows.sub(1);
        }
    }
}

/// The Maglev table's answer for a flow, past backends that take no new flows.
pub fn place(view: &View, service: &ServiceView, flow: &Tuple) -> Option<BackendId> {
    let hash = match service.hash {
        HashOn::Tuple => steer::hash::tuple(&view.cluster_key, flow),
        HashOn::Source => steer::hash::source(&view.cluster_key, flow.src),
    };
    let takes_new = |member: u16| {
        service
            .members
            .get(usize::from(member))
            .and_then(|id| view.backends.get(id.index())?.as_ref())
            .is_some_and(|backend| backend.state == BackendState::Up)
    };
    let member = service.maglev.pick(service.maglev.slot(hash), takes_new)?;
    service.members.get(usize::from(member)).copied()
}

/// The state of a flow after a packet. One packet makes no trust: not even a repeated SYN does.
fn next_state(before: Option<State>, packet: &Packet) -> State {
    let Some(flags) = packet.tcp_flags() else {
        return if before.is_some() { State::Udp } else { State::UdpNew };
    };
    match before {
        None => State::TcpNew,
        Some(State::TcpNew) if flags.is_syn() => State::TcpNew,
        Some(State::TcpClosing) => State::TcpClosing,
        Some(_) if flags.is_closing() => State::TcpClosing,
        Some(_) => State::TcpEstablished,
    }
}
