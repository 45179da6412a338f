//! The controller and passive health: counters are compared, and suspects are checked by the machine.

use super::{Counts, Pool, STEP_MS, Seen, Suspect, Trials, Turn};
use crate::agents::registry::{Checker, Registry};
use crate::controller::Controller;
use crate::health::Verdict;
use model::api::{BackendStatus, EventKind, Word};
use model::config::{Backend, Hash, HealthKind, Policy, Protocol, Service};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;
use wire::BackendId;
use worker::counters::PerBackendFlows;

/// All services whose clients are counted and something checks backends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Passive {
    pools: HashMap<String, Pool>,
    /// When the first of them has a step that is over.
    due_ms: Option<u64>,
    /// Where load decides: those that are given flows to tell by.
    pub(crate) trials: Trials,
    /// Suspicions that began, since the start.
    pub(crate) suspicions: u64,
}

impl Passive {
    /// What its clients make of a backend.
    pub(crate) fn suspect(&self, service: &str, id: BackendId) -> Option<&Suspect> {
        self.pools.get(service)?.suspects().get(&id)
    }

    /// By whose word a checked backend is in its state.
    pub(crate) fn word(&self, registry: &Registry, service: &str, backend: &Backend, id: BackendId) -> Word {
        match self.suspect(service, id) {
            Some(suspect) if suspect.is_probed => Word::Health,
            _ => registry.word(service, &backend.name, backend.address),
        }
    }

    /// An own check of a backend has ended. Whether it is the first of a suspect.
    pub(crate) fn probed(&mut self, service: &str, id: BackendId) -> bool {
        self.pools.get_mut(service).is_some_and(|pool| pool.probed(id))
    }

    /// Backends that are suspect now.
    pub(crate) fn suspects(&self) -> usize {
        self.pools.values().map(|pool| pool.suspects().len()).sum()
    }
}

fn is_compared(service: &Service) -> bool {
    service.protocol == Protocol::Tcp && service.health.kind != HealthKind::None
}

impl Controller {
    /// Time until the next step of any service is over. Looked at twice a second only, steps would be longer by half whenever a timer is a
    /// millisecond late.
    pub(crate) fn compares_in(&self) -> Duration {
        let due_in = |due_ms: u64| due_ms.saturating_sub(self.uptime_ms());
        Duration::from_millis(self.passive.due_ms.map_or(STEP_MS, due_in))
    }

    /// Before figures are written: ends trials that have had their flows, or their time.
    pub(crate) fn end_trials(&mut self) {
        let mut trials = std::mem::take(&mut self.passive.trials);
        trials.end(|id| self.syns(id), self.uptime_ms());
        self.passive.trials = trials;
    }

    /// Flows that a backend is still to have, if it is tried.
    pub(crate) fn left_of_trial(&self, id: BackendId) -> Option<u64> {
        self.passive.trials.left(id, || self.syns(id))
    }

    /// Flows that a SYN began, all workers.
    fn syns(&self, id: BackendId) -> u64 {
        self.workers.iter().filter_map(|of| of.counters.flows_of(id)).map(PerBackendFlows::syns).sum()
    }

    /// When a step is over: compares what clients of backends do.
    pub(crate) fn compare_clients(&mut self) {
        let now_ms = self.uptime_ms();
        let mut pools = std::mem::take(&mut self.passive.pools);
        let (mut turns, mut trials) = (Vec::new(), Vec::new());
        let compared = || self.config.services.iter().filter(|service| is_compared(service));
        if !pools.is_empty() {
            let names: HashSet<&str> = compared().map(|service| service.name.as_str()).collect();
            pools.retain(|name, _| names.contains(name.as_str()));
        }
        for service in compared() {
            let pool = pools.entry(service.name.clone()).or_default();
            if pool.is_due(now_ms) {
                let turned = pool.observe(&self.seen(service), service.hash == Hash::Source, now_ms);
                turns.extend(turned.into_iter().map(|turn| (service.name.clone(), turn)));
                if service.policy == Policy::LeastLoad {
                    trials.extend(pool.trials());
                }
            }
        }
        self.passive.due_ms = pools.values().map(Pool::due_ms).min();
        self.passive.pools = pools;
        for trial in trials {
            let had = self.syns(trial.id);
            self.passive.trials.begin(trial, had, now_ms);
        }
        if !turns.is_empty() {
            self.suspicions_turned(turns);
        }
    }

