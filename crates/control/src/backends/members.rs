//! Backends come and go with the configuration in force.

use crate::backends::check;
use crate::backends::check::word_of_agent;
use crate::backends::{ConfiguredBackend, DepartedBackend};
use crate::controller::Controller;
use crate::event_log::EventLog;
use crate::health::Verdict;
use crate::neighbour::next_hop::NextHops;
use model::api::{BackendState, EventKind, Word};
use model::config::{Backend, Config, HealthKind, Mac, Service};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use wire::BackendId;

/// Forgets states of services that are not configured any more.
pub(crate) fn keep_states(controller: &mut Controller) {
    let names: HashSet<&str> = controller.config.services.iter().map(|of| of.name.as_str()).collect();
    controller.backends.service_states.retain(|name, _| names.contains(name.as_str()));
}

/// The backends of the configuration in force are the members, in place of those of the one `before`.
pub(crate) fn replace_members(controller: &mut Controller, before: &Config, tells: bool) {
    controller.backends.health_changed = true;
    let mut old = std::mem::take(&mut controller.backends.members);
    // What is known of backends from before a restart, or from before their service got another VIP or port.
    let mut known: HashMap<(String, String, IpAddr), bool> = HashMap::new();
    for last in &controller.backends.remembered {
        known.insert((last.service.clone(), last.backend.clone(), last.address), last.up);
    }
    for member in old.values() {
        if let Some(up) = member.verdict.as_ref().and_then(Verdict::up) {
            known.insert((member.service.clone(), member.name.clone(), member.address), up);
        }
    }
    let config = Arc::clone(&controller.config);
    let mut departed: HashMap<BackendId, DepartedBackend> =
        std::mem::take(&mut controller.backends.departed).into_iter().map(|of| (of.id, of)).collect();
    for service in &config.services {
        for backend in &service.backends {
            let Some(id) = controller.backends.ids.backend(&service.name, &backend.name, backend.address)
            else {
                continue;
            };
            departed.remove(&id);
            let mut member = old.remove(&id).unwrap_or_else(|| {
                if tells {
                    tell_added(&mut controller.log, service, backend);
                }
                newcomer(service, backend, controller.now.unix_ms)
            });
            if service.health.kind == HealthKind::None {
                controller.stop_check(id, &mut member);
                member.verdict = None;
            } else {
                if member.verdict.is_none() {
                    let key = (service.name.clone(), backend.name.clone(), backend.address);
                    let up = known.get(&key).copied();
                    let mut verdict = up.map_or_else(Verdict::default, Verdict::remembered);
                    let told =
                        controller.agents.registry.verdict(&service.name, &backend.name, backend.address);
                    if let Some((up, reason)) = told {
                        verdict.told(up, word_of_agent(up, reason, controller.now.unix_ms));
                    }
                    member.verdict = Some(verdict);
                }
                check::attend(controller, id, service, backend, &mut member);
            }
            controller.backends.members.insert(id, member);
        }
    }
    controller.backends.departed = departed.into_values().collect();
    controller.backends.departed.sort_unstable_by_key(|of| (of.since_unix_ms, of.id));
    depart(controller, before, old);
    // Drains of backends that the file does not have (any more) mean nothing.
    let services = &controller.config.services;
    controller.backends.drains.retain(|(service, backend)| {
        services.iter().any(|s| s.name == *service && s.backends.iter().any(|b| b.name == *backend))
    });
}

/// Members that are not configured any more live on while their flows do.
fn depart(controller: &mut Controller, before: &Config, old: BTreeMap<BackendId, ConfiguredBackend>) {
    let known: HashMap<&str, &Service> =
        before.services.iter().map(|service| (service.name.as_str(), service)).collect();
    for (id, mut member) in old {
        controller.stop_check(id, &mut member);
        controller.backends.probe_ports.release(id);
        controller.log.push(
            EventKind::BackendRemoved,
            Some(&member.service),
            Some(&member.name),
            format!("{} removed; its flows live on", member.address),
        );
        let Some(service) = known.get(member.service.as_str()) else { continue };
        let is_it = |b: &&Backend| b.name == member.name && b.address == member.address;
        let backends = service.backends.iter().filter(is_it).cloned().collect();
        let service = Service { backends, ..(*service).clone() };
        let now = controller.now.monotonic;
        controller.backends.departed.push(DepartedBackend {
            id,
            since_unix_ms: controller.now.unix_ms,
            settled: now + Duration::from_secs(1),
            deadline: now + Duration::from_millis(service.drain_timeout_ms),
            closed: None,
            service,
        });
    }
}

pub(crate) fn next_hops_changed(controller: &mut Controller, found: NextHops) {
    // A host may be a backend of thousands of services: it is told once.
    let mut changed: BTreeMap<IpAddr, (usize, &ConfiguredBackend)> = BTreeMap::new();
    for member in controller.backends.members.values() {
        if controller.backends.next_hops.get(&member.address) != found.get(&member.address) {
            changed.entry(member.address).or_insert((0, member)).0 += 1;
        }
    }
    for (address, (count, first)) in changed {
        let message = match found.get(&address) {
            Some(hop) => format!("{address} is reached by way of {}", Mac(hop.mac)),
            None => format!("{address} has no next hop any more"),
        };
        let (service, name) = (Some(first.service.as_str()), Some(first.name.as_str()));
        match count {
            1 => controller.log.push(EventKind::Neighbour, service, name, message),
            _ => {
                let message = format!("{message}; it is a backend of {count} services");
                controller.log.push(EventKind::Neighbour, None, None, message);
            }
        }
    }
    controller.backends.next_hops = found;
    controller.publication.dirty = true;
}

/// Whether flows that have no entry may live on a backend that is no longer configured.
pub(crate) fn is_base(controller: &Controller, departed: &DepartedBackend) -> bool {
    let id = controller.backends.ids.service(&departed.service.name);
    let id = id.filter(|id| controller.backends.ids.identified(&departed.service) == Some(*id));
    let slots = id.and_then(|id| controller.backends.ids.memories.get(id));
    slots.is_some_and(|slots| slots.keeps(departed.id))
}

fn newcomer(service: &Service, backend: &Backend, unix_ms: u64) -> ConfiguredBackend {
    ConfiguredBackend {
        service: service.name.clone(),
        name: backend.name.clone(),
        address: backend.address,
        verdict: None,
        check: None,
        state: BackendState::Down,
        health_source: Word::Health,
        since_unix_ms: unix_ms,
    }
}

fn tell_added(log: &mut EventLog, service: &Service, backend: &Backend) {
    let by = backend.registration.as_ref();
    let by = by.map_or_else(String::new, |by| format!(", registered by agent {}", by.agent));
    let message = format!("{} added{by}", backend.address);
    log.push(EventKind::BackendAdded, Some(&service.name), Some(&backend.name), message);
}
