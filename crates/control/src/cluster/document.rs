//! What is agreed on, as values of the store: the plan, and what a machine needs beside it to make a view.
//!
//! AgreedTables travel as recipes and sets of slots as runs, so that a plan of a large table is small. The slots of each service are a value of their
//! own, named by their digest: a step writes those that it changes, and the one that names them all comes last.

use super::keys::{Key, digest_of, digest_text};
use super::slot_text;
use super::tables::{AgreedRecipe, AgreedTables};
use model::config::{Backend, Hash, Mac, Net, Protocol, Service, Timeouts};
use model::registered::Registered;
use serde::{Deserialize, Serialize};
use statesync::members::MACHINES_MAX;
use statesync::plan::{Answers, Job, Mask, Phase, Plan, ServicePlan, SlotSet, SlotSets, Tables as Answering};
use statesync::{MachineId, Member, Members};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use wire::{BackendId, ServiceId};
use worker::view::{BACKENDS_MAX, SERVICES_MAX};

/// Layout of the value without registrations, which older versions read …
const FORMAT: u32 = 1;
/// … and with them: a machine that does not know them must not take them for none.
const FORMAT_REGISTERED: u32 = 2;
/// Largest value, bytes: all that a checked configuration can ask for, with registrations. What does not fit into a request is put in pieces.
pub(crate) const VALUE_MAX: usize = 64 << 20;
/// Most bytes of registrations: they change several times a second.
pub(crate) const REGISTERED_MAX: usize = 1_400_000;
/// Slots of all services of a cluster. A plan costs 8 bytes a slot, twice while tables change.
pub(crate) use model::config::CLUSTER_SLOTS_MAX as SLOTS_MAX;

/// A document as values of the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Encoded {
    /// What is written last.
    pub(crate) head: Vec<u8>,
    /// Slots by their digest.
    pub(crate) slots: Vec<(u128, Vec<u8>)>,
}

/// Why a document cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum DecodeError {
    /// Slots that it names are not there (yet).
    #[error("{} is missing", Key::Slots(*.0).text())]
    Missing(u128),
    /// Slot tables that it names are still being made.
    #[error("slot tables are still being made")]
    Tables,
    /// Something is wrong.
    #[error("{0}")]
    Bad(String),
}

impl From<String> for DecodeError {
    fn from(problem: String) -> DecodeError {
        DecodeError::Bad(problem)
    }
}

/// Names a value. Not a secret, and nobody gains by two values of one name: whoever can write them can write plans.
pub(super) fn digest(bytes: &[u8]) -> u128 {
    siphasher::sip128::SipHasher13::new().hash(bytes).as_u128()
}

/// What must be the same on all machines, or they would not understand each other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Tells `machine.cluster_key`s apart without telling them.
    pub(crate) key_check: String,
    /// `cluster.port`.
    pub(crate) port: u16,
    /// `timeouts`: established, closing, syn, udp.
    pub(crate) timeouts_s: [u32; 4],
}

impl Settings {
    /// Of this machine.
    pub(crate) fn new(key: &[u8; 16], port: u16, timeouts: &Timeouts) -> Settings {
        Settings {
            key_check: format!("{:016x}", steer::hash::source(key, wire::Addr::V6(u128::MAX))),
            port,
            timeouts_s: [timeouts.tcp_established_s, timeouts.tcp_closing_s, timeouts.syn_s, timeouts.udp_s],
        }
    }

    /// The first key whose value differs.
    pub(crate) fn difference(&self, other: &Settings) -> Option<&'static str> {
        if self.key_check != other.key_check {
            Some("machine.cluster_key")
        } else if self.port != other.port {
            Some("cluster.port")
        } else {
            (self.timeouts_s != other.timeouts_s).then_some("timeouts")
        }
    }

    /// The longest idle time of flows, microseconds.
    pub(crate) fn max_idle_us(&self) -> u64 {
        u64::from(self.timeouts_s.into_iter().max().unwrap_or(0)) * 1_000_000
    }
}

