use super::{Sample, Screen};
use model::api::{BackendStatus, DropCount, ServiceStatus, SourceRate, Status, WorkerStatus};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::json;

/// A sample whose counters are `n` times those of the first second.
fn sample(second: u64) -> Sample {
    let n = second;
    let status: Status = serde_json::from_value(json!({
        "machine": "lb1", "version": "0.1.0", "pid": 4711, "started_unix_ms": 0, "uptime_ms": 3_723_000,
        "ready": true, "reason": "ok", "config_path": "/etc/guideway.toml", "applied_unix_ms": 0,
        "config_is_file": true, "generation": 3, "generation_acknowledged": 3, "services": 2, "services_ready": 1,
        "backends": 3, "backends_up": 2, "workers": 1, "ports": 1, "rx": 1_250_000 * n, "tx": 1_240_000 * n,
        "originated": 3 * n, "punted": 12 * n, "relayed": 0, "dropped": 40 * n, "held": 0, "flows": 52_428,
        "flows_capacity": 1_048_576, "memory": []
    }))
    .unwrap();
    let service = |name: &str, state: &str, up: u64, n: u64| -> ServiceStatus {
        serde_json::from_value(json!({
            "name": name, "id": 1, "vip": "203.0.113.10", "port": 80, "protocol": "tcp", "mode": "ipip",
            "state": state, "health": "http", "announced": false, "backends_up": up, "backends_total": 2,
            "maglev_size": 65537, "packets": 1_000_000 * n, "bytes": 64_000_000 * n, "flows_new": 900 * n,
            "flows": 52_428, "no_backend": 0
        }))
        .unwrap()
    };
    let backend = |id: u32, state: &str, n: u64| -> BackendStatus {
        serde_json::from_value(json!({
            "service": "web", "name": format!("b{id}"), "id": id, "address": format!("10.0.2.2{id}"), "weight": 1,
            "state": state, "word": "health", "since_unix_ms": 0,
            "health": { "up": true, "last": { "passed": state == "up", "reason": if state == "up" { "ok" } else { "refused" },
                "duration_us": 100, "unix_ms": 0 }, "passed": 1, "failed": 0, "consecutive": 1, "transitions": 0,
                "held_down_ms": 0 },
            "next_hop": "02:00:00:00:00:21", "port": "data0", "packets": 500_000 * n, "bytes": 1, "flows_new": 450 * n,
            "flows": 26_214
        }))
        .unwrap()
    };
    let worker: WorkerStatus = serde_json::from_value(json!({
        "core": 0, "cpu": 1, "turns": 1, "empty_turns": 0, "busy_ratio": 0.42, "rx": 1_250_000 * n, "tx": 1_240_000 * n,
        "rx_bytes": 1, "tx_bytes": 1, "originated": 0, "punted": 0, "relayed": 0, "ring_in": 0, "ring_out": 0, "held": 0,
        "dropped": 40 * n, "flows": 52_428, "flows_untrusted": 0, "capacity": 1_048_576, "capacity_wide": 0,
        "flow_hits": 1, "flow_misses": 1, "flow_inserts": 1, "flow_refused": 0, "flow_expired": 0, "resteered": 0,
        "packets_per_burst": 11.5, "generation": 3
    }))
    .unwrap();
    let drop = |reason: &str, count: u64| DropCount { reason: reason.into(), help: "Why.".into(), count };
    Sample {
        at_ms: 1000 * second,
        status,
        services: vec![service("web", "ready", 2, n), service("dns", "empty", 0, 0)],
        backends: vec![backend(1, "up", n), backend(2, "down", 0), backend(3, "drain", n)],
        workers: vec![worker],
        drops: vec![drop("bad_ipv4", 4 * n), drop("no_service", 36 * n), drop("tx_full", 0)],
        sources: Vec::new(),
    }
}

fn drawn(screen: &Screen, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen.draw(frame)).unwrap();
    terminal.backend().to_string()
}

#[test]
fn two_samples_make_rates() {
    let mut screen = Screen::default();
    screen.feed(sample(1));
    screen.feed(sample(3));
    insta::assert_snapshot!(drawn(&screen, 100, 24));
}

#[test]
fn before_the_first_answer_and_without_one() {
    let mut screen = Screen::default();
    assert!(drawn(&screen, 40, 3).contains("waiting for the daemon"));
    screen.trouble("cannot reach the daemon".into());
    assert!(drawn(&screen, 40, 3).contains("cannot reach"));
    screen.feed(sample(1));
    screen.trouble("cannot reach the daemon".into());
    let text = drawn(&screen, 100, 24);
    assert!(text.contains("cannot reach the daemon") && text.contains("rx 0/s"), "{text}");
}

#[test]
fn who_floods_stands_beside_what_is_dropped() {
    let mut screen = Screen::default();
    let source = SourceRate { source: "2001:db8:1:2::/64".into(), per_second: 30_000 };
    screen.feed(Sample { sources: vec![source], ..sample(1) });
    let text = drawn(&screen, 100, 24);
    let line = text.lines().find(|line| line.contains("2001:db8:1:2::/64")).expect("the source");
    assert!(line.contains("no_service") && line.contains("30"), "{text}");
}

#[test]
fn a_restarted_daemon_makes_no_negative_or_huge_rates() {
    let mut screen = Screen::default();
    screen.feed(sample(9));
    let mut new = sample(10);
    new.status.pid += 1;
    new.status.rx = 5;
    screen.feed(new);
    assert!(drawn(&screen, 100, 24).contains("rx 0/s"));
}

#[test]
fn any_size_and_any_scrolling_is_drawn() {
    let mut screen = Screen::default();
    screen.feed(sample(1));
    screen.feed(sample(2));
    screen.scroll(-5);
    screen.scroll(100);
    for (width, height) in [(1, 1), (10, 5), (80, 10), (200, 60)] {
        assert!(!drawn(&screen, width, height).is_empty());
    }
    assert!(drawn(&screen, 100, 24).contains("web/b3"));
    assert!(!drawn(&screen, 100, 24).contains("web/b1"));
}
