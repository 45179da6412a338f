//! Controllers without their shell: machines of a simulated cluster, and the store that they meet in, in memory and in the simulation's
//! own time.
//!
//! Rule of this module: it decides nothing. A [`SimulatedMachine`] is the [controller](crate::controller) that a daemon runs; what its
//! [shell](crate::shell) does with threads and sockets is done here at once, or left to the simulation: when views, orders, checks
//! and agents' words arrive, and whether.

use crate::agents::event::AgentEvent;
use crate::agents::hello::{Hello, Tokens};
use crate::agents::session::SessionId;
use crate::cluster::desire::Desire;
use crate::cluster::keys::{self, DesiredValue, Key};
use crate::cluster::membership::Membership;
use crate::cluster::memory::{Lease, MemoryStore};
use crate::cluster::participant::StoreOrder;
use crate::cluster::readings::ReadingSources;
use crate::cluster::stock::{Lot, Missing};
use crate::cluster::store_event::StoreEvent;
use crate::cluster::tables::AgreedTables;
use crate::controller::{BeforeStart, Controller, ControllerParts, ThisProgram};
use crate::effect::Effect;
use crate::event::Event;
use crate::gauges::{DataPort, DeviceStats, Figures, ListenerFigures, LostWords, WorkerGauges};
use crate::health::{Check, Subject};
use crate::now::Now;
use crate::revision::Ledger;
use crate::revision::start::{StartConfig, start};
use crate::state::Saved;
use model::Loaded;
use model::agent::{ToAgent, ToMachine};
use model::api::{CheckResult, ConnectionCounts};
use statesync::Member;
use statesync::plan::{Plan, Report};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use wire::{BackendId, CoreId, PortId, Tick};
use worker::{Counters, View};

/// A moment, as a machine sees it.
#[derive(Clone, Copy, Debug)]
pub struct MachineTime {
    /// Since the machine's start.
    pub uptime: Duration,
    /// Unix time, milliseconds.
    pub unix_ms: u64,
    /// By the workers' clock.
    pub tick: Tick,
}

impl From<MachineTime> for Now {
    fn from(of: MachineTime) -> Now {
        Now { monotonic: of.uptime, unix_ms: of.unix_ms, tick: of.tick }
    }
}

/// What the store tells a machine.
#[derive(Debug)]
pub struct StoreNews(StoreEvent);

/// Keys that have changed, for all who watch.
#[derive(Clone, Debug)]
pub struct Changes(Vec<(Key, Option<crate::cluster::snapshot::StoredValue>)>);

impl Changes {
    /// As it is told to one of them.
    pub fn news(&self) -> StoreNews {
        StoreNews(StoreEvent::Changed(self.0.clone()))
    }
}

impl StoreNews {
    /// The store is not reached any more.
    pub fn disconnected() -> StoreNews {
        StoreNews(StoreEvent::Disconnected("cut off".to_owned()))
    }
}

/// What a machine asks the store for.
#[derive(Debug)]
pub struct StoreAsk(AskKind);

#[derive(Debug)]
enum AskKind {
    Order(StoreOrder),
    /// The controller's own: it is told when it was not taken.
    Desire(Desire),
    /// An operator's.
    Apply(Desire),
}

/// State of a machine that survives its restart.
#[derive(Clone, Debug, Default)]
pub struct SavedState(Saved);

/// What agents know, by service: the same on all machines.
pub type ServiceTokens = HashMap<String, Vec<u8>>;

/// A plan in the store, and whom its ids stand for.
#[derive(Debug, Default)]
pub struct Agreed {
    /// The plan.
    pub plan: Plan,
    /// Its backends by name; names are used once in a simulation.
    pub backends: BTreeMap<String, BackendId>,
    /// Revision of the services in force, and of those that all machines have.
    pub wish: (i64, i64),
    /// Why the last services that were asked for cannot be had.
    pub refused: Option<String>,
}

