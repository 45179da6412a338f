//! The controller as a member of a cluster: documents become configurations and views, wishes go to the store.

use super::desire::{Desire, Progress};
use super::document::{Document, Settings, unconfigured};
use super::keys::{self, HealthValue, HeardValue, Key, WishValue};
use super::leading::ids_of;
use super::readings::Reading;
use super::seat::{News, Order, Own, Seat};
use super::stock::Lot;
use super::store::StoreEvent;
use super::text;
use crate::agents::facts::{AgentTokens, Facts};
use crate::agents::heard::Why;
use crate::controller::{Controller, Departed, SLOTS_AT_ONCE};
use crate::effect::Effect;
use crate::health::{Subject, Verdict};
use crate::ids::Ids;
use crate::now::Now;
use crate::refusal::Refusal;
use crate::state::SavedBackend;
use model::Loaded;
use model::api::EventKind;
use model::config::{AdminState, Backend, Config, HealthKind, Registration, Service};
use statesync::datagram::ClusterKeys;
use statesync::plan::{Job, Plan, Report};
use statesync::{MachineId, Member, Members, Owners};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use steer::Maglev;
use wire::{BackendId, CoreId, PortId, ServiceId};
use worker::View;
use worker::view::cluster::{Cluster, Endpoint, Link, SlotsView};
use worker::view::path_mtu::Room;
use worker::view::slots::SlotMemory;
use worker::view::{BackendState, ServiceView};

/// Frames relayed to other machines, and records of flows that nobody saw begin, of a machine: a second, and at once.
pub(crate) const RELAYS: (u64, u64) = (20_000, 5_000);
/// How soon after a loss of the store was told the next one is, or another reason for it: the connection tries again every second.
const TOLD_AGAIN: Duration = Duration::from_secs(10);
/// Backends that departed stay until the plan lets them go.
const WHILE_PLANNED: Duration = Duration::from_secs(u32::MAX as u64);

/// What of a document the view is made of.
#[derive(Debug)]
struct Adopted {
    document: Arc<Document>,
    /// By place of the service.
    taints: Vec<Arc<SlotMemory>>,
    job: Arc<Job>,
}

/// Why a document is not in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unadopted {
    /// Its services are still being read.
    Waits,
    /// They do not fit this machine.
    Unfit,
}

/// A cluster's part of the controller.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) seat: Seat,
    pub(crate) config: model::config::Cluster,
    adopted: Option<Adopted>,
    /// Why the newest document is not in force here.
    unadopted: Option<Unadopted>,
    /// The services of this machine's own file, as they would be the cluster's.
    own_services: Result<String, String>,
    /// Since when the store is reached, or not; Unix time, milliseconds.
    pub(crate) since_unix_ms: u64,
    /// Why the store is not reached, with its endpoints.
    pub(crate) lost: Option<String>,
    /// What was told of the loss, if it was told.
    told_lost: Option<String>,
    /// When a loss was last told.
    lost_told_at: Option<Duration>,
    leads: bool,
    was_ready: bool,
    /// What of the store did not fit this machine, as it was told.
    misfit: Option<String>,
    /// The first wish of a new cluster is on its way.
    is_founding: bool,
    /// Version of the picture of which agents were told the machines.
    told_machines: u64,
    /// What became of services that were asked for.
    progress: Progress,
    /// This machine cannot go on.
    pub(crate) fatal: Option<String>,
}

impl Part {
    /// Of a machine with this configuration; `None` for a machine alone.
    pub(crate) fn new(loaded: &Loaded, version: &str, cores: usize, now: Now) -> Option<Part> {
        let config = &loaded.config;
        let cluster = config.cluster.clone()?;
        let own = Own {
            name: config.machine.name.clone(),
            address: own_address(config)?,
            version: version.to_owned(),
            cores,
            settings: Settings::new(&config.machine.cluster_key, cluster.port, &config.timeouts),
            key: config.machine.cluster_key,
            agents: config.agents.as_ref().map(|agents| agents.advertise),
        };
        let mut seat = Seat::new(own, loaded.text.clone());
        seat.make_elsewhere(SLOTS_AT_ONCE);
        Some(Part {
            seat,
            config: cluster,
            adopted: None,
            unadopted: None,
            own_services: text::services_of(&loaded.text),
            since_unix_ms: now.unix_ms,
            lost: Some("not reached yet".to_owned()),
            told_lost: None,
            lost_told_at: None,
            leads: false,
            was_ready: false,
            misfit: None,
            is_founding: false,
            told_machines: 0,
            progress: Progress::default(),
            fatal: None,
        })
    }

