//! What happens to machines, tables, links, the store and its leader.

use super::{World, WorldEvent};
use crate::simulation::checker::Exempt;
use crate::simulation::machine::{KEY, Machine, UDP_PORT, machine_address};
use crate::simulation::packets::datagram_frame;
use crate::simulation::scenario::ScenarioShape;
use statesync::datagram::{DatagramWriter, Header};
use statesync::plan::Request;
use statesync::{Lasting, Note, Origin, Rule, Sequence, Statement, Why};
use wire::{BackendId, CoreId, Tick};

impl World<'_> {
    pub(super) fn change(&mut self) {
        if !self.active() {
            return;
        }
        let service = self.random.below(self.wanted.len() as u64) as usize;
        let what = if self.scenario.shape == ScenarioShape::Upheaval {
            // To another backend; and then back, or on to a third.
            let is_away = self.drained.iter().any(|&id| self.registry.backends[id as usize] == service);
            if is_away && self.random.chance(500) { 3 } else { 1 }
        } else {
            self.random.below(4)
        };
        let (fewest, most) = match self.scenario.backends {
            0 => (2, 7),
            backends => (backends - 20, backends + 20),
        };
        let of = &mut self.wanted[service];
        let text = match what {
            // A new one.
            0 if of.len() < most => {
                let id = u32::try_from(self.registry.backends.len()).expect("few");
                self.registry.backends.push(service);
                of.push(id);
                format!("backend {id} comes")
            }
            // One is drained: its flows live on.
            1 if of.len() > fewest => {
                let at = self.random.below(of.len() as u64) as usize;
                let id = of.remove(at);
                self.drained.push(id);
                format!("backend {id} is drained")
            }
            // One is removed with its flows.
            2 if of.len() > fewest => {
                let at = self.random.below(of.len() as u64) as usize;
                let id = of.remove(at);
                self.removed.insert(id);
                format!("backend {id} is removed")
            }
            // A drained one returns.
            _ => {
                let back = self.may_return(service);
                let of = &mut self.wanted[service];
                match self.random.pick(&back) {
                    Some(id) if of.len() < most => {
                        self.drained.retain(|&of| of != id);
                        self.removed.remove(&id);
                        of.push(id);
                        format!("backend {id} returns")
                    }
                    _ => "nothing changes".into(),
                }
            }
        };
        self.say(|| text);
        self.request_tables();
        self.sometime(self.scenario.change_us, WorldEvent::Change);
    }

    /// Backends of a service that may come back: drained ones; and removed ones, where that rule is broken.
    fn may_return(&self, service: usize) -> Vec<u32> {
        let mut back: Vec<u32> = self
            .drained
            .iter()
            .copied()
            .filter(|&id| self.registry.backends[id as usize] == service)
            .collect();
        if self.scenario.broken == Some(Rule::BackendIds) {
            back.extend(
                self.removed.iter().copied().filter(|&id| self.registry.backends[id as usize] == service),
            );
            back.sort_unstable();
        }
        back
    }

    pub(super) fn mask(&mut self) {
        if !self.active() {
            return;
        }
        let service = self.random.below(self.wanted.len() as u64) as usize;
        if let Some(backend) = self.random.pick(&self.wanted[service].clone()) {
            self.say(|| format!("mask {backend} asked"));
            self.masked.insert(backend);
            if self.now >= self.leaderless_until {
                let _ = self.leader.request(Request::Mask(BackendId(backend)));
            }
            let us = self.random.between(200_000, 2_000_000);
            self.after(us, WorldEvent::Unmask(backend));
        }
        self.sometime(self.scenario.mask_us, WorldEvent::Mask);
    }

    pub(super) fn unmask(&mut self, backend: u32) {
        self.say(|| format!("unmask {backend} asked"));
        self.masked.remove(&backend);
        if self.now >= self.leaderless_until {
            let _ = self.leader.request(Request::Unmask(BackendId(backend)));
        }
    }

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
        self.machines.iter().all(|machine| machine.alive && machine.is_ready())
            && self.plan.next_members.is_none()
            && self.plan.members.len() == self.machines.len()
            && self.router.len() > 1
    }

    /// A machine dies, and the table swings twice.
    pub(super) fn upheaval(&mut self) {
        self.crash();
        let service = self.random.below(self.wanted.len() as u64);
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
        let wrong: Vec<u32> = self.wanted[service]
            .iter()
            .copied()
            .filter(|&id| Some(id) != self.clients[client].home)
            .collect();
        let guessed = if self.scenario.broken == Some(Rule::Tag) { KEY } else { *b"not the real one" };
        if let Some(backend) = self.random.pick(&wrong).map(BackendId) {
            let header = Header {
                from: Origin { member: self.machines[from].member, core: CoreId(0) },
                to: self.machines[to].member,
                epoch: self.plan.epoch,
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
        let dead = self.machines[machine].member;
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
            } else if !self.scenario.is_lossless() {
                self.checker.excuse(key, Exempt::W1);
            }
        }
        self.count(machine);
        self.machines[machine].alive = false;
        self.died[machine] = self.now;
        for index in 0..self.clients.len() {
            let client = &self.clients[index];
            if client.service.tcp {
                continue;
            }
            // What others remember of it may be older than its last packet, and end sooner.
            let was_last = client.seen_by == machine && client.seen > Tick(0);
            if was_last && !self.is_tainted(index, self.machines[machine].follower.done()) {
                self.checker.excuse(client.key(), Exempt::W2);
            }
        }
        let incarnation = dead.incarnation;
        let us = self.random.between(50_000, 400_000);
        self.after(us, WorldEvent::Unroute { machine, incarnation });
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
        let is_another = self.scenario.broken != Some(Rule::Incarnation);
        let incarnation = if is_another {
            match self.choose_number(machine) {
                Some(incarnation) => incarnation,
                // It waits for a plan.
                None => return self.after(100_000, WorldEvent::Return { machine }),
            }
        } else {
            self.machines[machine].member.incarnation
        };
        self.say(|| format!("machine {machine} returns as incarnation {incarnation}"));
        let new = Machine::new(machine, incarnation, self.scenario, &mut self.random);
        self.machines[machine] = new;
        let us = self.control_delay();
        self.after(us, WorldEvent::Show { machine, watch: false });
        for core in 0..self.scenario.cores {
            self.plan_turn(machine, core, Tick(self.now.0 + 10));
        }
        if self.router.contains(machine) {
            // Its route was never repaired: it drops until it has joined.
            self.say(|| format!("machine {machine} is still routed"));
        }
        self.after(100_000, WorldEvent::Route { machine });
    }
}
