//! The leader's part: from what operators want and what health checks say to the next document.
//!
//! [`Leader`] makes the steps and decides their order. Here is what it is asked for, from scratch each time nothing is open: so a change
//! that was wished while another went on, or before this leader led, is found all the same.

use super::document::{BackendEntry, Document, Given, REGISTERED_MAX, ServiceEntry, by, unconfigured};
use super::registrations;
use super::snapshot::StoreSnapshot;
use super::stock::Stock;
use super::tables::{AgreedRecipe, AgreedTables};
use crate::compile::{self, JudgedBackend, Runtime};
use crate::ids::Ids;
use model::config::{AdminState, Backend, Config, HealthKind, Policy, Service};
use model::registered::Registered;
use statesync::plan::{Answers, Leader, Plan, Request, Tables as Answering};
use statesync::{Member, Members, Rule, Rules};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use wire::{BackendId, ServiceId, Tick};
use worker::view::{BACKENDS_MAX, BackendState, SERVICES_MAX};

/// See the module.
#[derive(Debug)]
pub(crate) struct Leading {
    leader: Leader,
    document: Document,
    /// The services of the document with this machine's own configuration.
    in_force: Option<InForce>,
    /// The last wish that could not be followed.
    refused: i64,
    /// Backends that are not configured any more, and until when their flows may live.
    departing: HashMap<BackendId, Tick>,
    /// Those that were departing when this leader began are among them.
    resumed: bool,
    /// Since when ids rest, as far as this leader knows.
    resting: HashMap<BackendId, Tick>,
    resting_services: HashMap<ServiceId, Tick>,
    /// What could not be done, told once.
    problem: Option<String>,
    /// The snapshot and the stock that were looked at last, and when.
    looked_at: Option<((u64, u64), Tick)>,
    registrations: Registrations,
    /// Weights that are not the configured ones.
    weights: Arc<HashMap<BackendId, u32>>,
    rules: Rules,
    /// The last judgement, and of what.
    judged: Option<(JudgedOf, Arc<Judgement>)>,
}

/// Version of the store's snapshot, step, revision of the services, and whether they are read.
type JudgedOf = (u64, u64, i64, bool);
/// By service, what is thought of its backends.
type Judgement = HashMap<ServiceId, Vec<JudgedBackend>>;

/// Services as the document has them.
#[derive(Debug)]
struct InForce {
    /// Of which wish.
    wish: i64,
    /// Without registered backends.
    written: Config,
    /// With them.
    config: Config,
}

/// When registrations are looked at.
#[derive(Debug, Default)]
struct Registrations {
    /// When they last changed what is in force.
    changed: Option<Tick>,
    /// What machines had heard when nothing was left to do, and for which wish.
    done: Option<(u64, i64)>,
    /// Not before; after a change that could not be made.
    rests_until: Option<Tick>,
    /// Something is left to do, and its time has not come.
    is_waiting: bool,
    /// The first service for which some were without room; told once.
    without_room: Option<String>,
}

/// What the services in force are to be.
struct WantedServices<'a> {
    /// Revision of the wish.
    wish: i64,
    /// The services, as in a configuration.
    text: &'a str,
    /// Backends that an operator drains.
    drains: &'a BTreeSet<(String, String)>,
    /// Who has registered.
    registered: Vec<Registered>,
    /// All of it with this machine's own configuration.
    config: &'a Config,
}

/// Why something that is wanted was not done.
#[derive(Debug)]
enum NotFollowed {
    /// What it needs is still being made or read; it is tried again.
    Waits,
    /// It cannot be done.
    Unfit(String),
}

impl From<String> for NotFollowed {
    fn from(problem: String) -> NotFollowed {
        NotFollowed::Unfit(problem)
    }
}