    fn message_of_loss(&self, lost: &str) -> String {
        let what_of_it = if self.seat.is_member() {
            "packets are forwarded as before, changes are refused"
        } else {
            "this machine cannot join its cluster before, and drops packets of services"
        };
        format!("the cluster's store is not reached ({lost}); {what_of_it}")
    }

    /// The plan in force.
    pub(crate) fn plan(&self) -> Option<&Plan> {
        Some(&self.adopted.as_ref()?.document.plan)
    }

    /// The document in force.
    pub(crate) fn document(&self) -> Option<&Document> {
        self.adopted.as_ref().map(|adopted| &*adopted.document)
    }

    /// Whether the machine takes traffic.
    pub(crate) fn is_ready(&self) -> bool {
        self.seat.is_ready()
    }

    /// Whether the data path is not to send new flows to a backend.
    pub(crate) fn is_masked(&self, backend: BackendId) -> bool {
        self.plan().is_some_and(|plan| plan.is_masked(backend))
    }

    /// The agreed table of a service.
    pub(crate) fn table(&self, service: ServiceId) -> Option<(Arc<Maglev>, Vec<BackendId>)> {
        let planned = self.plan()?.services.iter().find(|of| of.service == service)?;
        let table = self.seat.tables().of(&planned.cur)?;
        Some((Arc::clone(&table.maglev), table.members.clone()))
    }

    /// Addresses of the other machines, which need next hops.
    pub(crate) fn peers(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let own = self.seat.member().map(|member| member.machine);
        self.seat
            .picture()
            .members()
            .filter(move |(of, _)| Some(of.machine) != own)
            .map(|(_, value)| value.address)
    }

    /// A value that is to become the desired one.
    fn desire(&self, value: Vec<u8>) -> Result<Desire, Refusal> {
        if value.len() > super::document::VALUE_MAX {
            return Err(Refusal::Store(format!("the services have {} bytes", value.len())));
        }
        if let Some(reason) = &self.lost {
            return Err(Refusal::Store(reason.clone()));
        }
        Ok(Desire { value, after: self.seat.picture().revision(Key::Wish) })
    }

    /// There was no room for an order: it comes again.
    fn not_ordered(&mut self, order: Order) {
        match order {
            Order::Put { key, .. } => self.seat.not_put(key),
            Order::Register { machine, .. } => self.seat.not_put(Key::Machine(machine)),
            Order::Lead { .. } | Order::Resign(_) => self.seat.not_put(Key::Leader),
            Order::Plan { .. } => self.seat.plan_written(None),
            Order::Leave => self.seat.not_left(),
            // The next one after the next plan does it, too.
            Order::Sweep { .. } => {}
        }
    }
}

/// Where a machine takes messages: its data address.
pub(crate) fn own_address(config: &Config) -> Option<IpAddr> {
    let machine = &config.machine;
    machine.address.map(IpAddr::V4).or(machine.address6.map(IpAddr::V6))
}

