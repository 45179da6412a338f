//! The one owner of everything the management core knows, and the messages by which others reach it.
//!
//! Rule of this module: only the thread of [`run()`](crate::run()) touches a [`Truth`], between two messages, and every
//! change goes through [`Truth::settle`], which compiles and publishes at most one view for all of them.

use crate::agents::desk::Desk;
use crate::agents::facts::{self, Facts};
use crate::agents::registry::{self, Registry};
use crate::agents::session::Key;
use crate::agents::truth::{Candidate, PUBLISH_EVERY};
use crate::announce::{self, Vip};
use crate::api::caller::Caller;
use crate::api::connections::ConnectionCounts;
use crate::api::credentials::Credentials;
use crate::balance::Balance;
use crate::capture::Captures;
use crate::claims::{ClaimError, Claims};
use crate::cluster::adopt::Part;
use crate::cluster::stock::Lot;
use crate::cluster::store::Event;
use crate::compile::{CompileError, Making, Recipe};
use crate::event::EventLog;
use crate::health::{Change, Check, Checker, First, Rules, Subject, Unsent, Verdict, unix_ms};
use crate::ids::Ids;
use crate::meter::Meter;
use crate::neighbour::{self, NextHops};
use crate::passive::truth::Passive;
use crate::plane::{LostWords, PortHandle, Renew, WorkerHandle};
use crate::publisher::{self, Backlog};
use crate::reconcile::{self, Kind, OnLoopback, Renewals, Surroundings, Ways};
use crate::revision::ledger::Origin;
use crate::revision::overrides::OverrideRefusal;
use crate::revision::{Content, Ledger, RevisionRefusal};
use crate::scan::Scanner;
use crate::state::saver::{Saver, Written};
use crate::state::{Saved, SavedBackend, SavedDrain};
use model::api::{BackendState, CheckResult, EventKind, ServiceState, Word};
use model::config::{AdminState, Announce, Backend, Config, HealthKind, Mac, Route, Service};
use model::registered::Skipped;
use model::{Loaded, Report};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use steer::Maglev;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use wire::{BackendId, PortId, Tick};
use worker::View;
use worker::counters::Count;

/// Slots of tables that are made on the management thread when a view is: some ten milliseconds of its time.
pub(crate) const SLOTS_AT_ONCE: u64 = 1 << 19;

/// Something that happened elsewhere.
#[derive(Debug)]
pub(crate) enum Note {
    /// A check ended.
    Checked(Subject, Arc<Check>, CheckResult),
    /// Next hops changed.
    NextHops(NextHops),
    /// A VIP was put on the loopback or taken off it.
    Announced {
        /// Which.
        vip: Vip,
        /// It is there now.
        there: bool,
    },
    /// What the kernel has differs in another way from what is wanted.
    Surroundings(Surroundings),
    /// Something in the kernel was put right.
    Repaired {
        /// What it was about.
        kind: Kind,
        /// What was done.
        text: String,
    },
    /// Something in the kernel could not be put right.
    RepairFailed {
        /// What it was about.
        kind: Kind,
        /// In words, if it is news.
        text: Option<String>,
    },
    /// The device of an exception interface was made anew, or not.
    Renewed {
        /// Its data port.
        port: PortId,
        /// Why not.
        result: Result<(), String>,
    },
    /// Something an operator should know.
    Warning(String),
    /// The store of the cluster.
    Store(Event),
    /// Slot tables that were asked for.
    Tables(Vec<(Arc<Recipe>, Arc<Maglev>)>),
    /// What the cluster's part lacked.
    ClusterLot(Lot),
}

/// The tokens of agents, by their files.
pub(crate) type Tokens = HashMap<String, Vec<u8>>;

/// A closure to be run on the owner's thread.
pub(crate) type Question = Box<dyn FnOnce(&mut Truth) + Send>;

/// The way to the owner, for API handlers.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    pub(crate) questions: mpsc::Sender<Question>,
    /// Smallest generation that every worker uses.
    pub(crate) acknowledged: watch::Receiver<u64>,
    /// Held while a configuration is being applied.
    pub(crate) applying: Arc<Semaphore>,
    /// Held while a configuration is being read, checked and compared.
    pub(crate) preparing: Arc<Semaphore>,
    /// Held while workers are asked something.
    pub(crate) commanding: Arc<Semaphore>,
    /// Pages of `/metrics`.
    pub(crate) pages: crate::api::Pages,
}

impl Door {
    /// Runs `question` on the owner's thread; `None` when the owner is gone.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Truth) -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let question: Question = Box::new(move |truth| {
            let _ = reply.send(question(truth));
        });
        self.questions.send(question).await.ok()?;
        answer.await.ok()
    }
}

/// Why a change was refused. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    Config(Report),
    #[error("{0}")]
    Compile(CompileError),
    #[error("keys that need a restart differ: {}", .0.join(", "))]
    Restart(Vec<String>),
    #[error("no service `{0}`")]
    UnknownService(String),
    #[error("service `{service}` has no backend `{backend}`")]
    UnknownBackend { service: String, backend: String },
    #[error("cannot read {}: {problem}", path.display())]
    File { path: PathBuf, problem: String },
    #[error("stopping")]
    Stopping,
    #[error("{0}")]
    Claimed(ClaimError),
    #[error("the cluster's store does not take it: {0}")]
    Store(String),
    #[error("the cluster cannot do it: {0}")]
    Unfit(String),
    #[error("this machine is in no cluster")]
    Alone,
    #[error("{0}")]
    TooMuch(String),
    #[error("another change was asked for at the same time")]
    Overtaken,
    #[error("{0}")]
    Revision(RevisionRefusal),
    #[error("{0}")]
    Override(OverrideRefusal),
    #[error("the state directory does not take it: {0}")]
    Unsaved(String),
    #[error("backend `{0}` is registered by an agent")]
    Registered(String),
    #[error("this machine is in a cluster, whose store keeps what is wanted of all machines")]
    Clustered,
}