/// Without news, time alone brings something about this often at most, microseconds.
const LOOK_US: u64 = 20_000;
/// Registrations change the services this often at most, microseconds: what comes meanwhile comes together.
const REGISTRATIONS_US: u64 = 250_000;
/// How long registrations wait after a change that could not be made, microseconds.
const REST_US: u64 = 10_000_000;
/// Steps left out by a leader that goes on without members of whose last step it has not heard.
const LEAP: u64 = 1 << 20;

impl Leading {
    /// Goes on from a document.
    pub(crate) fn new(document: Document, now: Tick) -> Leading {
        Leading {
            leader: Leader::new(document.plan.clone(), document.settings.max_idle_us(), now),
            in_force: None,
            refused: 0,
            departing: HashMap::new(),
            resumed: false,
            resting: document.given.resting.iter().map(|id| (BackendId(id), now)).collect(),
            resting_services: document
                .given
                .resting_services
                .iter()
                .filter_map(|id| Some((ServiceId(u16::try_from(id).ok()?), now)))
                .collect(),
            document,
            problem: None,
            looked_at: None,
            registrations: Registrations::default(),
            weights: Arc::default(),
            rules: Rules::default(),
            judged: None,
        }
    }

    /// The rule holds no more.
    #[cfg(feature = "negative-controls")]
    pub(crate) fn break_rules(&mut self, broken: Option<statesync::Rule>) {
        if let Some(rule) = broken {
            self.leader.break_rule(rule);
            self.rules = self.rules.without(rule);
        }
    }

    /// The newest document.
    pub(crate) fn document(&self) -> &Document {
        &self.document
    }

    /// Who is waited for.
    pub(crate) fn lagging(&self, live: &Members) -> Vec<Member> {
        self.leader.lagging(live).collect()
    }

    /// Whether registrations wait for their time.
    pub(crate) fn is_waiting(&self) -> bool {
        self.registrations.is_waiting
    }

    /// Weights that are not the configured ones, for the next table.
    pub(crate) fn set_weights(&mut self, weights: &Arc<HashMap<BackendId, u32>>) {
        self.weights = Arc::clone(weights);
    }

    /// What could not be done, once.
    pub(crate) fn take_problem(&mut self) -> Option<String> {
        self.problem.take()
    }

    /// The next document, if there is one to be written. `own_text` is this machine's configuration. What needs a table or a reading that is
    /// not there yet is done when it is.
    pub(crate) fn poll(
        &mut self,
        snapshot: &StoreSnapshot,
        own_text: &str,
        stock: &mut Stock,
        now: Tick,
    ) -> Option<&Document> {
        let version = (snapshot.version(), stock.version());
        if self.looked_at.is_some_and(|(at, when)| at == version && now.since_us(when) < LOOK_US) {
            return None;
        }
        self.looked_at = Some((version, now));
        self.registrations.is_waiting = false;
        for acknowledgement in snapshot.acknowledgements(&self.document.plan.services) {
            self.leader.acknowledge(acknowledgement);
        }
        let live = snapshot.live(&self.document.settings);
        self.leader.let_go(snapshot.leaving());
        let is_read = self.read_services(own_text, stock);
        let judgement = self.judgement(snapshot);
        self.request_masks(&judgement);
        let made = if is_read
            && !stock.is_making()
            && self.leader.is_at_rest(&live)
            && live == self.document.plan.members
        {
            self.at_rest(snapshot, own_text, &judgement, stock, &live, now)
        } else {
            false
        };
        let stepped = self.leader.poll(&live, now).is_some();
        if !made && !stepped {
            return None;
        }
        let before = std::mem::replace(&mut self.document.plan, self.leader.plan().clone());
        self.remember_former(&before);
        self.bury(now);
        Some(&self.document)
    }

    /// Goes on without members that have not been heard of, as a plan that is newer than any that they may know.
    pub(crate) fn leap(self, now: Tick) -> Leading {
        let mut document = self.document;
        document.plan.step = document.plan.step.saturating_add(LEAP);
        Leading::new(document, now)
    }

