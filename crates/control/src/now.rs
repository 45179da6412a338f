//! The time of an event: taken where the event comes in, never by whoever handles it.

use std::time::Duration;
use wire::Tick;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Now {
    /// Since the start; never goes backwards.
    pub(crate) monotonic: Duration,
    /// Unix time, milliseconds.
    pub(crate) unix_ms: u64,
    /// By the workers' clock.
    pub(crate) tick: Tick,
}

impl Now {
    /// Milliseconds since the start; never goes backwards.
    pub(crate) fn uptime_ms(&self) -> u64 {
        u64::try_from(self.monotonic.as_millis()).unwrap_or(u64::MAX)
    }
}
