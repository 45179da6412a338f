//! A configuration and what is known at run time become a view.
//!
//! Rule of this module: a pure function. The same configuration, ids and runtime give the same view; only the slot
//! tables of the last view are kept with the [`Ids`], so that a service whose members did not change costs nothing, and what
//! is remembered of slots ([`crate::slots`]) goes on from there.

use crate::ids::{Ids, NoId};
use model::config::{
    AdminState, Backend, Config, Hash, HealthKind, Machine, OnClosedPort as WrittenOnClosedPort,
    OnDown as WrittenOnDown, OnEmpty as WrittenOnEmpty, Overload as WrittenOverload, Policy as WrittenPolicy,
    Port, Select as WrittenSelect, Service,
};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use steer::{Maglev, MaglevError, RulesError, ServiceRule, Services};
use wire::encap::{Mode, Parameters, SourcePrefix, SourcePrefixError, Tunnel, TunnelError, TunnelHeader};
use wire::{BackendId, PortId, ServiceId, Tick};
use worker::View;
use worker::view::loads::Loads;
use worker::view::path_mtu::{Learnt, Room, Tunnels};
use worker::view::{
    BackendState, BackendView, HashOn, LeastLoad, OnClosedPort, OnDown, OnEmpty, Overload, Policy, PortRole,
    PortView, Select, ServiceView, Timeouts, TunnelProbe,
};

mod tables;

#[cfg(feature = "daemon")]
pub(crate) use tables::Recipe;
pub(crate) use tables::{Making, SlotTables};

/// Why no view can be made. [`model::load()`] refuses most of these with their place.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CompileError {
    /// The services do not make a rule set.
    #[error("services: {0}")]
    Rules(#[from] RulesError),
    /// A slot table.
    #[error("service \"{service}\": {source}")]
    Maglev {
        /// Its service.
        service: String,
        /// What Maglev says.
        source: MaglevError,
    },
    /// A tunnel to a backend.
    #[error("service \"{service}\": backend \"{backend}\": {source}")]
    Tunnel {
        /// Its service.
        service: String,
        /// Its name.
        backend: String,
        /// What is wrong with it.
        source: TunnelError,
    },
    /// The machine has no address of the backend's family.
    #[error("service \"{service}\": backend \"{backend}\" needs machine.{key} as source of the tunnel")]
    NoSource {
        /// Its service.
        service: String,
        /// Its name.
        backend: String,
        /// `address` or `address6`.
        key: &'static str,
    },
    /// The prefix of outer sources.
    #[error("machine: outer source prefix {0}: {remedy}", remedy = .0.remedy())]
    Sources(#[from] SourcePrefixError),
    /// Ids.
    #[error(transparent)]
    NoId(#[from] NoId),
    /// There is no port.
    #[error("there is no port; add a [[port]]")]
    NoPort,
    /// Slot tables that are to be made first.
    #[error("slot tables are still being made")]
    TablesMissing,
}

/// A backend that is no longer configured and whose flows live on.
#[derive(Clone, Copy, Debug)]
pub struct Departed<'a> {
    /// Its id.
    pub id: BackendId,
    /// Its service as it was.
    pub service: &'a Service,
    /// Itself as it was.
    pub backend: &'a Backend,
}

/// What is known beside the configuration. The closures are asked about configured backends only, `next_hop` about
/// departed ones, too.
pub struct Runtime<'a> {
    /// Number of the view.
    pub generation: u64,
    /// Now; only ids that rest look at it.
    pub now: Tick,
    /// Whether checks hold the backend to be up; not asked for health kind none.
    pub is_up: &'a dyn Fn(BackendId, &Service, &Backend) -> bool,
    /// Whether an operator drains it, beside its configured state.
    pub is_drained: &'a dyn Fn(BackendId, &Service, &Backend) -> bool,
    /// Its weight in force; [`configured_weight`] unless something else is known.
    pub weight: &'a dyn Fn(BackendId, &Service, &Backend) -> u32,
    /// Neighbour and port by which the kernel would send to an address; `None` while unresolved.
    pub next_hop: &'a dyn Fn(IpAddr) -> Option<([u8; 6], PortId)>,
    /// Live flows that name a backend, all workers.
    pub flows: &'a dyn Fn(BackendId) -> u64,
    /// Ports by id: data ports in the order of the configuration, then exception ports.
    pub ports: &'a [PortView],
    /// Removed backends whose flows live on.
    pub departed: &'a [Departed<'a>],
    /// Probes through tunnels.
    pub probes: &'a [TunnelProbe],
    /// The slot table of a service and the backends in its numbering, where these are agreed on elsewhere; `None`: made here, of the
    /// backends that are up.
    pub table: &'a dyn Fn(ServiceId) -> Option<(Arc<Maglev>, Vec<BackendId>)>,
    /// Workers that place new flows at the same time: all of all machines.
    pub deciders: u32,
    /// How busy backends are, for services with policy least-load.
    pub loads: Arc<Loads>,
    /// What is done about slot tables that are not there yet.
    pub(crate) making: Making,
}