impl Controller {
    /// The store says something.
    pub(crate) fn store_event(&mut self, event: StoreEvent) {
        let Some(part) = &mut self.cluster else { return };
        match event {
            StoreEvent::Identified(member) => part.seat.identified(member),
            StoreEvent::Unfit(reason) => {
                self.log.push(EventKind::Warning, None, None, reason.clone());
                part.fatal = Some(reason);
            }
            StoreEvent::Connected(changes) => {
                part.seat.connected(changes);
                part.is_founding = false;
                self.heard_changed = true;
                part.since_unix_ms = self.now.unix_ms;
                let is_first = part.lost_told_at.is_none();
                part.lost = None;
                if part.told_lost.take().is_some() || is_first {
                    self.log.push(EventKind::StoreReached, None, None, "the cluster's store is reached");
                }
            }
            StoreEvent::Changed(changes) => part.seat.changed(changes),
            StoreEvent::Disconnected(reason) => {
                part.seat.disconnected();
                if part.lost.is_none() {
                    part.since_unix_ms = self.now.unix_ms;
                }
                let lost = format!("{}: {reason}", part.config.endpoints.join(", "));
                let is_news = part.told_lost.as_ref() != Some(&lost);
                if is_news
                    && part.lost_told_at.is_none_or(|at| self.now.monotonic.saturating_sub(at) >= TOLD_AGAIN)
                {
                    let message = part.message_of_loss(&lost);
                    self.log.push(EventKind::StoreLost, None, None, message);
                    part.told_lost = Some(lost.clone());
                    part.lost_told_at = Some(self.now.monotonic);
                }
                part.lost = Some(lost);
            }
            StoreEvent::PlanWritten(revision) => part.seat.plan_written(revision),
            StoreEvent::NotPut(key) => part.seat.not_put(key),
            StoreEvent::NotOrdered(order) => part.not_ordered(order),
            StoreEvent::NotDesired => part.is_founding = false,
        }
    }

    /// What workers report.
    pub(crate) fn take_reports(&mut self, reports: Vec<(CoreId, Report)>) {
        let Some(part) = &mut self.cluster else { return };
        for (core, report) in reports {
            part.seat.report(core, report);
        }
    }

    /// Housekeeping: orders to the store, documents.
    pub(crate) fn tend_cluster(&mut self) {
        self.tell_weights();
        let health = std::mem::take(&mut self.health_changed).then(|| self.health_value());
        // Checks that pass again take back that a backend is dead.
        self.heard_changed |= self.cluster.is_some() && health.is_some();
        self.tell_heard();
        let now = self.now.tick;
        let goes = self.leaving.is_some_and(|since| self.now.monotonic.saturating_sub(since) >= self.grace);
        let Some(part) = &mut self.cluster else { return };
        if goes {
            part.seat.leave();
        }
        if let Some(health) = health {
            part.seat.set_health(&health);
        }
        self.effects.extend(part.seat.poll(now).into_iter().map(Effect::Order));
        if part.leads != part.seat.leads() {
            part.leads = part.seat.leads();
            let message = if part.leads { "leads the cluster" } else { "leads the cluster no more" };
            self.log.push(EventKind::ClusterLeader, None, None, message);
        }
        let mut adopts = false;
        for news in part.seat.take_news() {
            match news {
                News::Adopted => adopts = true,
                News::Warning(text) => self.log.push(EventKind::Warning, None, None, text),
                News::Fatal(text) => {
                    if part.fatal.is_none() {
                        self.log.push(EventKind::Warning, None, None, text.clone());
                    }
                    part.fatal = Some(text);
                }
            }
        }
        let waits = part.unadopted == Some(Unadopted::Waits) && !part.seat.is_making();
        if adopts || waits {
            self.adopt();
            self.tell_heard();
        }
        self.make_missing();
        self.tell_machines();
        self.found_cluster();
        let Some(part) = &mut self.cluster else { return };
        if part.misfit.as_deref() != part.seat.misfit() {
            part.misfit = part.seat.misfit().map(str::to_owned);
            let message = match &part.misfit {
                Some(misfit) => format!(
                    "{misfit}; until then packets are forwarded as before, and this machine is not ready"
                ),
                None => "what the store says fits this machine again".to_owned(),
            };
            self.log.push(EventKind::Warning, None, None, message);
        }
        let ready = part.is_ready();
        if part.was_ready != ready {
            part.was_ready = ready;
            let message = if ready {
                "has joined the cluster"
            } else if part.seat.is_member() {
                "is not ready: what the store says does not fit it; packets are forwarded as before"
            } else {
                "is no member of the cluster: packets of services are dropped"
            };
            self.log.push(EventKind::ClusterJoined, None, None, message);
            self.wish_neighbours();
        }
        self.settle();
    }

