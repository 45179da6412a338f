//! The controller and its agents: what they say reaches the registry, what the registry wants is done.

use super::event::AgentEvent;
use super::gate::Gate;
use super::registry::{Act, Registry};
use super::session::Key;
use crate::controller::{Controller, word_of_agent};
use crate::effect::Effect;
use crate::health::{Check, First, Subject};
use crate::state::SavedRegistration;
use model::api::{AgentStatus, CheckResult, EventKind, RegistrationStatus, Word};
use model::config::Config;
use model::registered::Registered;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Shortest time between two views for what may wait: registrations, and backends that come up. A storm of them costs
/// the workers four views a second.
pub(crate) const PUBLISH_EVERY: Duration = Duration::from_millis(250);

/// A registration that the machine itself checks before it is in force.
#[derive(Debug)]
pub(crate) struct Candidate {
    registered: Registered,
    check: Arc<Check>,
}

impl Registry {
    /// By whose word a checked backend is in its state.
    pub(crate) fn word(&self, service: &str, backend: &str, address: IpAddr) -> Word {
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
}

impl Controller {
    /// A connection of an agent says something.
    pub(crate) fn agent_event(&mut self, event: AgentEvent) {
        let now_ms = self.uptime_ms();
        match event {
            AgentEvent::Hello(hello) => self.registry.hello(hello, now_ms),
            AgentEvent::Message(id, message) => self.registry.message(id, message, now_ms),
            AgentEvent::Unproved(of) => self.registry.unproved(&of, now_ms),
            AgentEvent::Broken(id, code, what) => self.registry.broken(id, code, &what, now_ms),
            AgentEvent::Closed(id) => self.registry.closed(id, now_ms),
        }
    }

    /// Whom the listener lets in, of a configuration that the registry knows.
    pub(crate) fn open_gate(&mut self, connections: u32) {
        let tokens = self.registry.tokens().clone();
        self.effects.push(Effect::AgentGate(Gate { connections, tokens }));
    }

    /// Time passes, and what the registry wants is done.
    pub(crate) fn tend_agents(&mut self) {
        let now_ms = self.uptime_ms();
        self.registry.poll(now_ms);
        if self.act() {
            self.attend_candidates();
        }
        self.settle();
    }

    /// Whether there was anything to do.
    fn act(&mut self) -> bool {
        let acts = self.registry.take_acts();
        let has_acted = !acts.is_empty();
        let mut words = BTreeSet::new();
        for act in acts {
            match act {
                Act::Tell(id, message) => self.effects.push(Effect::Tell(id, message)),
                Act::Close(id) => self.effects.push(Effect::Close(id)),
                Act::Event(kind, service, backend, message) => {
                    self.unsaved = true;
                    self.log.push(kind, service.as_deref(), backend.as_deref(), message);
                }
                Act::Heard => self.heard_changed = true,
                Act::Word(key) => {
                    words.insert(key);
                }
                Act::Verdict { key, address, up, reason } => self.told(&key, address, up, &reason),
            }
        }
        if !words.is_empty() {
            self.words_changed(&words);
        }
        has_acted
    }

    /// An agent's word on a backend in force. While its clients make it suspect, the machine's own check decides.
    pub(crate) fn told(&mut self, (service, backend): &Key, address: IpAddr, up: bool, reason: &str) {
        let Some(id) = self.ids.backend(service, backend, address) else { return };
        if self.passive.suspect(service, id).is_some() {
            return;
        }
        let verdict = self.members.get_mut(&id).and_then(|member| member.verdict.as_mut());
        if let Some(change) =
            verdict.and_then(|verdict| verdict.told(up, word_of_agent(up, reason, self.now.unix_ms)))
        {
            self.verdict_changed(id, change);
        }
    }

    /// Who checks these backends may be another one now.
    pub(crate) fn words_changed(&mut self, keys: &BTreeSet<Key>) {
        let config = Arc::clone(&self.config);
        let concerned: BTreeSet<&String> = keys.iter().map(|(service, _)| service).collect();
        for service in config.services.iter().filter(|service| concerned.contains(&service.name)) {
            for backend in &service.backends {
                if !keys.contains(&(service.name.clone(), backend.name.clone())) {
                    continue;
                }
                let id = self.ids.backend(&service.name, &backend.name, backend.address);
                let Some((id, mut member)) = id.and_then(|id| self.members.remove_entry(&id)) else {
                    continue;
                };
                if member.verdict.is_some() {
                    self.attend(id, service, backend, &mut member);
                }
                self.members.insert(id, member);
            }
        }
        // Views do not say by whose word; what is shown does.
        self.judge();
    }