impl<'a> Runtime<'a> {
    /// Nothing is known: every backend is up, next hops are the static ones.
    pub(crate) fn offline(ports: &'a [PortView]) -> Runtime<'a> {
        Runtime {
            generation: 1,
            now: Tick(0),
            is_up: &|_, _, _| true,
            is_drained: &|_, _, _| false,
            weight: &configured_weight,
            next_hop: &|_| None,
            flows: &|_| 0,
            ports,
            departed: &[],
            probes: &[],
            table: &|_| None,
            deciders: 1,
            loads: Arc::default(),
            making: Making::All,
        }
    }
}

impl std::fmt::Debug for Runtime<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// The weight as configured.
pub fn configured_weight(_: BackendId, _: &Service, backend: &Backend) -> u32 {
    backend.weight
}

#[cfg(test)]
thread_local! {
    /// Compilations on this thread.
    pub(crate) static COMPILED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Makes the view of `config`.
///
/// # Errors
/// [`CompileError`]; then `ids` is half changed: compile with a clone and keep it only on success.
pub fn compile(config: &Config, ids: &mut Ids, runtime: &Runtime<'_>) -> Result<View, CompileError> {
    #[cfg(test)]
    COMPILED.set(COMPILED.get() + 1);
    if runtime.ports.is_empty() {
        return Err(CompileError::NoPort);
    }
    ids.assign(config, runtime.now, runtime.flows)?;
    let mut tables = std::mem::take(&mut ids.tables).next_round();
    let mut memories = std::mem::take(&mut ids.memories);
    let (mut rules, mut services) = (Vec::new(), Vec::with_capacity(config.services.len()));
    let mut backends: Vec<Option<BackendView>> = Vec::new();
    let sender = BackendCompiler { machine: &config.machine, ports: &config.ports, runtime };

    for service in &config.services {
        let Some(id) = ids.service(&service.name) else { continue };
        rules.push(rule(service));
        let judged = judge(service, id, ids, runtime);
        for (backend, is) in service.backends.iter().zip(&judged) {
            place(&mut backends, sender.view(service, backend, id, is.id, is.state)?);
        }
        if let Some((maglev, members)) = (runtime.table)(id) {
            services.push(service_view(service, id, maglev, members));
            continue;
        }
        let members = members(service, &judged);
        let weighted: Vec<_> = members.iter().map(|(name, weight, _)| (*name, *weight)).collect();
        let maglev = tables
            .get(&weighted, service.maglev_size, &config.machine.cluster_key, runtime.making)
            .map_err(|source| CompileError::Maglev { service: service.name.clone(), source })?;
        let Some(maglev) = maglev else { continue };
        services.push(service_view(service, id, maglev, members.iter().map(|member| member.2).collect()));
    }
    if tables.missing().next().is_some() {
        ids.tables = tables;
        return Err(CompileError::TablesMissing);
    }
    place_departed(&mut backends, &sender, ids);
    ids.tables = tables.keep_used();
    let stateless = config.services.iter().filter(|service| service.is_stateless());
    let stateless: HashSet<_> = stateless.filter_map(|service| ids.service(&service.name)).collect();
    for service in &mut services {
        memories.attend(service, stateless.contains(&service.id), &backends, runtime.now);
    }
    set_policies(&mut services, config, ids, runtime.deciders);
    let known = ids.known_services();
    memories.retain(|id| known.contains(&id));
    ids.memories = memories;
    Ok(View {
        generation: runtime.generation,
        cluster_key: config.machine.cluster_key,
        services: Services::build(&rules)?,
        service: services,
        tunnels: Tunnels::of(&backends),
        backends,
        ports: runtime.ports.to_vec(),
        timeouts: timeouts(&config.timeouts),
        probes: runtime.probes.to_vec(),
        cluster: None,
        on_closed_port: match config.machine.on_closed_port {
            WrittenOnClosedPort::Reset => OnClosedPort::Reset,
            WrittenOnClosedPort::Drop => OnClosedPort::Drop,
        },
        routing_peers: config.machine.routing_peers.iter().map(|&peer| peer.into()).collect(),
        checks_per_second: checks_per_second(&config.services),
        loads: Arc::clone(&runtime.loads),
    })
}

/// Backends that are up, in the order of their names: other machines may list them in another order, and ties go by
/// position.
fn members<'a>(service: &'a Service, judged: &[JudgedBackend]) -> Vec<(&'a str, u32, BackendId)> {
    let up = service.backends.iter().zip(judged).filter(|(_, is)| is.state == BackendState::Up);
    let mut members: Vec<_> = up.map(|(backend, is)| (backend.name.as_str(), is.weight, is.id)).collect();
    members.sort_unstable_by_key(|member| member.0);
    members
}

fn rule(service: &Service) -> ServiceRule {
    let (vip, protocol) = (service.vip, service.protocol.number());
    ServiceRule { vip: vip.addr.into(), len: vip.len, port: service.port, protocol }
}

fn place_departed(backends: &mut Vec<Option<BackendView>>, sender: &BackendCompiler<'_>, ids: &Ids) {
    for departed in sender.runtime.departed {
        let Some(service) = owner(ids, departed) else { continue };
        let draining = BackendState::Draining;
        let is_taken = backends.get(departed.id.index()).is_some_and(Option::is_some);
        // Its tunnel may need an address that the machine has no more; its flows are then steered anew.
        if let Ok(view) = sender.view(departed.service, departed.backend, service, departed.id, draining)
            && !is_taken
        {
            place(backends, view);
        }
    }
}

fn set_policies(services: &mut [ServiceView], config: &Config, ids: &Ids, deciders: u32) {
    for written in config.services.iter().filter(|written| written.policy == WrittenPolicy::LeastLoad) {
        let Some(id) = ids.service(&written.name) else { continue };
        if let Some(service) = services.iter_mut().find(|service| service.id == id) {
            let policy = least_load(written, &service.members, ids, deciders);
            service.policy = Policy::LeastLoad(Box::new(policy));
        }
    }
}

fn owner(ids: &Ids, departed: &Departed<'_>) -> Option<ServiceId> {
    let id = ids.identified(departed.service)?;
    (ids.of(id, &departed.backend.name, departed.backend.address) == Some(departed.id)).then_some(id)
}

fn place(backends: &mut Vec<Option<BackendView>>, view: BackendView) {
    let index = view.id.index();
    if backends.len() <= index {
        backends.resize_with(index + 1, || None);
    }
    if let Some(slot) = backends.get_mut(index) {
        *slot = Some(view);
    }
}

/// What is thought of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct JudgedBackend {
    pub(crate) id: BackendId,
    pub(crate) weight: u32,
    pub(crate) state: BackendState,
}

