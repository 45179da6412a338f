//! The store, and the ways of machines to it.

use super::{LEASE_US, TEND_US, World, WorldEvent};
use crate::simulation::checker::Property;
use crate::simulation::machine::{Machine, StoreLink};
use crate::simulation::services::CHECK_MS;
use control::simulation::{StoreAsk, StoreNews};
use statesync::{MachineId, Rule};
use std::collections::BTreeMap;
use wire::Tick;

/// A machine that does not reach the store tries again after so long.
const RETRY_US: u64 = 60_000;
/// How long a machine that starts waits for those who have the plan that the store has not.
const FOUNDING_US: u64 = 6_000_000;

impl World<'_> {
    fn control_delay(&mut self) -> u64 {
        self.random.between(self.scenario.control_delay_us.0, self.scenario.control_delay_us.1)
    }

    /// The process of a machine has started.
    pub(super) fn begin_machine(&mut self, machine: usize) {
        let run = self.machines[machine].run;
        self.after(0, WorldEvent::Connect { machine, run });
        self.after(TEND_US.0, WorldEvent::Tend { machine, run });
        let us = self.random.below(250_000);
        self.after(us, WorldEvent::Sweep { machine, run, turn: 0 });
        let us = self.random.below(100_000);
        self.after(us, WorldEvent::Check { machine, run });
        self.give_turns(machine);
    }

    fn give_turns(&mut self, machine: usize) {
        for core in 0..self.scenario.cores {
            self.plan_turn(machine, core, Tick(self.now.0 + 1 + core as u64 * 50));
        }
    }

    pub(super) fn is_running(&self, machine: usize, run: u64) -> bool {
        self.machines[machine].alive && self.machines[machine].run == run
    }

    /// Whether a machine can reach the store.
    fn reaches_store(&self, machine: usize) -> bool {
        self.now >= self.store_away_until && self.now >= self.machines[machine].link.away_until
    }

    /// A machine connects to the store: it learns who it is, and all that is there.
    pub(super) fn connect(&mut self, machine: usize, run: u64) {
        if !self.is_running(machine, run) || self.machines[machine].link.is_up {
            return;
        }
        if !self.reaches_store(machine) || !self.identify(machine) {
            return self.after(RETRY_US, WorldEvent::Connect { machine, run });
        }
        self.last_connection += 1;
        let connection = self.last_connection;
        let lease = match self.machines[machine].link.lease.filter(|lease| self.leases.contains_key(lease)) {
            Some(lease) => lease,
            None => {
                self.last_lease += 1;
                self.last_lease
            }
        };
        self.leases.insert(lease, Tick(self.now.0 + LEASE_US));
        let link = &mut self.machines[machine].link;
        *link = StoreLink { connection, is_up: true, lease: Some(lease), ..*link };
        self.say(|| format!("machine {machine} is connected to the store"));
        let all = self.store.all();
        self.tell(machine, all);
    }

    /// Number and incarnation of a machine; false: it has to wait.
    fn identify(&mut self, machine: usize) -> bool {
        if self.machines[machine].control.member().is_some() {
            return true;
        }
        let former = self.machines[machine].member();
        let has_one = |of: &Machine| of.alive && of.control.plan().is_some();
        let waits = self.machines[machine].since_start_us(self.now) < FOUNDING_US;
        if !self.store.has_plan() && waits && self.machines.iter().any(has_one) {
            return false;
        }
        let is_first = self.machines[machine].run == 1;
        let joins = self.store.has_plan();
        let chosen = if !is_first && self.scenario.broken == Some(Rule::Incarnation) {
            former
        } else {
            // No clock: each is one later than the last that anybody knows of.
            let Some(chosen) = self.store.choose(&format!("lb{machine}"), 1) else { return false };
            let number = MachineId(u8::try_from(machine).expect("few machines"));
            if chosen.machine != number || chosen.incarnation <= former.incarnation && !is_first {
                let what = format!("machine {machine}, {former:?} before, starts as {chosen:?}");
                self.fail(Property::Numbers, what);
            }
            chosen
        };
        self.say(|| format!("machine {machine} is {chosen:?}"));
        let of = &mut self.machines[machine];
        let at = of.moment(self.now);
        of.control.identified(chosen, joins, at);
        self.store_changed();
        true
    }

    /// The store tells a machine something, after what it has told it before.
    fn tell(&mut self, machine: usize, news: StoreNews) {
        let us = self.control_delay();
        let link = &mut self.machines[machine].link;
        let at = link.down_at.max(Tick(self.now.0 + us));
        link.down_at = at;
        let connection = link.connection;
        self.at(at, WorldEvent::Told { machine, connection, news: Box::new(news) });
    }

    pub(super) fn told(&mut self, machine: usize, connection: u64, news: StoreNews) {
        let of = &mut self.machines[machine];
        if !of.alive || of.link.connection != connection {
            return;
        }
        let at = of.moment(self.now);
        of.control.hear(news, at);
        self.tend(machine);
    }

    /// A machine's request arrives at the store.
    pub(super) fn asked(
        &mut self,
        (machine, connection): (usize, u64),
        lease: u64,
        request: StoreAsk,
        survives: bool,
    ) {
        let link = self.machines[machine].link;
        let is_current = self.machines[machine].alive && link.connection == connection && link.is_up;
        // What was under way when a connection ended arrives, or not.
        let is_late = survives && !link.is_up && self.now >= self.store_away_until;
        if !(is_current || is_late) || !self.leases.contains_key(&lease) {
            return;
        }
        let answer = self.store.carry_out(lease, request);
        self.store_changed();
        if let Some(answer) = answer.filter(|_| is_current) {
            self.tell(machine, answer);
        }
    }

    /// Whoever watches the store learns what has changed.
    pub(super) fn store_changed(&mut self) {
        let Some(changes) = self.store.take_changes() else { return };
        for machine in 0..self.machines.len() {
            if self.machines[machine].alive && self.machines[machine].link.is_up {
                self.tell(machine, changes.news());
            }
        }
        self.look_at_plan();
    }

    /// A machine does not reach the store until then.
    pub(super) fn cut_off(&mut self, machine: usize, until: Tick) {
        self.last_connection += 1;
        let connection = self.last_connection;
        let notices = if self.random.chance(500) { 1 } else { self.random.between(1, 300_000) };
        let of = &mut self.machines[machine];
        of.link.away_until = of.link.away_until.max(until);
        if !of.alive || !of.link.is_up {
            return;
        }
        of.link.is_up = false;
        of.link.connection = connection;
        let (run, at) = (of.run, Tick(self.now.0 + notices));
        of.link.down_at = at;
        self.at(at, WorldEvent::Told { machine, connection, news: Box::new(StoreNews::disconnected()) });
        let at = of_later(until, at);
        self.at(at, WorldEvent::Connect { machine, run });
    }

    /// Machines that reach the store keep their leases; others' end, unless there is no store to end them.
    pub(super) fn renew_leases(&mut self) {
        self.after(super::RENEW_US, WorldEvent::Leases);
        let renewed = Tick(self.now.0 + LEASE_US);
        if self.now < self.store_away_until {
            return self.leases.values_mut().for_each(|ends| *ends = renewed);
        }
        for of in self.machines.iter().filter(|of| of.alive && of.link.is_up) {
            if let Some(ends) = of.link.lease.and_then(|lease| self.leases.get_mut(&lease)) {
                *ends = renewed;
            }
        }
        let now = self.now;
        let ended: BTreeMap<u64, Tick> = self.leases.extract_if(.., |_, ends| *ends <= now).collect();
        for lease in ended.into_keys() {
            self.store.end_lease(lease);
            self.lease_ended(lease);
        }
        self.store_changed();
    }

    /// Housekeeping, and again after some time.
    pub(super) fn tend_again(&mut self, machine: usize, run: u64) {
        if self.is_running(machine, run) {
            self.tend(machine);
            let is_busy = self.machines[machine].control.is_busy();
            let us = if is_busy { TEND_US.0 } else { TEND_US.1 };
            self.after(us, WorldEvent::Tend { machine, run });
        }
    }

    /// Housekeeping of a machine, and what comes of it.
    pub(super) fn tend(&mut self, machine: usize) {
        let now = self.now;
        if self.machines[machine].tend(now) {
            self.give_turns(machine);
        }
        let of = &mut self.machines[machine];
        for line in of.control.take_log() {
            self.say(|| format!("machine {machine} says: {line}"));
        }
        for (session, message) in self.machines[machine].control.take_told() {
            self.say(|| format!("machine {machine} tells agent {session}: {message:?}"));
        }
        let of = &mut self.machines[machine];
        if let Some(saved) = of.control.take_saved() {
            let at = of.moment(now);
            of.control.saved(true, at);
            self.disks[machine] = saved;
        }
        let requests = self.machines[machine].control.take_requests();
        for request in requests {
            self.ask(machine, request);
        }
        self.note_leaders();
        if self.machines[machine].control.fatal().is_some() {
            self.restart(machine);
        }
    }

    fn ask(&mut self, machine: usize, request: StoreAsk) {
        let us = self.control_delay();
        let survives = self.random.chance(500);
        let link = &mut self.machines[machine].link;
        let (true, Some(lease)) = (link.is_up, link.lease) else { return };
        let at = link.up_at.max(Tick(self.now.0 + us));
        link.up_at = at;
        let connection = link.connection;
        self.at(at, WorldEvent::Asked { machine, connection, lease, request: Box::new(request), survives });
    }

    /// What a machine looks at: its backends and clients, loads and weights.
    pub(super) fn sweep(&mut self, machine: usize, run: u64, turn: u64) {
        if !self.is_running(machine, run) {
            return;
        }
        let of = &mut self.machines[machine];
        let at = of.moment(self.now);
        of.control.weigh(at);
        if turn.is_multiple_of(2) {
            of.control.sweep(at);
        }
        self.after(250_000, WorldEvent::Sweep { machine, run, turn: turn + 1 });
    }

    /// The checks of a machine end.
    pub(super) fn check_backends(&mut self, machine: usize, run: u64) {
        if !self.is_running(machine, run) {
            return;
        }
        let (down, services) = (&self.down, &self.services);
        let failing: Vec<_> = down
            .iter()
            .filter(|(_, at)| at[machine])
            .map(|(backend, _)| services.address(*backend))
            .collect();
        let of = &mut self.machines[machine];
        let at = of.moment(self.now);
        of.control.check(&|address| !failing.contains(&address), at);
        self.tend(machine);
        // Where nothing happens any more, less often: that is quicker.
        let ms = match self.scenario.backends {
            0 if self.begun == Tick(0) || self.active() => CHECK_MS,
            0 => 5 * CHECK_MS,
            _ => 2_000,
        };
        self.after(ms * 1000, WorldEvent::Check { machine, run });
    }
}

fn of_later(a: Tick, b: Tick) -> Tick {
    Tick(a.0.max(b.0) + 1)
}
