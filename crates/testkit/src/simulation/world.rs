//! The world: events in virtual time.

mod agents;
mod faults;
mod flows;
mod network;
mod operator;
mod plan;
mod replay;
mod rest;
mod store;

pub use rest::HEARTBEAT_BYTES;

use super::agent::Agent;
use super::checker::{Checker, Property, RunSummary};
use super::client::{Client, LifePhase, ServiceOf};
use super::eavesdropper::Eavesdropper;
use super::machine::{KEY, Machine};
use super::packets::ClientPacket;
use super::random::Random;
use super::router::Router;
use super::scenario::{Scenario, ScenarioShape};
use super::services::ServicePool;
use control::simulation::{Agreed, SavedState, SimulatedStore, StoreAsk, StoreNews};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use wire::{Addr, BackendId, Tick};

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

#[derive(Debug)]
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
    /// A machine wants a connection to the store.
    Connect {
        machine: usize,
        run: u64,
    },
    /// The store tells a machine something, on this connection.
    Told {
        machine: usize,
        connection: u64,
        news: Box<StoreNews>,
    },
    /// A machine asks the store for something, on this connection; `survives`: also if that has ended meanwhile.
    Asked {
        machine: usize,
        connection: u64,
        lease: u64,
        request: Box<StoreAsk>,
        survives: bool,
    },
    /// Leases are renewed, and end.
    Leases,
    /// Housekeeping of a machine.
    Tend {
        machine: usize,
        run: u64,
    },
    /// What a machine looks at from time to time.
    Sweep {
        machine: usize,
        run: u64,
        turn: u64,
    },
    /// Checks of backends end.
    Check {
        machine: usize,
        run: u64,
    },
    /// An operator looks whether what he wants was asked for.
    Operator,
    /// A host with a backend that registers comes, or one goes.
    Host,
    /// Agents look around.
    Agents,
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
        run: u64,
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
    Isolation,
    Clog,
    /// A machine dies, and the table swings.
    Upheaval,
    /// The leader is none any more, and does not know it.
    LeaderDies,
    Forge,
    Replay,
    /// A quarter of the longest idle time is over.
    Quarter,
    /// All must have come to rest.
    Rest,
}

