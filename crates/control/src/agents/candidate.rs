//! Registrations that the machine itself checks before they are in force.

use super::registry::AgentRegistry;
use super::session::BackendKey;
use crate::health::Check;
use model::registered::Registered;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A registration that the machine itself checks before it is in force.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(super) registered: Registered,
    pub(super) check: Arc<Check>,
}

/// What agents have told, and what is not in force yet.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    pub(crate) registry: AgentRegistry,
    pub(crate) candidates: BTreeMap<BackendKey, Candidate>,
    /// What agents have registered differs from what is in force; in a cluster: was not told to it yet.
    pub(crate) received_changed: bool,
}
