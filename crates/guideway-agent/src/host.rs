//! What the agent decides: what is registered where, what is checked, who is told what, and when.
//!
//! Rule of this module: no I/O, and no clock: it is told the time (milliseconds since any moment), what was heard and what checks
//! said, and gives back [`Action`]s. Messages of machines are not trusted further than docs/agents.md says; a machine that
//! breaks the rules loses its connection, and only that.

use crate::backend::{Backend, Origin, RegisteredBackend};
use crate::config::AgentConfig;
use crate::name;
use crate::random::Random;
use crate::request::{Outcome, Unfit};
use detectors::{DETECTORS_MAX, Detectors, Subject, Turn};
use model::agent::seal::Share;
use model::agent::{
    AddressDigest, BACKENDS_MAX, BackendReport, CheckSpec, Claim, Load, MachineContact, Phase, Proof,
    RefusalCode, Target, ToAgent, ToMachine, VERSION,
};
use model::api::CheckResult;
use model::config::Protocol;
use peers::Peers;
use session::{Asked, Session, Stage};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

mod detectors;
mod peers;
mod session;
mod status;
#[cfg(test)]
mod tests;

pub(crate) use detectors::{Act, DetectorId, Job};

/// Time from an attempt to connect to the welcome, milliseconds.
const WELCOME_MS: u64 = 5000;
/// How long checks go on for a machine whose connection is lost, milliseconds: when it is back, the verdict is at hand.
const KEEP_MS: u64 = 10_000;
/// Time after which a machine that asks is told once more what it may know already, milliseconds. Many requests in a row are answered
/// once.
const AGAIN_MS: u64 = 100;
/// Time to the next attempt to register what another agent holds, what is one too many, or what is gone, milliseconds.
const RETRY_SOON_MS: u64 = 10_000;
/// Time to the next attempt to register what was refused for another reason, milliseconds.
const RETRY_LATE_MS: u64 = 60_000;
/// How long a machine that was away can still learn of a deregistration, milliseconds.
const OVER_MS: u64 = 3_600_000;
/// Deregistrations that are remembered, at most.
const OVER_MAX: usize = 1024;
/// How long a session goes on in which no service is accepted, milliseconds: then another hello is tried.
const REFUSED_MS: u64 = 30_000;
/// What a lease may be, milliseconds.
const LEASE_MS: std::ops::RangeInclusive<u32> = 100..=600_000;
/// What intervals and timeouts of checks may be, milliseconds: as in a machine's configuration.
const CHECK_MS: std::ops::RangeInclusive<u32> = 10..=600_000;
/// What `rise` and `fall` may be.
const IN_A_ROW: std::ops::RangeInclusive<u32> = 1..=100;

/// A connection; each has another number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Link(pub(crate) u64);

/// What each service's token adds to the keys of a session.
pub(crate) type Shares = BTreeMap<String, Share>;

/// What is to be done, in this order.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    /// Connect to `peer` (`host:port`).
    Dial { link: Link, peer: String },
    /// Say a hello. What the machine calls proved in it gives the keys of the session, of these shares.
    Greet { link: Link, hello: Box<ToMachine>, shares: Shares },
    /// Say something.
    Send { link: Link, message: Box<ToMachine> },
    /// Close it when what was said has left.
    Finish(Link),
    /// Close it at once.
    Cut(Link),
    /// Begin a check: the first probe at once.
    Start(DetectorId, Job),
    /// End it.
    Stop(DetectorId),
    /// Write the state file.
    Save,
}

/// What the load of a backend is found out from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Sample {
    pub(crate) service: String,
    pub(crate) backend: String,
    /// Where clients' connections end: service address, backend's address, port (0: any, at the service's address). Absent: not
    /// to be seen from here.
    pub(crate) sockets: Option<(IpAddr, IpAddr, u16)>,
    pub(crate) load_file: Option<PathBuf>,
    /// The host's busy CPU time is load of it.
    pub(crate) cpu: bool,
}

#[derive(Debug)]
struct Held {
    registration: RegisteredBackend,
    origin: Origin,
}

/// A deregistration.
#[derive(Debug)]
struct Over {
    address: IpAddr,
    until_ms: u64,
    /// Names of machines that know.
    told: BTreeSet<String>,
}

/// The agent.
#[derive(Debug)]
pub(crate) struct Host {
    config: AgentConfig,
    incarnation: u64,
    /// What the hello says: configured, or of the interfaces.
    addresses: Vec<IpAddr>,
    /// What the interfaces have now: of these, sockets can be counted.
    interfaces: BTreeSet<IpAddr>,
    held: BTreeMap<(String, String), Held>,
    over: BTreeMap<(String, String), Over>,
    sessions: BTreeMap<Link, Session>,
    peers: Peers,
    detectors: Detectors,
    loads: BTreeMap<(String, String), Load>,
    random: Random,
    links: u64,
    requests: u64,
    /// Verdicts to be told: those of one turn travel together.
    fresh: BTreeMap<Link, Vec<BackendReport>>,
    actions: Vec<Action>,
}

impl Host {
    /// Of a checked file. `incarnation` is larger than that of the last start; `interfaces` are the addresses of the host.
    pub(crate) fn new(
        config: AgentConfig,
        incarnation: u64,
        interfaces: Vec<IpAddr>,
        random: Random,
    ) -> Host {
        let addresses = hello_addresses(&config, &interfaces);
        let mut peers = Peers::default();
        peers.set_seeds(&config.machines);
        Host {
            config,
            incarnation,
            addresses,
            interfaces: interfaces.into_iter().collect(),
            held: BTreeMap::new(),
            over: BTreeMap::new(),
            sessions: BTreeMap::new(),
            peers,
            detectors: Detectors::default(),
            loads: BTreeMap::new(),
            random,
            links: 0,
            requests: 0,
            fresh: BTreeMap::new(),
            actions: Vec::new(),
        }
    }