    /// Who is no member any more is remembered by its last incarnation: the number may be used again.
    fn remember_former(&mut self, before: &Plan) {
        let plan = &self.document.plan;
        let listed = |plan: &Plan| {
            let next = plan.next_members.iter().flat_map(Members::iter);
            Members::new(plan.members.iter().chain(next))
        };
        let (before, now) = (listed(before), listed(plan));
        if before == now {
            return;
        }
        let all = Members::new(self.document.former.iter().chain(before.iter()));
        let is_over = |of: &Member| now.incarnation(of.machine).is_none_or(|later| later < of.incarnation);
        self.document.former = Members::new(all.iter().filter(is_over));
    }

    /// Reads the services in force. False: they are not read yet.
    fn read_services(&mut self, own_text: &str, stock: &mut Stock) -> bool {
        let wish = self.document.wish;
        if self.in_force.as_ref().is_some_and(|of| of.wish == wish) {
            return true;
        }
        self.in_force = None;
        self.judged = None;
        let Some(reading) = stock.readings.get(own_text, &self.document.text) else { return false };
        // What does not fit this machine was told when it was adopted here.
        self.in_force = reading.loaded.as_ref().ok().map(|loaded| {
            let (config, _) = loaded.config.with_registered(&self.document.registered);
            InForce { wish, written: loaded.config.clone(), config }
        });
        true
    }

    /// What is thought of each configured backend that has an id; thought anew when something of it has changed.
    fn judgement(&mut self, snapshot: &StoreSnapshot) -> Arc<Judgement> {
        let of = (snapshot.version(), self.leader.plan().step, self.document.wish, self.in_force.is_some());
        if let Some((_, judgement)) = self.judged.as_ref().filter(|(known, _)| *known == of) {
            return Arc::clone(judgement);
        }
        let judgement = Arc::new(self.judge(snapshot));
        self.judged = Some((of, Arc::clone(&judgement)));
        judgement
    }

    fn judge(&self, snapshot: &StoreSnapshot) -> Judgement {
        let Some(InForce { config, .. }) = &self.in_force else { return Judgement::new() };
        let drains = &self.document.drains;
        let ids = ids_of(&self.document);
        // Where nobody knows anything (yet, or after all have started anew), it stays as it is.
        let plan = self.leader.plan();
        let masked: HashSet<BackendId> = plan.masks.iter().map(|mask| mask.backend).collect();
        let serving: HashSet<BackendId> = plan
            .services
            .iter()
            .flat_map(|of| of.cur.iter())
            .flatten()
            .filter(|id| !masked.contains(id))
            .copied()
            .collect();
        let is_drained =
            |service: &Service, name: &str| drains.contains(&(service.name.clone(), name.to_owned()));
        let runtime = Runtime {
            is_up: &|id, service, backend| match snapshot.votes(&service.name, &backend.name) {
                (0, 0) => serving.contains(&id),
                (up, down) => up >= down,
            },
            is_drained: &|_, service, backend| is_drained(service, &backend.name),
            ..Runtime::offline(&[])
        };
        let mut judgement = Judgement::new();
        for service in &config.services {
            let Some(identity) = self.document.services.iter().find(|of| of.is(service)) else { continue };
            let mut service = service.clone();
            if service.health.kind != HealthKind::None && is_early(snapshot, &service, is_drained) {
                service.panic_percent = 0;
            }
            judgement.insert(identity.id, compile::judge(&service, identity.id, &ids, &runtime));
        }
        judgement
    }

