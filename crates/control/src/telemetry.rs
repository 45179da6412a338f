//! The answers to our DPDK telemetry commands: small JSON objects, since DPDK's answers end at 16 KiB.

use crate::status::Snapshot;
use serde_json::{Map, Value, json};

/// Longest lists.
const ENTRIES_MAX: usize = 64;
/// DPDK's limit, with room for its own envelope.
const BYTES_MAX: usize = 15 * 1024;

/// Command and answer, for each command.
pub(crate) fn answers(snapshot: &Snapshot) -> Vec<(&'static str, String)> {
    let status = &snapshot.status;
    let summary = json!({
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
    let vips = snapshot.services.iter().map(|service| {
        let value = json!({
            "vip": service.vip, "port": service.port, "protocol": service.protocol, "mode": service.mode,
            "state": service.state, "up": service.backends_up, "backends": service.backends_total,
            "packets": service.packets, "flows": service.flows,
        });
        (service.name.clone(), value)
    });
    let backends = snapshot.backends.iter().map(|backend| {
        let value = json!({
            "address": backend.address, "state": backend.state, "by": backend.word,
            "packets": backend.packets, "flows": backend.flows,
        });
        (format!("{}/{}", backend.service, backend.name), value)
    });
    let workers = snapshot.workers.iter().map(|worker| {
        let value = json!({
            "cpu": worker.cpu, "turns": worker.turns, "busy_ratio": worker.busy_ratio, "rx": worker.rx,
            "tx": worker.tx, "dropped": worker.dropped, "flows": worker.flows,
            "generation": worker.generation,
        });
        (worker.core.to_string(), value)
    });
    let drops: Map<String, Value> =
        snapshot.drops.iter().map(|drop| (drop.reason.clone(), drop.count.into())).collect();
    vec![
        ("/guideway/summary", summary.to_string()),
        ("/guideway/vips", list(vips)),
        ("/guideway/backends", list(backends)),
        ("/guideway/workers", list(workers)),
        ("/guideway/drops", Value::Object(drops).to_string()),
    ]
}

/// As many entries as fit; `"…"` counts the others.
fn list(entries: impl ExactSizeIterator<Item = (String, Value)>) -> String {
    let total = entries.len();
    let mut object = Map::new();
    let mut bytes = 0;
    for (name, value) in entries.take(ENTRIES_MAX) {
        bytes += name.len() + value.to_string().len() + 8;
        if bytes > BYTES_MAX {
            break;
        }
        object.insert(name, value);
    }
    if object.len() < total {
        object.insert("…".to_owned(), json!(total - object.len()));
    }
    Value::Object(object).to_string()
}
