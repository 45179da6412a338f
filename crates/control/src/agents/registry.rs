//! Who speaks for which backend, and what is to become of it.
//!
//! Rule of this module: a state machine that is told the time and does no I/O. What it wants done it says as [`Act`]s; what
//! should be in force it says in [`AgentRegistry::received`], and what is in force it is told by [`AgentRegistry::agreed`].
//! docs/agents.md is the life of a backend in words.

use super::counts::RegistryCounts;
use super::facts::Facts;
use super::heard::{EndReason, EndedRegistration, Received};
use super::held::{AgentSuspicion, HeldBackend};
use super::hello::{Hello, Tokens, Unproved, shown};
use super::session::{BackendKey, RequestedChecks, Session, SessionId};
use model::agent::{
    BACKENDS_MAX, BackendReport, Load, MachineContact, PERMILLE_MAX, Phase, REASON_MAX, RefusalCode, Target,
    ToAgent, ToMachine,
};
use model::api::{EventKind, Word};
use model::name::is_name;
use model::registered::{Misfit, Registered, Skipped};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Shortest time between two requests to check by one connection: a storm of registrations becomes few requests.
const ASK_EVERY_MS: u64 = 50;
/// Shortest time between two events about refusals of one agent.
const REFUSAL_EVENT_EVERY_MS: u64 = 1000;
/// Agents whose incarnations are remembered.
const AGENTS_REMEMBERED: usize = 65_536;
/// What is to be done.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Act {
    /// A message to an agent.
    Tell(SessionId, ToAgent),
    /// A connection is to be closed, after what was told.
    Close(SessionId),
    /// What an agent's checks say of a backend, now or anew.
    Verdict {
        /// The backend.
        key: BackendKey,
        /// Its address.
        address: IpAddr,
        /// They pass.
        up: bool,
        /// EndReason, in words.
        reason: String,
    },
    /// Who checks a backend may be another one now.
    HealthSource(BackendKey),
    /// Something an operator should know.
    Event(EventKind, Option<String>, Option<String>, String),
    /// What should be in force has changed.
    Received,
}

/// Who checks a backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum CheckedBy {
    /// This machine, as if there were no agents.
    Machine,
    /// An agent; this machine does not.
    Agent,
    /// This machine, from then on: nothing is heard of the agent.
    Suspect {
        /// Milliseconds since the start.
        from_ms: u64,
    },
}

/// What is remembered of an agent's name.
#[derive(Clone, Debug)]
struct KnownAgent {
    /// The largest incarnation that was accepted.
    incarnation: u64,
    /// The services whose tokens its last hello proved: only who has one of these speaks under the name.
    services: BTreeSet<String>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct AgentRegistry {
    facts: Facts,
    sessions: BTreeMap<SessionId, Session>,
    /// Connections of agents, by name.
    agents: HashMap<String, SessionId>,
    /// Agents that have been accepted, by name.
    known: HashMap<String, KnownAgent>,
    held: BTreeMap<BackendKey, HeldBackend>,
    /// Names of registered backends, by service and address.
    by_address: HashMap<(String, IpAddr), String>,
    /// Registered backends of a service.
    registered: HashMap<String, usize>,
    over: BTreeMap<BackendKey, EndedRegistration>,
    /// Connections whose requests to check may be other ones now.
    to_ask: BTreeSet<SessionId>,
    refusal_told_ms: HashMap<String, u64>,
    acts: Vec<Act>,
    pub(crate) counts: RegistryCounts,
}

impl AgentRegistry {
    /// By whose word a checked backend is in its state.
    pub(crate) fn health_source(&self, service: &str, backend: &str, address: IpAddr) -> Word {
        let held = self.held().get(&(service.to_owned(), backend.to_owned()));
        match held.filter(|held| held.address == address) {
            Some(held) => match &held.suspicion {
                Some(suspicion) if suspicion.is_probed => Word::Health,
                Some(_) => Word::Lease,
                None if held.speaks => Word::Agent,
                None => Word::Health,
            },
            None => Word::Health,
        }
    }

    /// What is to be done, in order.
    pub(crate) fn take_acts(&mut self) -> Vec<Act> {
        std::mem::take(&mut self.acts)
    }

    /// The configuration is another one. What does not fit it any more is over; connections whose token changed are closed.
    pub(crate) fn configure(&mut self, facts: Facts, now_ms: u64) {
        let machines_differ = facts.machines != self.facts.machines;
        let before = std::mem::replace(&mut self.facts, facts);
        if machines_differ {
            self.tell_machines();
        }
        self.end_outdated_sessions(&before, now_ms);
        for session in self.sessions.values_mut() {
            let gone = session.services.extract_if(.., |service| !self.facts.services.contains_key(service));
            session.unknown.extend(gone);
            session.lease_ms = lease(&self.facts, &session.services);
        }
        let misfits: Vec<(BackendKey, Misfit)> = self
            .held
            .iter()
            .filter_map(|(key, held)| {
                Some((key.clone(), self.facts.rules.misfit(held.registered.as_ref()?)?))
            })
            .collect();
        for (key, why) in misfits {
            self.expel(&key, &why);
        }
        // Backends of the configuration that are no more, or no agent's any more.
        let facts = &self.facts;
        self.held.retain(|key, held| {
            held.registered.is_some() || facts.fixed(&key.0, held.address) == Some(&key.1)
        });
        let with_checks = |facts: &Facts, service: &str| {
            facts.services.get(service).is_some_and(|of| of.is_checked_by_agents)
        };
        let turned: Vec<BackendKey> = self
            .held
            .keys()
            .filter(|key| with_checks(&before, &key.0) != with_checks(&self.facts, &key.0))
            .cloned()
            .collect();
        for key in turned {
            if let Some(held) = self.held.get_mut(&key) {
                held.speaks = false;
            }
            self.acts.push(Act::HealthSource(key));
        }
        self.to_ask.extend(self.sessions.keys());
    }