    /// Backends that health or an operator holds to be down take no new flows, at once.
    fn request_masks(&mut self, judgement: &Judgement) {
        let masked: HashSet<BackendId> = self.leader.plan().masks.iter().map(|mask| mask.backend).collect();
        // Looked through only where a backend is down.
        let mut serving: Option<HashSet<BackendId>> = None;
        for judged in judgement.values().flatten() {
            let (plan, backend) = (self.leader.plan(), judged.id);
            let is_masked = masked.contains(&backend);
            let mut takes_flows = || {
                let slots = || plan.services.iter().flat_map(|of| of.cur.iter()).copied().flatten();
                serving.get_or_insert_with(|| slots().collect()).contains(&backend)
            };
            let request = match judged.state {
                // What takes no flows needs no mask.
                BackendState::Down if !is_masked && takes_flows() => Request::Mask(backend),
                BackendState::Up | BackendState::Draining if is_masked => Request::Unmask(backend),
                _ => continue,
            };
            if let Err(refused) = self.leader.request(request) {
                self.problem = Some(format!("backend {backend:?}: {refused}"));
            }
        }
    }

    /// Nothing is open: is there something to begin? True: the document has changed.
    fn at_rest(
        &mut self,
        snapshot: &StoreSnapshot,
        own_text: &str,
        judgement: &Judgement,
        stock: &mut Stock,
        live: &Members,
        now: Tick,
    ) -> bool {
        let Some((wish, revision)) = snapshot.wish() else { return false };
        if self.document.wish != revision && self.refused != revision {
            let Some(reading) = stock.readings.get(own_text, &wish.text) else { return false };
            let loaded = reading.loaded.as_ref().map_err(|problem| NotFollowed::Unfit(problem.clone()));
            let followed = loaded.and_then(|loaded| {
                let registered = registrations::allowed(&self.document.registered, &loaded.config);
                let (config, _) = loaded.config.with_registered(&registered);
                let target = WantedServices {
                    wish: revision,
                    text: &wish.text,
                    drains: &wish.drains,
                    config: &config,
                    registered,
                };
                self.follow(target, &mut stock.tables, live, now)
            });
            match followed {
                Ok(()) => self.document.refused = None,
                Err(NotFollowed::Waits) => return false,
                Err(NotFollowed::Unfit(problem)) => {
                    self.refused = revision;
                    let message = format!(
                        "what {} asked for cannot be done; the services in force stay: {problem}",
                        wish.by
                    );
                    self.problem = Some(message);
                    self.document.refused = Some((revision, problem));
                }
            }
            return true;
        }
        if self.in_force.is_none() {
            // It is not known here who belongs into the tables.
            return false;
        }
        if !std::mem::replace(&mut self.resumed, true) {
            self.resume_departures(now);
        }
        if self.follow_registrations(snapshot, &mut stock.tables, live, now) {
            return true;
        }
        match self.target(judgement, &mut stock.tables, now) {
            Ok(Some(target)) => {
                if let Err(refused) = self.leader.request(Request::Tables(target)) {
                    self.problem = Some(refused.to_string());
                }
                false
            }
            Ok(None) if self.document.settled != self.document.wish => {
                self.document.settled = self.document.wish;
                true
            }
            Ok(None) => false,
            Err(NotFollowed::Waits) => false,
            Err(NotFollowed::Unfit(problem)) => {
                self.problem = Some(problem);
                false
            }
        }
    }

