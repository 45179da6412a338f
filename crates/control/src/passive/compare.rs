//! The controller and passive health: counters are compared, and suspects are checked by the machine.

use super::{BackendSample, ClientCounts, Pool, SuspicionChange};
use crate::agents::registry::CheckedBy;
use crate::agents::tend;
use crate::controller::Controller;
use crate::health::Verdict;
use model::api::{BackendStatus, EventKind};
use model::config::{Hash, HealthKind, Policy, Protocol, Service};
use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use wire::BackendId;

fn is_compared(service: &Service) -> bool {
    service.protocol == Protocol::Tcp && service.health.kind != HealthKind::None
}

/// Before figures are written: ends trials that have had their flows, or their time.
pub(crate) fn end_trials(controller: &mut Controller) {
    let mut trials = std::mem::take(&mut controller.passive.trials);
    trials.end(|id| controller.syns(id), controller.uptime_ms());
    controller.passive.trials = trials;
}

/// Flows that a backend is still to have, if it is tried.
pub(crate) fn left_of_trial(controller: &Controller, id: BackendId) -> Option<u64> {
    controller.passive.trials.left(id, || controller.syns(id))
}

/// When a step is over: compares what clients of backends do.
pub(crate) fn compare_clients(controller: &mut Controller) {
    let now_ms = controller.uptime_ms();
    let mut pools = std::mem::take(&mut controller.passive.pools);
    let (mut turns, mut trials) = (Vec::new(), Vec::new());
    let compared = || controller.config.services.iter().filter(|service| is_compared(service));
    if !pools.is_empty() {
        let names: HashSet<&str> = compared().map(|service| service.name.as_str()).collect();
        pools.retain(|name, _| names.contains(name.as_str()));
    }
    for service in compared() {
        let pool = pools.entry(service.name.clone()).or_default();
        if pool.is_due(now_ms) {
            let turned = pool.observe(&seen(controller, service), service.hash == Hash::Source, now_ms);
            turns.extend(turned.into_iter().map(|turn| (service.name.clone(), turn)));
            if service.policy == Policy::LeastLoad {
                trials.extend(pool.trials());
            }
        }
    }
    controller.passive.due_ms = pools.values().map(Pool::due_ms).min();
    controller.passive.pools = pools;
    for trial in trials {
        let had = controller.syns(trial.id);
        controller.passive.trials.begin(trial, had, now_ms);
    }
    if !turns.is_empty() {
        suspicions_turned(controller, turns);
    }
}

pub(crate) fn seen(controller: &Controller, service: &Service) -> Vec<BackendSample> {
    let ids = service.backends.iter();
    let ids = ids
        .filter_map(|backend| controller.backends.ids.backend(&service.name, &backend.name, backend.address));
    ids.map(|id| {
        let mut counts = ClientCounts::default();
        for flows in controller.workers.iter().filter_map(|worker| worker.counters.flows_of(id)) {
            counts.syns += flows.syns();
            counts.handshakes += flows.handshakes.get();
        }
        for ends in controller.workers.iter().filter_map(|worker| worker.counters.ends(id)) {
            counts.soon += ends.soon.get();
            counts.closes += ends.closes.get();
        }
        let verdict = controller.backends.members.get(&id).and_then(|member| member.verdict.as_ref());
        BackendSample { id, counts, is_up: verdict.and_then(Verdict::up) == Some(true) }
    })
    .collect()
}

/// The machine checks suspects by itself; of those that are none any more their agents' words count again.
pub(crate) fn suspicions_turned(controller: &mut Controller, turns: Vec<(String, SuspicionChange)>) {
    let mut keys = BTreeSet::new();
    let mut trusted = Vec::new();
    for (service, turn) in turns {
        let (id, kind, message) = match turn {
            SuspicionChange::Suspect(id, ratio) => {
                controller.passive.suspicions += 1;
                let message = format!("{}; own check decides", ratio.fault());
                (id, EventKind::BackendSuspect, message)
            }
            SuspicionChange::Recovered(id, ratio) => (id, EventKind::BackendTrusted, ratio.mended()),
            SuspicionChange::Quiet(id) => {
                let message = "own checks pass, and too few clients come to compare them".to_owned();
                (id, EventKind::BackendTrusted, message)
            }
        };
        let Some(member) = controller.backends.members.get(&id) else { continue };
        controller.log.push(kind, Some(&service), Some(&member.name), message);
        let key = (service, member.name.clone());
        if kind == EventKind::BackendTrusted {
            trusted.push((key.clone(), member.address));
        }
        keys.insert(key);
    }
    tend::health_sources_changed(controller, &keys);
    for (key, address) in trusted {
        if matches!(controller.agents.registry.checker(&key.0, &key.1, address), CheckedBy::Agent)
            && let Some((up, reason)) = controller.agents.registry.verdict(&key.0, &key.1, address)
        {
            let reason = reason.to_owned();
            tend::told(controller, &key, address, up, &reason);
        }
    }
}

/// Why its clients make a backend suspect.
pub(crate) fn doubt_of_clients(
    controller: &Controller,
    service: &str,
    backend: &str,
    address: IpAddr,
) -> Option<String> {
    let suspect =
        controller.passive.suspect(service, controller.backends.ids.backend(service, backend, address)?)?;
    Some(suspect.ratio.fault())
}

/// What its clients have to do with a backend's state.
pub(crate) fn say_clients(controller: &Controller, status: &mut BackendStatus) {
    let Some(suspect) = controller.passive.suspect(&status.service, BackendId(status.id)) else { return };
    let mut reason = format!("suspect, {}", suspect.ratio.fault());
    let last = status.health.as_ref().and_then(|health| health.last.as_ref());
    if let Some(last) = last.filter(|_| suspect.is_probed) {
        reason = format!("{reason}; own check: {}", last.reason);
    }
    if let (Some(other), Some(_)) = (&status.reason, status.suspect_since_unix_ms) {
        reason = format!("{other}; {reason}");
    }
    status.reason = Some(reason);
    let since = controller.unix_of(suspect.since_ms);
    status.suspect_since_unix_ms = Some(status.suspect_since_unix_ms.map_or(since, |of| of.min(since)));
}