    /// Ends sessions whose tokens are no longer those of their services, and those that may say a better hello now.
    fn end_outdated_sessions(&mut self, before: &Facts, now_ms: u64) {
        let is_changed = |name: &String| {
            before.services.contains_key(name)
                && self.facts.services.contains_key(name)
                && self.facts.tokens.of(name) != before.tokens.of(name)
        };
        for id in self.sessions_where(|session| session.services.iter().any(is_changed)) {
            self.refuse(id, None, None, &other_token());
            self.end(id, "the service's token has changed", now_ms);
        }
        // Only a hello proves a token, so who was refused a service that is one now has to say another.
        let is_known = |name: &String| self.facts.services.contains_key(name);
        for id in self.sessions_where(|session| session.unknown.iter().any(is_known)) {
            self.end(id, "agents may speak for another of its services now", now_ms);
        }
    }

    fn sessions_where(&self, holds: impl Fn(&Session) -> bool) -> Vec<SessionId> {
        self.sessions.iter().filter(|(_, session)| holds(session)).map(|(id, _)| *id).collect()
    }

    /// Machines that agents should connect to, where others than this one are known.
    pub(crate) fn set_machines(&mut self, machines: Vec<MachineContact>) {
        if self.facts.machines != machines {
            self.facts.machines = machines;
            self.tell_machines();
        }
    }

    fn tell_machines(&mut self) {
        let machines = &self.facts.machines;
        let told =
            self.sessions.keys().map(|id| Act::Tell(*id, ToAgent::Machines { machines: machines.clone() }));
        self.acts.extend(told);
    }

    /// The tokens that hellos are to be held against.
    pub(crate) fn tokens(&self) -> &Arc<Tokens> {
        &self.facts.tokens
    }

    /// Somebody has said who it is, and proved nothing. It was told so, and is gone.
    pub(crate) fn unproved(&mut self, of: &Unproved, now_ms: u64) {
        self.counts.refuse(of.why.code);
        self.refusal_event(&of.agent, None, None, &of.why, now_ms);
    }

    /// An agent says who it is, and has proved it.
    pub(crate) fn hello(&mut self, hello: Hello, now_ms: u64) {
        let id = hello.id;
        if let Err(why) = self.admit(&hello) {
            self.refuse(id, None, None, &why);
            self.refusal_event(&hello.agent, None, None, &why, now_ms);
            self.acts.push(Act::Close(id));
            return;
        }
        let (proved, refused) = (hello.proved, hello.refused);
        if let Some(old) = self.agents.get(&hello.agent).copied() {
            // Fenced: whatever it says from now on is nobody's word.
            self.end(old, "the agent was started anew", now_ms);
        }
        let mut session = Session::new(hello.agent.clone(), hello.incarnation, hello.peer, now_ms);
        session.addresses = hello.addresses.into_iter().collect();
        session.lease_ms = lease(&self.facts, &proved);
        session.services = proved;
        self.remember(&hello.agent, hello.incarnation, &session.services);
        let lease_ms = u32::try_from(session.lease_ms).unwrap_or(u32::MAX);
        let services = session.services.iter().cloned().collect::<Vec<_>>().join(", ");
        let welcome =
            ToAgent::Welcome { lease_ms, heartbeat_ms: lease_ms / 3, machines: self.facts.machines.clone() };
        self.acts.push(Act::Tell(id, welcome));
        for (service, why) in refused {
            if why.code == RefusalCode::Service {
                session.unknown.insert(service.clone());
            }
            self.refuse(id, Some(service.clone()), None, &why);
            self.refusal_event(&hello.agent, Some(service), None, &why, now_ms);
        }
        let message = format!("agent {} at {} speaks for {services}", hello.agent, hello.peer);
        self.acts.push(Act::Event(EventKind::AgentConnected, None, None, message));
        self.counts.hellos += 1;
        self.agents.insert(hello.agent, id);
        self.sessions.insert(id, session);
        self.to_ask.insert(id);
    }

    /// Whether a hello is of a start that is not over, under a name that is its own, and proved with tokens that count still.
    fn admit(&self, hello: &Hello) -> Result<(), Misfit> {
        if hello.tokens != self.facts.tokens {
            return Err(other_token());
        }
        let known = self.known.get(&hello.agent).map(|known| known.incarnation);
        let lives = self.agents.contains_key(&hello.agent);
        if known.is_some_and(|known| hello.incarnation < known || (lives && hello.incarnation == known)) {
            let reason = format!("agent {} is known with a start that is as new or newer", hello.agent);
            let help = "one host, one name; after a restart say a larger incarnation, after a broken \
                connection wait for the lease to end";
            return Err(Misfit::new(RefusalCode::Stale, reason, help));
        }
        self.name_of_another(&hello.agent, &hello.proved).map_or(Ok(()), Err)
    }

    /// EndReason a name is not that of somebody with these tokens: an agent that lives, or holds backends, has it and none of them.
    fn name_of_another(&self, agent: &str, proved: &BTreeSet<String>) -> Option<Misfit> {
        let known = self.known.get(agent)?;
        let is_in_use = self.agents.contains_key(agent) || self.held.values().any(|held| held.agent == agent);
        if !is_in_use || !known.services.is_disjoint(proved) {
            return None;
        }
        let reason = format!("the name {agent} is that of an agent with other tokens");
        Some(Misfit::new(
            RefusalCode::Claimed,
            reason,
            "one host, one name: give this agent another agent.name",
        ))
    }

    fn remember(&mut self, agent: &str, incarnation: u64, services: &BTreeSet<String>) {
        if self.known.len() >= AGENTS_REMEMBERED {
            let holders: HashSet<&String> = self.held.values().map(|held| &held.agent).collect();
            let agents = &self.agents;
            self.known.retain(|agent, _| agents.contains_key(agent) || holders.contains(agent));
        }
        self.known.insert(agent.to_owned(), KnownAgent { incarnation, services: services.clone() });
    }

