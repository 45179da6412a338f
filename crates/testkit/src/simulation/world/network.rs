//! Links, queues and turns.

use super::{IDLE_TURN_US, World, WorldEvent};
use crate::simulation::checker::{Exempt, Property};
use crate::simulation::machine::{Machine, backend_at, machine_at};
use crate::simulation::packets::{ClientPacket, Sent, read_sent, relayed};
use wire::Tick;
use worker::{Outcome, RxMeta, Verdict};

/// After a partition, until what could not be told is told.
const AFTER_US: u64 = 100_000;
/// Frames of one flow that a machine relays first, at most, where every answer arrives.
const RELAYS_MAX: u64 = 5;

/// Decisions that a machine has told.
fn of_decides(of: &Machine) -> u64 {
    of.counters.iter().map(|counters| counters.sync.decides.get()).sum()
}

impl World<'_> {
    /// How many copies of something arrive, and when each.
    pub(super) fn travels(&mut self) -> [Option<u64>; 2] {
        let scenario = self.scenario;
        let (loss, duplicates) = if self.active() { (scenario.loss, scenario.duplicates) } else { (0, 0) };
        let mut one = || {
            let us = self.random.between(scenario.delay_us.0, scenario.delay_us.1);
            (!self.random.chance(loss)).then_some(us)
        };
        let first = one();
        let second = one();
        let twice = self.random.chance(duplicates);
        [first, second.filter(|_| twice)]
    }

    pub(super) fn send_to_machine(&mut self, from: usize, machine: usize, frame: &[u8]) {
        if self.scenario.replay_us > 0 {
            self.listener.hear(from, machine, frame);
        }
        self.partitions.retain(|(_, _, until)| until.0 + AFTER_US > self.now.0);
        self.clogs.retain(|(_, _, until)| *until > self.now);
        let is_pair = |a: usize, b: usize| (a, b) == (from, machine) || (b, a) == (from, machine);
        if self.partitions.iter().any(|&(a, b, until)| is_pair(a, b) && until > self.now) {
            return;
        }
        let held =
            self.clogs.iter().filter(|&&(a, b, _)| is_pair(a, b)).map(|(_, _, until)| until.0 - self.now.0);
        let held = held.max().unwrap_or(0);
        for us in self.travels().into_iter().flatten() {
            self.after(us + held, WorldEvent::Arrive { machine, frame: frame.to_vec(), client: None });
        }
    }

    pub(super) fn send_from_client(&mut self, client: usize, packet: ClientPacket) {
        let tuple = self.clients[client].tuple();
        for us in self.travels().into_iter().flatten() {
            // The router decides when the packet passes it; half of the way is behind it then.
            let Some(machine) = self.router.route(tuple) else { continue };
            self.after(
                us,
                WorldEvent::Arrive { machine, frame: packet.frame(), client: Some(packet.client) },
            );
        }
    }

    pub(super) fn arrive(&mut self, machine: usize, frame: &[u8], client: Option<u32>) {
        let now = self.now;
        let of = &mut self.machines[machine];
        if !of.alive {
            return;
        }
        let queue = of.queue(frame);
        of.push(queue, frame);
        if let Some(client) = client {
            of.fresh[queue].push(client);
            if let Some(packet) = frame.get(14..).and_then(ClientPacket::read) {
                self.checker.has_arrived(&packet);
            }
        }
        self.plan_turn(machine, queue, now);
    }

    pub(super) fn plan_turn(&mut self, machine: usize, core: usize, at: Tick) {
        let of = &mut self.machines[machine];
        if at < of.turn_at[core] {
            of.turn_at[core] = at;
            self.at(at, WorldEvent::Turn { machine, core });
        }
    }

    pub(super) fn turn(&mut self, machine: usize, core: usize) {
        let now = self.now;
        let of = &mut self.machines[machine];
        if !of.alive || of.turn_at[core] > now {
            return;
        }
        of.turn_at[core] = Tick(u64::MAX);
        let clock = of.clock(now);
        let turn = of.workers[core].turn(clock);
        let io = of.workers[core].io();
        let mut sent = std::mem::take(&mut io.sent);
        let outcomes = std::mem::take(&mut io.outcomes);
        let wake = next_turns(of, core, (clock, now), turn.received > 0);
        let counters = &of.counters[core];
        let refused = counters.sync.records_refused.get()
            + counters.totals.flow_refused.get()
            + counters.totals.flow_displaced.get();
        let refuses = refused > of.refused[core];
        of.refused[core] = refused;
        let guesses = of.counters[core].sync.local_guesses.get();
        let guessed = guesses > of.local_guesses[core];
        of.local_guesses[core] = guesses;
        let fresh = std::mem::take(&mut of.fresh[core]);
        let imbalance = of.counters[core].imbalance();
        let reported = of.collect_reports();
        for (core, at) in wake {
            self.plan_turn(machine, core, at);
        }
        if imbalance != 0 {
            self.fail(
                Property::Conserved,
                format!("machine {machine} core {core}: frames are not conserved, by {imbalance}"),
            );
        }
        if self.exile.is_some_and(|(of, since)| of == machine && since.is_some()) {
            for &client in &fresh {
                let key = self.clients[client as usize].key();
                self.checker.excuse(key, Exempt::Lease);
            }
        }
        if guessed {
            let why = if self.was_cut_off(machine) { Exempt::Partition } else { Exempt::W3 };
            for &client in &fresh {
                let key = self.clients[client as usize].key();
                self.checker.excuse(key, why);
            }
        }
        if refuses {
            for key in self.machines[machine].workers[core].refused_flows() {
                self.checker.refuse(*key, now);
            }
        }
        let decides = of_decides(&self.machines[machine]);
        let decided = decides > self.machines[machine].decides;
        self.machines[machine].decides = decides;
        if let Some((_, share)) = self.dying.filter(|(of, _)| *of == machine && decided && self.may_die()) {
            // It dies in mid-burst: of what the turn sent the first frames left.
            self.dying = None;
            let left = (sent.len() as u64 + 1) * share / 1000;
            sent.truncate(usize::try_from(left).unwrap_or(0));
            self.kill(machine);
        }
        self.say_outcomes((machine, core), &outcomes, &fresh);
        for (_, _, frame) in sent {
            self.deliver(machine, &frame);
        }
        if reported && self.machines[machine].alive {
            self.tend(machine);
        }
    }

    /// Puts into the trace what became of frames that were dropped or relayed.
    fn say_outcomes(
        &mut self,
        (machine, core): (usize, usize),
        outcomes: &[(RxMeta, Outcome)],
        fresh: &[u32],
    ) {
        if self.trace.is_some() {
            for (_, outcome) in outcomes {
                if let Verdict::Dropped(reason) = outcome.verdict
                    && reason != worker::DropReason::PeerMessage
                {
                    let action = outcome.action.name();
                    self.say(|| {
                        format!("machine {machine} core {core} {action}: dropped, {}", reason.name())
                    });
                }
                if outcome.verdict == Verdict::Relayed {
                    let action = outcome.action.name();
                    self.say(|| format!("machine {machine} core {core} {action}: a frame ({fresh:?})"));
                }
            }
        }
    }

    /// Takes a frame that a machine has sent to where it is for.
    fn deliver(&mut self, machine: usize, frame: &[u8]) {
        match read_sent(frame) {
            Sent::ToBackend(address, packet) => {
                let backend = backend_at(address);
                if !self.checker.leaves(&packet) {
                    let what = format!(
                        "machine {machine} sends backend {backend} packet {} of client {} life {} once \
                         more than it has arrived",
                        packet.number, packet.client, packet.life
                    );
                    self.fail(Property::Once, what);
                }
                self.note_use(&packet, machine);
                for us in self.travels().into_iter().flatten() {
                    self.after(us, WorldEvent::AtBackend { backend, packet, by: machine });
                }
            }
            Sent::Damaged => self.fail(
                Property::Intact,
                format!("machine {machine} sends to a backend what no client has sent"),
            ),
            Sent::ToMachine(address) => {
                self.check_relay(machine, frame);
                self.send_to_machine(machine, machine_at(address), frame);
            }
            Sent::Other => {}
        }
    }

    /// Looks at a message between machines.
    fn check_relay(&mut self, machine: usize, frame: &[u8]) {
        let Some(of) = relayed(frame).filter(|of| of.is_first) else { return };
        if of.hops > 2 {
            self.fail(
                Property::Hops,
                format!("machine {machine} relays a frame that has passed {} machines", of.hops),
            );
        }
        if let Some(client) = of.client.filter(|_| of.hops == 1) {
            let count = self.checker.count_relay(client, machine);
            // Large packets come in threes, before any answer.
            let at_once = if self.clients[client.0 as usize].large { 3 } else { 1 };
            if self.scenario.asks_are_answered() && count > RELAYS_MAX * at_once {
                self.fail(
                    Property::FewRelays,
                    format!(
                        "machine {machine} has asked {count} times about client {} life {}",
                        client.0, client.1
                    ),
                );
            }
        }
    }

    /// Whether the machine cannot reach another, or could not until just before: for so long others seem dead.
    pub(super) fn was_cut_off(&self, machine: usize) -> bool {
        self.partitions
            .iter()
            .any(|&(a, b, until)| (a == machine || b == machine) && until.0 + AFTER_US > self.now.0)
    }

    /// Whether a message between the two may not have arrived because of a partition.
    pub(super) fn was_split(&self, a: usize, b: usize) -> bool {
        self.partitions.iter().any(|&(one, other, until)| {
            ((one, other) == (a, b) || (other, one) == (a, b)) && until.0 + AFTER_US > self.now.0
        })
    }

    /// A machine sent a client's packet on.
    pub(super) fn note_use(&mut self, packet: &ClientPacket, machine: usize) {
        let (now, max_idle_us) = (self.now, self.scenario.habits.max_idle_us);
        let of = &mut self.clients[packet.client as usize];
        if of.life == packet.life {
            of.lapsed |= !packet.is_syn() && of.seen > Tick(0) && now.since_us(of.seen) > max_idle_us;
            of.seen = now;
            of.seen_by = machine;
        }
    }
}

/// When workers of a machine take a turn again after one of `core`, whose clock said `clock` at the world's time `now`.
fn next_turns(
    of: &mut Machine,
    core: usize,
    (clock, now): (Tick, Tick),
    has_received: bool,
) -> Vec<(usize, Tick)> {
    let due = of.workers[core].next_due().map_or(Tick(u64::MAX), |due| {
        if due == Tick(0) {
            Tick(now.0 + 20)
        } else {
            Tick(due.0.saturating_sub(clock.0) + now.0).max(Tick(now.0 + 20))
        }
    });
    let mut turns = vec![(core, due.min(Tick(now.0 + IDLE_TURN_US)))];
    if has_received {
        turns.push((core, Tick(now.0 + 2)));
    }
    for (other, worker) in of.workers.iter().enumerate() {
        if worker.waiting() > 0 {
            turns.push((other, Tick(now.0 + 1)));
        }
    }
    turns
}
