//! Next hops: which port a backend is reached through, and the link-layer address there, as the kernel's routes and
//! neighbour tables on the exception interfaces say.
//!
//! Rule of this module: the kernel resolves, we read. We keep its entries in use (`NTF_USE`), since our traffic does
//! not pass through it and it would forget them. An entry that vanishes keeps its last address until resolution has
//! failed, so that the kernel's housekeeping interrupts no traffic.

use crate::truth::Note;
use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use wire::PortId;

/// Time between two full looks when everything is resolved.
const REFRESH: Duration = Duration::from_secs(10);
/// … when something is not.
const RETRY: Duration = Duration::from_secs(1);
/// Pause after a change of routes or links, in which more may follow.
const SETTLE: Duration = Duration::from_millis(20);

/// What is to be resolved, and where.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Wanted {
    /// Addresses of backends.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Data ports and their exception interfaces.
    pub(crate) interfaces: Vec<(PortId, String)>,
}

/// The way to an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NextHop {
    /// Data port.
    pub(crate) port: PortId,
    /// Destination MAC.
    pub(crate) mac: [u8; 6],
}

/// Next hops by backend address; absent while unresolved.
pub(crate) type NextHops = HashMap<IpAddr, NextHop>;

/// Follows the kernel until the owner is gone. A lost netlink connection is made anew.
pub(crate) async fn follow(mut wanted: watch::Receiver<Wanted>, notes: mpsc::Sender<Note>) {
    let mut table = Table::default();
    let mut complained = false;
    loop {
        // Nothing to resolve, no need to listen.
        if wanted.wait_for(|wanted| !wanted.addresses.is_empty()).await.is_err() {
            return;
        }
        match follow_connection(&mut table, &mut wanted, &notes).await {
            Ok(()) => return,
            Err(error) => {
                if !complained {
                    let text = format!(
                        "cannot read routes and neighbours ({error}); next hops stay as they are. \
                         Needs CAP_NET_ADMIN; tried again every second"
                    );
                    if notes.send(Note::Warning(text)).await.is_err() {
                        return;
                    }
                }
                complained = true;
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error("netlink socket: {0}")]
    Socket(#[from] std::io::Error),
    #[error("netlink: {0}")]
    Netlink(#[from] rtnetlink::Error),
    #[error("netlink connection closed")]
    Closed,
}

/// Where a backend's frames go on the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Hop {
    port: PortId,
    interface: u32,
    /// The gateway, or the backend itself.
    neighbour: IpAddr,
}

/// What the kernel has told.
#[derive(Debug, Default)]
struct Table {
    hops: BTreeMap<IpAddr, Hop>,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
    reported: Option<NextHops>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Neighbour {
    mac: Option<[u8; 6]>,
    /// The kernel has seen it lately, or was told so by an administrator.
    fresh: bool,
}

struct Abort(tokio::task::JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn follow_connection(
    table: &mut Table,
    wanted: &mut watch::Receiver<Wanted>,
    notes: &mpsc::Sender<Note>,
) -> Result<(), FollowError> {
    let (connection, handle, mut messages) = new_multicast_connection(&[
        MulticastGroup::Neigh,
        MulticastGroup::Link,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
    ])?;
    let _connection = Abort(tokio::spawn(connection));
    loop {
        let wish = wanted.borrow_and_update().clone();
        table.look(&handle, &wish).await?;
        if !table.report(notes).await {
            return Ok(());
        }
        table.nudge(&handle).await?;
        let pause = if table.complete(&wish) { REFRESH } else { RETRY };
        let mut look_at = Instant::now() + pause;
        loop {
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    break;
                }
                message = messages.next() => {
                    let Some((message, _)) = message else { return Err(FollowError::Closed) };
                    match table.hear(message) {
                        Heard::Neighbour => {
                            if !table.report(notes).await {
                                return Ok(());
                            }
                        }
                        Heard::LookAgain => look_at = look_at.min(Instant::now() + SETTLE),
                        Heard::Nothing => {}
                    }
                }
                () = tokio::time::sleep_until(look_at) => break,
            }
        }
    }
}

enum Heard {
    Neighbour,
    LookAgain,
    Nothing,
}

impl Table {
    /// Reads interfaces, routes and neighbours anew.
    async fn look(&mut self, handle: &Handle, wanted: &Wanted) -> Result<(), FollowError> {
        let mut interfaces = Vec::new();
        for (port, name) in &wanted.interfaces {
            let mut links = Box::pin(handle.link().get().match_name(name.clone()).execute());
            // An interface that is not there (yet) is not an error.
            if let Ok(Some(link)) = links.try_next().await {
                interfaces.push((*port, link.header.index));
            }
        }
        let mut hops = BTreeMap::new();
        for address in &wanted.addresses {
            if let Some(hop) = find_hop(handle, *address, &interfaces).await? {
                hops.insert(*address, hop);
            }
        }
        self.hops = hops;
        let mut seen = HashMap::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut neighbours = Box::pin(handle.neighbours().get().set_address_family(family).execute());
            while let Some(message) = neighbours.try_next().await? {
                if let Some((key, told)) = read_neighbour(&message) {
                    seen.insert(key, told.after(self.neighbours.get(&key).copied()));
                }
            }
        }
        // What the kernel has forgotten without failing keeps its address until it is resolved anew.
        let needed: BTreeSet<(u32, IpAddr)> = self.hops.values().map(Hop::key).collect();
        for (key, old) in &self.neighbours {
            if needed.contains(key) && !seen.contains_key(key) {
                seen.insert(*key, Neighbour { fresh: false, ..*old });
            }
        }
        self.neighbours = seen;
        Ok(())
    }

    /// Takes in what the kernel tells by itself.
    fn hear(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) -> Heard {
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => {
                let Some((key, told)) = read_neighbour(&message) else { return Heard::Nothing };
                if !self.hops.values().any(|hop| hop.key() == key) {
                    return Heard::Nothing;
                }
                let old = self.neighbours.get(&key).copied();
                self.neighbours.insert(key, told.after(old));
                Heard::Neighbour
            }
            // Looking again asks the kernel to resolve it anew.
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(message)) => {
                match read_neighbour(&message) {
                    Some((key, _)) if self.hops.values().any(|hop| hop.key() == key) => Heard::LookAgain,
                    _ => Heard::Nothing,
                }
            }
            // A link, an address or a route; or messages were lost.
            NetlinkPayload::InnerMessage(_) | NetlinkPayload::Overrun(_) => Heard::LookAgain,
            _ => Heard::Nothing,
        }
    }

    /// Asks the kernel to resolve what is not fresh, and to keep the rest.
    async fn nudge(&self, handle: &Handle) -> Result<(), FollowError> {
        let keys: BTreeSet<(u32, IpAddr)> = self.hops.values().map(Hop::key).collect();
        for (interface, address) in keys {
            if self.neighbours.get(&(interface, address)).is_some_and(|neighbour| neighbour.fresh) {
                continue;
            }
            let request = handle
                .neighbours()
                .add(interface, address)
                .state(NeighbourState::None)
                .flags(NeighbourFlags::Use)
                .replace();
            match request.execute().await {
                Ok(()) => {}
                // The interface may be down or gone; the next look will tell.
                Err(rtnetlink::Error::NetlinkError(error)) => {
                    tracing::debug!(%address, interface, "neighbour not triggered: {}", error.to_io());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
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

    fn complete(&self, wanted: &Wanted) -> bool {
        self.next_hops().len() == wanted.addresses.len()
    }

    /// Reports next hops that differ from those last reported. False when nobody listens any more.
    async fn report(&mut self, notes: &mpsc::Sender<Note>) -> bool {
        let found = self.next_hops();
        if self.reported.as_ref() == Some(&found) {
            return true;
        }
        self.reported = Some(found.clone());
        notes.send(Note::NextHops(found)).await.is_ok()
    }
}

impl Hop {
    fn key(&self) -> (u32, IpAddr) {
        (self.interface, self.neighbour)
    }
}

/// The kernel's own choice if it is one of our interfaces, else the first of ours that has a route.
async fn find_hop(
    handle: &Handle,
    address: IpAddr,
    interfaces: &[(PortId, u32)],
) -> Result<Option<Hop>, FollowError> {
    if interfaces.is_empty() {
        return Ok(None);
    }
    for through in std::iter::once(None).chain(interfaces.iter().map(|(_, index)| Some(*index))) {
        let Some(route) = get_route(handle, address, through).await? else { continue };
        if let Some(hop) = read_route(&route, address, interfaces) {
            return Ok(Some(hop));
        }
    }
    Ok(None)
}

async fn get_route(
    handle: &Handle,
    address: IpAddr,
    through: Option<u32>,
) -> Result<Option<RouteMessage>, FollowError> {
    let mut message = match address {
        IpAddr::V4(address) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address, 32).build(),
        IpAddr::V6(address) => {
            RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(address, 128).build()
        }
    };
    if let Some(index) = through {
        message.attributes.push(RouteAttribute::Oif(index));
    }
    let mut routes = Box::pin(handle.route().get(message).execute());
    match routes.try_next().await {
        Ok(route) => Ok(route),
        // No route.
        Err(rtnetlink::Error::NetlinkError(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn read_route(route: &RouteMessage, address: IpAddr, interfaces: &[(PortId, u32)]) -> Option<Hop> {
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
    Some(Hop { port: *port, interface, neighbour })
}

fn read_neighbour(message: &NeighbourMessage) -> Option<((u32, IpAddr), Told)> {
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
            Told::Usable { mac, fresh: true }
        }
        (NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe, Some(mac)) => {
            Told::Usable { mac, fresh: false }
        }
        (NeighbourState::Incomplete | NeighbourState::None, _) => Told::Asking,
        _ => Told::Failed,
    };
    Some(((message.header.ifindex, address?), told))
}

/// What the kernel says of a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    Usable {
        mac: [u8; 6],
        fresh: bool,
    },
    /// It is being resolved: what was known before still holds.
    Asking,
    Failed,
}

impl Told {
    fn after(self, old: Option<Neighbour>) -> Neighbour {
        match self {
            Told::Usable { mac, fresh } => Neighbour { mac: Some(mac), fresh },
            Told::Asking => Neighbour { mac: old.and_then(|old| old.mac), fresh: false },
            Told::Failed => Neighbour { mac: None, fresh: false },
        }
    }
}

#[cfg(test)]
mod tests;