impl Refusal {
    /// The remedy.
    pub(crate) fn help(&self) -> String {
        match self {
            Refusal::Config(_) => "correct the places named in `diagnostics`; nothing was changed".to_owned(),
            Refusal::Compile(_) => "nothing was changed; see docs/operations.md for limits".to_owned(),
            Refusal::Restart(keys) => format!(
                "restart guidewayd with the new file, or leave {} as in the configuration in force; nothing was changed",
                if keys.len() == 1 { "the key" } else { "these keys" }
            ),
            Refusal::UnknownService(_) => "`guideway show services` lists them".to_owned(),
            Refusal::UnknownBackend { .. } => "`guideway show backends` lists them".to_owned(),
            Refusal::File { .. } => "make the file readable, or name another: guideway apply FILE".to_owned(),
            // The error names it.
            Refusal::Claimed(_) => "nothing was changed".to_owned(),
            Refusal::Stopping => "ask again after the restart".to_owned(),
            Refusal::Store(_) => "nothing was changed and packets are forwarded as before; `guideway show cluster` says whether the \
                                  store is reached again"
                .to_owned(),
            Refusal::Unfit(_) => "the services in force stay; ask for others".to_owned(),
            Refusal::Alone => "a machine is in a cluster when its file has [cluster] store".to_owned(),
            Refusal::TooMuch(_) => "ask for one service: guideway show owners SERVICE, or ?service=SERVICE".to_owned(),
            Refusal::Overtaken | Refusal::Revision(RevisionRefusal::Overtaken { .. } | RevisionRefusal::Unreadable { .. }) => {
                "look at what is in force now, and ask again".to_owned()
            }
            Refusal::Revision(RevisionRefusal::OnTrial(_)) => {
                "confirm it: guideway confirm; or end the trial: guideway rollback REVISION".to_owned()
            }
            Refusal::Revision(RevisionRefusal::NoTrial | RevisionRefusal::OtherTrial { .. }) => {
                "`guideway history` says what is in force, and whether it waits".to_owned()
            }
            Refusal::Unsaved(_) => "nothing was changed; without the disk nothing would go back after a restart".to_owned(),
            Refusal::Revision(RevisionRefusal::Unknown { .. }) => "`guideway history` lists them".to_owned(),
            Refusal::Override(_) => {
                "send what stands in a configuration file from [[service]] on; nothing was changed".to_owned()
            }
            Refusal::Registered(_) => {
                "its weight is its agent's to say; `guideway drain` takes it out of use".to_owned()
            }
            Refusal::Clustered => "apply the whole file: guideway apply FILE; nothing was changed".to_owned(),
        }
    }
}

/// A configured backend.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    /// `None`: not checked.
    pub(crate) verdict: Option<Verdict>,
    pub(crate) checker: Option<Checker>,
    pub(crate) state: BackendState,
    pub(crate) word: Word,
    pub(crate) since_unix_ms: u64,
}

/// A backend that is no longer configured, while its flows live on.
#[derive(Debug)]
pub(crate) struct Departed {
    pub(crate) id: BackendId,
    /// Its service as it was, with this backend alone.
    pub(crate) service: Service,
    pub(crate) since_unix_ms: u64,
    /// Not before: workers must have had the chance to count.
    pub(crate) settled: Instant,
    pub(crate) deadline: Instant,
    /// Since when none of its flows is open.
    pub(crate) closed: Option<Instant>,
}

/// What came of a drain: the number of the state to be saved and how far that is, and in a cluster what it was asked for.
pub(crate) type Drained =
    (model::api::DrainResult, u64, watch::Receiver<Written>, Option<crate::cluster::adopt::Wished>);

/// See the module.
pub(crate) struct Truth {
    pub(crate) config_path: PathBuf,
    pub(crate) version: String,
    pub(crate) started: Instant,
    pub(crate) started_unix_ms: u64,
    pub(crate) stopping: bool,
    /// Since when it wants to leave its cluster.
    pub(crate) leaving: Option<Instant>,
    /// In which routers turn to other machines.
    pub(crate) grace: std::time::Duration,

    pub(crate) workers: Vec<WorkerHandle>,
    pub(crate) ports: Vec<PortHandle>,
    pub(crate) now: Box<dyn Fn() -> Tick>,
    pub(crate) memory_bytes: Vec<(String, u64)>,
    pub(crate) lost_words: Box<dyn Fn() -> LostWords>,
    pub(crate) meter: Meter,
    /// What TCP listeners prove themselves with.
    pub(crate) credentials: watch::Sender<Credentials>,
    pub(crate) connections: Arc<ConnectionCounts>,
    pub(crate) busy_ratio: Vec<f64>,

    /// What is in force: the file's, or the cluster's, and what registered.
    pub(crate) config: Arc<Config>,
    /// The same without what registered.
    pub(crate) base: Config,
    pub(crate) text: String,
    pub(crate) file_text: String,
    /// What was in force, and is. Empty in a cluster.
    pub(crate) revisions: Ledger,
    pub(crate) applied_unix_ms: u64,
    pub(crate) ids: Ids,
    pub(crate) members: BTreeMap<BackendId, Member>,
    pub(crate) departed: Vec<Departed>,
    pub(crate) drains: BTreeSet<(String, String)>,
    pub(crate) service_states: HashMap<String, ServiceState>,
    pub(crate) next_hops: NextHops,
    pub(crate) probe_ports: crate::tunnel::ProbePorts,
    pub(crate) view: Arc<View>,
    pub(crate) generation: u64,
    /// Slot tables are being made elsewhere; nothing is published before they are there.
    making_tables: bool,
    /// `None`: the machine is alone.
    pub(crate) cluster: Option<Part>,
    backlog: Backlog,
    /// What goes by load.
    pub(crate) balance: Balance,
    /// What clients make of backends.
    pub(crate) passive: Passive,
    /// Checks that could not leave.
    unsent: Unsent,
    pub(crate) remembered: Vec<SavedBackend>,
    pub(crate) scanner: Scanner,
    pub(crate) dirty: bool,
    pub(crate) unsaved: bool,
    /// What checks say was not told to the cluster yet.
    pub(crate) health_changed: bool,
    pub(crate) registry: Registry,
    pub(crate) desk: Desk,
    /// Registrations that the machine itself checks before they are in force.
    pub(crate) candidates: BTreeMap<Key, Candidate>,
    /// What agents have registered differs from what is in force; in a cluster: was not told to it yet.
    pub(crate) heard_changed: bool,
    /// Something is to be published, and may wait until `publish_from`.
    pub(crate) lazy: bool,
    /// When what may wait is published next.
    pub(crate) publish_from: Instant,
    pub(crate) doors: crate::agents::counts::Doors,
    /// What only this process of the network namespace may have.
    pub(crate) claims: Claims,
    /// Connections of agents at once.
    pub(crate) agent_gate: watch::Sender<crate::agents::listener::Gate>,