    /// A cluster that has no services yet gets those of its first leader's file; one whose store has lost them, those that it had.
    fn found_cluster(&mut self) {
        let Some(part) = &mut self.cluster else { return };
        if !part.leads || part.is_founding {
            return;
        }
        if let Some(wish) = part.seat.wish_to_put_back() {
            let wish = WishValue { unix_ms: self.now.unix_ms, ..wish };
            let desire = part.desire(keys::bytes(&wish));
            part.is_founding = desire.is_ok();
            self.effects.extend(desire.map(Effect::Desire));
            return;
        }
        if part.seat.picture().wish().is_some() {
            return;
        }
        let value = match &part.own_services {
            Ok(text) => WishValue {
                text: text.clone(),
                drains: self.drains.clone(),
                by: self.config.machine.name.clone(),
                unix_ms: self.now.unix_ms,
            },
            Err(_) => return,
        };
        // Whether it was taken is seen in the store.
        let desire = part.desire(keys::bytes(&value));
        part.is_founding = desire.is_ok();
        self.effects.extend(desire.map(Effect::Desire));
    }

    /// What checks of this machine say.
    fn health_value(&self) -> HealthValue {
        let mut value = HealthValue::default();
        for member in self.members.values() {
            match member.verdict.as_ref().and_then(Verdict::up) {
                Some(true) => value.up.insert((member.service.clone(), member.name.clone())),
                Some(false) => value.down.insert((member.service.clone(), member.name.clone())),
                None => continue,
            };
        }
        value
    }

    /// What agents have told this machine, unless what is in force has yet to be looked at: some of it may be over.
    fn tell_heard(&mut self) {
        let Some(part) = &mut self.cluster else { return };
        let is_current = part.adopted.is_some() && part.unadopted.is_none() && part.seat.is_current();
        let may = self.base.agents.is_some() && is_current;
        if !may || !std::mem::take(&mut self.heard_changed) {
            return;
        }
        let mut heard = HeardValue::from(self.registry.heard());
        heard.over.retain(|over| {
            let id = self.ids.backend(&over.service, &over.backend, over.address);
            let verdict = id.and_then(|id| self.members.get(&id)?.verdict.as_ref()?.up());
            over.why != Why::Dead || verdict != Some(true)
        });
        part.seat.set_heard(heard);
    }

    /// Agents are told which machines there are, when that is another set.
    fn tell_machines(&mut self) {
        let Some(part) = &mut self.cluster else { return };
        let picture = part.seat.picture();
        if std::mem::replace(&mut part.told_machines, picture.version()) == picture.version() {
            return;
        }
        let machines = picture.agent_machines();
        // Without the store it is the last one that was seen.
        if !machines.is_empty() {
            self.registry.set_machines(machines);
        }
    }

    /// What the machine's own file says beside services, which are the cluster's.
    pub(crate) fn renew_own(
        &mut self,
        loaded: Loaded,
        services: String,
        tokens: Result<AgentTokens, Refusal>,
    ) {
        let agents = loaded.config.agents.as_ref().map(|agents| agents.advertise);
        if let Some(part) = &mut self.cluster {
            part.seat.set_own_text(loaded.text, agents);
            part.own_services = Ok(services);
            if let Some(new) = &loaded.config.cluster {
                let keys = (new.sync_key, new.sync_key_accepted);
                for of in [Some(&mut part.config), Arc::make_mut(&mut self.config).cluster.as_mut()]
                    .into_iter()
                    .flatten()
                {
                    self.dirty |= (of.sync_key, of.sync_key_accepted) != keys;
                    (of.sync_key, of.sync_key_accepted) = keys;
                }
            }
        }
        let base = Config { services: self.base.services.clone(), ..loaded.config };
        match tokens {
            Ok(tokens) => self.configure_agents(base, &tokens),
            Err(refusal) => {
                let message = format!("the agents' tokens stay as they were: {refusal}");
                self.log.push(EventKind::Warning, None, None, message);
            }
        }
        if let Some(part) = self.cluster.as_mut().filter(|part| part.unadopted == Some(Unadopted::Unfit)) {
            // What did not fit may have been this machine's part.
            part.unadopted = Some(Unadopted::Waits);
        }
        self.settle();
    }

