//! The keys of the configuration, each at one place, a table a file; and from what is written to what is
//! meant: ranges, references, sums. Every problem is reported; nothing stops at the first.

pub(crate) mod agents;
pub(crate) mod api;
pub(crate) mod backend;
mod balance;
mod change;
pub(crate) mod cluster;
pub(crate) mod dpdk;
pub(crate) mod health;
pub(crate) mod key;
mod kind;
pub(crate) mod machine;
mod mode;
mod other_tables;
pub(crate) mod port;
mod read;
pub(crate) mod service;
mod services;
mod slots;
mod table;
pub(crate) mod timeouts;
mod together;
mod tunnel;
mod word;
pub(crate) mod workers;

use crate::config::{Agents, Api, Cluster, Config, Dpdk, Machine, Metrics, Port, Service, Timeouts, Workers};
use crate::diagnostic::Problems;
use kind::{Many, Sub};
use machine::UseOfKey;
use other_tables::OtherTables;
use port::PORTS_MAX;
use read::{Reader, Scope};
use service::SERVICES_MAX;
use std::collections::HashSet;
use std::net::IpAddr;
use table::keys;
use toml::Spanned;

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
            required "add [[port]] with name = \"data0\" and device = \"net_af_packet0,iface=eth0\" \
                or a PCI address"
            => Restart;
        services "service": Many<Service, 0, SERVICES_MAX> => Live;
    }
}

/// Checks what is written. The result is a config only if no error was added.
pub(crate) fn check(raw: ConfigRaw, misspelt: HashSet<String>, problems: &mut Problems<'_>) -> Config {
    let mut r = Reader { problems, misspelt, others: OtherTables::default() };
    let r = &mut r;
    let use_of_key = use_of_key(&raw);
    let workers_span = raw.workers.as_ref().map_or(0..0, Spanned::span);
    let cluster_span = raw.cluster.as_ref().map(Spanned::span);
    r.others.has_agents = raw.agents.is_some() || r.is_misspelt("agents");
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
    let (ports, mtu_spans) = port::ports(r, raw.ports, machine.address);
    let dpdk = dpdk::dpdk(r, raw.dpdk, &ports);
    keep_ports(&mut r.others, &machine, &ports);
    machine.routing_peers = machine::routing_peers(r, routing_peers, &ports);
    let (services, places) = services::services(r, raw.services);
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
            "16 bytes for each of workers.flows and 32 for each of workers.wide_flows, times the workers; \
            lower them if that is not meant",
        );
    }
    config
}

/// Keeps what the machine and its ports say that services depend on.
fn keep_ports(others: &mut OtherTables, machine: &Machine, ports: &[Port]) {
    others.exceptions = ports.iter().filter_map(|p| p.exception.clone()).collect();
    others.mtu_min = ports.iter().map(|p| p.mtu).min().unwrap_or(port::MTU_DEFAULT);
    others.mtu_max = ports.iter().map(|p| p.mtu).max().unwrap_or(port::MTU_DEFAULT);
    let own = machine.address.map(IpAddr::V4).into_iter().chain(machine.address6.map(IpAddr::V6));
    let on_ports = ports.iter().flat_map(|p| p.exception_addresses.iter().map(|n| n.addr));
    others.local = own.chain(on_ports).collect();
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