    pub(crate) events: EventLog,
    pub(crate) captures: Captures,
    saver: Saver,
    pub(crate) notes: mpsc::Sender<Note>,
    acknowledged: watch::Sender<u64>,
    wanted_neighbours: watch::Sender<neighbour::Wanted>,
    wanted_of_kernel: watch::Sender<reconcile::Wanted>,
    pub(crate) on_loopback: watch::Receiver<OnLoopback>,
    /// Links, and the kernel's side of ports.
    pub(crate) ways: Ways,
    pub(crate) renewals: Renewals,
}

/// What the owner is made of.
pub(crate) struct Parts {
    pub(crate) config_path: PathBuf,
    pub(crate) version: String,
    pub(crate) workers: Vec<WorkerHandle>,
    pub(crate) ports: Vec<PortHandle>,
    pub(crate) now: Box<dyn Fn() -> Tick>,
    pub(crate) memory_bytes: Vec<(String, u64)>,
    pub(crate) lost_words: Box<dyn Fn() -> LostWords>,
    pub(crate) meter: Meter,
    pub(crate) credentials: watch::Sender<Credentials>,
    pub(crate) connections: Arc<ConnectionCounts>,
    pub(crate) saved: Saved,
    /// What was in force before the start.
    pub(crate) revisions: Ledger,
    /// What the configuration to start with is made of.
    pub(crate) content: Content,
    /// The file itself.
    pub(crate) file_text: String,
    pub(crate) saver: Saver,
    pub(crate) notes: mpsc::Sender<Note>,
    pub(crate) acknowledged: watch::Sender<u64>,
    pub(crate) wanted_neighbours: watch::Sender<neighbour::Wanted>,
    pub(crate) wanted_of_kernel: watch::Sender<reconcile::Wanted>,
    pub(crate) on_loopback: watch::Receiver<OnLoopback>,
    pub(crate) renew: Option<Renew>,
    pub(crate) cluster: Option<Part>,
    pub(crate) grace: std::time::Duration,
    pub(crate) doors: crate::agents::counts::Doors,
    pub(crate) claims: Claims,
    pub(crate) agent_gate: watch::Sender<crate::agents::listener::Gate>,
}

impl Truth {
    /// Starts with the file's configuration and what was remembered: drains are in force again, and backends keep
    /// what their checks said last until they say otherwise.
    pub(crate) fn new(loaded: Loaded, parts: Parts) -> Result<Truth, Refusal> {
        let empty = Config { services: Vec::new(), ..loaded.config.clone() };
        let saved = parts.saved;
        let registrations = saved.registrations;
        let mut truth = Truth {
            config_path: parts.config_path,
            version: parts.version,
            started: Instant::now(),
            started_unix_ms: unix_ms(),
            stopping: false,
            leaving: None,
            grace: parts.grace,
            busy_ratio: vec![0.0; parts.workers.len()],
            backlog: Backlog::new(parts.workers.len()),
            workers: parts.workers,
            ports: parts.ports,
            now: parts.now,
            memory_bytes: parts.memory_bytes,
            lost_words: parts.lost_words,
            meter: parts.meter,
            credentials: parts.credentials,
            connections: parts.connections,
            base: empty.clone(),
            config: Arc::new(empty),
            text: String::new(),
            file_text: parts.file_text,
            revisions: parts.revisions,
            applied_unix_ms: 0,
            ids: Ids::default(),
            members: BTreeMap::new(),
            departed: Vec::new(),
            drains: saved.drains.into_iter().map(|drain| (drain.service, drain.backend)).collect(),
            service_states: HashMap::new(),
            next_hops: NextHops::new(),
            probe_ports: crate::tunnel::ProbePorts::default(),
            view: Arc::default(),
            generation: 0,
            making_tables: false,
            cluster: parts.cluster,
            balance: Balance::new(),
            passive: Passive::default(),
            unsent: Unsent::default(),
            remembered: saved.backends,
            scanner: Scanner::default(),
            dirty: false,
            unsaved: false,
            health_changed: true,
            registry: Registry::default(),
            desk: Desk::default(),
            candidates: BTreeMap::new(),
            heard_changed: false,
            lazy: false,
            publish_from: Instant::now(),
            doors: parts.doors,
            claims: parts.claims,
            agent_gate: parts.agent_gate,
            events: EventLog::new(),
            captures: Captures::default(),
            saver: parts.saver,
            notes: parts.notes,
            acknowledged: parts.acknowledged,
            wanted_neighbours: parts.wanted_neighbours,
            wanted_of_kernel: parts.wanted_of_kernel,
            on_loopback: parts.on_loopback,
            ways: Ways::default(),
            renewals: Renewals::new(parts.renew),
        };
        truth.events.push(EventKind::Start, None, None, format!("guidewayd {} started", truth.version));
        if saved.config.is_some_and(|last| last != loaded.text) {
            let message = format!(
                "the configuration that was last applied differs from {}; the file is in force",
                truth.config_path.display()
            );
            truth.events.push(EventKind::ConfigDiffers, None, None, message);
        }
        let tokens = tokens(&loaded.config)?;
        if truth.cluster.is_none() {
            // A cluster knows by itself what has registered.
            truth.registry.configure(Facts::of(&loaded.config, &tokens), 0);
            truth.registry.restore(registrations.into_iter().map(|saved| (saved.registered, saved.up)), 0);
        }
        truth.tried(&loaded.config).map_err(Refusal::Compile)?;
        let merged = loaded.config.with_registered(&truth.registry.heard().alive);
        truth.install(loaded, merged, &tokens)?;
        if truth.cluster.is_none() {
            let (caller, what) = ("start".to_owned(), "the file as it was at the start".to_owned());
            let change = Origin { unix_ms: unix_ms(), caller, what, services: None };
            truth.revisions.record(parts.content, change);
        }
        truth.settle();
        truth.remembered.clear();
        Ok(truth)
    }

