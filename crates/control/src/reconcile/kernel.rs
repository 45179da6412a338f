//! What the kernel has, read and changed by netlink.

use super::{KernelAction, KernelLink, KernelState, PlacedAddress, WantedOfKernel, decide};
use crate::announce::Vip;
use futures_util::TryStreamExt as _;
use model::config::Port;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use wire::PortId;

/// Metric of our default route where another one has the usual metric already.
const METRIC_BEHIND: u32 = 4096;
/// Addresses that no route but the default one leads to (RFC 1112 section 4, RFC 4048): the kernel is asked for the way there, which costs the same
/// however many routes it has.
const NOWHERE: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(240, 0, 0, 1), Ipv6Addr::new(0x200, 0, 0, 0, 0, 0, 0, 1));
/// Rounds in which a new interface is set up: one is enough, unless another program interferes.
const ROUNDS_MAX: usize = 3;

/// Why an exception interface could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ExceptionError {
    /// No netlink socket or runtime.
    #[error("cannot talk to the kernel by netlink: {0}")]
    Netlink(#[source] std::io::Error),
    /// It cannot be read.
    #[error("cannot read what the kernel has by netlink: {0}")]
    Look(#[source] Box<rtnetlink::Error>),
    /// An interface is not there.
    #[error("port {port:?}: there is no exception interface {interface}; is it renamed by udev?")]
    Missing {
        /// Port.
        port: String,
        /// Interface.
        interface: String,
    },
    /// A step failed.
    #[error("port {port:?}: {wrong}, and cannot be changed: {source}; {help}")]
    Step {
        /// Port.
        port: String,
        /// What is wrong.
        wrong: String,
        /// What the kernel said.
        source: Box<rtnetlink::Error>,
        /// What to do.
        help: &'static str,
    },
}

/// Sets up the exception interfaces of all ports, which the caller has just made. Blocks.
///
/// # Errors
/// The first thing that does not succeed, with its remedy.
pub fn configure(ports: &[Port]) -> Result<(), ExceptionError> {
    let wanted = WantedOfKernel { interfaces: decide::interfaces(ports), ..WantedOfKernel::default() };
    if wanted.interfaces.is_empty() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ExceptionError::Netlink)?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(ExceptionError::Netlink)?;
        tokio::spawn(connection);
        set_up(&handle, ports, &wanted).await
    })
}

async fn set_up(handle: &Handle, ports: &[Port], wanted: &WantedOfKernel) -> Result<(), ExceptionError> {
    let name_of = |id: PortId| ports.get(id.index()).map_or_else(String::new, |port| port.name.clone());
    for _ in 0..ROUNDS_MAX {
        let seen = look(handle, wanted, &BTreeMap::new())
            .await
            .map_err(|error| ExceptionError::Look(Box::new(error)))?;
        let found = decide(wanted, &seen, &BTreeSet::new());
        if let Some(interface) = wanted.interfaces.iter().find(|of| found.absent.contains(&of.port)) {
            let (port, interface) = (name_of(interface.port), interface.name.clone());
            return Err(ExceptionError::Missing { port, interface });
        }
        let mut is_right = true;
        for action in &found.actions {
            is_right &= act(handle, &seen, action).await.map(|done| done == RepairOutcome::Already).map_err(
                |error| ExceptionError::Step {
                    port: interface_of(action)
                        .and_then(|interface| wanted.port_of(interface))
                        .map_or_else(String::new, name_of),
                    wrong: action.wrong(),
                    source: Box::new(error),
                    help: help(action),
                },
            )?;
        }
        if is_right {
            break;
        }
    }
    Ok(())
}

/// Lets an interface accept packets from addresses of this host. A file of the kernel's, which does not wait.
#[expect(clippy::disallowed_methods, reason = "the file is the kernel's memory")]
pub(crate) fn accept_local(interface: &str) -> Result<(), String> {
    if interface.contains('/') || interface.starts_with('.') {
        return Err(format!("interface name `{interface}`"));
    }
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/accept_local");
    if std::fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1") {
        return Ok(());
    }
    std::fs::write(&path, "1").map_err(|error| format!("{path}: {error}"))
}

