//! All services whose clients are counted and something checks backends.

use super::{Pool, Suspect, Trials};
use crate::agents::registry::AgentRegistry;
use model::api::Word;
use model::config::Backend;
use std::collections::HashMap;
use wire::BackendId;

/// All services whose clients are counted and something checks backends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Passive {
    pub(super) pools: HashMap<String, Pool>,
    /// When the first of them has a step that is over.
    pub(crate) due_ms: Option<u64>,
    /// Where load decides: those that are given flows to tell by.
    pub(crate) trials: Trials,
    /// Suspicions that began, since the start.
    pub(crate) suspicions: u64,
}

impl Passive {
    /// What its clients make of a backend.
    pub(crate) fn suspect(&self, service: &str, id: BackendId) -> Option<&Suspect> {
        self.pools.get(service)?.suspects().get(&id)
    }

    /// By whose word a checked backend is in its state.
    pub(crate) fn health_source(
        &self,
        registry: &AgentRegistry,
        service: &str,
        backend: &Backend,
        id: BackendId,
    ) -> Word {
        match self.suspect(service, id) {
            Some(suspect) if suspect.is_probed => Word::Health,
            _ => registry.health_source(service, &backend.name, backend.address),
        }
    }

    /// An own check of a backend has ended. Whether it is the first of a suspect.
    pub(crate) fn probed(&mut self, service: &str, id: BackendId) -> bool {
        self.pools.get_mut(service).is_some_and(|pool| pool.probed(id))
    }

    /// Backends that are suspect now.
    pub(crate) fn suspects(&self) -> usize {
        self.pools.values().map(|pool| pool.suspects().len()).sum()
    }
}