    /// Who may register and how is checked, of these services.
    fn configure_agents(&mut self, base: Config, tokens: &AgentTokens) {
        let mut facts = Facts::of(&base, tokens);
        let machines = self.cluster.as_ref().map(|part| part.seat.picture().agent_machines());
        if let Some(machines) = machines.filter(|machines| !machines.is_empty()) {
            facts.machines = machines;
        }
        let now_ms = self.uptime_ms();
        self.registry.configure(facts, now_ms);
        self.open_gate(base.agents.as_ref().map_or(0, |agents| agents.connections));
        self.base = base;
    }

    /// Has made what this machine lacks to go on.
    fn make_missing(&mut self) {
        let Some(missing) = self.cluster.as_mut().and_then(|part| part.seat.take_missing()) else { return };
        self.effects.push(Effect::MakeMissing(missing));
    }

    /// What was lacking is there.
    pub(crate) fn lot_made(&mut self, lot: Lot) {
        let Some(part) = &mut self.cluster else { return };
        part.seat.made(lot);
        self.tend_cluster();
    }

    /// A document comes into force here.
    fn adopt(&mut self) {
        let Some(part) = &mut self.cluster else { return };
        let Some(document) = part.seat.document().cloned() else { return };
        part.unadopted = Some(Unadopted::Waits);
        let progress = Progress { settled: document.settled, refused: document.refused.clone() };
        if part.progress != progress {
            part.progress = progress.clone();
            self.effects.push(Effect::Progress(progress));
        }
        let known = part.adopted.as_ref().map(|adopted| &adopted.document);
        let is_same = known.is_some_and(|known| {
            known.text == document.text
                && known.drains == document.drains
                && known.registered == document.registered
                && known.services == document.services
                && known.backends == document.backends
        });
        if !is_same {
            let Some(reading) = part.seat.read(&document.text) else { return };
            if let Err(problem) = self.reconfigure(&document, &reading) {
                let message = format!(
                    "the cluster's services do not fit this machine, which holds up every change until that is mended: {problem}"
                );
                if let Some(part) = &mut self.cluster {
                    part.unadopted = Some(Unadopted::Unfit);
                }
                return self.log.push(EventKind::Warning, None, None, message);
            }
        }
        let Some(part) = &mut self.cluster else { return };
        part.unadopted = None;
        let (plan, left_out) = (&document.plan, part.config.left_out);
        let taints = plan.services.iter().map(|of| {
            let tainted = of.tainted.iter().filter(|_| !left_out.sync());
            let bases = tainted.map(|slot| (slot, of.base.get(slot as usize).copied().flatten()));
            Arc::new(SlotMemory::new(u32::try_from(of.cur.len()).unwrap_or(u32::MAX), bases))
        });
        let job = match (left_out.sync(), left_out.export()) {
            (false, false) => plan.job.clone(),
            (false, true) => Job { export: statesync::plan::SlotSets::default(), ..plan.job.clone() },
            (true, _) => Job { id: plan.job.id, ..Job::default() },
        };
        part.adopted = Some(Adopted { taints: taints.collect(), job: Arc::new(job), document });
        self.tell_weights_anew();
        self.dirty = true;
        self.settle();
    }

