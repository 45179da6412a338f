//! The view of a member of the cluster.

use super::membership::{Membership, own_address};
use crate::controller::Controller;
use crate::ids::Ids;
use model::config::{Config, HealthKind};
use statesync::datagram::ClusterKeys;
use statesync::{Members, Owners, Rule};
use std::sync::Arc;
use wire::{PortId, ServiceId};
use worker::View;
use worker::view::cluster::{Cluster, Endpoint, Link, SlotsView};
use worker::view::path_mtu::Room;
use worker::view::{BackendState, ServiceView};

/// Makes a compiled view one of a member of the cluster.
pub(crate) fn join_view(controller: &Controller, view: &mut View, config: &Config, ids: &Ids) {
    let Some(part) = &controller.cluster else { return };
    let member = part.participant.member().unwrap_or_default();
    let vips: Vec<_> = view.service.iter().map(|service| vip_of(config, ids, service.id)).collect();
    let endpoint = Endpoint {
        address: own_address(config).map_or(wire::Addr::V4(0), wire::Addr::from),
        udp_port: part.config.port,
        port: peer_port(controller, part, config),
    };
    let (own, accepted) = part.config.tag_keys();
    let max_idle_us = super::document::Settings::new(&[0; 16], 0, &config.timeouts).max_idle_us();
    let mut cluster = Cluster {
        own: member,
        ready: false,
        step: 0,
        epoch: 0,
        generation: 0,
        owners: Owners::settled(Members::default()),
        endpoint,
        links: Vec::new(),
        keys: ClusterKeys { own, accepted },
        max_idle_us,
        relays: part.relays,
        services: vips.iter().map(|&vip| SlotsView { vip, taints: Arc::default(), always: false }).collect(),
        job: Arc::default(),
    };
    if let Some(adopted) = &part.adopted {
        let plan = &adopted.document.plan;
        cluster.step = plan.step;
        cluster.epoch = plan.epoch;
        cluster.generation = plan.generation;
        cluster.owners = part.owners(plan);
        cluster.ready = cluster.owners.is_ready(member) || !part.rules.hold(Rule::Ready);
        cluster.links = links(controller, part, config);
        let left_out = part.config.left_out;
        let always = |service: &ServiceView| !left_out.sync() && service.least_load().is_some();
        cluster.services = vips
            .iter()
            .zip(&adopted.taints)
            .zip(&view.service)
            .map(|((&vip, taints), of)| SlotsView { vip, taints: Arc::clone(taints), always: always(of) })
            .collect();
        cluster.job = Arc::clone(&adopted.job);
        // Whether a backend takes new flows is agreed on, too: by masks and tables.
        for backend in view.backends.iter_mut().flatten() {
            backend.state = if plan.is_masked(backend.id) { BackendState::Down } else { BackendState::Up };
            backend.room = Room::new(backend.state, backend.next_hop, backend.inner_mtu);
        }
    }
    view.cluster = Some(Arc::new(cluster));
}

/// The data port that messages leave by: the one of the machine's own subnet, or of a peer's next hop.
pub(crate) fn peer_port(controller: &Controller, part: &Membership, config: &Config) -> PortId {
    let own = own_address(config);
    let of_subnet = config
        .ports
        .iter()
        .position(|port| port.exception_addresses.iter().any(|net| own.is_some_and(|own| net.contains(own))));
    let of_subnet = of_subnet.and_then(|at| u16::try_from(at).ok()).map(PortId);
    let of_peer = || part.peers().find_map(|address| Some(controller.backends.next_hops.get(&address)?.port));
    of_subnet.or_else(of_peer).unwrap_or(PortId(0))
}

pub(crate) fn links(controller: &Controller, part: &Membership, config: &Config) -> Vec<Option<Link>> {
    let mut links = vec![None; statesync::MACHINES_MAX];
    for (machine, address) in part.participant.peers() {
        let fixed = config.machine.next_hop_mac.map(|mac| mac.0);
        let mac = fixed.or_else(|| controller.backends.next_hops.get(&address).map(|hop| hop.mac));
        if let (Some(link), Some(mac)) = (links.get_mut(machine.index()), mac) {
            *link = Some(Link { address: address.into(), mac });
        }
    }
    links
}

fn vip_of(config: &Config, ids: &Ids, id: ServiceId) -> (wire::Addr, u16, u8) {
    let service = config.services.iter().find(|service| ids.service(&service.name) == Some(id));
    service.map_or((wire::Addr::V4(0), 0, 0), |service| {
        (service.vip.addr.into(), service.port, service.protocol.number())
    })
}

/// Services whose backends are not checked any more panic no more: it is the leader that heeds health.
pub(crate) fn without_panic(config: &Config) -> Config {
    let mut config = config.clone();
    for service in config.services.iter_mut().filter(|service| service.health.kind != HealthKind::None) {
        service.panic_percent = 0;
    }
    config
}
