//! What the controller does on an event.

use crate::agents::candidate::Agents;
use crate::agents::facts::{AgentTokens, Facts};
use crate::agents::{in_force, tend};
use crate::backends::check;
use crate::backends::judge;
use crate::backends::members;
use crate::backends::{Backends, ConfiguredBackend};
use crate::balance::Balance;
use crate::balance::weights;
use crate::cluster::adopt;
use crate::compile::{CompileError, Making, Recipe};
use crate::configure;
use crate::controller::Controller;
use crate::controller::Saving;
use crate::controller::{BeforeStart, ControllerParts};
use crate::effect::Effect;
use crate::event::Event;
use crate::event_log::EventLog;
use crate::gauges::{self, Rates};
use crate::health::Subject;
use crate::ids::Ids;
use crate::ids::saved::SavedIds;
use crate::now::Now;
use crate::passive::compare;
use crate::passive::pools::Passive;
use crate::publication::Publication;
use crate::publication::{PUBLISH_EVERY, SLOTS_AT_ONCE};
use crate::reconcile::seen;
use crate::reconcile::ways::KernelSide;
use crate::refusal::Refusal;
use crate::revision::ledger::{ChangeOrigin, Content};
use crate::scan::Scanner;
use crate::scan::pieces;
use crate::state::{Saved, SavedDrain};
use crate::view;
use crate::wanted;
use model::Loaded;
use model::api::EventKind;
use model::config::Config;
use statesync::plan::Report;
use std::sync::Arc;
use std::time::Duration;
use steer::Maglev;
use wire::CoreId;

impl Controller {
    /// Starts with the file's configuration and what was remembered: drains are in force again, and backends keep
    /// what their checks said last until they say otherwise.
    pub(crate) fn new(
        loaded: Loaded,
        tokens: &AgentTokens,
        parts: ControllerParts,
        now: Now,
    ) -> Result<Controller, Refusal> {
        let empty = Config { services: Vec::new(), ..loaded.config.clone() };
        let BeforeStart { saved, revisions, content, file_text } = parts.history;
        let mut controller = Controller {
            now,
            effects: Vec::new(),
            log: EventLog::default(),
            program: parts.program,
            rates: Rates::new(parts.workers.len()),
            workers: parts.workers,
            ports: parts.ports,
            acknowledged: 0,
            base: empty.clone(),
            config: Arc::new(empty),
            text: String::new(),
            file_text,
            revisions,
            applied_unix_ms: 0,
            backends: Backends::new(saved.backends, saved.drains),
            publication: Publication::default(),
            cluster: parts.cluster,
            agents: Agents::default(),
            balance: Balance::new(),
            passive: Passive::default(),
            scanner: Scanner::default(),
            kernel: KernelSide::default(),
            saving: Saving { flow_secrets: parts.flow_secrets, ..Saving::default() },
        };
        controller.log.set_time(now.unix_ms);
        controller.log_start(&loaded.text, &content, saved.config);
        if controller.cluster.is_none() {
            // A cluster knows by itself what has registered, and ids.
            let registrations = saved.registrations.into_iter().map(|saved| (saved.registered, saved.up));
            controller.restore_ids(&saved.ids);
            let now_ms = controller.uptime_ms();
            controller.agents.registry.configure(Facts::of(&loaded.config, tokens), now_ms);
            controller.agents.registry.restore(registrations, now_ms);
        }
        configure::tried(&controller, &loaded.config).map_err(Refusal::Compile)?;
        let merged = loaded.config.with_registered(&controller.agents.registry.received().alive);
        let ids = configure::ids_of(&controller, &merged.0)?;
        configure::install(&mut controller, loaded, merged, ids, tokens);
        if controller.cluster.is_none() {
            let (caller, what) = ("start".to_owned(), "the file as it was at the start".to_owned());
            let change = ChangeOrigin { unix_ms: now.unix_ms, caller, what, services: None };
            controller.revisions.begin(content, change);
        }
        controller.settle();
        controller.backends.remembered.clear();
        Ok(controller)
    }

    fn restore_ids(&mut self, saved: &SavedIds) {
        match Ids::restored(saved, self.now.tick) {
            Ok(ids) => self.backends.ids = ids,
            Err(problem) => {
                let message = format!("the saved ids of services and backends begin anew: {problem}");
                self.log.push(EventKind::Warning, None, None, message);
            }
        }
    }

