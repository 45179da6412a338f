//! Next hops: which port a backend is reached through, and the link-layer address there, as the kernel's routes and
//! neighbour tables on the exception interfaces say.
//!
//! Rule of this module: the kernel resolves, we read. What it says is put together here, without asking; [`follow`] asks. An entry that
//! vanishes keeps its last address until resolution has failed, so that the kernel's housekeeping interrupts no traffic; a way that vanishes is kept
//! for some seconds, so that an exception interface that is set down, flushed or deleted interrupts none until it is put right.
#![cfg_attr(not(feature = "daemon"), allow(dead_code))]

use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};
use wire::PortId;

use next_hop::{NextHop, NextHops, WantedNextHops};

/// How long a way that the kernel has no more is kept.
const HOLD: Duration = Duration::from_secs(5);

#[cfg(feature = "daemon")]
pub(crate) mod follow;
pub(crate) mod next_hop;
#[cfg(any(test, feature = "rehearsal"))]
pub(crate) mod rehearsal;

/// Where a backend's frames go on the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct LinkHop {
    port: PortId,
    interface: u32,
    /// The gateway, or the backend itself.
    neighbour: IpAddr,
}

/// What the kernel has told.
#[derive(Debug, Default)]
struct NeighbourTable {
    hops: BTreeMap<IpAddr, LinkHop>,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
    /// Since when the kernel has no way to an address any more.
    lost: BTreeMap<IpAddr, Instant>,
    reported: Option<NextHops>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Neighbour {
    mac: Option<[u8; 6]>,
    /// The kernel has seen it lately, or was told so by an administrator.
    fresh: bool,
    /// The kernel asks for it. One that fails without having been asked for was deleted by hand, and is asked for before it is given up.
    doubted: bool,
}

enum NetlinkChange {
    Neighbour,
    LookAgain,
    Nothing,
}

impl NeighbourTable {
    /// The hops that were found, and those of `wanted` that have vanished lately. Where one is found on another interface of the same port (its device
    /// was made anew), its neighbour is the old one until the kernel says otherwise.
    fn hold(
        &mut self,
        mut found: BTreeMap<IpAddr, LinkHop>,
        wanted: &BTreeSet<IpAddr>,
        now: Instant,
    ) -> BTreeMap<IpAddr, LinkHop> {
        for (address, old) in self.hops.iter().filter(|(address, _)| wanted.contains(address)) {
            match found.get(address) {
                None if now < *self.lost.entry(*address).or_insert(now) + HOLD => {
                    found.insert(*address, *old);
                }
                Some(new) if (new.port, new.neighbour) == (old.port, old.neighbour) => {
                    if let Some(known) = self.neighbours.get(&old.key()).copied() {
                        self.neighbours.entry(new.key()).or_insert(Neighbour { fresh: false, ..known });
                    }
                    self.lost.remove(address);
                }
                _ => {
                    self.lost.remove(address);
                }
            }
        }
        self.lost.retain(|address, _| found.contains_key(address));
        found
    }

    /// Hops that were found anew, and all neighbours that the kernel shows. Of those it has forgotten without failing, the ones that are
    /// needed keep their address until they are resolved anew.
    fn replace(&mut self, hops: BTreeMap<IpAddr, LinkHop>, shown: &[NeighbourMessage]) {
        self.hops = hops;
        let told = shown.iter().filter_map(read_neighbour);
        let mut seen: HashMap<_, _> =
            told.map(|(key, told)| (key, told.after(self.neighbours.get(&key).copied()))).collect();
        let needed: BTreeSet<(u32, IpAddr)> = self.hops.values().map(LinkHop::key).collect();
        for (key, old) in &self.neighbours {
            if needed.contains(key) && !seen.contains_key(key) {
                seen.insert(*key, Neighbour { fresh: false, ..*old });
            }
        }
        self.neighbours = seen;
    }

    /// Takes in what the kernel tells by itself.
    fn hear(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) -> NetlinkChange {
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => {
                let Some((key, told)) = read_neighbour(&message) else { return NetlinkChange::Nothing };
                if !self.hops.values().any(|hop| hop.key() == key) {
                    return NetlinkChange::Nothing;
                }
                let old = self.neighbours.get(&key).copied();
                let new = told.after(old);
                self.neighbours.insert(key, new);
                // Looking again asks for it.
                if told == NeighbourNews::Failed && new.mac.is_some() {
                    NetlinkChange::LookAgain
                } else {
                    NetlinkChange::Neighbour
                }
            }
            // Looking again asks the kernel to resolve it anew.
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(message)) => {
                match read_neighbour(&message) {
                    Some((key, _)) if self.hops.values().any(|hop| hop.key() == key) => {
                        NetlinkChange::LookAgain
                    }
                    _ => NetlinkChange::Nothing,
                }
            }
            // A link, an address or a route; or messages were lost.
            NetlinkPayload::InnerMessage(_) | NetlinkPayload::Overrun(_) => NetlinkChange::LookAgain,
            _ => NetlinkChange::Nothing,
        }
    }

    fn next_hops(&self) -> NextHops {
        self.hops
            .iter()
            .filter_map(|(address, hop)| {
                let mac = self.neighbours.get(&hop.key())?.mac?;
                Some((*address, NextHop { port: hop.port, mac }))
            })
            .collect()
    }

    fn complete(&self, wanted: &WantedNextHops) -> bool {
        self.lost.is_empty() && self.next_hops().len() == wanted.addresses.len()
    }

    /// Next hops, if they differ from those given last.
    fn changed(&mut self) -> Option<NextHops> {
        let found = self.next_hops();
        if self.reported.as_ref() == Some(&found) {
            return None;
        }
        self.reported = Some(found.clone());
        Some(found)
    }
}