    /// The services of a document become the configuration, its ids the ids.
    fn reconfigure(&mut self, document: &Document, reading: &Reading) -> Result<(), String> {
        let Some(part) = &self.cluster else { return Ok(()) };
        let is_first = part.adopted.is_none();
        let Loaded { config: base, text, .. } = reading.loaded.as_ref().map_err(String::clone)?;
        let tokens = reading.tokens.as_ref().map_err(String::clone)?;
        let (mut config, skipped) = base.with_registered(&document.registered);
        let ids = ids_of(document);
        let mut services = Vec::with_capacity(document.services.len());
        // In the order of the plan, and only what the plan knows.
        for identity in &document.services {
            let found = config.services.iter().position(|service| identity.is(service));
            let mut service = config.services.swap_remove(found.ok_or_else(|| {
                format!("service {:?} is in the plan and not in the configuration", identity.name)
            })?);
            service.backends.retain(|of| ids.of(identity.id, &of.name, of.address).is_some());
            services.push(service);
        }
        config.services = services;
        let departed = departed_of(document, &config, self.now);
        self.configure_agents(base.clone(), tokens);
        if is_first {
            // The ids of the time before the first document stood for other backends.
            self.remembered = std::mem::take(&mut self.members)
                .into_iter()
                .filter_map(|(id, member)| {
                    self.effects.push(Effect::StopCheck(Subject::Backend(id)));
                    self.probe_ports.release(id);
                    Some(SavedBackend {
                        up: member.verdict.as_ref()?.up()?,
                        service: member.service,
                        backend: member.name,
                        address: member.address,
                        since_unix_ms: member.since_unix_ms,
                    })
                })
                .collect();
        }
        let now_ms = self.uptime_ms();
        self.registry.agreed(&config.registered(), now_ms);
        self.heard_changed = true;
        let before = std::mem::replace(&mut self.config, Arc::new(config));
        self.ids = ids;
        self.replace_members(&before, !is_first);
        self.remembered.clear();
        let stays = |id: BackendId| document.backends.iter().any(|of| of.id == id);
        for gone in std::mem::replace(&mut self.departed, departed).into_iter().filter(|of| !stays(of.id)) {
            let backend = gone.service.backends.first();
            if let Some((backend, by)) = backend.and_then(|of| Some((of, of.registration.as_ref()?))) {
                self.registry.departed(&gone.service.name, &backend.name, &by.agent);
            }
        }
        // It fits the leader, so it is this machine that is different.
        for of in skipped {
            let name = (of.registered.service.as_str(), of.registered.backend.as_str());
            let message = format!(
                "{} registered and does not fit this machine: {}",
                of.registered.address, of.why.reason
            );
            self.log.push(EventKind::Warning, Some(name.0), Some(name.1), message);
        }
        self.drains.clone_from(&document.drains);
        self.text.clone_from(text);
        self.applied_unix_ms = self.now.unix_ms;
        self.keep_states();
        self.unsaved = true;
        Ok(())
    }

    /// Makes a compiled view one of a member of the cluster.
    pub(crate) fn join_view(&self, view: &mut View, config: &Config, ids: &Ids) {
        let Some(part) = &self.cluster else { return };
        let member = part.seat.member().unwrap_or_default();
        let vips: Vec<_> = view.service.iter().map(|service| vip_of(config, ids, service.id)).collect();
        let endpoint = Endpoint {
            address: own_address(config).map_or(wire::Addr::V4(0), wire::Addr::from),
            udp_port: part.config.port,
            port: self.peer_port(part, config),
        };
        let (own, accepted) = part.config.tag_keys();
        let max_idle_us = super::document::Settings::new(&[0; 16], 0, &config.timeouts).max_idle_us();
        let mut cluster = Cluster {
            own: member,
            ready: false,
            step: 0,
            epoch: 0,
            generation: 0,
            owners: Owners::settled(Members::default()),
            endpoint,
            links: Vec::new(),
            keys: ClusterKeys { own, accepted },
            max_idle_us,
            relays: RELAYS,
            services: vips
                .iter()
                .map(|&vip| SlotsView { vip, taints: Arc::default(), always: false })
                .collect(),
            job: Arc::default(),
        };
        if let Some(adopted) = &part.adopted {
            let plan = &adopted.document.plan;
            cluster.step = plan.step;
            cluster.epoch = plan.epoch;
            cluster.generation = plan.generation;
            cluster.owners = plan.owners();
            cluster.ready = cluster.owners.is_ready(member);
            cluster.links = self.links(part, config);
            let left_out = part.config.left_out;
            let always = |service: &ServiceView| !left_out.sync() && service.least_load().is_some();
            cluster.services = vips
                .iter()
                .zip(&adopted.taints)
                .zip(&view.service)
                .map(|((&vip, taints), of)| SlotsView { vip, taints: Arc::clone(taints), always: always(of) })
                .collect();
            cluster.job = Arc::clone(&adopted.job);
            // Whether a backend takes new flows is agreed on, too: by masks and tables.
            for backend in view.backends.iter_mut().flatten() {
                backend.state =
                    if plan.is_masked(backend.id) { BackendState::Down } else { BackendState::Up };
                backend.room = Room::new(backend.state, backend.next_hop, backend.inner_mtu);
            }
        }
        view.cluster = Some(Arc::new(cluster));
    }

