//! One connection to a machine: what it asked, what it was told.

use model::agent::{BackendReport, CheckSpec, Load, Phase, RefusalCode, Target, ToMachine, digest};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Results in one report; more are told in further ones. So many of the longest fit in a frame.
const RESULTS_MAX: usize = 256;

/// A figure that has moved so far is told before its time.
const MUCH_PERMILLE: u16 = 100;
/// Time between two heartbeats, at least, milliseconds; unless the machine wants them more often.
const HASTE_MS: u64 = 250;

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// The connection is being made.
    Dialed,
    /// The hello is said.
    Greeted,
    /// The machine welcomed it.
    Welcomed,
}

/// What a machine asked for a service.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) revision: u64,
    pub(super) check: CheckSpec,
    /// On this host.
    pub(super) targets: BTreeSet<Target>,
    /// Counts all requests: which is the latest word.
    pub(super) order: u64,
}

/// What a machine said of a backend.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) state: Option<Phase>,
    pub(super) refused: Option<RefusalCode>,
    pub(super) reason: String,
    /// When to register it again.
    pub(super) retry_ms: Option<u64>,
}

/// A report's subject.
pub(super) type Place = (String, String, IpAddr);

/// The connection.
#[derive(Debug)]
pub(super) struct Session {
    /// `host:port`.
    pub(super) peer: String,
    /// Name of the machine; empty before its challenge.
    pub(super) machine: String,
    pub(super) stage: Stage,
    pub(super) begun_ms: u64,
    pub(super) heard_ms: u64,
    pub(super) lease_ms: u32,
    pub(super) heartbeat_ms: u32,
    pub(super) heartbeat_at_ms: u64,
    /// Services whose tokens both sides have.
    pub(super) proved: BTreeSet<String>,
    /// Services for which it is not accepted, and why.
    pub(super) refused: BTreeMap<String, String>,
    pub(super) said: BTreeMap<(String, String), Said>,
    pub(super) asked: BTreeMap<String, Asked>,
    /// Services of which all is to be told once more, from this time on.
    pub(super) owed: BTreeMap<String, u64>,
    told: BTreeMap<Place, BackendReport>,
    reports: u64,
    heartbeats: u64,
    /// CPU and own figure of each backend, as the last heartbeat told them.
    figures: BTreeMap<(String, String), (u16, u16)>,
}

impl Session {
    pub(super) fn new(peer: String, now_ms: u64) -> Session {
        Session {
            peer,
            machine: String::new(),
            stage: Stage::Dialed,
            begun_ms: now_ms,
            heard_ms: now_ms,
            lease_ms: 0,
            heartbeat_ms: 0,
            heartbeat_at_ms: 0,
            proved: BTreeSet::new(),
            refused: BTreeMap::new(),
            said: BTreeMap::new(),
            asked: BTreeMap::new(),
            owed: BTreeMap::new(),
            told: BTreeMap::new(),
            reports: 0,
            heartbeats: 0,
            figures: BTreeMap::new(),
        }
    }

    pub(super) fn is_welcome(&self) -> bool {
        self.stage == Stage::Welcomed
    }

    /// Whether backends of `service` may be registered with it.
    pub(super) fn takes(&self, service: &str) -> bool {
        self.is_welcome() && self.proved.contains(service) && !self.refused.contains_key(service)
    }

    /// What it asked of `target`.
    pub(super) fn asks(&self, service: &str, target: &Target) -> Option<&Asked> {
        self.asked.get(service).filter(|asked| asked.targets.contains(target))
    }

    /// How many targets it asked for, without those of `service`.
    pub(super) fn asked_but(&self, service: &str) -> usize {
        self.asked.iter().filter(|(name, _)| *name != service).map(|(_, asked)| asked.targets.len()).sum()
    }

    /// Whether it was told something about what it does not ask any more.
    pub(super) fn told_too_much(&self) -> bool {
        let asked: BTreeSet<(&str, &str, IpAddr)> = self
            .asked
            .iter()
            .flat_map(|(service, asked)| {
                asked.targets.iter().map(move |t| (service.as_str(), t.backend.as_str(), t.address))
            })
            .collect();
        self.told.keys().any(|(service, backend, address)| !asked.contains(&(service, backend, *address)))
    }

    /// Messages that tell `results`; `full`: these are all.
    pub(super) fn report(&mut self, results: Vec<BackendReport>, full: bool) -> Vec<ToMachine> {
        if full {
            self.told.clear();
        }
        for of in &results {
            self.told.insert((of.service.clone(), of.backend.clone(), of.address), of.clone());
        }
        let mut messages = Vec::new();
        let mut rest = results;
        loop {
            let later = if rest.len() > RESULTS_MAX { rest.split_off(RESULTS_MAX) } else { Vec::new() };
            let first = messages.is_empty();
            if !rest.is_empty() || (first && full) {
                self.reports += 1;
                messages.push(ToMachine::Report {
                    sequence: self.reports,
                    full: full && first,
                    results: rest,
                });
            }
            if later.is_empty() {
                return messages;
            }
            rest = later;
        }
    }

    /// The next heartbeat.
    pub(super) fn heartbeat(&mut self, loads: Vec<Load>, now_ms: u64) -> ToMachine {
        self.heartbeats += 1;
        self.figures =
            loads.iter().map(|load| ((load.service.clone(), load.backend.clone()), figures(load))).collect();
        self.heartbeat_at_ms = now_ms + u64::from(self.heartbeat_ms);
        let digest = format!("{:016x}", digest(self.told.values()));
        ToMachine::Heartbeat { sequence: self.heartbeats, digest, loads }
    }

    /// Makes a heartbeat due when a figure has moved by [`MUCH_PERMILLE`] since the last one.
    pub(super) fn hasten(&mut self, loads: &BTreeMap<(String, String), Load>, now_ms: u64) {
        let moved = self.figures.iter().any(|(id, before)| {
            let now = loads.get(id).map_or((0, 0), figures);
            now.0.abs_diff(before.0) >= MUCH_PERMILLE || now.1.abs_diff(before.1) >= MUCH_PERMILLE
        });
        let last_ms = self.heartbeat_at_ms.saturating_sub(u64::from(self.heartbeat_ms));
        if moved {
            self.heartbeat_at_ms = self.heartbeat_at_ms.min(now_ms.max(last_ms + HASTE_MS));
        }
    }
}

fn figures(load: &Load) -> (u16, u16) {
    (load.cpu_permille.unwrap_or(0), load.custom_permille.unwrap_or(0))
}