    /// Backends that have registered, or are over, come and go. True: the document has changed.
    fn follow_registrations(
        &mut self,
        snapshot: &StoreSnapshot,
        tables: &mut AgreedTables,
        live: &Members,
        now: Tick,
    ) -> bool {
        let of = &mut self.registrations;
        let heard = (snapshot.received_version(), self.document.wish);
        let rests = of.rests_until.is_some_and(|until| now < until);
        let Some(InForce { written, .. }) =
            self.in_force.as_ref().filter(|_| of.done != Some(heard) && !rests)
        else {
            return false;
        };
        if of.changed.is_some_and(|changed| now.since_us(changed) < REGISTRATIONS_US) {
            of.is_waiting = true;
            return false;
        }
        let room = REGISTERED_MAX.saturating_sub(self.document.registered_bytes());
        let known = &self.document.registered;
        let mut merged =
            registrations::merge(known, snapshot.received().map(|(_, value)| value), written, room);
        let service = merged.without_room.as_ref().map(|(_, service)| service);
        if of.without_room.as_ref() != service {
            of.without_room = service.cloned();
            self.problem = merged.without_room.take().map(|(count, service)| {
                format!(
                    "{count} registrations are not taken, the first for service {service:?}: as \
                     many as may be are there"
                )
            });
        }
        let (held, ends) = self.in_the_way(&merged.registered);
        merged.registered.retain(|of| !held.contains(&(of.service.clone(), of.address)));
        if merged.registered == self.document.registered {
            // What is held back comes when those in its way are gone.
            self.registrations.done = held.is_empty().then_some(heard);
            self.end_departures(&ends, now);
            return false;
        }
        let (text, drains) = (self.document.text.clone(), self.document.drains.clone());
        let Some(InForce { written, .. }) = &self.in_force else { return false };
        let (config, _) = written.with_registered(&merged.registered);
        let target = WantedServices {
            wish: self.document.wish,
            text: &text,
            drains: &drains,
            config: &config,
            registered: merged.registered,
        };
        match self.follow(target, tables, live, now) {
            Ok(()) => {}
            Err(NotFollowed::Waits) => return false,
            Err(NotFollowed::Unfit(problem)) => {
                self.problem = Some(format!("backends that have registered cannot be taken in: {problem}"));
                self.registrations.rests_until = Some(Tick(now.0.saturating_add(REST_US)));
                return false;
            }
        }
        if let Some(in_force) = &mut self.in_force {
            in_force.config = config;
        }
        self.end_departures(&ends, now);
        self.registrations.changed = Some(now);
        self.registrations.done = held.is_empty().then_some(heard);
        true
    }

    /// Newcomers whose address another backend of their service has, or has had and is departing: as long as that one's flows live on, they
    /// would be a stranger's at the newcomer. So they are steered anew first, and the newcomer waits for that. Answers the newcomers'
    /// services and addresses, and the backends in their way.
    fn in_the_way(&self, registered: &[Registered]) -> (HashSet<(String, IpAddr)>, Vec<BackendId>) {
        let (mut held, mut ends) = (HashSet::new(), Vec::new());
        let Some(InForce { config, .. }) = &self.in_force else { return (held, ends) };
        let mut in_force: HashSet<(&str, &str, IpAddr)> = HashSet::new();
        let mut ids: HashMap<&str, ServiceId> = HashMap::new();
        for service in &config.services {
            in_force.extend(
                service.backends.iter().map(|of| (service.name.as_str(), of.name.as_str(), of.address)),
            );
            let identity = self.document.services.iter().find(|of| of.is(service));
            ids.extend(identity.map(|of| (service.name.as_str(), of.id)));
        }
        let mut places: HashMap<(ServiceId, IpAddr), Vec<&BackendEntry>> = HashMap::new();
        for of in &self.document.backends {
            places.entry((of.service, of.address)).or_default().push(of);
        }
        for of in registered {
            let Some(id) = ids.get(of.service.as_str()) else { continue };
            if in_force.contains(&(of.service.as_str(), of.backend.as_str(), of.address)) {
                continue;
            }
            let others = places.get(&(*id, of.address)).into_iter().flatten();
            // The very same one comes back to its flows.
            let is_same = |is: &BackendEntry| {
                is.name == of.backend
                    && is
                        .by
                        .as_ref()
                        .is_some_and(|(agent, last)| (agent, last) == (&of.agent, &of.incarnation))
            };
            for other in others.filter(|is| !is_same(is)) {
                ends.push(other.id);
                held.insert((of.service.clone(), of.address));
            }
        }
        (held, ends)
    }

    /// The time of departing backends is over.
    fn end_departures(&mut self, backends: &[BackendId], now: Tick) {
        for id in backends {
            let until = self.departing.entry(*id).or_insert(now);
            *until = (*until).min(now);
        }
    }