impl LinkHop {
    fn key(&self) -> (u32, IpAddr) {
        (self.interface, self.neighbour)
    }
}

fn read_route(route: &RouteMessage, address: IpAddr, interfaces: &[(PortId, u32)]) -> Option<LinkHop> {
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let mut interface = None;
    let mut neighbour = address;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(gateway))
            | RouteAttribute::Via(RouteVia::Inet(gateway)) => neighbour = IpAddr::V4(*gateway),
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway))
            | RouteAttribute::Via(RouteVia::Inet6(gateway)) => neighbour = IpAddr::V6(*gateway),
            _ => {}
        }
    }
    let interface = interface?;
    let (port, _) = interfaces.iter().find(|(_, index)| *index == interface)?;
    Some(LinkHop { port: *port, interface, neighbour })
}

fn read_neighbour(message: &NeighbourMessage) -> Option<((u32, IpAddr), NeighbourNews)> {
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => address = Some(IpAddr::V4(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => address = Some(IpAddr::V6(*a)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            _ => {}
        }
    }
    let told = match (message.header.state, mac) {
        (NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp, Some(mac)) => {
            NeighbourNews::Usable { mac, fresh: true, doubted: false }
        }
        (NeighbourState::Stale | NeighbourState::Delay, Some(mac)) => {
            NeighbourNews::Usable { mac, fresh: false, doubted: false }
        }
        (NeighbourState::Probe, Some(mac)) => NeighbourNews::Usable { mac, fresh: false, doubted: true },
        (NeighbourState::Incomplete | NeighbourState::None, _) => NeighbourNews::Asking,
        _ => NeighbourNews::Failed,
    };
    Some(((message.header.ifindex, address?), told))
}

/// What the kernel says of a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NeighbourNews {
    Usable {
        mac: [u8; 6],
        fresh: bool,
        doubted: bool,
    },
    /// It is being resolved: what was known before still holds.
    Asking,
    Failed,
}

impl NeighbourNews {
    fn after(self, old: Option<Neighbour>) -> Neighbour {
        match self {
            NeighbourNews::Usable { mac, fresh, doubted } => Neighbour { mac: Some(mac), fresh, doubted },
            NeighbourNews::Asking => {
                Neighbour { mac: old.and_then(|old| old.mac), fresh: false, doubted: true }
            }
            NeighbourNews::Failed => {
                let mac = old.filter(|old| !old.doubted).and_then(|old| old.mac);
                Neighbour { mac, fresh: false, doubted: true }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_that_vanishes_is_kept_for_a_while_and_its_neighbour_on_the_next_interface() {
        let (mut table, now) = (NeighbourTable::default(), Instant::now());
        let address = IpAddr::from([10, 0, 2, 21]);
        let wanted = WantedNextHops { addresses: [address].into(), interfaces: Vec::new() };
        let hop = |interface| LinkHop { port: PortId(0), interface, neighbour: address };
        let on = |interface| BTreeMap::from([(address, hop(interface))]);
        let mac = [2, 0, 0, 0, 0, 1];
        let next_hop = NextHops::from([(address, NextHop { port: PortId(0), mac })]);
        table.neighbours.insert((7, address), Neighbour { mac: Some(mac), fresh: true, doubted: false });
        table.replace(on(7), &[]);
        assert_eq!(table.next_hops(), next_hop);
        assert!(table.complete(&wanted));

        let mut look = |found: BTreeMap<IpAddr, LinkHop>, at: Instant| {
            let held = table.hold(found, &wanted.addresses, at);
            table.replace(held, &[]);
            (table.next_hops(), table.complete(&wanted))
        };
        let last = HOLD - Duration::from_millis(1);
        assert_eq!(look(BTreeMap::new(), now), (next_hop.clone(), false));
        assert_eq!(look(BTreeMap::new(), now + last), (next_hop.clone(), false));
        // Made anew, with another number.
        assert_eq!(look(on(8), now + last), (next_hop.clone(), true));
        // For good.
        assert_eq!(look(BTreeMap::new(), now + last), (next_hop, false));
        assert_eq!(look(BTreeMap::new(), now + last + HOLD), (NextHops::new(), false));
    }

    #[test]
    fn a_forgotten_entry_keeps_its_address_until_resolution_fails() {
        let mac = Some([2, 0, 0, 0, 0, 1]);
        let old = Neighbour { mac, fresh: true, doubted: false };
        let asked = Neighbour { mac, fresh: false, doubted: true };
        let lost = Neighbour { mac: None, ..asked };
        assert_eq!(NeighbourNews::Asking.after(Some(old)), asked);
        assert_eq!(NeighbourNews::Asking.after(None), lost);
        // By hand: it is asked for. By the kernel, which has asked: it is lost.
        assert_eq!(NeighbourNews::Failed.after(Some(old)), asked);
        assert_eq!(NeighbourNews::Failed.after(Some(asked)), lost);
        assert_eq!(NeighbourNews::Failed.after(None), lost);
    }
}