/// What makes a service the same one: with another of these it begins anew, under another id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ServiceEntry {
    pub(crate) id: ServiceId,
    pub(crate) name: String,
    pub(crate) vip: Net,
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
    pub(crate) hash: Hash,
    pub(crate) size: u32,
}

impl ServiceEntry {
    pub(crate) fn new(id: ServiceId, service: &Service) -> ServiceEntry {
        ServiceEntry {
            id,
            name: service.name.clone(),
            vip: service.vip,
            port: service.port,
            protocol: service.protocol,
            hash: service.hash,
            size: service.maglev_size,
        }
    }

    pub(crate) fn is(&self, service: &Service) -> bool {
        // Each is compared with each, so nothing is copied for it.
        self.name == service.name
            && (self.vip, self.port, self.protocol) == (service.vip, service.port, service.protocol)
            && (self.hash, self.size) == (service.hash, service.maglev_size)
    }
}

/// A backend that may have flows, configured or not any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct BackendEntry {
    pub(crate) id: BackendId,
    pub(crate) service: ServiceId,
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    /// As configured last, for those that are not any more.
    pub(crate) mac: Option<Mac>,
    /// The agent that registered it last, and its incarnation; `None`: it is of a configuration.
    pub(crate) by: Option<(String, u64)>,
}

impl BackendEntry {
    pub(crate) fn new(id: BackendId, service: ServiceId, backend: &Backend) -> BackendEntry {
        BackendEntry {
            id,
            service,
            name: backend.name.clone(),
            address: backend.address,
            mac: backend.mac,
            by: by(backend),
        }
    }

    pub(crate) fn is(&self, service: ServiceId, backend: &Backend) -> bool {
        self.service == service && self.name == backend.name && self.address == backend.address
    }
}

/// Those that are not configured: of these identities the ones that no backend has of the service that `services` gives for its id. O(n).
pub(crate) fn unconfigured<'a>(
    backends: &'a [BackendEntry],
    services: &HashMap<ServiceId, &'a Service>,
) -> Vec<(&'a BackendEntry, &'a Service)> {
    let configured: HashSet<(ServiceId, &str, IpAddr)> = services
        .iter()
        .flat_map(|(id, service)| service.backends.iter().map(|of| (*id, of.name.as_str(), of.address)))
        .collect();
    let gone = backends.iter().filter(|of| !configured.contains(&(of.service, of.name.as_str(), of.address)));
    gone.filter_map(|of| Some((of, *services.get(&of.service)?))).collect()
}

/// Who registered a backend: its agent, and its incarnation.
pub(crate) fn by(backend: &Backend) -> Option<(String, u64)> {
    backend.registration.as_ref().map(|by| (by.agent.clone(), by.incarnation))
}

/// Ids that were given: fresh ones first, because a used one may be named by records and entries for a while.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Given {
    pub(crate) services: u16,
    pub(crate) backends: u32,
    /// Ids of backends that are gone; all of them can be given again some time.
    pub(crate) resting: SlotSet,
    /// Ids of services that are gone.
    pub(crate) resting_services: SlotSet,
}

/// See the module.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Document {
    pub(crate) plan: Plan,
    /// Revision of the wish that the plan carries out, or has carried out.
    pub(crate) wish: i64,
    /// Revision of the last wish that is carried out by all.
    pub(crate) settled: i64,
    /// Revision of a later wish that cannot be carried out, and why.
    pub(crate) refused: Option<(i64, String)>,
    /// The services, as in a configuration.
    pub(crate) text: String,
    pub(crate) drains: BTreeSet<(String, String)>,
    /// Backends that have registered themselves with these services, ascending by service and name.
    pub(crate) registered: Vec<Registered>,
    /// In the order of the plan's.
    pub(crate) services: Vec<ServiceEntry>,
    /// Exactly those that the plan knows.
    pub(crate) backends: Vec<BackendEntry>,
    pub(crate) given: Given,
    pub(crate) settings: Settings,
    /// Who wrote the first plan, which names the cluster: plans of two clusters are not compared. `None`: of a version that does not say it.
    pub(crate) founder: Option<Member>,
    /// The last incarnations of numbers that are no members any more.
    pub(crate) former: Members,
}

