//! A configuration is compiled before it is in force, on another thread, with what was known when that began.
//!
//! Rule of this module: what comes of it saves work, and decides nothing. Whoever puts the configuration in force makes its view of what is
//! known then; as a rule that takes the ids and slot tables that were made here. What has changed meanwhile is made again.

use crate::balance::weights;
use crate::compile::{CompileError, Making, Runtime, compile};
use crate::controller::Controller;
use crate::health::Verdict;
use crate::ids::Ids;
use model::config::{Config, HealthKind};
use std::collections::{BTreeSet, HashMap};
use wire::{BackendId, Tick};
use worker::view::PortView;

/// What is known of backends, and the ids.
#[derive(Debug)]
pub(crate) struct DraftBasis {
    ids: Ids,
    now: Tick,
    up: HashMap<BackendId, bool>,
    drains: BTreeSet<(String, String)>,
    weights: HashMap<BackendId, u32>,
}

/// The ids of a configuration, with its slot tables.
#[derive(Debug)]
pub(crate) struct Draft {
    /// Version of the ids of which these were made.
    version: u64,
    ids: Ids,
}

impl DraftBasis {
    /// What a machine alone knows now.
    pub(crate) fn of(controller: &Controller) -> DraftBasis {
        let (backends, ids) = (&controller.backends, controller.backends.ids.clone());
        let up = |verdict: &Option<Verdict>| verdict.as_ref().and_then(Verdict::up);
        DraftBasis {
            now: controller.now.tick,
            up: backends.members.iter().filter_map(|(id, of)| Some((*id, up(&of.verdict)?))).collect(),
            drains: backends.drains.clone(),
            weights: weights::weights_in_force(controller, &controller.config, &ids),
            ids,
        }
    }

    /// Compiles a configuration, and makes the slot tables that it lacks, however long that takes.
    ///
    /// # Errors
    /// It cannot be compiled, or there is no id until others are let go.
    pub(crate) fn draft(mut self, config: &Config, ports: &[PortView]) -> Result<Draft, CompileError> {
        let version = self.ids.version();
        // Which ids no flow names is not known here.
        let flows = |_| 1;
        let mut ids = std::mem::take(&mut self.ids);
        ids.assign(config, self.now, &flows)?;
        let mut config = config.clone();
        for service in config.services.iter_mut().filter(|of| of.health.kind != HealthKind::None) {
            let id = |ids: &Ids, name: &str, address| ids.backend(&service.name, name, address);
            let mut backends = service.backends.iter();
            // As a rule: what has not been checked yet is no sign of mass failure.
            if backends.any(|of| id(&ids, &of.name, of.address).is_none_or(|id| !self.up.contains_key(&id))) {
                service.panic_percent = 0;
            }
        }
        let runtime = Runtime {
            now: self.now,
            is_up: &|id, _, _| self.up.get(&id) == Some(&true),
            is_drained: &|_, service, backend| {
                self.drains.contains(&(service.name.clone(), backend.name.clone()))
            },
            weight: &|id, _, backend| self.weights.get(&id).copied().unwrap_or(backend.weight),
            flows: &flows,
            making: Making::All,
            ..Runtime::offline(ports)
        };
        compile(&config, &mut ids, &runtime)?;
        Ok(Draft { version, ids })
    }
}

impl Draft {
    /// Its ids, for the controller whose ids these are made of; `None` when others were given meanwhile. Its tables are the controller's in any
    /// case.
    pub(crate) fn ids(self, controller: &mut Controller) -> Option<Ids> {
        let Draft { version, mut ids } = self;
        let own = &mut controller.backends.ids;
        own.tables = std::mem::take(&mut own.tables).and(std::mem::take(&mut ids.tables));
        ids.tables = own.tables.clone();
        (version == own.version()).then_some(ids)
    }
}
