//! The world: events in virtual time.

use super::checker::{Checker, Exempt, Summary};
use super::client::{Client, Phase, ServiceOf};
use super::machine::{Machine, Registry, backend_at, machine_at, make_table};
use super::packets::{ClientPacket, Sent, read_sent, relayed_hops};
use super::random::Random;
use super::router::Router;
use super::scenario::Scenario;
use statesync::plan::{Acknowledgement, Leader, Plan, Request, ServicePlan, SlotSet, Tables};
use statesync::{Lasting, MachineId, Member, Members, Rule};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use wire::{BackendId, ServiceId, Tick};
use worker::Verdict;

/// A property that did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed that shows it.
    pub seed: u64,
    /// When, microseconds.
    pub at_us: u64,
    /// What.
    pub what: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seed {} at {} us: {}", self.seed, self.at_us, self.what)
    }
}

impl std::error::Error for Failure {}

#[derive(Clone, Debug)]
enum Event {
    /// A frame arrives at a machine.
    Arrive {
        machine: usize,
        frame: Vec<u8>,
        client: Option<u32>,
    },
    Turn {
        machine: usize,
        core: usize,
    },
    AtBackend {
        backend: u32,
        packet: ClientPacket,
        by: usize,
    },
    /// An answer arrives at a client.
    AtClient {
        client: usize,
        life: u32,
        backend: u32,
        opens: bool,
        reset: bool,
    },
    Ring {
        client: usize,
        timer: u64,
    },
    /// The store shows its plan to a machine.
    Show {
        machine: usize,
        watch: bool,
    },
    Acknowledge(Box<Acknowledgement>),
    /// The leader looks around.
    Lead,
    Change,
    Reshuffle,
    Crash,
    Return {
        machine: usize,
    },
    Unroute {
        machine: usize,
        incarnation: u32,
    },
    Route {
        machine: usize,
    },
    Mask,
    Unmask(u32),
    Partition,
    Heal {
        a: usize,
        b: usize,
    },
    StoreLoss,
    Clog,
}

/// How long the store keeps a member that says nothing.
const LEASE_US: u64 = 600_000;
/// Machines look at the store again after this time.
const WATCH_US: u64 = 150_000;
/// Workers take a turn at the latest after this time.
const IDLE_TURN_US: u64 = 40_000;
/// A mask in force before all have acknowledged: so long may members lag behind.
const FORCED_US: u64 = 600_000;
/// Lives of a client that the backends remember.
type Connections = HashMap<(u32, u32), u32>;

struct World<'a> {
    scenario: &'a Scenario,
    random: Random,
    now: Tick,
    queue: BinaryHeap<Reverse<(Tick, u64, usize)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    order: u64,
    machines: Vec<Machine>,
    router: Router,
    registry: Registry,
    /// By service: backends in the table that is wanted.
    wanted: Vec<Vec<u32>>,
    /// Backends that were asked to go.
    removed: HashSet<u32>,
    /// Not in the table, but their flows live.
    drained: Vec<u32>,
    leader: Leader,
    plan: Arc<Plan>,
    /// By service and slot, the step in which it was tainted; 0 for untainted.
    tainted_in: Vec<Vec<u64>>,
    /// When each machine's lease ends.
    leases: Vec<Tick>,
    store_away_until: Tick,
    clients: Vec<Client>,
    connections: Connections,
    checker: Checker,
    /// Pairs of machines that do not reach each other, and until when.
    partitions: Vec<(usize, usize, Tick)>,
    /// A link of machines on which everything waits until then.
    clogs: Vec<(usize, usize, Tick)>,
    /// Masks in force before all had acknowledged.
    forced: (Tick, Tick),
    trace: Option<&'a mut dyn FnMut(String)>,
    failure: Option<Failure>,
}