impl Document {
    /// Of a cluster that begins: these members, no service.
    pub(crate) fn first(members: Members, settings: Settings, founder: Member) -> Document {
        Document {
            plan: statesync::plan::Leader::first(members, Vec::new(), Arc::from([])),
            wish: 0,
            settled: 0,
            refused: None,
            text: String::new(),
            drains: BTreeSet::new(),
            registered: Vec::new(),
            services: Vec::new(),
            backends: Vec::new(),
            given: Given::default(),
            settings,
            founder: Some(founder),
            former: Members::default(),
        }
    }

    /// Revisions of a store that is no more mean nothing in the one that is there: the wish there is looked at anew.
    #[must_use]
    pub(crate) fn for_another_store(self) -> Document {
        Document { wish: 0, settled: 0, refused: None, ..self }
    }

    /// Whether it may be of another cluster than the founder's: then steps say nothing about which is newer.
    pub(crate) fn is_of_another(&self, founder: Option<Member>) -> bool {
        self.founder.zip(founder).is_some_and(|(own, other)| own != other)
    }

    /// What registrations take of the value, bytes: themselves, and the identities of their backends.
    pub(crate) fn registered_bytes(&self) -> usize {
        let registered = self.registered.iter().map(|of| super::keys::bytes(of).len() + 1);
        let identities = self.backends.iter().filter(|of| of.by.is_some());
        let identities = identities.map(|of| super::keys::bytes(&WrittenBackend::from(of)).len() + 1);
        registered.chain(identities).sum()
    }

    /// Identities of backends by id.
    pub(crate) fn by_id(&self) -> HashMap<BackendId, &BackendEntry> {
        self.backends.iter().map(|backend| (backend.id, backend)).collect()
    }

    /// As values of at most `limit` bytes each.
    ///
    /// # Errors
    /// It is too large, or names a table that is not in `tables`.
    pub(crate) fn encode(&self, tables: &AgreedTables, limit: usize) -> Result<Encoded, String> {
        let plan = &self.plan;
        check_slots(self.services.iter().map(|service| service.size))?;
        let mut services = Vec::with_capacity(plan.services.len());
        let mut all_slots = Vec::with_capacity(plan.services.len());
        for (at, identity) in self.services.iter().enumerate().take(plan.services.len()) {
            let what = format!("the slots of service {:?}", identity.name);
            let slots = fit(&self.written_slots(at, identity.id, tables)?, &what, limit)?;
            let digest = digest(&slots);
            all_slots.push((digest, slots));
            services.push(WrittenService::new(identity, digest));
        }
        let written = WrittenPlan {
            text: self.text.clone(),
            format: if self.registered.is_empty() { FORMAT } else { FORMAT_REGISTERED },
            step: plan.step,
            epoch: plan.epoch,
            generation: plan.generation,
            phase: phase_name(plan.phase).to_owned(),
            members: pairs(&plan.members),
            next_members: plan.next_members.as_ref().map(pairs),
            lost: pairs(&plan.lost),
            masks: plan.masks.iter().map(|mask| (mask.backend.0, mask.in_force)).collect(),
            next_backends: plan
                .next_tables
                .as_ref()
                .map(|next| next.backends.iter().map(|id| id.0).collect()),
            job: plan.job.id,
            migrate: plan.job.migrate,
            complete_for_us: plan.job.complete_for_us,
            services,
            backends: self.backends.iter().map(WrittenBackend::from).collect(),
            wish: self.wish,
            settled: self.settled,
            refused: self.refused.clone(),
            drains: self.drains.clone(),
            registered: self.registered.clone(),
            services_given: self.given.services,
            backends_given: self.given.backends,
            resting: slot_text::write(self.given.resting.iter()),
            resting_services: slot_text::write(self.given.resting_services.iter()),
            settings: self.settings.clone(),
            founder: self.founder.map(|of| (of.machine.0, of.incarnation)),
            former: pairs(&self.former),
        };
        Ok(Encoded { head: fit(&written, "the plan", limit)?, slots: all_slots })
    }