    /// A message of an agent.
    pub(crate) fn message(&mut self, id: SessionId, message: ToMachine, now_ms: u64) {
        let Some(session) = self.sessions.get_mut(&id) else {
            self.counts.stale += 1;
            return;
        };
        session.heard_ms = now_ms;
        match message {
            ToMachine::Hello { .. } => self.malformed(id, "a second hello", now_ms),
            ToMachine::Register { service, backend, address, incarnation, weight, port, capacity } => {
                let agent = session.agent.clone();
                let of = Registered { service, backend, address, incarnation, agent, weight, port, capacity };
                self.register(id, &of, now_ms);
            }
            ToMachine::Deregister { service, backend, address } => {
                self.deregister(id, &(service, backend), address);
            }
            ToMachine::Report { sequence, full, results } => {
                self.report(id, sequence, full, &results, now_ms);
            }
            ToMachine::NotLocal { service, revision, addresses } => {
                self.not_local(id, &service, revision, addresses, now_ms);
            }
            ToMachine::Heartbeat { sequence, digest, loads } => {
                self.heartbeat(id, sequence, &digest, loads, now_ms);
            }
        }
    }

    /// A message that has no place: the connection ends.
    fn malformed(&mut self, id: SessionId, what: &str, now_ms: u64) {
        self.broken(id, RefusalCode::Malformed, what, now_ms);
    }

    /// Bytes that are no message, or none of this session: the connection ends.
    pub(crate) fn broken(&mut self, id: SessionId, code: RefusalCode, what: &str, now_ms: u64) {
        self.refuse(id, None, None, &Misfit::new(code, what, "see docs/agents.md"));
        self.end(id, what, now_ms);
    }

    /// A connection is closed.
    pub(crate) fn closed(&mut self, id: SessionId, now_ms: u64) {
        self.end(id, "the agent's connection has ended", now_ms);
    }

    /// Time passes: leases end, requests to check go out.
    pub(crate) fn poll(&mut self, now_ms: u64) {
        let lapsed: Vec<(SessionId, u64)> = self
            .sessions
            .iter()
            .filter(|(_, session)| now_ms.saturating_sub(session.heard_ms) >= session.lease_ms)
            .map(|(id, session)| (*id, session.lease_ms))
            .collect();
        for (id, lease_ms) in lapsed {
            self.counts.lapses += 1;
            self.end(id, &format!("nothing was heard of the agent for {lease_ms} ms"), now_ms);
        }
        let due: Vec<SessionId> = self
            .to_ask
            .iter()
            .filter(|id| {
                let asked = self.sessions.get(*id).and_then(|session| session.asked_ms);
                asked.is_none_or(|asked| now_ms.saturating_sub(asked) >= ASK_EVERY_MS)
            })
            .copied()
            .collect();
        for id in due {
            self.to_ask.remove(&id);
            self.ask(id, now_ms);
        }
    }

    /// Whether requests to check wait for their time, or something is to be done.
    pub(crate) fn is_busy(&self) -> bool {
        !self.to_ask.is_empty() || !self.acts.is_empty()
    }

    /// A session ends: its backends are suspect, those that never had a good check are gone.
    fn end(&mut self, id: SessionId, why: &str, now_ms: u64) {
        self.acts.push(Act::Close(id));
        self.to_ask.remove(&id);
        let Some(session) = self.sessions.remove(&id) else { return };
        if self.agents.get(&session.agent) == Some(&id) {
            self.agents.remove(&session.agent);
        }
        let message = format!("agent {} at {}: {why}", session.agent, session.peer);
        self.acts.push(Act::Event(EventKind::AgentLost, None, None, message));
        let of_session = self.held.iter().filter(|(_, held)| held.session == Some(id));
        let keys: Vec<BackendKey> = of_session.map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.suspect(&key, why, now_ms);
        }
    }

    fn suspect(&mut self, key: &BackendKey, why: &str, now_ms: u64) {
        let Some(held) = self.held.get_mut(key) else { return };
        if let Some(session) = held.session.take().and_then(|id| self.sessions.get_mut(&id)) {
            session.registered.remove(key);
        }
        held.is_asked = false;
        let speaks = std::mem::take(&mut held.speaks);
        if held.registered.is_some() && held.wanted().is_none() {
            let message = format!("{} never had a good check, and {why}", held.address);
            self.event(EventKind::BackendDeregistered, key, message);
            self.forget(key);
            return;
        }
        if held.registered.is_none() && !speaks && held.suspicion.is_none() {
            // The agent never said anything of it: the machine checked it all the time.
            self.held.remove(key);
            return;
        }
        if held.suspicion.is_none() {
            let suspicion = AgentSuspicion {
                since_ms: now_ms,
                why: why.to_owned(),
                probed_from_ms: now_ms,
                failures: 0,
                is_probed: false,
            };
            held.suspicion = Some(suspicion);
            let message =
                format!("{} of agent {}: {why}; the machine checks by itself", held.address, held.agent);
            self.counts.suspicions += 1;
            self.event(EventKind::BackendSuspect, key, message);
        }
        self.entered(key, now_ms);
        self.acts.push(Act::HealthSource(key.clone()));
    }

    fn event(&mut self, kind: EventKind, key: &BackendKey, message: impl Into<String>) {
        self.acts.push(Act::Event(kind, Some(key.0.clone()), Some(key.1.clone()), message.into()));
    }

    fn refuse(&mut self, id: SessionId, service: Option<String>, backend: Option<String>, why: &Misfit) {
        self.counts.refuse(why.code);
        let message = ToAgent::Refused {
            service,
            backend,
            code: why.code,
            reason: why.reason.clone(),
            help: why.help.clone(),
        };
        self.acts.push(Act::Tell(id, message));
    }

