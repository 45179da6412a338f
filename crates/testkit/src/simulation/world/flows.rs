//! Clients, backends, and the judgement of what reaches these.

use super::{LEASE_US, World, WorldEvent};
use crate::simulation::checker::{Exempt, Property};
use crate::simulation::client::LifePhase;
use crate::simulation::packets::ClientPacket;
use statesync::Lasting;
use wire::Tick;

impl World<'_> {
    pub(super) fn ring(&mut self, client: usize, timer: u64) {
        let may_begin = self.may_begin();
        let of = &mut self.clients[client];
        if of.timer != timer {
            return;
        }
        let begins = matches!(of.phase, LifePhase::Fresh | LifePhase::Closed);
        let (packet, again) = of.ring(&mut self.random, &self.scenario.habits, may_begin);
        if begins && packet.is_some() {
            of.seen = Tick(0);
            let key = of.key();
            self.checker.renew(&key);
            self.touch_if_tainted(client);
        }
        self.follow_up(client, packet, again);
    }

    pub(super) fn follow_up(&mut self, client: usize, packet: Option<ClientPacket>, again: Option<u64>) {
        if let Some(packet) = packet {
            if self.trace.is_some() {
                let known = self.describe(client);
                self.say(|| {
                    format!("client {client} life {} sends {:#04x}; {known}", packet.life, packet.flags)
                });
            }
            self.send_from_client(client, packet);
            for packet in self.clients[client].more(&packet) {
                self.send_from_client(client, packet);
            }
        }
        if let Some(us) = again {
            let of = &mut self.clients[client];
            of.timer += 1;
            let timer = of.timer;
            self.after(us, WorldEvent::Ring { client, timer });
        }
    }

    pub(super) fn at_backend(&mut self, backend: u32, packet: ClientPacket, by: usize) {
        let client = packet.client as usize;
        self.say(|| {
            format!(
                "client {client} life {} {:#04x} at backend {backend} by machine {by}",
                packet.life, packet.flags
            )
        });
        self.checker.summary.delivered += 1;
        if self.clients[client].life != packet.life {
            return;
        }
        let key = (backend, packet.client);
        let opens = !packet.tcp || packet.is_syn();
        if opens {
            self.connections.insert(key, packet.life);
        }
        if !packet.is_syn() {
            self.judge(client, backend, by);
        } else if self.was_masked(backend) && self.is_being_corrected(&self.clients[client].key()) {
            // It passed a machine that the correction has not reached.
            let flow = self.clients[client].key();
            let why = if self.is_split(&flow) { Exempt::Partition } else { Exempt::W4 };
            self.checker.excuse(flow, why);
        }
        let known = self.connections.get(&key) == Some(&packet.life);
        for us in self.travels().into_iter().flatten() {
            let event = WorldEvent::AtClient { client, life: packet.life, backend, opens, reset: !known };
            self.after(us, event);
        }
    }

    /// A packet in the middle of a flow reached this backend: the right one?
    pub(super) fn judge(&mut self, client: usize, backend: u32, by: usize) {
        let now = self.now;
        let of = &mut self.clients[client];
        if !of.service.tcp && of.home.is_none() {
            of.home = Some(backend);
            of.home_at = now;
        }
        let Some(home) = of.home else { return };
        let answer = self.agreed.plan.services[of.slot.0].cur[of.slot.1 as usize];
        if home == backend && !of.kept && answer != self.ids.get(&home).copied() {
            of.kept = true;
            self.checker.summary.kept += 1;
        }
        if home == backend || of.judged || matches!(of.phase, LifePhase::Closing | LifePhase::Closed) {
            return;
        }
        of.judged = true;
        let (key, life, home_at, lapsed) = (of.key(), of.life, of.home_at, of.lapsed);
        // A machine that has not been shown that it is removed (the store is away) goes by what it remembers of the flow before, between the
        // same ports.
        let is_cut_off = !self.machines[by].link.is_up;
        let is_gone = is_cut_off && self.id_of(backend).is_none_or(|id| !self.plan().backends.contains(&id));
        if self.services.was_removed(home, home_at) || is_gone || lapsed {
            self.checker.summary.released += 1;
            return;
        }
        let mut exempt = self.checker.excused(&key, self.scenario, now);
        if exempt.is_none() && self.is_split(&key) {
            exempt = Some(Exempt::Partition);
        }
        if exempt.is_none() && self.was_masked(home) && self.is_being_corrected(&key) {
            exempt = Some(Exempt::W4);
        }
        // Begun under such a mask, or begun anew elsewhere because the machine that knew it had not told it yet.
        let in_force = |at: &Tick| (self.forced.0..=self.forced.1).contains(at);
        if exempt.is_none() && (in_force(&home_at) || in_force(&now) && self.was_masked(home)) {
            exempt = Some(Exempt::ForcedMask);
        }
        match exempt {
            Some(why) => {
                self.say(|| {
                    format!("client {client} life {life} moved from {home} to {backend}: exempt {why:?}")
                });
                *self.checker.summary.exempt.entry(why).or_default() += 1;
            }
            None => {
                let place = self.describe(client);
                let protocol = if self.clients[client].service.tcp { "TCP" } else { "UDP" };
                let what = format!(
                    "client {client} life {life} ({protocol}) moved from backend {home} to {backend}, by \
                     machine {by}; {place}"
                );
                self.fail(Property::Stays, what);
            }
        }
    }

    /// Whether the backend is masked, or was when somebody may have looked last.
    fn was_masked(&self, backend: u32) -> bool {
        let seen_us = self.scenario.control_delay_us.1 + LEASE_US;
        let id = self.id_of(backend);
        self.plan().masks.iter().any(|mask| Some(mask.backend) == id)
            || self.masked_until.get(&backend).is_some_and(|at| self.now.since_us(*at) <= seen_us)
    }

    /// Whether some machine has not acknowledged yet that the flow has another backend.
    pub(super) fn is_being_corrected(&self, key: &wire::FlowKey) -> bool {
        self.machines.iter().filter(|of| of.alive).any(|of| {
            let mut notes = of.workers.iter().flat_map(worker::Worker::unacknowledged);
            notes.any(|(_, note)| matches!(note, Lasting::Push { key: of, .. } if of == key))
        })
    }

    /// Whether a record of the flow cannot reach a machine because of a partition of now or of just before.
    pub(super) fn is_split(&self, key: &wire::FlowKey) -> bool {
        self.machines.iter().enumerate().filter(|(_, of)| of.alive).any(|(from, of)| {
            of.workers
                .iter()
                .flat_map(worker::Worker::unacknowledged)
                .any(|(to, note)| note.key() == *key && self.was_split(from, to.machine.index()))
        })
    }

    /// What everybody knows of a client's flow.
    pub(super) fn describe(&self, client: usize) -> String {
        let key = self.clients[client].key();
        let mut text = String::new();
        for (machine, of) in self.machines.iter().enumerate() {
            if !of.alive {
                text += &format!("[machine {machine} dead] ");
                continue;
            }
            for (core, worker) in of.workers.iter().enumerate() {
                let (entry, record) = worker.knowledge(&key, of.clock(self.now));
                if entry.is_none() && record.is_none() {
                    continue;
                }
                text += &format!(
                    "[{machine}.{core} entry {:?} record {:?}] ",
                    entry.map(|b| b.0),
                    record.map(|(b, guess)| (b.0, if guess { "guess" } else { "seen" }))
                );
            }
        }
        text
    }

    pub(super) fn at_client(&mut self, client: usize, life: u32, backend: u32, opens: bool, reset: bool) {
        let of = &mut self.clients[client];
        if of.life != life {
            return;
        }
        if reset {
            if matches!(of.phase, LifePhase::Open) && of.home.is_some_and(|home| home != backend) {
                let us = of.abandon(&mut self.random, self.scenario.habits.max_idle_us);
                self.follow_up(client, None, Some(us));
            }
            return;
        }
        let was_opening = of.phase == LifePhase::Opening;
        let (packet, again) = of.answered(backend, opens, &mut self.random, &self.scenario.habits, self.now);
        if was_opening && of.phase == LifePhase::Open {
            let summary = &mut self.checker.summary;
            *(if self.is_steady { &mut summary.steady_flows } else { &mut summary.flows }) += 1;
        }
        self.follow_up(client, packet, again);
    }
}
