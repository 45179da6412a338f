//! The plan, as it is in the store.

use super::{FORCED_US, World, WorldEvent};
use crate::simulation::checker::Property;
use crate::simulation::machine::{Machine, owners_of};
use crate::simulation::services::{Standing, name_of};
use statesync::plan::{Phase, Plan};
use statesync::{MachineId, Members};
use std::sync::Arc;
use wire::{BackendId, Tick};

impl World<'_> {
    /// The store may have another plan.
    pub(super) fn look_at_plan(&mut self) {
        let agreed = match self.store.agreed() {
            Ok(Some(agreed)) => agreed,
            Ok(None) => return,
            Err(problem) => {
                return self.fail(Property::Engine, format!("the plan cannot be read: {problem}"));
            }
        };
        if Arc::ptr_eq(&agreed, &self.agreed) {
            return;
        }
        let former = std::mem::replace(&mut self.agreed, Arc::clone(&agreed));
        let numbers = agreed.backends.iter().filter_map(|(name, id)| Some((name.strip_prefix('b')?, *id)));
        let numbers = numbers.filter_map(|(number, id)| Some((id, number.parse().ok()?)));
        self.numbers = numbers.collect();
        self.ids = self.numbers.iter().map(|(id, number)| (*number, *id)).collect();
        let (former, plan) = (&former.plan, &agreed.plan);
        for backend in
            former.masks.iter().chain(&plan.masks).filter_map(|mask| self.numbers.get(&mask.backend))
        {
            self.masked_until.insert(*backend, self.now);
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
        if former.services.len() == plan.services.len() {
            self.check_step(former, plan);
        }
        for (since, planned) in self.tainted_in.iter_mut().zip(&plan.services) {
            for (slot, since) in (0..).zip(since) {
                *since = match (planned.tainted.contains(slot), *since) {
                    (false, _) => 0,
                    // Of a plan that was lost.
                    (true, known) if known == 0 || known > plan.step => plan.step,
                    (true, known) => known,
                };
            }
        }
        let in_force = |plan: &Plan| plan.masks.iter().filter(|mask| mask.in_force).count();
        let lags = |of: &Machine| {
            of.alive && former.members.contains(of.member()) && of.control.done() < former.step
        };
        if in_force(plan) > in_force(former) && self.machines.iter().any(lags) {
            self.forced = (self.now, Tick(self.now.0 + FORCED_US));
        }
        if plan.phase == Phase::Commit && plan.step != former.step {
            self.checker.summary.changes += 1;
        }
    }

    /// A step begins when all live members have done the one before, and the next owners have the records.
    fn check_step(&mut self, former: &Plan, plan: &Plan) {
        self.count_touched(former, plan);
        if plan.phase != former.phase && plan.phase != Phase::Idle && plan.step > former.step {
            let lags = |(at, of): (usize, &Machine)| {
                let is_waited_for = of.alive && former.concerns(of.member()) && plan.concerns(of.member());
                (is_waited_for && of.control.done() < former.step).then_some(at)
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
            owners_of(&Plan { members: members.clone(), next_members: None, ..plan.clone() }, self.scenario)
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
    fn count_touched(&mut self, former: &Plan, plan: &Plan) {
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

    /// The plan in the store, or the last one that was.
    pub(super) fn plan(&self) -> &Plan {
        &self.agreed.plan
    }

    /// The id of a backend, where it has one.
    pub(super) fn id_of(&self, backend: u32) -> Option<BackendId> {
        self.ids.get(&backend).copied()
    }

    /// A flow is told when it begins in a tainted slot.
    pub(super) fn touch_if_tainted(&mut self, client: usize) {
        let (service, slot) = self.clients[client].slot;
        let is_tainted = self.scenario.by_load || self.plan().services[service].tainted.contains(slot);
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

    /// Two that live and hold themselves to be the leader.
    pub(super) fn note_leaders(&mut self) {
        let leaders = self.machines.iter().filter(|of| of.alive && of.control.leads()).count();
        self.checker.summary.rivals += u64::from(leaders > 1);
    }

    /// What the cluster has not come to yet of what operators, agents and checks say; `None`: all of it is in force everywhere.
    pub(super) fn unsettled(&self) -> Option<String> {
        let plan = self.plan();
        if self.agreed.wish.0 != self.agreed.wish.1 || self.agreed.wish.0 == 0 {
            return Some(format!("services {:?} are not settled", self.agreed.wish));
        }
        if plan.phase != Phase::Idle || plan.tainted_slots() > 0 || !plan.masks.is_empty() {
            let (phase, tainted, masks) = (plan.phase, plan.tainted_slots(), plan.masks.len());
            return Some(format!(
                "the plan is in {phase:?}, {tainted} slots are tainted, {masks} backends masked"
            ));
        }
        if plan.members.len() != self.machines.len() {
            return Some(format!("{} machines are members", plan.members.len()));
        }
        let drains = self.services.drains();
        for (machine, of) in self.machines.iter().enumerate() {
            let step = of.control.plan().map_or(0, |plan| plan.step);
            if step != plan.step || of.control.done() != step {
                return Some(format!("machine {machine} has step {step} of {}", plan.step));
            }
            if *of.control.drains() != drains {
                return Some(format!("machine {machine} drains {:?}, not {drains:?}", of.control.drains()));
            }
        }
        for (place, planned) in plan.services.iter().enumerate() {
            let wanted = self.services.that(place, |of| of.standing == Standing::Wanted);
            for backend in wanted.iter().filter(|backend| !self.down.contains_key(backend)) {
                let id = self.id_of(*backend);
                // In a small table not every backend has a slot.
                if id.is_none() || self.scenario.slots > 100 && !planned.cur.contains(&id) {
                    return Some(format!("{} takes no flows", name_of(*backend)));
                }
            }
            let is_wanted =
                |id: &BackendId| self.numbers.get(id).is_some_and(|number| wanted.contains(number));
            if let Some(other) = planned.cur.iter().flatten().find(|id| !is_wanted(id)) {
                return Some(format!("backend {other:?} takes flows, which nobody wants"));
            }
            if planned.cur.iter().any(Option::is_none) {
                return Some(format!("service {place} has slots without backends"));
            }
        }
        None
    }
}
