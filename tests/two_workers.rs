//! Two workers on one AF_PACKET port with two queue pairs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use guideway_lab::Lab;
use guideway_lab::api::rows;
use guideway_lab::config::{Device, Mode};
use guideway_lab::scenario::{Variant, check_conservation, even_load, wait_up};
use serde_json::Value;

#[test]
fn both_workers_carry_traffic_and_counters_add_up() {
    let lab = Lab::new("two workers").unwrap();
    let variant = Variant::v4(Mode::Ipip);
    let mut config = variant.config(&lab, 1, &[(1, 1), (2, 1)]);
    config.device = Device::AfPacket(2);
    config.cpus = vec![0, 1];
    let balancer = lab.start_balancer(1, &config).unwrap();
    wait_up(&balancer, "web", &["b1", "b2"]).unwrap();
    even_load(&lab, variant, &[("b1", 1), ("b2", 1)], 4000, |_| {}).unwrap();
    check_conservation(&balancer).unwrap();

    let api = balancer.api();
    let workers = api.get("/v1/workers").unwrap();
    let workers = rows(&workers);
    assert_eq!(workers.len(), 2);
    let field = |row: &Value, name: &str| row[name].as_u64().unwrap_or_else(|| panic!("no {name} in {row}"));
    for worker in workers {
        // 4,000 requests are at least 16,000 frames; the kernel's fan-out spreads flows evenly.
        assert!(field(worker, "rx") > 3000, "{worker}");
        assert!(field(worker, "flow_inserts") > 500, "{worker}");
        let input = field(worker, "rx") + field(worker, "originated") + field(worker, "ring_in");
        let output =
            ["tx", "relayed", "punted", "dropped", "ring_out", "held"].map(|name| field(worker, name));
        // A health check may be under way between two of the counters.
        assert!(input.abs_diff(output.iter().sum()) <= 4, "{worker}");
    }
    let sum = |name: &str| workers.iter().map(|worker| field(worker, name)).sum::<u64>();
    let service = api.find("/v1/services", &[("name", "web")]).unwrap();
    assert_eq!(field(&service, "flows_new"), 4000, "one flow for each request: {service}");
    assert_eq!(sum("flow_refused"), 0);
    let backends = api.get("/v1/backends").unwrap();
    let of_backends: u64 = rows(&backends).iter().map(|row| field(row, "packets")).sum();
    assert_eq!(of_backends, field(&service, "packets"), "{backends} {service}");
    balancer.stop().unwrap();
}
