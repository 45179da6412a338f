//! Real clients reach real servers in every mode and address family, none fails, and the split follows the weights.
//! The demo (`./run demo`) does the same with more requests.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use guideway_lab::command::until;
use guideway_lab::config::Mode;
use guideway_lab::load::http::{HttpLoad, STEP_MS};
use guideway_lab::load::unix_ms;
use guideway_lab::scenario::{DETECTION_MS, Variant, check_conservation, churn, even_load, wait_up};
use guideway_lab::topology::{ECHO_PORT, VIP};
use guideway_lab::{Lab, Shape, config};
use std::time::Duration;

const REQUESTS: u64 = 2000;
const WEIGHTS: [(u8, u32); 3] = [(1, 1), (2, 1), (3, 2)];
const NAMED_WEIGHTS: [(&str, u32); 3] = [("b1", 1), ("b2", 1), ("b3", 2)];

/// All variants of a mode, one after another in one lab, each with a `guidewayd` of its own.
fn even(mode: Mode, variants: &[Variant]) {
    let lab = Lab::new(mode.word()).unwrap();
    for variant in variants {
        lab.forget_path_mtus().unwrap();
        let balancer = lab.start_balancer(1, &variant.config(&lab, 1, &WEIGHTS)).unwrap();
        wait_up(&balancer, "web", &["b1", "b2", "b3"]).unwrap();
        let before = decapsulated(&lab, mode);
        let report = even_load(&lab, *variant, &NAMED_WEIGHTS, REQUESTS, |_| {});
        let report = report.unwrap_or_else(|error| panic!("{}: {error}", variant.name()));
        assert_eq!(report.sources, 101, "{}", variant.name());
        if let (Some(before), Some(after)) = (before, decapsulated(&lab, mode)) {
            // At least SYN, ACK, request and FIN of each request went through the tunnel.
            assert!(after - before >= 4 * REQUESTS, "{}: {} packets", variant.name(), after - before);
        }
        for backend in lab.backends() {
            let counts = backend.decapsulated().unwrap();
            assert_eq!(counts["bad"], 0, "{}: malformed outer headers at {}", variant.name(), backend.name());
        }
        check_conservation(&balancer).unwrap();
        balancer.stop().unwrap();
    }
}

/// Packets that backends got through this mode's tunnel; none for modes that the kernel itself takes apart.
fn decapsulated(lab: &Lab, mode: Mode) -> Option<u64> {
    let of = |backend: &guideway_lab::Backend| backend.decapsulated().unwrap().get(mode.word()).copied();
    lab.backends().iter().map(of).sum()
}

#[test]
fn ipip() {
    let mode = Mode::Ipip;
    even(mode, &[Variant::v4(mode), Variant::v6(mode), Variant::v6_in_v4(mode), Variant::v4_in_v6(mode)]);
}

#[test]
fn gre() {
    let mode = Mode::Gre;
    even(mode, &[Variant::v4(mode), Variant::v6(mode), Variant::v6_in_v4(mode), Variant::v4_in_v6(mode)]);
}

#[test]
fn gue() {
    let mode = Mode::Gue;
    even(mode, &[Variant::v4(mode), Variant::v6(mode), Variant::v6_in_v4(mode), Variant::v4_in_v6(mode)]);
}

#[test]
fn vxlan() {
    let mode = Mode::Vxlan;
    even(mode, &[Variant::v4(mode), Variant::v6(mode), Variant::v6_in_v4(mode), Variant::v4_in_v6(mode)]);
}

#[test]
fn geneve() {
    let mode = Mode::Geneve;
    even(mode, &[Variant::v4(mode), Variant::v6(mode), Variant::v6_in_v4(mode), Variant::v4_in_v6(mode)]);
}

#[test]
fn l2() {
    even(Mode::L2, &[Variant::v4(Mode::L2), Variant::v6(Mode::L2)]);
}

/// A backend dies, another is drained, a third is added, while requests arrive.
fn changes(variant: Variant) {
    let lab = Lab::with("changes", &Shape { backends: 4, ..Shape::default() }).unwrap();
    let balancer = lab.start_balancer(1, &variant.config(&lab, 1, &WEIGHTS)).unwrap();
    let churn = churn(&lab, &balancer, variant, [1, 1, 2], |_| {}).unwrap();
    assert_eq!((churn.drain_failures, churn.add_failures), (0, 0));
    assert!(churn.ok > 2000, "{churn:?}");
    check_conservation(&balancer).unwrap();
    balancer.stop().unwrap();
}

#[test]
fn changes_under_load_ipip() {
    changes(Variant::v4(Mode::Ipip));
}

#[test]
fn changes_under_load_l2() {
    changes(Variant::v4(Mode::L2));
}

