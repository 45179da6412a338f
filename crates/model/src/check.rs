//! From what is written to what is meant: ranges, references, sums. Every problem is reported; nothing stops at the first.

mod agents;
mod backend;
mod balance;
mod cluster;
mod health;
mod machine;
mod port;
mod read;
mod service;
mod tunnel;

use crate::config::{Cluster, Config, Machine, Net, Port, Service};
use crate::diagnostic::Problems;
use crate::net::NetMap;
use crate::raw;
use machine::UseOfKey;
use read::Reader;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

pub(crate) use read::{from_hex, not_unicast};

/// Largest number of `[[port]]`.
pub(crate) const PORTS_MAX: usize = 16;
/// Largest number of `[[service]]`.
pub(crate) const SERVICES_MAX: usize = 4096;
/// Largest number of backends of all services.
pub(crate) const BACKENDS_MAX: usize = 65_536;

/// Flow tables above this draw a warning, bytes.
const TABLES_WARNING_BYTES: u64 = 8 << 30;

pub(crate) type Span = Range<usize>;

/// What the checks of services need to know of the rest.
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
}

/// Checks `file`. The result is a config only if no error was added.
pub(crate) fn check(mut file: raw::File, misspelt: HashSet<String>, problems: &mut Problems<'_>) -> Config {
    let mut r = Reader { problems, misspelt };
    let (has_address, has_address6, has_next_hop_mac) =
        file.machine.as_ref().map_or((false, false, false), |m| {
            let m = m.get_ref();
            (written(&m.address), written(&m.address6), written(&m.next_hop_mac))
        });

    let routing_peers = file.machine.as_mut().and_then(|m| m.get_mut().routing_peers.take());
    let use_of_key = use_of_key(&file);
    let mut machine = machine::machine(&mut r, file.machine, use_of_key);
    let metrics = machine::metrics(&mut r, file.metrics);
    let api = machine::api(&mut r, file.api, &machine.name, &metrics);
    let has_agents = file.agents.is_some() || r.misspelt.contains("agents");
    let agents = agents::agents(&mut r, file.agents, &api, &metrics);
    let timeouts = machine::timeouts(&mut r, file.timeouts);
    let workers_span = file.workers.as_ref().map_or(0..0, toml::Spanned::span);
    let workers = port::workers(&mut r, file.workers);

    let exception_written = file.port.iter().flatten().any(|p| written(&p.get_ref().exception));
    let (ports, mtu_spans) = port::ports(&mut r, file.port, &machine);
    let dpdk = port::dpdk(&mut r, file.dpdk, &ports);

    let surroundings = Surroundings {
        has_address: has_address || r.misspelt.contains("address"),
        has_address6: has_address6 || r.misspelt.contains("address6"),
        has_next_hop_mac: has_next_hop_mac || r.misspelt.contains("next_hop_mac"),
        has_exception: exception_written || ["exception", "port"].iter().any(|key| r.misspelt.contains(*key)),
        exceptions: ports.iter().filter_map(|p| p.exception.clone()).collect(),
        mtu_min: ports.iter().map(|p| p.mtu).min().unwrap_or(port::MTU_DEFAULT),
        mtu_max: ports.iter().map(|p| p.mtu).max().unwrap_or(port::MTU_DEFAULT),
        local: machine
            .address
            .map(IpAddr::V4)
            .into_iter()
            .chain(machine.address6.map(IpAddr::V6))
            .chain(ports.iter().flat_map(|p| p.exception_addresses.iter().map(|n| n.addr)))
            .collect(),
        has_agents,
    };
    machine.routing_peers = machine::routing_peers(&mut r, routing_peers, &surroundings, &ports);
    let (services, places) = service::services(&mut r, file.service, &surroundings);
    let cluster_span = file.cluster.as_ref().map(toml::Spanned::span);
    let cluster = cluster::cluster(&mut r, file.cluster, &machine);
    if let (Some(_), Some(span)) = (&cluster, cluster_span) {
        cluster::tracks_every_flow(&mut r, &span, &services);
        cluster::fits_the_store(&mut r, &span, &services);
    }
    vips_distinct(&mut r, &services, &places);
    let stations = stations(
        &machine,
        &ports,
        cluster.as_ref(),
        &[
            ("api.listen", api.listen),
            ("metrics.listen", metrics.listen),
            ("agents.listen", agents.as_ref().map(|of| of.listen)),
            ("agents.advertise", agents.as_ref().map(|of| of.advertise)),
        ],
    );
    vips_are_no_stations(&mut r, &services, &places, &stations);
    backends_are_no_vips(&mut r, &services, &places);
    small_mtus_are_ipv4(&mut r, &ports, &mtu_spans, &services);

    let config = Config { machine, api, metrics, timeouts, dpdk, workers, cluster, agents, ports, services };
    let tables = config.flow_table_bytes();
    if tables > TABLES_WARNING_BYTES && !r.problems.has_errors() {
        r.problems.warning(
            workers_span,
            format!("the flow tables take {:.1} GiB of huge pages", gib(tables)),
            "16 bytes for each of workers.flows and 32 for each of workers.wide_flows, times the workers; lower them if that is not meant",
        );
    }
    config
}

/// Whether something is written, right or wrong.
const fn written(cell: &raw::Cell) -> bool {
    cell.is_some()
}