/// How long the store keeps a member that says nothing.
const LEASE_US: u64 = 600_000;
/// They are renewed after this time.
const RENEW_US: u64 = 50_000;
/// Housekeeping of a machine whose controller waits for something, and of one that does not.
const TEND_US: (u64, u64) = (25_000, 150_000);
/// How long a cluster may take until all have joined, and backends are up.
const BEGIN_US: u64 = 20_000_000;
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
    services: ServicePool,
    /// Backends whose checks fail, and at which machines.
    down: BTreeMap<u32, Vec<bool>>,
    /// When backends were masked last, as far as the plan says.
    masked_until: HashMap<u32, Tick>,
    store: SimulatedStore,
    /// The newest plan that was in the store.
    agreed: Arc<Agreed>,
    /// Its backends by their numbers, and the other way round.
    ids: HashMap<u32, BackendId>,
    numbers: HashMap<BackendId, u32>,
    /// By service and slot, the step in which it was tainted; 0 for untainted.
    tainted_in: Vec<Vec<u64>>,
    /// When each lease ends.
    leases: BTreeMap<u64, Tick>,
    last_lease: u64,
    last_connection: u64,
    store_away_until: Tick,
    /// What each machine's disk has.
    disks: Vec<SavedState>,
    /// A machine that does not reach the store for so long that its lease ends, while it lives; and since when that has ended.
    exile: Option<(usize, Option<Tick>)>,
    agents: Vec<Agent>,
    last_session: u64,
    /// When faults begin to happen.
    begun: Tick,
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
    /// An operator looks whether what he wants was asked for.
    operates: bool,
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
        let services = ServicePool::new(scenario, &mut random);
        let now = Tick(1_000_000);
        let machines: Vec<Machine> = (0..scenario.machines)
            .map(|m| Machine::new((m, 1), (scenario, &services), SavedState::default(), &mut random, now))
            .collect();
        let clients: Vec<Client> = (0..scenario.clients)
            .map(|index| client(index, &services.services, scenario, &mut random))
            .collect();
        let count = services.services.len();
        let mut in_slot = vec![vec![Vec::new(); scenario.slots as usize]; count];
        for client in &clients {
            in_slot[client.slot.0][client.slot.1 as usize].push(client.index);
        }
        let router = Router::new(scenario.resilient, random.next());
        World {
            scenario,
            now,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            order: 0,
            machines,
            router,
            services,
            down: BTreeMap::new(),
            masked_until: HashMap::new(),
            store: SimulatedStore::new(KEY),
            agreed: Arc::default(),
            ids: HashMap::new(),
            numbers: HashMap::new(),
            tainted_in: vec![vec![0; scenario.slots as usize]; count],
            leases: BTreeMap::new(),
            last_lease: 0,
            last_connection: 0,
            store_away_until: Tick(0),
            disks: vec![SavedState::default(); scenario.machines],
            exile: None,
            agents: Vec::new(),
            last_session: 0,
            begun: Tick(0),
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
            operates: false,
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
        self.begun > Tick(0) && self.now.0 < self.begun.0 + self.scenario.active_us
    }

    /// Flows begin.
    fn may_begin(&self) -> bool {
        self.active() || self.is_steady
    }

    fn run(mut self) -> Result<RunSummary, Violation> {
        let scenario = self.scenario;
        self.begin();
        if let Some(failure) = self.failure {
            return Err(failure);
        }
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
            (scenario.host_us, WorldEvent::Host),
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
        let end = Tick(self.begun.0 + rest + STEADY_US);
        while self.failure.is_none() && self.next(end) {}
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

    /// The next event happens, if there is one until then.
    fn next(&mut self, end: Tick) -> bool {
        let Some(Reverse((at, _, place))) = self.queue.pop() else { return false };
        if at > end {
            return false;
        }
        self.now = at;
        if let Some(event) = self.events[place].take() {
            self.free.push(place);
            self.happen(event);
        }
        true
    }

    /// The cluster begins: machines meet in the store, and nothing else happens until all take traffic.
    fn begin(&mut self) {
        for machine in 0..self.machines.len() {
            self.begin_machine(machine);
        }
        self.after(RENEW_US, WorldEvent::Leases);
        let end = Tick(self.now.0 + BEGIN_US);
        while self.failure.is_none() && !self.has_begun() {
            if !self.next(end) {
                let what = format!("the cluster has not begun: {}", self.unsettled().unwrap_or_default());
                self.fail(Property::Rest, what);
            }
        }
        self.begun = self.now;
        (0..self.machines.len()).for_each(|machine| self.router.add(machine));
    }

    fn has_begun(&self) -> bool {
        self.machines.iter().all(Machine::is_ready) && self.unsettled().is_none()
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
            WorldEvent::Connect { machine, run } => self.connect(machine, run),
            WorldEvent::Told { machine, connection, news } => self.told(machine, connection, *news),
            WorldEvent::Asked { machine, connection, lease, request, survives } => {
                self.asked((machine, connection), lease, *request, survives);
            }
            WorldEvent::Leases => self.renew_leases(),
            WorldEvent::Tend { machine, run } => self.tend_again(machine, run),
            WorldEvent::Sweep { machine, run, turn } => self.sweep(machine, run, turn),
            WorldEvent::Check { machine, run } => self.check_backends(machine, run),
            WorldEvent::Operator => self.operate(),
            WorldEvent::Host => self.host(),
            WorldEvent::Agents => self.attend_agents(),
            WorldEvent::Change => self.change(),
            WorldEvent::Reshuffle => self.reshuffle(),
            WorldEvent::Crash => self.crash(),
            WorldEvent::Kill { machine } => {
                if self.dying.take_if(|(of, _)| *of == machine).is_some() && self.may_die() {
                    self.kill(machine);
                }
            }
            WorldEvent::Return { machine } => self.come_back(machine),
            WorldEvent::Unroute { machine, run } => {
                if self.machines[machine].run == run {
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
            WorldEvent::Isolation => self.isolate(),
            WorldEvent::Clog => self.clog(),
            WorldEvent::Upheaval => self.upheaval(),
            WorldEvent::LeaderDies => self.leader_dies(),
            WorldEvent::Forge => self.forge(),
            WorldEvent::Replay => self.replay(),
            WorldEvent::Quarter => self.quarter(),
            WorldEvent::Rest => self.rest(),
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
