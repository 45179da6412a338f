//! The world: events in virtual time.

mod faults;
mod flows;
mod network;
mod replay;
mod rest;
mod store;
mod wiped;

use super::checker::{Checker, Property, RunSummary};
use super::client::{Client, LifePhase, ServiceOf};
use super::eavesdropper::Eavesdropper;
use super::machine::{KEY, Machine, Registry, make_table};
use super::packets::ClientPacket;
use super::random::Random;
use super::router::Router;
use super::scenario::{Scenario, ScenarioShape};
use super::wiped::Wiped;
use statesync::plan::{Acknowledgement, Leader, Plan, ServicePlan, SlotSet};
use statesync::{MachineId, Member, Members};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use wire::{Addr, BackendId, ServiceId, Tick};

/// A property that did not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The seed that shows it.
    pub seed: u64,
    /// When, microseconds.
    pub at_us: u64,
    /// Which property.
    pub property: Property,
    /// What happened instead, in words.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "seed {} at {} us, property \"{}\": {}",
            self.seed,
            self.at_us,
            self.property.name(),
            self.what
        )
    }
}

impl std::error::Error for Violation {}

#[derive(Clone, Debug)]
enum WorldEvent {
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
    Kill {
        machine: usize,
    },
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
    /// The store loses its data.
    Wipe,
    /// A machine reaches the store that has lost its data; `None`: nobody is waited for any more.
    BackAtStore(Option<usize>),
    Isolation,
    Clog,
    /// A machine dies, and the table swings.
    Upheaval,
    LeaderDies,
    NewLeader,
    Forge,
    Replay,
    /// A quarter of the longest idle time is over.
    Quarter,
    /// All must have come to rest.
    Rest,
}

/// How long the store keeps a member that says nothing.
const LEASE_US: u64 = 600_000;
/// Machines look at the store again after this time.
const WATCH_US: u64 = 150_000;
/// Workers take a turn at the latest after this time.
const IDLE_TURN_US: u64 = 40_000;
/// How long the rest is watched in which flows begin and nothing is told.
const STEADY_US: u64 = 1_500_000;
/// A mask in force before all have acknowledged: so long may members lag behind.
const FORCED_US: u64 = 600_000;
/// Lives of a client that the backends remember.
type Connections = HashMap<(u32, u32), u32>;

struct World<'a> {
    scenario: &'a Scenario,
    random: Random,
    now: Tick,
    queue: BinaryHeap<Reverse<(Tick, u64, usize)>>,
    events: Vec<Option<WorldEvent>>,
    free: Vec<usize>,
    order: u64,
    machines: Vec<Machine>,
    router: Router,
    registry: Registry,
    /// By service: backends in the table that is wanted.
    wanted: Vec<Vec<u32>>,
    /// Backends that were asked to go.
    removed: HashSet<u32>,
    /// Backends that were asked to be masked, and not to be unmasked.
    masked: BTreeSet<u32>,
    /// When backends were masked last, as far as the plan says.
    masked_until: HashMap<u32, Tick>,
    /// Not in the table, but their flows live.
    drained: Vec<u32>,
    leader: Leader,
    /// Nobody leads before then.
    leaderless_until: Tick,
    plan: Arc<Plan>,
    /// By service and slot, the step in which it was tainted; 0 for untainted.
    tainted_in: Vec<Vec<u64>>,
    /// When each machine's lease ends.
    leases: Vec<Tick>,
    store_away_until: Tick,
    /// The store's `machines/N`: by number, the machine whose name has it, and its last incarnation.
    registered: BTreeMap<MachineId, (usize, u32)>,
    /// The store has lost its data, and nobody has begun to lead since.
    wiped: Option<Wiped>,
    /// When each machine reaches the store again.
    isolated_until: Vec<Tick>,
    clients: Vec<Client>,
    /// By service and slot: the clients whose flows are in it.
    in_slot: Vec<Vec<Vec<usize>>>,
    connections: Connections,
    checker: Checker,
    /// Pairs of machines that do not reach each other, and until when.
    partitions: Vec<(usize, usize, Tick)>,
    /// A link of machines on which everything waits until then.
    clogs: Vec<(usize, usize, Tick)>,
    /// Masks in force before all had acknowledged.
    forced: (Tick, Tick),
    /// A machine that dies in its next turn that decides something, after so many thousandths of its frames.
    dying: Option<(usize, u64)>,
    /// Who listens between machines.
    listener: Eavesdropper,
    /// When each machine died last.
    died: Vec<Tick>,
    /// All has come to rest, and flows begin again.
    is_steady: bool,
    /// What was counted when the rest began.
    at_rest: RunSummary,
    trace: Option<&'a mut dyn FnMut(String)>,
    failure: Option<Violation>,
}

