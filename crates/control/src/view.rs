//! From what the controller knows to a view: what [`compile()`] asks is answered here.

use crate::balance::weights;
use crate::cluster::joined;
use crate::cluster::joined::without_panic;
use crate::compile::{self, CompileError, Making, Runtime, compile};
use crate::controller::Controller;
use crate::ids::Ids;
use model::config::{AdminState, Config, HealthKind, Service};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use wire::PortId;
use worker::View;
use worker::view::{PortRole, PortView};

/// The view of `config` with what is known now. `ids` is half changed after an error.
pub(crate) fn compile_with(
    controller: &Controller,
    config: &Config,
    ids: &mut Ids,
    making: Making,
) -> Result<View, CompileError> {
    let config = match &controller.cluster {
        None => without_early_panic(controller, config, ids),
        Some(_) => Cow::Owned(without_panic(config)),
    };
    let departed: Vec<compile::Departed<'_>> = controller
        .backends
        .departed
        .iter()
        .filter_map(|departed| {
            let service = &departed.service;
            Some(compile::Departed { id: departed.id, service, backend: service.backends.first()? })
        })
        .collect();
    let weights = match &controller.cluster {
        None => weights::weights_in_force(controller, &config, ids),
        // The tables of the plan are made of them already.
        Some(_) => HashMap::new(),
    };
    let plans = controller.cluster.as_ref().filter(|part| part.plan().is_some());
    let mut view = compile(
        &config,
        ids,
        &Runtime {
            generation: controller.publication.generation + 1,
            now: controller.now.tick,
            is_up: &|id, _, _| match plans {
                None => controller.verdict(id) == Some(true),
                Some(part) => !part.is_masked(id),
            },
            is_drained: &|_, service, backend| controller.is_drained(service, backend),
            weight: &|id, _, backend| weights.get(&id).copied().unwrap_or(backend.weight),
            next_hop: &|address| controller.backends.next_hops.get(&address).map(|hop| (hop.mac, hop.port)),
            flows: &|id| controller.live_flows(id),
            ports: &port_views(controller),
            departed: &departed,
            probes: &controller.backends.probe_ports.probes(),
            table: &|service| plans?.table(service),
            deciders: weights::deciders(controller),
            loads: Arc::clone(&controller.balance.loads),
            making,
        },
    )?;
    joined::join_view(controller, &mut view, &config, ids);
    Ok(view)
}

/// A backend that has not been checked yet takes no flows, and yet is no sign of mass failure: a service is not
/// in panic for those. `compile` knows up and down only, so the threshold is left out where only they cross it.
pub(crate) fn without_early_panic<'c>(
    controller: &Controller,
    config: &'c Config,
    ids: &Ids,
) -> Cow<'c, Config> {
    let early: Vec<usize> = (0..config.services.len())
        .filter(|at| config.services.get(*at).is_some_and(|service| is_early(controller, service, ids)))
        .collect();
    if early.is_empty() {
        return Cow::Borrowed(config);
    }
    let mut config = config.clone();
    for at in early {
        if let Some(service) = config.services.get_mut(at) {
            service.panic_percent = 0;
        }
    }
    Cow::Owned(config)
}

pub(crate) fn is_early(controller: &Controller, service: &Service, ids: &Ids) -> bool {
    if service.health.kind == HealthKind::None || service.panic_percent == 0 {
        return false;
    }
    let (mut eligible, mut down, mut unknown) = (0_u64, 0_u64, 0_u64);
    for backend in &service.backends {
        let drained = || controller.is_drained(service, backend);
        if backend.state != AdminState::Up || backend.weight == 0 || drained() {
            continue;
        }
        eligible += 1;
        match ids.backend(&service.name, &backend.name, backend.address).and_then(|id| controller.verdict(id))
        {
            Some(true) => {}
            Some(false) => down += 1,
            None => unknown += 1,
        }
    }
    unknown > 0 && down * 100 <= u64::from(service.panic_percent) * eligible
}

/// Data ports by id, then exception ports.
pub(crate) fn port_views(controller: &Controller) -> Vec<PortView> {
    let data = controller.ports.iter().map(|port| {
        let exception = port.exception.as_ref().map(|(id, _)| *id);
        let exception = exception.filter(|_| !controller.kernel.renewals.is_under_way(port.id));
        let role = PortRole::Data { exception, punt_to_nowhere: false };
        (port.id, PortView { mac: port.mac, mtu: port.mtu, role })
    });
    let exceptions = controller.ports.iter().filter_map(|port| {
        let role = match controller.kernel.renewals.is_under_way(port.id) {
            true => PortRole::Absent,
            false => PortRole::Exception { data: port.id },
        };
        Some((port.exception.as_ref()?.0, PortView { mac: port.mac, mtu: port.mtu, role }))
    });
    let mut views: Vec<(PortId, PortView)> = data.chain(exceptions).collect();
    views.sort_by_key(|(id, _)| *id);
    views.into_iter().map(|(_, view)| view).collect()
}