    /// Starts and ends checks of registrations that the machine itself has to check first.
    fn attend_candidates(&mut self) {
        if self.registry.candidates().next().is_none() {
            self.keep_candidates(|_, _| false);
            return;
        }
        let wanted: BTreeMap<Key, Registered> =
            self.registry.candidates().map(|(key, of)| (key.clone(), of.clone())).collect();
        self.keep_candidates(|key, candidate| wanted.get(key) == Some(&candidate.registered));
        for (key, of) in wanted {
            if self.candidates.contains_key(&key) {
                continue;
            }
            let Some(check) = self.check_of_candidate(&of) else { continue };
            let check = Arc::new(check);
            let subject = Subject::Candidate(key.0.clone(), key.1.clone(), of.incarnation);
            self.effects.push(Effect::StartCheck(subject, First::Spread, check.clone()));
            self.candidates.insert(key, Candidate { registered: of, check });
        }
    }

    /// Ends checks of those that are not kept.
    pub(crate) fn keep_candidates(&mut self, keeps: impl Fn(&Key, &Candidate) -> bool) {
        let effects = &mut self.effects;
        self.candidates.retain(|key, candidate| {
            let kept = keeps(key, candidate);
            if !kept {
                let (service, backend) = key.clone();
                let subject = Subject::Candidate(service, backend, candidate.registered.incarnation);
                effects.push(Effect::StopCheck(subject));
            }
            kept
        });
    }

    /// Always to its own address: the tunnel knows backends in force only.
    fn check_of_candidate(&self, of: &Registered) -> Option<Check> {
        let service = self.base.services.iter().find(|service| service.name == of.service)?;
        let health = &service.health;
        let exception =
            || self.ports.iter().find_map(|port| port.exception.as_ref().map(|(_, name)| name.clone()));
        Some(Check {
            kind: health.kind.clone(),
            target: (of.address, of.port.or(health.port).unwrap_or(service.port)).into(),
            vip: service.vip.first_host(),
            via: health.via.clone().or_else(exception),
            source: None,
            interval_ms: health.interval_ms,
            timeout_ms: health.timeout_ms,
        })
    }

    pub(crate) fn candidate_checked(
        &mut self,
        key: &Key,
        incarnation: u64,
        check: &Arc<Check>,
        result: &CheckResult,
    ) {
        let candidate = self.candidates.get(key);
        if candidate.is_some_and(|candidate| Arc::ptr_eq(&candidate.check, check)) {
            if result.unsent {
                self.check_unsent(&result.reason);
                return;
            }
            let now_ms = self.uptime_ms();
            self.registry.tried(key, incarnation, result.passed, &result.reason, now_ms);
            self.act();
        }
    }

    /// What has registered becomes part of the configuration in force, and what is over leaves it. Whether that changes it.
    pub(crate) fn renew_registered(&mut self) -> bool {
        let (config, skipped) = self.base.with_registered(&self.registry.heard().alive);
        self.registry.skipped(&skipped);
        if config == *self.config {
            let now_ms = self.uptime_ms();
            self.registry.agreed(&config.registered(), now_ms);
            return false;
        }
        self.part_with_strangers(&config);
        match self.tried(&config) {
            Ok(ids) => {
                self.put_in_force(config, ids);
                let config = Arc::clone(&self.config);
                self.part_with_strangers(&config);
                true
            }
            Err(error) => {
                let message = format!("what has registered cannot be put in force: {error}");
                self.log.push(EventKind::Warning, None, None, message);
                false
            }
        }
    }

    /// An address that another one registers now is the former one's no more: flows that were its are steered anew, lest they
    /// meet a stranger. Only the same start of the same backend comes back to its flows.
    fn part_with_strangers(&mut self, config: &Config) {
        let coming = config.registered();
        let before: HashMap<(String, String, IpAddr), String> = self
            .config
            .registered()
            .into_iter()
            .map(|of| ((of.service, of.backend, of.address), of.agent))
            .collect();
        for of in &coming {
            // In force by another agent, under the same name and address.
            let place = (of.service.clone(), of.backend.clone(), of.address);
            let is_other = before.get(&place).is_some_and(|agent| *agent != of.agent);
            if let (true, Some(id)) = (is_other, self.ids.backend(&of.service, &of.backend, of.address)) {
                self.ids.disown(id);
                if let Some(mut member) = self.members.remove(&id) {
                    self.stop_check(id, &mut member);
                }
                self.probe_ports.release(id);
                let message = format!("{} is another agent's now", of.address);
                let (service, backend) = (Some(of.service.as_str()), Some(of.backend.as_str()));
                self.log.push(EventKind::BackendForgotten, service, backend, message);
            }
        }
        if self.departed.is_empty() {
            return;
        }
        let coming: HashMap<(&str, IpAddr), &Registered> =
            coming.iter().map(|of| ((of.service.as_str(), of.address), of)).collect();
        let (ids, log) = (&mut self.ids, &mut self.log);
        self.departed.retain(|departed| {
            let Some(old) = departed.service.backends.first() else { return true };
            let Some(of) = coming.get(&(departed.service.name.as_str(), old.address)) else { return true };
            let by = old.registration.as_ref();
            if old.name == of.backend
                && by.is_some_and(|by| by.incarnation == of.incarnation && by.agent == of.agent)
            {
                return true;
            }
            ids.disown(departed.id);
            let message = format!("{} was registered anew: flows that it had are steered anew", old.address);
            log.push(EventKind::BackendForgotten, Some(&of.service), Some(&old.name), message);
            false
        });
    }