    /// What is to be done since the last call.
    pub(crate) fn actions(&mut self) -> Vec<Action> {
        self.tell_fresh();
        for turn in std::mem::take(&mut self.detectors.turns) {
            self.actions.push(match turn {
                Turn::Start(id, job) => Action::Start(id, job),
                Turn::Stop(id) => Action::Stop(id),
            });
        }
        std::mem::take(&mut self.actions)
    }

    /// Its present incarnation.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// All that is registered.
    pub(crate) fn registrations(&self) -> impl Iterator<Item = (&RegisteredBackend, Origin)> {
        self.held.values().map(|held| (&held.registration, held.origin))
    }

    // ---- registrations

    /// Registers a backend, or gives it other figures. `incarnation`: of its server; absent: that of the same backend as it is held,
    /// else `unix_ms`.
    ///
    /// # Errors
    /// It cannot be.
    pub(crate) fn register(
        &mut self,
        backend: Backend,
        incarnation: Option<u64>,
        origin: Origin,
        unix_ms: u64,
        now_ms: u64,
    ) -> Result<Outcome, Unfit> {
        self.tell_fresh();
        self.may_register(&backend, origin)?;
        let id = (backend.service.clone(), backend.name.clone());
        let held = self.held.get(&id);
        let same = held.filter(|held| held.registration.backend.address == backend.address);
        let incarnation =
            incarnation.or_else(|| same.map(|held| held.registration.incarnation)).unwrap_or_else(|| {
                unix_ms.max(held.map_or(0, |held| held.registration.incarnation.saturating_add(1)))
            });
        let registration = RegisteredBackend { backend, incarnation };
        let outcome = match held {
            None => Outcome::Registered,
            Some(held) if held.registration == registration && held.origin == origin => {
                self.register_where_refused(&id);
                return Ok(Outcome::Unchanged);
            }
            Some(held) if held.registration.incarnation > incarnation => {
                return Err(Unfit::new(
                    format!("incarnation {incarnation} is older than {}", held.registration.incarnation),
                    "give a larger one, or none",
                ));
            }
            Some(held) if held.registration.incarnation < incarnation => Outcome::Replaced,
            Some(_) if same.is_none() => {
                return Err(Unfit::new(
                    "another address with the same incarnation".to_owned(),
                    "a server at another address is another one: give a larger incarnation, or none",
                ));
            }
            Some(_) => Outcome::Updated,
        };
        if outcome != Outcome::Updated {
            // Also of one that was deregistered a moment ago and is checked still.
            self.detectors.renew(&id.0, &id.1);
        }
        self.over.remove(&id);
        self.held.insert(id.clone(), Held { registration, origin });
        self.actions.push(Action::Save);
        let address = self.held.get(&id).map(|held| held.registration.backend.address);
        if address.is_some_and(|address| self.is_local(address) && !self.addresses.contains(&address)) {
            self.greet_anew(unix_ms, now_ms);
        } else {
            self.say_everywhere(&id);
        }
        Ok(outcome)
    }

    /// Whether this agent may speak for `backend`, and has room for it.
    fn may_register(&self, backend: &Backend, origin: Origin) -> Result<(), Unfit> {
        if let Some((problem, help)) = backend.problem() {
            return Err(Unfit::new(problem, help));
        }
        if !self.config.services.contains_key(&backend.service) {
            return Err(Unfit::new(
                format!("this agent has no service {:?}", backend.service),
                "add a [[service]] of that name with its token_file to the agent's file, and reload it \
                 (SIGHUP)",
            ));
        }
        let claimed = self.held.values().map(|held| &held.registration.backend).find(|other| {
            other.service == backend.service && other.address == backend.address && other.name != backend.name
        });
        if let Some(other) = claimed {
            return Err(Unfit::new(
                format!("{} is backend {} of service {} already", other.address, other.name, other.service),
                "deregister that one first",
            ));
        }
        if origin == Origin::Socket && !self.is_local(backend.address) {
            return Err(Unfit::new(
                format!("{} is not an address of this host", backend.address),
                "add it to agent.addresses (a network of containers can be given there), and reload the file \
                 (SIGHUP)",
            ));
        }
        let held = self.held.get(&(backend.service.clone(), backend.name.clone()));
        if origin == Origin::Socket && held.is_some_and(|held| held.origin == Origin::File) {
            return Err(Unfit::new(
                format!("backend {} of service {} is in the agent's file", backend.name, backend.service),
                "edit the file and reload it (SIGHUP)",
            ));
        }
        if held.is_none() && self.held.len() >= BACKENDS_MAX {
            return Err(Unfit::new(
                format!("{} backends are registered", self.held.len()),
                format!("an agent speaks for at most {BACKENDS_MAX}: deregister some"),
            ));
        }
        Ok(())
    }