/// States of the backends, in the order of the configuration; of those that have an id.
pub(crate) fn judge(
    service: &Service,
    id: ServiceId,
    ids: &Ids,
    runtime: &Runtime<'_>,
) -> Vec<JudgedBackend> {
    let mut eligible = 0_u64;
    let mut down = 0_u64;
    let mut judged: Vec<JudgedBackend> = Vec::with_capacity(service.backends.len());
    for backend in &service.backends {
        let Some(id) = ids.of(id, &backend.name, backend.address) else { continue };
        let weight = (runtime.weight)(id, service, backend);
        let state = match backend.state {
            AdminState::Down => BackendState::Down,
            AdminState::Drain => BackendState::Draining,
            AdminState::Up if weight == 0 || (runtime.is_drained)(id, service, backend) => {
                BackendState::Draining
            }
            AdminState::Up => {
                eligible += 1;
                if service.health.kind == HealthKind::None || (runtime.is_up)(id, service, backend) {
                    BackendState::Up
                } else {
                    down += 1;
                    BackendState::Down
                }
            }
        };
        judged.push(JudgedBackend { id, weight, state });
    }
    // An overloaded few serve worse than all. Where not one is left nothing can be made better by it: other machines, or other sites, may
    // do so when this one's announcement is withdrawn.
    if service.panic_percent > 0
        && down < eligible
        && down * 100 > u64::from(service.panic_percent) * eligible
    {
        for (is, backend) in judged.iter_mut().zip(&service.backends) {
            if is.state == BackendState::Down && backend.state == AdminState::Up {
                is.state = BackendState::Up;
            }
        }
    }
    judged
}

