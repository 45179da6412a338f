//! Checks of backends in force, and what their results mean.

use crate::agents::registry::{self};
use crate::backends::ConfiguredBackend;
use crate::backends::judge;
use crate::controller::Controller;
use crate::effect::Effect;
use crate::health::{Change, Check, First, Rules, Subject, Verdict};
use crate::reconcile::seen;
use model::api::{CheckResult, EventKind};
use model::config::{Backend, Route, Service};
use std::sync::Arc;
use wire::BackendId;

/// Checks a backend in force, or leaves that to its agent.
pub(crate) fn attend(
    controller: &mut Controller,
    id: BackendId,
    service: &Service,
    backend: &Backend,
    member: &mut ConfiguredBackend,
) {
    let is_doubted = controller.passive.suspect(&service.name, id).is_some();
    let first = match controller.agents.registry.checker(&service.name, &backend.name, backend.address) {
        // Neither its agent's word nor its silence answers that.
        registry::CheckedBy::Agent | registry::CheckedBy::Suspect { .. } if is_doubted => First::After(0),
        registry::CheckedBy::Agent => {
            controller.stop_check(id, member);
            return;
        }
        registry::CheckedBy::Machine => First::Spread,
        registry::CheckedBy::Suspect { from_ms } => {
            First::After(from_ms.saturating_sub(controller.uptime_ms()))
        }
    };
    let check = check_for(controller, id, service, backend);
    if member.check.as_ref().is_none_or(|known| **known != check) {
        let check = Arc::new(check);
        controller.effects.push(Effect::StartCheck(Subject::Backend(id), first, check.clone()));
        member.check = Some(check);
    }
}

pub(crate) fn check_for(
    controller: &mut Controller,
    id: BackendId,
    service: &Service,
    backend: &Backend,
) -> Check {
    let address = backend.address;
    let health = &service.health;
    let via = health.via.clone().or_else(|| {
        controller.ports.iter().find_map(|port| port.exception.as_ref().map(|(_, name)| name.clone()))
    });
    let port = service.check_port(backend);
    let vip = service.vip.first_host();
    let (target, source) = match health.route {
        Route::Direct => {
            controller.backends.probe_ports.release(id);
            (address, None)
        }
        Route::Tunnel => (vip, Some(controller.backends.probe_ports.source(id, vip, &controller.config))),
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

pub(crate) fn checked(controller: &mut Controller, id: BackendId, check: &Arc<Check>, result: CheckResult) {
    let now_ms = controller.uptime_ms();
    let Some(member) = controller.backends.members.get(&id) else { return };
    // A result of a check that was replaced meanwhile says nothing about the new one.
    if !member.check.as_ref().is_some_and(|known| Arc::ptr_eq(known, check)) {
        return;
    }
    if seen::is_blind(controller, check, &result) {
        return;
    }
    let Some(member) = controller.backends.members.get_mut(&id) else { return };
    let Some(service) = controller.config.services.iter().find(|service| service.name == member.service)
    else {
        return;
    };
    let health = &service.health;
    let rules = Rules { interval_ms: health.interval_ms, fall: health.fall, rise: health.rise };
    let Some(verdict) = &mut member.verdict else { return };
    let (key, address) = ((member.service.clone(), member.name.clone()), member.address);
    let (passed, unsent, reason) = (result.passed, result.unsent, result.reason.clone());
    let change = verdict.observe(result, rules, now_ms);
    if unsent {
        check_unsent(controller, &reason);
        return;
    }
    controller.agents.registry.observed(&key, address, passed, &reason);
    if let Some(change) = change {
        controller.agents.registry.judged(&key, address, change == Change::Up, now_ms);
        verdict_changed(controller, id, change);
    }
    if controller.passive.probed(&key.0, id) {
        // It is not the agent's word any more that holds.
        judge::judge(controller);
    }
}

/// A check could not leave, which says nothing of its backend.
pub(crate) fn check_unsent(controller: &mut Controller, reason: &str) {
    if let Some(count) = controller.backends.unsent.add(controller.uptime_ms()) {
        let message =
            format!("{count} checks since this was said last: {reason}; backends stay in their states");
        controller.log.push(EventKind::Warning, None, None, message);
    }
}

/// What checks say of a backend in force is something else now. What is down is down at once; what is up may wait for
/// others.
pub(crate) fn verdict_changed(controller: &mut Controller, id: BackendId, change: Change) {
    let Some(member) = controller.backends.members.get(&id) else { return };
    let (service, name) = (Some(member.service.as_str()), Some(member.name.as_str()));
    match change {
        Change::Up => {
            controller.log.push(EventKind::BackendUp, service, name, format!("{} is up", member.address));
            controller.publication.lazy = true;
        }
        Change::Down { hold_ms } => {
            let reason = member.verdict.as_ref().map_or("", Verdict::reason);
            let message = format!("{} is down: {reason}", member.address);
            controller.log.push(EventKind::BackendDown, service, name, message);
            if hold_ms > 0 {
                let message = format!("flaps; stays down for at least {hold_ms} ms");
                controller.log.push(EventKind::HoldDown, service, name, message);
            }
            controller.publication.dirty = true;
        }
    }
    controller.saving.unsaved = true;
    controller.backends.health_changed = true;
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