    /// The slots of the service at a place.
    fn written_slots(&self, at: usize, id: ServiceId, tables: &AgreedTables) -> Result<WrittenSlots, String> {
        let plan = &self.plan;
        let shares = |answers: &Answers| {
            let table = tables.of(answers).ok_or_else(|| "a table of an unknown recipe".to_owned())?;
            Ok::<_, String>(table.recipe.shares().map(|(backend, weight)| (backend.0, weight)).collect())
        };
        let service = plan.services.get(at).ok_or_else(|| "a service without a plan".to_owned())?;
        let mut bases: BTreeMap<Option<BackendId>, Vec<u32>> = BTreeMap::new();
        for slot in service.tainted.iter() {
            bases.entry(service.base.get(slot as usize).copied().flatten()).or_default().push(slot);
        }
        let tainted = bases.into_iter().map(|(base, slots)| (base.map(|b| b.0), slot_text::write(slots)));
        let next = plan.next_tables.as_ref().and_then(|next| next.answers.get(at));
        Ok(WrittenSlots {
            service: id.0,
            table: shares(&service.cur)?,
            next: next.map(shares).transpose()?,
            tainted: tainted.collect(),
            export: slots_of(&plan.job.export, at),
            check: slots_of(&plan.job.check, at),
        })
    }

    /// From values. AgreedTables are made by and kept in `tables`.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub(crate) fn decode<'a>(
        head: &[u8],
        slots: impl Fn(u128) -> Option<&'a [u8]>,
        tables: &mut AgreedTables,
    ) -> Result<Document, DecodeError> {
        let written: WrittenPlan = super::keys::value(Key::Plan, head)?;
        written.read(slots, tables).map_err(|error| match error {
            DecodeError::Bad(problem) => DecodeError::Bad(format!("{}: {problem}", Key::Plan.text())),
            later @ (DecodeError::Missing(_) | DecodeError::Tables) => later,
        })
    }
}

/// As bytes, unless these are too many.
fn fit(value: &impl Serialize, what: &str, limit: usize) -> Result<Vec<u8>, String> {
    let bytes = super::keys::bytes(value);
    if bytes.len() > limit {
        let size = bytes.len();
        return Err(format!(
            "{what} would be {size} bytes in the store, which takes {limit}: wait until slots are \
             untainted, or use a smaller maglev_size"
        ));
    }
    Ok(bytes)
}

/// The digests that a plan names; empty if it cannot be read.
pub(crate) fn digests_of(head: &[u8]) -> BTreeSet<u128> {
    let written: Option<WrittenPlan> = super::keys::value(Key::Plan, head).ok();
    let services = written.into_iter().flat_map(|written| written.services);
    services.filter_map(|service| digest_of(&service.slots)).collect()
}

/// What a plan says of numbers: those of members, and the last incarnations of those that were members once.
///
/// # Errors
/// It cannot be read.
#[cfg(feature = "etcd")]
pub(crate) fn numbers_of(head: &[u8]) -> Result<(Vec<Member>, Vec<Member>), String> {
    let written: WrittenPlan = super::keys::value(Key::Plan, head)?;
    let listed = written.members.iter().chain(written.next_members.iter().flatten()).chain(&written.lost);
    let all = |of: &(u8, u32)| Member { machine: MachineId(of.0), incarnation: of.1 };
    Ok((listed.map(all).collect(), written.former.iter().map(all).collect()))
}

/// Phases by name.
const PHASES: [(&str, Phase); 6] = [
    ("idle", Phase::Idle),
    ("prepare", Phase::Prepare),
    ("commit", Phase::Commit),
    ("retire", Phase::Retire),
    ("epoch prepare", Phase::EpochPrepare),
    ("epoch commit", Phase::EpochCommit),
];

/// Name of a phase.
pub(crate) fn phase_name(phase: Phase) -> &'static str {
    PHASES.iter().find(|(_, other)| *other == phase).map_or("idle", |(name, _)| name)
}

fn pairs(members: &Members) -> Vec<(u8, u32)> {
    members.iter().map(|member| (member.machine.0, member.incarnation)).collect()
}