/// Runs a scenario. `trace` is told each step.
///
/// # Errors
/// The first property that did not hold.
pub fn run<'a>(scenario: &'a Scenario, trace: Option<&'a mut dyn FnMut(String)>) -> Result<Summary, Failure> {
    World::new(scenario, trace).run()
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, trace: Option<&'a mut dyn FnMut(String)>) -> World<'a> {
        let mut random = Random::new(scenario.seed ^ 0xabcd_ef01);
        let services = vec![
            ServiceOf { id: ServiceId(1), vip: 0xcb00_710a, port: 80, tcp: true },
            ServiceOf { id: ServiceId(2), vip: 0xcb00_710a, port: 53, tcp: false },
        ];
        let mut registry = Registry { services: services.clone(), backends: vec![0], tables: Vec::new() };
        let mut wanted = Vec::new();
        for service in 0..services.len() {
            let mut of = Vec::new();
            for _ in 0..random.between(3, 5) {
                of.push(u32::try_from(registry.backends.len()).expect("few"));
                registry.backends.push(service);
            }
            registry.tables.push(make_table(&of, scenario.slots));
            wanted.push(of);
        }
        let members = Members::new(
            (0..scenario.machines).map(|m| Member { machine: MachineId(m as u8), incarnation: 1 }),
        );
        let planned = services
            .iter()
            .zip(&registry.tables)
            .map(|(service, made)| ServicePlan {
                service: service.id,
                cur: Arc::clone(&made.answers),
                base: Arc::clone(&made.answers),
                tainted: SlotSet::default(),
            })
            .collect();
        let backends = wanted.iter().flatten().map(|&id| BackendId(id)).collect();
        let plan = Leader::first(members, planned, backends);
        let machines: Vec<Machine> =
            (0..scenario.machines).map(|m| Machine::new(m, 1, scenario, &mut random)).collect();
        let clients = (0..scenario.clients)
            .map(|index| {
                let udp = random.chance(scenario.udp_share);
                Client {
                    index,
                    source: 0x0a01_0001 + random.below(0xfffe) as u32,
                    sport: 10_000 + index as u16,
                    service: services[usize::from(udp)],
                    life: 0,
                    phase: Phase::Fresh,
                    home: None,
                    home_at: Tick(0),
                    packets: 0,
                    unanswered: false,
                    timeout_us: 0,
                    timer: 0,
                    seen: Tick(0),
                    seen_by: 0,
                    lapsed: false,
                    judged: false,
                    silent: false,
                }
            })
            .collect();
        let mut leader = Leader::new(plan.clone(), scenario.max_idle_us, Tick(1_000_000));
        if let Some(rule) = scenario.broken {
            leader.break_rule(rule);
        }
        let mut router = Router::new(scenario.resilient, random.next());
        (0..scenario.machines).for_each(|machine| router.add(machine));
        World {
            scenario,
            now: Tick(1_000_000),
            queue: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            order: 0,
            leader,
            plan: Arc::new(plan),
            tainted_in: vec![vec![0; scenario.slots as usize]; services.len()],
            leases: vec![Tick(1_000_000 + LEASE_US); scenario.machines],
            store_away_until: Tick(0),
            machines,
            router,
            registry,
            wanted,
            removed: HashSet::new(),
            drained: Vec::new(),
            clients,
            connections: HashMap::new(),
            checker: Checker::default(),
            partitions: Vec::new(),
            clogs: Vec::new(),
            forced: (Tick(0), Tick(0)),
            trace,
            failure: None,
            random,
        }
    }

    fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace(format!("{:>10} {}", self.now.0, what()));
        }
    }

    fn fail(&mut self, what: String) {
        self.say(|| format!("FAILED {what}"));
        if self.failure.is_none() {
            self.failure = Some(Failure { seed: self.scenario.seed, at_us: self.now.0, what });
        }
    }

    fn at(&mut self, at: Tick, event: Event) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.order += 1;
        self.queue.push(Reverse((at, self.order, place)));
    }

    fn after(&mut self, us: u64, event: Event) {
        self.at(Tick(self.now.0 + us), event);
    }

    fn sometime(&mut self, mean_us: u64, event: Event) {
        if mean_us > 0 {
            let us = self.random.between(mean_us / 2, mean_us * 3 / 2);
            self.after(us, event);
        }
    }

    fn active(&self) -> bool {
        self.now.0 < 1_000_000 + self.scenario.active_us
    }

    fn run(mut self) -> Result<Summary, Failure> {
        let scenario = self.scenario;
        for machine in 0..scenario.machines {
            self.after(0, Event::Show { machine, watch: true });
        }
        self.after(0, Event::Lead);
        for client in 0..scenario.clients {
            let us = self.random.below(2_000_000) + 50_000;
            self.after(us, Event::Ring { client, timer: 0 });
        }
        for (mean, event) in [
            (scenario.change_us, Event::Change),
            (scenario.reshuffle_us, Event::Reshuffle),
            (scenario.crash_us, Event::Crash),
            (scenario.mask_us, Event::Mask),
            (scenario.partition_us, Event::Partition),
            (scenario.store_loss_us, Event::StoreLoss),
            (scenario.clog_us, Event::Clog),
        ] {
            self.sometime(mean, event);
        }
        let end = Tick(1_000_000 + scenario.active_us + 5 * scenario.max_idle_us);
        while let Some(Reverse((at, _, place))) = self.queue.pop() {
            if at > end || self.failure.is_some() {
                break;
            }
            self.now = at;
            if let Some(event) = self.events[place].take() {
                self.free.push(place);
                self.happen(event);
            }
        }
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        self.check_rest();
        self.finish();
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok(self.checker.summary),
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { machine, frame, client } => self.arrive(machine, &frame, client),
            Event::Turn { machine, core } => self.turn(machine, core),
            Event::AtBackend { backend, packet, by } => self.at_backend(backend, packet, by),
            Event::AtClient { client, life, backend, opens, reset } => {
                self.at_client(client, life, backend, opens, reset);
            }
            Event::Ring { client, timer } => self.ring(client, timer),
            Event::Show { machine, watch } => {
                self.show(machine);
                if watch {
                    self.after(WATCH_US, Event::Show { machine, watch });
                }
            }
            Event::Acknowledge(acknowledgement) => {
                if self.now >= self.store_away_until {
                    self.leader.acknowledge(*acknowledgement);
                    self.lead();
                }
            }
            Event::Lead => {
                self.lead();
                self.after(25_000, Event::Lead);
            }
            Event::Change => self.change(),
            Event::Reshuffle => {
                if self.active() {
                    let salt = self.random.next();
                    self.say(|| "router reshuffles".into());
                    self.router.reshuffle(salt);
                    self.sometime(self.scenario.reshuffle_us, Event::Reshuffle);
                }
            }
            Event::Crash => self.crash(),
            Event::Return { machine } => self.come_back(machine),
            Event::Unroute { machine, incarnation } => {
                if self.machines[machine].member.incarnation == incarnation {
                    self.router.remove(machine);
                }
            }
            Event::Route { machine } => {
                if self.machines[machine].is_ready() {
                    self.say(|| format!("route to machine {machine}"));
                    self.router.add(machine);
                } else {
                    self.after(50_000, Event::Route { machine });
                }
            }
            Event::Mask => self.mask(),
            Event::Unmask(backend) => {
                self.say(|| format!("unmask {backend} asked"));
                let _ = self.leader.request(Request::Unmask(BackendId(backend)));
            }
            Event::Partition => self.partition(),
            Event::Heal { a, b } => self.heal(a, b),
            Event::StoreLoss => {
                if self.active() {
                    let us = self.random.between(300_000, 2_000_000);
                    self.store_away_until = Tick(self.now.0 + us);
                    self.say(|| format!("store away for {us} us"));
                    self.sometime(self.scenario.store_loss_us, Event::StoreLoss);
                }
            }
            Event::Clog => {
                if self.active() {
                    let (a, b) = self.two_machines();
                    let until = Tick(self.now.0 + self.random.between(20_000, 250_000));
                    self.clogs.push((a, b, until));
                    self.sometime(self.scenario.clog_us, Event::Clog);
                }
            }
        }
    }

    fn two_machines(&mut self) -> (usize, usize) {
        let count = self.machines.len() as u64;
        let a = self.random.below(count);
        let b = (a + 1 + self.random.below(count - 1)) % count;
        (a as usize, b as usize)
    }

    // ---- network -------------------------------------------------------------------------------------------------

    /// How many copies of something arrive, and when each.
    fn travels(&mut self) -> [Option<u64>; 2] {
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

    fn send_to_machine(&mut self, from: usize, machine: usize, frame: &[u8]) {
        self.partitions.retain(|(_, _, until)| until.0 + 100_000 > self.now.0);
        self.clogs.retain(|(_, _, until)| *until > self.now);
        let is_pair = |a: usize, b: usize| (a, b) == (from, machine) || (b, a) == (from, machine);
        if self.partitions.iter().any(|&(a, b, until)| is_pair(a, b) && until > self.now) {
            return;
        }
        let held =
            self.clogs.iter().filter(|&&(a, b, _)| is_pair(a, b)).map(|(_, _, until)| until.0 - self.now.0);
        let held = held.max().unwrap_or(0);
        for us in self.travels().into_iter().flatten() {
            self.after(us + held, Event::Arrive { machine, frame: frame.to_vec(), client: None });
        }
    }

    fn send_from_client(&mut self, client: usize, packet: ClientPacket) {
        let tuple = self.clients[client].tuple();
        for us in self.travels().into_iter().flatten() {
            // The router decides when the packet passes it; half of the way is behind it then.
            let Some(machine) = self.router.route(tuple) else { continue };
            self.after(us, Event::Arrive { machine, frame: packet.frame(), client: Some(packet.client) });
        }
    }

    fn arrive(&mut self, machine: usize, frame: &[u8], client: Option<u32>) {
        let now = self.now;
        let of = &mut self.machines[machine];
        if !of.alive {
            return;
        }
        let queue = of.queue(frame);
        of.push(queue, frame);
        if let Some(client) = client {
            of.fresh[queue].push(client);
        }
        self.plan_turn(machine, queue, now);
    }

    fn plan_turn(&mut self, machine: usize, core: usize, at: Tick) {
        let of = &mut self.machines[machine];
        if at < of.turn_at[core] {
            of.turn_at[core] = at;
            self.at(at, Event::Turn { machine, core });
        }
    }

    fn turn(&mut self, machine: usize, core: usize) {
        let now = self.now;
        let of = &mut self.machines[machine];
        if !of.alive || of.turn_at[core] > now {
            return;
        }
        of.turn_at[core] = Tick(u64::MAX);
        let clock = of.clock(now);
        let turn = of.workers[core].turn(clock);
        let io = of.workers[core].io();
        let sent = std::mem::take(&mut io.sent);
        let outcomes = std::mem::take(&mut io.outcomes);
        let mut wake: Vec<(usize, Tick)> = Vec::new();
        let due = of.workers[core].next_due().map_or(Tick(u64::MAX), |due| {
            if due == Tick(0) {
                Tick(now.0 + 20)
            } else {
                Tick(due.0.saturating_sub(clock.0) + now.0).max(Tick(now.0 + 20))
            }
        });
        wake.push((core, due.min(Tick(now.0 + IDLE_TURN_US))));
        if turn.received > 0 {
            wake.push((core, Tick(now.0 + 2)));
        }
        for (other, worker) in of.workers.iter().enumerate() {
            if worker.waiting() > 0 {
                wake.push((other, Tick(now.0 + 1)));
            }
        }
        let guesses = of.counters[core].station.local_guesses.get();
        let guessed = guesses > of.local_guesses[core];
        of.local_guesses[core] = guesses;
        let fresh = std::mem::take(&mut of.fresh[core]);
        let imbalance = of.counters[core].imbalance();
        let reported = of.collect_reports();
        let acknowledgement = if reported { of.follower.acknowledge() } else { None };
        for (core, at) in wake {
            self.plan_turn(machine, core, at);
        }
        if imbalance != 0 {
            self.fail(format!("machine {machine} core {core}: frames are not conserved, by {imbalance}"));
        }
        if guessed {
            for &client in &fresh {
                let key = self.clients[client as usize].key();
                self.checker.excuse(key, Exempt::W3, now);
            }
        }
        if self.trace.is_some() {
            for (_, outcome) in &outcomes {
                if let Verdict::Dropped(reason) = outcome.verdict
                    && reason != worker::DropReason::PeerMessage
                {
                    self.say(|| format!("machine {machine} core {core} drops: {}", reason.name()));
                }
                if outcome.verdict == Verdict::Relayed {
                    self.say(|| format!("machine {machine} core {core} relays a frame ({fresh:?})"));
                }
            }
        }
        if let Some(acknowledgement) = acknowledgement {
            self.send_acknowledgement(acknowledgement);
        }
        for (_, _, frame) in sent {
            match read_sent(&frame) {
                Sent::ToBackend(address, packet) => {
                    let backend = backend_at(address);
                    self.note_use(&packet, machine);
                    for us in self.travels().into_iter().flatten() {
                        self.after(us, Event::AtBackend { backend, packet, by: machine });
                    }
                }
                Sent::ToMachine(address) => {
                    if let Some(hops) = relayed_hops(&frame)
                        && hops > 2
                    {
                        self.fail(format!(
                            "a frame is relayed by machine {machine} although it has passed {hops} machines"
                        ));
                    }
                    self.send_to_machine(machine, machine_at(address), &frame);
                }
                Sent::Other => {}
            }
        }
    }

    /// A machine sent a client's packet on.
    fn note_use(&mut self, packet: &ClientPacket, machine: usize) {
        let (now, max_idle_us) = (self.now, self.scenario.max_idle_us);
        let of = &mut self.clients[packet.client as usize];
        if of.life == packet.life {
            of.lapsed |= !packet.is_syn() && of.seen > Tick(0) && now.since_us(of.seen) > max_idle_us;
            of.seen = now;
            of.seen_by = machine;
        }
    }

    // ---- clients and backends --------------------------------------------------------------------------------------

    fn ring(&mut self, client: usize, timer: u64) {
        let may_begin = self.active();
        let of = &mut self.clients[client];
        if of.timer != timer {
            return;
        }
        let begins = matches!(of.phase, Phase::Fresh | Phase::Closed);
        let (packet, again) = of.ring(&mut self.random, self.scenario.max_idle_us, may_begin);
        if begins && packet.is_some() {
            of.seen = Tick(0);
            let key = of.key();
            self.checker.renew(&key);
        }
        self.follow_up(client, packet, again);
    }

    fn follow_up(&mut self, client: usize, packet: Option<ClientPacket>, again: Option<u64>) {
        if let Some(packet) = packet {
            if self.trace.is_some() {
                let known = self.describe(client);
                self.say(|| {
                    format!("client {client} life {} sends {:#04x}; {known}", packet.life, packet.flags)
                });
            }
            self.send_from_client(client, packet);
        }
        if let Some(us) = again {
            let of = &mut self.clients[client];
            of.timer += 1;
            let timer = of.timer;
            self.after(us, Event::Ring { client, timer });
        }
    }

    fn at_backend(&mut self, backend: u32, packet: ClientPacket, by: usize) {
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
        } else if self.is_being_corrected(&self.clients[client].key()) {
            // It passed a machine that the correction has not reached.
            let flow = self.clients[client].key();
            self.checker.excuse(flow, Exempt::W4, self.now);
        }
        let known = self.connections.get(&key) == Some(&packet.life);
        for us in self.travels().into_iter().flatten() {
            let event = Event::AtClient { client, life: packet.life, backend, opens, reset: !known };
            self.after(us, event);
        }
    }

    /// A packet in the middle of a flow reached this backend: the right one?
    fn judge(&mut self, client: usize, backend: u32, by: usize) {
        let now = self.now;
        let of = &mut self.clients[client];
        if !of.service.tcp && of.home.is_none() {
            of.home = Some(backend);
            of.home_at = now;
        }
        let Some(home) = of.home else { return };
        if home == backend || of.judged || matches!(of.phase, Phase::Closing | Phase::Closed) {
            return;
        }
        of.judged = true;
        let (key, life, home_at, lapsed) = (of.key(), of.life, of.home_at, of.lapsed);
        if self.removed.contains(&home) || lapsed {
            self.checker.summary.released += 1;
            return;
        }
        let mut exempt = self.checker.excused(&key);
        if exempt.is_none() && self.is_being_corrected(&key) {
            exempt = Some(Exempt::W4);
        }
        if exempt.is_none() && self.is_split(&key) {
            exempt = Some(Exempt::Partition);
        }
        if exempt.is_none() && (self.forced.0..=self.forced.1).contains(&home_at) {
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
                self.fail(format!(
                    "client {client} life {life} ({}) moved from backend {home} to {backend}, by machine {by}; {place}",
                    if self.clients[client].service.tcp { "TCP" } else { "UDP" }
                ));
            }
        }
    }

    /// Whether some machine has not acknowledged yet that the flow has another backend.
    fn is_being_corrected(&self, key: &wire::FlowKey) -> bool {
        self.machines.iter().filter(|of| of.alive).any(|of| {
            let mut notes = of.workers.iter().flat_map(worker::Worker::unacknowledged);
            notes.any(|(_, note)| matches!(note, Lasting::Push { key: of, .. } if of == key))
        })
    }

    /// Whether a record of the flow cannot reach a machine because of a partition of now or of just before.
    fn is_split(&self, key: &wire::FlowKey) -> bool {
        self.machines.iter().enumerate().filter(|(_, of)| of.alive).any(|(from, of)| {
            of.workers.iter().flat_map(worker::Worker::unacknowledged).any(|(to, note)| {
                let to = to.machine.index();
                let is_between = |&(a, b, until): &(usize, usize, Tick)| {
                    ((a, b) == (from, to) || (b, a) == (from, to)) && until.0 + 100_000 > self.now.0
                };
                note.key() == *key && self.partitions.iter().any(is_between)
            })
        })
    }

    /// What everybody knows of a client's flow.
    fn describe(&self, client: usize) -> String {
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

    fn at_client(&mut self, client: usize, life: u32, backend: u32, opens: bool, reset: bool) {
        let of = &mut self.clients[client];
        if of.life != life {
            return;
        }
        if reset {
            if matches!(of.phase, Phase::Open) && of.home.is_some_and(|home| home != backend) {
                let us = of.abandon(&mut self.random, self.scenario.max_idle_us);
                self.follow_up(client, None, Some(us));
            }
            return;
        }
        let was_opening = of.phase == Phase::Opening;
        let (packet, again) =
            of.answered(backend, opens, &mut self.random, self.scenario.max_idle_us, self.now);
        if was_opening && of.phase == Phase::Open {
            self.checker.summary.flows += 1;
        }
        self.follow_up(client, packet, again);
    }

    // ---- store -----------------------------------------------------------------------------------------------------

    fn control_delay(&mut self) -> u64 {
        self.random.between(self.scenario.control_delay_us.0, self.scenario.control_delay_us.1)
    }

    fn send_acknowledgement(&mut self, acknowledgement: Acknowledgement) {
        let us = self.control_delay();
        self.say(|| {
            format!("machine {} has done step {}", acknowledgement.member.machine.0, acknowledgement.step)
        });
        self.after(us, Event::Acknowledge(Box::new(acknowledgement)));
    }

    fn lead(&mut self) {
        if self.now < self.store_away_until {
            // Leases do not run while there is no store to keep them.
            for lease in &mut self.leases {
                *lease = Tick(self.now.0 + LEASE_US);
            }
            return;
        }
        for (machine, of) in self.machines.iter().enumerate() {
            if of.alive {
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
        self.plan = Arc::new(plan.clone());
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
        if plan.phase == statesync::plan::Phase::Commit {
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
            self.after(us, Event::Show { machine, watch: false });
        }
    }

    fn show(&mut self, machine: usize) {
        let of = &mut self.machines[machine];
        if !of.alive {
            return;
        }
        if self.now >= self.store_away_until {
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

    // ---- what happens to them ----------------------------------------------------------------------------------------

    fn change(&mut self) {
        if !self.active() {
            return;
        }
        let service = self.random.below(self.wanted.len() as u64) as usize;
        let of = &mut self.wanted[service];
        let what = self.random.below(4);
        let text = match what {
            // A new one.
            0 if of.len() < 7 => {
                let id = u32::try_from(self.registry.backends.len()).expect("few");
                self.registry.backends.push(service);
                of.push(id);
                format!("backend {id} comes")
            }
            // One is drained: its flows live on.
            1 if of.len() > 2 => {
                let at = self.random.below(of.len() as u64) as usize;
                let id = of.remove(at);
                self.drained.push(id);
                format!("backend {id} is drained")
            }
            // One is removed with its flows.
            2 if of.len() > 2 => {
                let at = self.random.below(of.len() as u64) as usize;
                let id = of.remove(at);
                self.removed.insert(id);
                format!("backend {id} is removed")
            }
            // A drained one returns.
            _ => {
                let mut back: Vec<u32> = self
                    .drained
                    .iter()
                    .copied()
                    .filter(|&id| self.registry.backends[id as usize] == service)
                    .collect();
                if self.scenario.broken == Some(Rule::BackendIds) {
                    back.extend(
                        self.removed
                            .iter()
                            .copied()
                            .filter(|&id| self.registry.backends[id as usize] == service),
                    );
                    back.sort_unstable();
                }
                match self.random.pick(&back) {
                    Some(id) if of.len() < 7 => {
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
        self.sometime(self.scenario.change_us, Event::Change);
    }

    fn request_tables(&mut self) {
        let mut answers = Vec::new();
        for of in &self.wanted {
            let mut sorted = of.clone();
            sorted.sort_unstable();
            let made = make_table(&sorted, self.scenario.slots);
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
            self.fail(format!("a change was refused: {refused}"));
        }
    }

    fn mask(&mut self) {
        if !self.active() {
            return;
        }
        let service = self.random.below(self.wanted.len() as u64) as usize;
        if let Some(backend) = self.random.pick(&self.wanted[service].clone()) {
            self.say(|| format!("mask {backend} asked"));
            let _ = self.leader.request(Request::Mask(BackendId(backend)));
            let us = self.random.between(200_000, 2_000_000);
            self.after(us, Event::Unmask(backend));
        }
        self.sometime(self.scenario.mask_us, Event::Mask);
    }

    fn partition(&mut self) {
        if !self.active() {
            return;
        }
        let (a, b) = self.two_machines();
        let us = self.random.between(50_000, 1_500_000);
        self.say(|| format!("machines {a} and {b} do not reach each other for {us} us"));
        self.partitions.push((a, b, Tick(self.now.0 + us)));
        self.after(us - 1, Event::Heal { a, b });
        self.sometime(self.scenario.partition_us, Event::Partition);
    }

    /// A partition ends: whatever could not be told across it was decided by one side alone.
    fn heal(&mut self, a: usize, b: usize) {
        let mut split = Vec::new();
        for (from, to) in [(a, b), (b, a)] {
            let unheard = self.machines[from].workers.iter().flat_map(worker::Worker::unacknowledged);
            split.extend(unheard.filter(|(of, _)| of.machine.index() == to).map(|(_, note)| note.key()));
        }
        for key in split {
            self.checker.excuse(key, Exempt::Partition, self.now);
        }
    }

    fn crash(&mut self) {
        if !self.active() {
            return;
        }
        let all_are_well = self.machines.iter().all(|machine| machine.alive && machine.is_ready())
            && self.plan.next_members.is_none()
            && self.plan.members.len() == self.machines.len();
        // A second death before redundancy is back is outside of what is promised.
        if all_are_well && self.router.len() > 1 {
            let machine = self.random.below(self.machines.len() as u64) as usize;
            self.kill(machine);
        }
        self.sometime(self.scenario.crash_us, Event::Crash);
    }

    fn kill(&mut self, machine: usize) {
        let now = self.now;
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
                        .map(|(_, note)| note.key()),
                );
            }
        }
        for key in lost {
            self.checker.excuse(key, Exempt::W1, now);
        }
        self.count(machine);
        self.machines[machine].alive = false;
        for index in 0..self.clients.len() {
            let client = &self.clients[index];
            if client.service.tcp {
                continue;
            }
            let key = client.key();
            let keeps_record = |of: &Machine| {
                of.workers.iter().any(|worker| worker.knowledge(&key, of.clock(now)).1.is_some())
            };
            // What others remember of it may be older than its last packet, and end sooner.
            let was_last = client.seen_by == machine && client.seen > Tick(0);
            let is_known = self.machines.iter().any(|of| of.alive && keeps_record(of));
            if was_last && !is_known && !self.is_tainted(index, self.machines[machine].follower.done()) {
                self.checker.excuse(key, Exempt::W2, now);
            }
        }
        let incarnation = dead.incarnation;
        let us = self.random.between(50_000, 400_000);
        self.after(us, Event::Unroute { machine, incarnation });
        let us = self.random.between(100_000, 2_500_000);
        self.after(us, Event::Return { machine });
    }

    /// Whether the slot of a client's flow is tainted, and was when somebody had done this step: then he has exported it.
    fn is_tainted(&self, client: usize, done: u64) -> bool {
        let of = &self.clients[client].service;
        let vip = (wire::Addr::V4(of.vip), of.port, if of.tcp { 6 } else { 17 });
        let flow = worker::station::flow_of(&self.clients[client].key(), vip);
        let hash = steer::hash::tuple(&super::machine::KEY, &flow);
        let slot = ((hash >> 32) * u64::from(self.scenario.slots)) >> 32;
        let slot = usize::try_from(slot).expect("below the number of slots");
        let service = self.registry.services.iter().position(|service| service == of);
        let since = service.and_then(|at| self.tainted_in.get(at)?.get(slot)).copied().unwrap_or(0);
        since > 0 && since <= done
    }

    fn come_back(&mut self, machine: usize) {
        let is_another = self.scenario.broken != Some(Rule::Incarnation);
        let incarnation = self.machines[machine].member.incarnation + u32::from(is_another);
        self.say(|| format!("machine {machine} returns as incarnation {incarnation}"));
        let new = Machine::new(machine, incarnation, self.scenario, &mut self.random);
        self.machines[machine] = new;
        let us = self.control_delay();
        self.after(us, Event::Show { machine, watch: false });
        for core in 0..self.scenario.cores {
            self.plan_turn(machine, core, Tick(self.now.0 + 10));
        }
        if self.router.contains(machine) {
            // Its route was never repaired: it drops until it has joined.
            self.say(|| format!("machine {machine} is still routed"));
        }
        self.after(100_000, Event::Route { machine });
    }

    // ---- the end -----------------------------------------------------------------------------------------------------

    fn count(&mut self, machine: usize) {
        let summary = &mut self.checker.summary;
        for counters in &self.machines[machine].counters {
            let of = &counters.station;
            summary.relays += of.relays.get();
            summary.core_relays += of.core_relays.get();
            summary.answers_cached += of.answers_cached.get();
            summary.statements[0] += of.decides.get();
            summary.statements[1] += of.exports.get();
            summary.statements[2] += of.refreshes.get();
            summary.statements[3] += of.migrates.get();
            summary.pushes += of.pushes.get();
            summary.note_bytes += of.note_bytes.get();
            summary.guesses += of.guesses.get();
            summary.turns += counters.totals.turns.get();
        }
    }

    /// Faults have stopped long ago: everything has come to rest.
    fn check_rest(&mut self) {
        let plan = Arc::clone(&self.plan);
        if plan.phase != statesync::plan::Phase::Idle || self.leader.waiting() > 0 {
            self.fail(format!("the plan has not come to rest: {:?}", plan.phase));
        }
        if plan.tainted_slots() > 0 {
            self.fail(format!("{} slots are tainted for ever", plan.tainted_slots()));
        }
        let mut notes = Vec::new();
        for (machine, of) in self.machines.iter().enumerate() {
            if !of.is_ready() {
                notes.push(format!("machine {machine} has not joined"));
            }
            for (core, counters) in of.counters.iter().enumerate() {
                if counters.station.unacknowledged.get() > 0 {
                    notes.push(format!("{machine}.{core} has notes that nobody acknowledges"));
                }
                if counters.station.records.get() > 0 {
                    notes.push(format!("{machine}.{core} keeps {} records", counters.station.records.get()));
                }
            }
        }
        if let Some(first) = notes.first() {
            self.fail(format!("after all was quiet: {first} (and {} more)", notes.len() - 1));
        }
    }

    fn finish(&mut self) {
        for machine in 0..self.machines.len() {
            if self.machines[machine].alive {
                self.count(machine);
            }
            let of = &mut self.machines[machine];
            for worker in &mut of.workers {
                worker.finish();
            }
        }
    }
}