/// The store of a simulated cluster.
#[derive(Debug)]
pub struct SimulatedStore {
    memory: MemoryStore,
    tables: AgreedTables,
    /// The last plan that was read, and its revision.
    agreed: Option<(i64, Arc<Agreed>)>,
}

impl SimulatedStore {
    /// An empty one, of a cluster whose slots have this key.
    pub fn new(key: [u8; 16]) -> SimulatedStore {
        SimulatedStore { memory: MemoryStore::default(), tables: AgreedTables::new(key), agreed: None }
    }

    /// Number and incarnation of the machine of this name, which starts; `None`: it has to wait.
    pub fn choose(&mut self, name: &str, clock_s: u32) -> Option<Member> {
        self.memory.choose(name, clock_s, &mut self.tables)
    }

    /// Whether there is a plan.
    pub fn has_plan(&self) -> bool {
        self.memory.entry(Key::Plan).is_some()
    }

    /// All that is there, for a machine that connects.
    pub fn all(&self) -> StoreNews {
        StoreNews(StoreEvent::Connected(self.memory.all()))
    }

    /// Carries out what a machine with this lease asks for; its answer, where there is one.
    pub fn carry_out(&mut self, lease: u64, request: StoreAsk) -> Option<StoreNews> {
        match request.0 {
            AskKind::Order(order) => self.memory.carry_out(lease, order),
            AskKind::Desire(desire) => self.memory.desire(desire).is_none().then_some(StoreEvent::NotDesired),
            AskKind::Apply(desire) => {
                self.memory.desire(desire);
                None
            }
        }
        .map(StoreNews)
    }

    /// What has changed since the last call; `None`: nothing.
    pub fn take_changes(&mut self) -> Option<Changes> {
        let changes = self.memory.take_changes();
        (!changes.is_empty()).then_some(Changes(changes))
    }

    /// All that is under the lease goes.
    pub fn end_lease(&mut self, lease: Lease) {
        self.memory.end_lease(lease);
    }

    /// Services and drains that operators have asked for last; `None`: none.
    pub fn asked(&self) -> Option<(String, BTreeSet<(String, String)>)> {
        let entry = self.memory.entry(Key::Desired)?;
        let wish: DesiredValue = keys::value(Key::Desired, &entry.value).ok()?;
        Some((wish.text, wish.drains))
    }

    /// The leader's key goes, as if its lease had ended: who leads does not know it yet.
    pub fn depose(&mut self) {
        self.memory.remove(Key::Leader);
    }

    /// It loses its data.
    pub fn wipe(&mut self) {
        self.memory.wipe();
        self.agreed = None;
    }

    /// The plan that is there; `None`: none.
    ///
    /// # Errors
    /// Why what a leader wrote cannot be read.
    pub fn agreed(&mut self) -> Result<Option<Arc<Agreed>>, String> {
        let revision = self.memory.revision_of(Key::Plan);
        if let Some((_, agreed)) = self.agreed.as_ref().filter(|(of, _)| *of == revision) {
            return Ok(Some(Arc::clone(agreed)));
        }
        let document = self.memory.document(&mut self.tables).transpose();
        let Some(document) = document.map_err(|error| error.to_string())? else { return Ok(None) };
        let agreed = Arc::new(Agreed {
            backends: document.backends.iter().map(|of| (of.name.clone(), of.id)).collect(),
            wish: (document.wish, document.settled),
            refused: document.refused.clone().map(|(_, reason)| reason),
            plan: document.plan,
        });
        self.tables.keep_used();
        self.agreed = Some((revision, Arc::clone(&agreed)));
        Ok(Some(agreed))
    }
}

/// What a machine is made of.
#[derive(Debug)]
pub struct MachineSetup<'a> {
    /// Its configuration.
    pub loaded: Loaded,
    /// What agents know.
    pub tokens: &'a ServiceTokens,
    /// Counters and flow tables of its workers, by core.
    pub workers: Vec<(Arc<Counters>, flow::Reader)>,
    /// What it had saved before.
    pub saved: SavedState,
    /// Frames that it may relay: a second, and at once.
    pub relays: (u64, u64),
    /// Slots of each service's table, whatever is configured: in a small one many flows share a slot.
    pub slots: u32,
    /// A rule of the protocol that does not hold here.
    pub broken: Option<statesync::Rule>,
}