fn members(pairs: &[(u8, u32)]) -> Members {
    Members::new(
        pairs.iter().map(|&(machine, incarnation)| Member { machine: MachineId(machine), incarnation }),
    )
}

fn slots_of(sets: &SlotSets, at: usize) -> String {
    sets.service(at).map_or_else(String::new, |set| slot_text::write(set.iter()))
}

/// The value as it is written.
#[derive(Serialize, Deserialize)]
struct WrittenPlan {
    /// First, so that most pieces of a large value stay the same while plans change.
    text: String,
    format: u32,
    step: u64,
    epoch: u32,
    generation: u64,
    phase: String,
    members: Vec<(u8, u32)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_members: Option<Vec<(u8, u32)>>,
    lost: Vec<(u8, u32)>,
    masks: Vec<(u32, bool)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_backends: Option<Vec<u32>>,
    job: u64,
    migrate: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    complete_for_us: Option<u64>,
    services: Vec<WrittenService>,
    backends: Vec<WrittenBackend>,
    wish: i64,
    settled: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<(i64, String)>,
    drains: BTreeSet<(String, String)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    registered: Vec<Registered>,
    services_given: u16,
    backends_given: u32,
    resting: String,
    resting_services: String,
    settings: Settings,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    founder: Option<(u8, u32)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    former: Vec<(u8, u32)>,
}

#[derive(Serialize, Deserialize)]
struct WrittenService {
    id: u16,
    name: String,
    vip: String,
    port: u16,
    protocol: String,
    hash: String,
    size: u32,
    /// Digest of its slots.
    slots: String,
}

impl WrittenService {
    fn new(identity: &ServiceEntry, slots: u128) -> WrittenService {
        WrittenService {
            id: identity.id.0,
            name: identity.name.clone(),
            vip: identity.vip.to_string(),
            port: identity.port,
            protocol: identity.protocol.as_str().to_owned(),
            hash: if identity.hash == Hash::Source { "source" } else { "tuple" }.to_owned(),
            size: identity.size,
            slots: digest_text(slots),
        }
    }

    /// What the table of these shares answers; `None`: it is still being made.
    fn answers(
        &self,
        shares: &[(u32, u32)],
        names: &HashMap<u32, &str>,
        tables: &mut AgreedTables,
    ) -> Result<Option<Answers>, String> {
        let mut members = Vec::with_capacity(shares.len());
        for &(id, weight) in shares {
            let name = names.get(&id);
            let name = name.ok_or_else(|| format!("a table names backend {id}, which is unknown"))?;
            members.push(((*name).to_owned(), weight, BackendId(id)));
        }
        let table = tables.get(AgreedRecipe::new(members, self.size));
        let table = table.map_err(|error| format!("service {:?}: {error}", self.name))?;
        Ok(table.map(|table| Arc::clone(&table.answers)))
    }

    fn identity(&self) -> Result<ServiceEntry, String> {
        Ok(ServiceEntry {
            id: ServiceId(self.id),
            name: self.name.clone(),
            vip: self.vip.parse().map_err(|error| format!("vip {:?}: {error}", self.vip))?,
            port: self.port,
            protocol: match self.protocol.as_str() {
                "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                other => return Err(format!("unknown protocol {other:?}")),
            },
            hash: match self.hash.as_str() {
                "tuple" => Hash::Tuple,
                "source" => Hash::Source,
                other => return Err(format!("unknown hash {other:?}")),
            },
            size: self.size,
        })
    }
}

/// A service's slots as they are written.
#[derive(Serialize, Deserialize)]
struct WrittenSlots {
    service: u16,
    /// Backend and weight of the table in force.
    table: Vec<(u32, u32)>,
    /// Backend and weight of the table to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<Vec<(u32, u32)>>,
    /// Tainted slots by base.
    tainted: Vec<(Option<u32>, String)>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    export: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    check: String,
}

#[derive(Serialize, Deserialize)]
struct WrittenBackend {
    id: u32,
    service: u16,
    name: String,
    address: IpAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<(String, u64)>,
}