    /// Milliseconds since the start; never goes backwards.
    pub(crate) fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Makes a configuration that can be compiled the one in force, or changes nothing; its view is made in the next turn. `merged` is it
    /// with what has registered, `tokens` are those of its agents.
    pub(crate) fn install(
        &mut self,
        loaded: Loaded,
        merged: (Config, Vec<Skipped>),
        tokens: &Tokens,
    ) -> Result<(), Refusal> {
        let Loaded { config, text, .. } = loaded;
        let (merged, skipped) = merged;
        let mut ids = self.ids.clone();
        let assigned = ids.assign(&merged, (self.now)(), &|id| self.live_flows(id));
        assigned.map_err(|error| Refusal::Compile(error.into()))?;
        self.claims.claim_vips(&config).map_err(Refusal::Claimed)?;
        let now_ms = self.uptime_ms();
        self.registry.configure(Facts::of(&config, tokens), now_ms);
        self.registry.skipped(&skipped);
        self.base = config;
        self.open_gate(&self.base);
        self.text = text;
        self.applied_unix_ms = unix_ms();
        self.put_in_force(merged, ids);
        Ok(())
    }

    /// The ids that a configuration would get: what cannot be compiled is not let in.
    pub(crate) fn tried(&self, config: &Config) -> Result<Ids, CompileError> {
        let mut ids = self.ids.clone();
        self.compile_with(config, &mut ids, Making::Nothing)?;
        // Its tables are not all there are.
        ids.tables = self.ids.tables.clone();
        Ok(ids)
    }

    /// Makes a configuration that was tried the one in force. It is published when things settle.
    pub(crate) fn put_in_force(&mut self, config: Config, mut ids: Ids) {
        // Not the trial's slots: it did not know yet which backends depart, and so may live on.
        ids.memories = std::mem::take(&mut self.ids.memories);
        self.ids = ids;
        let before = std::mem::replace(&mut self.config, Arc::new(config));
        let registered = self.config.registered();
        let now_ms = self.uptime_ms();
        self.registry.agreed(&registered, now_ms);
        self.replace_members(&before, self.generation > 0);
        self.keep_states();
        self.dirty = true;
        self.unsaved = true;
    }

    /// Forgets states of services that are not configured any more.
    pub(crate) fn keep_states(&mut self) {
        let names: HashSet<&str> = self.config.services.iter().map(|of| of.name.as_str()).collect();
        self.service_states.retain(|name, _| names.contains(name.as_str()));
    }

    pub(crate) fn replace_members(&mut self, before: &Config, tells: bool) {
        self.health_changed = true;
        let mut old = std::mem::take(&mut self.members);
        // What is known of backends from before a restart, or from before their service got another VIP or port.
        let mut known: HashMap<(String, String, IpAddr), bool> = HashMap::new();
        for last in &self.remembered {
            known.insert((last.service.clone(), last.backend.clone(), last.address), last.up);
        }
        for member in old.values() {
            if let Some(up) = member.verdict.as_ref().and_then(Verdict::up) {
                known.insert((member.service.clone(), member.name.clone(), member.address), up);
            }
        }
        let config = Arc::clone(&self.config);
        let mut departed: HashMap<BackendId, Departed> =
            std::mem::take(&mut self.departed).into_iter().map(|of| (of.id, of)).collect();
        for service in &config.services {
            for backend in &service.backends {
                let Some(id) = self.ids.backend(&service.name, &backend.name, backend.address) else {
                    continue;
                };
                departed.remove(&id);
                let mut member = old.remove(&id).unwrap_or_else(|| {
                    if tells {
                        let by = backend.registration.as_ref();
                        let by =
                            by.map_or_else(String::new, |by| format!(", registered by agent {}", by.agent));
                        self.events.push(
                            EventKind::BackendAdded,
                            Some(&service.name),
                            Some(&backend.name),
                            format!("{} added{by}", backend.address),
                        );
                    }
                    Member {
                        service: service.name.clone(),
                        name: backend.name.clone(),
                        address: backend.address,
                        verdict: None,
                        checker: None,
                        state: BackendState::Down,
                        word: Word::Health,
                        since_unix_ms: unix_ms(),
                    }
                });
                if service.health.kind == HealthKind::None {
                    member.checker = None;
                    member.verdict = None;
                } else {
                    if member.verdict.is_none() {
                        let key = (service.name.clone(), backend.name.clone(), backend.address);
                        let up = known.get(&key).copied();
                        let mut verdict = up.map_or_else(Verdict::default, Verdict::remembered);
                        let told = self.registry.verdict(&service.name, &backend.name, backend.address);
                        if let Some((up, reason)) = told {
                            verdict.told(up, word_of_agent(up, reason));
                        }
                        member.verdict = Some(verdict);
                    }
                    self.attend(id, service, backend, &mut member);
                }
                self.members.insert(id, member);
            }
        }
        self.departed = departed.into_values().collect();
        self.departed.sort_unstable_by_key(|of| (of.since_unix_ms, of.id));
        let known: HashMap<&str, &Service> =
            before.services.iter().map(|service| (service.name.as_str(), service)).collect();
        for (id, member) in old {
            self.probe_ports.release(id);
            self.events.push(
                EventKind::BackendRemoved,
                Some(&member.service),
                Some(&member.name),
                format!("{} removed; its flows live on", member.address),
            );
            let Some(service) = known.get(member.service.as_str()) else { continue };
            let is_it = |b: &&Backend| b.name == member.name && b.address == member.address;
            let backends = service.backends.iter().filter(is_it).cloned().collect();
            let service = Service { backends, ..(*service).clone() };
            let now = Instant::now();
            self.departed.push(Departed {
                id,
                since_unix_ms: unix_ms(),
                settled: now + std::time::Duration::from_secs(1),
                deadline: now + Duration::from_millis(service.drain_timeout_ms),
                closed: None,
                service,
            });
        }
        // Drains of backends that the file does not have (any more) mean nothing.
        let services = &self.config.services;
        self.drains.retain(|(service, backend)| {
            services.iter().any(|s| s.name == *service && s.backends.iter().any(|b| b.name == *backend))
        });
    }

