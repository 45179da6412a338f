//! What is wanted, what is seen, and what follows from both.

use crate::announce::{self, LOOPBACK, Vip};
use model::config::{Mac, Net, Port};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use wire::PortId;

/// What the kernel is to have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct WantedOfKernel {
    /// Exception interfaces.
    pub(crate) interfaces: Vec<KernelInterface>,
    /// Kernel interfaces under data ports: their links are looked at, and nothing of them is changed.
    pub(crate) links: Vec<(PortId, String)>,
    /// VIPs of ready services, and what answers to probes need.
    pub(crate) announce: announce::WantedVips,
    /// VIPs that the configuration announces while their services are ready.
    pub(crate) configured: BTreeSet<Vip>,
}

/// An exception interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct KernelInterface {
    /// Its data port.
    pub(crate) port: PortId,
    /// Its name.
    pub(crate) name: String,
    /// The data port's; `None`: whatever it is.
    pub(crate) mac: Option<[u8; 6]>,
    /// Addresses with the lengths of their prefixes, in the order of the configuration: of two in one network the kernel prefers the first
    /// as a source.
    pub(crate) addresses: Vec<Vip>,
    /// Default routes.
    pub(crate) gateways: BTreeSet<IpAddr>,
    /// Counts how often its device was made: with each the kernel gives it another index.
    pub(crate) made: u64,
}

/// What the kernel has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct KernelState {
    /// Interfaces by name, of those that are wanted; an exception interface that is not the one our device made is not among them.
    pub(crate) links: BTreeMap<String, KernelLink>,
    /// Addresses of these interfaces.
    pub(crate) addresses: BTreeSet<PlacedAddress>,
    /// Interfaces whose default route by a gateway is there.
    pub(crate) routes: BTreeSet<(String, IpAddr)>,
}

/// An interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct KernelLink {
    /// The kernel's number.
    pub(crate) index: u32,
    /// Set up by an administrator.
    pub(crate) up: bool,
    /// Frames can pass: it is up and has a carrier.
    pub(crate) running: bool,
    /// Its MAC.
    pub(crate) mac: Option<[u8; 6]>,
}

/// An address on an interface.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct PlacedAddress {
    pub(crate) interface: String,
    pub(crate) address: Vip,
}

/// Of what something is not as wanted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum RepairKind {
    /// An exception interface is not there.
    Interface,
    /// An exception interface is down or has another MAC; a data port has no link.
    Link,
    /// An address of an exception interface.
    Address,
    /// A default route by an exception interface.
    Route,
    /// A VIP of a ready service, or one of a service that is not ready.
    Vip,
}

impl RepairKind {
    pub(crate) const ALL: [RepairKind; 5] =
        [RepairKind::Interface, RepairKind::Link, RepairKind::Address, RepairKind::Route, RepairKind::Vip];

    /// The word of metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            RepairKind::Interface => "interface",
            RepairKind::Link => "link",
            RepairKind::Address => "address",
            RepairKind::Route => "route",
            RepairKind::Vip => "vip",
        }
    }
}

/// A step towards what is wanted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum KernelAction {
    /// Set an interface up.
    Raise(String),
    /// Give it its MAC.
    SetMac(String, [u8; 6]),
    /// Add an address of its own.
    PutAddress(PlacedAddress),
    /// Add the default route by a gateway.
    PutRoute(String, IpAddr),
    /// Add a VIP.
    PutVip(PlacedAddress),
    /// Remove a VIP that is ours.
    TakeVip(PlacedAddress),
}

impl KernelAction {
    /// Of what kind its cause is.
    pub(crate) fn kind(&self) -> RepairKind {
        match self {
            KernelAction::Raise(_) | KernelAction::SetMac(..) => RepairKind::Link,
            KernelAction::PutAddress(_) => RepairKind::Address,
            KernelAction::PutRoute(..) => RepairKind::Route,
            KernelAction::PutVip(_) | KernelAction::TakeVip(_) => RepairKind::Vip,
        }
    }

    /// What is wrong while it is not done.
    pub(crate) fn wrong(&self) -> String {
        match self {
            KernelAction::Raise(interface) => format!("{interface} is down"),
            KernelAction::SetMac(interface, mac) => format!("{interface} has not the MAC {}", Mac(*mac)),
            KernelAction::PutAddress(at) | KernelAction::PutVip(at) => {
                format!("{} is not on {}", at.address, at.interface)
            }
            KernelAction::PutRoute(interface, gateway) => {
                format!("the default route by {gateway} on {interface} is missing")
            }
            KernelAction::TakeVip(at) => format!("{} is still on {}", at.address, at.interface),
        }
    }