/// Runs a scenario. `trace` is told each step.
///
/// # Errors
/// The first property that did not hold.
pub fn run<'a>(
    scenario: &'a Scenario,
    trace: Option<&'a mut dyn FnMut(String)>,
) -> Result<RunSummary, Violation> {
    World::new(scenario, trace).run()
}

/// The services with their first tables, and by service the backends in them.
fn registry(scenario: &Scenario, random: &mut Random) -> (Registry, Vec<Vec<u32>>) {
    let mut services = vec![
        ServiceOf { id: ServiceId(1), vip: Addr::V4(0xcb00_710a), port: 80, tcp: true },
        ServiceOf { id: ServiceId(2), vip: Addr::V4(0xcb00_710a), port: 53, tcp: false },
        ServiceOf { id: ServiceId(3), vip: Addr::V6(0x2001_0db8 << 96 | 80), port: 443, tcp: true },
    ];
    if scenario.backends > 0 {
        services.truncate(1);
    }
    let mut registry = Registry { services: services.clone(), backends: vec![0], tables: Vec::new() };
    let mut wanted = Vec::new();
    for service in 0..services.len() {
        let mut of = Vec::new();
        let count = if scenario.backends > 0 { scenario.backends as u64 } else { random.between(3, 5) };
        for _ in 0..count {
            of.push(u32::try_from(registry.backends.len()).expect("few"));
            registry.backends.push(service);
        }
        registry.tables.push(make_table(&of, scenario.slots));
        wanted.push(of);
    }
    (registry, wanted)
}

/// The plan with which everything begins: all machines, and these tables.
fn first_plan(scenario: &Scenario, registry: &Registry, wanted: &[Vec<u32>]) -> Plan {
    let members =
        Members::new((0..scenario.machines).map(|m| Member { machine: MachineId(m as u8), incarnation: 1 }));
    let planned = registry
        .services
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
    Leader::first(members, planned, backends)
}

