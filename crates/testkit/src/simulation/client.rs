//! Clients: one flow after the other from the same port, with the shapes of TCP and UDP.

use super::packets::ClientPacket;
use super::random::Random;
use crate::frames::flags;
use wire::{FlowKey, ServiceId, Tick};

/// The service that a client uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ServiceOf {
    pub(super) id: ServiceId,
    pub(super) vip: u32,
    pub(super) port: u16,
    pub(super) tcp: bool,
}

/// Where a life stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
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
    pub(super) source: u32,
    pub(super) sport: u16,
    pub(super) service: ServiceOf,
    pub(super) life: u32,
    pub(super) phase: Phase,
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
    /// Judged already in this life.
    pub(super) judged: bool,
    /// Pauses for nearly the longest idle time now and then.
    pub(super) silent: bool,
}

/// First retransmission timeout.
pub(super) const RTO_US: u64 = 120_000;

impl Client {
    pub(super) fn key(&self) -> FlowKey {
        FlowKey::narrow(self.source, self.sport, self.service.id)
    }

    pub(super) fn tuple(&self) -> u64 {
        u64::from(self.source) << 32 | u64::from(self.sport) << 16 | u64::from(self.service.port)
    }

    fn packet(&self, flags: u8) -> ClientPacket {
        ClientPacket {
            source: self.source,
            vip: self.service.vip,
            sport: self.sport,
            dport: self.service.port,
            tcp: self.service.tcp,
            flags: if self.service.tcp { flags } else { 0 },
            client: u32::try_from(self.index).unwrap_or(u32::MAX),
            life: self.life,
        }
    }

    /// The timer rang: what to send now, if anything, and in how long it rings again.
    pub(super) fn ring(
        &mut self,
        random: &mut Random,
        max_idle_us: u64,
        may_begin: bool,
    ) -> (Option<ClientPacket>, Option<u64>) {
        match self.phase {
            Phase::Fresh | Phase::Closed => {
                if !may_begin {
                    return (None, None);
                }
                self.life += 1;
                self.phase = Phase::Opening;
                self.home = None;
                self.judged = false;
                self.lapsed = false;
                self.unanswered = true;
                self.timeout_us = RTO_US;
                self.packets = random.between(1, 25) as u32;
                self.silent = random.chance(400);
                (Some(self.packet(flags::SYN)), Some(self.timeout_us))
            }
            Phase::Opening => {
                self.timeout_us = (self.timeout_us * 2).min(1_000_000);
                (Some(self.packet(flags::SYN)), Some(self.timeout_us))
            }
            Phase::Open if self.unanswered => {
                self.timeout_us = (self.timeout_us * 2).min(1_000_000);
                (Some(self.packet(flags::ACK | flags::PSH)), Some(self.timeout_us))
            }
            Phase::Open if self.packets == 0 || !may_begin => {
                self.phase = Phase::Closing;
                self.timeout_us = RTO_US;
                if self.service.tcp {
                    (Some(self.packet(flags::FIN | flags::ACK)), Some(self.timeout_us))
                } else {
                    self.phase = Phase::Closed;
                    (None, Some(random.between(max_idle_us * 2, max_idle_us * 3)))
                }
            }
            Phase::Open => {
                self.packets -= 1;
                self.unanswered = true;
                self.timeout_us = RTO_US;
                (Some(self.packet(flags::ACK | flags::PSH)), Some(self.timeout_us))
            }
            Phase::Closing => {
                // Said once more; then the port is used again.
                self.phase = Phase::Closed;
                (Some(self.packet(flags::FIN | flags::ACK)), Some(random.between(20_000, 1_500_000)))
            }
        }
    }

    /// The time to the next packet after an answer.
    fn pause(&self, random: &mut Random, max_idle_us: u64) -> u64 {
        if self.silent && random.chance(300) {
            random.between(max_idle_us / 4, max_idle_us * 85 / 100)
        } else {
            random.between(10_000, 300_000)
        }
    }

    /// A backend answered a packet of this life: in how long the timer rings. `opens`: to a SYN (or any UDP packet).
    pub(super) fn answered(
        &mut self,
        backend: u32,
        opens: bool,
        random: &mut Random,
        max_idle_us: u64,
        now: Tick,
    ) -> (Option<ClientPacket>, Option<u64>) {
        match self.phase {
            Phase::Opening if opens => {
                self.phase = Phase::Open;
                if self.home.is_none() {
                    self.home = Some(backend);
                    self.home_at = now;
                }
                self.unanswered = false;
                let acknowledge = self.service.tcp.then(|| self.packet(flags::ACK));
                (acknowledge, Some(self.pause(random, max_idle_us)))
            }
            Phase::Open if self.unanswered && (!opens || !self.service.tcp) => {
                self.unanswered = false;
                (None, Some(self.pause(random, max_idle_us)))
            }
            _ => (None, None),
        }
    }

    /// Gives up this life.
    pub(super) fn abandon(&mut self, random: &mut Random, max_idle_us: u64) -> u64 {
        self.phase = Phase::Closed;
        self.unanswered = false;
        random.between(max_idle_us, max_idle_us * 2)
    }
}
