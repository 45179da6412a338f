//! Real clients reach real servers in every mode and address family, none fails, and the split follows the weights.
//! The demo (`./run demo`) does the same with more requests.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use guideway_lab::command::until;
use guideway_lab::config::Mode;
use guideway_lab::load::http::{HttpLoad, STEP_MS};
use guideway_lab::load::unix_ms;
use guideway_lab::scenario::{DETECTION_MS, Variant, check_conservation, churn, even_load, wait_up};
use guideway_lab::topology::{ECHO_PORT, VIP, balancer_address, balancer_address6, balancer_mac};
use guideway_lab::{Balancer, Lab, Shape, config};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
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

/// The prefixes of the row below, and the filter of what is sent through a tunnel without UDP.
const SOURCE_PREFIXES: [&str; 2] = ["10.9.0.0/16", "fd00:9::/64"];
const TUNNELED: &str =
    "ip proto 4 or ip proto 41 or ip proto 47 or ip6 proto 4 or ip6 proto 41 or ip6 proto 47";

/// A client's address and port, and the outer source of a packet of it.
fn flow_and_source(frame: &[u8]) -> ((IpAddr, u16), IpAddr) {
    let address = |at: usize, v6: bool| -> IpAddr {
        if v6 {
            <[u8; 16]>::try_from(&frame[at..at + 16]).unwrap().into()
        } else {
            <[u8; 4]>::try_from(&frame[at..at + 4]).unwrap().into()
        }
    };
    let is_v6 = |at: usize| frame[at] >> 4 == 6;
    let (source, protocol, behind) =
        if is_v6(14) { (address(22, true), frame[20], 54) } else { (address(26, false), frame[23], 34) };
    let inner = behind + if protocol == 47 { 4 } else { 0 };
    let (client, ports) = if is_v6(inner) {
        (address(inner + 8, true), inner + 40)
    } else {
        (address(inner + 12, false), inner + 20)
    };
    ((client, u16::from_be_bytes([frame[ports], frame[ports + 1]])), source)
}

/// The router says of a packet that it is too big, by its kernel and to where its routes lead; the quoted length is that of a longer
/// packet of the flow.
fn path_mtu_is_heard(lab: &Lab, balancer: &Balancer, sent: &[u8]) {
    let (_, IpAddr::V4(source)) = flow_and_source(sent) else { panic!("outer IPv6") };
    let mut quote: String = sent[14..].iter().map(|byte| format!("{byte:02x}")).collect();
    quote.replace_range(4..8, "05dc");
    let script = format!(
        "import socket, struct\n\
         message = bytearray(struct.pack('!BBHHH', 3, 4, 0, 0, 1400) + bytes.fromhex('{quote}'))\n\
         total = sum(struct.unpack('!%dH' % ((len(message) + 1) // 2), message + bytes(len(message) % 2)))\n\
         total = (total & 0xffff) + (total >> 16)\n\
         message[2:4] = struct.pack('!H', ~(total + (total >> 16)) & 0xffff)\n\
         out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)\n\
         out.sendto(message, ('{source}', 0))\n"
    );
    lab.router().run_with(&["python3", "-"], &script, Duration::from_secs(30)).unwrap();
    until("a path MTU", Duration::from_secs(5), || {
        let backends = balancer.api().get("/v1/backends").map_err(|error| error.to_string())?;
        if backends.to_string().contains("\"path_mtu\":1400") { Ok(()) } else { Err(backends.to_string()) }
    })
    .unwrap();
}

#[test]
fn flows_come_from_outer_sources_of_a_prefix() {
    let lab = Lab::new("outer sources").unwrap();
    let (own, own6) = (balancer_address(1), balancer_address6(1));
    let [prefix, prefix6] = SOURCE_PREFIXES;
    lab.router()
        .ip_batch(&format!("route add {prefix} via {own}\nroute add {prefix6} via {own6}\n"))
        .unwrap();
    let (ipip, gre) = (Mode::Ipip, Mode::Gre);
    for variant in [
        Variant::v4(ipip),
        Variant::v6(ipip),
        Variant::v6_in_v4(ipip),
        Variant::v4_in_v6(gre),
        Variant::v4(gre),
        Variant::v6(gre),
    ] {
        let name = variant.name();
        lab.forget_path_mtus().unwrap();
        let machine_keys =
            format!("outer_source_prefix4 = \"{prefix}\"\nouter_source_prefix6 = \"{prefix6}\"\n");
        let config = config::Config { machine_keys, ..variant.config(&lab, 1, &WEIGHTS) };
        let balancer = lab.start_balancer(1, &config).unwrap();
        wait_up(&balancer, "web", &["b1", "b2", "b3"]).unwrap();
        let capture = lab.capture("lb1", &format!("ether src {} and ({TUNNELED})", balancer_mac(1))).unwrap();
        let report = even_load(&lab, variant, &NAMED_WEIGHTS, REQUESTS, |_| {});
        let report = report.unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut flows: HashMap<_, HashSet<IpAddr>> = HashMap::new();
        let frames = capture.frames().unwrap();
        for frame in &frames {
            let (flow, source) = flow_and_source(frame);
            flows.entry(flow).or_default().insert(source);
        }
        assert!(flows.values().all(|sources| sources.len() == 1), "{name}: a flow with two sources");
        let sources: HashSet<IpAddr> = flows.values().flatten().copied().collect();
        let is_of_prefix = |source: &IpAddr| match source {
            IpAddr::V4(v4) => v4.octets()[..2] == [10, 9],
            IpAddr::V6(v6) => v6.segments()[..4] == [0xfd00, 9, 0, 0],
        };
        assert!(sources.iter().all(is_of_prefix), "{name}: sources outside of the prefix");
        println!(
            "{name}: {} requests, {} failed; {} sources of {} flows",
            report.ok,
            report.failed,
            sources.len(),
            flows.len()
        );
        // Clients use ports again. So many balls in 65,536 bins: 1,970 of 2,000 at random.
        let (flows, sources) = (flows.len(), sources.len());
        assert!(flows > 1500 && sources > flows * 19 / 20, "{name}: {sources} sources of {flows} flows");
        for backend in lab.backends() {
            let counts = backend.decapsulated().unwrap();
            assert_eq!(counts["bad"], 0, "{name}: malformed outer headers at {}", backend.name());
        }
        if variant == Variant::v4(ipip) {
            path_mtu_is_heard(&lab, &balancer, &frames[0]);
        }
        check_conservation(&balancer).unwrap();
        balancer.stop().unwrap();
    }
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
