//! The store loses its data: plan, wishes, names and leases. Machines put back what they know.
//!
//! As in `control::cluster::participant`: the newest plan of those who have returned is the one, and nothing is begun before all have.

use super::{LEASE_US, World, WorldEvent};
use crate::simulation::checker::Property;
use crate::simulation::wiped::Wiped;
use statesync::number::{Known, choose};
use statesync::{MachineId, Member};
use std::sync::Arc;
use wire::Tick;

/// How long a leader waits for members that do not return.
const RETURN_US: u64 = 1_500_000;

fn name(machine: usize) -> String {
    format!("lb{machine}")
}

impl World<'_> {
    pub(super) fn wipe(&mut self) {
        if !self.active() {
            return;
        }
        self.sometime(self.scenario.wipe_us, WorldEvent::Wipe);
        if self.wiped.is_some() {
            return;
        }
        let away = self.random.between(50_000, 300_000);
        self.say(|| format!("the store loses its data, and is back in {away} us"));
        self.checker.summary.wipes += 1;
        self.registered.clear();
        self.store_away_until = self.store_away_until.max(Tick(self.now.0 + away));
        self.leaderless_until = Tick(u64::MAX);
        let mut back = Vec::new();
        for machine in 0..self.machines.len() {
            let us = away + self.random.between(1_000, 1_000_000);
            self.isolated_until[machine] = Tick(self.now.0 + us);
            back.push(self.isolated_until[machine]);
            self.after(us, WorldEvent::BackAtStore(Some(machine)));
        }
        self.after(away + RETURN_US, WorldEvent::BackAtStore(None));
        self.wiped = Some(Wiped {
            has_plan: false,
            back,
            returned: vec![false; self.machines.len()],
            until: Tick(self.now.0 + away + RETURN_US),
            is_over: false,
        });
    }

    pub(super) fn back_at_store(&mut self, machine: Option<usize>) {
        let Some(wiped) = &mut self.wiped else { return };
        match machine {
            // Of the time before, when the store had lost its data already.
            Some(machine) if self.now < wiped.back[machine] => return,
            None if self.now < wiped.until => return,
            Some(machine) => wiped.returned[machine] = true,
            None => wiped.is_over = true,
        }
        if let Some(machine) = machine.filter(|&machine| self.machines[machine].alive) {
            let known = self.machines[machine].follower.plan().cloned();
            if let Some(known) = known.filter(|known| !wiped.has_plan || known.step > self.plan.step) {
                wiped.has_plan = true;
                self.plan = known;
                let step = self.plan.step;
                // Names stay with their numbers, of those who are away as well.
                for (at, of) in self.machines.iter().enumerate() {
                    self.registered.insert(of.member.machine, (at, of.member.incarnation));
                }
                self.say(|| format!("machine {machine} puts step {step} back"));
            }
        }
        let Some(wiped) = &self.wiped else { return };
        let is_missing = |(at, of): (usize, &bool)| !of || !self.machines[at].alive;
        let waits = !wiped.is_over && wiped.returned.iter().enumerate().any(is_missing);
        if !wiped.has_plan || waits {
            return;
        }
        self.wiped = None;
        // Plans that nobody has seen were never made.
        let plan = Arc::clone(&self.plan);
        for (since, planned) in self.tainted_in.iter_mut().zip(&plan.services) {
            for (slot, since) in (0..).zip(since) {
                *since = if planned.tainted.contains(slot) { (*since).clamp(1, plan.step) } else { 0 };
            }
        }
        for lease in &mut self.leases {
            *lease = Tick(self.now.0 + LEASE_US);
        }
        self.leaderless_until = self.now;
        self.new_leader();
    }

    /// The incarnation of a machine that starts; `None`: the store has no plan yet.
    pub(super) fn choose_number(&mut self, machine: usize) -> Option<u32> {
        if self.wiped.as_ref().is_some_and(|wiped| !wiped.has_plan) {
            return None;
        }
        let names: Vec<String> = (0..self.machines.len()).map(name).collect();
        let member = |(machine, (_, incarnation)): (&MachineId, &(usize, u32))| Member {
            machine: *machine,
            incarnation: *incarnation,
        };
        let plan = &self.plan;
        let is_there = |at: usize| self.wiped.as_ref().is_none_or(|wiped| wiped.returned[at]);
        let known = Known {
            registered: self
                .registered
                .iter()
                .map(|(number, of)| (member((number, of)), Some(names[of.0].as_str())))
                .collect(),
            alive: self
                .machines
                .iter()
                .enumerate()
                .filter(|(at, of)| *at != machine && of.alive && is_there(*at))
                .map(|(at, of)| (of.member, names[at].as_str()))
                .collect(),
            planned: plan
                .members
                .iter()
                .chain(plan.next_members.iter().flat_map(statesync::Members::iter))
                .collect(),
            former: Vec::new(),
        };
        let former = self.machines[machine].member;
        // No clock: each is one later than the last that anybody knows of.
        match choose(&name(machine), 1, &known) {
            Ok(chosen) if chosen.machine == former.machine && chosen.incarnation > former.incarnation => {
                self.registered.insert(chosen.machine, (machine, chosen.incarnation));
                Some(chosen.incarnation)
            }
            other => {
                self.fail(
                    Property::Numbers,
                    format!("machine {machine}, {former:?} before, starts as {other:?}"),
                );
                None
            }
        }
    }
}