    /// The data port that messages leave by: the one of the machine's own subnet, or of a peer's next hop.
    fn peer_port(&self, part: &Part, config: &Config) -> PortId {
        let own = own_address(config);
        let of_subnet = config.ports.iter().position(|port| {
            port.exception_addresses.iter().any(|net| own.is_some_and(|own| net.contains(own)))
        });
        let of_subnet = of_subnet.and_then(|at| u16::try_from(at).ok()).map(PortId);
        let of_peer = || part.peers().find_map(|address| Some(self.next_hops.get(&address)?.port));
        of_subnet.or_else(of_peer).unwrap_or(PortId(0))
    }

    fn links(&self, part: &Part, config: &Config) -> Vec<Option<Link>> {
        let mut links = vec![None; statesync::MACHINES_MAX];
        for (member, value) in part.seat.picture().members() {
            let fixed = config.machine.next_hop_mac.map(|mac| mac.0);
            let mac = fixed.or_else(|| self.next_hops.get(&value.address).map(|hop| hop.mac));
            if let (Some(link), Some(mac)) = (links.get_mut(member.machine.index()), mac) {
                *link = Some(Link { address: value.address.into(), mac });
            }
        }
        links
    }

    /// What an operator wants becomes the wish of the cluster.
    pub(crate) fn desire_services(&self, loaded: &Loaded, services: String) -> Result<Desire, Refusal> {
        if let Some(part) = &self.cluster {
            let members = part.seat.picture().members().map(|(_, of)| (of.name.as_str(), of.address));
            no_machine_is_a_vip(&loaded.config.services, members).map_err(Refusal::Unfit)?;
        }
        let registered = self.cluster.as_ref().and_then(Part::document).map(|of| &of.registered[..]);
        let (config, _) = loaded.config.with_registered(registered.unwrap_or_default());
        let has = |(service, backend): &(String, String)| {
            let service = config.services.iter().find(|of| of.name == *service);
            service.is_some_and(|of| of.backends.iter().any(|of| of.name == *backend))
        };
        self.desired(services, |wish| wish.drains.iter().filter(|drain| has(drain)).cloned().collect())
    }

    /// A backend is drained, or no more, everywhere.
    pub(crate) fn desire_drain(
        &self,
        service: &str,
        backend: &str,
        drained: bool,
    ) -> Result<Desire, Refusal> {
        let part = self.cluster.as_ref().ok_or(Refusal::Stopping)?;
        let (wish, _) = part.seat.picture().wish().ok_or_else(no_wish)?;
        self.desired(wish.text.clone(), |wish| {
            let mut drains = wish.drains.clone();
            let key = (service.to_owned(), backend.to_owned());
            if drained {
                drains.insert(key)
            } else {
                drains.remove(&key)
            };
            drains
        })
    }

    fn desired(
        &self,
        text: String,
        drains: impl FnOnce(&WishValue) -> BTreeSet<(String, String)>,
    ) -> Result<Desire, Refusal> {
        let part = self.cluster.as_ref().ok_or(Refusal::Stopping)?;
        if let Some(reason) = &part.lost {
            return Err(Refusal::Store(reason.clone()));
        }
        let (wish, _) = part.seat.picture().wish().ok_or_else(no_wish)?;
        let drains = drains(wish);
        let by = self.config.machine.name.clone();
        part.desire(keys::bytes(&WishValue { text, drains, by, unix_ms: self.now.unix_ms }))
    }

