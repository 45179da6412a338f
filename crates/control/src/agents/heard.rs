//! What a machine has heard of registrations, and tells others.

use model::registered::Registered;
use serde::{Deserialize, Serialize};

/// Registrations as this machine knows them, each list in its order.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Received {
    /// Those that had a good report and are not over: they are wanted in the configuration in force.
    pub(crate) alive: Vec<Registered>,
    /// Those that are over and were in force when last heard of. They are told until they are not in force any more.
    pub(crate) over: Vec<EndedRegistration>,
}

/// A registration that is over.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct EndedRegistration {
    /// As it was in force; its incarnation is the last one that is over.
    pub(crate) registered: Registered,
    /// EndReason it is over.
    pub(crate) why: EndReason,
}

/// EndReason a registration is over.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EndReason {
    /// Its agent said so, or the service does not let it register any more.
    Deregistered,
    /// Nothing is heard of its agent, and this machine's own checks of it fail.
    Dead,
}
