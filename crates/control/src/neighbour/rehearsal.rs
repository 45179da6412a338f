//! Any bytes as what the kernel says of routes and neighbours. Fuzz targets and their seeds are made of it; no daemon is built with it.
//!
//! Rule of this module: an input is records of (control, length, body), the body a netlink message without its length. Control 0: the kernel
//! tells it by itself; 1: it shows it when asked for neighbours; 2: it answers a question for the route to an address.
#![cfg_attr(not(feature = "rehearsal"), allow(unreachable_pub))]
#![allow(clippy::panic, reason = "a rehearsal that goes wrong has no other way to say so")]

use super::{LinkHop, NeighbourTable, NextHops, WantedNextHops, read_neighbour, read_route};
use rtnetlink::packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use wire::PortId;

/// Most records taken from one input.
const RECORDS_MAX: usize = 64;
/// The port's interface.
const INTERFACE: u32 = 7;
/// Length of a netlink message's header.
const HEADER_LEN: usize = 16;

fn wanted() -> WantedNextHops {
    let v6 = IpAddr::V6(Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x21));
    let v4 = |host| IpAddr::V4(Ipv4Addr::new(10, 0, 2, host));
    WantedNextHops { addresses: [v4(21), v4(22), v6].into(), interfaces: vec![(PortId(3), "gw0".to_owned())] }
}

/// Plays the records of an input.
///
/// # Panics
/// A next hop is not what was told last.
pub fn rehearse_netlink(mut input: &[u8]) {
    let (wanted, mut table) = (wanted(), NeighbourTable::default());
    let hop =
        |address: &IpAddr| (*address, LinkHop { port: PortId(3), interface: INTERFACE, neighbour: *address });
    let mut hops: BTreeMap<IpAddr, LinkHop> = wanted.addresses.iter().map(hop).collect();
    table.replace(hops.clone(), &[]);
    let mut last = NextHops::new();
    assert_eq!(table.changed(), Some(NextHops::new()));
    for _ in 0..RECORDS_MAX {
        let [control, low, high, rest @ ..] = input else { break };
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (body, rest) = rest.split_at(length);
        input = rest;
        let Some(message) = read(body) else { continue };
        match (control % 3, message.payload) {
            (1, NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(of))) => {
                table.replace(hops.clone(), std::slice::from_ref(&of));
                if let Some((key, _)) = read_neighbour(&of) {
                    assert!(table.neighbours.contains_key(&key), "what was shown is known");
                }
            }
            (2, NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(of))) => {
                for address in &wanted.addresses {
                    if let Some(hop) = read_route(&of, *address, &[(PortId(3), INTERFACE)]) {
                        assert_eq!((hop.port, hop.interface), (PortId(3), INTERFACE));
                        hops.insert(*address, hop);
                    }
                }
                table.replace(hops.clone(), &[]);
            }
            (_, payload) => {
                table.hear(NetlinkMessage::new(message.header, payload));
            }
        }
        // Only what is wanted is told, and only what is new.
        let changed = table.changed();
        assert!(changed.as_ref() != Some(&last), "told twice");
        assert_eq!(table.changed(), None);
        last = changed.unwrap_or(last);
        assert!(last.keys().all(|address| wanted.addresses.contains(address)), "{last:?}");
        assert_eq!(table.complete(&wanted), last.len() == wanted.addresses.len());
        let known = table.neighbours.len();
        assert!(known <= wanted.addresses.len() + 1, "{known} neighbours are kept, few are needed");
    }
}

/// A message of this type and payload, as the library reads it; lengths are the real ones, or it would be refused at once.
fn read(body: &[u8]) -> Option<NetlinkMessage<RouteNetlinkMessage>> {
    let [low, high, rest @ ..] = body else { return None };
    let mut header = NetlinkHeader::default();
    header.message_type = u16::from_le_bytes([*low, *high]);
    header.length = u32::try_from(HEADER_LEN + rest.len()).ok()?;
    let payload = RouteNetlinkMessage::deserialize(&header, rest).ok()?;
    Some(NetlinkMessage::new(header, NetlinkPayload::InnerMessage(payload)))
}

fn record(control: u8, kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 2).unwrap_or(u16::MAX);
    [&[control][..], &length.to_le_bytes(), &kind.to_le_bytes(), payload].concat()
}

/// An attribute, padded.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// `struct ndmsg` (linux/neighbour.h) with destination and link-layer address.
fn neighbour(interface: u32, state: u16, address: &[u8], mac: &[u8]) -> Vec<u8> {
    let family = if address.len() == 4 { 2 } else { 10 };
    let head = [&[family, 0, 0, 0][..], &interface.to_ne_bytes(), &state.to_ne_bytes(), &[0, 1]].concat();
    [head, attribute(1, address), attribute(2, mac)].concat()
}

/// `struct rtmsg` (linux/rtnetlink.h) with output interface and gateway.
fn route(kind: u8, interface: u32, gateway: &[u8]) -> Vec<u8> {
    let family = if gateway.len() == 4 { 2 } else { 10 };
    let head = [family, 32, 0, 0, 254, 2, 0, kind, 0, 0, 0, 0];
    [&head[..], &attribute(4, &interface.to_ne_bytes()), &attribute(5, gateway)].concat()
}

/// Inputs to begin with, named for what they are.
pub fn netlink_seeds() -> Vec<(&'static str, Vec<u8>)> {
    const NEW_NEIGHBOUR: u16 = 28;
    const GONE_NEIGHBOUR: u16 = 29;
    const NEW_ROUTE: u16 = 24;
    const NEW_LINK: u16 = 16;
    let (near, mac) = ([10, 0, 2, 21], [2, 0, 0, 0, 0, 0xaa]);
    let six = [0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x21];
    let told = |state, address: &[u8], mac: &[u8]| {
        record(0, NEW_NEIGHBOUR, &neighbour(INTERFACE, state, address, mac))
    };
    vec![
        ("reachable", told(2, &near, &mac)),
        ("reachable_v6", told(2, &six, &mac)),
        ("stale", told(4, &near, &mac)),
        ("failed", [told(2, &near, &mac), told(32, &near, &[])].concat()),
        ("being_resolved", [told(2, &near, &mac), told(1, &near, &[])].concat()),
        ("infiniband", told(2, &near, &[7; 20])),
        (
            "gone",
            [told(2, &near, &mac), record(0, GONE_NEIGHBOUR, &neighbour(INTERFACE, 2, &near, &mac))].concat(),
        ),
        ("other_interface", record(0, NEW_NEIGHBOUR, &neighbour(9, 2, &near, &mac))),
        ("shown", record(1, NEW_NEIGHBOUR, &neighbour(INTERFACE, 0x80, &near, &mac))),
        (
            "gateway",
            [record(2, NEW_ROUTE, &route(1, INTERFACE, &[10, 0, 2, 1])), told(2, &[10, 0, 2, 1], &mac)]
                .concat(),
        ),
        ("unreachable", record(2, NEW_ROUTE, &route(7, INTERFACE, &[10, 0, 2, 1]))),
        ("link", record(0, NEW_LINK, &[0; 16])),
        ("cut", record(0, NEW_NEIGHBOUR, &neighbour(INTERFACE, 2, &near, &mac)[..15])),
    ]
}

#[cfg(test)]
mod tests {
    use super::{netlink_seeds, rehearse_netlink};

    #[test]
    fn seeds_play() {
        for (name, seed) in netlink_seeds() {
            println!("{name}");
            rehearse_netlink(&seed);
        }
    }
}