impl From<&BackendEntry> for WrittenBackend {
    fn from(backend: &BackendEntry) -> WrittenBackend {
        WrittenBackend {
            id: backend.id.0,
            service: backend.service.0,
            name: backend.name.clone(),
            address: backend.address,
            mac: backend.mac.map(|mac| mac.to_string()),
            by: backend.by.clone(),
        }
    }
}

impl WrittenBackend {
    fn identity(self) -> Result<BackendEntry, String> {
        let mac = self.mac.map(|mac| mac.parse::<Mac>().map_err(|_| format!("{mac:?} is no MAC address")));
        Ok(BackendEntry {
            id: BackendId(self.id),
            service: ServiceId(self.service),
            name: self.name,
            address: self.address,
            mac: mac.transpose()?,
            by: self.by,
        })
    }
}

fn check_backend(id: u32) -> Result<(), String> {
    if (id as usize) < BACKENDS_MAX { Ok(()) } else { Err(format!("backend id {id}")) }
}

fn check_slots(sizes: impl Iterator<Item = u32>) -> Result<(), String> {
    let slots: u64 = sizes.map(u64::from).sum();
    if slots <= SLOTS_MAX {
        return Ok(());
    }
    let help = "use a smaller maglev_size";
    Err(format!("{slots} slots of all services, where a cluster has room for {SLOTS_MAX}: {help}"))
}

impl WrittenPlan {
    /// Whatever workers and tables index by is within its bounds, and named once.
    fn check_numbers(&self) -> Result<(), String> {
        let mut known = HashSet::new();
        for backend in &self.backends {
            check_backend(backend.id)?;
            if !known.insert(backend.id) {
                return Err(format!("two backends of id {}", backend.id));
            }
        }
        let mut masked = HashSet::new();
        for &(id, _) in &self.masks {
            check_backend(id)?;
            if !masked.insert(id) {
                return Err(format!("backend {id} is masked twice"));
            }
        }
        for &id in self.next_backends.iter().flatten() {
            check_backend(id)?;
        }
        let mut services = HashSet::new();
        for service in &self.services {
            if service.id == 0 || usize::from(service.id) > SERVICES_MAX {
                return Err(format!("service id {}", service.id));
            }
            if !services.insert(service.id) {
                return Err(format!("two services of id {}", service.id));
            }
        }
        check_slots(self.services.iter().map(|service| service.size))?;
        if self.step.max(self.generation).max(self.job) > u64::MAX / 2 || self.epoch > u32::MAX / 2 {
            return Err(format!("step {}, epoch {} have no successor", self.step, self.epoch));
        }
        let listed = self.members.iter().chain(self.next_members.iter().flatten()).chain(&self.lost);
        for (machine, _) in listed.chain(&self.former).chain(&self.founder) {
            if usize::from(*machine) >= MACHINES_MAX {
                return Err(format!("machine number {machine}"));
            }
        }
        Ok(())
    }

    /// The document; its tables are made by and kept in `tables`.
    fn read<'a>(
        self,
        stored: impl Fn(u128) -> Option<&'a [u8]>,
        tables: &mut AgreedTables,
    ) -> Result<Document, DecodeError> {
        if !(FORMAT..=FORMAT_REGISTERED).contains(&self.format) {
            let known = format!("{FORMAT} and {FORMAT_REGISTERED}");
            return Err(format!("format {} where this guidewayd knows {known}", self.format).into());
        }
        let phase = PHASES.iter().find(|(name, _)| *name == self.phase);
        let &(_, phase) = phase.ok_or_else(|| format!("unknown phase {:?}", self.phase))?;
        self.check_numbers()?;
        let backends = self.backends.into_iter().map(WrittenBackend::identity);
        let backends = backends.collect::<Result<Vec<BackendEntry>, String>>()?;
        let ServicesRead { services, planned, next, export, check } =
            ServicesRead::of(&self.services, &backends, stored, tables)?;
        let next_tables = match self.next_backends {
            Some(_) if next.len() != planned.len() => {
                return Err("next tables of some services only".to_owned().into());
            }
            Some(of) => Some(Answering { answers: next, backends: of.into_iter().map(BackendId).collect() }),
            None => None,
        };
        // Each is named once.
        let valid: BTreeSet<BackendId> = backends.iter().map(|backend| backend.id).collect();
        let plan = Plan {
            step: self.step,
            epoch: self.epoch,
            generation: self.generation,
            phase,
            members: members(&self.members),
            next_members: self.next_members.as_deref().map(members),
            lost: members(&self.lost),
            services: planned,
            next_tables,
            backends: valid.into_iter().collect(),
            masks: self
                .masks
                .into_iter()
                .map(|(id, in_force)| Mask { backend: BackendId(id), in_force })
                .collect(),
            job: Job {
                id: self.job,
                export,
                check,
                migrate: self.migrate,
                complete_for_us: self.complete_for_us,
            },
        };
        Ok(Document {
            plan,
            wish: self.wish,
            settled: self.settled,
            refused: self.refused,
            text: self.text,
            drains: self.drains,
            registered: self.registered,
            services,
            backends,
            given: Given {
                services: self.services_given,
                backends: self.backends_given,
                resting: slot_text::read(&self.resting, u32::try_from(BACKENDS_MAX).unwrap_or(u32::MAX))?,
                resting_services: slot_text::read(&self.resting_services, 1 << 16)?,
            },
            settings: self.settings,
            founder: self.founder.map(|(of, incarnation)| Member { machine: MachineId(of), incarnation }),
            former: members(&self.former),
        })
    }
}

