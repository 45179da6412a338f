//! From what the controller knows to a view: what [`compile()`] asks is answered here.

use crate::cluster::adopt::without_panic;
use crate::compile::{self, CompileError, Making, Runtime, compile};
use crate::controller::Controller;
use crate::ids::Ids;
use model::config::{AdminState, Config, HealthKind, Service};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use wire::{BackendId, PortId};
use worker::View;
use worker::view::{PortRole, PortView};

impl Controller {
    /// The view of `config` with what is known now. `ids` is half changed after an error.
    pub(crate) fn compile_with(
        &self,
        config: &Config,
        ids: &mut Ids,
        making: Making,
    ) -> Result<View, CompileError> {
        let config = match &self.cluster {
            None => self.without_early_panic(config, ids),
            Some(_) => Cow::Owned(without_panic(config)),
        };
        let departed: Vec<compile::Departed<'_>> = self
            .departed
            .iter()
            .filter_map(|departed| {
                let service = &departed.service;
                Some(compile::Departed { id: departed.id, service, backend: service.backends.first()? })
            })
            .collect();
        let weights = match &self.cluster {
            None => self.weights_in_force(&config, ids),
            // The tables of the plan are made of them already.
            Some(_) => HashMap::new(),
        };
        let plans = self.cluster.as_ref().filter(|part| part.plan().is_some());
        let mut view = compile(
            &config,
            ids,
            &Runtime {
                generation: self.generation + 1,
                now: self.now.tick,
                is_up: &|id, _, _| match plans {
                    None => self.verdict(id) == Some(true),
                    Some(part) => !part.is_masked(id),
                },
                is_drained: &|_, service, backend| self.is_drained(service, backend),
                weight: &|id, _, backend| weights.get(&id).copied().unwrap_or(backend.weight),
                next_hop: &|address| self.next_hops.get(&address).map(|hop| (hop.mac, hop.port)),
                flows: &|id| self.live_flows(id),
                ports: &self.port_views(),
                departed: &departed,
                probes: &self.probe_ports.probes(),
                table: &|service| plans?.table(service),
                deciders: self.deciders(),
                loads: Arc::clone(&self.balance.loads),
                making,
            },
        )?;
        self.join_view(&mut view, &config, ids);
        Ok(view)
    }

    /// What checks say of a backend; `None` before the first verdict.
    pub(crate) fn verdict(&self, id: BackendId) -> Option<bool> {
        self.members.get(&id)?.verdict.as_ref()?.up()
    }

    /// A backend that has not been checked yet takes no flows, and yet is no sign of mass failure: a service is not
    /// in panic for those. `compile` knows up and down only, so the threshold is left out where only they cross it.
    fn without_early_panic<'c>(&self, config: &'c Config, ids: &Ids) -> Cow<'c, Config> {
        let early: Vec<usize> = (0..config.services.len())
            .filter(|at| config.services.get(*at).is_some_and(|service| self.is_early(service, ids)))
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

    fn is_early(&self, service: &Service, ids: &Ids) -> bool {
        if service.health.kind == HealthKind::None || service.panic_percent == 0 {
            return false;
        }
        let (mut eligible, mut down, mut unknown) = (0_u64, 0_u64, 0_u64);
        for backend in &service.backends {
            let drained = || self.is_drained(service, backend);
            if backend.state != AdminState::Up || backend.weight == 0 || drained() {
                continue;
            }
            eligible += 1;
            match ids.backend(&service.name, &backend.name, backend.address).and_then(|id| self.verdict(id)) {
                Some(true) => {}
                Some(false) => down += 1,
                None => unknown += 1,
            }
        }
        unknown > 0 && down * 100 <= u64::from(service.panic_percent) * eligible
    }

    /// Data ports by id, then exception ports.
    pub(crate) fn port_views(&self) -> Vec<PortView> {
        let data = self.ports.iter().map(|port| {
            let exception = port.exception.as_ref().map(|(id, _)| *id);
            let exception = exception.filter(|_| !self.renewals.is_under_way(port.id));
            let role = PortRole::Data { exception, punt_to_nowhere: false };
            (port.id, PortView { mac: port.mac, mtu: port.mtu, role })
        });
        let exceptions = self.ports.iter().filter_map(|port| {
            let role = match self.renewals.is_under_way(port.id) {
                true => PortRole::Absent,
                false => PortRole::Exception { data: port.id },
            };
            Some((port.exception.as_ref()?.0, PortView { mac: port.mac, mtu: port.mtu, role }))
        });
        let mut views: Vec<(PortId, PortView)> = data.chain(exceptions).collect();
        views.sort_by_key(|(id, _)| *id);
        views.into_iter().map(|(_, view)| view).collect()
    }
}
