//! The one owner of everything the management core knows, and the messages by which others reach it.
//!
//! Rule of this module: only the thread of [`run()`](crate::run()) touches a [`Controller`], between two messages, and every
//! change goes through [`Controller::settle`], which compiles and publishes at most one view for all of them.

use crate::agents::facts::{AgentTokens, Facts};
use crate::agents::registry::{self, Registry};
use crate::agents::session::Key;
use crate::agents::tend::{Candidate, PUBLISH_EVERY};
use crate::announce::{self, Vip};
use crate::balance::Balance;
use crate::cluster::adopt::Part;
use crate::cluster::desire::Desire;
use crate::compile::{CompileError, Making, Recipe};
use crate::effect::Effect;
use crate::event::Event;
use crate::event_log::EventLog;
use crate::gauges::{self, DataPort, Figures, Rates, WorkerGauges};
use crate::health::{Change, Check, First, Rules, Subject, Unsent, Verdict};
use crate::ids::Ids;
use crate::neighbour::{self, NextHops};
use crate::now::Now;
use crate::passive::compare::Passive;
use crate::reconcile::{self, OnLoopback, Renewals, Ways};
use crate::refusal::Refusal;
use crate::scan::Scanner;
use crate::state::{Saved, SavedBackend, SavedDrain};
use model::Loaded;
use model::api::{BackendState, CheckResult, EventKind, ServiceState, Word};
use model::config::{AdminState, Announce, Backend, Config, HealthKind, Mac, Route, Service};
use model::registered::Skipped;
use statesync::plan::Report;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use steer::Maglev;
use wire::{BackendId, CoreId};
use worker::View;
use worker::counters::Count;

/// Slots of tables that are made on the management thread when a view is: some ten milliseconds of its time.
pub(crate) const SLOTS_AT_ONCE: u64 = 1 << 19;

/// A configured backend.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    /// `None`: not checked.
    pub(crate) verdict: Option<Verdict>,
    /// What its machine checks; `None`: nothing.
    pub(crate) check: Option<Arc<Check>>,
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
    pub(crate) settled: Duration,
    pub(crate) deadline: Duration,
    /// Since when none of its flows is open.
    pub(crate) closed: Option<Duration>,
}

/// What came of a drain: the number of the state to be saved, and in a cluster what it is to be asked for.
pub(crate) type Drained = (model::api::DrainResult, u64, Option<Desire>);

/// See the module.
pub(crate) struct Controller {
    pub(crate) config_path: PathBuf,
    pub(crate) version: String,
    /// The time of the event that is being handled.
    pub(crate) now: Now,
    /// What is to be done outside.
    pub(crate) effects: Vec<Effect>,
    pub(crate) started_unix_ms: u64,
    pub(crate) stopping: bool,
    /// Since when it wants to leave its cluster.
    pub(crate) leaving: Option<Duration>,
    /// In which routers turn to other machines.
    pub(crate) grace: Duration,

    pub(crate) workers: Vec<WorkerGauges>,
    pub(crate) ports: Vec<DataPort>,
    pub(crate) memory_bytes: Vec<(String, u64)>,
    pub(crate) figures: Box<dyn Fn() -> Figures>,
    pub(crate) rates: Rates,

    /// What is in force: the file's, or the cluster's, and what registered.
    pub(crate) config: Arc<Config>,
    /// The same without what registered.
    pub(crate) base: Config,
    pub(crate) text: String,
    pub(crate) file_text: String,
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
    /// Registrations that the machine itself checks before they are in force.
    pub(crate) candidates: BTreeMap<Key, Candidate>,
    /// What agents have registered differs from what is in force; in a cluster: was not told to it yet.
    pub(crate) heard_changed: bool,
    /// Something is to be published, and may wait until `publish_from`.
    pub(crate) lazy: bool,
    /// When what may wait is published next.
    pub(crate) publish_from: Duration,

    pub(crate) log: EventLog,
    /// States that were to be saved.
    pub(crate) saves: u64,
    /// The last state could not be written.
    is_unwritten: bool,
    /// Smallest generation that every worker uses.
    acknowledged: u64,
    wanted_neighbours: neighbour::Wanted,
    wanted_of_kernel: reconcile::Wanted,
    pub(crate) on_loopback: OnLoopback,
    /// Links, and the kernel's side of ports.
    pub(crate) ways: Ways,
    pub(crate) renewals: Renewals,
}