/// Services as they are read, in the order of the plan.
#[derive(Default)]
struct ServicesRead {
    services: Vec<ServiceEntry>,
    planned: Vec<ServicePlan>,
    /// AgreedTables to come.
    next: Vec<Answers>,
    export: SlotSets,
    check: SlotSets,
}

impl ServicesRead {
    fn of<'a>(
        written: &[WrittenService],
        backends: &[BackendEntry],
        stored: impl Fn(u128) -> Option<&'a [u8]>,
        tables: &mut AgreedTables,
    ) -> Result<ServicesRead, DecodeError> {
        let names: HashMap<u32, &str> = backends.iter().map(|of| (of.id.0, of.name.as_str())).collect();
        let mut read = ServicesRead::default();
        // All that is missing is asked for at once.
        let mut is_missing = false;
        for (at, service) in written.iter().enumerate() {
            let digest =
                digest_of(&service.slots).ok_or_else(|| format!("{:?} is no digest", service.slots))?;
            let slots = stored(digest).ok_or(DecodeError::Missing(digest))?;
            let slots: WrittenSlots = super::keys::value(Key::Slots(digest), slots)?;
            let mut answers = |shares: &[(u32, u32)]| service.answers(shares, &names, tables);
            let cur = answers(&slots.table)?;
            let next = slots.next.as_deref().map(&mut answers).transpose()?;
            is_missing |= cur.is_none() || matches!(next, Some(None));
            if let (Some(cur), false) = (cur, is_missing) {
                read.next.extend(next.flatten());
                read.take(at, service, &slots, cur)?;
            }
        }
        if is_missing { Err(DecodeError::Tables) } else { Ok(read) }
    }

    /// The service at a place, with the answers of its table in force.
    fn take(
        &mut self,
        at: usize,
        service: &WrittenService,
        slots: &WrittenSlots,
        cur: Answers,
    ) -> Result<(), String> {
        let mut base = Arc::clone(&cur);
        let mut tainted = SlotSet::default();
        for (of, slots) in &slots.tainted {
            // It may be gone from the plan: its flows are.
            check_backend(of.unwrap_or(0))?;
            let slots = slot_text::read(slots, service.size)?;
            let base = Arc::make_mut(&mut base);
            for slot in slots.iter() {
                if let Some(base) = base.get_mut(slot as usize) {
                    *base = of.map(BackendId);
                }
            }
            tainted.union(&slots);
        }
        for (sets, text) in [(&mut self.export, &slots.export), (&mut self.check, &slots.check)] {
            if !text.is_empty() {
                *sets.service_mut(at) = slot_text::read(text, service.size)?;
            }
        }
        self.planned.push(ServicePlan { service: ServiceId(service.id), cur, base, tainted });
        self.services.push(service.identity()?);
        Ok(())
    }
}
