//! The controller and its agents: what they say reaches the registry, what the registry wants is done.

use super::candidate::Candidate;
use super::event::AgentEvent;
use super::registry::Act;
use super::session::BackendKey;
use crate::backends::check;
use crate::backends::check::word_of_agent;
use crate::backends::judge;
use crate::controller::Controller;
use crate::effect::Effect;
use crate::health::{Check, First, Subject};
use crate::state::SavedRegistration;
use model::api::CheckResult;
use model::registered::Registered;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// A connection of an agent says something.
pub(crate) fn agent_event(controller: &mut Controller, event: AgentEvent) {
    let now_ms = controller.uptime_ms();
    match event {
        AgentEvent::Hello(hello) => controller.agents.registry.hello(hello, now_ms),
        AgentEvent::Message(id, message) => controller.agents.registry.message(id, message, now_ms),
        AgentEvent::Unproved(of) => controller.agents.registry.unproved(&of, now_ms),
        AgentEvent::Broken(id, code, what) => controller.agents.registry.broken(id, code, &what, now_ms),
        AgentEvent::Closed(id) => controller.agents.registry.closed(id, now_ms),
    }
}

/// Time passes, and what the registry wants is done.
pub(crate) fn tend_agents(controller: &mut Controller) {
    let now_ms = controller.uptime_ms();
    controller.agents.registry.poll(now_ms);
    if act(controller) {
        attend_candidates(controller);
    }
}

/// Whether there was anything to do.
pub(crate) fn act(controller: &mut Controller) -> bool {
    let acts = controller.agents.registry.take_acts();
    let has_acted = !acts.is_empty();
    let mut words = BTreeSet::new();
    for act in acts {
        match act {
            Act::Tell(id, message) => controller.effects.push(Effect::Tell(id, message)),
            Act::Close(id) => controller.effects.push(Effect::Close(id)),
            Act::Event(kind, service, backend, message) => {
                controller.saving.unsaved = true;
                controller.log.push(kind, service.as_deref(), backend.as_deref(), message);
            }
            Act::Received => controller.agents.received_changed = true,
            Act::HealthSource(key) => {
                words.insert(key);
            }
            Act::Verdict { key, address, up, reason } => told(controller, &key, address, up, &reason),
        }
    }
    if !words.is_empty() {
        health_sources_changed(controller, &words);
    }
    has_acted
}

/// An agent's word on a backend in force. While its clients make it suspect, the machine's own check decides.
pub(crate) fn told(
    controller: &mut Controller,
    (service, backend): &BackendKey,
    address: IpAddr,
    up: bool,
    reason: &str,
) {
    let Some(id) = controller.backends.ids.backend(service, backend, address) else { return };
    if controller.passive.suspect(service, id).is_some() {
        return;
    }
    let verdict = controller.backends.members.get_mut(&id).and_then(|member| member.verdict.as_mut());
    if let Some(change) =
        verdict.and_then(|verdict| verdict.told(up, word_of_agent(up, reason, controller.now.unix_ms)))
    {
        check::verdict_changed(controller, id, change);
    }
}

/// Who checks these backends may be another one now.
pub(crate) fn health_sources_changed(controller: &mut Controller, keys: &BTreeSet<BackendKey>) {
    let config = Arc::clone(&controller.config);
    let concerned: BTreeSet<&String> = keys.iter().map(|(service, _)| service).collect();
    for service in config.services.iter().filter(|service| concerned.contains(&service.name)) {
        for backend in &service.backends {
            if !keys.contains(&(service.name.clone(), backend.name.clone())) {
                continue;
            }
            let id = controller.backends.ids.backend(&service.name, &backend.name, backend.address);
            let Some((id, mut member)) = id.and_then(|id| controller.backends.members.remove_entry(&id))
            else {
                continue;
            };
            if member.verdict.is_some() {
                check::attend(controller, id, service, backend, &mut member);
            }
            controller.backends.members.insert(id, member);
        }
    }
    // Views do not say by whose word; what is shown does.
    judge::judge(controller);
}

/// Starts and ends checks of registrations that the machine itself has to check first.
pub(crate) fn attend_candidates(controller: &mut Controller) {
    if controller.agents.registry.candidates().next().is_none() {
        keep_candidates(controller, |_, _| false);
        return;
    }
    let wanted: BTreeMap<BackendKey, Registered> =
        controller.agents.registry.candidates().map(|(key, of)| (key.clone(), of.clone())).collect();
    keep_candidates(controller, |key, candidate| wanted.get(key) == Some(&candidate.registered));
    for (key, of) in wanted {
        if controller.agents.candidates.contains_key(&key) {
            continue;
        }
        let Some(check) = check_of_candidate(controller, &of) else { continue };
        let check = Arc::new(check);
        let subject = Subject::Candidate(key.0.clone(), key.1.clone(), of.incarnation);
        controller.effects.push(Effect::StartCheck(subject, First::Spread, check.clone()));
        controller.agents.candidates.insert(key, Candidate { registered: of, check });
    }
}

/// Ends checks of those that are not kept.
pub(crate) fn keep_candidates(controller: &mut Controller, keeps: impl Fn(&BackendKey, &Candidate) -> bool) {
    let effects = &mut controller.effects;
    controller.agents.candidates.retain(|key, candidate| {
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
pub(crate) fn check_of_candidate(controller: &Controller, of: &Registered) -> Option<Check> {
    let service = controller.base.services.iter().find(|service| service.name == of.service)?;
    let health = &service.health;
    let exception =
        || controller.ports.iter().find_map(|port| port.exception.as_ref().map(|(_, name)| name.clone()));
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
    controller: &mut Controller,
    key: &BackendKey,
    incarnation: u64,
    check: &Arc<Check>,
    result: &CheckResult,
) {
    let candidate = controller.agents.candidates.get(key);
    if candidate.is_some_and(|candidate| Arc::ptr_eq(&candidate.check, check)) {
        if result.unsent {
            check::check_unsent(controller, &result.reason);
            return;
        }
        let now_ms = controller.uptime_ms();
        controller.agents.registry.tried(key, incarnation, result.passed, &result.reason, now_ms);
        act(controller);
    }
}

pub(crate) fn saved_registrations(controller: &Controller) -> Vec<SavedRegistration> {
    let registered = controller.config.registered().into_iter();
    let saved = registered.filter_map(|registered| {
        let id =
            controller.backends.ids.backend(&registered.service, &registered.backend, registered.address)?;
        let up = controller.backends.members.get(&id)?.verdict.as_ref()?.up()?;
        Some(SavedRegistration { registered, up })
    });
    saved.collect()
}
