//! The keys of the configuration, each at one place, a table a file; and from what is written to what is
//! meant: ranges, references,
//! sums. Every problem is reported; nothing stops at the first.

pub(crate) mod agents;
pub(crate) mod api;
pub(crate) mod backend;
pub(crate) mod balance;
mod change;
pub(crate) mod cluster;
pub(crate) mod dpdk;
pub(crate) mod health;
mod kind;
pub(crate) mod machine;
pub(crate) mod port;
mod read;
pub(crate) mod service;
pub(crate) mod table;
pub(crate) mod timeouts;
mod together;
mod tunnel;
mod word;
pub(crate) mod workers;

use crate::config::{
    Agents, Api, Cluster, Config, Dpdk, Machine, Metrics, Mode, Port, Service, Timeouts, Workers,
};
use crate::diagnostic::Problems;
use kind::{Many, Sub};
use machine::UseOfKey;
use read::{Reader, Scope};
pub(crate) use read::{from_hex, not_unicast};
use std::collections::HashSet;
use std::net::IpAddr;
use table::keys;
use together::Places;
use toml::Spanned;

/// Largest number of `[[port]]`.
pub(crate) const PORTS_MAX: usize = 16;
/// Largest number of `[[service]]`.
pub(crate) const SERVICES_MAX: usize = 4096;
/// Largest number of backends of all services.
pub(crate) const BACKENDS_MAX: usize = 65_536;

/// Flow tables above this draw a warning, bytes.
const TABLES_WARNING_BYTES: u64 = 8 << 30;

keys! {
    /// Configuration of guidewayd.
    Config(ConfigRaw, ConfigFound) {
        machine: Sub<Machine>, required "begin with [machine] and name = \"lb1\"" => Restart;
        api: Sub<Api> => Restart;
        metrics: Sub<Metrics> => Restart;
        timeouts: Sub<Timeouts> => InCluster;
        dpdk: Sub<Dpdk> => Restart;
        workers: Sub<Workers> => Restart;
        cluster: Sub<Cluster> => Restart;
        agents: Sub<Agents> => Restart;
        ports "port": Many<Port, 1, PORTS_MAX>,
            required "add [[port]] with name = \"data0\" and device = \"net_af_packet0,iface=eth0\" or a PCI address"
            => Restart;
        services "service": Many<Service, 0, SERVICES_MAX> => Live;
    }
}

/// What the checks of a table need to know of the others.
#[derive(Default)]
pub(crate) struct Surroundings {
    /// `machine.address` is written, right or wrong.
    has_address: bool,
    /// `machine.address6` is written, right or wrong.
    has_address6: bool,
    /// `machine.next_hop_mac` is written, right or wrong.
    has_next_hop_mac: bool,
    /// Some port has an exception interface, rightly or wrongly written.
    has_exception: bool,
    /// The exception interfaces.
    exceptions: Vec<String>,
    /// Smallest and largest MTU of the ports.
    mtu_min: u16,
    mtu_max: u16,
    /// Addresses of this machine.
    local: HashSet<IpAddr>,
    /// `[agents]` is written, rightly or wrongly.
    has_agents: bool,
    /// The mode by whose protocol the network identifier of the service at hand is called.
    vni_of: Option<Mode>,
}

impl Surroundings {
    fn add_ports(&mut self, machine: &Machine, ports: &[Port]) {
        self.exceptions = ports.iter().filter_map(|p| p.exception.clone()).collect();
        self.mtu_min = ports.iter().map(|p| p.mtu).min().unwrap_or(port::MTU_DEFAULT);
        self.mtu_max = ports.iter().map(|p| p.mtu).max().unwrap_or(port::MTU_DEFAULT);
        let own = machine.address.map(IpAddr::V4).into_iter().chain(machine.address6.map(IpAddr::V6));
        self.local =
            own.chain(ports.iter().flat_map(|p| p.exception_addresses.iter().map(|n| n.addr))).collect();
    }
}

/// Checks what is written. The result is a config only if no error was added.
pub(crate) fn check(raw: ConfigRaw, misspelt: HashSet<String>, problems: &mut Problems<'_>) -> Config {
    let mut r = Reader { problems, misspelt, around: Surroundings::default() };
    let r = &mut r;
    let use_of_key = use_of_key(&raw);
    let workers_span = raw.workers.as_ref().map_or(0..0, Spanned::span);
    let cluster_span = raw.cluster.as_ref().map(Spanned::span);
    r.around.has_agents = raw.agents.is_some() || r.is_misspelt("agents");
    let nowhere = Scope::new("", 0..0);
    if raw.machine.is_none() {
        r.missing(&nowhere, &ConfigRaw::machine);
    }
    let (mut machine, routing_peers) = machine::machine(r, raw.machine, use_of_key);
    let metrics = api::metrics(r, raw.metrics);
    let api = api::api(r, raw.api, &machine.name, &metrics);
    let agents = agents::agents(r, raw.agents, &api, &metrics);
    let timeouts = timeouts::timeouts(r, raw.timeouts);
    let workers = workers::workers(r, raw.workers);
    if raw.ports.is_empty() {
        r.missing(&nowhere, &ConfigRaw::ports);
    }
    let (ports, mtu_spans) = port::ports(r, raw.ports, &machine);
    let dpdk = dpdk::dpdk(r, raw.dpdk, &ports);
    r.around.add_ports(&machine, &ports);
    machine.routing_peers = machine::routing_peers(r, routing_peers, &ports);
    let (services, places) = service::services(r, raw.services);
    let cluster = cluster::cluster(r, raw.cluster, &machine);
    if let (Some(_), Some(span)) = (&cluster, cluster_span) {
        cluster::tracks_every_flow(r, &span, &services);
        cluster::fits_the_store(r, &span, &services);
    }
    let config = Config { machine, api, metrics, timeouts, dpdk, workers, cluster, agents, ports, services };
    together::check(r, &config, &places, &mtu_spans);

    let tables = config.flow_table_bytes();
    if tables > TABLES_WARNING_BYTES && !r.problems.has_errors() {
        r.warning(
            &workers_span,
            format!("the flow tables take {:.1} GiB of huge pages", gib(tables)),
            "16 bytes for each of workers.flows and 32 for each of workers.wide_flows, times the workers; lower them if that is not meant",
        );
    }
    config
}

/// As far as it can be told before anything is checked.
fn use_of_key(raw: &ConfigRaw) -> UseOfKey {
    let devices = || raw.ports.iter().map(|port| port.get_ref().device.as_ref());
    let is_null = |device: Option<&Spanned<toml::Value>>| {
        device.and_then(|of| of.get_ref().as_str()).is_some_and(|of| of.starts_with("net_null"))
    };
    if raw.cluster.as_ref().is_some_and(|of| of.get_ref().store.is_some()) {
        UseOfKey::Cluster
    } else if devices().next().is_some() && devices().all(is_null) {
        UseOfKey::Nothing
    } else {
        UseOfKey::Slots
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}