    /// Refusals are told as events, but not more of them than somebody can read.
    fn refusal_event(
        &mut self,
        agent: &str,
        service: Option<String>,
        backend: Option<String>,
        why: &Misfit,
        now_ms: u64,
    ) {
        let agent: String = agent.chars().take(model::agent::NAME_MAX).filter(|c| !c.is_control()).collect();
        let told = self.refusal_told_ms.get(&agent);
        if told.is_some_and(|told| now_ms.saturating_sub(*told) < REFUSAL_EVENT_EVERY_MS) {
            return;
        }
        self.refusal_told_ms.retain(|_, told| now_ms.saturating_sub(*told) < REFUSAL_EVENT_EVERY_MS);
        if self.refusal_told_ms.len() < 64 {
            self.refusal_told_ms.insert(agent.clone(), now_ms);
            let message = format!("agent {agent}: {}", why.reason);
            self.acts.push(Act::Event(EventKind::RegistrationRefused, service, backend, message));
        }
    }

    fn register(&mut self, id: SessionId, of: &Registered, now_ms: u64) {
        let key = (of.service.clone(), of.backend.clone());
        match self.try_register(id, of, now_ms) {
            Ok(()) => self.confirm(id, &key),
            Err(why) => {
                let name = |text: &str| is_name(text).then(|| text.to_owned());
                // A refusal without a service would be one of the connection.
                let service = name(&of.service).or_else(|| Some(String::new()));
                self.refuse(id, service.clone(), name(&of.backend), &why);
                self.refusal_event(&of.agent, service, name(&of.backend), &why, now_ms);
            }
        }
    }

    /// Answers a registration with its state, also a repeated one.
    fn confirm(&mut self, id: SessionId, key: &BackendKey) {
        let Some(held) = self.held.get(key) else { return };
        let message = ToAgent::State {
            service: key.0.clone(),
            backend: key.1.clone(),
            state: held.phase,
            reason: held.reason.clone(),
        };
        self.acts.push(Act::Tell(id, message));
    }

    fn try_register(&mut self, id: SessionId, of: &Registered, now_ms: u64) -> Result<(), Misfit> {
        let Some(session) = self.sessions.get(&id) else { return Ok(()) };
        self.check_scope(session, of)?;
        let key = (of.service.clone(), of.backend.clone());
        let other = self.under_another_name(of)?;
        let known = self.held.get(&key).and_then(|held| held.registered.clone());
        match &known {
            Some(known) => check_successor(known, of)?,
            None => self.check_room(session, &of.service, usize::from(other.is_some()))?,
        }
        if let Some(other) = other {
            self.retire(&other, EndReason::Deregistered, "registered under another name");
        }
        match known {
            Some(known) if known.address != of.address => {
                self.retire(&key, EndReason::Deregistered, "registered with another address");
                self.take(id, key, of.clone(), now_ms);
            }
            Some(known) if known.incarnation < of.incarnation => self.restart(id, &key, of, now_ms),
            Some(known) => self.refresh(id, &key, &known, of, now_ms),
            None => self.take(id, key, of.clone(), now_ms),
        }
        Ok(())
    }

    /// Whether an agent may register this at all: its service, its own address, the template.
    fn check_scope(&self, session: &Session, of: &Registered) -> Result<(), Misfit> {
        if !session.services.contains(&of.service) {
            let reason = format!("the agent has not proved the token of service \"{}\"", shown(&of.service));
            return Err(Misfit::new(RefusalCode::Service, reason, "say hello with a proof for it"));
        }
        if !session.addresses.contains(&of.address) {
            let reason = format!("{} is no address of the hello", of.address);
            let help = "an agent speaks for its own host's addresses only";
            return Err(Misfit::new(RefusalCode::Template, reason, help));
        }
        self.facts.rules.misfit(of).map_or(Ok(()), Err)
    }

    /// The backend that has the address under another name, if this one may take its place.
    fn under_another_name(&self, of: &Registered) -> Result<Option<BackendKey>, Misfit> {
        let name = self.by_address.get(&(of.service.clone(), of.address));
        let other = name.filter(|name| **name != of.backend).map(|name| (of.service.clone(), name.clone()));
        if let Some((key, held)) = other.as_ref().and_then(|key| Some((key, self.held.get(key)?))) {
            let is_newer = held.registered.as_ref().is_some_and(|old| old.incarnation < of.incarnation);
            if held.agent != of.agent || !is_newer {
                let (address, agent) = (of.address, &held.agent);
                return Err(claimed(format!("{address} is backend \"{}\" of agent {agent}", key.1)));
            }
        }
        Ok(other)
    }

    /// Whether a new backend fits, of whose service so many make way for it.
    fn check_room(&self, session: &Session, service: &str, leave: usize) -> Result<(), Misfit> {
        if session.registered.len() >= BACKENDS_MAX {
            let reason = format!("an agent registers at most {BACKENDS_MAX} backends");
            let help = "run several agents, or deregister others first";
            return Err(Misfit::new(RefusalCode::Limit, reason, help));
        }
        let of_service = self.registered.get(service).copied().unwrap_or(0);
        let of_all: usize = self.registered.values().sum();
        let rules = &self.facts.rules;
        if of_service.saturating_sub(leave) >= rules.limit(service)
            || of_all.saturating_sub(leave) >= rules.limit_of_all()
        {
            let reason = format!("service \"{service}\" takes no further backend");
            let help = "raise agents.register.limit or maglev_size of the service";
            return Err(Misfit::new(RefusalCode::Limit, reason, help));
        }
        Ok(())
    }

