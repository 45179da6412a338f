//! What the API, metrics and telemetry show: read from the controller and the workers' counters, changing nothing.

use crate::agents::shown;
use crate::balance::weights;
use crate::cluster::show;
use crate::controller::Controller;
use crate::flows::FlowSearch;
use crate::gauges::ratio;
use crate::passive::compare;
use crate::reconcile::Reconciled;
use crate::reconcile::RepairKind;
use crate::refusal::Refusal;
use crate::slots::Slots;
use crate::wanted;
use model::agent::Phase;
use model::api::{
    BackendState, BackendStatus, ClusterStatus, DropCount, MemoryUse, PortStatus, Ready, RegistrationStatus,
    ServiceState, ServiceStatus, SourceRate, Status, Word, WorkerStatus,
};
use model::config::{Backend, Mac, Net, Protocol, Service};
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::net::IpAddr;
use wire::{Addr, BackendId, ServiceId};
use worker::DropReason;
use worker::counters::{Count, PerBackend, PerBackendEnds, PerBackendFlows, PerPort, PerService, Totals};

/// Everything at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) status: Status,
    pub(crate) services: Vec<ServiceStatus>,
    pub(crate) backends: Vec<BackendStatus>,
    pub(crate) workers: Vec<WorkerStatus>,
    pub(crate) ports: Vec<PortStatus>,
    pub(crate) drops: Vec<DropCount>,
    /// `None`: the machine is alone.
    pub(crate) cluster: Option<ClusterStatus>,
    pub(crate) suspects: [Suspects; 2],
    pub(crate) reconciled: Vec<Reconciled>,
    /// `None`: no agents.
    pub(crate) agents: Option<AgentCounts>,
}

/// The first of everything, for answers that have little room.
#[derive(Clone, Debug)]
pub(crate) struct StatusSummary {
    pub(crate) status: Status,
    pub(crate) services: Vec<ServiceStatus>,
    pub(crate) backends: Vec<BackendStatus>,
    pub(crate) workers: Vec<WorkerStatus>,
    pub(crate) drops: Vec<DropCount>,
}

/// Backends that are suspect for the same cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Suspects {
    pub(crate) cause: &'static str,
    /// Now.
    pub(crate) now: u64,
    /// Suspicions that began, since the start.
    pub(crate) began: u64,
}