/// The interface that an action changes.
pub(super) fn interface_of(action: &KernelAction) -> Option<&str> {
    match action {
        KernelAction::Raise(name) | KernelAction::SetMac(name, _) | KernelAction::PutRoute(name, _) => {
            Some(name)
        }
        KernelAction::PutAddress(at) | KernelAction::PutVip(at) | KernelAction::TakeVip(at) => {
            Some(&at.interface)
        }
    }
}

/// What to do if an action fails.
pub(super) fn help(action: &KernelAction) -> &'static str {
    match action {
        KernelAction::Raise(_)
        | KernelAction::SetMac(..)
        | KernelAction::PutVip(_)
        | KernelAction::TakeVip(_) => "it needs CAP_NET_ADMIN",
        KernelAction::PutAddress(_) => "check exception_addresses; is IPv6 switched off?",
        KernelAction::PutRoute(..) => "is the gateway inside one of exception_addresses' networks?",
    }
}

/// Reads what matters of what is wanted. An interface of `known` that has another index than stated there is not ours, and so is not seen.
pub(super) async fn look(
    handle: &Handle,
    wanted: &WantedOfKernel,
    known: &BTreeMap<String, u32>,
) -> Result<KernelState, rtnetlink::Error> {
    let mut seen = KernelState::default();
    for name in wanted.names() {
        let mut links = Box::pin(handle.link().get().match_name(name.to_owned()).execute());
        match links.try_next().await {
            Ok(Some(message)) => {
                let link = read_link(&message);
                if known.get(name).is_none_or(|index| *index == link.index) {
                    seen.links.insert(name.to_owned(), link);
                }
            }
            Ok(None) | Err(rtnetlink::Error::NetlinkError(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let mut messages = Box::pin(handle.address().get().execute());
    while let Some(message) = messages.try_next().await? {
        seen.addresses.extend(read_address(&message, &seen.links));
    }
    for interface in &wanted.interfaces {
        let Some(link) = seen.links.get(&interface.name) else { continue };
        for gateway in &interface.gateways {
            if has_route(handle, link.index, *gateway).await? {
                seen.routes.insert((interface.name.clone(), *gateway));
            }
        }
    }
    Ok(seen)
}

fn read_link(message: &LinkMessage) -> KernelLink {
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    });
    let flags = message.header.flags;
    let up = flags.contains(LinkFlags::Up);
    KernelLink { index: message.header.index, up, running: up && flags.contains(LinkFlags::Running), mac }
}

fn read_address(message: &AddressMessage, links: &BTreeMap<String, KernelLink>) -> Option<PlacedAddress> {
    let (interface, _) = links.iter().find(|(_, link)| link.index == message.header.index)?;
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            // Of a point-to-point interface the other is the peer's.
            AddressAttribute::Local(local) => address = Some(*local),
            AddressAttribute::Address(of) => address = address.or(Some(*of)),
            _ => {}
        }
    }
    let address = Vip { address: address?, length: message.header.prefix_len };
    Some(PlacedAddress { interface: interface.clone(), address })
}

