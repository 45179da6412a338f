//! The store, the leader, and what machines see of the plan.

use super::{FORCED_US, LEASE_US, World, WorldEvent};
use crate::simulation::checker::Property;
use crate::simulation::machine::{Machine, make_table, owners_of};
use statesync::plan::{Acknowledgement, Leader, Phase, Plan, Request, Tables};
use statesync::{MachineId, Members};
use std::sync::Arc;
use wire::{BackendId, Tick};

impl World<'_> {
    pub(super) fn control_delay(&mut self) -> u64 {
        self.random.between(self.scenario.control_delay_us.0, self.scenario.control_delay_us.1)
    }

    pub(super) fn send_acknowledgement(&mut self, acknowledgement: Acknowledgement) {
        if self.now < self.isolated_until[acknowledgement.member.machine.index()] {
            return;
        }
        let us = self.control_delay();
        self.say(|| {
            format!("machine {} has done step {}", acknowledgement.member.machine.0, acknowledgement.step)
        });
        self.after(us, WorldEvent::Acknowledge(Box::new(acknowledgement)));
    }

    pub(super) fn lead(&mut self) {
        if self.now < self.store_away_until.max(self.leaderless_until) || self.wiped.is_some() {
            // Leases do not run while there is no store to keep them.
            for lease in &mut self.leases {
                *lease = Tick(self.now.0 + LEASE_US);
            }
            return;
        }
        for (machine, of) in self.machines.iter().enumerate() {
            if of.alive && self.now >= self.isolated_until[machine] {
                self.leases[machine] = Tick(self.now.0 + LEASE_US);
            }
        }
        let live = Members::new(
            self.machines
                .iter()
                .zip(&self.leases)
                .filter(|(_, lease)| **lease > self.now)
                .map(|(machine, _)| machine.member),
        );
        let forced = self.leader.lagging(&live).next().is_some();
        let in_force = |plan: &Plan| plan.masks.iter().filter(|mask| mask.in_force).count();
        let before = in_force(&self.plan);
        let now = self.now;
        let Some(plan) = self.leader.poll(&live, now) else {
            return;
        };
        let former = std::mem::replace(&mut self.plan, Arc::new(plan.clone()));
        self.check_step(&former);
        if in_force(&self.plan) > before && forced {
            self.forced = (self.now, Tick(self.now.0 + FORCED_US));
        }
        let plan = Arc::clone(&self.plan);
        for (since, planned) in self.tainted_in.iter_mut().zip(&plan.services) {
            for (slot, since) in (0..).zip(since) {
                *since = match (planned.tainted.contains(slot), *since) {
                    (false, _) => 0,
                    (true, 0) => plan.step,
                    (true, known) => known,
                };
            }
        }
        if plan.phase == Phase::Commit {
            self.checker.summary.changes += 1;
        }
        self.say(|| {
            let tainted: Vec<_> =
                plan.services.iter().map(|s| s.tainted.iter().collect::<Vec<_>>()).collect();
            format!(
                "plan {} {:?} epoch {} generation {} members {:?} tainted {tainted:?} masks {:?}",
                plan.step,
                plan.phase,
                plan.epoch,
                plan.generation,
                plan.members.iter().map(|m| (m.machine.0, m.incarnation)).collect::<Vec<_>>(),
                plan.masks.iter().map(|m| (m.backend.0, m.in_force)).collect::<Vec<_>>()
            )
        });
        for machine in 0..self.machines.len() {
            let us = self.control_delay();
            self.after(us, WorldEvent::Show { machine, watch: false });
        }
    }

    /// A step begins when all live members have done the one before, and the next owners have the records.
    fn check_step(&mut self, former: &Plan) {
        let plan = Arc::clone(&self.plan);
        self.count_touched(former);
        for mask in former.masks.iter().chain(&plan.masks) {
            self.masked_until.insert(mask.backend.0, self.now);
        }
        if plan.phase != former.phase && plan.phase != Phase::Idle {
            let lags = |(at, of): (usize, &Machine)| {
                let is_waited_for = of.alive && former.concerns(of.member) && plan.concerns(of.member);
                (is_waited_for && of.follower.done() < former.step).then_some(at)
            };
            if let Some(machine) = self.machines.iter().enumerate().find_map(lags) {
                self.fail(
                    Property::Order,
                    format!(
                        "{:?} begins although machine {machine} has not done step {}",
                        plan.phase, former.step
                    ),
                );
            }
        }
        let Some(next) = plan.next_members.as_ref().filter(|_| plan.phase == Phase::EpochPrepare) else {
            return;
        };
        let settled = |members: &Members| {
            owners_of(
                &Plan { members: members.clone(), next_members: None, ..(*plan).clone() },
                self.scenario,
            )
        };
        let (before, after) = (settled(&plan.members), settled(next));
        let stays = |machine: MachineId| plan.members.incarnation(machine) == next.incarnation(machine);
        for service in &plan.services {
            for slot in 0..self.scenario.slots {
                let (old, new) = (before.asked(service.service, slot), after.asked(service.service, slot));
                let Some(primary) = new.primary.filter(|&machine| stays(machine)) else { continue };
                let heir = old.iter().find(|&machine| stays(machine));
                if heir.is_some() && heir != Some(primary) {
                    let what =
                        format!("slot {slot} goes to machine {}, which has no records of it", primary.0);
                    return self.fail(Property::Succession, what);
                }
            }
        }
    }

    /// Counts the flows whose answer the step changes.
    fn count_touched(&mut self, former: &Plan) {
        let plan = Arc::clone(&self.plan);
        if plan.job.id == former.job.id {
            return;
        }
        let mut slots: Vec<(usize, u32)> = plan.job.export.iter().collect();
        self.checker.summary.slots += slots.len() as u64;
        if plan.job.migrate {
            let services = plan.services.iter().enumerate();
            slots.extend(services.flat_map(|(at, of)| of.tainted.iter().map(move |slot| (at, slot))));
        }
        for (service, slot) in slots {
            let clients = &self.in_slot[service][slot as usize];
            self.checker.touched += clients.iter().filter(|&&of| self.clients[of].life > 0).count() as u64;
        }
    }

    /// A flow is told when it begins in a tainted slot.
    pub(super) fn touch_if_tainted(&mut self, client: usize) {
        let (service, slot) = self.clients[client].slot;
        let is_tainted = self.scenario.by_load || self.plan.services[service].tainted.contains(slot);
        self.checker.touched += u64::from(is_tainted);
    }

    /// And every quarter of the longest idle time while it is used there.
    pub(super) fn quarter(&mut self) {
        for client in 0..self.clients.len() {
            if self.clients[client].life > 0 {
                self.touch_if_tainted(client);
            }
        }
        self.after(self.scenario.habits.max_idle_us / 4, WorldEvent::Quarter);
    }

    pub(super) fn leader_dies(&mut self) {
        if !self.active() {
            return;
        }
        if self.wiped.is_some() {
            // There is none.
            return self.sometime(self.scenario.leader_us, WorldEvent::LeaderDies);
        }
        let us = self.random.between(100_000, 1_200_000);
        self.say(|| format!("the leader dies; another one in {us} us"));
        self.checker.summary.leaders += 1;
        self.leaderless_until = Tick(self.now.0 + us);
        self.after(us, WorldEvent::NewLeader);
        self.sometime(self.scenario.leader_us, WorldEvent::LeaderDies);
    }

    /// Another leader goes on from the plan, and is told what is wanted.
    pub(super) fn new_leader(&mut self) {
        if self.now < self.leaderless_until {
            return;
        }
        let plan = (*self.plan).clone();
        let masks: Vec<u32> = plan.masks.iter().map(|mask| mask.backend.0).collect();
        self.leader = Leader::new(plan, self.scenario.habits.max_idle_us, self.now);
        if let Some(rule) = self.scenario.broken {
            self.leader.break_rule(rule);
        }
        self.request_tables();
        for backend in masks.iter().filter(|backend| !self.masked.contains(backend)) {
            let _ = self.leader.request(Request::Unmask(BackendId(*backend)));
        }
        for backend in self.masked.iter().filter(|backend| !masks.contains(backend)) {
            let _ = self.leader.request(Request::Mask(BackendId(*backend)));
        }
    }

    pub(super) fn request_tables(&mut self) {
        if self.now < self.leaderless_until {
            // The next leader is told.
            return;
        }
        let mut answers = Vec::new();
        for of in &self.wanted {
            let mut sorted = of.clone();
            sorted.sort_unstable();
            let made = make_table(&sorted, self.scenario.slots);
            // Of tables that nobody uses any more only this place knows.
            self.registry.tables.retain(|known| Arc::strong_count(&known.answers) > 1);
            // The same table is the same object, as views look for it.
            let same = self.registry.tables.iter().find(|known| known.answers == made.answers).cloned();
            let made = same.unwrap_or_else(|| {
                self.registry.tables.push(made.clone());
                made
            });
            answers.push(made.answers);
        }
        let backends = self.wanted.iter().flatten().chain(&self.drained).map(|&id| BackendId(id)).collect();
        if let Err(refused) = self.leader.request(Request::Tables(Tables { answers, backends })) {
            self.fail(Property::Served, format!("a change was refused: {refused}"));
        }
    }

    pub(super) fn show(&mut self, machine: usize) {
        let of = &mut self.machines[machine];
        if !of.alive || self.wiped.as_ref().is_some_and(|wiped| !wiped.has_plan) {
            return;
        }
        if self.now >= self.store_away_until.max(self.isolated_until[machine]) {
            let is_new = of.offer(&self.plan, &self.registry, self.scenario);
            if is_new {
                let step = self.plan.step;
                self.say(|| format!("machine {machine} sees step {step}"));
                for core in 0..self.scenario.cores {
                    self.plan_turn(machine, core, Tick(self.now.0 + 1 + core as u64 * 50));
                }
            } else {
                of.follower.repeat();
                if let Some(acknowledgement) = of.follower.acknowledge() {
                    self.send_acknowledgement(acknowledgement);
                }
            }
        }
    }
}
