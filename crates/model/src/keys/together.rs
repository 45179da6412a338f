//! What services, ports and stations cannot be together.

use super::cluster::address_of;
use super::read::{Reader, Span};
use super::services::Places;
use crate::config::{Config, Net, Port, Service};
use crate::net::NetMap;
use std::collections::HashMap;
use std::net::IpAddr;

/// Checks the whole configuration.
pub(super) fn check(r: &mut Reader<'_, '_>, config: &Config, places: &[Places], mtu_spans: &[Span]) {
    vips_distinct(r, &config.services, places);
    vips_are_no_stations(r, &config.services, places, &stations(config));
    backends_are_no_vips(r, &config.services, places);
    outer_sources_are_no_others(r, config, places);
    small_mtus_are_ipv4(r, &config.ports, mtu_spans, &config.services);
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
            r.error(
                &place.vip,
                format!("service \"{name}\": {vip} port {port} {protocol} is already service \"{other}\""),
                "put the backends of both into one service, or change vip, port or protocol of one",
            );
        }
    }
}

/// Addresses that stations of the network have, beside those of backends and of the machine's own interfaces,
/// and the key that says so.
fn stations(config: &Config) -> Vec<(IpAddr, String)> {
    let gateways = config.ports.iter().flat_map(|port| {
        let named = |key: &str| format!("`{key}` of port \"{}\"", port.name);
        let v4 = port.exception_gateway.map(|addr| (IpAddr::V4(addr), named("exception_gateway")));
        v4.into_iter()
            .chain(port.exception_gateway6.map(|addr| (IpAddr::V6(addr), named("exception_gateway6"))))
    });
    let peers = config.machine.routing_peers.iter();
    let peers = peers.map(|addr| (*addr, "one of machine.routing_peers".to_owned()));
    let agents = config.agents.as_ref();
    let listeners = [
        ("api.listen", config.api.listen),
        ("metrics.listen", config.metrics.listen),
        ("agents.listen", agents.map(|of| of.listen)),
        ("agents.advertise", agents.map(|of| of.advertise)),
    ];
    let own = listeners.into_iter().filter_map(|(key, of)| Some((of?.ip(), format!("the address of {key}"))));
    let endpoints = config.cluster.iter().flat_map(|of| &of.endpoints);
    let stores =
        endpoints.filter_map(|text| Some((address_of(text)?, "one of cluster.endpoints".to_owned())));
    let all = gateways.chain(peers).chain(own).chain(stores);
    all.filter(|(addr, _)| !addr.is_unspecified() && !addr.is_loopback()).collect()
}

/// The balancer answers ARP and neighbour discovery for a VIP, and takes what is sent there: of a router, it
/// would take the route.
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
        r.error(
            &place.vip,
            message,
            "a VIP belongs to no station: the balancer would take what is sent there; choose another VIP, \
            or a longer prefix",
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
                r.error(
                    span,
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

/// A flow's outer source may be any address of its prefix: the host that has it would drop the flow's packets
/// as forged, and take the errors about them.
fn outer_sources_are_no_others(r: &mut Reader<'_, '_>, config: &Config, places: &[Places]) {
    let machine = &config.machine;
    let named = |key, prefix: Option<Net>| Some((key, prefix?));
    let prefixes = [
        named("machine.outer_source_prefix4", machine.outer_source_prefix4),
        named("machine.outer_source_prefix6", machine.outer_source_prefix6),
    ];
    for (key, prefix) in prefixes.into_iter().flatten() {
        for (service, place) in config.services.iter().zip(places) {
            let (name, vip) = (&service.name, service.vip);
            if prefix.contains(vip.addr) || vip.contains(prefix.addr) {
                let message =
                    format!("service \"{name}\": `vip` {vip} and {key} {prefix} have addresses in common");
                r.error(
                    &place.vip,
                    message,
                    "choose another VIP, or a prefix that no station has an address of",
                );
            }
            for (backend, span) in service.backends.iter().zip(&place.backends) {
                if prefix.contains(backend.address) {
                    let (backend, address) = (&backend.name, backend.address);
                    let message =
                        format!("service \"{name}\": backend \"{backend}\": {address} is of {key} {prefix}");
                    r.error(span, message, "take a prefix that no station has an address of");
                }
            }
        }
    }
}

/// IPv6 needs links of 1280 bytes (RFC 8200, section 5).
fn small_mtus_are_ipv4(r: &mut Reader<'_, '_>, ports: &[Port], spans: &[Span], services: &[Service]) {
    let v6 = |net: &Net| net.addr.is_ipv6();
    let user = services.iter().find(|s| v6(&s.vip) || s.backends.iter().any(|b| b.address.is_ipv6()));
    for (port, span) in ports.iter().zip(spans) {
        let reason = match user {
            Some(service) => format!("service \"{}\"", service.name),
            None if port.exception_addresses.iter().any(v6) => "exception_addresses".to_owned(),
            None => continue,
        };
        if port.mtu < 1280 {
            r.error(
                span,
                format!(
                    "port \"{}\": mtu {} is too small for IPv6, which {reason} uses",
                    port.name, port.mtu
                ),
                "IPv6 needs at least 1280 bytes (RFC 8200): raise mtu to 1280 or more",
            );
        }
    }
}