/// As far as it can be told before anything is checked.
fn use_of_key(file: &raw::File) -> UseOfKey {
    let devices = || file.port.iter().flatten().map(|port| port.get_ref().device.as_ref());
    let is_null = |device: Option<&toml::Spanned<toml::Value>>| {
        device.and_then(|of| of.get_ref().as_str()).is_some_and(|of| of.starts_with("net_null"))
    };
    if file.cluster.as_ref().is_some_and(|of| written(&of.get_ref().store)) {
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

/// Where parts of a service are written.
pub(crate) struct Places {
    vip: Span,
    backends: Vec<Span>,
}

fn vips_distinct(r: &mut Reader<'_, '_>, services: &[Service], places: &[Places]) {
    let mut seen = HashMap::new();
    for (service, place) in services.iter().zip(places) {
        if service.vip.addr.is_unspecified() {
            continue; // refused above
        }
        if let Some(other) = seen.insert((service.vip, service.port, service.protocol), &service.name) {
            let (name, vip, port) = (&service.name, service.vip, service.port);
            let protocol = service.protocol.as_str();
            r.problems.error(
                place.vip.clone(),
                format!("service \"{name}\": {vip} port {port} {protocol} is already service \"{other}\""),
                "put the backends of both into one service, or change vip, port or protocol of one",
            );
        }
    }
}

/// Addresses that stations of the network have, beside those of backends and of the machine's own interfaces, and the key that says so.
fn stations(
    machine: &Machine,
    ports: &[Port],
    cluster: Option<&Cluster>,
    listeners: &[(&str, Option<SocketAddr>)],
) -> Vec<(IpAddr, String)> {
    let gateways = ports.iter().flat_map(|port| {
        let named = |key: &str| format!("`{key}` of port \"{}\"", port.name);
        let v4 = port.exception_gateway.map(|addr| (IpAddr::V4(addr), named("exception_gateway")));
        v4.into_iter()
            .chain(port.exception_gateway6.map(|addr| (IpAddr::V6(addr), named("exception_gateway6"))))
    });
    let peers = machine.routing_peers.iter().map(|addr| (*addr, "one of machine.routing_peers".to_owned()));
    let own = listeners
        .iter()
        .filter_map(|(key, listen)| Some((listen.as_ref()?.ip(), format!("the address of {key}"))));
    let endpoints = cluster.iter().flat_map(|of| &of.endpoints);
    let stores = endpoints
        .filter_map(|text| Some((cluster::address_of(text)?, "one of cluster.endpoints".to_owned())));
    let all = gateways.chain(peers).chain(own).chain(stores);
    all.filter(|(addr, _)| !addr.is_unspecified() && !addr.is_loopback()).collect()
}

/// The balancer answers ARP and neighbour discovery for a VIP, and takes what is sent there: of a router, it would take the route.
fn vips_are_no_stations(
    r: &mut Reader<'_, '_>,
    services: &[Service],
    places: &[Places],
    stations: &[(IpAddr, String)],
) {
    for (service, place) in services.iter().zip(places).filter(|(of, _)| !of.vip.addr.is_unspecified()) {
        let Some((addr, what)) = stations.iter().find(|(addr, _)| service.vip.contains(*addr)) else {
            continue;
        };
        let (name, vip) = (&service.name, service.vip);
        let message = if vip.is_host() {
            format!("service \"{name}\": `vip` {vip} is {what}")
        } else {
            format!("service \"{name}\": `vip` {vip} contains {addr}, {what}")
        };
        r.problems.error(
            place.vip.clone(),
            message,
            "a VIP belongs to no station: the balancer would take what is sent there; choose another VIP, or a longer prefix",
        );
    }
}

/// A backend that is itself a VIP would send its packets back to us.
fn backends_are_no_vips(r: &mut Reader<'_, '_>, services: &[Service], places: &[Places]) {
    let mut vips = NetMap::default();
    for service in services.iter().filter(|of| !of.vip.addr.is_unspecified()) {
        vips.insert(service.vip, service.name.as_str());
    }
    for (service, place) in services.iter().zip(places) {
        for (backend, span) in service.backends.iter().zip(&place.backends) {
            if let Some((vip, other)) = vips.find(backend.address) {
                let has = if vip.is_host() {
                    "has the address of a VIP".to_owned()
                } else {
                    format!("has an address of the VIP {vip}")
                };
                r.problems.error(
                    span.clone(),
                    format!(
                        "service \"{}\": backend \"{}\" {has} (service \"{other}\")",
                        service.name, backend.name
                    ),
                    "write the backend's own address; packets to the VIP would come back to the balancer",
                );
            }
        }
    }
}

/// IPv6 needs links of 1280 bytes (RFC 8200, section 5).
fn small_mtus_are_ipv4(r: &mut Reader<'_, '_>, ports: &[Port], spans: &[Option<Span>], services: &[Service]) {
    let v6 = |net: &Net| net.addr.is_ipv6();
    let user = services.iter().find(|s| v6(&s.vip) || s.backends.iter().any(|b| b.address.is_ipv6()));
    for (port, span) in ports.iter().zip(spans) {
        let reason = match user {
            Some(service) => format!("service \"{}\"", service.name),
            None if port.exception_addresses.iter().any(v6) => "exception_addresses".to_owned(),
            None => continue,
        };
        if let (Some(span), true) = (span, port.mtu < 1280) {
            r.problems.error(
                span.clone(),
                format!(
                    "port \"{}\": mtu {} is too small for IPv6, which {reason} uses",
                    port.name, port.mtu
                ),
                "IPv6 needs at least 1280 bytes (RFC 8200): raise mtu to 1280 or more",
            );
        }
    }
}
