//! Clients: one flow after the other from the same port, with the shapes of TCP and UDP.

use super::packets::ClientPacket;
use super::random::Random;
use crate::frames::flags;
use wire::{Addr, FlowKey, ServiceId, Tick, Tuple};

/// The service that a client uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ServiceOf {
    pub(super) id: ServiceId,
    pub(super) vip: Addr,
    pub(super) port: u16,
    pub(super) tcp: bool,
}

/// Where a life stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LifePhase {
    /// Nothing sent yet.
    Fresh,
    /// SYN sent, or the first UDP packet.
    Opening,
    /// Packets and answers.
    Open,
    /// FIN sent.
    Closing,
    /// Between two lives.
    Closed,
}

/// A client.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) index: usize,
    pub(super) source: Addr,
    pub(super) sport: u16,
    pub(super) service: ServiceOf,
    /// The slot of its flow, and the service's place.
    pub(super) slot: (usize, u32),
    pub(super) life: u32,
    pub(super) phase: LifePhase,
    /// The backend that answered first: its id.
    pub(super) home: Option<u32>,
    /// When the home answered.
    pub(super) home_at: Tick,
    /// Packets still to send.
    pub(super) packets: u32,
    /// Sent and not answered yet.
    pub(super) unanswered: bool,
    pub(super) timeout_us: u64,
    /// Its timer; events of another number are old.
    pub(super) timer: u64,
    /// When a machine last sent one of its packets on to a backend.
    pub(super) seen: Tick,
    /// Which machine that was.
    pub(super) seen_by: usize,
    /// It was not seen for longer than the longest idle time: nothing is promised for this life.
    pub(super) lapsed: bool,
    /// It stayed although the table named another backend.
    pub(super) kept: bool,
    /// Judged already in this life.
    pub(super) judged: bool,
    /// Pauses for nearly the longest idle time now and then.
    pub(super) silent: bool,
    /// Sends its data in large packets.
    pub(super) large: bool,
    /// Packets sent in this life.
    pub(super) sent: u16,
}

/// Data of a large packet, bytes: two messages between machines.
const LARGE: usize = 1_400;

/// What all clients of a run have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Habits {
    /// The longest idle time; nobody is silent for longer than 85 % of it, but for UDP between two lives.
    pub max_idle_us: u64,
    /// Most packets of a life.
    pub packets: u64,
    /// Most lives are short and a few very long (a Pareto distribution of the packets, exponent 1.2), rather than all alike.
    pub tail: bool,
    /// Pauses between packets.
    pub pause_us: (u64, u64),
    /// Lives that have long pauses, in thousandths.
    pub silent: u64,
    /// Of the pauses of these, the long ones.
    pub pauses: u64,
}

impl Habits {
    fn packets_of_life(&self, random: &mut Random) -> u32 {
        let packets = if self.tail {
            let share = random.between(1, 1_000_000) as f64 / 1e6;
            (share.powf(-1.0 / 1.2) as u64).min(self.packets)
        } else {
            random.between(1, self.packets)
        };
        packets as u32
    }
}

/// First retransmission timeout.
pub(super) const RTO_US: u64 = 120_000;

impl Client {
    pub(super) fn key(&self) -> FlowKey {
        match self.source {
            Addr::V4(source) => FlowKey::narrow(source, self.sport, self.service.id),
            Addr::V6(_) => FlowKey::wide(&self.flow(), self.service.id),
        }
    }

    /// Its flow's addresses and ports.
    pub(super) fn flow(&self) -> Tuple {
        let ServiceOf { vip, port, tcp, .. } = self.service;
        let protocol = if tcp { 6 } else { 17 };
        Tuple { src: self.source, dst: vip, sport: self.sport, dport: port, protocol }
    }

    /// What the router hashes.
    pub(super) fn tuple(&self) -> u64 {
        let source = match self.source {
            Addr::V4(source) => u64::from(source) << 32,
            Addr::V6(source) => (source as u64) << 32 ^ (source >> 64) as u64,
        };
        source | u64::from(self.sport) << 16 | u64::from(self.service.port)
    }