    /// Checks a backend in force, or leaves that to its agent.
    pub(crate) fn attend(
        &mut self,
        id: BackendId,
        service: &Service,
        backend: &Backend,
        member: &mut Member,
    ) {
        let is_doubted = self.passive.suspect(&service.name, id).is_some();
        let first = match self.registry.checker(&service.name, &backend.name, backend.address) {
            // Neither its agent's word nor its silence answers that.
            registry::Checker::Agent | registry::Checker::Suspect { .. } if is_doubted => First::After(0),
            registry::Checker::Agent => {
                member.checker = None;
                return;
            }
            registry::Checker::Machine => First::Spread,
            registry::Checker::Suspect { from_ms } => First::After(from_ms.saturating_sub(self.uptime_ms())),
        };
        let check = self.check_for(id, service, backend);
        if member.checker.as_ref().is_none_or(|checker| *checker.check != check) {
            member.checker = Some(Checker::start(Subject::Backend(id), first, check, self.notes.clone()));
        }
    }

    fn check_for(&mut self, id: BackendId, service: &Service, backend: &Backend) -> Check {
        let address = backend.address;
        let health = &service.health;
        let via = health.via.clone().or_else(|| {
            self.ports.iter().find_map(|port| port.exception.as_ref().map(|(_, name)| name.clone()))
        });
        let port = service.check_port(backend);
        let vip = service.vip.first_host();
        let (target, source) = match health.route {
            Route::Direct => {
                self.probe_ports.release(id);
                (address, None)
            }
            Route::Tunnel => (vip, Some(self.probe_ports.source(id, vip, &self.config))),
        };
        Check {
            kind: health.kind.clone(),
            target: (target, port).into(),
            vip,
            via,
            source,
            interval_ms: health.interval_ms,
            timeout_ms: health.timeout_ms,
        }
    }

    /// Takes a note in.
    pub(crate) fn note(&mut self, note: Note) {
        match note {
            Note::Checked(Subject::Backend(id), check, result) => self.checked(id, &check, result),
            Note::Checked(Subject::Candidate(service, backend, incarnation), check, result) => {
                self.candidate_checked(&(service, backend), incarnation, &check, &result);
            }
            Note::NextHops(found) => self.next_hops_changed(found),
            Note::Announced { vip, there } => {
                let (kind, what) = if there {
                    (EventKind::Announced, "put on the loopback")
                } else {
                    (EventKind::Withdrawn, "taken off the loopback")
                };
                self.unsaved = true;
                self.events.push(kind, None, None, format!("{vip} {what}"));
            }
            Note::Surroundings(seen) => self.surroundings_seen(seen),
            Note::Repaired { kind, text } => self.repaired(kind, &text),
            Note::RepairFailed { kind, text } => self.repair_failed(kind, text),
            Note::Renewed { port, result } => self.renewed(port, result),
            Note::Warning(text) => self.events.push(EventKind::Warning, None, None, text),
            Note::Store(event) => self.store_note(event),
            Note::Tables(made) => self.tables_made(made),
            Note::ClusterLot(lot) => self.lot_made(lot),
        }
    }

    fn checked(&mut self, id: BackendId, check: &Arc<Check>, result: CheckResult) {
        let now_ms = self.uptime_ms();
        let Some(member) = self.members.get(&id) else { return };
        // A result of a check that was replaced meanwhile says nothing about the new one.
        if !member.checker.as_ref().is_some_and(|checker| Arc::ptr_eq(&checker.check, check)) {
            return;
        }
        if self.is_blind(check, &result) {
            return;
        }
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(service) = self.config.services.iter().find(|service| service.name == member.service) else {
            return;
        };
        let health = &service.health;
        let rules = Rules { interval_ms: health.interval_ms, fall: health.fall, rise: health.rise };
        let Some(verdict) = &mut member.verdict else { return };
        let (key, address) = ((member.service.clone(), member.name.clone()), member.address);
        let (passed, unsent, reason) = (result.passed, result.unsent, result.reason.clone());
        let change = verdict.observe(result, rules, now_ms);
        if unsent {
            self.check_unsent(&reason);
            return;
        }
        self.registry.observed(&key, address, passed, &reason);
        if let Some(change) = change {
            self.registry.judged(&key, address, change == Change::Up, now_ms);
            self.verdict_changed(id, change);
        }
        if self.passive.probed(&key.0, id) {
            // It is not the agent's word any more that holds.
            self.judge();
        }
    }

    /// A check could not leave, which says nothing of its backend.
    pub(crate) fn check_unsent(&mut self, reason: &str) {
        if let Some(count) = self.unsent.add(self.uptime_ms()) {
            let message =
                format!("{count} checks since this was said last: {reason}; backends stay in their states");
            self.events.push(EventKind::Warning, None, None, message);
        }
    }

    /// What checks say of a backend in force is something else now. What is down is down at once; what is up may wait for
    /// others.
    pub(crate) fn verdict_changed(&mut self, id: BackendId, change: Change) {
        let Some(member) = self.members.get(&id) else { return };
        let (service, name) = (Some(member.service.as_str()), Some(member.name.as_str()));
        match change {
            Change::Up => {
                self.events.push(EventKind::BackendUp, service, name, format!("{} is up", member.address));
                self.lazy = true;
            }
            Change::Down { hold_ms } => {
                let reason = member.verdict.as_ref().map_or("", Verdict::reason);
                let message = format!("{} is down: {reason}", member.address);
                self.events.push(EventKind::BackendDown, service, name, message);
                if hold_ms > 0 {
                    let message = format!("flaps; stays down for at least {hold_ms} ms");
                    self.events.push(EventKind::HoldDown, service, name, message);
                }
                self.dirty = true;
            }
        }
        self.unsaved = true;
        self.health_changed = true;
    }