    /// Services come and go, and backends get their ids. What is refused, or has to wait, changes nothing.
    fn follow(
        &mut self,
        target: WantedServices<'_>,
        tables: &mut AgreedTables,
        live: &Members,
        now: Tick,
    ) -> Result<(), NotFollowed> {
        let kept = (self.departing.clone(), self.resting.clone(), self.resting_services.clone());
        self.try_follow(target, tables, (live, now)).inspect_err(|_| {
            (self.departing, self.resting, self.resting_services) = kept;
        })
    }

    fn try_follow(
        &mut self,
        target: WantedServices<'_>,
        tables: &mut AgreedTables,
        (live, now): (&Members, Tick),
    ) -> Result<(), NotFollowed> {
        let WantedServices { wish, text, drains, registered, config } = target;
        let mut document = self.document.clone();
        let (end, rest) = document.drop_services(config);
        let places = document.backends.iter().enumerate();
        let places: HashMap<(ServiceId, String, IpAddr), usize> =
            places.map(|(at, of)| ((of.service, of.name.clone(), of.address), at)).collect();
        let mut begin = Vec::new();
        // All that is missing is asked for at once.
        let mut is_missing = false;
        for service in &config.services {
            let known = document.services.iter().find(|identity| identity.is(service)).map(|known| known.id);
            let id = known.map_or_else(|| self.service_id(&mut document.given, now), Ok)?;
            let mut configured: HashMap<BackendId, &Backend> = HashMap::new();
            for backend in &service.backends {
                let place = places.get(&(id, backend.name.clone(), backend.address));
                if let Some(known) = place.and_then(|&at| document.backends.get_mut(at)) {
                    known.mac = backend.mac;
                    known.by = by(backend);
                    configured.insert(known.id, backend);
                    self.departing.remove(&known.id);
                    continue;
                }
                let backend_id = self.backend_id(&mut document.given, now)?;
                document.backends.push(BackendEntry::new(backend_id, id, backend));
                configured.insert(backend_id, backend);
            }
            for gone in
                document.backends.iter().filter(|of| of.service == id && !configured.contains_key(&of.id))
            {
                self.departing.entry(gone.id).or_insert(drained_by(service, now));
            }
            if known.is_none() {
                let identity = ServiceEntry::new(id, service);
                match first_table(&identity, service, &configured, drains, tables)? {
                    Some(answers) => begin.push((id, answers)),
                    None => is_missing = true,
                }
                document.services.push(identity);
            }
        }
        if is_missing {
            return Err(NotFollowed::Waits);
        }
        document.backends.sort_unstable_by_key(|backend| backend.id);
        document.text = text.to_owned();
        document.drains.clone_from(drains);
        document.registered = registered;
        document.wish = wish;
        let backends = document.backends.iter().map(|backend| backend.id).collect();
        let plan = self.leader.replace_services(&end, begin, backends, live, now);
        document.plan = plan.cloned().ok_or_else(|| "the cluster is not at rest".to_owned())?;
        let leaves = self.leave_least_load(&document, config);
        if !leaves.is_empty() {
            self.leader.taint_services(&leaves, now);
            document.plan = self.leader.plan().clone();
        }
        document.given.rest_services(&end);
        self.resting_services.extend(end.into_iter().map(|id| (id, now)));
        document.given.rest(&rest);
        self.resting.extend(rest.into_iter().map(|id| (id, now)));
        self.document = document;
        self.judged = None;
        Ok(())
    }

    /// Services that go by load now, and by slots in this configuration.
    fn leave_least_load(&self, document: &Document, config: &Config) -> Vec<ServiceId> {
        let Some(InForce { config: before, .. }) = &self.in_force else { return Vec::new() };
        let policy = |config: &Config, identity: &ServiceEntry| {
            config.services.iter().find(|of| identity.is(of)).map(|of| of.policy)
        };
        let leaves = document.services.iter().filter(|identity| {
            policy(before, identity) == Some(Policy::LeastLoad)
                && policy(config, identity) == Some(Policy::Maglev)
        });
        leaves.map(|identity| identity.id).collect()
    }

