//! Asks the kernel for routes and neighbours, and listens to what it tells by itself.
//!
//! Rule of this module: we keep the kernel's entries in use (`NTF_USE`), since our traffic does not pass through it and it would forget
//! them.

use super::{LinkHop, NeighbourTable, NetlinkChange, WantedNextHops, read_route};
use crate::event::Event;
use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection};
use std::collections::{BTreeMap, BTreeSet};
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

/// Follows the kernel until the owner is gone. A lost netlink connection is made anew.
pub(crate) async fn follow(mut wanted: watch::Receiver<WantedNextHops>, events: mpsc::Sender<Event>) {
    let mut table = NeighbourTable::default();
    let mut complained = false;
    loop {
        // Nothing to resolve, no need to listen.
        if wanted.wait_for(|wanted| !wanted.addresses.is_empty()).await.is_err() {
            return;
        }
        match follow_connection(&mut table, &mut wanted, &events).await {
            Ok(()) => return,
            Err(error) => {
                if !complained {
                    let text = format!(
                        "cannot read routes and neighbours ({error}); next hops stay as they are. \
                         Needs CAP_NET_ADMIN; tried again every second"
                    );
                    if events.send(Event::Warning(text)).await.is_err() {
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

struct Abort(tokio::task::JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn follow_connection(
    table: &mut NeighbourTable,
    wanted: &mut watch::Receiver<WantedNextHops>,
    events: &mpsc::Sender<Event>,
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
        if !table.report(events).await {
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
                        NetlinkChange::Neighbour => {
                            if !table.report(events).await {
                                return Ok(());
                            }
                        }
                        NetlinkChange::LookAgain => look_at = look_at.min(Instant::now() + SETTLE),
                        NetlinkChange::Nothing => {}
                    }
                }
                () = tokio::time::sleep_until(look_at) => break,
            }
        }
    }
}

impl NeighbourTable {
    /// Reads interfaces, routes and neighbours anew.
    async fn look(&mut self, handle: &Handle, wanted: &WantedNextHops) -> Result<(), FollowError> {
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
        let mut shown = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut neighbours = Box::pin(handle.neighbours().get().set_address_family(family).execute());
            while let Some(message) = neighbours.try_next().await? {
                shown.push(message);
            }
        }
        let hops = self.hold(hops, &wanted.addresses, std::time::Instant::now());
        self.replace(hops, &shown);
        Ok(())
    }

    /// Asks the kernel to resolve what is not fresh, and to keep the rest.
    async fn nudge(&self, handle: &Handle) -> Result<(), FollowError> {
        let keys: BTreeSet<(u32, IpAddr)> = self.hops.values().map(LinkHop::key).collect();
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

    /// Reports next hops that differ from those last reported. False when nobody listens any more.
    async fn report(&mut self, events: &mpsc::Sender<Event>) -> bool {
        match self.changed() {
            Some(found) => events.send(Event::NextHops(found)).await.is_ok(),
            None => true,
        }
    }
}

/// The kernel's own choice if it is one of our interfaces, else the first of ours that has a route.
async fn find_hop(
    handle: &Handle,
    address: IpAddr,
    interfaces: &[(PortId, u32)],
) -> Result<Option<LinkHop>, FollowError> {
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

#[cfg(test)]
mod tests;