    fn next_hops_changed(&mut self, found: NextHops) {
        // A host may be a backend of thousands of services: it is told once.
        let mut changed: BTreeMap<IpAddr, (usize, &Member)> = BTreeMap::new();
        for member in self.members.values() {
            if self.next_hops.get(&member.address) != found.get(&member.address) {
                changed.entry(member.address).or_insert((0, member)).0 += 1;
            }
        }
        for (address, (count, first)) in changed {
            let message = match found.get(&address) {
                Some(hop) => format!("{address} is reached by way of {}", Mac(hop.mac)),
                None => format!("{address} has no next hop any more"),
            };
            let (service, name) = (Some(first.service.as_str()), Some(first.name.as_str()));
            match count {
                1 => self.events.push(EventKind::Neighbour, service, name, message),
                _ => {
                    let message = format!("{message}; it is a backend of {count} services");
                    self.events.push(EventKind::Neighbour, None, None, message);
                }
            }
        }
        self.next_hops = found;
        self.dirty = true;
    }

    /// Drains a backend, or ends that.
    pub(crate) fn set_drain(
        &mut self,
        caller: &Caller,
        service: &str,
        backend: &str,
        drained: bool,
    ) -> Result<Drained, Refusal> {
        let Some(found) = self.config.services.iter().find(|s| s.name == service) else {
            return Err(Refusal::UnknownService(service.to_owned()));
        };
        let Some(known) = found.backends.iter().find(|b| b.name == backend) else {
            let (service, backend) = (service.to_owned(), backend.to_owned());
            return Err(Refusal::UnknownBackend { service, backend });
        };
        let address = known.address;
        let key = (service.to_owned(), backend.to_owned());
        let changed = self.drains.contains(&key) != drained;
        let mut wished = None;
        if self.cluster.is_some() {
            wished = Some(self.wish_drain(service, backend, drained)?);
        } else if drained {
            self.drains.insert(key);
        } else {
            self.drains.remove(&key);
        }
        if changed {
            let (kind, text) = if drained {
                (EventKind::Drain, "drained: no new flows")
            } else {
                (EventKind::Undrain, "no longer drained")
            };
            self.events.push_by(Some(caller), kind, (Some(service), Some(backend)), text);
            self.dirty = true;
            self.settle();
        }
        let number = self.save();
        let flows = self.ids.backend(service, backend, address).map_or(0, |id| self.live_flows(id));
        let result = model::api::DrainResult {
            service: service.to_owned(),
            backend: backend.to_owned(),
            drained,
            changed,
            generation: self.next_generation(),
            flows,
            saved: self.cluster.is_some(),
            unsaved_because: None,
            backends_up: self.backends_up(service),
        };
        Ok((result, number, self.saver.written(), wished))
    }

    /// Live flows of a backend, all workers.
    pub(crate) fn live_flows(&self, id: BackendId) -> u64 {
        self.workers.iter().filter_map(|w| w.counters.flows_of(id)).map(|c| c.flows.get()).sum()
    }

    /// Flows of a backend that are half-closed or reset and have not been forgotten yet, all workers.
    fn ending_flows(&self, id: BackendId) -> u64 {
        self.workers.iter().filter_map(|worker| worker.counters.ending(id)).map(Count::get).sum()
    }

    /// The generation in which everything that was asked for until now is in force.
    pub(crate) fn next_generation(&self) -> u64 {
        self.generation + u64::from(self.making_tables || self.dirty)
    }