    /// Takes out what came over the socket.
    ///
    /// # Errors
    /// It is not there, or is in the file.
    pub(crate) fn deregister(&mut self, service: &str, name: &str, now_ms: u64) -> Result<Outcome, Unfit> {
        self.tell_fresh();
        let id = (service.to_owned(), name.to_owned());
        match self.held.get(&id) {
            None => Err(Unfit::new(
                format!("no backend {name:?} of service {service:?} is registered here"),
                "guideway-agent status shows what is",
            )),
            Some(held) if held.origin == Origin::File => Err(Unfit::new(
                format!("backend {name} of service {service} is in the agent's file"),
                "take it out of the file and reload it (SIGHUP)",
            )),
            Some(_) => {
                self.take_out(&id, now_ms);
                Ok(Outcome::Deregistered)
            }
        }
    }

    fn take_out(&mut self, id: &(String, String), now_ms: u64) {
        let Some(held) = self.held.remove(id) else { return };
        self.actions.push(Action::Save);
        let address = held.registration.backend.address;
        let mut told = BTreeSet::new();
        for (link, session) in &mut self.sessions {
            session.said.remove(id);
            if session.takes(&id.0) {
                told.insert(session.machine.clone());
                let message = deregistration(id, address);
                self.actions.push(Action::Send { link: *link, message: Box::new(message) });
            }
        }
        if self.over.len() < OVER_MAX {
            self.over.insert(id.clone(), Over { address, until_ms: now_ms + OVER_MS, told });
        }
    }

    fn say_everywhere(&mut self, id: &(String, String)) {
        let links: Vec<_> = self.sessions.keys().copied().collect();
        for link in links {
            self.say(link, id);
        }
    }