    /// A new registration.
    fn take(&mut self, id: SessionId, key: BackendKey, of: Registered, now_ms: u64) {
        let message = format!("{} registered by agent {}", of.address, of.agent);
        self.event(EventKind::BackendRegistered, &key, message);
        self.counts.registrations += 1;
        self.by_address.insert((key.0.clone(), of.address), key.1.clone());
        *self.registered.entry(key.0.clone()).or_default() += 1;
        let mut held = HeldBackend::new(of.address, of.agent.clone(), Some(of), now_ms);
        held.session = Some(id);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.registered.insert(key.clone());
        }
        self.to_ask.insert(id);
        self.held.insert(key, held);
    }

    /// The same backend, started anew: it takes traffic again after its next good check.
    fn restart(&mut self, id: SessionId, key: &BackendKey, of: &Registered, now_ms: u64) {
        let Some(held) = self.held.get_mut(key) else { return };
        self.counts.registrations += 1;
        let was_good = std::mem::take(&mut held.is_good);
        held.registered = Some(of.clone());
        held.up = None;
        "registered anew, not checked yet".clone_into(&mut held.reason);
        held.load = None;
        if !was_good && held.in_force.is_none() {
            // Nobody knows of it yet.
        } else {
            let reason = held.reason.clone();
            let act = Act::Verdict { key: key.clone(), address: held.address, up: false, reason };
            self.acts.push(act);
            self.acts.push(Act::Received);
        }
        let message = format!("{} registered anew by agent {}", of.address, of.agent);
        self.event(EventKind::BackendRegistered, key, message);
        self.adopt(id, key, now_ms);
    }

    /// The same registration again, perhaps with other figures.
    fn refresh(&mut self, id: SessionId, key: &BackendKey, old: &Registered, of: &Registered, now_ms: u64) {
        if old != of {
            if let Some(held) = self.held.get_mut(key) {
                held.registered = Some(of.clone());
            }
            self.acts.push(Act::Received);
            if old.port != of.port {
                self.to_ask.insert(id);
            }
        }
        self.adopt(id, key, now_ms);
    }

    /// A backend is held by this connection from now on.
    fn adopt(&mut self, id: SessionId, key: &BackendKey, now_ms: u64) {
        let Some(held) = self.held.get_mut(key) else { return };
        if held.session != Some(id) {
            held.session = Some(id);
            held.speaks = false;
            held.is_asked = false;
            self.to_ask.insert(id);
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            session.registered.insert(key.clone());
        }
        // Where the machine checks, being heard of again is all.
        let by_machine = self.facts.services.get(&key.0).is_none_or(|of| !of.is_checked_by_agents);
        if let Some(held) = self.held.get_mut(key)
            && by_machine
            && held.suspicion.take().is_some()
        {
            self.event(EventKind::BackendTrusted, key, "its agent is back");
            self.acts.push(Act::HealthSource(key.clone()));
        }
        self.to_ask.insert(id);
        self.entered(key, now_ms);
    }

    fn deregister(&mut self, id: SessionId, key: &BackendKey, address: IpAddr) {
        let Some(session) = self.sessions.get(&id) else { return };
        let of = self.held.get(key).and_then(|held| held.registered.as_ref());
        let (state, reason) = match of {
            Some(of)
                if of.agent == session.agent
                    && of.address == address
                    && session.services.contains(&key.0) =>
            {
                let is_known = self.held.get(key).is_some_and(|held| held.in_force.is_some() || held.is_good);
                self.retire(key, EndReason::Deregistered, "deregistered by its agent");
                if is_known { (Phase::Draining, "deregistered") } else { (Phase::Gone, "deregistered") }
            }
            Some(_) => {
                let why = Misfit::new(
                    RefusalCode::Claimed,
                    "another agent registered it",
                    "only the agent that registered it can",
                );
                self.refuse(id, Some(shown(&key.0)), Some(shown(&key.1)), &why);
                return;
            }
            None => (Phase::Gone, "not registered"),
        };
        let (service, backend) = (shown(&key.0), shown(&key.1));
        self.acts.push(Act::Tell(id, ToAgent::State { service, backend, state, reason: reason.to_owned() }));
        self.to_ask.insert(id);
    }

    /// A registration is over: it leaves what is wanted.
    fn retire(&mut self, key: &BackendKey, why: EndReason, reason: &str) {
        let Some(held) = self.held.get(key) else { return };
        let message = format!("{} of agent {}: {reason}", held.address, held.agent);
        let last = held.registered.clone();
        let in_force = held.in_force.clone();
        let was_wanted = held.wanted().is_some();
        self.event(EventKind::BackendDeregistered, key, message);
        self.forget(key);
        if let (Some(last), true) = (last, was_wanted) {
            // Whatever start of it is in force: it is over, too.
            let incarnation = last.incarnation;
            let registered = Registered { incarnation, ..in_force.unwrap_or(last) };
            self.over.insert(key.clone(), EndedRegistration { registered, why });
            self.acts.push(Act::Received);
        }
    }

    /// Removes all traces but what is to be told of it.
    fn forget(&mut self, key: &BackendKey) {
        let Some(held) = self.held.remove(key) else { return };
        if held.registered.is_some() {
            self.by_address.remove(&(key.0.clone(), held.address));
            if let Some(count) = self.registered.get_mut(&key.0) {
                *count = count.saturating_sub(1);
            }
        }
        if let Some(session) = held.session.and_then(|id| self.sessions.get_mut(&id)) {
            session.registered.remove(key);
        }
        self.to_ask.extend(held.session);
    }

    /// A registration does not fit (any more).
    fn expel(&mut self, key: &BackendKey, why: &Misfit) {
        let session = self.held.get(key).and_then(|held| held.session);
        self.retire(key, EndReason::Deregistered, &why.reason);
        if let Some(id) = session {
            self.refuse(id, Some(key.0.clone()), Some(key.1.clone()), why);
        }
    }

    /// What could not be part of the configuration is no registration.
    pub(crate) fn skipped(&mut self, skipped: &[Skipped]) {
        for Skipped { registered, why } in skipped {
            self.expel(&(registered.service.clone(), registered.backend.clone()), why);
        }
    }

    fn report(&mut self, id: SessionId, sequence: u64, full: bool, results: &[BackendReport], now_ms: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if sequence <= session.last_report {
            self.counts.stale += 1;
            return;
        }
        session.last_report = sequence;
        let is_well =
            results.iter().all(|result| result.reason.len() <= REASON_MAX && is_name(&result.backend));
        if !is_well || !session.keep(full, results) {
            return self.malformed(id, "a report with too many results, or one that is none", now_ms);
        }
        for result in results {
            self.result(id, result, now_ms);
        }
    }

    fn result(&mut self, id: SessionId, result: &BackendReport, now_ms: u64) {
        let Some(session) = self.sessions.get(&id) else { return };
        let key = (result.service.clone(), result.backend.clone());
        if !session.is_asked(&key.0, &key.1, result.address) {
            self.counts.stale += 1;
            return;
        }
        let is_fixed = self.facts.fixed(&key.0, result.address) == Some(&key.1);
        if is_fixed && self.held.get(&key).is_none_or(|held| held.session.is_none()) {
            // The first agent of its host that says something of it; others are not heeded while that one is there.
            let agent = session.agent.clone();
            let held = self
                .held
                .entry(key.clone())
                .or_insert_with(|| HeldBackend::new(result.address, agent.clone(), None, now_ms));
            held.agent = agent;
            held.session = Some(id);
            held.is_asked = true;
        }
        let Some(held) = self.held.get_mut(&key) else { return };
        if held.session != Some(id) || held.address != result.address {
            self.counts.stale += 1;
            return;
        }
        self.counts.results += 1;
        let spoke = std::mem::replace(&mut held.speaks, true);
        let was_suspect = held.suspicion.take().is_some();
        let was_good = held.is_good;
        let differs = held.up != Some(result.up);
        held.up = Some(result.up);
        held.is_good |= result.up;
        let is_good = held.is_good;
        held.reason.clone_from(&result.reason);
        if was_suspect {
            self.event(EventKind::BackendTrusted, &key, "its agent is back");
        }
        if is_good && !was_good {
            self.good(&key);
        }
        if !spoke || was_suspect {
            self.acts.push(Act::HealthSource(key.clone()));
        }
        if differs || !spoke || was_suspect {
            let (up, reason) = (result.up, result.reason.clone());
            self.acts.push(Act::Verdict { key: key.clone(), address: result.address, up, reason });
        }
        self.entered(&key, now_ms);
    }

    fn not_local(
        &mut self,
        id: SessionId,
        service: &str,
        revision: u64,
        addresses: Vec<IpAddr>,
        now_ms: u64,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(asked) = session.asked.get(service).filter(|asked| asked.revision == revision) else {
            self.counts.stale += 1;
            return;
        };
        let known: HashSet<IpAddr> = asked.targets.iter().map(|target| target.address).collect();
        let addresses: Vec<IpAddr> =
            addresses.into_iter().filter(|address| known.contains(address)).collect();
        for address in &addresses {
            session.not_local.insert((service.to_owned(), *address));
        }
        let agent = session.agent.clone();
        self.to_ask.insert(id);
        for address in addresses {
            let message = format!("{address} is not on the host of agent {agent}, it says");
            self.acts.push(Act::Event(EventKind::NotLocal, Some(service.to_owned()), None, message));
            let of = self.held.iter().filter(|(key, held)| {
                key.0 == service && held.address == address && held.session == Some(id)
            });
            let keys: Vec<BackendKey> = of.map(|(key, _)| key.clone()).collect();
            for key in keys {
                self.suspect(&key, "its agent says that it is not on its host", now_ms);
            }
        }
    }

    fn heartbeat(&mut self, id: SessionId, sequence: u64, digest: &str, loads: Vec<Load>, now_ms: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if sequence <= session.last_heartbeat {
            self.counts.stale += 1;
            return;
        }
        let figures = |load: &Load| [load.cpu_permille, load.custom_permille];
        if loads.len() > BACKENDS_MAX
            || loads.iter().flat_map(figures).flatten().any(|figure| figure > PERMILLE_MAX)
        {
            return self.malformed(id, "a heartbeat with loads that are none", now_ms);
        }
        session.last_heartbeat = sequence;
        if session.digest() != digest {
            self.counts.resyncs += 1;
            self.acts.push(Act::Tell(id, ToAgent::Resync {}));
        }
        self.acts.push(Act::Tell(id, ToAgent::Alive { sequence }));
        for load in loads {
            let key = (load.service.clone(), load.backend.clone());
            if let Some(held) = self.held.get_mut(&key).filter(|held| held.session == Some(id)) {
                held.load = Some(load);
                held.load_ms = now_ms;
            }
        }
    }

    /// Says what is to be checked, where that has changed.
    fn ask(&mut self, id: SessionId, now_ms: u64) {
        let Some(session) = self.sessions.get(&id) else { return };
        let mut wanted: BTreeMap<String, Vec<Target>> = BTreeMap::new();
        for service in &session.services {
            let Some(of) = self.facts.services.get(service).filter(|of| of.is_checked_by_agents) else {
                continue;
            };
            let asks = |address: &IpAddr| !session.not_local.contains(&(service.clone(), *address));
            let fixed = session.addresses.iter().filter(|address| asks(address));
            wanted.insert(
                service.clone(),
                fixed.filter_map(|address| of.fixed.get(address)).cloned().collect(),
            );
        }
        for key in &session.registered {
            let Some(of) = self.held.get(key).and_then(|held| held.registered.as_ref()) else { continue };
            let port = self.facts.services.get(&key.0).map_or(0, |of| of.port);
            if let Some(targets) = wanted.get_mut(&key.0)
                && !session.not_local.contains(&(key.0.clone(), of.address))
            {
                let backend = of.backend.clone();
                targets.push(Target { backend, address: of.address, port: of.port.unwrap_or(port) });
            }
        }
        for service in session.asked.keys() {
            wanted.entry(service.clone()).or_default();
        }
        let mut asked_keys = Vec::new();
        for (service, mut targets) in wanted {
            targets.sort_unstable();
            let Some(session) = self.sessions.get_mut(&id) else { return };
            let check = self.facts.services.get(&service).map(|of| of.check.clone());
            let before = session.asked.entry(service.clone()).or_insert_with(RequestedChecks::default);
            if before.targets == targets && (before.check == check || targets.is_empty()) {
                continue;
            }
            asked_keys.extend(targets.iter().map(|target| (service.clone(), target.backend.clone())));
            let spec = check.clone().or_else(|| before.check.clone());
            *before = RequestedChecks { revision: before.revision + 1, check, targets: targets.clone() };
            let revision = before.revision;
            session.asked_ms = Some(now_ms);
            let Some(check) = spec else { continue };
            self.acts.push(Act::Tell(id, ToAgent::Checks { service, revision, check, backends: targets }));
        }
        for key in asked_keys {
            if let Some(held) = self.held.get_mut(&key).filter(|held| held.session == Some(id)) {
                held.is_asked = true;
                self.entered(&key, now_ms);
            }
        }
    }

    /// Tells its agent when a registered backend's phase is another one.
    fn entered(&mut self, key: &BackendKey, now_ms: u64) {
        let Some(held) = self.held.get_mut(key) else { return };
        let phase = held.phase_now();
        if phase == held.phase {
            return;
        }
        held.phase = phase;
        held.since_ms = now_ms;
        if let (Some(id), true) = (held.session, held.registered.is_some()) {
            let (service, backend, reason) = (key.0.clone(), key.1.clone(), held.reason.clone());
            self.acts.push(Act::Tell(id, ToAgent::State { service, backend, state: phase, reason }));
        }
    }
}