/// What is counted of agents.
#[derive(Clone, Debug, Default)]
pub(crate) struct AgentCounts {
    pub(crate) connected: u64,
    pub(crate) open: u64,
    pub(crate) paused: u64,
    pub(crate) registry: crate::agents::counts::RegistryCounts,
    /// Connections that were closed or not taken, by reason.
    pub(crate) closed: Vec<(&'static str, u64)>,
    /// Backends by service and phase.
    pub(crate) phases: Vec<(String, Phase, u64)>,
}

/// Sources that are named.
const SOURCES_MAX: usize = 10;

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// What is wrong, and was put right, by kind.
pub(crate) fn reconciled(controller: &Controller) -> Vec<Reconciled> {
    let count = |of: &BTreeMap<RepairKind, u64>, kind| of.get(&kind).copied().unwrap_or_default();
    let wrong = |kind| {
        let seen = controller.kernel.ways.seen.wrong.iter().filter(|(_, of, _)| *of == kind).count();
        let links =
            controller.kernel.ways.links.values().filter(|up| kind == RepairKind::Link && !**up).count();
        (seen + links) as u64
    };
    let kinds = RepairKind::ALL.iter().map(|kind| Reconciled {
        kind: kind.as_str(),
        wrong: wrong(*kind),
        repairs: Some(count(&controller.kernel.ways.repairs, *kind)),
        failures: Some(count(&controller.kernel.ways.failures, *kind)),
    });
    let hops = wanted::missing_next_hops(controller);
    kinds.chain([Reconciled { kind: "neighbour", wrong: hops, repairs: None, failures: None }]).collect()
}

/// Everything at one moment.
pub(crate) fn snapshot(controller: &Controller) -> Snapshot {
    Snapshot {
        status: status(controller),
        services: services(controller),
        backends: backends(controller),
        workers: workers(controller),
        ports: ports(controller),
        drops: drops(controller),
        cluster: show::cluster_status(controller).ok(),
        suspects: suspects_by_cause(controller),
        reconciled: reconciled(controller),
        agents: controller.base.agents.is_some().then(|| agent_counts(controller)),
    }
}

pub(crate) fn ready(controller: &Controller) -> Ready {
    let (ready, reason) = if controller.program.stopping {
        (false, "stopping".to_owned())
    } else if acknowledged_generation(controller) == 0 {
        (false, "not every worker uses a view yet".to_owned())
    } else if controller.program.leaving.is_some() {
        (false, "leaving the cluster".to_owned())
    } else if let Some(misfit) = controller.cluster.as_ref().and_then(|part| part.participant.misfit()) {
        (false, misfit.to_owned())
    } else if let Some(part) = controller.cluster.as_ref().filter(|part| !part.is_ready()) {
        let why = part.lost.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
        (false, format!("no member of the cluster yet{why}"))
    } else if let Some(why) = controller.kernel.ways.why_no_way() {
        (false, why)
    } else if controller.config.services.is_empty() {
        (true, "no service is configured".to_owned())
    } else {
        let total = controller.config.services.len();
        let usable = usable_services(controller);
        (usable > 0, format!("{usable} of {total} services have a usable backend"))
    };
    Ready { ready, reason }
}

pub(crate) fn agent_counts(controller: &Controller) -> AgentCounts {
    let mut phases = std::collections::BTreeMap::new();
    for of in shown::registrations(controller) {
        *phases.entry((of.service, of.state)).or_insert(0) += 1;
    }
    let listener = (controller.program.figures)().agents;
    AgentCounts {
        connected: controller.agents.registry.sessions().len() as u64,
        open: listener.open,
        paused: listener.paused,
        registry: controller.agents.registry.counts.clone(),
        closed: listener.closed,
        phases: phases.into_iter().map(|((service, phase), count)| (service, phase, count)).collect(),
    }
}

pub(crate) fn suspects_by_cause(controller: &Controller) -> [Suspects; 2] {
    let (registry, passive) = (&controller.agents.registry, &controller.passive);
    let (silent, failing) = (registry.suspects() as u64, passive.suspects() as u64);
    [
        Suspects { cause: "agent", now: silent, began: registry.counts.suspicions },
        Suspects { cause: "clients", now: failing, began: passive.suspicions },
    ]
}

pub(crate) fn acknowledged_generation(controller: &Controller) -> u64 {
    crate::gauges::acknowledged(&controller.workers)
}

pub(crate) fn usable_services(controller: &Controller) -> usize {
    controller.backends.service_states.values().filter(|state| **state != ServiceState::Empty).count()
}

/// Sum over all workers.
pub(crate) fn total(controller: &Controller, count: impl Fn(&Totals) -> &Count) -> u64 {
    controller.workers.iter().map(|worker| count(&worker.counters.totals).get()).sum()
}

pub(crate) fn status(controller: &Controller) -> Status {
    let Ready { ready, reason } = ready(controller);
    let workers = controller.workers.len() as u64;
    let figures = (controller.program.figures)();
    Status {
        machine: controller.config.machine.name.clone(),
        version: controller.program.version.clone(),
        pid: std::process::id(),
        started_unix_ms: controller.program.started_unix_ms,
        uptime_ms: controller.uptime_ms(),
        ready,
        reason,
        config_path: controller.program.config_path.display().to_string(),
        applied_unix_ms: controller.applied_unix_ms,
        config_is_file: controller.text == controller.file_text,
        revision: controller.revisions.number(),
        generation: controller.publication.generation,
        generation_acknowledged: acknowledged_generation(controller),
        services: controller.config.services.len() as u64,
        services_ready: usable_services(controller) as u64,
        backends: controller.backends.members.len() as u64,
        backends_up: controller.backends.members.values().filter(|m| m.state == BackendState::Up).count()
            as u64,
        workers,
        ports: controller.ports.len() as u64,
        rx: total(controller, |t| &t.rx),
        tx: total(controller, |t| &t.tx),
        originated: total(controller, |t| &t.originated),
        punted: total(controller, |t| &t.punted),
        relayed: total(controller, |t| &t.relayed),
        dropped: controller.workers.iter().map(|worker| worker.counters.dropped()).sum(),
        held: total(controller, |t| &t.held),
        flows: total(controller, |t| &t.flows),
        flows_capacity: workers * (controller.config.workers.flows + controller.config.workers.wide_flows),
        memory: controller
            .program
            .memory_bytes
            .iter()
            .map(|(name, bytes)| MemoryUse { name: name.clone(), bytes: *bytes })
            .collect(),
        management: figures.management,
        log_lines_lost: figures.lost.log_lines,
        notices_lost: figures.lost.notices,
        connections: figures.connections,
    }
}

/// What DPDK's telemetry shows.
pub(crate) fn summary(controller: &Controller) -> StatusSummary {
    let most = crate::telemetry::ENTRIES_MAX;
    StatusSummary {
        status: status(controller),
        services: controller
            .config
            .services
            .iter()
            .take(most)
            .map(|of| service_status(controller, of))
            .collect(),
        backends: backends_at_most(controller, most),
        workers: workers(controller),
        drops: drops(controller),
    }
}

pub(crate) fn services(controller: &Controller) -> Vec<ServiceStatus> {
    controller.config.services.iter().map(|service| service_status(controller, service)).collect()
}

pub(crate) fn service_status(controller: &Controller, service: &Service) -> ServiceStatus {
    let id = controller.backends.ids.service(&service.name);
    let sum = |count: fn(&PerService) -> &Count| -> u64 {
        let Some(id) = id else { return 0 };
        controller.workers.iter().filter_map(|w| w.counters.service(id)).map(|c| count(c).get()).sum()
    };
    let ids: Vec<BackendId> = service
        .backends
        .iter()
        .filter_map(|backend| controller.backends.ids.backend(&service.name, &backend.name, backend.address))
        .collect();
    let departed =
        controller.backends.departed.iter().filter(|departed| departed.service.name == service.name);
    let flows = ids.iter().copied().chain(departed.map(|departed| departed.id));
    let up = ids
        .iter()
        .filter(|id| controller.backends.members.get(id).is_some_and(|m| m.state == BackendState::Up));
    ServiceStatus {
        name: service.name.clone(),
        id: id.unwrap_or_default().0,
        vip: service.vip.to_string(),
        port: service.port,
        protocol: protocol_name(service.protocol).to_owned(),
        mode: service.mode.as_str().to_owned(),
        state: controller.backends.service_states.get(&service.name).copied().unwrap_or(ServiceState::Empty),
        health: service.health.kind.as_str().to_owned(),
        announced: controller.kernel.on_loopback.there.contains(&service.vip.into()),
        backends_up: up.count() as u64,
        backends_total: service.backends.len() as u64,
        maglev_size: service.maglev_size,
        tracking: service.state.as_str().to_owned(),
        tainted_slots: id
            .and_then(|id| controller.backends.ids.memories.get(id))
            .map_or(0, Slots::tainted_slots),
        packets: sum(|c| &c.packets),
        bytes: sum(|c| &c.bytes),
        flows_new: sum(|c| &c.flows_new),
        flows: flows.map(|id| controller.live_flows(id)).sum(),
        no_backend: sum(|c| &c.no_backend),
        overload: overloads(controller, id),
    }
}

/// Packets of a service that were dropped because every backend was full.
pub(crate) fn overloads(controller: &Controller, id: Option<ServiceId>) -> u64 {
    let Some(id) = id else { return 0 };
    controller.workers.iter().filter_map(|worker| worker.counters.overload(id)).map(Count::get).sum()
}

pub(crate) fn backends(controller: &Controller) -> Vec<BackendStatus> {
    backends_at_most(controller, usize::MAX)
}

pub(crate) fn backends_at_most(controller: &Controller, most: usize) -> Vec<BackendStatus> {
    let now_ms = controller.uptime_ms();
    let mut all = Vec::with_capacity(
        (controller.backends.members.len() + controller.backends.departed.len()).min(most),
    );
    for service in &controller.config.services {
        for backend in &service.backends {
            if all.len() == most {
                return all;
            }
            let Some(id) = controller.backends.ids.backend(&service.name, &backend.name, backend.address)
            else {
                continue;
            };
            let Some(member) = controller.backends.members.get(&id) else { continue };
            let mut status = backend_status(controller, id, service, backend);
            status.state = member.state;
            status.word = member.health_source;
            status.since_unix_ms = member.since_unix_ms;
            status.health = member.verdict.as_ref().map(|verdict| verdict.status(now_ms));
            say_agents(controller, &mut status);
            compare::say_clients(controller, &mut status);
            all.push(status);
        }
    }
    for departed in controller.backends.departed.iter().take(most - all.len()) {
        for backend in &departed.service.backends {
            let mut status = backend_status(controller, departed.id, &departed.service, backend);
            status.since_unix_ms = departed.since_unix_ms;
            all.push(status);
        }
    }
    all
}

/// `GET /v1/backends`, of one service or of all.
pub(crate) fn backends_of(
    controller: &Controller,
    service: Option<&str>,
) -> Result<Vec<BackendStatus>, Refusal> {
    let mut all = backends(controller);
    if let Some(name) = service {
        all.retain(|of| of.service == name);
        // A removed service has backends as long as flows of it live.
        if all.is_empty() {
            known_service(controller, name)?;
        }
    }
    Ok(all)
}

/// `GET /v1/registrations`, of one service or of all.
pub(crate) fn registrations_of(
    controller: &Controller,
    service: Option<&str>,
) -> Result<Vec<RegistrationStatus>, Refusal> {
    let mut all = shown::registrations(controller);
    if let Some(name) = service {
        all.retain(|of| of.service == name);
        if all.is_empty() {
            known_service(controller, name)?;
        }
    }
    Ok(all)
}

pub(crate) fn known_service(controller: &Controller, name: &str) -> Result<(), Refusal> {
    let is_known = controller.config.services.iter().any(|service| service.name == name);
    if is_known { Ok(()) } else { Err(Refusal::UnknownService(name.to_owned())) }
}

/// Backends of a service that are up and not drained.
pub(crate) fn backends_up(controller: &Controller, service: &str) -> u64 {
    let of_service = controller.backends.members.values().filter(|member| member.service == service);
    of_service.filter(|member| member.state == BackendState::Up).count() as u64
}

/// What an agent, or its silence, has to do with a backend's state.
pub(crate) fn say_agents(controller: &Controller, status: &mut BackendStatus) {
    let key = (status.service.clone(), status.name.clone());
    let Some(held) =
        controller.agents.registry.held().get(&key).filter(|held| held.address == status.address)
    else {
        return;
    };
    status.agent = Some(held.agent.clone());
    status.reason = Some(match &held.suspicion {
        None => format!("agent {}: {}", held.agent, held.reason),
        Some(suspicion) if suspicion.is_probed => {
            format!("suspect, {}; own check: {}", suspicion.why, held.reason)
        }
        Some(suspicion) => format!("suspect, {}", suspicion.why),
    });
    status.suspect_since_unix_ms = held.suspicion.as_ref().map(|of| controller.unix_of(of.since_ms));
}

pub(crate) fn backend_status(
    controller: &Controller,
    id: BackendId,
    service: &Service,
    backend: &Backend,
) -> BackendStatus {
    let sum = |count: fn(&PerBackend) -> &Count| -> u64 {
        controller.workers.iter().filter_map(|w| w.counters.backend(id)).map(|c| count(c).get()).sum()
    };
    let flows = |count: fn(&PerBackendFlows) -> &Count| -> u64 {
        controller.workers.iter().filter_map(|w| w.counters.flows_of(id)).map(|c| count(c).get()).sum()
    };
    let ends = |count: fn(&PerBackendEnds) -> &Count| -> u64 {
        controller.workers.iter().filter_map(|w| w.counters.ends(id)).map(|c| count(c).get()).sum()
    };
    let view = controller.publication.view.backends.get(id.index()).and_then(Option::as_ref);
    let hop = view.and_then(|view| Some((view.port, view.next_hop?)));
    BackendStatus {
        service: service.name.clone(),
        name: backend.name.clone(),
        id: id.0,
        address: backend.address,
        weight: backend.weight,
        state: BackendState::Removed,
        word: Word::Admin,
        since_unix_ms: 0,
        health: None,
        agent: backend.registration.as_ref().map(|registration| registration.agent.clone()),
        registered: backend.registration.is_some(),
        suspect_since_unix_ms: None,
        reason: None,
        next_hop: hop.map(|(_, mac)| Mac(mac).to_string()),
        port: hop.and_then(|(port, _)| {
            Some(controller.ports.iter().find(|handle| handle.id == port)?.name.clone())
        }),
        packets: sum(|c| &c.packets),
        bytes: sum(|c| &c.bytes),
        flows_new: flows(|c| &c.flows_new),
        flows: flows(|c| &c.flows),
        path_mtu: view.and_then(|view| view.path_mtu(controller.now.tick)),
        load_ppm: weights::load_ppm(controller, service, id),
        share_permille: weights::share_permille(controller, service, id),
        syns: controller
            .workers
            .iter()
            .filter_map(|w| w.counters.flows_of(id))
            .map(PerBackendFlows::syns)
            .sum(),
        handshakes: flows(|c| &c.handshakes),
        closes: ends(|of| &of.closes),
        closes_soon: ends(|of| &of.soon),
    }
}

pub(crate) fn workers(controller: &Controller) -> Vec<WorkerStatus> {
    let workers = controller.workers.iter().zip(&controller.rates.busy);
    workers
        .map(|(worker, busy_ratio)| {
            let t = &worker.counters.totals;
            let busy_turns = t.turns.get().saturating_sub(t.empty_turns.get());
            WorkerStatus {
                core: worker.core.0,
                cpu: worker.cpu,
                turns: t.turns.get(),
                empty_turns: t.empty_turns.get(),
                long_turns: t.long_turns.get(),
                longest_turn_us: t.longest_turn_us.get(),
                busy_ratio: *busy_ratio,
                rx: t.rx.get(),
                tx: t.tx.get(),
                rx_bytes: t.rx_bytes.get(),
                tx_bytes: t.tx_bytes.get(),
                originated: t.originated.get(),
                punted: t.punted.get(),
                relayed: t.relayed.get(),
                ring_in: t.ring_in.get(),
                ring_out: t.ring_out.get(),
                held: t.held.get(),
                dropped: worker.counters.dropped(),
                flows: t.flows.get(),
                flows_untrusted: t.flows_untrusted.get(),
                capacity: controller.config.workers.flows,
                capacity_wide: controller.config.workers.wide_flows,
                flow_hits: t.flow_hits.get(),
                flow_misses: t.flow_misses.get(),
                flow_stateless: t.flow_stateless.get(),
                flow_guessed: t.flow_guessed.get(),
                flow_unasked: t.flow_unasked.get(),
                flow_inserts: t.flow_inserts.get(),
                flow_refused: t.flow_refused.get(),
                flow_displaced: t.flow_displaced.get(),
                flow_expired: t.flow_expired.get(),
                flow_forgotten: t.flow_forgotten.get(),
                flow_restored: t.flow_restored.get(),
                resteered: t.resteered.get(),
                packets_per_burst: ratio(t.rx.get(), busy_turns),
                generation: t.generation.get(),
            }
        })
        .collect()
}

pub(crate) fn ports(controller: &Controller) -> Vec<PortStatus> {
    let ports = controller.ports.iter();
    ports
        .map(|port| {
            let stats = (port.stats)();
            let sum = |count: fn(&PerPort) -> &Count| -> u64 {
                controller
                    .workers
                    .iter()
                    .filter_map(|w| w.counters.port(port.id))
                    .map(|c| count(c).get())
                    .sum()
            };
            PortStatus {
                name: port.name.clone(),
                device: port.device.clone(),
                id: port.id.0,
                driver: port.driver.clone(),
                mac: Mac(port.mac).to_string(),
                mtu: port.mtu,
                link_up: controller.kernel.ways.has_link(port.id),
                exception: port.exception.as_ref().map(|(_, name)| name.clone()),
                wrong: controller.kernel.ways.wrong_of(port.id),
                rx: stats.rx,
                tx: stats.tx,
                rx_bytes: stats.rx_bytes,
                tx_bytes: stats.tx_bytes,
                rx_missed: stats.missed,
                rx_errors: stats.rx_errors,
                tx_errors: stats.tx_errors,
                rx_nombuf: stats.nombuf,
                tx_full: sum(|c| &c.tx_full),
            }
        })
        .collect()
}

pub(crate) fn drops(controller: &Controller) -> Vec<DropCount> {
    let reasons = DropReason::ALL.iter();
    reasons
        .map(|reason| DropCount {
            reason: reason.name().to_owned(),
            help: reason.help().to_owned(),
            count: controller.workers.iter().map(|worker| worker.counters.drops(*reason).get()).sum(),
        })
        .collect()
}

/// The ten busiest sources of what is dropped, all workers.
pub(crate) fn sources(controller: &Controller) -> Vec<SourceRate> {
    let mut rates = HashMap::<Addr, u64>::new();
    for (source, rate) in controller.workers.iter().flat_map(|worker| worker.counters.sources.busiest()) {
        *rates.entry(source).or_default() += rate;
    }
    let mut rates: Vec<(IpAddr, u64)> =
        rates.into_iter().filter(|(_, rate)| *rate > 0).map(|(of, rate)| (of.into(), rate)).collect();
    rates.sort_by_key(|(source, rate)| (std::cmp::Reverse(*rate), *source));
    rates.truncate(SOURCES_MAX);
    let shown = |source: IpAddr| if source.is_ipv4() { source.to_string() } else { format!("{source}/64") };
    rates.into_iter().map(|(of, per_second)| SourceRate { source: shown(of), per_second }).collect()
}

/// A backend's name and address, as far as they are known.
pub(crate) fn backend_named(controller: &Controller, id: BackendId) -> (String, Option<IpAddr>) {
    if let Some(member) = controller.backends.members.get(&id) {
        return (member.name.clone(), Some(member.address));
    }
    let departed = controller.backends.departed.iter().find(|departed| departed.id == id);
    match departed.and_then(|departed| departed.service.backends.first()) {
        Some(backend) => (backend.name.clone(), Some(backend.address)),
        None => (format!("#{}", id.0), None),
    }
}

/// What a search of the flow tables needs.
pub(crate) fn search_flows(
    controller: &Controller,
    service: Option<&str>,
    client: Option<Net>,
) -> Result<FlowSearch, Refusal> {
    // Flows of removed services are of no service that can be named; those of removed backends are.
    let wanted = controller.config.services.iter().filter(|s| service.is_none_or(|name| s.name == name));
    let services: HashMap<_, _> =
        wanted.filter_map(|s| Some((controller.backends.ids.service(&s.name)?, s.clone()))).collect();
    if let (Some(name), true) = (service, services.is_empty()) {
        return Err(Refusal::UnknownService(name.to_owned()));
    }
    let mut backends = HashMap::new();
    for (id, member) in &controller.backends.members {
        backends.insert(*id, (member.name.clone(), member.address));
    }
    for departed in &controller.backends.departed {
        for backend in &departed.service.backends {
            backends.insert(departed.id, (backend.name.clone(), backend.address));
        }
    }
    let tables = controller.workers.iter().map(|worker| (worker.core.0, worker.flows.clone())).collect();
    Ok(FlowSearch { tables, services, backends, client, now: controller.now.tick })
}
