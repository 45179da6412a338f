//! A configuration as the packet path sees it, with the way back from ids to names.

use control::compile::{CompileError, offline};
use model::Config;
use model::config::{Backend, Service};
use std::collections::HashMap;
use std::sync::Arc;
#[cfg(feature = "cli")]
use wire::PortId;
use wire::{BackendId, ServiceId};
use worker::View;

/// The view that the daemon's own compiler makes, all backends up unless their `state` says otherwise.
pub(crate) struct CompiledView<'c> {
    pub(crate) view: Arc<View>,
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "only `explain` names ports"))]
    config: &'c Config,
    services: HashMap<ServiceId, &'c Service>,
    backends: HashMap<BackendId, &'c Backend>,
}

impl<'c> CompiledView<'c> {
    pub(crate) fn new(config: &'c Config) -> Result<CompiledView<'c>, CompileError> {
        let (view, ids) = offline(config)?;
        let mut compiled =
            CompiledView { view: Arc::new(view), config, services: HashMap::new(), backends: HashMap::new() };
        for service in &config.services {
            if let Some(id) = ids.service(&service.name) {
                compiled.services.insert(id, service);
            }
            for backend in &service.backends {
                if let Some(id) = ids.backend(&service.name, &backend.name, backend.address) {
                    compiled.backends.insert(id, backend);
                }
            }
        }
        Ok(compiled)
    }

    pub(crate) fn service_name(&self, id: ServiceId) -> Option<&'c str> {
        self.services.get(&id).map(|s| s.name.as_str())
    }

    pub(crate) fn backend_name(&self, id: BackendId) -> Option<&'c str> {
        self.backend_config(id).map(|b| b.name.as_str())
    }

    pub(crate) fn backend_config(&self, id: BackendId) -> Option<&'c Backend> {
        self.backends.get(&id).copied()
    }

    #[cfg(feature = "cli")]
    pub(crate) fn port_name(&self, id: PortId) -> Option<&'c str> {
        self.config.ports.get(id.index()).map(|p| p.name.as_str())
    }
}