    fn register_where_refused(&mut self, id: &(String, String)) {
        let refused: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.said.get(id).is_some_and(|said| said.refused.is_some()))
            .map(|(link, _)| *link)
            .collect();
        for link in refused {
            self.say(link, id);
        }
    }

    /// Registers a backend with one machine.
    fn say(&mut self, link: Link, id: &(String, String)) {
        let (Some(session), Some(held)) = (self.sessions.get_mut(&link), self.held.get(id)) else { return };
        let RegisteredBackend { backend, incarnation } = &held.registration;
        if !session.takes(&backend.service) || !self.addresses.contains(&backend.address) {
            return;
        }
        if let Some(said) = session.said.get_mut(id) {
            said.retry_ms = None;
        }
        let message = ToMachine::Register {
            service: backend.service.clone(),
            backend: backend.name.clone(),
            address: backend.address,
            incarnation: *incarnation,
            weight: backend.weight,
            port: backend.port,
            capacity: backend.capacity,
        };
        self.actions.push(Action::Send { link, message: Box::new(message) });
    }

    // ---- the host's addresses

    /// Whether it speaks, or could speak, for this address.
    pub(crate) fn is_local(&self, address: IpAddr) -> bool {
        match &self.config.addresses {
            Some(addresses) => addresses.binary_search(&address).is_ok(),
            None => self.interfaces.contains(&address),
        }
    }

    /// What the interfaces have now. A new address is told to machines (by a new hello) when a backend has it; one that has gone is not
    /// checked any more.
    pub(crate) fn set_interfaces(&mut self, interfaces: Vec<IpAddr>, unix_ms: u64, now_ms: u64) {
        self.tell_fresh();
        let interfaces: BTreeSet<IpAddr> = interfaces.into_iter().collect();
        if interfaces == self.interfaces {
            return;
        }
        self.interfaces = interfaces;
        if self.config.addresses.is_some() {
            return;
        }
        let news = self.held.values().map(|held| held.registration.backend.address);
        if news.clone().any(|address| self.is_local(address) && !self.addresses.contains(&address)) {
            self.greet_anew(unix_ms, now_ms);
            return;
        }
        let links: Vec<_> = self.sessions.keys().copied().collect();
        for link in links {
            self.drop_foreign(link, now_ms);
        }
    }

    /// Ends checks of what is not on this host any more, and says so.
    fn drop_foreign(&mut self, link: Link, now_ms: u64) {
        let Some(session) = self.sessions.get(&link) else { return };
        let foreign: Vec<(String, u64, BTreeSet<Target>)> = session
            .asked
            .iter()
            .map(|(service, asked)| {
                let gone = asked.targets.iter().filter(|target| !self.is_local(target.address)).cloned();
                (service.clone(), asked.revision, gone.collect::<BTreeSet<_>>())
            })
            .filter(|(_, _, gone)| !gone.is_empty())
            .collect();
        for (service, revision, gone) in foreign {
            let addresses: BTreeSet<IpAddr> = gone.iter().map(|target| target.address).collect();
            if let Some(asked) =
                self.sessions.get_mut(&link).and_then(|session| session.asked.get_mut(&service))
            {
                asked.targets.retain(|target| !gone.contains(target));
            }
            self.send(
                link,
                ToMachine::NotLocal {
                    service: service.clone(),
                    revision,
                    addresses: addresses.into_iter().collect(),
                },
            );
            for target in gone {
                self.settle(&Subject { service: service.clone(), target }, now_ms);
            }
            self.tell_all(link);
        }
    }

    /// Closes all sessions and begins new ones, with the addresses and tokens as they are now.
    fn greet_anew(&mut self, unix_ms: u64, now_ms: u64) {
        self.incarnation = unix_ms.max(self.incarnation.saturating_add(1));
        let interfaces: Vec<_> = self.interfaces.iter().copied().collect();
        self.addresses = hello_addresses(&self.config, &interfaces);
        let links: Vec<_> = self.sessions.keys().copied().collect();
        for link in links {
            self.finish(link, "a new hello is to be said", now_ms);
        }
        self.peers.reset(now_ms);
        self.actions.push(Action::Save);
    }

    // ---- the file

    /// Takes over a file that was read again. Backends of it that were there keep their incarnation, new ones get `unix_ms`, unless `life`
    /// knows better.
    pub(crate) fn reload(&mut self, config: AgentConfig, unix_ms: u64, now_ms: u64) {
        self.tell_fresh();
        let greet = config.services != self.config.services
            || config.addresses != self.config.addresses
            || config.tls != self.config.tls;
        let gone: Vec<_> = self
            .held
            .iter()
            .filter(|((service, name), held)| match held.origin {
                Origin::File => !config.backends.iter().any(|b| b.service == *service && b.name == *name),
                Origin::Socket => {
                    let in_file = config.backends.iter().any(|backend| {
                        backend.service == *service
                            && (backend.name == *name || backend.address == held.registration.backend.address)
                    });
                    in_file || !config.services.contains_key(service)
                }
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            let moves_to_file = config.backends.iter().any(|b| (&b.service, &b.name) == (&id.0, &id.1));
            if moves_to_file {
                // The file takes it over as it stands.
                if let Some(held) = self.held.get_mut(&id) {
                    held.origin = Origin::File;
                }
            } else {
                self.take_out(&id, now_ms);
            }
        }
        // An address that moved from one name to another must be free first.
        let moved: Vec<_> = self
            .held
            .iter()
            .filter(|((service, name), held)| {
                config.backends.iter().any(|b| {
                    b.service == *service && b.name == *name && b.address != held.registration.backend.address
                })
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in moved {
            self.take_out(&id, now_ms);
        }
        self.config = config;
        if greet {
            self.greet_anew(unix_ms, now_ms);
        }
        for backend in self.config.backends.clone() {
            let name = backend.name.clone();
            if let Err(Unfit { error, help }) = self.register(backend, None, Origin::File, unix_ms, now_ms) {
                tracing::error!(backend = name, help, "not registered: {error}");
            }
        }
        let seeds = self.config.machines.clone();
        for link in self.peers.set_seeds(&seeds) {
            self.finish(link, "the file does not name it any more", now_ms);
        }
        let all: Vec<_> = self
            .detectors
            .iter()
            .map(|(subject, detector)| (subject.clone(), detector.spec.clone()))
            .collect();
        for (subject, spec) in all {
            self.detectors.want(&subject, &spec, &self.config);
        }
    }

    // ---- connections

    /// A machine said something.
    pub(crate) fn heard(&mut self, link: Link, message: ToAgent, now_ms: u64) {
        self.tell_fresh();
        let Some(session) = self.sessions.get_mut(&link) else { return };
        session.heard_ms = now_ms;
        let done = match (session.stage, message) {
            (Stage::Dialed, ToAgent::Challenge { versions, machine, nonce }) => {
                self.challenged(link, &versions, &machine, &nonce)
            }
            (Stage::Greeted, ToAgent::Proved { services }) => self.proved(link, services),
            (Stage::Greeted, ToAgent::Welcome { lease_ms, heartbeat_ms, machines }) => {
                self.welcomed(link, lease_ms, heartbeat_ms, machines, now_ms)
            }
            (Stage::Greeted | Stage::Welcomed, ToAgent::Refused { service, backend, code, reason, help }) => {
                self.refused(link, service, backend, code, &reason, &help, now_ms)
            }
            (Stage::Welcomed, ToAgent::Machines { machines }) => self.listed(link, machines, now_ms),
            (Stage::Welcomed, ToAgent::Checks { service, revision, check, backends }) => {
                self.asked(link, &service, revision, check, backends, now_ms)
            }
            (Stage::Welcomed, ToAgent::State { service, backend, state, reason }) => {
                self.stated(link, service, backend, state, &reason, now_ms);
                Ok(())
            }
            (Stage::Welcomed, ToAgent::Resync {}) => {
                self.tell_all(link);
                Ok(())
            }
            (Stage::Welcomed, ToAgent::Alive { .. }) => Ok(()),
            (stage, _) => Err(format!("a message that has no place here ({stage:?})")),
        };
        if let Err(problem) = done {
            self.cut(link, &problem, now_ms);
        }
    }

    /// A connection is lost, or did not come about.
    pub(crate) fn closed(&mut self, link: Link, problem: &str, now_ms: u64) {
        let Some(session) = self.sessions.remove(&link) else { return };
        // It can hold what the machine said.
        let problem = model::visible(problem).into_owned();
        if session.is_welcome() {
            tracing::warn!(machine = session.machine, address = session.peer, "connection lost: {problem}");
        } else {
            tracing::debug!(address = session.peer, "no connection: {problem}");
        }
        for (service, asked) in &session.asked {
            for target in &asked.targets {
                let subject = Subject { service: service.clone(), target: target.clone() };
                self.keep(&subject, now_ms);
            }
        }
        let unwanted = self.peers.closed(&session.peer, problem, now_ms, &mut self.random);
        self.finish_all(unwanted, now_ms);
    }

    /// Lets a check go on for a while, in the way that those who still ask want.
    fn keep(&mut self, subject: &Subject, now_ms: u64) {
        let wanted = self.winner(subject);
        match wanted {
            Some(spec) => self.detectors.want(subject, &spec, &self.config),
            None => {
                if let Some(detector) = self.detectors.get_mut(subject) {
                    detector.keep_until_ms = now_ms + KEEP_MS;
                }
            }
        }
    }

    fn cut(&mut self, link: Link, problem: &str, now_ms: u64) {
        if self.sessions.contains_key(&link) {
            self.actions.push(Action::Cut(link));
            self.closed(link, problem, now_ms);
        }
    }

    fn finish(&mut self, link: Link, why: &str, now_ms: u64) {
        if self.sessions.contains_key(&link) {
            self.actions.push(Action::Finish(link));
            self.closed(link, why, now_ms);
        }
    }

    fn send(&mut self, link: Link, message: ToMachine) {
        self.actions.push(Action::Send { link, message: Box::new(message) });
    }

    fn challenged(&mut self, link: Link, versions: &[u16], machine: &str, nonce: &str) -> Result<(), String> {
        if !versions.contains(&VERSION) {
            return Err(format!("it speaks versions {versions:?}, this agent {VERSION}: update one of them"));
        }
        if !name::is_name(machine) {
            return Err("its name is none".to_owned());
        }
        if nonce.len() != 64 || !nonce.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("its nonce is none".to_owned());
        }
        if self.addresses.is_empty() {
            return Err("this host has no address to speak for: give agent.addresses".to_owned());
        }
        let Some(session) = self.sessions.get_mut(&link) else { return Ok(()) };
        self.peers.greeted(&session.peer, machine)?;
        machine.clone_into(&mut session.machine);
        session.stage = Stage::Greeted;
        let addresses = AddressDigest::of(&self.addresses);
        let agent_nonce = self.random.nonce();
        let (mut proofs, mut shares) = (Vec::new(), Shares::new());
        for (service, token) in &self.config.services {
            let claim = Claim {
                nonce,
                machine,
                agent: &self.config.name,
                agent_nonce: &agent_nonce,
                incarnation: self.incarnation,
                addresses: &addresses,
                service,
            };
            proofs.push(Proof { service: service.clone(), mac: claim.prove(token.bytes()) });
            shares.insert(service.clone(), claim.share(token.bytes()));
        }
        let hello = ToMachine::Hello {
            version: VERSION,
            agent: self.config.name.clone(),
            nonce: agent_nonce,
            incarnation: self.incarnation,
            addresses: self.addresses.clone(),
            proofs,
        };
        self.actions.push(Action::Greet { link, hello: Box::new(hello), shares });
        Ok(())
    }

    /// What the machine has no token of, it has no say in.
    fn proved(&mut self, link: Link, services: Vec<String>) -> Result<(), String> {
        let Some(session) = self.sessions.get_mut(&link) else { return Ok(()) };
        if !session.proved.is_empty() {
            return Err("it calls services proved a second time".to_owned());
        }
        session.proved = services.into_iter().collect();
        Ok(())
    }

    fn welcomed(
        &mut self,
        link: Link,
        lease_ms: u32,
        heartbeat_ms: u32,
        machines: Vec<MachineContact>,
        now_ms: u64,
    ) -> Result<(), String> {
        if !LEASE_MS.contains(&lease_ms) || heartbeat_ms < 10 || heartbeat_ms >= lease_ms {
            return Err(format!("a lease of {lease_ms} ms with a heartbeat each {heartbeat_ms} ms"));
        }
        check_machines(&machines)?;
        let Some(session) = self.sessions.get_mut(&link) else { return Ok(()) };
        session.stage = Stage::Welcomed;
        session.lease_ms = lease_ms;
        session.heartbeat_ms = heartbeat_ms;
        session.heartbeat_at_ms = now_ms;
        tracing::info!(machine = session.machine, address = session.peer, lease_ms, "welcome");
        let (machine, peer) = (session.machine.clone(), session.peer.clone());
        let unwanted = self.peers.welcomed(&peer, machines, now_ms);
        let over: Vec<_> = self
            .over
            .iter_mut()
            .filter_map(|(id, over)| {
                over.told.insert(machine.clone()).then(|| deregistration(id, over.address))
            })
            .collect();
        for message in over {
            self.send(link, message);
        }
        let ids: Vec<_> = self.held.keys().cloned().collect();
        for id in ids {
            self.say(link, &id);
        }
        self.finish_all(unwanted, now_ms);
        Ok(())
    }

    fn listed(&mut self, link: Link, machines: Vec<MachineContact>, now_ms: u64) -> Result<(), String> {
        check_machines(&machines)?;
        let Some(session) = self.sessions.get(&link) else { return Ok(()) };
        let unwanted = self.peers.listed(&session.peer.clone(), machines);
        self.finish_all(unwanted, now_ms);
        // Whose word counts may have changed.
        let subjects: Vec<_> = self.detectors.iter().map(|(subject, _)| subject.clone()).collect();
        for subject in subjects {
            self.settle(&subject, now_ms);
        }
        Ok(())
    }

    fn finish_all(&mut self, links: Vec<Link>, now_ms: u64) {
        for link in links {
            self.finish(link, "no machine names it any more", now_ms);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the message's fields")]
    fn refused(
        &mut self,
        link: Link,
        service: Option<String>,
        backend: Option<String>,
        code: RefusalCode,
        reason: &str,
        help: &str,
        now_ms: u64,
    ) -> Result<(), String> {
        let (reason, help) = (detectors::told(reason), detectors::told(help));
        let Some(session) = self.sessions.get_mut(&link) else { return Ok(()) };
        let machine = session.machine.as_str();
        match (service, backend) {
            (None, _) => {
                tracing::warn!(machine, address = session.peer, help, "refused ({code:?}): {reason}");
                Err(format!("refused ({}): {reason}; {help}", code_word(code)))
            }
            (Some(service), None) => {
                if self.config.services.contains_key(&service) {
                    tracing::warn!(machine, service, help, "service refused ({code:?}): {reason}");
                    session.refused.insert(service, format!("{}: {reason}; {help}", code_word(code)));
                }
                Ok(())
            }
            (Some(service), Some(backend)) => {
                let id = (service, backend);
                if !self.held.contains_key(&id) {
                    return Ok(());
                }
                let wait = match code {
                    RefusalCode::Claimed | RefusalCode::Limit => RETRY_SOON_MS,
                    _ => RETRY_LATE_MS,
                };
                let said = session.said.entry(id.clone()).or_default();
                if said.refused != Some(code) {
                    tracing::warn!(
                        machine,
                        service = id.0,
                        backend = id.1,
                        help,
                        "refused ({code:?}): {reason}"
                    );
                }
                said.refused = Some(code);
                said.reason = format!("{reason}; {help}");
                said.retry_ms = Some(now_ms + wait);
                Ok(())
            }
        }
    }

    fn stated(
        &mut self,
        link: Link,
        service: String,
        backend: String,
        state: Phase,
        reason: &str,
        now_ms: u64,
    ) {
        let id = (service, backend);
        let reason = detectors::told(reason);
        let (Some(session), true) = (self.sessions.get_mut(&link), self.held.contains_key(&id)) else {
            return;
        };
        let said = session.said.entry(id.clone()).or_default();
        if said.state != Some(state) {
            tracing::info!(
                machine = session.machine,
                service = id.0,
                backend = id.1,
                "{}: {reason}",
                phase_word(state)
            );
        }
        said.state = Some(state);
        said.refused = None;
        said.reason = reason;
        said.retry_ms = (state == Phase::Gone).then_some(now_ms + RETRY_SOON_MS);
    }

    // ---- checks

    fn asked(
        &mut self,
        link: Link,
        service: &str,
        revision: u64,
        check: CheckSpec,
        backends: Vec<Target>,
        now_ms: u64,
    ) -> Result<(), String> {
        self.may_ask(link, service, &check, &backends)?;
        let (local, foreign): (BTreeSet<_>, BTreeSet<_>) = backends
            .into_iter()
            .map(|target| Target { address: target.address.to_canonical(), ..target })
            .partition(|target| self.is_local(target.address) && self.addresses.contains(&target.address));
        self.requests += 1;
        let order = self.requests;
        let Some(session) = self.sessions.get_mut(&link) else { return Ok(()) };
        if session.asked_but(service) + local.len() > BACKENDS_MAX {
            return Err(format!("asks for checks of more than {BACKENDS_MAX} backends"));
        }
        let before = session.asked.remove(service);
        let (old, same_check) =
            before.map_or_else(Default::default, |before| (before.targets, before.check == check));
        let unknown = local
            .difference(&old)
            .filter(|target| {
                let subject = Subject { service: service.to_owned(), target: (*target).clone() };
                self.detectors.get(&subject).is_none()
            })
            .count();
        if self.detectors.len() + unknown > DETECTORS_MAX {
            return Err(format!("machines ask for more than {DETECTORS_MAX} checks"));
        }
        let affected: Vec<Target> = if same_check {
            old.symmetric_difference(&local).cloned().collect()
        } else {
            old.union(&local).cloned().collect()
        };
        let news: Vec<Target> = local.difference(&old).cloned().collect();
        session.asked.insert(service.to_owned(), Asked { revision, check, targets: local, order });
        session.owed.entry(service.to_owned()).or_insert(now_ms + AGAIN_MS);
        let too_much = session.told_too_much();
        if !foreign.is_empty() {
            let addresses: BTreeSet<IpAddr> = foreign.into_iter().map(|target| target.address).collect();
            let addresses = addresses.into_iter().collect();
            self.send(link, ToMachine::NotLocal { service: service.to_owned(), revision, addresses });
        }
        for target in affected {
            self.settle(&Subject { service: service.to_owned(), target }, now_ms);
        }
        if too_much {
            self.tell_all(link);
        } else {
            self.tell(link, service, news.iter());
        }
        Ok(())
    }

    /// Whether a machine may ask for these checks.
    fn may_ask(
        &self,
        link: Link,
        service: &str,
        check: &CheckSpec,
        backends: &[Target],
    ) -> Result<(), String> {
        if !self.config.services.contains_key(service) {
            return Err(format!("asks for checks of service {service:?}, which is not this agent's"));
        }
        if self.sessions.get(&link).is_some_and(|session| !session.proved.contains(service)) {
            return Err(format!("asks for checks of service {service:?}, whose token it has not"));
        }
        let fits = CHECK_MS.contains(&check.interval_ms)
            && CHECK_MS.contains(&check.timeout_ms)
            && IN_A_ROW.contains(&check.rise)
            && IN_A_ROW.contains(&check.fall);
        if !fits {
            return Err(format!("asks for checks of service {service} with figures out of range"));
        }
        if let Some(target) = backends.iter().find(|of| !name::is_name(&of.backend) || of.port == 0) {
            return Err(format!("asks for a check of {:?} port {}", target.backend, target.port));
        }
        Ok(())
    }

    /// The check that counts for `subject`: the leading machine's, else the latest.
    fn winner(&self, subject: &Subject) -> Option<CheckSpec> {
        self.sessions
            .values()
            .filter_map(|session| {
                let asked = session.asks(&subject.service, &subject.target)?;
                Some(((self.peers.leads(&session.machine), asked.order), asked))
            })
            .max_by_key(|(rank, _)| *rank)
            .map(|(_, asked)| asked.check.clone())
    }

    /// Starts, changes or ends the check of `subject` as is asked now.
    fn settle(&mut self, subject: &Subject, now_ms: u64) {
        match self.winner(subject) {
            Some(spec) => self.detectors.want(subject, &spec, &self.config),
            None => {
                if self.detectors.get(subject).is_some_and(|detector| detector.keep_until_ms <= now_ms) {
                    self.detectors.drop(subject);
                }
            }
        }
    }

    /// A check gave a result.
    pub(crate) fn checked(&mut self, id: DetectorId, result: CheckResult, now_ms: u64) {
        let Some((subject, detector)) = self.detectors.by_id(id) else { return };
        let rules = detector.rules();
        if detector.verdict.observe(result, rules, now_ms).is_none() {
            return;
        }
        let Some(report) = detector.report(&subject) else { return };
        tracing::info!(
            service = subject.service,
            backend = subject.target.backend,
            address = %subject.target.address,
            port = subject.target.port,
            "{}: {}",
            if report.up { "up" } else { "down" },
            report.reason
        );
        for (link, session) in &self.sessions {
            if session.asks(&subject.service, &subject.target).is_some() {
                self.fresh.entry(*link).or_default().push(report.clone());
            }
        }
    }

    /// Tells verdicts of this turn. Before anything else is said or done: they are of what was until now.
    fn tell_fresh(&mut self) {
        for (link, results) in std::mem::take(&mut self.fresh) {
            self.send_report(link, results, false);
        }
    }

    /// Tells what is known of `targets`.
    fn tell<'a>(&mut self, link: Link, service: &str, targets: impl Iterator<Item = &'a Target>) {
        let results: Vec<BackendReport> = targets
            .filter_map(|target| {
                let subject = Subject { service: service.to_owned(), target: target.clone() };
                self.detectors.get(&subject)?.report(&subject)
            })
            .collect();
        self.send_report(link, results, false);
    }

    /// Tells all that is known of what the machine asks.
    fn tell_all(&mut self, link: Link) {
        let Some(session) = self.sessions.get_mut(&link) else { return };
        session.owed.clear();
        let results: Vec<BackendReport> = session
            .asked
            .iter()
            .flat_map(|(service, asked)| asked.targets.iter().map(move |target| (service, target)))
            .filter_map(|(service, target)| {
                let subject = Subject { service: service.clone(), target: target.clone() };
                self.detectors.get(&subject)?.report(&subject)
            })
            .collect();
        self.send_report(link, results, true);
    }

    fn send_report(&mut self, link: Link, results: Vec<BackendReport>, full: bool) {
        let Some(session) = self.sessions.get_mut(&link) else { return };
        for message in session.report(results, full) {
            self.actions.push(Action::Send { link, message: Box::new(message) });
        }
    }

    // ---- time

    /// When [`Host::tick`] has something to do.
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        let of_sessions = self.sessions.values().flat_map(|session| {
            let own = if session.is_welcome() {
                let silence = session.heard_ms + u64::from(session.lease_ms);
                [Some(silence), Some(session.heartbeat_at_ms), session.owed.values().min().copied()]
            } else {
                [Some(session.begun_ms + WELCOME_MS), None, None]
            };
            let refused = (session.refused.len() == self.config.services.len())
                .then_some(session.begun_ms + REFUSED_MS);
            own.into_iter()
                .chain([refused])
                .flatten()
                .chain(session.said.values().filter_map(|said| said.retry_ms))
        });
        let kept =
            self.detectors.iter().map(|(_, detector)| detector.keep_until_ms).filter(|until| *until > 0);
        let over = self.over.values().map(|over| over.until_ms);
        of_sessions.chain(kept).chain(over).chain(self.peers.deadline_ms()).min()
    }

    /// Whether a heartbeat is due: the time to look at the load.
    pub(crate) fn heartbeat_ms(&self) -> Option<u32> {
        self.sessions
            .values()
            .filter(|session| session.is_welcome())
            .map(|session| session.heartbeat_ms)
            .min()
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now_ms: u64) {
        self.over.retain(|_, over| over.until_ms > now_ms);
        let links: Vec<_> = self.sessions.keys().copied().collect();
        for link in links {
            self.tick_session(link, now_ms);
        }
        let ended: Vec<_> = self
            .detectors
            .iter_mut()
            .filter(|(_, detector)| detector.keep_until_ms > 0 && detector.keep_until_ms <= now_ms)
            .map(|(subject, detector)| {
                detector.keep_until_ms = 0;
                subject.clone()
            })
            .collect();
        for subject in ended {
            self.settle(&subject, now_ms);
        }
        for peer in self.peers.due(now_ms) {
            self.links += 1;
            let link = Link(self.links);
            self.peers.dialed(&peer, link);
            self.sessions.insert(link, Session::new(peer.clone(), now_ms));
            self.actions.push(Action::Dial { link, peer });
        }
    }

    fn tick_session(&mut self, link: Link, now_ms: u64) {
        let Some(session) = self.sessions.get_mut(&link) else { return };
        if !session.is_welcome() {
            if now_ms >= session.begun_ms + WELCOME_MS {
                self.cut(link, &format!("no welcome within {WELCOME_MS} ms"), now_ms);
            }
            return;
        }
        if now_ms >= session.heard_ms + u64::from(session.lease_ms) {
            let problem = format!("nothing heard for {} ms", session.lease_ms);
            self.cut(link, &problem, now_ms);
            return;
        }
        if session.refused.len() == self.config.services.len() && now_ms >= session.begun_ms + REFUSED_MS {
            self.finish(link, "it accepts none of the services", now_ms);
            return;
        }
        let retries: Vec<_> = session
            .said
            .iter()
            .filter(|(_, said)| said.retry_ms.is_some_and(|at| at <= now_ms))
            .map(|(id, _)| id.clone())
            .collect();
        let owed: Vec<_> = session
            .owed
            .iter()
            .filter(|(_, at)| **at <= now_ms)
            .map(|(service, _)| service.clone())
            .collect();
        for id in retries {
            if let Some(said) = self.sessions.get_mut(&link).and_then(|session| session.said.get_mut(&id)) {
                said.retry_ms = None;
            }
            self.say(link, &id);
        }
        for service in owed {
            let Some(session) = self.sessions.get_mut(&link) else { return };
            session.owed.remove(&service);
            let targets = session.asked.get(&service).map(|asked| asked.targets.clone()).unwrap_or_default();
            self.tell(link, &service, targets.iter());
        }
        let Some(session) = self.sessions.get_mut(&link) else { return };
        if now_ms >= session.heartbeat_at_ms {
            let loads: BTreeMap<_, _> = session
                .asked
                .iter()
                .flat_map(|(service, asked)| {
                    asked.targets.iter().map(|target| (service.clone(), target.backend.clone()))
                })
                .filter_map(|id| self.loads.get(&id).map(|load| (id, load.clone())))
                .collect();
            let message = session.heartbeat(loads.into_values().collect(), now_ms);
            self.send(link, message);
        }
    }

    // ---- load

    /// What the load is to be found out of.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        let mut samples = BTreeMap::new();
        for (subject, detector) in self.detectors.iter() {
            let id = (subject.service.clone(), subject.target.backend.clone());
            let spec = &detector.spec;
            let seen = spec.protocol == Protocol::Tcp && self.interfaces.contains(&subject.target.address);
            let load_file = self.held.get(&id).and_then(|held| held.registration.backend.load_file.clone());
            samples.insert(
                id.clone(),
                Sample {
                    service: id.0,
                    backend: id.1,
                    sockets: seen.then_some((spec.vip, subject.target.address, spec.port)),
                    load_file,
                    cpu: self.config.cpu_load,
                },
            );
        }
        samples.into_values().collect()
    }

    /// What was found out. A machine is told at once when a figure has moved much.
    pub(crate) fn set_loads(&mut self, loads: Vec<Load>, now_ms: u64) {
        self.loads =
            loads.into_iter().map(|load| ((load.service.clone(), load.backend.clone()), load)).collect();
        for session in self.sessions.values_mut().filter(|session| session.is_welcome()) {
            session.hasten(&self.loads, now_ms);
        }
    }

    // ---- the end

    /// Ends all connections; deregisters what the file registered, unless `keep`.
    pub(crate) fn stop(&mut self, keep: bool) {
        if !keep {
            for ((service, name), held) in &self.held {
                if held.origin == Origin::Socket {
                    continue;
                }
                for (link, _) in self.sessions.iter().filter(|(_, session)| session.takes(service)) {
                    let id = (service.clone(), name.clone());
                    let message = Box::new(deregistration(&id, held.registration.backend.address));
                    self.actions.push(Action::Send { link: *link, message });
                }
            }
        }
        let links: Vec<_> = self.sessions.keys().copied().collect();
        for link in links {
            self.actions.push(Action::Finish(link));
            self.sessions.remove(&link);
        }
        let subjects: Vec<_> = self.detectors.iter().map(|(subject, _)| subject.clone()).collect();
        for subject in subjects {
            self.detectors.drop(&subject);
        }
    }
}