/// A machine's controller.
pub struct SimulatedMachine {
    controller: Controller,
    tokens: ServiceTokens,
    slots: u32,
    view: Option<Arc<View>>,
    requests: Vec<StoreAsk>,
    checks: BTreeMap<Subject, Arc<Check>>,
    saved: Option<(u64, Saved)>,
    told: Vec<(u64, ToAgent)>,
    logged: Vec<String>,
    /// What came of effects at once.
    came: VecDeque<Event>,
}

impl std::fmt::Debug for SimulatedMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatedMachine").field("member", &self.member()).finish_non_exhaustive()
    }
}

/// The data port that every machine has.
fn data_port(mac: [u8; 6]) -> DataPort {
    DataPort {
        id: PortId(0),
        name: "data0".to_owned(),
        device: "net_null0".to_owned(),
        mac,
        mtu: 1500,
        driver: "net_null".to_owned(),
        exception: None,
        kernel: None,
        stats: Box::new(DeviceStats::default),
    }
}

fn no_figures() -> Figures {
    Figures {
        management: Vec::new(),
        lost: LostWords::default(),
        connections: ConnectionCounts::default(),
        agents: ListenerFigures { open: 0, paused: 0, closed: Vec::new() },
    }
}

fn resize(loaded: &mut Loaded, slots: u32) {
    for service in &mut loaded.config.services {
        service.maglev_size = slots;
    }
}

impl SimulatedMachine {
    /// Starts with a data port of this address.
    ///
    /// # Errors
    /// The configuration is not one of a member of a cluster, or cannot be compiled.
    pub fn start(
        mut setup: MachineSetup<'_>,
        mac: [u8; 6],
        at: MachineTime,
    ) -> Result<SimulatedMachine, String> {
        let now = Now::from(at);
        resize(&mut setup.loaded, setup.slots);
        let workers = (0..).map(CoreId).zip(setup.workers);
        let workers: Vec<WorkerGauges> = workers
            .map(|(core, (counters, flows))| WorkerGauges { core, cpu: u16::from(core.0), counters, flows })
            .collect();
        let mut part = Membership::new(&setup.loaded, "0", workers.len(), now).ok_or("no cluster")?;
        part.relays = setup.relays;
        #[cfg(feature = "negative-controls")]
        if let Some(rule) = setup.broken {
            part.break_rule(rule);
        }
        let StartConfig { loaded, content, .. } = start(&setup.loaded, &Ledger::default(), &|_| Ok(()));
        let file_text = loaded.text.clone();
        let program = ThisProgram {
            config_path: PathBuf::from("simulated.toml"),
            version: "0".to_owned(),
            started_unix_ms: now.unix_ms,
            memory_bytes: Vec::new(),
            figures: Box::new(no_figures),
            grace: Duration::ZERO,
            stopping: false,
            leaving: None,
        };
        let parts = ControllerParts {
            program,
            workers,
            ports: vec![data_port(mac)],
            history: BeforeStart { saved: setup.saved.0, revisions: Ledger::default(), content, file_text },
            flow_secrets: Vec::new(),
            cluster: Some(part),
        };
        let controller =
            Controller::new(loaded, setup.tokens, parts, now).map_err(|refusal| refusal.to_string())?;
        let mut machine = SimulatedMachine {
            controller,
            tokens: setup.tokens.clone(),
            slots: setup.slots,
            view: None,
            requests: Vec::new(),
            checks: BTreeMap::new(),
            saved: None,
            told: Vec::new(),
            logged: Vec::new(),
            came: VecDeque::from([Event::Links(vec![(PortId(0), true)])]),
        };
        let effects = machine.controller.take_effects();
        machine.perform(effects);
        machine.go_on(now);
        Ok(machine)
    }