fn service_view(
    service: &Service,
    id: ServiceId,
    maglev: Arc<Maglev>,
    members: Vec<BackendId>,
) -> ServiceView {
    ServiceView {
        id,
        wide: service.vip.addr.is_ipv6() || service.port == 0 || !service.vip.is_host(),
        hash: match service.hash {
            Hash::Tuple => HashOn::Tuple,
            Hash::Source => HashOn::Source,
        },
        maglev,
        members,
        on_empty: match service.on_empty {
            WrittenOnEmpty::Reset => OnEmpty::Reset,
            WrittenOnEmpty::Drop => OnEmpty::Drop,
        },
        on_down: match service.on_down {
            WrittenOnDown::Keep => OnDown::Keep,
            WrittenOnDown::Reselect => OnDown::Reselect,
        },
        // When all backends are known.
        memory: None,
        policy: Policy::Maglev,
    }
}

/// Policy least-load of a service whose table has these members. One that is not configured any more counts as one of weight 1.
fn least_load(service: &Service, members: &[BackendId], ids: &Ids, deciders: u32) -> LeastLoad {
    let carries: HashMap<BackendId, (u32, u32)> = service
        .backends
        .iter()
        .filter_map(|of| Some((ids.backend(&service.name, &of.name, of.address)?, (of.capacity, of.weight))))
        .collect();
    let share = |id: &BackendId| {
        let (capacity, weight) = carries.get(id).copied().unwrap_or((service.capacity, 1));
        worker::decide::least_load::share(capacity, weight, deciders)
    };
    LeastLoad {
        select: match service.select {
            WrittenSelect::Min => Select::Min,
            WrittenSelect::P2c => Select::TwoChoices,
        },
        overload: match service.overload {
            WrittenOverload::Spread => Overload::Spread,
            WrittenOverload::Reject => Overload::Reject,
        },
        shares: members.iter().map(share).collect(),
    }
}

/// Health checks a second, whoever makes them: where an agent is silent the machine does.
fn checks_per_second(services: &[Service]) -> u64 {
    let checked = services.iter().filter(|service| service.health.kind != HealthKind::None);
    let each = |service: &Service| {
        (service.backends.len() as u64 * 1000).div_ceil(u64::from(service.health.interval_ms).max(1))
    };
    checked.map(each).sum()
}

fn timeouts(written: &model::config::Timeouts) -> Timeouts {
    let us = |seconds: u32| u64::from(seconds) * 1_000_000;
    Timeouts {
        tcp_established_us: us(written.tcp_established_s),
        tcp_closing_us: us(written.tcp_closing_s),
        syn_us: us(written.syn_s),
        udp_us: us(written.udp_s),
        fragment_us: u64::from(written.fragment_ms) * 1000,
    }
}

/// What a service says of its tunnels beside the mode.
fn parameters(service: &Service) -> Parameters {
    Parameters { port: service.tunnel_port(service.mode), vni: service.vni }
}

/// How to reach backends from this machine.
struct BackendCompiler<'a> {
    machine: &'a Machine,
    ports: &'a [Port],
    runtime: &'a Runtime<'a>,
}

