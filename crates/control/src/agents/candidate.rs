//! Registrations that the machine itself checks before they are in force.

use crate::health::Check;
use model::registered::Registered;
use std::sync::Arc;

/// A registration that the machine itself checks before it is in force.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(super) registered: Registered,
    pub(super) check: Arc<Check>,
}
