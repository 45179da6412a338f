use super::*;
use model::api::*;
use std::io::Write as _;
use std::process::{Command, Stdio};

fn sample() -> Snapshot {
    let backend = BackendStatus {
        service: "web \"quoted\"\\\n".to_owned(),
        name: "b1".to_owned(),
        id: 3,
        address: "10.0.0.1".parse().unwrap(),
        weight: 2,
        state: BackendState::Up,
        word: Word::Health,
        since_unix_ms: 1,
        health: Some(HealthStatus {
            up: Some(true),
            last: Some(CheckResult {
                passed: true,
                unsent: false,
                reason: "ok".to_owned(),
                duration_us: 1500,
                unix_ms: 9,
            }),
            passed: 4,
            failed: 1,
            consecutive: 2,
            transitions: 1,
            held_down_ms: 0,
        }),
        agent: None,
        registered: false,
        suspect_since_unix_ms: None,
        reason: None,
        next_hop: None,
        port: None,
        packets: 10,
        bytes: 1000,
        flows_new: 3,
        flows: 2,
        path_mtu: None,
        load_ppm: Some(250_000),
        share_permille: 1000,
        syns: 5,
        handshakes: 4,
        closes: 3,
        closes_soon: 2,
    };
    let status = Status {
        machine: "lb1".to_owned(),
        version: "0.1.0".to_owned(),
        pid: 1,
        started_unix_ms: 1500,
        uptime_ms: 5,
        ready: true,
        reason: String::new(),
        config_path: String::new(),
        applied_unix_ms: 2000,
        config_is_file: true,
        revision: 1,
        generation: 7,
        generation_acknowledged: 6,
        services: 1,
        services_ready: 1,
        backends: 1,
        backends_up: 1,
        workers: 1,
        ports: 1,
        rx: 1,
        tx: 2,
        originated: 3,
        punted: 4,
        relayed: 5,
        dropped: 6,
        held: 7,
        flows: 8,
        flows_capacity: 9,
        memory: vec![MemoryUse { name: "flow tables".to_owned(), bytes: 1 << 30 }],
        management: vec![ManagementTurns {
            job: "question".to_owned(),
            turns: 40,
            long_turns: 2,
            longest_us: 21_000,
            longest_wall_us: 25_500,
        }],
        log_lines_lost: 17,
        notices_lost: 18,
        connections: ConnectionCounts { open: 3, made_room: 4, too_slow: 5 },
    };
    let service = ServiceStatus {
        name: "web".to_owned(),
        id: 1,
        vip: "203.0.113.10".to_owned(),
        port: 80,
        protocol: "tcp".to_owned(),
        mode: "ipip".to_owned(),
        state: ServiceState::Ready,
        health: "http".to_owned(),
        announced: true,
        backends_up: 1,
        backends_total: 1,
        maglev_size: 65_537,
        tracking: "exceptions".to_owned(),
        tainted_slots: 16,
        packets: 11,
        bytes: 12,
        flows_new: 13,
        flows: 14,
        no_backend: 15,
        overload: 16,
    };
    let worker = WorkerStatus {
        core: 0,
        cpu: 1,
        turns: 100,
        empty_turns: 50,
        long_turns: 2,
        longest_turn_us: 2500,
        busy_ratio: 0.5,
        rx: 1,
        tx: 1,
        rx_bytes: 64,
        tx_bytes: 64,
        originated: 0,
        punted: 0,
        relayed: 2,
        ring_in: 0,
        ring_out: 3,
        held: 0,
        dropped: 0,
        flows: 1,
        flows_untrusted: 1,
        capacity: 1000,
        capacity_wide: 1000,
        flow_hits: 1,
        flow_misses: 1,
        flow_stateless: 1,
        flow_guessed: 1,
        flow_unasked: 1,
        flow_inserts: 1,
        flow_displaced: 0,
        flow_refused: 0,
        flow_expired: 0,
        flow_forgotten: 0,
        flow_restored: 0,
        resteered: 0,
        packets_per_burst: 1.25,
        generation: 6,
    };
    let port = PortStatus {
        name: "data0".to_owned(),
        device: "net_null0".to_owned(),
        id: 0,
        driver: "net_null".to_owned(),
        mac: "02:00:00:00:00:01".to_owned(),
        mtu: 1500,
        link_up: true,
        exception: None,
        wrong: Vec::new(),
        rx: 1,
        tx: 2,
        rx_bytes: 3,
        tx_bytes: 4,
        rx_missed: 5,
        rx_errors: 6,
        tx_errors: 7,
        rx_nombuf: 8,
        tx_full: 9,
    };
    let drops = worker::DropReason::ALL.iter().map(|reason| DropCount {
        reason: reason.name().to_owned(),
        help: reason.help().to_owned(),
        count: 1,
    });
    Snapshot {
        cluster: None,
        reconciled: vec![crate::reconcile::Reconciled {
            kind: "route",
            wrong: 1,
            repairs: Some(2),
            failures: Some(3),
        }],
        suspects: [
            crate::status::Suspects { cause: "agent", now: 1, began: 6 },
            crate::status::Suspects { cause: "clients", now: 2, began: 3 },
        ],
        agents: Some(agent_counts()),
        status,
        services: vec![service],
        backends: vec![backend],
        workers: vec![worker],
        ports: vec![port],
        drops: drops.collect(),
    }
}

