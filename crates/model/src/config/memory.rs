//! What a config costs.

use super::{Config, HealthKind};

/// Bytes of a narrow flow at the table's load of 0.8.
const NARROW_FLOW_BYTES: u64 = 16;
/// Bytes of a wide flow at the table's load of 0.8.
const WIDE_FLOW_BYTES: u64 = 32;
/// Bytes of a Maglev slot.
const SLOT_BYTES: u64 = 2;
/// Bytes of a tainted slot's base, of its part of the bitmap, and of the time that control keeps beside them.
const TAINT_BYTES: u64 = 4 + 1 + 8;
/// Bytes of a backend in the view and its counters, about.
const BACKEND_BYTES: u64 = 256;

/// Descriptors of devices, logs, netlink, the store, and of what looks at them all; about.
const OWN_DESCRIPTORS: u64 = 256;
/// Connections to the API and to the metrics' listener.
const API_DESCRIPTORS: u64 = 2 * 256;

impl Config {
    /// Open files that guidewayd may need at once, about: one for each check, API clients, agents, and its
    /// own.
    pub fn descriptors(&self) -> u64 {
        let checked = self.services.iter().filter(|service| service.health.kind != HealthKind::None);
        let checks: u64 = checked.map(|service| service.backends.len() as u64).sum();
        let agents = self.agents.as_ref().map_or(0, |agents| u64::from(agents.connections));
        OWN_DESCRIPTORS + API_DESCRIPTORS + agents + checks
    }

    /// Bytes of the flow tables of all workers.
    pub fn flow_table_bytes(&self) -> u64 {
        let worker = self
            .workers
            .flows
            .saturating_mul(NARROW_FLOW_BYTES)
            .saturating_add(self.workers.wide_flows.saturating_mul(WIDE_FLOW_BYTES));
        worker.saturating_mul(self.workers.cpus.len() as u64)
    }

    /// Bytes of flow tables and Maglev tables, about; two generations of the latter live while workers change
    /// over. Packet buffers are not counted: they depend on the devices.
    pub fn memory_bytes(&self) -> u64 {
        let services = self.services.iter().map(|s| {
            let taint = if s.is_stateless() { TAINT_BYTES } else { 0 };
            2 * (SLOT_BYTES + taint) * u64::from(s.maglev_size) + BACKEND_BYTES * s.backends.len() as u64
        });
        services.fold(self.flow_table_bytes(), u64::saturating_add)
    }
}