fn deregistration((service, backend): &(String, String), address: IpAddr) -> ToMachine {
    ToMachine::Deregister { service: service.clone(), backend: backend.clone(), address }
}

fn hello_addresses(config: &AgentConfig, interfaces: &[IpAddr]) -> Vec<IpAddr> {
    let mut all = config.addresses.clone().unwrap_or_else(|| interfaces.to_vec());
    all.sort_unstable();
    all.dedup();
    if all.len() > model::agent::ADDRESSES_MAX {
        tracing::warn!(
            "this host has {} addresses; an agent speaks for {} at most: give agent.addresses",
            all.len(),
            model::agent::ADDRESSES_MAX
        );
        // The file's list is checked; of the interfaces' those with a backend count.
        let wanted = |address: &IpAddr| config.backends.iter().any(|backend| backend.address == *address);
        all.retain(wanted);
    }
    all
}

fn check_machines(machines: &[MachineContact]) -> Result<(), String> {
    if machines.len() > 1024 || machines.iter().any(|machine| !name::is_name(&machine.name)) {
        return Err("its list of machines is none".to_owned());
    }
    Ok(())
}

/// As it is written in JSON.
fn code_word(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::Version => "version",
        RefusalCode::Malformed => "malformed",
        RefusalCode::Service => "service",
        RefusalCode::Proof => "proof",
        RefusalCode::Template => "template",
        RefusalCode::Claimed => "claimed",
        RefusalCode::Seal => "seal",
        RefusalCode::Stale => "stale",
        RefusalCode::Limit => "limit",
    }
}

/// As it is written in JSON.
pub(crate) fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Registered => "registered",
        Phase::Checking => "checking",
        Phase::Up => "up",
        Phase::Down => "down",
        Phase::Suspect => "suspect",
        Phase::Draining => "draining",
        Phase::Gone => "gone",
    }
}