    fn service_id(&mut self, given: &mut Given, now: Tick) -> Result<ServiceId, String> {
        if usize::from(given.services) < SERVICES_MAX {
            given.services += 1;
            return Ok(ServiceId(given.services));
        }
        let rested = self.rested(&self.resting_services, now);
        let id =
            rested.ok_or("no service id is free: apply again when flows of removed services have ended")?;
        self.resting_services.remove(&id);
        given.resting_services.remove(u32::from(id.0));
        Ok(id)
    }

    fn backend_id(&mut self, given: &mut Given, now: Tick) -> Result<BackendId, String> {
        let may_rest = self.rules.hold(Rule::BackendIds) || self.resting.is_empty();
        if (given.backends as usize) < BACKENDS_MAX && may_rest {
            given.backends += 1;
            return Ok(BackendId(given.backends - 1));
        }
        let rested = match may_rest {
            true => self.rested(&self.resting, now),
            false => self.resting.keys().min().copied(),
        };
        let id =
            rested.ok_or("no backend id is free: apply again when flows of removed backends have ended")?;
        self.resting.remove(&id);
        given.resting.remove(id.0);
        Ok(id)
    }

    /// The id that rests longest, if for one and a half times the longest idle time.
    fn rested<T: Copy + Ord>(&self, resting: &HashMap<T, Tick>, now: Tick) -> Option<T> {
        // The same one when it is asked again: tables that are being made for it are made under its name.
        let (id, since) = resting.iter().min_by_key(|(id, since)| (**since, **id))?;
        (now.since_us(*since) > self.document.settings.max_idle_us() / 2 * 3).then_some(*id)
    }

    /// The tables that should be, if they are not.
    fn target(
        &mut self,
        judgement: &Judgement,
        tables: &mut AgreedTables,
        now: Tick,
    ) -> Result<Option<Answering>, NotFollowed> {
        let plan = &self.document.plan;
        let by_id = self.document.by_id();
        let mut answers = Vec::with_capacity(plan.services.len());
        let (mut differs, mut is_missing) = (false, false);
        for (identity, planned) in self.document.services.iter().zip(&plan.services) {
            let members = judgement.get(&identity.id).into_iter().flatten();
            let members = members.filter(|is| is.state == BackendState::Up).filter_map(|is| {
                let weight = self.weights.get(&is.id).copied().unwrap_or(is.weight);
                Some((by_id.get(&is.id)?.name.clone(), weight, is.id))
            });
            let table = tables.get(AgreedRecipe::new(members, identity.size));
            match table.map_err(|error| format!("service {:?}: {error}", identity.name))? {
                Some(table) => {
                    differs |= !Arc::ptr_eq(&table.answers, &planned.cur);
                    answers.push(Arc::clone(&table.answers));
                }
                None => is_missing = true,
            }
        }
        if is_missing {
            return Err(NotFollowed::Waits);
        }
        let is_over = |backend: &BackendId| self.departing.get(backend).is_some_and(|until| *until <= now);
        let backends: Arc<[BackendId]> = plan.backends.iter().copied().filter(|id| !is_over(id)).collect();
        differs |= backends.len() != plan.backends.len();
        Ok(differs.then_some(Answering { answers, backends }))
    }

    /// Identities of backends that the plan does not know any more go, and their ids rest.
    fn bury(&mut self, now: Tick) {
        let plan = &self.document.plan;
        let known: HashSet<BackendId> = plan.backends.iter().copied().collect();
        let mut gone = HashSet::new();
        self.document.backends.retain(|backend| {
            let stays = known.contains(&backend.id);
            if !stays {
                gone.insert(backend.id);
            }
            stays
        });
        self.document.given.rest(&gone);
        self.departing.retain(|backend, _| known.contains(backend));
        self.resting.extend(gone.into_iter().map(|id| (id, now)));
    }

