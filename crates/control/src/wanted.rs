//! What neighbours are to be found, and what the kernel is to have.

use crate::announce::{self, Vip};
use crate::cluster::membership::Membership;
use crate::controller::Controller;
use crate::effect::Effect;
use crate::neighbour::next_hop;
use crate::reconcile::WantedOfKernel;
use crate::reconcile::decide;
use model::api::ServiceState;
use model::config::{Announce, Route};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Tells the neighbour and announcement tasks what is wanted now.
pub(crate) fn tell_wanted(controller: &mut Controller) {
    let interfaces: Vec<_> = controller
        .ports
        .iter()
        .filter_map(|port| port.exception.as_ref().map(|(_, name)| (port.id, name.clone())))
        .collect();
    let configured = controller.config.services.iter();
    let departed = controller.backends.departed.iter().map(|departed| &departed.service);
    let addresses: BTreeSet<IpAddr> = if interfaces.is_empty() {
        BTreeSet::new()
    } else {
        configured
            .chain(departed)
            .filter(|_| controller.config.machine.next_hop_mac.is_none())
            .flat_map(|service| {
                // Of an inner frame `mac` is the destination, not the next hop.
                let needed = |mac: Option<_>| mac.is_none() || service.mode.carries_ethernet();
                service.backends.iter().filter(move |backend| needed(backend.mac))
            })
            .map(|backend| backend.address)
            .chain(peers(controller))
            .collect()
    };
    let wanted = next_hop::WantedNextHops { addresses, interfaces };
    if controller.kernel.wanted_neighbours != wanted {
        controller.kernel.wanted_neighbours = wanted.clone();
        controller.effects.push(Effect::WantNeighbours(wanted));
    }
    let wanted = wanted_of_kernel(controller, announcements(controller));
    if controller.kernel.wanted_of_kernel != wanted {
        controller.kernel.wanted_of_kernel = wanted.clone();
        controller.effects.push(Effect::WantOfKernel(wanted));
    }
}

/// Addresses of backends and machines whose next hop is to be found, and is not known.
pub(crate) fn missing_next_hops(controller: &Controller) -> u64 {
    let wanted = &controller.kernel.wanted_neighbours;
    wanted.addresses.iter().filter(|address| !controller.backends.next_hops.contains_key(address)).count()
        as u64
}

/// Addresses of other machines of the cluster, unless what is sent there has a static next hop.
pub(crate) fn peers(controller: &Controller) -> impl Iterator<Item = IpAddr> + '_ {
    let part = controller.cluster.as_ref().filter(|_| controller.config.machine.next_hop_mac.is_none());
    part.into_iter().flat_map(Membership::peers)
}

pub(crate) fn announcements(controller: &Controller) -> announce::WantedVips {
    let mut wanted = announce::WantedVips::default();
    for (port, config) in controller.ports.iter().zip(&controller.config.ports) {
        if let Some((_, interface)) = &port.exception {
            let subnets = config.exception_addresses.iter();
            wanted.subnets.extend(subnets.map(|subnet| (interface.clone(), *subnet)));
        }
    }
    let joined = controller.cluster.as_ref().is_none_or(Membership::is_ready);
    let serving = !controller.program.stopping
        && controller.program.leaving.is_none()
        && joined
        && controller.acknowledged > 0
        && controller.kernel.ways.can_send();
    for service in controller.config.services.iter().filter(|service| service.announce == Announce::Kernel) {
        if service.health.route == Route::Tunnel && service.vip.addr.is_ipv4() {
            wanted
                .accept_local
                .extend(controller.ports.iter().filter_map(|p| Some(p.exception.as_ref()?.1.clone())));
        }
        let usable = matches!(
            controller.backends.service_states.get(&service.name),
            Some(ServiceState::Ready | ServiceState::Panic)
        );
        if serving && usable {
            wanted.vips.insert(Vip::from(service.vip));
        }
    }
    wanted
}

/// What the kernel is to have now.
pub(crate) fn wanted_of_kernel(controller: &Controller, announce: announce::WantedVips) -> WantedOfKernel {
    let mut interfaces = decide::interfaces(&controller.config.ports);
    interfaces.retain_mut(|of| {
        let Some(port) = controller.ports.get(of.port.index()) else { return false };
        of.port = port.id;
        of.mac = Some(port.mac);
        of.made = controller.kernel.renewals.made(port.id);
        port.exception.is_some()
    });
    let links = controller.ports.iter().filter_map(|port| Some((port.id, port.kernel.clone()?)));
    let announced = controller.config.services.iter().filter(|of| of.announce == Announce::Kernel);
    WantedOfKernel {
        interfaces,
        links: links.collect(),
        announce,
        configured: announced.map(|service| Vip::from(service.vip)).collect(),
    }
}