    fn step(&mut self, event: Event, at: MachineTime) {
        self.came.push_back(event);
        self.go_on(at.into());
    }

    fn go_on(&mut self, now: Now) {
        while let Some(event) = self.came.pop_front() {
            let effects = self.controller.step(event, now);
            self.perform(effects);
        }
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Publish(view) => self.view = Some(view),
                Effect::StartCheck(of, _, check) => drop(self.checks.insert(of, check)),
                Effect::StopCheck(of) => drop(self.checks.remove(&of)),
                Effect::Tell(SessionId(id), message) => self.told.push((id, message)),
                Effect::Order(order) => self.requests.push(StoreAsk(AskKind::Order(order))),
                Effect::Desire(desire) => self.requests.push(StoreAsk(AskKind::Desire(desire))),
                Effect::MakeTables(missing) => {
                    let made = missing.into_iter().filter_map(|of| of.make().ok().map(|table| (of, table)));
                    self.came.push_back(Event::Tables(made.collect()));
                }
                Effect::MakeMissing(missing) => {
                    let lot = self.lot(missing);
                    self.came.push_back(Event::ClusterLot(lot));
                }
                Effect::Save(number, saved) => self.saved = Some((number, saved)),
                Effect::Log(event) => self.logged.push(event.message),
                // There is no kernel, nobody who follows events, and no connection of an agent to be closed.
                Effect::Acknowledged(_)
                | Effect::WantNeighbours(_)
                | Effect::WantOfKernel(_)
                | Effect::Close(_)
                | Effect::AgentGate(_)
                | Effect::Progress(_)
                | Effect::Renew(_)
                | Effect::Alive => {}
            }
        }
    }

    fn lot(&self, Missing { tables, key, texts }: Missing) -> Lot {
        let read = |text: ReadingSources| {
            let mut reading = text.read(|_| Ok(self.tokens.clone()));
            if let Some(Ok(loaded)) = Arc::get_mut(&mut reading).map(|reading| reading.loaded.as_mut()) {
                resize(loaded, self.slots);
            }
            reading
        };
        Lot {
            tables: tables.into_iter().filter_map(|recipe| recipe.make(&key).ok()).collect(),
            readings: texts.into_iter().map(read).collect(),
        }
    }

    /// The store tells something.
    pub fn hear(&mut self, news: StoreNews, at: MachineTime) {
        self.step(Event::Store(news.0), at);
    }

    /// The store has said who this machine is, and whether there was a plan.
    pub fn identified(&mut self, member: Member, joins: bool, at: MachineTime) {
        self.step(Event::Store(StoreEvent::Identified { member, joins }), at);
    }

    /// Housekeeping, with what workers report.
    pub fn tick(&mut self, reports: Vec<(CoreId, Report)>, at: MachineTime) {
        self.step(Event::Settle, at);
        self.step(Event::Tick(reports), at);
        if self.controller.scanner.is_busy() {
            self.step(Event::Scan, at);
        }
    }

    /// What is looked at twice a second.
    pub fn sweep(&mut self, at: MachineTime) {
        self.step(Event::Sweep, at);
    }

    /// What is looked at four times a second.
    pub fn weigh(&mut self, at: MachineTime) {
        self.step(Event::Weigh, at);
    }

    /// All checks of backends end; `passes` says which do.
    pub fn check(&mut self, passes: &dyn Fn(IpAddr) -> bool, at: MachineTime) {
        for (subject, check) in self.checks.clone() {
            let passed = passes(check.target.ip());
            let reason = if passed { "ok" } else { "timeout" }.to_owned();
            let result = CheckResult { passed, unsent: false, reason, duration_us: 100, unix_ms: at.unix_ms };
            self.step(Event::Checked(subject, check, result), at);
        }
    }

    /// An agent that has proved a service's token connects; `id` is never used again.
    pub fn greet(
        &mut self,
        id: u64,
        agent: &str,
        incarnation: u64,
        address: IpAddr,
        service: &str,
        at: MachineTime,
    ) {
        let hello = Hello {
            id: SessionId(id),
            peer: (address, 7481).into(),
            agent: agent.to_owned(),
            incarnation,
            addresses: vec![address],
            proved: BTreeSet::from([service.to_owned()]),
            refused: Vec::new(),
            tokens: Arc::new(self.tokens.clone().into_iter().collect::<Tokens>()),
        };
        self.step(Event::Agent(AgentEvent::Hello(hello)), at);
    }

    /// An agent says something on its connection.
    pub fn agent_says(&mut self, id: u64, message: ToMachine, at: MachineTime) {
        self.step(Event::Agent(AgentEvent::Message(SessionId(id), message)), at);
    }

    /// An agent's connection ends.
    pub fn agent_leaves(&mut self, id: u64, at: MachineTime) {
        self.step(Event::Agent(AgentEvent::Closed(SessionId(id))), at);
    }

    /// An operator wants other services and drains, as (service, backend).
    ///
    /// # Errors
    /// Why the store cannot be asked now.
    pub fn apply(
        &mut self,
        services: &str,
        drains: &BTreeSet<(String, String)>,
        at: MachineTime,
    ) -> Result<(), String> {
        let (text, drains) = (services.to_owned(), drains.clone());
        let (desire, effects) = self
            .controller
            .ask(at.into(), |controller| crate::cluster::desires::desired(controller, text, |_| drains));
        self.perform(effects);
        let desire = desire.map_err(|refusal| refusal.to_string())?;
        self.requests.push(StoreAsk(AskKind::Apply(desire)));
        Ok(())
    }

    /// The newest view that was not taken yet.
    pub fn take_view(&mut self) -> Option<Arc<View>> {
        self.view.take()
    }

    /// What the store is asked for, in order.
    pub fn take_requests(&mut self) -> Vec<StoreAsk> {
        std::mem::take(&mut self.requests)
    }

    /// What agents are told, by connection.
    pub fn take_told(&mut self) -> Vec<(u64, ToAgent)> {
        std::mem::take(&mut self.told)
    }

    /// A state that is to be written.
    pub fn take_saved(&mut self) -> Option<SavedState> {
        self.saved.take().map(|(_, saved)| SavedState(saved))
    }

    /// The disk has the state, or not.
    pub fn saved(&mut self, is_written: bool, at: MachineTime) {
        let result = if is_written { Ok(()) } else { Err("the disk is full".to_owned()) };
        self.step(Event::Saved(result), at);
    }

    fn part(&self) -> Option<&Membership> {
        self.controller.cluster.as_ref()
    }

    /// Who it is, once the store has said so.
    pub fn member(&self) -> Option<Member> {
        self.part()?.participant.member()
    }

    /// The plan in force.
    pub fn plan(&self) -> Option<&Plan> {
        self.part()?.plan()
    }

    /// The last step that all workers have done.
    pub fn done(&self) -> u64 {
        self.part().map_or(0, |part| part.participant.done())
    }

    /// Whether it leads, as far as it knows.
    pub fn leads(&self) -> bool {
        self.part().is_some_and(|part| part.participant.leads())
    }

    /// Whether it takes traffic.
    pub fn is_ready(&self) -> bool {
        self.part().is_some_and(Membership::is_ready)
    }

    /// Whether its housekeeping should not wait.
    pub fn is_busy(&self) -> bool {
        !self.controller.is_acknowledged() || self.controller.is_cluster_busy()
    }

    /// The key of its datagrams' tags.
    pub fn tag_key(&self) -> [u8; 16] {
        self.part().map_or([0; 16], |part| part.config.tag_keys().0)
    }

    /// Why it cannot go on, and must start again.
    pub fn fatal(&self) -> Option<&str> {
        self.part()?.fatal.as_deref()
    }

    /// Backends that an operator drains, as (service, backend).
    pub fn drains(&self) -> &BTreeSet<(String, String)> {
        &self.controller.backends.drains
    }

    /// What was logged since the last call.
    pub fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.logged)
    }
}