    /// Backends that were departing when this leader began: their time begins anew.
    fn resume_departures(&mut self, now: Tick) {
        let Some(InForce { config, .. }) = &self.in_force else { return };
        let services = self.document.services.iter();
        let services =
            services.filter_map(|of| Some((of.id, config.services.iter().find(|service| of.is(service))?)));
        for (backend, service) in unconfigured(&self.document.backends, &services.collect()) {
            self.departing.entry(backend.id).or_insert(drained_by(service, now));
        }
    }
}

/// When the time of a service's departing backends is over.
fn drained_by(service: &Service, now: Tick) -> Tick {
    Tick(now.0.saturating_add(service.drain_timeout_ms.saturating_mul(1000)))
}

/// What a new service's table answers at first; `None`: it is still being made. Who is up is seen when all machines
/// know the service.
fn first_table(
    identity: &ServiceEntry,
    service: &Service,
    configured: &HashMap<BackendId, &Backend>,
    drains: &BTreeSet<(String, String)>,
    tables: &mut AgreedTables,
) -> Result<Option<Answers>, String> {
    let open = configured.iter().filter(|(_, of)| {
        service.health.kind == HealthKind::None
            && of.state == AdminState::Up
            && of.weight > 0
            && !drains.contains(&(service.name.clone(), of.name.clone()))
    });
    let members = open.map(|(id, of)| (of.name.clone(), of.weight, *id));
    let table = tables.get(AgreedRecipe::new(members, identity.size));
    let table = table.map_err(|error| format!("service {:?}: {error}", service.name))?;
    Ok(table.map(|table| Arc::clone(&table.answers)))
}

impl Document {
    /// Services that a configuration has no more go, with their backends; their ids are returned.
    fn drop_services(&mut self, config: &Config) -> (Vec<ServiceId>, HashSet<BackendId>) {
        let stays = |identity: &ServiceEntry| config.services.iter().any(|service| identity.is(service));
        let services: Vec<ServiceId> =
            self.services.extract_if(.., |of| !stays(of)).map(|of| of.id).collect();
        let backends = self.backends.extract_if(.., |of| services.contains(&of.service));
        let backends = backends.map(|of| of.id).collect();
        (services, backends)
    }
}

impl Given {
    fn rest(&mut self, backends: &HashSet<BackendId>) {
        for backend in backends {
            self.resting.insert(backend.0);
        }
    }

    fn rest_services(&mut self, services: &[ServiceId]) {
        for service in services {
            self.resting_services.insert(u32::from(service.0));
        }
    }
}

/// Health is not known of so many backends that panic would be for want of news.
fn is_early(
    snapshot: &StoreSnapshot,
    service: &Service,
    is_drained: impl Fn(&Service, &str) -> bool,
) -> bool {
    let (mut eligible, mut down, mut unknown) = (0_u64, 0_u64, 0_u64);
    for backend in &service.backends {
        if backend.state != AdminState::Up || backend.weight == 0 || is_drained(service, &backend.name) {
            continue;
        }
        eligible += 1;
        match snapshot.votes(&service.name, &backend.name) {
            (0, 0) => unknown += 1,
            (up, against) if up < against => down += 1,
            _ => {}
        }
    }
    unknown > 0 && down * 100 <= u64::from(service.panic_percent) * eligible
}

/// The ids of a document, and no others.
pub(crate) fn ids_of(document: &Document) -> Ids {
    Ids::given(
        document.services.iter().map(|of| (of.id, of.name.as_str(), of.vip, of.port, of.protocol)),
        document.backends.iter().map(|of| (of.id, of.service, of.name.as_str(), of.address)),
    )
}