    /// Whether a view is to be made in the next turn.
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty && !self.making_tables
    }

    /// Has the slot tables made that are missing. Until they are there, workers keep the view they have.
    fn make_tables(&mut self, missing: Vec<Arc<Recipe>>) {
        self.making_tables = true;
        let notes = self.notes.clone();
        tokio::spawn(async move {
            let made = tokio::task::spawn_blocking(move || {
                // They were checked, so none fails; one that did would be missing again.
                missing
                    .into_iter()
                    .filter_map(|recipe| recipe.make().ok().map(|table| (recipe, table)))
                    .collect()
            });
            // Without them nothing is ever published again: an empty answer asks anew.
            let _ = notes.send(Note::Tables(made.await.unwrap_or_default())).await;
        });
    }

    fn tables_made(&mut self, made: Vec<(Arc<Recipe>, Arc<Maglev>)>) {
        for (recipe, table) in made {
            self.ids.tables.put(recipe, table);
        }
        self.making_tables = false;
        self.dirty = true;
    }

    /// Compiles and publishes what has changed, if anything has.
    pub(crate) fn settle(&mut self) {
        if self.making_tables {
            return;
        }
        let now = Instant::now();
        if now >= self.publish_from {
            let renews = self.cluster.is_none() && std::mem::take(&mut self.heard_changed);
            let is_renewed = renews && self.renew_registered();
            if is_renewed || self.lazy {
                self.dirty = true;
                self.publish_from = now + PUBLISH_EVERY;
            }
        }
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        self.observe_joins();
        let mut ids = self.ids.clone();
        match self.compile_with(&self.config, &mut ids, Making::UpTo(SLOTS_AT_ONCE)) {
            Ok(view) => {
                self.ids = ids;
                self.generation += 1;
                self.lazy = false;
                view.inherit_paths(&self.view, (self.now)());
                self.view = Arc::new(view);
                self.shares_are_in_force();
                // Workers must not take a newcomer for one without load.
                self.write_loads();
                self.backlog.publish(&mut self.workers, &self.view);
            }
            Err(CompileError::TablesMissing) => {
                self.make_tables(ids.tables.missing().cloned().collect());
                self.ids.tables = ids.tables;
                return;
            }
            Err(error) => {
                let message = format!("cannot publish: {error}; workers keep the last view");
                self.events.push(EventKind::Warning, None, None, message);
            }
        }
        self.judge();
        self.wish_neighbours();
    }

    /// Whether an operator drains a backend. As a rule nobody does, and this is asked for each of thousands.
    pub(crate) fn is_drained(&self, service: &Service, backend: &Backend) -> bool {
        !self.drains.is_empty() && self.drains.contains(&(service.name.clone(), backend.name.clone()))
    }

    /// Derives what the API shows of backends and services, and tells what changed.
    pub(crate) fn judge(&mut self) {
        let now = unix_ms();
        for service in &self.config.services {
            let (mut state, mut is_cut_off) = (ServiceState::Empty, false);
            // In a cluster the table alone says who takes new flows.
            let in_table =
                self.cluster.as_ref().and(self.ids.service(&service.name)).and_then(|id| {
                    self.view.service.iter().find(|view| view.id == id).map(|view| &view.members)
                });
            for backend in &service.backends {
                let Some(id) = self.ids.backend(&service.name, &backend.name, backend.address) else {
                    continue;
                };
                let is_drained = self.is_drained(service, backend);
                let Some(member) = self.members.get_mut(&id) else { continue };
                let healthy = member.verdict.as_ref().is_none_or(|v| v.up() == Some(true));
                let view = self.view.backends.get(id.index()).and_then(Option::as_ref);
                let is_reached = view.is_some_and(|view| view.next_hop.is_some());
                let takes_flows = view.is_some_and(|view| view.state == worker::view::BackendState::Up)
                    && in_table.is_none_or(|members| members.contains(&id));
                let (is, word) = match backend.state {
                    AdminState::Down => (BackendState::Down, Word::Admin),
                    AdminState::Drain => (BackendState::Drain, Word::Admin),
                    AdminState::Up if is_drained => (BackendState::Drain, Word::Drain),
                    AdminState::Up if backend.weight == 0 => (BackendState::Drain, Word::Admin),
                    AdminState::Up if !takes_flows => {
                        (BackendState::Down, self.passive.word(&self.registry, &service.name, backend, id))
                    }
                    AdminState::Up if !healthy => (BackendState::Up, Word::Panic),
                    AdminState::Up if member.verdict.is_some() => {
                        (BackendState::Up, self.passive.word(&self.registry, &service.name, backend, id))
                    }
                    AdminState::Up => (BackendState::Up, Word::Admin),
                };
                // What has no next hop takes flows, and loses them.
                is_cut_off |= is == BackendState::Up && !is_reached;
                if is == BackendState::Up && is_reached && state != ServiceState::Panic {
                    state = if word == Word::Panic { ServiceState::Panic } else { ServiceState::Ready };
                }
                if (member.state, member.word) != (is, word) {
                    (member.state, member.word, member.since_unix_ms) = (is, word, now);
                }
            }
            let before = self.service_states.insert(service.name.clone(), state);
            let name = Some(service.name.as_str());
            if before == Some(state) {
                continue;
            }
            if before == Some(ServiceState::Panic) {
                self.events.push(EventKind::PanicOff, name, None, "health is heeded again");
            }
            match state {
                ServiceState::Panic => {
                    let percent = service.panic_percent;
                    let message =
                        format!("more than {percent} % of the backends are down: health is disregarded");
                    self.events.push(EventKind::PanicOn, name, None, message);
                }
                ServiceState::Empty => {
                    // At start nothing is known yet, which is no news.
                    if before.is_some() {
                        let message = if is_cut_off {
                            "no backend that is up has a next hop"
                        } else {
                            "no usable backend"
                        };
                        self.events.push(EventKind::ServiceEmpty, name, None, message);
                    }
                }
                ServiceState::Ready => {
                    if before != Some(ServiceState::Panic) {
                        self.events.push(EventKind::ServiceReady, name, None, "has a usable backend");
                    }
                }
            }
        }
    }

    /// Tells the neighbour and announcement tasks what is wanted now.
    pub(crate) fn wish_neighbours(&mut self) {
        let interfaces: Vec<_> = self
            .ports
            .iter()
            .filter_map(|port| port.exception.as_ref().map(|(_, name)| (port.id, name.clone())))
            .collect();
        let configured = self.config.services.iter();
        let departed = self.departed.iter().map(|departed| &departed.service);
        let addresses: BTreeSet<IpAddr> = if interfaces.is_empty() {
            BTreeSet::new()
        } else {
            configured
                .chain(departed)
                .filter(|_| self.config.machine.next_hop_mac.is_none())
                .flat_map(|service| {
                    // Of an inner frame `mac` is the destination, not the next hop.
                    let needed = |mac: Option<_>| mac.is_none() || service.mode.carries_ethernet();
                    service.backends.iter().filter(move |backend| needed(backend.mac))
                })
                .map(|backend| backend.address)
                .chain(self.peers())
                .collect()
        };
        let wanted = neighbour::Wanted { addresses, interfaces };
        self.wanted_neighbours.send_if_modified(|old| {
            let differs = *old != wanted;
            *old = wanted;
            differs
        });
        let wanted = self.wanted_of_kernel(self.announcements());
        self.wanted_of_kernel.send_if_modified(|old| {
            let differs = *old != wanted;
            *old = wanted;
            differs
        });
    }

    /// Addresses of backends and machines whose next hop is to be found, and is not known.
    pub(crate) fn missing_next_hops(&self) -> u64 {
        let wanted = self.wanted_neighbours.borrow();
        wanted.addresses.iter().filter(|address| !self.next_hops.contains_key(address)).count() as u64
    }

    /// Addresses of other machines of the cluster, unless what is sent there has a static next hop.
    fn peers(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let part = self.cluster.as_ref().filter(|_| self.config.machine.next_hop_mac.is_none());
        part.into_iter().flat_map(Part::peers)
    }

    fn announcements(&self) -> announce::Wanted {
        let mut wanted = announce::Wanted::default();
        for (port, config) in self.ports.iter().zip(&self.config.ports) {
            if let Some((_, interface)) = &port.exception {
                let subnets = config.exception_addresses.iter();
                wanted.subnets.extend(subnets.map(|subnet| (interface.clone(), *subnet)));
            }
        }
        let joined = self.cluster.as_ref().is_none_or(Part::is_ready);
        let serving = !self.stopping
            && self.leaving.is_none()
            && joined
            && *self.acknowledged.borrow() > 0
            && self.can_send();
        for service in self.config.services.iter().filter(|service| service.announce == Announce::Kernel) {
            if service.health.route == Route::Tunnel && service.vip.addr.is_ipv4() {
                wanted
                    .accept_local
                    .extend(self.ports.iter().filter_map(|p| Some(p.exception.as_ref()?.1.clone())));
            }
            let usable = matches!(
                self.service_states.get(&service.name),
                Some(ServiceState::Ready | ServiceState::Panic)
            );
            if serving && usable {
                wanted.vips.insert(Vip::from(service.vip));
            }
        }
        wanted
    }

    /// Housekeeping: old views, acknowledgements, removed backends, the state file.
    pub(crate) fn tick(&mut self) {
        self.backlog.push(&mut self.workers);
        let now = publisher::acknowledged(&self.workers);
        let before = self.acknowledged.send_replace(now);
        if before == 0 && now > 0 {
            self.wish_neighbours();
        }
        if self.scan() {
            self.dirty = true;
            self.settle();
        }
        self.tend_renewals();
        self.tend_agents();
        self.tend_cluster();
    }

    /// Whether something is under way in the cluster that should not wait.
    pub(crate) fn is_cluster_busy(&self) -> bool {
        self.cluster.as_ref().is_some_and(|part| part.seat.is_busy())
    }

    /// Whether flows that have no entry may live on a backend that is no longer configured.
    fn is_base(&self, departed: &Departed) -> bool {
        let id = self.ids.service(&departed.service.name);
        let id = id.filter(|id| self.ids.identified(&departed.service) == Some(*id));
        let slots = id.and_then(|id| self.ids.memories.get(id));
        slots.is_some_and(|slots| slots.keeps(departed.id))
    }

    /// Every worker uses the newest view.
    pub(crate) fn is_acknowledged(&self) -> bool {
        !self.making_tables && publisher::acknowledged(&self.workers) >= self.generation
    }

    /// Twice a second: removed backends whose flows have ended or whose time is over; the state file.
    pub(crate) fn sweep(&mut self) {
        self.observe_links();
        let now = Instant::now();
        let acknowledged = self.is_acknowledged();
        // In a cluster the plan says when.
        let departed = if self.cluster.is_some() { 0 } else { self.departed.len() };
        for at in 0..departed {
            let is_open = self.departed.get(at).is_some_and(|of| self.live_flows(of.id) > 0);
            if let Some(of) = self.departed.get_mut(at) {
                of.closed = if is_open { None } else { of.closed.or(Some(now)) };
            }
        }
        // A server may go on after its client's FIN: it keeps its backend for as long as after a RST, if that is seen.
        let lingers = Duration::from_secs(u64::from(self.config.timeouts.tcp_closing_s));
        let over: Vec<usize> = (0..departed)
            .filter(|at| {
                let departed = &self.departed[*at];
                let quiet = acknowledged
                    && now >= departed.settled
                    && departed.closed.is_some_and(|since| {
                        self.ending_flows(departed.id) == 0 || now.duration_since(since) >= lingers
                    })
                    && !self.is_base(departed);
                quiet || now >= departed.deadline
            })
            .collect();
        for at in over.into_iter().rev() {
            let departed = self.departed.swap_remove(at);
            let flows = self.live_flows(departed.id);
            let message = if self.is_base(&departed) {
                format!(
                    "removed for good after drain_timeout_ms; {flows} flows, and others that are not tracked, are steered anew"
                )
            } else if flows == 0 {
                "removed for good: its last flow has ended".to_owned()
            } else {
                format!("removed for good after drain_timeout_ms; {flows} flows are steered anew")
            };
            let name = departed.service.backends.first().map(|backend| backend.name.as_str());
            if let Some(backend) = departed.service.backends.first()
                && let Some(by) = &backend.registration
            {
                self.registry.departed(&departed.service.name, &backend.name, &by.agent);
            }
            self.events.push(EventKind::BackendForgotten, Some(&departed.service.name), name, message);
            self.ids.forget(departed.id);
            self.dirty = true;
        }
        if self.release_slots() {
            self.dirty = true;
        }
        if std::mem::take(&mut self.unsaved) {
            self.save();
        }
    }

    /// Asks for the state to be written.
    pub(crate) fn save(&mut self) -> u64 {
        self.unsaved = false;
        let backends = self.members.values().filter_map(|member| {
            Some(SavedBackend {
                service: member.service.clone(),
                backend: member.name.clone(),
                address: member.address,
                up: member.verdict.as_ref()?.up()?,
                since_unix_ms: member.since_unix_ms,
            })
        });
        let drains = self.drains.iter();
        let drains = drains.map(|(s, b)| SavedDrain { service: s.clone(), backend: b.clone() });
        self.saver.save(Saved {
            version: 0,
            saved_unix_ms: unix_ms(),
            config: Some(self.text.clone()),
            drains: drains.collect(),
            backends: backends.collect(),
            registrations: self.saved_registrations(),
            revisions: self.cluster.is_none().then(|| self.revisions.saved()),
            announced: self
                .on_loopback
                .borrow()
                .ours
                .iter()
                .map(|vip| crate::state::SavedAddress { address: vip.address, length: vip.length })
                .collect(),
        })
    }

    /// How far the writing of the state is.
    pub(crate) fn written(&self) -> watch::Receiver<Written> {
        self.saver.written()
    }

    /// No longer ready; announcements are withdrawn.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
        self.events.push(EventKind::Stop, None, None, "stopping");
        for member in self.members.values_mut() {
            member.checker = None;
        }
        self.candidates.clear();
        self.wish_neighbours();
        self.save();
    }
}

/// The tokens of a configuration's agents.
pub(crate) fn tokens(config: &Config) -> Result<Tokens, Refusal> {
    facts::tokens(config).map_err(|(path, problem)| Refusal::File { path, problem })
}

/// What an agent says, as if it were a check's result.
pub(crate) fn word_of_agent(up: bool, reason: &str) -> CheckResult {
    CheckResult {
        passed: up,
        unsent: false,
        reason: model::visible(reason).into_owned(),
        duration_us: 0,
        unix_ms: unix_ms(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_are_for_those_who_type_commands_too() {
        let name = || "web".to_owned();
        for refusal in [
            Refusal::Restart(vec![name()]),
            Refusal::UnknownService(name()),
            Refusal::UnknownBackend { service: name(), backend: name() },
            Refusal::File { path: PathBuf::from("lb1.toml"), problem: name() },
            Refusal::Stopping,
            Refusal::Store(name()),
            Refusal::Unfit(name()),
            Refusal::Alone,
            Refusal::TooMuch(name()),
            Refusal::Overtaken,
        ] {
            let help = refusal.help();
            assert!(!help.is_empty() && !help.contains("/v1/"), "{refusal:?}: {help}");
        }
    }
}