    /// Name of a machine, for people.
    pub(crate) fn machine_name(&self, machine: MachineId) -> String {
        let name = self.cluster.as_ref().and_then(|part| part.seat.picture().name(machine));
        name.map_or_else(|| format!("#{}", machine.0), str::to_owned)
    }

    /// The same, of members.
    pub(crate) fn names(&self, members: impl IntoIterator<Item = Member>) -> Vec<String> {
        members.into_iter().map(|member| self.machine_name(member.machine)).collect()
    }
}

/// A machine refuses services whose VIP holds its own address; the others know that before they are asked for.
fn no_machine_is_a_vip<'a>(
    services: &[Service],
    mut machines: impl Iterator<Item = (&'a str, IpAddr)>,
) -> Result<(), String> {
    let taken = machines.find_map(|(name, address)| {
        let service = services.iter().find(|service| service.vip.contains(address))?;
        Some(format!(
            "the vip {} of service {:?} holds the address {address} of machine {name}",
            service.vip, service.name
        ))
    });
    taken.map_or(Ok(()), Err)
}

fn no_wish() -> Refusal {
    Refusal::Store("the cluster has no services yet".to_owned())
}

fn vip_of(config: &Config, ids: &Ids, id: ServiceId) -> (wire::Addr, u16, u8) {
    let service = config.services.iter().find(|service| ids.service(&service.name) == Some(id));
    service.map_or((wire::Addr::V4(0), 0, 0), |service| {
        (service.vip.addr.into(), service.port, service.protocol.number())
    })
}

/// Backends that the plan knows and the configuration does not any more.
fn departed_of(document: &Document, config: &Config, now: Now) -> Vec<Departed> {
    let services = document.services.iter().map(|of| of.id).zip(&config.services).collect();
    let departed = unconfigured(&document.backends, &services).into_iter().map(|(identity, service)| {
        let backend = Backend {
            name: identity.name.clone(),
            address: identity.address,
            weight: 0,
            mac: identity.mac,
            state: AdminState::Drain,
            capacity: service.capacity,
            registration: identity.by.clone().map(|(agent, incarnation)| Registration {
                agent,
                incarnation,
                port: None,
            }),
        };
        let service = Service { backends: vec![backend], ..service.clone() };
        Departed {
            id: identity.id,
            service,
            since_unix_ms: now.unix_ms,
            settled: now.monotonic,
            deadline: now.monotonic + WHILE_PLANNED,
            closed: None,
        }
    });
    departed.collect()
}

/// Services whose backends are not checked any more panic no more: it is the leader that heeds health.
pub(crate) fn without_panic(config: &Config) -> Config {
    let mut config = config.clone();
    for service in config.services.iter_mut().filter(|service| service.health.kind != HealthKind::None) {
        service.panic_percent = 0;
    }
    config
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_vip_holds_no_machine_of_the_cluster() {
        let services = |vip: &str| {
            let text = format!(
                "[machine]\nname = \"lb1\"\naddress = \"10.0.2.11\"\nnext_hop_mac = \"02:00:00:00:00:01\"\n[[port]]\nname = \"p\"\n\
                 device = \"net_null0\"\n[[service]]\nname = \"web\"\nvip = \"{vip}\"\nport = 80\n\
                 [[service.backend]]\nname = \"b1\"\naddress = \"10.9.0.1\"\n"
            );
            model::load("x", &text).map_err(|report| report.to_plain()).unwrap().config.services
        };
        let check = |vip: &str| {
            let machines = [("lb1", [10, 0, 2, 11].into()), ("lb2", [10, 0, 2, 12].into())];
            super::no_machine_is_a_vip(&services(vip), machines.into_iter())
        };
        assert_eq!(check("203.0.113.10"), Ok(()));
        for vip in ["10.0.2.12", "10.0.2.12/30"] {
            assert!(check(vip).unwrap_err().contains("10.0.2.12 of machine lb2"));
        }
    }
}