/// Machines' part: what is in force, what own checks say.
impl AgentRegistry {
    /// What this machine has heard of registrations.
    pub(crate) fn received(&self) -> Received {
        Received {
            alive: self.held.values().filter_map(HeldBackend::wanted).cloned().collect(),
            over: self.over.values().cloned().collect(),
        }
    }

    /// These registrations are in force. What this machine has not heard of it checks by itself; what is over and not in
    /// force is done with; a suspect that is not in force is gone.
    pub(crate) fn agreed(&mut self, in_force: &[Registered], now_ms: u64) {
        let agreed: BTreeMap<BackendKey, &Registered> =
            in_force.iter().map(|of| ((of.service.clone(), of.backend.clone()), of)).collect();
        self.over.retain(|key, over| {
            agreed.get(key).is_some_and(|of| {
                of.is_place(&over.registered) && of.incarnation <= over.registered.incarnation
            })
        });
        let mut gone = Vec::new();
        for (key, held) in self.held.iter_mut().filter(|(_, held)| held.registered.is_some()) {
            let of = agreed.get(key).filter(|of| of.address == held.address);
            held.in_force = of.map(|of| (*of).clone());
            if held.in_force.is_none() && held.session.is_none() {
                gone.push(key.clone());
            }
        }
        for key in gone {
            self.event(EventKind::BackendDeregistered, &key, "no machine holds it to be alive");
            self.forget(&key);
        }
        for (key, of) in agreed {
            if self.held.contains_key(&key) || self.over.contains_key(&key) {
                continue;
            }
            let why = "this machine has heard nothing of its agent";
            self.insert_suspect(key, of.clone(), None, why, now_ms, now_ms);
        }
    }

