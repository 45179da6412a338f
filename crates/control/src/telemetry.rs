//! The answers to our DPDK telemetry commands: small JSON objects, since DPDK's answers end at 16 KiB.

use crate::status::StatusSummary;
use serde_json::{Map, Value, json};

/// Longest lists.
pub(crate) const ENTRIES_MAX: usize = 64;
/// DPDK's limit, with room for its own envelope.
const BYTES_MAX: usize = 15 * 1024;

/// Command and answer, for each command.
pub(crate) fn answers(summary: &StatusSummary) -> Vec<(&'static str, String)> {
    let status = &summary.status;
    let machine = json!({
        "machine": status.machine,
        "version": status.version,
        "uptime_ms": status.uptime_ms,
        "ready": status.ready,
        "generation": status.generation,
        "generation_acknowledged": status.generation_acknowledged,
        "services": status.services,
        "services_ready": status.services_ready,
        "backends": status.backends,
        "backends_up": status.backends_up,
        "rx": status.rx,
        "tx": status.tx,
        "originated": status.originated,
        "punted": status.punted,
        "relayed": status.relayed,
        "dropped": status.dropped,
        "held": status.held,
        "flows": status.flows,
    });
    let vips = summary.services.iter().map(|service| {
        let value = json!({
            "vip": service.vip, "port": service.port, "protocol": service.protocol, "mode": service.mode,
            "state": service.state, "up": service.backends_up, "backends": service.backends_total,
            "packets": service.packets, "flows": service.flows,
        });
        (service.name.clone(), value)
    });
    let backends = summary.backends.iter().map(|backend| {
        let value = json!({
            "address": backend.address, "state": backend.state, "by": backend.word,
            "packets": backend.packets, "flows": backend.flows,
        });
        (format!("{}/{}", backend.service, backend.name), value)
    });
    let workers = summary.workers.iter().map(|worker| {
        let value = json!({
            "cpu": worker.cpu, "turns": worker.turns, "busy_ratio": worker.busy_ratio, "rx": worker.rx,
            "tx": worker.tx, "dropped": worker.dropped, "flows": worker.flows,
            "generation": worker.generation,
        });
        (worker.core.to_string(), value)
    });
    let drops: Map<String, Value> =
        summary.drops.iter().map(|drop| (drop.reason.clone(), drop.count.into())).collect();
    vec![
        ("/guideway/summary", machine.to_string()),
        ("/guideway/vips", list(status.services, vips)),
        ("/guideway/backends", list(status.backends, backends)),
        ("/guideway/workers", list(status.workers, workers)),
        ("/guideway/drops", Value::Object(drops).to_string()),
    ]
}

/// As many entries as fit; `"…"` counts the others.
fn list(total: u64, entries: impl Iterator<Item = (String, Value)>) -> String {
    let mut object = Map::new();
    let mut bytes = 0;
    for (name, value) in entries.take(ENTRIES_MAX) {
        bytes += name.len() + value.to_string().len() + 8;
        if bytes > BYTES_MAX {
            break;
        }
        object.insert(name, value);
    }
    let shown = object.len() as u64;
    if shown < total {
        object.insert("…".to_owned(), json!(total - shown));
    }
    Value::Object(object).to_string()
}