/// Whether the kernel's default route on an interface goes by this gateway.
async fn has_route(handle: &Handle, index: u32, gateway: IpAddr) -> Result<bool, rtnetlink::Error> {
    let mut message = match gateway {
        IpAddr::V4(_) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(NOWHERE.0, 32).build(),
        IpAddr::V6(_) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(NOWHERE.1, 128).build(),
    };
    message.attributes.push(RouteAttribute::Oif(index));
    message.header.flags |= RouteFlags::FibMatch;
    let mut routes = Box::pin(handle.route().get(message).execute());
    match routes.try_next().await {
        Ok(route) => Ok(route.is_some_and(|route| is_by(&route, gateway))),
        Err(rtnetlink::Error::NetlinkError(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_by(route: &RouteMessage, gateway: IpAddr) -> bool {
    route.header.destination_prefix_length == 0
        && route.attributes.iter().any(|attribute| match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(of)) => IpAddr::V4(*of) == gateway,
            RouteAttribute::Gateway(RouteAddress::Inet6(of)) => IpAddr::V6(*of) == gateway,
            _ => false,
        })
}

/// What came of an action that did not fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RepairOutcome {
    /// Something was changed.
    Changed,
    /// It was so already, although it is not seen so: another has the kernel's better place.
    Already,
}

/// Does it.
pub(super) async fn act(
    handle: &Handle,
    seen: &KernelState,
    action: &KernelAction,
) -> Result<RepairOutcome, rtnetlink::Error> {
    let index = interface_of(action).and_then(|name| seen.links.get(name)).map(|link| link.index);
    // With the interface everything on it has gone.
    let Some(index) = index else { return Ok(RepairOutcome::Already) };
    match action {
        KernelAction::Raise(_) => {
            let message = LinkUnspec::new_with_index(index).up().build();
            handle.link().set(message).execute().await.map(|()| RepairOutcome::Changed)
        }
        KernelAction::SetMac(_, mac) => {
            let message = LinkUnspec::new_with_index(index).address(mac.to_vec()).build();
            handle.link().set(message).execute().await.map(|()| RepairOutcome::Changed)
        }
        KernelAction::PutAddress(at) | KernelAction::PutVip(at) => {
            put_address(handle, index, at.address).await
        }
        KernelAction::PutRoute(name, gateway) => put_route(handle, name, index, *gateway).await,
        KernelAction::TakeVip(at) => take_address(handle, index, at.address).await,
    }
}

async fn put_address(handle: &Handle, index: u32, of: Vip) -> Result<RepairOutcome, rtnetlink::Error> {
    let mut request = handle.address().add(index, of.address, of.length);
    if of.address.is_ipv6() {
        // Usable at once: what the configuration says is the machine's own, and every machine of a tier has a VIP, which duplicate
        // address detection must not see.
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    match request.execute().await {
        Err(error) if is(&error, EEXIST) => Ok(RepairOutcome::Already),
        result => result.map(|()| RepairOutcome::Changed),
    }
}

async fn take_address(handle: &Handle, index: u32, of: Vip) -> Result<RepairOutcome, rtnetlink::Error> {
    let found = handle.address().get().set_link_index_filter(index);
    let found = found.set_prefix_length_filter(of.length).set_address_filter(of.address);
    let mut messages = Box::pin(found.execute());
    let mut done = RepairOutcome::Already;
    while let Some(message) = messages.try_next().await? {
        match handle.address().del(message).execute().await {
            Err(error) if [ENOENT, ESRCH, EADDRNOTAVAIL].iter().any(|of| is(&error, *of)) => {}
            result => {
                result?;
                done = RepairOutcome::Changed;
            }
        }
    }
    Ok(done)
}

/// A default route of the host's own is left alone: ours then comes behind it, for traffic bound to the interface.
async fn put_route(
    handle: &Handle,
    interface: &str,
    index: u32,
    gateway: IpAddr,
) -> Result<RepairOutcome, rtnetlink::Error> {
    match add_route(handle, index, gateway, None).await {
        Err(error) if is(&error, EEXIST) => {}
        result => return result.map(|()| RepairOutcome::Changed),
    }
    match add_route(handle, index, gateway, Some(METRIC_BEHIND)).await {
        Err(error) if is(&error, EEXIST) => Ok(RepairOutcome::Already),
        result => result.map(|()| {
            tracing::warn!(
                interface,
                "the host has a default route already; the one by {gateway} is added with metric \
                 {METRIC_BEHIND}"
            );
            RepairOutcome::Changed
        }),
    }
}

async fn add_route(
    handle: &Handle,
    index: u32,
    gateway: IpAddr,
    metric: Option<u32>,
) -> Result<(), rtnetlink::Error> {
    let message = match gateway {
        IpAddr::V4(gateway) => {
            let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(index);
            metric.into_iter().fold(route, RouteMessageBuilder::priority).build()
        }
        IpAddr::V6(gateway) => {
            let route = RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).output_interface(index);
            metric.into_iter().fold(route, RouteMessageBuilder::priority).build()
        }
    };
    handle.route().add(message).execute().await
}

const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const EEXIST: i32 = 17;
const EADDRNOTAVAIL: i32 = 99;

fn is(error: &rtnetlink::Error, code: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code().abs() == code)
}