    fn seen(&self, service: &Service) -> Vec<Seen> {
        let ids = service.backends.iter();
        let ids = ids.filter_map(|backend| self.ids.backend(&service.name, &backend.name, backend.address));
        ids.map(|id| {
            let mut counts = Counts::default();
            for flows in self.workers.iter().filter_map(|worker| worker.counters.flows_of(id)) {
                counts.syns += flows.syns();
                counts.handshakes += flows.handshakes.get();
            }
            for ends in self.workers.iter().filter_map(|worker| worker.counters.ends(id)) {
                counts.soon += ends.soon.get();
                counts.closes += ends.closes.get();
            }
            let verdict = self.members.get(&id).and_then(|member| member.verdict.as_ref());
            Seen { id, counts, is_up: verdict.and_then(Verdict::up) == Some(true) }
        })
        .collect()
    }

    /// The machine checks suspects by itself; of those that are none any more their agents' words count again.
    fn suspicions_turned(&mut self, turns: Vec<(String, Turn)>) {
        let mut keys = BTreeSet::new();
        let mut trusted = Vec::new();
        for (service, turn) in turns {
            let (id, kind, message) = match turn {
                Turn::Suspect(id, ratio) => {
                    self.passive.suspicions += 1;
                    let message = format!("{}; own check decides", ratio.fault());
                    (id, EventKind::BackendSuspect, message)
                }
                Turn::Recovered(id, ratio) => (id, EventKind::BackendTrusted, ratio.mended()),
                Turn::Quiet(id) => {
                    let message = "own checks pass, and too few clients come to compare them".to_owned();
                    (id, EventKind::BackendTrusted, message)
                }
            };
            let Some(member) = self.members.get(&id) else { continue };
            self.log.push(kind, Some(&service), Some(&member.name), message);
            let key = (service, member.name.clone());
            if kind == EventKind::BackendTrusted {
                trusted.push((key.clone(), member.address));
            }
            keys.insert(key);
        }
        self.words_changed(&keys);
        for (key, address) in trusted {
            if matches!(self.registry.checker(&key.0, &key.1, address), Checker::Agent)
                && let Some((up, reason)) = self.registry.verdict(&key.0, &key.1, address)
            {
                let reason = reason.to_owned();
                self.told(&key, address, up, &reason);
            }
        }
    }

    /// Why its clients make a backend suspect.
    pub(crate) fn doubt_of_clients(&self, service: &str, backend: &str, address: IpAddr) -> Option<String> {
        let suspect = self.passive.suspect(service, self.ids.backend(service, backend, address)?)?;
        Some(suspect.ratio.fault())
    }

    /// What its clients have to do with a backend's state.
    pub(crate) fn say_clients(&self, status: &mut BackendStatus) {
        let Some(suspect) = self.passive.suspect(&status.service, BackendId(status.id)) else { return };
        let mut reason = format!("suspect, {}", suspect.ratio.fault());
        let last = status.health.as_ref().and_then(|health| health.last.as_ref());
        if let Some(last) = last.filter(|_| suspect.is_probed) {
            reason = format!("{reason}; own check: {}", last.reason);
        }
        if let (Some(other), Some(_)) = (&status.reason, status.suspect_since_unix_ms) {
            reason = format!("{other}; {reason}");
        }
        status.reason = Some(reason);
        let since = self.unix_of(suspect.since_ms);
        status.suspect_since_unix_ms = Some(status.suspect_since_unix_ms.map_or(since, |of| of.min(since)));
    }
}