/// What the owner is made of.
pub(crate) struct Parts {
    pub(crate) config_path: PathBuf,
    pub(crate) version: String,
    pub(crate) workers: Vec<WorkerGauges>,
    pub(crate) ports: Vec<DataPort>,
    pub(crate) memory_bytes: Vec<(String, u64)>,
    pub(crate) figures: Box<dyn Fn() -> Figures>,
    pub(crate) saved: Saved,
    pub(crate) cluster: Option<Part>,
    pub(crate) grace: Duration,
}

impl Controller {
    /// Starts with the file's configuration and what was remembered: drains are in force again, and backends keep
    /// what their checks said last until they say otherwise.
    pub(crate) fn new(
        loaded: Loaded,
        tokens: &AgentTokens,
        parts: Parts,
        now: Now,
    ) -> Result<Controller, Refusal> {
        let empty = Config { services: Vec::new(), ..loaded.config.clone() };
        let saved = parts.saved;
        let registrations = saved.registrations;
        let mut controller = Controller {
            config_path: parts.config_path,
            version: parts.version,
            now,
            effects: Vec::new(),
            started_unix_ms: now.unix_ms,
            stopping: false,
            leaving: None,
            grace: parts.grace,
            rates: Rates::new(parts.workers.len()),
            workers: parts.workers,
            ports: parts.ports,
            memory_bytes: parts.memory_bytes,
            figures: parts.figures,
            base: empty.clone(),
            config: Arc::new(empty),
            text: String::new(),
            file_text: loaded.text.clone(),
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
            candidates: BTreeMap::new(),
            heard_changed: false,
            lazy: false,
            publish_from: now.monotonic,
            log: EventLog::default(),
            saves: 0,
            is_unwritten: false,
            acknowledged: 0,
            wanted_neighbours: neighbour::Wanted::default(),
            wanted_of_kernel: reconcile::Wanted::default(),
            on_loopback: OnLoopback::default(),
            ways: Ways::default(),
            renewals: Renewals::default(),
        };
        controller.log.set_time(now.unix_ms);
        controller.log.push(
            EventKind::Start,
            None,
            None,
            format!("guidewayd {} started", controller.version),
        );
        if saved.config.is_some_and(|last| last != loaded.text) {
            let message = format!(
                "the configuration that was last applied differs from {}; the file is in force",
                controller.config_path.display()
            );
            controller.log.push(EventKind::ConfigDiffers, None, None, message);
        }
        if controller.cluster.is_none() {
            // A cluster knows by itself what has registered.
            controller.registry.configure(Facts::of(&loaded.config, tokens), 0);
            controller
                .registry
                .restore(registrations.into_iter().map(|saved| (saved.registered, saved.up)), 0);
        }
        controller.tried(&loaded.config).map_err(Refusal::Compile)?;
        let merged = loaded.config.with_registered(&controller.registry.heard().alive);
        let ids = controller.ids_of(&merged.0)?;
        controller.install(loaded, merged, ids, tokens);
        controller.settle();
        controller.remembered.clear();
        Ok(controller)
    }

    /// Milliseconds since the start; never goes backwards.
    pub(crate) fn uptime_ms(&self) -> u64 {
        self.now.uptime_ms()
    }

    /// The ids of a configuration, for [`install`](Self::install).
    pub(crate) fn ids_of(&self, merged: &Config) -> Result<Ids, Refusal> {
        let mut ids = self.ids.clone();
        let assigned = ids.assign(merged, self.now.tick, &|id| self.live_flows(id));
        assigned.map_err(|error| Refusal::Compile(error.into()))?;
        Ok(ids)
    }