impl BackendCompiler<'_> {
    fn view(
        &self,
        service: &Service,
        backend: &Backend,
        service_id: ServiceId,
        id: BackendId,
        state: BackendState,
    ) -> Result<BackendView, CompileError> {
        let (next_hop, port) = self.next_hop(service.mode, backend);
        // The ports of the configuration are the first ones of the runtime; a port from the kernel's answer is checked.
        let port_view = self.runtime.ports.get(port.index()).or(self.runtime.ports.first());
        let Some(port_view) = port_view else { return Err(CompileError::NoPort) };
        let overhead = service.mode.overhead(backend.address.is_ipv6());
        let path = service.mtu.unwrap_or(port_view.mtu).min(port_view.mtu);
        let header = self.header(service, backend, next_hop, port_view.mac)?;
        // Unresolved: nothing is sent, so the zeros are never seen.
        let header = header.between(next_hop.unwrap_or_default(), port_view.mac);
        let inner_mtu = path.saturating_sub(overhead);
        let room = Room::new(state, next_hop, inner_mtu);
        let learnt = Learnt::default();
        Ok(BackendView { id, service: service_id, state, header, inner_mtu, room, port, next_hop, learnt })
    }

    /// Destination MAC of the frame and the port it leaves by.
    fn next_hop(&self, mode: Mode, backend: &Backend) -> (Option<[u8; 6]>, PortId) {
        let own = backend.mac.map(|mac| mac.0);
        let common = self.machine.next_hop_mac.map(|mac| mac.0);
        // Of an inner frame `mac` is the destination, which is the next hop's only when nothing else is known.
        let inner = mode.carries_ethernet();
        let fixed = if inner { common } else { own.or(common) };
        if fixed.is_some() {
            return (fixed, self.static_port(backend.address));
        }
        let known = (self.runtime.next_hop)(backend.address);
        match known.filter(|(_, port)| self.is_data(*port)) {
            Some((mac, port)) => (Some(mac), port),
            None => (if inner { own } else { None }, self.static_port(backend.address)),
        }
    }

    fn is_data(&self, port: PortId) -> bool {
        let view = self.runtime.ports.get(port.index());
        view.is_some_and(|view| matches!(view.role, PortRole::Data { .. }))
    }

    /// The port in whose subnet the address is, or the first one.
    fn static_port(&self, address: IpAddr) -> PortId {
        let nets = self.ports.iter().enumerate().flat_map(|(index, port)| {
            port.exception_addresses
                .iter()
                .filter(|net| net.contains(address))
                .map(move |net| (net.len, index))
        });
        let found = nets.max_by_key(|&(len, index)| (len, std::cmp::Reverse(index)));
        PortId(found.and_then(|(_, index)| u16::try_from(index).ok()).unwrap_or(0))
    }

    fn header(
        &self,
        service: &Service,
        backend: &Backend,
        next_hop: Option<[u8; 6]>,
        port_mac: [u8; 6],
    ) -> Result<TunnelHeader, CompileError> {
        if service.mode == Mode::L2 {
            return Ok(TunnelHeader::default());
        }
        let machine = self.machine;
        let (source, key, sources) = match backend.address {
            IpAddr::V4(_) => (machine.address.map(IpAddr::V4), "address", machine.outer_source_prefix4),
            IpAddr::V6(_) => (machine.address6.map(IpAddr::V6), "address6", machine.outer_source_prefix6),
        };
        let sources = sources.map(|net| SourcePrefix::new(net.addr, net.len)).transpose()?;
        let names = || (service.name.clone(), backend.name.clone());
        let Some(source) = source else {
            let (service, backend) = names();
            return Err(CompileError::NoSource { service, backend, key });
        };
        // Without either nothing is sent, so the zeros are never seen.
        let inner_destination = backend.mac.map(|mac| mac.0).or(next_hop).unwrap_or_default();
        let tunnel = Tunnel {
            mode: service.mode,
            parameters: parameters(service),
            source,
            sources,
            destination: backend.address,
            inner_v6: service.vip.addr.is_ipv6(),
            inner_macs: (inner_destination, port_mac),
        };
        TunnelHeader::new(&tunnel).map_err(|source| {
            let (service, backend) = names();
            CompileError::Tunnel { service, backend, source }
        })
    }
}

/// MAC of a port that has none configured, where there is no device to ask: 02:67:77:00:NN:NN ("gw"), by position.
pub const fn offline_mac(index: u16) -> [u8; 6] {
    let [high, low] = index.to_be_bytes();
    [0x02, 0x67, 0x77, 0, high, low]
}

/// The view of a configuration without a machine to run it on, for replay, explain and check: every backend is up
/// unless its `state` or weight says otherwise, next hops are the static ones, and what would be punted is counted as
/// such and goes nowhere.
///
/// # Errors
/// [`CompileError`].
pub fn offline(config: &Config) -> Result<(View, Ids), CompileError> {
    let mut ids = Ids::default();
    let view = compile(config, &mut ids, &Runtime::offline(&offline_ports(config)))?;
    Ok((view, ids))
}

/// Whether a view can be made of a configuration; no slot table is made for that.
///
/// # Errors
/// [`CompileError`].
pub(crate) fn check(config: &Config) -> Result<(), CompileError> {
    let ports = offline_ports(config);
    let runtime = Runtime { making: Making::Nothing, ..Runtime::offline(&ports) };
    compile(config, &mut Ids::default(), &runtime).map(drop)
}

fn offline_ports(config: &Config) -> Vec<PortView> {
    let port = |(index, port): (_, &model::config::Port)| PortView {
        mac: port.mac.map_or_else(|| offline_mac(index), |mac| mac.0),
        mtu: port.mtu,
        role: PortRole::Data { exception: None, punt_to_nowhere: true },
    };
    (0..).zip(&config.ports).map(port).collect()
}

#[cfg(test)]
mod tests;
