//! What is published to workers, and when.

use std::time::Duration;

/// Slots of tables that are made on the management thread when a view is: some ten milliseconds of its time.
pub(crate) const SLOTS_AT_ONCE: u64 = 1 << 19;
/// Shortest time between two views for what may wait: registrations, and backends that come up. A storm of them costs
/// the workers four views a second.
pub(crate) const PUBLISH_EVERY: Duration = Duration::from_millis(250);