    /// Makes a configuration that can be compiled the one in force; its view is made in the next turn. `merged` is it with what has
    /// registered, `ids` are [its ids](Self::ids_of), `tokens` those of its agents.
    pub(crate) fn install(
        &mut self,
        loaded: Loaded,
        (merged, skipped): (Config, Vec<Skipped>),
        ids: Ids,
        tokens: &AgentTokens,
    ) {
        let Loaded { config, text, .. } = loaded;
        let now_ms = self.uptime_ms();
        self.registry.configure(Facts::of(&config, tokens), now_ms);
        self.registry.skipped(&skipped);
        self.base = config;
        self.open_gate(self.base.agents.as_ref().map_or(0, |agents| agents.connections));
        self.text = text;
        self.applied_unix_ms = self.now.unix_ms;
        self.put_in_force(merged, ids);
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
                        self.log.push(
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
                        check: None,
                        state: BackendState::Down,
                        word: Word::Health,
                        since_unix_ms: self.now.unix_ms,
                    }
                });
                if service.health.kind == HealthKind::None {
                    self.stop_check(id, &mut member);
                    member.verdict = None;
                } else {
                    if member.verdict.is_none() {
                        let key = (service.name.clone(), backend.name.clone(), backend.address);
                        let up = known.get(&key).copied();
                        let mut verdict = up.map_or_else(Verdict::default, Verdict::remembered);
                        let told = self.registry.verdict(&service.name, &backend.name, backend.address);
                        if let Some((up, reason)) = told {
                            verdict.told(up, word_of_agent(up, reason, self.now.unix_ms));
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
        for (id, mut member) in old {
            self.stop_check(id, &mut member);
            self.probe_ports.release(id);
            self.log.push(
                EventKind::BackendRemoved,
                Some(&member.service),
                Some(&member.name),
                format!("{} removed; its flows live on", member.address),
            );
            let Some(service) = known.get(member.service.as_str()) else { continue };
            let is_it = |b: &&Backend| b.name == member.name && b.address == member.address;
            let backends = service.backends.iter().filter(is_it).cloned().collect();
            let service = Service { backends, ..(*service).clone() };
            let now = self.now.monotonic;
            self.departed.push(Departed {
                id,
                since_unix_ms: self.now.unix_ms,
                settled: now + Duration::from_secs(1),
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
                self.stop_check(id, member);
                return;
            }
            registry::Checker::Machine => First::Spread,
            registry::Checker::Suspect { from_ms } => First::After(from_ms.saturating_sub(self.uptime_ms())),
        };
        let check = self.check_for(id, service, backend);
        if member.check.as_ref().is_none_or(|known| **known != check) {
            let check = Arc::new(check);
            self.effects.push(Effect::StartCheck(Subject::Backend(id), first, check.clone()));
            member.check = Some(check);
        }
    }

    /// Ends the check of a backend in force, if there is one.
    pub(crate) fn stop_check(&mut self, id: BackendId, member: &mut Member) {
        if member.check.take().is_some() {
            self.effects.push(Effect::StopCheck(Subject::Backend(id)));
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

    /// Takes an event in, at its time; what is to be done is returned.
    pub(crate) fn step(&mut self, event: Event, now: Now) -> Vec<Effect> {
        self.ask(now, |controller| controller.handle(event)).1
    }

    /// Runs a closure as an event; what is to be done is returned beside what it returned.
    pub(crate) fn ask<T>(
        &mut self,
        now: Now,
        question: impl FnOnce(&mut Controller) -> T,
    ) -> (T, Vec<Effect>) {
        self.now = now;
        self.log.set_time(now.unix_ms);
        let answer = question(self);
        (answer, self.take_effects())
    }

    /// What was to be done since the last call.
    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        let mut effects = std::mem::take(&mut self.effects);
        effects.extend(self.log.take_untold().into_iter().map(Effect::Log));
        effects
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Checked(Subject::Backend(id), check, result) => self.checked(id, &check, result),
            Event::Checked(Subject::Candidate(service, backend, incarnation), check, result) => {
                self.candidate_checked(&(service, backend), incarnation, &check, &result);
            }
            Event::NextHops(found) => self.next_hops_changed(found),
            Event::Announced { vip, there } => {
                let (kind, what) = if there {
                    (EventKind::Announced, "put on the loopback")
                } else {
                    (EventKind::Withdrawn, "taken off the loopback")
                };
                self.unsaved = true;
                self.log.push(kind, None, None, format!("{vip} {what}"));
            }
            Event::OnLoopback(seen) => self.on_loopback = seen,
            Event::Surroundings(seen) => self.surroundings_seen(seen),
            Event::Links(links) => self.ways.set_driver(links),
            Event::Repaired { kind, text } => self.repaired(kind, &text),
            Event::RepairFailed { kind, text } => self.repair_failed(kind, text),
            Event::Renewed { port, result } => self.renewed(port, result),
            Event::Warning(text) => self.log.push(EventKind::Warning, None, None, text),
            Event::Store(event) => self.store_event(event),
            Event::Tables(made) => self.tables_made(made),
            Event::ClusterLot(lot) => self.lot_made(lot),
            Event::Agent(event) => self.agent_event(event),
            Event::Saved(result) => self.state_written(result),
            Event::Tick(reports) => self.tick(reports),
            Event::Scan => {
                if self.scan() {
                    self.dirty = true;
                    self.settle();
                }
            }
            Event::Sweep => {
                self.sweep();
                self.compare_clients();
                self.settle();
                if self.rates.measure(&self.workers) {
                    self.effects.push(Effect::Alive);
                }
            }
            Event::Weigh => {
                self.weigh();
                self.settle();
            }
            Event::Compare => {
                self.compare_clients();
                self.settle();
            }
            Event::Settle => self.settle(),
            Event::Stop => self.stop(),
        }
    }

    /// Tells when states cannot be written, and when they can again.
    fn state_written(&mut self, result: Result<(), String>) {
        let was_unwritten = std::mem::replace(&mut self.is_unwritten, result.is_err());
        match result {
            Err(error) if !was_unwritten => {
                let message = format!(
                    "the state was not saved ({error}); until it is, drains set by hand would not survive a restart"
                );
                self.log.push(EventKind::StateUnsaved, None, None, message);
            }
            Ok(()) if was_unwritten => {
                self.log.push(EventKind::StateSaved, None, None, "the state is on the disk again");
            }
            _ => {}
        }
    }

    fn checked(&mut self, id: BackendId, check: &Arc<Check>, result: CheckResult) {
        let now_ms = self.uptime_ms();
        let Some(member) = self.members.get(&id) else { return };
        // A result of a check that was replaced meanwhile says nothing about the new one.
        if !member.check.as_ref().is_some_and(|known| Arc::ptr_eq(known, check)) {
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
            self.log.push(EventKind::Warning, None, None, message);
        }
    }

    /// What checks say of a backend in force is something else now. What is down is down at once; what is up may wait for
    /// others.
    pub(crate) fn verdict_changed(&mut self, id: BackendId, change: Change) {
        let Some(member) = self.members.get(&id) else { return };
        let (service, name) = (Some(member.service.as_str()), Some(member.name.as_str()));
        match change {
            Change::Up => {
                self.log.push(EventKind::BackendUp, service, name, format!("{} is up", member.address));
                self.lazy = true;
            }
            Change::Down { hold_ms } => {
                let reason = member.verdict.as_ref().map_or("", Verdict::reason);
                let message = format!("{} is down: {reason}", member.address);
                self.log.push(EventKind::BackendDown, service, name, message);
                if hold_ms > 0 {
                    let message = format!("flaps; stays down for at least {hold_ms} ms");
                    self.log.push(EventKind::HoldDown, service, name, message);
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
                1 => self.log.push(EventKind::Neighbour, service, name, message),
                _ => {
                    let message = format!("{message}; it is a backend of {count} services");
                    self.log.push(EventKind::Neighbour, None, None, message);
                }
            }
        }
        self.next_hops = found;
        self.dirty = true;
    }

    /// Drains a backend, or ends that.
    pub(crate) fn set_drain(
        &mut self,
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
        let mut desire = None;
        if self.cluster.is_some() {
            desire = Some(self.desire_drain(service, backend, drained)?);
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
            self.log.push(kind, Some(service), Some(backend), text);
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
        Ok((result, number, desire))
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
        self.effects.push(Effect::MakeTables(missing));
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
        let now = self.now.monotonic;
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
                view.inherit_paths(&self.view, self.now.tick);
                self.view = Arc::new(view);
                self.shares_are_in_force();
                // Workers must not take a newcomer for one without load.
                self.write_loads();
                self.effects.push(Effect::Publish(Arc::clone(&self.view)));
            }
            Err(CompileError::TablesMissing) => {
                self.make_tables(ids.tables.missing().cloned().collect());
                self.ids.tables = ids.tables;
                return;
            }
            Err(error) => {
                let message = format!("cannot publish: {error}; workers keep the last view");
                self.log.push(EventKind::Warning, None, None, message);
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
        let now = self.now.unix_ms;
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
                self.log.push(EventKind::PanicOff, name, None, "health is heeded again");
            }
            match state {
                ServiceState::Panic => {
                    let percent = service.panic_percent;
                    let message =
                        format!("more than {percent} % of the backends are down: health is disregarded");
                    self.log.push(EventKind::PanicOn, name, None, message);
                }
                ServiceState::Empty => {
                    // At start nothing is known yet, which is no news.
                    if before.is_some() {
                        let message = if is_cut_off {
                            "no backend that is up has a next hop"
                        } else {
                            "no usable backend"
                        };
                        self.log.push(EventKind::ServiceEmpty, name, None, message);
                    }
                }
                ServiceState::Ready => {
                    if before != Some(ServiceState::Panic) {
                        self.log.push(EventKind::ServiceReady, name, None, "has a usable backend");
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
        if self.wanted_neighbours != wanted {
            self.wanted_neighbours = wanted.clone();
            self.effects.push(Effect::WantNeighbours(wanted));
        }
        let wanted = self.wanted_of_kernel(self.announcements());
        if self.wanted_of_kernel != wanted {
            self.wanted_of_kernel = wanted.clone();
            self.effects.push(Effect::WantOfKernel(wanted));
        }
    }

    /// Addresses of backends and machines whose next hop is to be found, and is not known.
    pub(crate) fn missing_next_hops(&self) -> u64 {
        let wanted = &self.wanted_neighbours;
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
        let serving =
            !self.stopping && self.leaving.is_none() && joined && self.acknowledged > 0 && self.can_send();
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
    fn tick(&mut self, reports: Vec<(CoreId, Report)>) {
        let before = std::mem::replace(&mut self.acknowledged, gauges::acknowledged(&self.workers));
        if before != self.acknowledged {
            self.effects.push(Effect::Acknowledged(self.acknowledged));
        }
        if before == 0 && self.acknowledged > 0 {
            self.wish_neighbours();
        }
        self.begin_scan();
        self.tend_renewals();
        self.tend_agents();
        self.take_reports(reports);
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
        !self.making_tables && gauges::acknowledged(&self.workers) >= self.generation
    }

    /// Twice a second: removed backends whose flows have ended or whose time is over; the state file.
    pub(crate) fn sweep(&mut self) {
        self.observe_links();
        let now = self.now.monotonic;
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
                        self.ending_flows(departed.id) == 0 || now.saturating_sub(since) >= lingers
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
            self.log.push(EventKind::BackendForgotten, Some(&departed.service.name), name, message);
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
        self.saves += 1;
        let saved = Saved {
            version: 0,
            saved_unix_ms: self.now.unix_ms,
            config: Some(self.text.clone()),
            drains: drains.collect(),
            backends: backends.collect(),
            registrations: self.saved_registrations(),
            announced: self
                .on_loopback
                .ours
                .iter()
                .map(|vip| crate::state::SavedAddress { address: vip.address, length: vip.length })
                .collect(),
        };
        self.effects.push(Effect::Save(self.saves, saved));
        self.saves
    }

    /// No longer ready; announcements are withdrawn.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
        self.log.push(EventKind::Stop, None, None, "stopping");
        let mut members = std::mem::take(&mut self.members);
        for (id, member) in &mut members {
            self.stop_check(*id, member);
        }
        self.members = members;
        self.keep_candidates(|_, _| false);
        self.wish_neighbours();
        self.save();
    }
}

/// What an agent says, as if it were a check's result.
pub(crate) fn word_of_agent(up: bool, reason: &str, unix_ms: u64) -> CheckResult {
    CheckResult {
        passed: up,
        unsent: false,
        reason: model::visible(reason).into_owned(),
        duration_us: 0,
        unix_ms,
    }
}
