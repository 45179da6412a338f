//! What is published to workers, and when.

use std::sync::Arc;
use std::time::Duration;
use worker::View;

/// Slots of tables that are made on the management thread when a view is: some ten milliseconds of its time.
pub(crate) const SLOTS_AT_ONCE: u64 = 1 << 19;
/// Shortest time between two views for what may wait: registrations, and backends that come up. A storm of them costs
/// the workers four views a second.
pub(crate) const PUBLISH_EVERY: Duration = Duration::from_millis(250);

/// The view in force, and what is to be published, and when.
#[derive(Debug, Default)]
pub(crate) struct Publication {
    pub(crate) view: Arc<View>,
    pub(crate) generation: u64,
    /// Slot tables are being made elsewhere; nothing is published before they are there.
    pub(crate) making_tables: bool,
    /// Something is to be published at once.
    pub(crate) dirty: bool,
    /// Something is to be published, and may wait until `publish_from`.
    pub(crate) lazy: bool,
    /// When what may wait is published next, since the start.
    pub(crate) publish_from: Duration,
}

impl Publication {
    /// The generation in which everything that was asked for until now is in force.
    pub(crate) fn next_generation(&self) -> u64 {
        self.generation + u64::from(self.making_tables || self.dirty)
    }

    /// Whether a view is to be made in the next turn.
    pub(crate) fn is_due(&self) -> bool {
        self.dirty && !self.making_tables
    }
}
