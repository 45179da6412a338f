//! What happens to machines, links, the store and its leader.

use super::{LEASE_US, World, WorldEvent};
use crate::simulation::checker::Exempt;
use crate::simulation::machine::{KEY, Machine, UDP_PORT, machine_address};
use crate::simulation::packets::datagram_frame;
use crate::simulation::scenario::Faults;
use crate::simulation::services::Standing;
use statesync::datagram::{DatagramWriter, Header};
use statesync::{Lasting, Note, Origin, Rule, Sequence, Statement, Why};
use wire::{CoreId, Tick};

/// Before its lease ends a machine has told others of a flow, or not, for so long.
const UNDER_WAY_US: u64 = 500_000;

impl World<'_> {
    pub(super) fn partition(&mut self) {
        if !self.active() {
            return;
        }
        let (a, b) = self.two_machines();
        let us = self.random.between(50_000, 1_500_000);
        self.say(|| format!("machines {a} and {b} do not reach each other for {us} us"));
        self.partitions.push((a, b, Tick(self.now.0 + us)));
        self.after(us - 1, WorldEvent::Heal { a, b });
        self.sometime(self.scenario.partition_us, WorldEvent::Partition);
    }

    /// A partition ends: whatever could not be told across it was decided by one side alone.
    pub(super) fn heal(&mut self, a: usize, b: usize) {
        let mut split = Vec::new();
        for (from, to) in [(a, b), (b, a)] {
            let unheard = self.machines[from].workers.iter().flat_map(worker::Worker::unacknowledged);
            split.extend(unheard.filter(|(of, _)| of.machine.index() == to).map(|(_, note)| note.key()));
        }
        for key in split {
            self.checker.excuse(key, Exempt::Partition);
        }
    }

    pub(super) fn crash(&mut self) {
        if !self.active() {
            return;
        }
        if self.dying.is_none() && self.may_die() {
            let machine = self.random.below(self.machines.len() as u64) as usize;
            if self.random.chance(500) {
                self.kill(machine);
            } else {
                // In the middle of a turn in which it decides something; if there is none, a little later.
                self.dying = Some((machine, self.random.below(1000)));
                self.after(1_500_000, WorldEvent::Kill { machine });
            }
        }
        self.sometime(self.scenario.crash_us, WorldEvent::Crash);
    }

    /// A second death before redundancy is back is outside of what is promised.
    pub(super) fn may_die(&self) -> bool {
        self.exile.is_none()
            && self.machines.iter().all(|machine| machine.alive && machine.is_ready())
            && self.plan().next_members.is_none()
            && self.plan().members.len() == self.machines.len()
            && self.router.len() > 1
    }

    /// A machine dies, and the table swings twice.
    pub(super) fn upheaval(&mut self) {
        self.crash();
        let service = self.random.below(self.services.services.len() as u64);
        for _ in 0..2 {
            let us = 50_000 + self.random.below(300_000) + service % 2;
            self.after(us, WorldEvent::Change);
        }
    }

    /// A stranger sends a datagram that says of a flow what is not so. It knows members and epochs, but not the key.
    pub(super) fn forge(&mut self) {
        if !self.active() {
            return;
        }
        let (from, to) = self.two_machines();
        let client = self.random.below(self.clients.len() as u64) as usize;
        let (key, service) = (self.clients[client].key(), self.clients[client].slot.0);
        let home = self.clients[client].home;
        let mut wrong = self.services.that(service, |of| of.standing == Standing::Wanted);
        wrong.retain(|backend| Some(*backend) != home);
        let key_of_tags = self.machines[from].control.tag_key();
        let guessed = if self.scenario.broken == Some(Rule::Tag) { key_of_tags } else { KEY };
        if let Some(backend) = self.random.pick(&wrong).and_then(|backend| self.id_of(backend)) {
            let header = Header {
                from: Origin { member: self.machines[from].member(), core: CoreId(0) },
                to: self.machines[to].member(),
                epoch: self.plan().epoch,
                sent: self.machines[from].clock(self.now),
                number: self.random.next() >> 24,
            };
            let statement = Statement { key, backend, guess: false, age_us: 0, why: Why::Decide };
            let (sequence, mut payload) = (Sequence(u64::MAX >> 2), [0; 256]);
            let lastings = [Lasting::Push { key, backend }, Lasting::State(statement)];
            let len = DatagramWriter::notes(&mut payload, &header).map(|mut writer| {
                for note in lastings {
                    let _ = writer.note(&Note::Lasting(sequence, note));
                }
                writer.finish(&guessed)
            });
            let addresses = (machine_address(from), machine_address(to));
            let frame = datagram_frame(addresses.0, addresses.1, UDP_PORT, &payload[..len.unwrap_or(0)]);
            self.checker.summary.forged += 1;
            self.say(|| format!("a stranger tells machine {to} that client {client} is with {}", backend.0));
            self.after(1_000, WorldEvent::Arrive { machine: to, frame, client: None });
        }
        self.sometime(self.scenario.forge_us, WorldEvent::Forge);
    }

    pub(super) fn kill(&mut self, machine: usize) {
        self.dying = self.dying.filter(|(of, _)| *of != machine);
        if !self.machines[machine].alive {
            return;
        }
        self.say(|| format!("machine {machine} dies"));
        self.checker.summary.crashes += 1;
        let is_exile = self.exile.take_if(|(of, _)| *of == machine).is_some();
        let dead = self.machines[machine].member();
        let mut lost = Vec::new();
        for (index, of) in self.machines.iter().enumerate().filter(|(_, of)| of.alive) {
            for worker in &of.workers {
                lost.extend(
                    worker
                        .unacknowledged()
                        .filter(|(to, _)| index == machine || *to == dead)
                        .map(|(to, note)| (index, to.machine.index(), note.key())),
                );
            }
        }
        for (from, to, key) in lost {
            if self.was_split(from, to) {
                self.checker.excuse(key, Exempt::Partition);
            } else if is_exile {
                self.checker.excuse(key, Exempt::Lease);
            } else if !self.scenario.is_lossless() {
                self.checker.excuse(key, Exempt::W1);
            }
        }
        self.count(machine);
        self.machines[machine].alive = false;
        self.machines[machine].link.is_up = false;
        self.died[machine] = self.now;
        for index in 0..self.clients.len() {
            let client = &self.clients[index];
            if client.service.tcp {
                continue;
            }
            // What others remember of it may be older than its last packet, and end sooner.
            let was_last = client.seen_by == machine && client.seen > Tick(0);
            if was_last && !self.is_tainted(index, self.machines[machine].control.done()) {
                self.checker.excuse(client.key(), Exempt::W2);
            }
        }
        let run = self.machines[machine].run;
        let us = self.random.between(50_000, 400_000);
        self.after(us, WorldEvent::Unroute { machine, run });
        // Some return before the router has noticed.
        let (soon, late) = if self.random.chance(250) { (20_000, 100_000) } else { (100_000, 2_500_000) };
        let us = self.random.between(soon, late);
        self.after(us, WorldEvent::Return { machine });
    }

    /// Whether the slot of a client's flow is tainted, and was when somebody had done this step: then he has exported it.
    pub(super) fn is_tainted(&self, client: usize, done: u64) -> bool {
        let (service, slot) = self.clients[client].slot;
        let since = self.tainted_in[service][slot as usize];
        self.scenario.by_load || since > 0 && since <= done
    }

    pub(super) fn come_back(&mut self, machine: usize) {
        self.check_dead(machine);
        let before = &self.machines[machine];
        let (run, former) = (before.run + 1, before.member());
        self.say(|| format!("machine {machine} returns"));
        let saved = self.disks[machine].clone();
        let new =
            Machine::new((machine, run), (self.scenario, &self.services), saved, &mut self.random, self.now);
        self.machines[machine] = new.was(former);
        self.begin_machine(machine);
        if self.router.contains(machine) {
            // Its route was never repaired: it drops until it has joined.
            self.say(|| format!("machine {machine} is still routed"));
        }
        self.after(100_000, WorldEvent::Route { machine });
    }

    /// A machine that cannot go on starts again at once.
    pub(super) fn restart(&mut self, machine: usize) {
        let reason = self.machines[machine].control.fatal().unwrap_or_default().to_owned();
        self.say(|| format!("machine {machine} ends: {reason}"));
        self.kill(machine);
    }

    /// Nobody reaches the store for a while.
    pub(super) fn lose_store(&mut self) {
        if self.active() {
            let us = self.random.between(300_000, 2_000_000);
            self.say(|| format!("store away for {us} us"));
            self.close_store(us, 300_000);
            self.sometime(self.scenario.store_loss_us, WorldEvent::StoreLoss);
        }
    }

    /// The store is away, and then machines reach it again within a time.
    fn close_store(&mut self, us: u64, within_us: u64) {
        self.store_away_until = self.store_away_until.max(Tick(self.now.0 + us));
        for machine in 0..self.machines.len() {
            let back = self.random.between(1_000, within_us);
            self.cut_off(machine, Tick(self.now.0 + us + back));
        }
    }

    /// The store loses its data: plan, wishes, names and leases. Machines put back what they know.
    pub(super) fn wipe(&mut self) {
        if !self.active() {
            return;
        }
        self.sometime(self.scenario.wipe_us, WorldEvent::Wipe);
        // While one is given up, those who know the newest plan are not all.
        if self.exile.is_some() || !self.store.has_plan() {
            return;
        }
        let away = self.random.between(50_000, 300_000);
        self.say(|| format!("the store loses its data, and is back in {away} us"));
        self.checker.summary.wipes += 1;
        self.close_store(away, 1_000_000);
        self.store.wipe();
        self.leases.clear();
        self.want();
    }

    /// One machine does not reach the store for a while: for less than its lease, or for longer.
    pub(super) fn isolate(&mut self) {
        if !self.active() {
            return;
        }
        self.sometime(self.scenario.isolation_us, WorldEvent::Isolation);
        if self.exile.is_some() {
            return;
        }
        let machine = self.two_machines().0;
        let ends = self.random.chance(400) && self.may_die() && self.dying.is_none();
        let us = if ends {
            self.exile = Some((machine, None));
            self.random.between(LEASE_US + 300_000, LEASE_US + 2_000_000)
        } else {
            self.random.between(50_000, LEASE_US - 100_000)
        };
        self.say(|| format!("machine {machine} does not reach the store for {us} us"));
        self.cut_off(machine, Tick(self.now.0 + us));
    }

    /// A lease has ended. If its machine lives, the others go on without it, and what it does from now on they do not know.
    pub(super) fn lease_ended(&mut self, lease: u64) {
        let Some(machine) = self.machines.iter().position(|of| of.alive && of.link.lease == Some(lease))
        else {
            return;
        };
        self.say(|| format!("the lease of machine {machine} ends, which lives"));
        self.checker.summary.exiles += 1;
        self.exile = Some((machine, Some(self.now)));
        let now = self.now;
        let was_here =
            |seen: Tick, by: usize| by == machine && seen > Tick(0) && now.since_us(seen) < UNDER_WAY_US;
        for client in 0..self.clients.len() {
            let of = &self.clients[client];
            if was_here(of.seen, of.seen_by) || !of.service.tcp && of.seen_by == machine {
                self.checker.excuse(of.key(), Exempt::Lease);
            }
        }
    }

    /// The leader's key goes although its machine lives, as if its lease had ended: another one leads, and for a time both hold
    /// themselves to be the leader. Or, where machines may fail, the leader does not reach the store for a while.
    pub(super) fn leader_dies(&mut self) {
        if !self.active() {
            return;
        }
        self.sometime(self.scenario.leader_us, WorldEvent::LeaderDies);
        let leader = self.machines.iter().position(|of| of.alive && of.control.leads());
        self.checker.summary.leaders += 1;
        if self.scenario.faults == Faults::All && self.exile.is_none() && self.random.chance(400) {
            if let Some(machine) = leader {
                let us = self.random.between(50_000, LEASE_US - 100_000);
                self.say(|| format!("the leader, machine {machine}, does not reach the store for {us} us"));
                self.cut_off(machine, Tick(self.now.0 + us));
            }
        } else if self.now >= self.store_away_until {
            self.say(|| "the leader's key goes".into());
            // It hears of it late: not so late that masks come into force without it, where machines do not fail.
            let latest = if self.scenario.faults == Faults::All { 1_500_000 } else { 150_000 };
            let late = self.random.between(1, latest);
            if let Some(machine) = leader {
                let link = &mut self.machines[machine].link;
                link.down_at = link.down_at.max(Tick(self.now.0 + late));
            }
            self.store.depose();
            self.store_changed();
        }
    }
}