    /// `last`: the configuration that was last applied.
    fn log_start(&mut self, text: &str, content: &Content, last: Option<String>) {
        let version = &self.program.version;
        self.log.push(EventKind::Start, None, None, format!("guidewayd {version} started"));
        if *content.base == *self.file_text && last.is_some_and(|last| last != text) {
            let message = format!(
                "the configuration that was last applied differs from {}; the file is in force",
                self.program.config_path.display()
            );
            self.log.push(EventKind::ConfigDiffers, None, None, message);
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
            Event::Checked(Subject::Backend(id), check, result) => check::checked(self, id, &check, result),
            Event::Checked(Subject::Candidate(service, backend, incarnation), check, result) => {
                tend::candidate_checked(self, &(service, backend), incarnation, &check, &result);
            }
            Event::NextHops(found) => members::next_hops_changed(self, found),
            Event::Announced { vip, there } => {
                let (kind, what) = if there {
                    (EventKind::Announced, "put on the loopback")
                } else {
                    (EventKind::Withdrawn, "taken off the loopback")
                };
                self.saving.unsaved = true;
                self.log.push(kind, None, None, format!("{vip} {what}"));
            }
            Event::OnLoopback(seen) => self.kernel.on_loopback = seen,
            Event::Surroundings(seen) => seen::surroundings_seen(self, seen),
            Event::Links(links) => self.kernel.ways.set_driver(links),
            Event::Repaired { kind, text } => seen::repaired(self, kind, &text),
            Event::RepairFailed { kind, text } => seen::repair_failed(self, kind, text),
            Event::Renewed { port, result } => seen::renewed(self, port, result),
            Event::Warning(text) => self.log.push(EventKind::Warning, None, None, text),
            Event::Store(event) => adopt::store_event(self, event),
            Event::Tables(made) => self.tables_made(made),
            Event::ClusterLot(lot) => {
                adopt::lot_made(self, lot);
                self.settle();
            }
            Event::Agent(event) => tend::agent_event(self, event),
            Event::Saved(result) => self.state_written(result),
            Event::Tick(reports) => self.tick(reports),
            Event::Scan => {
                if pieces::scan(self) {
                    self.publication.dirty = true;
                    self.settle();
                }
            }
            Event::Sweep => {
                self.sweep();
                compare::compare_clients(self);
                self.settle();
                if self.rates.measure(&self.workers) {
                    self.effects.push(Effect::Alive);
                }
            }
            Event::Weigh => {
                weights::weigh(self);
                self.settle();
            }
            Event::Compare => {
                compare::compare_clients(self);
                self.settle();
            }
            Event::Settle => self.settle(),
            Event::Stop => self.stop(),
        }
    }

    /// Tells when states cannot be written, and when they can again.
    fn state_written(&mut self, result: Result<(), String>) {
        let was_unwritten = std::mem::replace(&mut self.saving.is_unwritten, result.is_err());
        match result {
            Err(error) if !was_unwritten => {
                let message = format!(
                    "the state was not saved ({error}); until it is, drains set by hand would not \
                     survive a restart"
                );
                self.log.push(EventKind::StateUnsaved, None, None, message);
            }
            Ok(()) if was_unwritten => {
                self.log.push(EventKind::StateSaved, None, None, "the state is on the disk again");
            }
            _ => {}
        }
    }

    /// Has the slot tables made that are missing. Until they are there, workers keep the view they have.
    fn make_tables(&mut self, missing: Vec<Arc<Recipe>>) {
        self.publication.making_tables = true;
        self.effects.push(Effect::MakeTables(missing));
    }

    fn tables_made(&mut self, made: Vec<(Arc<Recipe>, Arc<Maglev>)>) {
        for (recipe, table) in made {
            self.backends.ids.tables.put(recipe, table);
        }
        self.publication.making_tables = false;
        self.publication.dirty = true;
    }

    /// Compiles and publishes what has changed, if anything has.
    pub(crate) fn settle(&mut self) {
        if self.publication.making_tables {
            return;
        }
        let now = self.now.monotonic;
        if now >= self.publication.publish_from {
            let renews = self.cluster.is_none() && std::mem::take(&mut self.agents.received_changed);
            let is_renewed = renews && in_force::renew_registered(self);
            if is_renewed || self.publication.lazy {
                self.publication.dirty = true;
                self.publication.publish_from = now + PUBLISH_EVERY;
            }
        }
        if !std::mem::take(&mut self.publication.dirty) {
            return;
        }
        weights::observe_joins(self);
        let mut ids = self.backends.ids.clone();
        match view::compile_with(self, &self.config, &mut ids, Making::UpTo(SLOTS_AT_ONCE)) {
            Ok(view) => {
                self.backends.ids = ids;
                self.publication.generation += 1;
                self.publication.lazy = false;
                view.inherit_paths(&self.publication.view, self.now.tick);
                self.publication.view = Arc::new(view);
                weights::shares_are_in_force(self);
                // Workers must not take a newcomer for one without load.
                weights::write_loads(self);
                self.effects.push(Effect::Publish(Arc::clone(&self.publication.view)));
            }
            Err(CompileError::TablesMissing) => {
                self.make_tables(ids.tables.missing().cloned().collect());
                self.backends.ids.tables = ids.tables;
                return;
            }
            Err(error) => {
                let message = format!("cannot publish: {error}; workers keep the last view");
                self.log.push(EventKind::Warning, None, None, message);
            }
        }
        judge::judge(self);
        wanted::tell_wanted(self);
    }