    /// How long what may wait has to wait.
    pub(crate) fn publishes_in(&self) -> Option<Duration> {
        let waits = self.lazy || (self.heard_changed && self.cluster.is_none());
        if waits {
            return Some(self.publish_from.saturating_sub(self.now.monotonic));
        }
        self.registry.is_busy().then_some(Duration::from_millis(10))
    }

    pub(crate) fn saved_registrations(&self) -> Vec<SavedRegistration> {
        let registered = self.config.registered().into_iter();
        let saved = registered.filter_map(|registered| {
            let id = self.ids.backend(&registered.service, &registered.backend, registered.address)?;
            let up = self.members.get(&id)?.verdict.as_ref()?.up()?;
            Some(SavedRegistration { registered, up })
        });
        saved.collect()
    }

    /// Unix time of a moment since the start.
    pub(crate) fn unix_of(&self, ms: u64) -> u64 {
        self.now.unix_ms.saturating_sub(self.uptime_ms()).saturating_add(ms)
    }

    /// Backends that agents speak for, or spoke for.
    pub(crate) fn registrations(&self) -> Vec<RegistrationStatus> {
        let held = self.registry.held().iter();
        let mut all: Vec<RegistrationStatus> = held
            .map(|((service, backend), held)| {
                let of = held.registered.as_ref();
                let load = held.load.as_ref();
                RegistrationStatus {
                    service: service.clone(),
                    backend: backend.clone(),
                    address: held.address,
                    registered: of.is_some(),
                    agent: held.agent.clone(),
                    incarnation: of.map(|of| of.incarnation),
                    weight: of.map(|of| of.weight),
                    port: of.and_then(|of| of.port),
                    capacity: of.and_then(|of| of.capacity),
                    state: held.phase,
                    since_unix_ms: self.unix_of(held.since_ms),
                    up: held.up,
                    reason: held.reason.clone(),
                    in_force: of.is_none() || held.in_force.is_some(),
                    suspected: match &held.suspicion {
                        Some(suspicion) => Some(suspicion.why.clone()),
                        None => self.doubt_of_clients(service, backend, held.address),
                    },
                    own_failures: held.suspicion.as_ref().map_or(0, |suspicion| suspicion.failures),
                    cpu_permille: load.and_then(|load| load.cpu_permille),
                    connections: load.and_then(|load| load.connections),
                    custom_permille: load.and_then(|load| load.custom_permille),
                }
            })
            .collect();
        for departed in &self.departed {
            let Some(backend) = departed.service.backends.first() else { continue };
            let Some(by) = &backend.registration else { continue };
            all.push(RegistrationStatus {
                service: departed.service.name.clone(),
                backend: backend.name.clone(),
                address: backend.address,
                registered: true,
                agent: by.agent.clone(),
                incarnation: Some(by.incarnation),
                weight: Some(backend.weight),
                port: by.port,
                capacity: Some(backend.capacity),
                state: model::agent::Phase::Draining,
                since_unix_ms: departed.since_unix_ms,
                up: None,
                reason: format!("{} flows live on", self.live_flows(departed.id)),
                in_force: false,
                suspected: None,
                own_failures: 0,
                cpu_permille: None,
                connections: None,
                custom_permille: None,
            });
        }
        all
    }

    /// Agents that are connected.
    pub(crate) fn agents(&self) -> Vec<AgentStatus> {
        let now_ms = self.uptime_ms();
        let sessions = self.registry.sessions().values();
        let mut all: Vec<AgentStatus> = sessions
            .map(|session| AgentStatus {
                name: session.agent.clone(),
                incarnation: session.incarnation,
                peer: session.peer.to_string(),
                addresses: session.addresses.iter().copied().collect(),
                services: session.services.iter().cloned().collect(),
                since_unix_ms: self.unix_of(session.since_ms),
                silent_ms: now_ms.saturating_sub(session.heard_ms),
                lease_ms: session.lease_ms,
                registered: session.registered.len() as u64,
                checks: session.asked.values().map(|asked| asked.targets.len() as u64).sum(),
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}