    /// What was done.
    pub(crate) fn done(&self) -> String {
        match self {
            KernelAction::Raise(interface) => format!("{interface} set up"),
            KernelAction::SetMac(interface, mac) => format!("{interface} given its MAC {}", Mac(*mac)),
            KernelAction::PutAddress(at) | KernelAction::PutVip(at) => {
                format!("{} put on {}", at.address, at.interface)
            }
            KernelAction::PutRoute(interface, gateway) => {
                format!("default route by {gateway} put on {interface}")
            }
            KernelAction::TakeVip(at) => format!("{} taken off {}", at.address, at.interface),
        }
    }
}

/// What follows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Deviations {
    /// To be done, in this order.
    pub(crate) actions: Vec<KernelAction>,
    /// Data ports whose exception interface is not there.
    pub(crate) absent: BTreeSet<PortId>,
    /// Data ports whose kernel interface has no link.
    pub(crate) down: BTreeSet<PortId>,
}

impl WantedOfKernel {
    /// Where VIPs are to be. The kernel answers neighbour solicitations only for addresses of the interface they come in by, so an IPv6
    /// VIP in the subnet of an exception interface is put there as well.
    pub(crate) fn places(&self) -> BTreeSet<PlacedAddress> {
        let mut places = BTreeSet::new();
        for vip in &self.announce.vips {
            places.insert(PlacedAddress { interface: LOOPBACK.to_owned(), address: *vip });
            if vip.address.is_ipv6() && vip.length == 128 {
                let near = self.announce.subnets.iter().filter(|(_, net)| net.contains(vip.address));
                places.extend(near.map(|(name, _)| PlacedAddress { interface: name.clone(), address: *vip }));
            }
        }
        places
    }

    /// The data port of an exception interface.
    pub(crate) fn port_of(&self, interface: &str) -> Option<PortId> {
        self.interfaces.iter().find(|of| of.name == interface).map(|of| of.port)
    }

    /// All interfaces that are to be looked at.
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        let exceptions = self.interfaces.iter().map(|of| of.name.as_str());
        let links = self.links.iter().map(|(_, name)| name.as_str());
        exceptions.chain(links).chain([LOOPBACK]).collect()
    }
}

/// What is to be done so that the kernel has what is wanted. `ours` are the VIPs that we have put somewhere; no others are taken away. What
/// would be on an interface that is not there is not asked for.
pub(crate) fn decide(
    wanted: &WantedOfKernel,
    seen: &KernelState,
    ours: &BTreeSet<PlacedAddress>,
) -> Deviations {
    let mut found = Deviations::default();
    for (port, name) in &wanted.links {
        if !seen.links.get(name).is_some_and(|link| link.running) {
            found.down.insert(*port);
        }
    }
    for interface in &wanted.interfaces {
        let name = &interface.name;
        let Some(link) = seen.links.get(name) else {
            found.absent.insert(interface.port);
            continue;
        };
        if let Some(mac) = interface.mac.filter(|mac| link.mac != Some(*mac)) {
            found.actions.push(KernelAction::SetMac(name.clone(), mac));
        }
        if !link.up {
            found.actions.push(KernelAction::Raise(name.clone()));
        }
        for address in &interface.addresses {
            let at = PlacedAddress { interface: name.clone(), address: *address };
            if !seen.addresses.contains(&at) {
                found.actions.push(KernelAction::PutAddress(at));
            }
        }
        // Routes last: their gateways are in the addresses' networks.
        for gateway in &interface.gateways {
            if !seen.routes.contains(&(name.clone(), *gateway)) {
                found.actions.push(KernelAction::PutRoute(name.clone(), *gateway));
            }
        }
    }
    let places = wanted.places();
    for at in ours.difference(&places).filter(|at| seen.addresses.contains(at)) {
        found.actions.push(KernelAction::TakeVip(at.clone()));
    }
    for at in &places {
        if seen.links.contains_key(&at.interface) && !seen.addresses.contains(at) {
            found.actions.push(KernelAction::PutVip(at.clone()));
        }
    }
    found
}

/// The exception interfaces of ports, as the configuration wants them. Data ports are numbered as they stand there.
pub(crate) fn interfaces(ports: &[Port]) -> Vec<KernelInterface> {
    let of = |(index, port): (u16, &Port)| {
        let gateways = [port.exception_gateway.map(IpAddr::V4), port.exception_gateway6.map(IpAddr::V6)];
        Some(KernelInterface {
            port: PortId(index),
            name: port.exception.clone()?,
            mac: None,
            addresses: port.exception_addresses.iter().map(|net: &Net| Vip::from(*net)).collect(),
            gateways: gateways.into_iter().flatten().collect(),
            made: 0,
        })
    };
    (0..).zip(ports).filter_map(of).collect()
}