/// A client that has not begun.
fn client(index: usize, services: &[ServiceOf], scenario: &Scenario, random: &mut Random) -> Client {
    let udp = random.chance(scenario.udp_share);
    let v6 = !udp && random.chance(scenario.v6_share);
    let number = random.below(0x00ff_fffe) as u32;
    let source = if v6 {
        Addr::V6(0x2001_0db8 << 96 | 1 << 64 | u128::from(number))
    } else {
        Addr::V4(0x0a01_0001 + number)
    };
    let place = if v6 { 2 } else { usize::from(udp) };
    let mut client = Client {
        index,
        source,
        sport: 10_000 + (index % 50_000) as u16,
        service: services[place],
        slot: (place, 0),
        life: 0,
        phase: LifePhase::Fresh,
        home: None,
        home_at: Tick(0),
        packets: 0,
        unanswered: false,
        timeout_us: 0,
        timer: 0,
        seen: Tick(0),
        seen_by: 0,
        lapsed: false,
        kept: false,
        judged: false,
        silent: false,
        large: !udp && random.chance(scenario.large_share),
        sent: 0,
    };
    let hash = steer::hash::tuple(&KEY, &client.flow());
    let slot = ((hash >> 32) * u64::from(scenario.slots)) >> 32;
    client.slot = (place, u32::try_from(slot).expect("below the number of slots"));
    client
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, trace: Option<&'a mut dyn FnMut(String)>) -> World<'a> {
        let mut random = Random::new(scenario.seed ^ 0xabcd_ef01);
        let (registry, wanted) = registry(scenario, &mut random);
        let plan = first_plan(scenario, &registry, &wanted);
        let machines: Vec<Machine> =
            (0..scenario.machines).map(|m| Machine::new(m, 1, scenario, &mut random)).collect();
        let clients: Vec<Client> = (0..scenario.clients)
            .map(|index| client(index, &registry.services, scenario, &mut random))
            .collect();
        let services = registry.services.len();
        let mut in_slot = vec![vec![Vec::new(); scenario.slots as usize]; services];
        for client in &clients {
            in_slot[client.slot.0][client.slot.1 as usize].push(client.index);
        }
        let mut leader = Leader::new(plan.clone(), scenario.habits.max_idle_us, Tick(1_000_000));
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
            leaderless_until: Tick(0),
            plan: Arc::new(plan),
            tainted_in: vec![vec![0; scenario.slots as usize]; services],
            leases: vec![Tick(1_000_000 + LEASE_US); scenario.machines],
            store_away_until: Tick(0),
            registered: (0..scenario.machines).map(|m| (MachineId(m as u8), (m, 1))).collect(),
            wiped: None,
            isolated_until: vec![Tick(0); scenario.machines],
            machines,
            router,
            registry,
            wanted,
            removed: HashSet::new(),
            masked: BTreeSet::new(),
            masked_until: HashMap::new(),
            drained: Vec::new(),
            clients,
            in_slot,
            connections: HashMap::new(),
            checker: Checker::default(),
            partitions: Vec::new(),
            clogs: Vec::new(),
            forced: (Tick(0), Tick(0)),
            dying: None,
            listener: Eavesdropper::new(scenario.seed),
            died: vec![Tick(0); scenario.machines],
            is_steady: false,
            at_rest: RunSummary::default(),
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

    fn fail(&mut self, property: Property, what: String) {
        self.say(|| format!("FAILED {}: {what}", property.name()));
        if self.failure.is_none() {
            self.failure = Some(Violation { seed: self.scenario.seed, at_us: self.now.0, property, what });
        }
    }

    fn at(&mut self, at: Tick, event: WorldEvent) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.order += 1;
        self.queue.push(Reverse((at, self.order, place)));
    }

    fn after(&mut self, us: u64, event: WorldEvent) {
        self.at(Tick(self.now.0 + us), event);
    }

    fn sometime(&mut self, mean_us: u64, event: WorldEvent) {
        if mean_us > 0 {
            let us = self.random.between(mean_us / 2, mean_us * 3 / 2);
            self.after(us, event);
        }
    }

    /// Faults happen.
    fn active(&self) -> bool {
        self.now.0 < 1_000_000 + self.scenario.active_us
    }

    /// Flows begin.
    fn may_begin(&self) -> bool {
        self.active() || self.is_steady
    }

    fn run(mut self) -> Result<RunSummary, Violation> {
        let scenario = self.scenario;
        for machine in 0..scenario.machines {
            self.after(0, WorldEvent::Show { machine, watch: true });
        }
        self.after(0, WorldEvent::Lead);
        for client in 0..scenario.clients {
            let us = self.random.below(2_000_000) + 50_000;
            self.after(us, WorldEvent::Ring { client, timer: 0 });
        }
        for (mean, event) in [
            (scenario.change_us, WorldEvent::Change),
            (scenario.reshuffle_us, WorldEvent::Reshuffle),
            (scenario.crash_us, WorldEvent::Crash),
            (scenario.mask_us, WorldEvent::Mask),
            (scenario.partition_us, WorldEvent::Partition),
            (scenario.store_loss_us, WorldEvent::StoreLoss),
            (scenario.wipe_us, WorldEvent::Wipe),
            (scenario.clog_us, WorldEvent::Clog),
            (scenario.isolation_us, WorldEvent::Isolation),
            (scenario.leader_us, WorldEvent::LeaderDies),
            (scenario.forge_us, WorldEvent::Forge),
            (scenario.replay_us, WorldEvent::Replay),
        ] {
            self.sometime(mean, event);
        }
        if scenario.shape == ScenarioShape::Upheaval {
            for at in [1_500_000, 7_200_000] {
                let us = at + self.random.below(500_000);
                self.after(us, WorldEvent::Upheaval);
            }
        }
        self.after(scenario.habits.max_idle_us / 4, WorldEvent::Quarter);
        let rest = scenario.active_us + (5 * scenario.habits.max_idle_us).max(15_000_000) + 3_000_000;
        self.after(rest, WorldEvent::Rest);
        let end = Tick(1_000_000 + rest + STEADY_US);
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
        self.check_silence();
        self.finish();
        if let Some((exempt, count)) = self.checker.summary.forbidden(scenario.faults) {
            let what = format!("{count} flows are exempt by {exempt:?}, without machine faults");
            self.fail(Property::NoneExempt, what);
        }
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok(self.checker.summary),
        }
    }

    fn happen(&mut self, event: WorldEvent) {
        match event {
            WorldEvent::Arrive { machine, frame, client } => self.arrive(machine, &frame, client),
            WorldEvent::Turn { machine, core } => self.turn(machine, core),
            WorldEvent::AtBackend { backend, packet, by } => self.at_backend(backend, packet, by),
            WorldEvent::AtClient { client, life, backend, opens, reset } => {
                self.at_client(client, life, backend, opens, reset);
            }
            WorldEvent::Ring { client, timer } => self.ring(client, timer),
            WorldEvent::Show { machine, watch } => self.look_at_store(machine, watch),
            WorldEvent::Acknowledge(acknowledgement) => self.hear_acknowledgement(*acknowledgement),
            WorldEvent::Lead => {
                self.lead();
                self.after(25_000, WorldEvent::Lead);
            }
            WorldEvent::Change => self.change(),
            WorldEvent::Reshuffle => self.reshuffle(),
            WorldEvent::Crash => self.crash(),
            WorldEvent::Kill { machine } => {
                if self.dying.take_if(|(of, _)| *of == machine).is_some() && self.may_die() {
                    self.kill(machine);
                }
            }
            WorldEvent::Return { machine } => self.come_back(machine),
            WorldEvent::Unroute { machine, incarnation } => {
                if self.machines[machine].member.incarnation == incarnation {
                    self.router.remove(machine);
                }
            }
            WorldEvent::Route { machine } => self.route(machine),
            WorldEvent::Mask => self.mask(),
            WorldEvent::Unmask(backend) => {
                self.unmask(backend);
            }
            WorldEvent::Partition => self.partition(),
            WorldEvent::Heal { a, b } => self.heal(a, b),
            WorldEvent::StoreLoss => self.lose_store(),
            WorldEvent::Wipe => self.wipe(),
            WorldEvent::BackAtStore(machine) => self.back_at_store(machine),
            WorldEvent::Isolation => self.isolate(),
            WorldEvent::Clog => self.clog(),
            WorldEvent::Upheaval => self.upheaval(),
            WorldEvent::LeaderDies => self.leader_dies(),
            WorldEvent::NewLeader => self.new_leader(),
            WorldEvent::Forge => self.forge(),
            WorldEvent::Replay => self.replay(),
            WorldEvent::Quarter => self.quarter(),
            WorldEvent::Rest => self.rest(),
        }
    }

    /// A machine looks at the store, and does so again.
    fn look_at_store(&mut self, machine: usize, watch: bool) {
        self.show(machine);
        if watch {
            self.machines[machine].weigh(&self.registry, self.scenario);
            self.after(WATCH_US, WorldEvent::Show { machine, watch });
        }
    }

    /// The leader, if there is one and the store is reached, learns of an acknowledgement.
    fn hear_acknowledgement(&mut self, acknowledgement: Acknowledgement) {
        if self.now >= self.store_away_until && self.now >= self.leaderless_until {
            self.leader.acknowledge(acknowledgement);
            self.lead();
        }
    }

    /// The router spreads flows anew.
    fn reshuffle(&mut self) {
        if self.may_begin() {
            let salt = self.random.next();
            self.say(|| "router reshuffles".into());
            self.router.reshuffle(salt);
            self.sometime(self.scenario.reshuffle_us, WorldEvent::Reshuffle);
        }
    }

    /// The router sends to a machine as soon as it is ready.
    fn route(&mut self, machine: usize) {
        if self.machines[machine].is_ready() {
            self.say(|| format!("route to machine {machine}"));
            self.router.add(machine);
        } else {
            self.after(50_000, WorldEvent::Route { machine });
        }
    }

    /// Nobody reaches the store for a while.
    fn lose_store(&mut self) {
        if self.active() {
            let us = self.random.between(300_000, 2_000_000);
            self.store_away_until = Tick(self.now.0 + us);
            self.say(|| format!("store away for {us} us"));
            self.sometime(self.scenario.store_loss_us, WorldEvent::StoreLoss);
        }
    }

    /// One machine does not reach the store for a while.
    fn isolate(&mut self) {
        if self.active() {
            let machine = self.two_machines().0;
            let us = self.random.between(50_000, LEASE_US - 100_000);
            self.isolated_until[machine] = Tick(self.now.0 + us);
            self.say(|| format!("machine {machine} does not reach the store for {us} us"));
            self.sometime(self.scenario.isolation_us, WorldEvent::Isolation);
        }
    }

    /// Nothing passes between two machines for a while, and then all of it.
    fn clog(&mut self) {
        if self.active() {
            let (a, b) = self.two_machines();
            let until = Tick(self.now.0 + self.random.between(20_000, 250_000));
            self.clogs.push((a, b, until));
            self.sometime(self.scenario.clog_us, WorldEvent::Clog);
        }
    }

    fn two_machines(&mut self) -> (usize, usize) {
        let count = self.machines.len() as u64;
        let a = self.random.below(count);
        let b = (a + 1 + self.random.below(count - 1)) % count;
        (a as usize, b as usize)
    }
}