#[test]
fn values_and_escapes() {
    let text = render(&sample());
    for line in [
        "guideway_ready 1",
        "guideway_config_generation 7",
        "guideway_start_time_seconds 1.5",
        "guideway_vip_packets_total{service=\"web\",vip=\"203.0.113.10\",port=\"80\",proto=\"tcp\"} 11",
        "guideway_backend_flows{service=\"web \\\"quoted\\\"\\\\\\n\",backend=\"b1\",address=\"10.0.0.1\",id=\"3\"} 2",
        "guideway_backend_syns_total{service=\"web \\\"quoted\\\"\\\\\\n\",backend=\"b1\",address=\"10.0.0.1\",id=\"3\"} 5",
        "guideway_backend_handshakes_total{service=\"web \\\"quoted\\\"\\\\\\n\",backend=\"b1\",address=\"10.0.0.1\",id=\"3\"} 4",
        "guideway_backend_closes_total{service=\"web \\\"quoted\\\"\\\\\\n\",backend=\"b1\",address=\"10.0.0.1\",id=\"3\"} 3",
        "guideway_backend_closes_soon_total{service=\"web \\\"quoted\\\"\\\\\\n\",backend=\"b1\",address=\"10.0.0.1\",id=\"3\"} 2",
        "guideway_vip_overload_packets_total{service=\"web\",vip=\"203.0.113.10\",port=\"80\",proto=\"tcp\"} 16",
        "guideway_backend_load_ratio{service=\"web \\\"quoted\\\"\\\\\\n\",backend=\"b1\",address=\"10.0.0.1\",id=\"3\"} 0.25",
        "guideway_backend_share_ratio{service=\"web \\\"quoted\\\"\\\\\\n\",backend=\"b1\",address=\"10.0.0.1\",id=\"3\"} 1",
        "guideway_worker_busy_ratio{core=\"0\"} 0.5",
        "guideway_drop_packets_total{reason=\"no_service\"} 1",
        "guideway_port_rx_missed_packets_total{port=\"data0\"} 5",
        "guideway_flow_table_entries{core=\"0\"} 1",
        "guideway_flow_forwarded_packets_total{core=\"0\",to=\"core\"} 3",
        "guideway_health_check_duration_seconds{service=\"web \\\"quoted\\\"\\\\\\n\",backend=\"b1\"} 0.0015",
        "guideway_service_state{service=\"web\",state=\"panic\"} 0",
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\nnot in\n{text}");
    }
}

#[test]
fn promtool_finds_nothing() {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool (Debian's prometheus; dpdk-setup/packages.sh --development installs it) starts");
    child.stdin.take().unwrap().write_all(render(&sample()).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

fn agent_counts() -> crate::status::AgentCounts {
    let mut counts = crate::status::AgentCounts { connected: 2, open: 5, paused: 1, ..Default::default() };
    counts.phases.push(("web".to_owned(), model::agent::Phase::Up, 3));
    counts.closed.push(("full", 7));
    counts.registry.refuse(model::agent::RefusalCode::Claimed);
    counts
}

#[test]
fn agents_are_counted() {
    let text = render(&sample());
    for line in [
        "guideway_agents_connected 2",
        "guideway_agent_connections_refused_total{reason=\"full\"} 7",
        "guideway_registrations{service=\"web\",state=\"up\"} 3",
        "guideway_registrations_refused_total{code=\"claimed\"} 1",
        "guideway_registrations_refused_total{code=\"stale\"} 0",
        "guideway_backends_suspect{cause=\"agent\"} 1",
        "guideway_backends_suspect{cause=\"clients\"} 2",
        "guideway_backend_suspicions_total{cause=\"clients\"} 3",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
}
