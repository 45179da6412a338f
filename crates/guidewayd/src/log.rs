//! DPDK's lines in the daemon's log.

use dpdk::log::Level;

/// DPDK's own lines. What it calls information is chatter of a normal start.
pub(crate) fn dpdk_line(level: Level, line: &str) {
    match level {
        Level::Error => tracing::error!(target: "dpdk", "{line}"),
        Level::Warning => tracing::warn!(target: "dpdk", "{line}"),
        Level::Notice | Level::Info => tracing::debug!(target: "dpdk", "{line}"),
        Level::Debug => tracing::trace!(target: "dpdk", "{line}"),
    }
}