#[test]
fn changes_under_load_ipv6() {
    changes(Variant::v6(Mode::Ipip));
}

#[test]
fn a_host_that_vanishes_takes_no_new_connections() {
    let lab = Lab::new("vanished host").unwrap();
    let variant = Variant::v4(Mode::Ipip);
    let balancer = lab.start_balancer(1, &variant.config(&lab, 1, &WEIGHTS)).unwrap();
    wait_up(&balancer, "web", &["b1", "b2", "b3"]).unwrap();
    let run = lab.http(HttpLoad::steady(variant.target().unwrap(), variant.sources(), 200)).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let vanished = unix_ms();
    lab.backend(2).unwrap().unplug().unwrap();
    until("b2 down", Duration::from_secs(5), || match balancer.api().backend_state("web", "b2") {
        Ok(state) if state == "down" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    let seen = unix_ms();
    assert!(seen - vanished <= DETECTION_MS, "down only after {} ms", seen - vanished);
    std::thread::sleep(Duration::from_millis(2500));
    lab.backend(2).unwrap().plug().unwrap();
    wait_up(&balancer, "web", &["b2"]).unwrap();
    let back = unix_ms();
    std::thread::sleep(Duration::from_secs(1));
    let report = run.stop().unwrap();
    for failure in &report.failures {
        // A SYN sent to the dead host is sent again after a second, and then steered anew; what cannot be saved is a
        // connection that the host had accepted.
        assert!(failure.started_unix_ms <= vanished + 50, "{vanished} {failure:?}");
    }
    assert!(report.failed <= 5, "{} failures", report.failed);
    assert_eq!(report.of_between("b2", seen + STEP_MS, back - 1000), 0, "new connections for the dead host");
    assert!(report.of_between("b2", back, u64::MAX) > 0, "none after it came back");
    check_conservation(&balancer).unwrap();
    balancer.stop().unwrap();
}

#[test]
fn udp_reaches_backends_and_a_flow_keeps_its_own() {
    let lab = Lab::new("udp").unwrap();
    let members = vec![config::Member::v4(1, Mode::Ipip), config::Member::v4(2, Mode::Ipip)];
    let service = config::Service {
        protocol: "udp",
        health: String::new(),
        ..config::Service::echo(Mode::Ipip, members)
    };
    let balancer = lab.start_balancer(1, &lab.config(1).with(service)).unwrap();
    wait_up(&balancer, "echo", &["b1", "b2"]).unwrap();
    // 100 sockets of 3 datagrams each, answered with the backend's name.
    let script = format!(
        "import socket\n\
         for i in range(100):\n\
         \x20 s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3)\n\
         \x20 s.bind(('10.0.1.%d' % (100 + i), 0)); s.connect(('{VIP}', {ECHO_PORT}))\n\
         \x20 names = []\n\
         \x20 for j in range(3):\n\
         \x20  s.send(b'%d' % j); name, back = s.recv(100).split(b' '); names.append(name.decode())\n\
         \x20  assert back == b'%d' % j\n\
         \x20 print(*names)\n"
    );
    let out = lab.client().run_with(&["python3", "-"], &script, Duration::from_secs(30)).unwrap();
    let flows: Vec<Vec<&str>> = out.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(flows.len(), 100);
    for flow in &flows {
        assert!(flow.iter().all(|name| *name == flow[0]), "a flow changed its backend: {flow:?}");
    }
    for name in ["b1", "b2"] {
        let share = flows.iter().filter(|flow| flow[0] == name).count();
        assert!((25..=75).contains(&share), "{name} got {share} of 100 flows");
    }
    check_conservation(&balancer).unwrap();
    balancer.stop().unwrap();
}

#[test]
fn two_balancers_behind_equal_cost_routes() {
    let lab = Lab::with("two balancers", &Shape { balancers: 2, ..Shape::default() }).unwrap();
    let variant = Variant::v4(Mode::Ipip);
    let balancers: Vec<_> = (1..=2)
        .map(|index| lab.start_balancer(index, &variant.config(&lab, index, &WEIGHTS)).unwrap())
        .collect();
    for balancer in &balancers {
        wait_up(balancer, "web", &["b1", "b2", "b3"]).unwrap();
    }
    even_load(&lab, variant, &NAMED_WEIGHTS, REQUESTS, |_| {}).unwrap();
    for balancer in balancers {
        let row = balancer.api().find("/v1/services", &[("name", "web")]).unwrap();
        let flows = row["flows_new"].as_u64().unwrap();
        assert!((700..=1300).contains(&flows), "a balancer saw {flows} of {REQUESTS} flows");
        check_conservation(&balancer).unwrap();
        balancer.stop().unwrap();
    }
}
