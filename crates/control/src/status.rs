//! What the API, metrics and telemetry show: read from the truth and the workers' counters, changing nothing.

use crate::flows::Search;
use crate::reconcile::Reconciled;
use crate::slots::Slots;
use crate::truth::{Refusal, Truth};
use model::agent::Phase;
use model::api::{
    BackendState, BackendStatus, ClusterStatus, DropCount, MemoryUse, PortStatus, Ready, RegistrationStatus,
    ServiceState, ServiceStatus, SourceRate, Status, Word, WorkerStatus,
};
use model::config::{Backend, Mac, Net, Protocol, Service};
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
pub(crate) struct Summary {
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
    pub(crate) registry: crate::agents::counts::Counts,
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

impl Truth {
    /// Everything at one moment.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            status: self.status(),
            services: self.services(),
            backends: self.backends(),
            workers: self.workers(),
            ports: self.ports(),
            drops: self.drops(),
            cluster: self.cluster_status().ok(),
            suspects: self.suspects_by_cause(),
            reconciled: self.reconciled(),
            agents: self.base.agents.is_some().then(|| self.agent_counts()),
        }
    }

    pub(crate) fn ready(&self) -> Ready {
        let (ready, reason) = if self.stopping {
            (false, "stopping".to_owned())
        } else if self.acknowledged_generation() == 0 {
            (false, "not every worker uses a view yet".to_owned())
        } else if self.leaving.is_some() {
            (false, "leaving the cluster".to_owned())
        } else if let Some(misfit) = self.cluster.as_ref().and_then(|part| part.seat.misfit()) {
            (false, misfit.to_owned())
        } else if let Some(part) = self.cluster.as_ref().filter(|part| !part.is_ready()) {
            let why = part.lost.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
            (false, format!("no member of the cluster yet{why}"))
        } else if let Some(why) = self.why_no_way() {
            (false, why)
        } else if self.config.services.is_empty() {
            (true, "no service is configured".to_owned())
        } else {
            let total = self.config.services.len();
            let usable = self.usable_services();
            (usable > 0, format!("{usable} of {total} services have a usable backend"))
        };
        Ready { ready, reason }
    }

    fn agent_counts(&self) -> AgentCounts {
        let mut phases = std::collections::BTreeMap::new();
        for of in self.registrations() {
            *phases.entry((of.service, of.state)).or_insert(0) += 1;
        }
        AgentCounts {
            connected: self.registry.sessions().len() as u64,
            open: self.doors.open(),
            paused: self.doors.paused(),
            registry: self.registry.counts.clone(),
            closed: self.doors.closed().collect(),
            phases: phases.into_iter().map(|((service, phase), count)| (service, phase, count)).collect(),
        }
    }

    fn suspects_by_cause(&self) -> [Suspects; 2] {
        let (registry, passive) = (&self.registry, &self.passive);
        let (silent, failing) = (registry.suspects() as u64, passive.suspects() as u64);
        [
            Suspects { cause: "agent", now: silent, began: registry.counts.suspicions },
            Suspects { cause: "clients", now: failing, began: passive.suspicions },
        ]
    }

    fn acknowledged_generation(&self) -> u64 {
        crate::publisher::acknowledged(&self.workers)
    }

    fn usable_services(&self) -> usize {
        self.service_states.values().filter(|state| **state != ServiceState::Empty).count()
    }

    /// Sum over all workers.
    fn total(&self, count: impl Fn(&Totals) -> &Count) -> u64 {
        self.workers.iter().map(|worker| count(&worker.counters.totals).get()).sum()
    }

    pub(crate) fn status(&self) -> Status {
        let Ready { ready, reason } = self.ready();
        let workers = self.workers.len() as u64;
        let lost = (self.lost_words)();
        Status {
            machine: self.config.machine.name.clone(),
            version: self.version.clone(),
            pid: std::process::id(),
            started_unix_ms: self.started_unix_ms,
            uptime_ms: self.uptime_ms(),
            ready,
            reason,
            config_path: self.config_path.display().to_string(),
            applied_unix_ms: self.applied_unix_ms,
            config_is_file: self.text == self.file_text,
            revision: self.revisions.number(),
            generation: self.generation,
            generation_acknowledged: self.acknowledged_generation(),
            services: self.config.services.len() as u64,
            services_ready: self.usable_services() as u64,
            backends: self.members.len() as u64,
            backends_up: self.members.values().filter(|m| m.state == BackendState::Up).count() as u64,
            workers,
            ports: self.ports.len() as u64,
            rx: self.total(|t| &t.rx),
            tx: self.total(|t| &t.tx),
            originated: self.total(|t| &t.originated),
            punted: self.total(|t| &t.punted),
            relayed: self.total(|t| &t.relayed),
            dropped: self.workers.iter().map(|worker| worker.counters.dropped()).sum(),
            held: self.total(|t| &t.held),
            flows: self.total(|t| &t.flows),
            flows_capacity: workers * (self.config.workers.flows + self.config.workers.wide_flows),
            memory: self
                .memory_bytes
                .iter()
                .map(|(name, bytes)| MemoryUse { name: name.clone(), bytes: *bytes })
                .collect(),
            management: self.meter.turns(),
            log_lines_lost: lost.log_lines,
            notices_lost: lost.notices,
            connections: self.connections.now(),
        }
    }

    /// What DPDK's telemetry shows.
    pub(crate) fn summary(&self) -> Summary {
        let most = crate::telemetry::ENTRIES_MAX;
        Summary {
            status: self.status(),
            services: self.config.services.iter().take(most).map(|of| self.service_status(of)).collect(),
            backends: self.backends_at_most(most),
            workers: self.workers(),
            drops: self.drops(),
        }
    }

    pub(crate) fn services(&self) -> Vec<ServiceStatus> {
        self.config.services.iter().map(|service| self.service_status(service)).collect()
    }

    fn service_status(&self, service: &Service) -> ServiceStatus {
        let id = self.ids.service(&service.name);
        let sum = |count: fn(&PerService) -> &Count| -> u64 {
            let Some(id) = id else { return 0 };
            self.workers.iter().filter_map(|w| w.counters.service(id)).map(|c| count(c).get()).sum()
        };
        let ids: Vec<BackendId> = service
            .backends
            .iter()
            .filter_map(|backend| self.ids.backend(&service.name, &backend.name, backend.address))
            .collect();
        let departed = self.departed.iter().filter(|departed| departed.service.name == service.name);
        let flows = ids.iter().copied().chain(departed.map(|departed| departed.id));
        let up = ids.iter().filter(|id| self.members.get(id).is_some_and(|m| m.state == BackendState::Up));
        ServiceStatus {
            name: service.name.clone(),
            id: id.unwrap_or_default().0,
            vip: service.vip.to_string(),
            port: service.port,
            protocol: protocol_name(service.protocol).to_owned(),
            mode: service.mode.as_str().to_owned(),
            state: self.service_states.get(&service.name).copied().unwrap_or(ServiceState::Empty),
            health: service.health.kind.as_str().to_owned(),
            announced: self.on_loopback.borrow().there.contains(&service.vip.into()),
            backends_up: up.count() as u64,
            backends_total: service.backends.len() as u64,
            maglev_size: service.maglev_size,
            tracking: service.state.as_str().to_owned(),
            tainted_slots: id.and_then(|id| self.ids.memories.get(id)).map_or(0, Slots::tainted_slots),
            packets: sum(|c| &c.packets),
            bytes: sum(|c| &c.bytes),
            flows_new: sum(|c| &c.flows_new),
            flows: flows.map(|id| self.live_flows(id)).sum(),
            no_backend: sum(|c| &c.no_backend),
            overload: self.overloads(id),
        }
    }

    /// Packets of a service that were dropped because every backend was full.
    fn overloads(&self, id: Option<ServiceId>) -> u64 {
        let Some(id) = id else { return 0 };
        self.workers.iter().filter_map(|worker| worker.counters.overload(id)).map(Count::get).sum()
    }

    pub(crate) fn backends(&self) -> Vec<BackendStatus> {
        self.backends_at_most(usize::MAX)
    }

    fn backends_at_most(&self, most: usize) -> Vec<BackendStatus> {
        let now_ms = self.uptime_ms();
        let mut all = Vec::with_capacity((self.members.len() + self.departed.len()).min(most));
        for service in &self.config.services {
            for backend in &service.backends {
                if all.len() == most {
                    return all;
                }
                let Some(id) = self.ids.backend(&service.name, &backend.name, backend.address) else {
                    continue;
                };
                let Some(member) = self.members.get(&id) else { continue };
                let mut status = self.backend_status(id, service, backend);
                status.state = member.state;
                status.word = member.word;
                status.since_unix_ms = member.since_unix_ms;
                status.health = member.verdict.as_ref().map(|verdict| verdict.status(now_ms));
                self.say_agents(&mut status);
                self.say_clients(&mut status);
                all.push(status);
            }
        }
        for departed in self.departed.iter().take(most - all.len()) {
            for backend in &departed.service.backends {
                let mut status = self.backend_status(departed.id, &departed.service, backend);
                status.since_unix_ms = departed.since_unix_ms;
                all.push(status);
            }
        }
        all
    }

    /// `GET /v1/backends`, of one service or of all.
    pub(crate) fn backends_of(&self, service: Option<&str>) -> Result<Vec<BackendStatus>, Refusal> {
        let mut all = self.backends();
        if let Some(name) = service {
            all.retain(|of| of.service == name);
            // A removed service has backends as long as flows of it live.
            if all.is_empty() {
                self.known_service(name)?;
            }
        }
        Ok(all)
    }

    /// `GET /v1/registrations`, of one service or of all.
    pub(crate) fn registrations_of(&self, service: Option<&str>) -> Result<Vec<RegistrationStatus>, Refusal> {
        let mut all = self.registrations();
        if let Some(name) = service {
            all.retain(|of| of.service == name);
            if all.is_empty() {
                self.known_service(name)?;
            }
        }
        Ok(all)
    }

    fn known_service(&self, name: &str) -> Result<(), Refusal> {
        let is_known = self.config.services.iter().any(|service| service.name == name);
        if is_known { Ok(()) } else { Err(Refusal::UnknownService(name.to_owned())) }
    }

    /// Backends of a service that are up and not drained.
    pub(crate) fn backends_up(&self, service: &str) -> u64 {
        let of_service = self.members.values().filter(|member| member.service == service);
        of_service.filter(|member| member.state == BackendState::Up).count() as u64
    }

    /// What an agent, or its silence, has to do with a backend's state.
    fn say_agents(&self, status: &mut BackendStatus) {
        let key = (status.service.clone(), status.name.clone());
        let Some(held) = self.registry.held().get(&key).filter(|held| held.address == status.address) else {
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
        status.suspect_since_unix_ms = held.suspicion.as_ref().map(|of| self.unix_of(of.since_ms));
    }

    fn backend_status(&self, id: BackendId, service: &Service, backend: &Backend) -> BackendStatus {
        let sum = |count: fn(&PerBackend) -> &Count| -> u64 {
            self.workers.iter().filter_map(|w| w.counters.backend(id)).map(|c| count(c).get()).sum()
        };
        let flows = |count: fn(&PerBackendFlows) -> &Count| -> u64 {
            self.workers.iter().filter_map(|w| w.counters.flows_of(id)).map(|c| count(c).get()).sum()
        };
        let ends = |count: fn(&PerBackendEnds) -> &Count| -> u64 {
            self.workers.iter().filter_map(|w| w.counters.ends(id)).map(|c| count(c).get()).sum()
        };
        let view = self.view.backends.get(id.index()).and_then(Option::as_ref);
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
            port: hop
                .and_then(|(port, _)| Some(self.ports.iter().find(|handle| handle.id == port)?.name.clone())),
            packets: sum(|c| &c.packets),
            bytes: sum(|c| &c.bytes),
            flows_new: flows(|c| &c.flows_new),
            flows: flows(|c| &c.flows),
            path_mtu: view.and_then(|view| view.path_mtu((self.now)())),
            load_ppm: self.load_ppm(service, id),
            share_permille: self.share_permille(service, id),
            syns: self
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

    pub(crate) fn workers(&self) -> Vec<WorkerStatus> {
        let workers = self.workers.iter().zip(&self.busy_ratio);
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
                    capacity: self.config.workers.flows,
                    capacity_wide: self.config.workers.wide_flows,
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

    pub(crate) fn ports(&self) -> Vec<PortStatus> {
        let ports = self.ports.iter();
        ports
            .map(|port| {
                let stats = (port.stats)();
                let sum = |count: fn(&PerPort) -> &Count| -> u64 {
                    self.workers.iter().filter_map(|w| w.counters.port(port.id)).map(|c| count(c).get()).sum()
                };
                PortStatus {
                    name: port.name.clone(),
                    device: port.device.clone(),
                    id: port.id.0,
                    driver: port.driver.clone(),
                    mac: Mac(port.mac).to_string(),
                    mtu: port.mtu,
                    link_up: self.has_link(port.id),
                    exception: port.exception.as_ref().map(|(_, name)| name.clone()),
                    wrong: self.wrong_of(port.id),
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

    pub(crate) fn drops(&self) -> Vec<DropCount> {
        let reasons = DropReason::ALL.iter();
        reasons
            .map(|reason| DropCount {
                reason: reason.name().to_owned(),
                help: reason.help().to_owned(),
                count: self.workers.iter().map(|worker| worker.counters.drops(*reason).get()).sum(),
            })
            .collect()
    }

    /// The ten busiest sources of what is dropped, all workers.
    pub(crate) fn sources(&self) -> Vec<SourceRate> {
        let mut rates = HashMap::<Addr, u64>::new();
        for (source, rate) in self.workers.iter().flat_map(|worker| worker.counters.sources.busiest()) {
            *rates.entry(source).or_default() += rate;
        }
        let mut rates: Vec<(IpAddr, u64)> =
            rates.into_iter().filter(|(_, rate)| *rate > 0).map(|(of, rate)| (of.into(), rate)).collect();
        rates.sort_by_key(|(source, rate)| (std::cmp::Reverse(*rate), *source));
        rates.truncate(SOURCES_MAX);
        let shown =
            |source: IpAddr| if source.is_ipv4() { source.to_string() } else { format!("{source}/64") };
        rates.into_iter().map(|(of, per_second)| SourceRate { source: shown(of), per_second }).collect()
    }

    /// A backend's name and address, as far as they are known.
    pub(crate) fn backend_named(&self, id: BackendId) -> (String, Option<IpAddr>) {
        if let Some(member) = self.members.get(&id) {
            return (member.name.clone(), Some(member.address));
        }
        let departed = self.departed.iter().find(|departed| departed.id == id);
        match departed.and_then(|departed| departed.service.backends.first()) {
            Some(backend) => (backend.name.clone(), Some(backend.address)),
            None => (format!("#{}", id.0), None),
        }
    }

    /// What a search of the flow tables needs.
    pub(crate) fn search_flows(&self, service: Option<&str>, client: Option<Net>) -> Result<Search, Refusal> {
        // Flows of removed services are of no service that can be named; those of removed backends are.
        let wanted = self.config.services.iter().filter(|s| service.is_none_or(|name| s.name == name));
        let services: HashMap<_, _> =
            wanted.filter_map(|s| Some((self.ids.service(&s.name)?, s.clone()))).collect();
        if let (Some(name), true) = (service, services.is_empty()) {
            return Err(Refusal::UnknownService(name.to_owned()));
        }
        let mut backends = HashMap::new();
        for (id, member) in &self.members {
            backends.insert(*id, (member.name.clone(), member.address));
        }
        for departed in &self.departed {
            for backend in &departed.service.backends {
                backends.insert(departed.id, (backend.name.clone(), backend.address));
            }
        }
        let tables = self.workers.iter().map(|worker| (worker.core.0, worker.flows.clone())).collect();
        Ok(Search { tables, services, backends, client, now: (self.now)() })
    }
}

/// `a / b`, 0 when there is no `b`.
#[expect(clippy::cast_precision_loss, reason = "for show")]
pub(crate) fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}