    fn insert_suspect(
        &mut self,
        key: BackendKey,
        of: Registered,
        up: Option<bool>,
        why: &str,
        probed_from_ms: u64,
        now_ms: u64,
    ) {
        self.by_address.insert((key.0.clone(), of.address), key.1.clone());
        *self.registered.entry(key.0.clone()).or_default() += 1;
        let mut held = HeldBackend::new(of.address, of.agent.clone(), Some(of.clone()), now_ms);
        held.is_good = true;
        held.up = up;
        held.in_force = Some(of);
        why.clone_into(&mut held.reason);
        held.suspicion = Some(AgentSuspicion {
            since_ms: now_ms,
            why: why.to_owned(),
            probed_from_ms,
            failures: 0,
            is_probed: false,
        });
        held.phase = Phase::Suspect;
        self.acts.push(Act::HealthSource(key.clone()));
        self.held.insert(key, held);
    }

    /// Registrations from before a restart, and what was known of them: suspect; own checks begin when their leases would
    /// have ended.
    pub(crate) fn restore(&mut self, saved: impl IntoIterator<Item = (Registered, bool)>, now_ms: u64) {
        for (of, up) in saved {
            let key = (of.service.clone(), of.backend.clone());
            let Some(lease_ms) = self.facts.services.get(&key.0).map(|of| of.lease_ms) else { continue };
            let (rules, of_service) = (&self.facts.rules, self.registered.get(&key.0).copied().unwrap_or(0));
            let is_full = of_service >= rules.limit(&key.0)
                || self.registered.values().sum::<usize>() >= rules.limit_of_all();
            let is_taken = self.held.contains_key(&key)
                || self.by_address.contains_key(&(of.service.clone(), of.address));
            // The file may be of a configuration with other rules, or not ours.
            if rules.misfit(&of).is_some() || is_full || is_taken {
                continue;
            }
            self.insert_suspect(
                key,
                of,
                Some(up),
                "restarted; its agent is not back yet",
                now_ms + lease_ms,
                now_ms,
            );
        }
    }

    /// Who checks a backend that is in force.
    pub(crate) fn checker(&self, service: &str, backend: &str, address: IpAddr) -> CheckedBy {
        let key = (service.to_owned(), backend.to_owned());
        let is_agents = self.facts.services.get(service).is_some_and(|of| of.is_checked_by_agents);
        match self.held.get(&key).filter(|held| held.address == address && is_agents) {
            None => CheckedBy::Machine,
            Some(HeldBackend { suspicion: Some(suspicion), .. }) => {
                CheckedBy::Suspect { from_ms: suspicion.probed_from_ms }
            }
            Some(held) if held.speaks || held.registered.is_some() => CheckedBy::Agent,
            Some(_) => CheckedBy::Machine,
        }
    }

    /// What is known of a backend, and why.
    pub(crate) fn verdict(&self, service: &str, backend: &str, address: IpAddr) -> Option<(bool, &str)> {
        let held = self.held.get(&(service.to_owned(), backend.to_owned()))?;
        let is_told = held.address == address && (held.speaks || held.suspicion.is_some() || held.is_good);
        // A start that was not checked yet is no better than a failed check.
        let up = if held.is_good { held.up? } else { false };
        is_told.then_some((up, held.reason.as_str()))
    }