    /// Housekeeping: old views, acknowledgements, removed backends, the state file.
    fn tick(&mut self, reports: Vec<(CoreId, Report)>) {
        let before = std::mem::replace(&mut self.acknowledged, gauges::acknowledged(&self.workers));
        if before != self.acknowledged {
            self.effects.push(Effect::Acknowledged(self.acknowledged));
        }
        if before == 0 && self.acknowledged > 0 {
            wanted::tell_wanted(self);
        }
        pieces::begin_scan(self);
        seen::tend_renewals(self);
        tend::tend_agents(self);
        self.settle();
        adopt::take_reports(self, reports);
        adopt::tend_cluster(self);
        self.settle();
    }

    /// Twice a second: removed backends whose flows have ended or whose time is over; the state file.
    pub(crate) fn sweep(&mut self) {
        seen::observe_links(self);
        let now = self.now.monotonic;
        let acknowledged = self.is_acknowledged();
        // In a cluster the plan says when.
        let departed = if self.cluster.is_some() { 0 } else { self.backends.departed.len() };
        for at in 0..departed {
            let is_open = self.backends.departed.get(at).is_some_and(|of| self.live_flows(of.id) > 0);
            if let Some(of) = self.backends.departed.get_mut(at) {
                of.closed = if is_open { None } else { of.closed.or(Some(now)) };
            }
        }
        // A server may go on after its client's FIN: it keeps its backend for as long as after a RST, if that is seen.
        let lingers = Duration::from_secs(u64::from(self.config.timeouts.tcp_closing_s));
        let over: Vec<usize> = (0..departed)
            .filter(|at| {
                let departed = &self.backends.departed[*at];
                let quiet = acknowledged
                    && now >= departed.settled
                    && departed.closed.is_some_and(|since| {
                        self.ending_flows(departed.id) == 0 || now.saturating_sub(since) >= lingers
                    })
                    && !members::is_base(self, departed);
                quiet || now >= departed.deadline
            })
            .collect();
        for at in over.into_iter().rev() {
            let departed = self.backends.departed.swap_remove(at);
            let flows = self.live_flows(departed.id);
            let message = if members::is_base(self, &departed) {
                format!(
                    "removed for good after drain_timeout_ms; {flows} flows, and others that are not \
                     tracked, are steered anew"
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
                self.agents.registry.departed(&departed.service.name, &backend.name, &by.agent);
            }
            self.log.push(EventKind::BackendForgotten, Some(&departed.service.name), name, message);
            self.backends.ids.forget(departed.id);
            self.publication.dirty = true;
        }
        if pieces::release_slots(self) {
            self.publication.dirty = true;
        }
        if std::mem::take(&mut self.saving.unsaved) {
            self.save();
        }
    }

    /// Asks for the state to be written.
    pub(crate) fn save(&mut self) -> u64 {
        self.saving.unsaved = false;
        let ids = if self.cluster.is_none() { self.saved_ids() } else { Arc::default() };
        let backends = self.backends.members.values().filter_map(ConfiguredBackend::saved);
        let drains = self.backends.drains.iter();
        let drains = drains.map(|(s, b)| SavedDrain { service: s.clone(), backend: b.clone() });
        self.saving.saves += 1;
        let saved = Saved {
            version: 0,
            saved_unix_ms: self.now.unix_ms,
            config: Some(self.text.clone()),
            drains: drains.collect(),
            backends: backends.collect(),
            registrations: tend::saved_registrations(self),
            announced: self
                .kernel
                .on_loopback
                .ours
                .iter()
                .map(|vip| crate::state::SavedAddress { address: vip.address, length: vip.length })
                .collect(),
            ids,
            flow_secrets: self.saving.flow_secrets.clone(),
            revisions: self.cluster.is_none().then(|| self.revisions.saved()),
        };
        self.effects.push(Effect::Save(self.saving.saves, saved));
        self.saving.saves
    }

    /// Ids change seldom, and states are saved often.
    fn saved_ids(&mut self) -> Arc<SavedIds> {
        let version = self.backends.ids.version();
        let known = self.saving.ids.take().filter(|(of, _)| *of == version);
        let (_, saved) =
            self.saving.ids.insert(known.unwrap_or_else(|| (version, Arc::new(self.backends.ids.saved()))));
        Arc::clone(saved)
    }

    /// No longer ready; announcements are withdrawn.
    pub(crate) fn stop(&mut self) {
        self.program.stopping = true;
        self.log.push(EventKind::Stop, None, None, "stopping");
        let mut members = std::mem::take(&mut self.backends.members);
        for (id, member) in &mut members {
            self.stop_check(*id, member);
        }
        self.backends.members = members;
        tend::keep_candidates(self, |_, _| false);
        wanted::tell_wanted(self);
        self.save();
    }
}