    fn packet(&mut self, flags: u8) -> ClientPacket {
        self.sent = self.sent.wrapping_add(1);
        let has_data = self.large && flags & flags::PSH != 0;
        ClientPacket {
            source: self.source,
            vip: self.service.vip,
            sport: self.sport,
            dport: self.service.port,
            tcp: self.service.tcp,
            flags: if self.service.tcp { flags } else { 0 },
            client: u32::try_from(self.index).unwrap_or(u32::MAX),
            life: self.life,
            number: if self.service.tcp { self.sent } else { 0 },
            size: if has_data { LARGE } else { 0 },
        }
    }

    /// What follows a large packet at once: two more of them.
    pub(super) fn more(&mut self, packet: &ClientPacket) -> Vec<ClientPacket> {
        (0..if packet.size > 0 { 2 } else { 0 }).map(|_| self.packet(packet.flags)).collect()
    }

    /// The timer rang: what to send now, if anything, and in how long it rings again.
    pub(super) fn ring(
        &mut self,
        random: &mut Random,
        habits: &Habits,
        may_begin: bool,
    ) -> (Option<ClientPacket>, Option<u64>) {
        match self.phase {
            LifePhase::Fresh | LifePhase::Closed => {
                if !may_begin {
                    return (None, None);
                }
                self.life += 1;
                self.phase = LifePhase::Opening;
                self.home = None;
                self.judged = false;
                self.kept = false;
                self.lapsed = false;
                self.unanswered = true;
                self.timeout_us = RTO_US;
                self.packets = habits.packets_of_life(random);
                self.silent = random.chance(habits.silent);
                self.sent = 0;
                (Some(self.packet(flags::SYN)), Some(self.timeout_us))
            }
            LifePhase::Opening => {
                self.timeout_us = (self.timeout_us * 2).min(1_000_000);
                (Some(self.packet(flags::SYN)), Some(self.timeout_us))
            }
            LifePhase::Open if self.unanswered => {
                self.timeout_us = (self.timeout_us * 2).min(1_000_000);
                (Some(self.packet(flags::ACK | flags::PSH)), Some(self.timeout_us))
            }
            LifePhase::Open if self.packets == 0 || !may_begin => {
                self.phase = LifePhase::Closing;
                self.timeout_us = RTO_US;
                if self.service.tcp {
                    (Some(self.packet(flags::FIN | flags::ACK)), Some(self.timeout_us))
                } else {
                    self.phase = LifePhase::Closed;
                    (None, Some(random.between(habits.max_idle_us * 2, habits.max_idle_us * 3)))
                }
            }
            LifePhase::Open => {
                self.packets -= 1;
                self.unanswered = true;
                self.timeout_us = RTO_US;
                (Some(self.packet(flags::ACK | flags::PSH)), Some(self.timeout_us))
            }
            LifePhase::Closing => {
                // Said once more; then the port is used again.
                self.phase = LifePhase::Closed;
                (Some(self.packet(flags::FIN | flags::ACK)), Some(random.between(20_000, 1_500_000)))
            }
        }
    }

    /// The time to the next packet after an answer.
    fn pause(&self, random: &mut Random, habits: &Habits) -> u64 {
        if self.silent && random.chance(habits.pauses) {
            random.between(habits.max_idle_us / 4, habits.max_idle_us * 85 / 100)
        } else {
            random.between(habits.pause_us.0, habits.pause_us.1)
        }
    }

    /// A backend answered a packet of this life: in how long the timer rings. `opens`: to a SYN (or any UDP packet).
    pub(super) fn answered(
        &mut self,
        backend: u32,
        opens: bool,
        random: &mut Random,
        habits: &Habits,
        now: Tick,
    ) -> (Option<ClientPacket>, Option<u64>) {
        match self.phase {
            LifePhase::Opening if opens => {
                self.phase = LifePhase::Open;
                if self.home.is_none() {
                    self.home = Some(backend);
                    self.home_at = now;
                }
                self.unanswered = false;
                let acknowledge = self.service.tcp.then(|| self.packet(flags::ACK));
                (acknowledge, Some(self.pause(random, habits)))
            }
            LifePhase::Open if self.unanswered && (!opens || !self.service.tcp) => {
                self.unanswered = false;
                (None, Some(self.pause(random, habits)))
            }
            _ => (None, None),
        }
    }

    /// Gives up this life.
    pub(super) fn abandon(&mut self, random: &mut Random, max_idle_us: u64) -> u64 {
        self.phase = LifePhase::Closed;
        self.unanswered = false;
        random.between(max_idle_us, max_idle_us * 2)
    }
}