    /// An own check of a backend in force has ended. Suspects that fail `fall` times in a row are gone, if they registered.
    pub(crate) fn observed(&mut self, key: &BackendKey, address: IpAddr, passed: bool, reason: &str) {
        let fall = self.facts.services.get(&key.0).map_or(1, |of| of.check.fall);
        let Some(held) = self.held.get_mut(key).filter(|held| held.address == address) else { return };
        let Some(suspicion) = &mut held.suspicion else { return };
        let is_first = !std::mem::replace(&mut suspicion.is_probed, true);
        suspicion.failures = if passed { 0 } else { suspicion.failures.saturating_add(1) };
        let is_dead = suspicion.failures >= fall && held.registered.is_some() && held.session.is_none();
        reason.clone_into(&mut held.reason);
        if is_dead {
            let message = format!("its agent is silent, and own checks fail: {reason}");
            self.retire(key, EndReason::Dead, &message);
        } else if is_first {
            // It is not the agent's last word any more that holds.
            self.acts.push(Act::HealthSource(key.clone()));
        }
    }

    /// Own checks of a backend in force say something else now.
    pub(crate) fn judged(&mut self, key: &BackendKey, address: IpAddr, up: bool, now_ms: u64) {
        let by_machine = self.facts.services.get(&key.0).is_none_or(|of| !of.is_checked_by_agents);
        if let Some(held) = self.held.get_mut(key).filter(|held| held.address == address)
            && (held.suspicion.is_some() || by_machine)
        {
            held.up = Some(up);
            if up && !std::mem::replace(&mut held.is_good, true) {
                self.good(key);
            }
            self.entered(key, now_ms);
        }
    }

    /// A registration has had its first good check.
    fn good(&mut self, key: &BackendKey) {
        let held = self.held.get(key).map(|held| held.address);
        if self.over.get(key).is_some_and(|over| Some(over.registered.address) == held) {
            self.over.remove(key);
        }
        self.acts.push(Act::Received);
    }

    /// Registrations that wait for their first good check, and are checked by the machine.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = (&BackendKey, &Registered)> {
        self.held.iter().filter_map(|(key, held)| {
            let of = held.registered.as_ref().filter(|_| !held.is_good && held.in_force.is_none())?;
            let service = self.facts.services.get(&key.0)?;
            (!service.is_checked_by_agents).then_some((key, of))
        })
    }

    /// An own check of a candidate has ended.
    pub(crate) fn tried(
        &mut self,
        key: &BackendKey,
        incarnation: u64,
        passed: bool,
        reason: &str,
        now_ms: u64,
    ) {
        let Some(held) = self.held.get_mut(key) else { return };
        let is_it = held.registered.as_ref().is_some_and(|of| of.incarnation == incarnation);
        if !is_it || held.is_good {
            return;
        }
        held.is_asked = true;
        reason.clone_into(&mut held.reason);
        if passed {
            held.is_good = true;
            held.up = Some(true);
            let (address, reason) = (held.address, held.reason.clone());
            self.good(key);
            self.acts.push(Act::Verdict { key: key.clone(), address, up: true, reason });
        }
        self.entered(key, now_ms);
    }

    /// A backend that had departed is forgotten: its flows have ended, or its time is over.
    pub(crate) fn departed(&mut self, service: &str, backend: &str, agent: &str) {
        if self.held.contains_key(&(service.to_owned(), backend.to_owned())) {
            return;
        }
        if let Some(id) = self.agents.get(agent) {
            let message = ToAgent::State {
                service: service.to_owned(),
                backend: backend.to_owned(),
                state: Phase::Gone,
                reason: "its last flow has ended, or its time was over".to_owned(),
            };
            self.acts.push(Act::Tell(*id, message));
        }
    }

    /// What the agent says of a backend's load, and when that was; Milliseconds since the start.
    pub(crate) fn load(&self, service: &str, backend: &str) -> Option<(&Load, u64)> {
        let held = self.held.get(&(service.to_owned(), backend.to_owned()))?;
        Some((held.load.as_ref().filter(|_| held.suspicion.is_none())?, held.load_ms))
    }

    /// Backends that agents speak for or spoke for.
    pub(crate) fn held(&self) -> &BTreeMap<BackendKey, HeldBackend> {
        &self.held
    }

    /// Connections of agents.
    pub(crate) fn sessions(&self) -> &BTreeMap<SessionId, Session> {
        &self.sessions
    }

    /// Backends whose agents are silent.
    pub(crate) fn suspects(&self) -> usize {
        self.held.values().filter(|held| held.suspicion.is_some()).count()
    }
}

/// The shortest lease of these services.
fn lease(facts: &Facts, services: &BTreeSet<String>) -> u64 {
    services.iter().filter_map(|name| Some(facts.services.get(name)?.lease_ms)).min().unwrap_or(3000)
}

/// Whether a registration may follow the one that is known under its name.
fn check_successor(known: &Registered, of: &Registered) -> Result<(), Misfit> {
    if known.agent != of.agent {
        return Err(claimed(format!("backend \"{}\" is agent {}'s", of.backend, known.agent)));
    }
    let is_elsewhere = of.incarnation == known.incarnation && of.address != known.address;
    if of.incarnation < known.incarnation || is_elsewhere {
        let reason = format!("backend \"{}\" is known with a start that is newer, or elsewhere", of.backend);
        let help = "say a larger incarnation at each start of the backend";
        return Err(Misfit::new(RefusalCode::Stale, reason, help));
    }
    Ok(())
}

fn claimed(reason: String) -> Misfit {
    let help = "two hosts must not register the same; deregister the other one first";
    Misfit::new(RefusalCode::Claimed, reason, help)
}

/// A token is not that which was proved any more.
fn other_token() -> Misfit {
    let help = "read the token file again and say hello again";
    Misfit::new(RefusalCode::Proof, "the token has changed", help)
}

#[cfg(test)]
mod tests;
