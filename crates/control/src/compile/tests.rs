//! Views: states, next hops, MTUs, tables.

use super::*;
use model::config::Mac;
use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use steer::Match;
use wire::Addr;

const HEAD: &str = r#"
[machine]
name = "m"
address = "10.0.2.11"
address6 = "fd00:2::11"
NEXT_HOP
[[port]]
name = "p0"
device = "net_null0"
mtu = 1500
exception = "gw0"
exception_addresses = ["10.0.2.11/24", "fd00:2::11/64"]
[[port]]
name = "p1"
device = "net_null1"
mtu = 9000
mac = "02:00:00:00:0f:01"
exception = "gw1"
exception_addresses = ["10.0.3.11/24"]
"#;

fn config_with(next_hop: Option<&str>, services: &str) -> Config {
    let next_hop = next_hop.map_or(String::new(), |mac| format!("next_hop_mac = \"{mac}\""));
    let text = format!("{}{services}", HEAD.replace("NEXT_HOP", &next_hop));
    model::load("t", &text).map_err(|r| r.to_plain()).unwrap().config
}

fn config(services: &str) -> Config {
    config_with(None, services)
}

fn service(keys: &str, backends: &[(&str, &str, &str)]) -> String {
    let mut text = format!("[[service]]\nname = \"s\"\nvip = \"203.0.113.10\"\nport = 80\n{keys}\n");
    for (name, address, keys) in backends {
        text += &format!("[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n{keys}\n");
    }
    text
}

const PORTS: [PortView; 4] = {
    const fn data(low: u8, mtu: u16, exception: u16) -> PortView {
        let role = PortRole::Data { exception: Some(PortId(exception)), punt_to_nowhere: false };
        PortView { mac: [2, 0, 0, 0, 0x0f, low], mtu, role }
    }
    const fn exception(low: u8, mtu: u16, data: u16) -> PortView {
        PortView { mac: [2, 0, 0, 0, 0x0f, low], mtu, role: PortRole::Exception { data: PortId(data) } }
    }
    [data(0, 1500, 2), data(1, 9000, 3), exception(0, 1500, 0), exception(1, 9000, 1)]
};

/// A runtime that a test changes where it matters.
fn runtime<'a>() -> Runtime<'a> {
    Runtime {
        generation: 7,
        now: Tick(0),
        is_up: &|_, _, _| true,
        is_drained: &|_, _, _| false,
        weight: &configured_weight,
        next_hop: &|_| None,
        flows: &|_| 0,
        ports: &PORTS,
        departed: &[],
        probes: &[],
        table: &|_| None,
        deciders: 1,
        loads: Arc::default(),
        making: Making::All,
    }
}

/// States by backend name, and the members of the first service's table by name.
fn states(config: &Config, runtime: &Runtime<'_>) -> (BTreeMap<String, BackendState>, Vec<String>) {
    let mut ids = Ids::default();
    let view = compile(config, &mut ids, runtime).unwrap();
    let service = &config.services[0];
    let id = |backend: &Backend| ids.backend(&service.name, &backend.name, backend.address).unwrap();
    let states = service.backends.iter().map(|b| {
        let view = view.backends[id(b).index()].as_ref().unwrap();
        assert_eq!((view.id, view.service), (id(b), ids.service(&service.name).unwrap()));
        (b.name.clone(), view.state)
    });
    let name = |of: &BackendId| service.backends.iter().find(|b| id(b) == *of).unwrap().name.clone();
    let members: Vec<String> = view.service[0].members.iter().map(name).collect();
    // Exactly the members have slots.
    let used: HashSet<u16> =
        view.service[0].maglev.slots().iter().copied().filter(|s| *s != u16::MAX).collect();
    assert_eq!(used.len(), members.len());
    (states.collect(), members)
}

use BackendState::{Down, Draining, Up};

const HEALTH: &str = "[service.health]\nkind = \"tcp\"";

#[test]
fn states_of_backends() {
    let text = service(
        &format!("panic_percent = 0\n{HEALTH}"),
        &[
            ("up", "10.0.2.21", ""),
            ("sick", "10.0.2.22", ""),
            ("down", "10.0.2.23", "state = \"down\""),
            ("drain", "10.0.2.24", "state = \"drain\""),
            ("zero", "10.0.2.25", "weight = 0"),
            ("asked", "10.0.2.26", ""),
            ("light", "10.0.2.27", "weight = 3"),
        ],
    );
    let config = config(&text);
    let runtime = Runtime {
        is_up: &|_, _, b| b.name != "sick",
        is_drained: &|_, s, b| s.name == "s" && b.name == "asked",
        weight: &|_, _, b| if b.name == "light" { 0 } else { b.weight },
        ..runtime()
    };
    let (found, members) = states(&config, &runtime);
    let expected = [
        ("up", Up),
        ("sick", Down),
        ("down", Down),
        ("drain", Draining),
        ("zero", Draining),
        ("asked", Draining),
        ("light", Draining),
    ];
    assert_eq!(found, expected.map(|(n, s)| (n.to_owned(), s)).into());
    assert_eq!(members, ["up"]);
}

#[test]
fn panic_threshold() {
    let names = ["a", "b", "c", "d"];
    let backends: Vec<(&str, String, &str)> = (21..)
        .zip(names)
        .map(|(i, n)| (n, format!("10.0.2.{i}"), if n == "d" { "state = \"drain\"" } else { "" }))
        .collect();
    let backends: Vec<(&str, &str, &str)> = backends.iter().map(|(n, a, k)| (*n, a.as_str(), *k)).collect();
    let up = |percent: u8, sick: &[&str]| {
        let config = config(&service(&format!("panic_percent = {percent}\n{HEALTH}"), &backends));
        let (found, members) =
            states(&config, &Runtime { is_up: &|_, _, b| !sick.contains(&b.name.as_str()), ..runtime() });
        assert_eq!(found["d"], Draining, "panic does not undo a drain");
        assert_eq!(
            found.iter().filter(|(_, s)| **s == Up).map(|(n, _)| n.clone()).collect::<Vec<_>>(),
            members
        );
        members.concat()
    };
    // Three are eligible: one down is 33.3 %, two are 66.7 %, the drained one does not count.
    assert_eq!(up(50, &["a"]), "bc");
    assert_eq!(up(50, &["a", "b"]), "abc");
    assert_eq!(up(33, &["a"]), "abc");
    assert_eq!(up(34, &["a"]), "bc");
    assert_eq!(up(66, &["a", "b"]), "abc");
    assert_eq!(up(67, &["a", "b"]), "c");
    assert_eq!(up(0, &["a", "b", "c"]), "");
    assert_eq!(up(100, &["a", "b", "c"]), "");
    assert_eq!(up(99, &["a", "b", "c"]), "", "panic is for partial loss");
    assert_eq!(up(1, &["a", "b", "c"]), "");
}

#[test]
fn health_none_is_not_asked() {
    let config = config(&service("", &[("a", "10.0.2.21", "")]));
    let asked = Cell::new(false);
    let is_up = |_, _: &Service, _: &Backend| {
        asked.set(true);
        false
    };
    let (found, _) = states(&config, &Runtime { is_up: &is_up, ..runtime() });
    assert!(found["a"] == Up && !asked.get());
}

/// Mode, backend MAC, machine's next hop, neighbour: next hop, port, inner destination.
#[test]
fn next_hops() {
    let own = [2, 0, 0, 0, 0, 0x21];
    let common = [2, 0, 0, 0, 0, 1];
    let neighbour = [2, 0, 0, 0, 0, 0x99];
    for mode in Mode::ALL {
        for (has_own, has_common, has_neighbour) in
            (0..8).map(|bits| (bits & 1 == 1, bits & 2 == 2, bits & 4 == 4))
        {
            let mac = if has_own { format!("mac = \"{}\"", Mac(own)) } else { String::new() };
            // The backend is in the second port's subnet; the kernel would use the first port.
            let text = service(&format!("mode = \"{}\"", mode.as_str()), &[("a", "10.0.3.21", &mac)]);
            let common_text = Mac(common).to_string();
            let config = config_with(has_common.then_some(common_text.as_str()), &text);
            let hop = |address: IpAddr| {
                assert_eq!(address.to_string(), "10.0.3.21");
                has_neighbour.then_some((neighbour, PortId(0)))
            };
            let view =
                compile(&config, &mut Ids::default(), &Runtime { next_hop: &hop, ..runtime() }).unwrap();
            let found = view.backends[0].as_ref().unwrap();
            let order = match (mode.carries_ethernet(), has_own, has_common, has_neighbour) {
                (true, _, true, _) => Some(common),
                (true, _, _, true) => Some(neighbour),
                (true, true, _, _) => Some(own),
                (false, true, _, _) => Some(own),
                (false, _, true, _) => Some(common),
                (false, _, _, true) => Some(neighbour),
                _ => None,
            };
            assert_eq!(found.next_hop, order, "{mode:?} {has_own} {has_common} {has_neighbour}");
            let by_kernel = order == Some(neighbour);
            let port = PortId(u16::from(!by_kernel));
            assert_eq!(found.port, port);
            if mode.carries_ethernet() {
                let inner = if has_own { Some(own) } else { order };
                assert_eq!(inner_macs(found), (inner.unwrap_or_default(), PORTS[port.index()].mac));
            }
        }
    }
}

/// The addresses of the inner frames to a backend, found by encapsulating one behind an outer IPv4 header.
fn inner_macs(backend: &BackendView) -> ([u8; 6], [u8; 6]) {
    let mut original = vec![0; 14];
    original[12..14].copy_from_slice(&[8, 0]);
    original.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 203, 0, 113, 10]);
    original.extend([0, 1, 0, 80, 0, 8, 0, 0]);
    let check = wire::checksum::checksum(&original[14..34]);
    original[24..26].copy_from_slice(&check.to_be_bytes());
    let Ok(wire::parse::ParsedFrame::Ip(parsed)) = wire::parse::parse(&original) else {
        panic!("a good frame")
    };
    let mut frame = vec![0; backend.header.len()];
    frame.extend(&original);
    wire::encap::encapsulate(&mut frame, &backend.header, &parsed, 1);
    // The inner Ethernet header is as long as the outer one.
    let inner = backend.header.len();
    (frame[inner..inner + 6].try_into().unwrap(), frame[inner + 6..inner + 12].try_into().unwrap())
}

#[test]
fn neighbours_on_odd_ports_are_not_taken() {
    let config = config(&service("", &[("a", "10.0.3.21", "")]));
    for port in [2, 3, 9] {
        let hop = |_| Some(([2; 6], PortId(port)));
        let view = compile(&config, &mut Ids::default(), &Runtime { next_hop: &hop, ..runtime() }).unwrap();
        let found = view.backends[0].as_ref().unwrap();
        assert_eq!((found.next_hop, found.port), (None, PortId(1)));
    }
}

#[test]
fn outer_sources_of_a_prefix_are_the_family_s() {
    let sources = |mode: &str| {
        let keys = "outer_source_prefix4 = \"10.9.0.0/16\"\nouter_source_prefix6 = \"fd00:9::/64\"";
        let backends = [("a", "10.0.2.21", ""), ("b", "fd00:2::21", "")];
        let text = HEAD.replace("NEXT_HOP", keys) + &service(&format!("mode = \"{mode}\""), &backends);
        let config = model::load("t", &text).map_err(|r| r.to_plain()).unwrap().config;
        let view = compile(&config, &mut Ids::default(), &runtime()).unwrap();
        let all = view.backends.iter().flatten().map(|b| b.header.sources().map(|of| of.to_string()));
        all.collect::<Vec<_>>()
    };
    for mode in ["ipip", "gre"] {
        assert_eq!(sources(mode), [Some("10.9.0.0/16".to_owned()), Some("fd00:9::/64".to_owned())]);
    }
    for mode in ["gue", "vxlan", "geneve"] {
        assert_eq!(sources(mode), [None, None], "{mode} has ports");
    }
}

#[test]
fn inner_mtus() {
    for (mode, v4, v6) in [
        ("ipip", 1480, 1460),
        ("gre", 1476, 1456),
        ("gue", 1468, 1448),
        ("vxlan", 1450, 1430),
        ("geneve", 1450, 1430),
    ] {
        let keys = format!("mode = \"{mode}\"");
        let config = config(&service(
            &keys,
            &[("a", "10.0.2.21", ""), ("b", "fd00:2::21", ""), ("c", "10.0.3.21", "")],
        ));
        let view = compile(&config, &mut Ids::default(), &runtime()).unwrap();
        let mtus: Vec<u16> = view.backends.iter().flatten().map(|b| b.inner_mtu).collect();
        assert_eq!(mtus, [v4, v6, 9000 - (1500 - v4)]);
    }
    let l2 = config(&service("mode = \"l2\"", &[("a", "10.0.2.21", "")]));
    let view = compile(&l2, &mut Ids::default(), &runtime()).unwrap();
    let found = view.backends[0].as_ref().unwrap();
    assert_eq!((found.inner_mtu, found.header.len()), (1500, 0));
    // A service's MTU holds, but no port sends more than it can.
    let narrow = config(&service("mtu = 4000", &[("a", "10.0.2.21", ""), ("c", "10.0.3.21", "")]));
    let view = compile(&narrow, &mut Ids::default(), &runtime()).unwrap();
    let mtus: Vec<u16> = view.backends.iter().flatten().map(|b| b.inner_mtu).collect();
    assert_eq!(mtus, [1480, 3980]);
}

#[test]
fn services_and_their_keys() {
    let text = r#"
[[service]]
name = "plain"
vip = "203.0.113.10"
port = 80
on_empty = "drop"
on_down = "reselect"
hash = "source"
[[service]]
name = "any"
vip = "203.0.113.10"
port = 0
[[service]]
name = "prefix"
vip = "203.0.113.0/24"
port = 80
[[service]]
name = "six"
vip = "2001:db8::10"
port = 80
protocol = "udp"
"#;
    let config = config(text);
    let mut ids = Ids::default();
    let view = compile(&config, &mut ids, &runtime()).unwrap();
    assert_eq!(view.service.iter().map(|s| s.wide).collect::<Vec<_>>(), [false, true, true, true]);
    let plain = &view.service[0];
    assert_eq!(
        (plain.on_empty, plain.on_down, plain.hash),
        (OnEmpty::Drop, OnDown::Reselect, HashOn::Source)
    );
    assert_eq!(
        (view.service[1].on_empty, view.service[1].on_down, view.service[1].hash),
        (OnEmpty::Reset, OnDown::Keep, HashOn::Tuple)
    );
    let find = |address: &str, port, protocol| {
        let address: IpAddr = address.parse().unwrap();
        match view.services.find(Addr::from(address), port, protocol) {
            Match::Service(index) => config.services[usize::from(index)].name.as_str(),
            Match::NoService => "no service",
            Match::NotVip => "no VIP",
        }
    };
    assert_eq!(find("203.0.113.10", 80, 6), "plain");
    assert_eq!(find("203.0.113.10", 81, 6), "any");
    assert_eq!(find("203.0.113.11", 80, 6), "prefix");
    assert_eq!(find("203.0.113.11", 80, 17), "no service");
    assert_eq!(find("2001:db8::10", 80, 17), "six");
    assert_eq!(find("203.0.114.1", 80, 6), "no VIP");
    let order: Vec<_> = view.service.iter().map(|s| s.id).collect();
    assert_eq!(order, config.services.iter().map(|s| ids.service(&s.name).unwrap()).collect::<Vec<_>>());
    assert_eq!((view.generation, view.cluster_key, view.ports.len()), (7, config.machine.cluster_key, 4));
}

#[test]
fn times() {
    let text =
        "[timeouts]\ntcp_established_s = 1\ntcp_closing_s = 2\nsyn_s = 3\nudp_s = 86400\nfragment_ms = 10\n";
    let view = compile(&config(text), &mut Ids::default(), &runtime()).unwrap();
    let t = view.timeouts;
    assert_eq!((t.tcp_established_us, t.tcp_closing_us, t.syn_us), (1_000_000, 2_000_000, 3_000_000));
    assert_eq!((t.udp_us, t.fragment_us), (86_400_000_000, 10_000));
}

/// A table is built when its members change, and at no other time.
#[test]
fn tables_are_kept() {
    let backends = [("b", "10.0.2.22", ""), ("a", "10.0.2.21", "")];
    let one = config(&service(HEALTH, &backends));
    let mut ids = Ids::default();
    let table = |config: &Config, ids: &mut Ids, sick: &str| {
        let view = compile(config, ids, &Runtime { is_up: &|_, _, b| b.name != sick, ..runtime() }).unwrap();
        Arc::clone(&view.service[0].maglev)
    };
    let first = table(&one, &mut ids, "");
    assert!(Arc::ptr_eq(&first, &table(&one, &mut ids, "")));
    // Other keys of the service, and a clone of the ids, make no difference.
    let other = config(&service(&format!("on_empty = \"drop\"\n{HEALTH}"), &backends));
    assert!(Arc::ptr_eq(&first, &table(&other, &mut ids.clone(), "")));
    let without = table(&one, &mut ids, "b");
    assert!(!Arc::ptr_eq(&first, &without));
    assert_eq!(without.slots().iter().filter(|s| **s == 0).count(), 65_537);
    let again = table(&one, &mut ids, "");
    assert_eq!(again, first);
    // The order of the file makes none either: other machines may have another.
    let turned = config(&service(HEALTH, &[backends[1], backends[0]]));
    assert!(Arc::ptr_eq(&again, &table(&turned, &mut ids, "")));
    let heavier = config(&service(HEALTH, &[("b", "10.0.2.22", "weight = 2"), backends[1]]));
    assert_ne!(table(&heavier, &mut ids, ""), first);
}

#[test]
fn departed_backends_drain() {
    let before = config(&service("mode = \"gre\"", &[("a", "10.0.2.21", ""), ("b", "10.0.2.22", "")]));
    let after = config(&service("", &[("a", "10.0.2.21", "")]));
    let gone = config("");
    let mut ids = Ids::default();
    compile(&before, &mut ids, &runtime()).unwrap();
    let service = &before.services[0];
    let id = ids.backend("s", "b", "10.0.2.22".parse().unwrap()).unwrap();
    let departed = [Departed { id, service, backend: &service.backends[1] }];
    for config in [&after, &gone] {
        let view = compile(config, &mut ids, &Runtime { departed: &departed, ..runtime() }).unwrap();
        let found = view.backends[id.index()].as_ref().unwrap();
        assert_eq!((found.id, found.state, found.header.mode()), (id, Draining, Mode::Gre));
        assert!(view.service.iter().all(|s| !s.members.contains(&id)));
    }
    // Back in the configuration, it is what that says, whoever still thinks it departed.
    let view = compile(&before, &mut ids, &Runtime { departed: &departed, ..runtime() }).unwrap();
    assert_eq!(view.backends[id.index()].as_ref().unwrap().state, Up);
    // A tunnel that cannot be made any more is no reason to refuse a view.
    let mut poor = gone.clone();
    poor.machine.address = None;
    let view = compile(&poor, &mut ids, &Runtime { departed: &departed, ..runtime() }).unwrap();
    assert!(view.backends.iter().all(Option::is_none));
}

#[test]
fn errors() {
    let good = config(&service("", &[("a", "10.0.2.21", "")]));
    let mut no_source = good.clone();
    no_source.machine.address = None;
    let error = compile(&no_source, &mut Ids::default(), &runtime()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "service \"s\": backend \"a\" needs machine.address as source of the tunnel"
    );
    let mut no_prime = good.clone();
    no_prime.services[0].maglev_size = 65_536;
    let error = compile(&no_prime, &mut Ids::default(), &runtime()).unwrap_err();
    assert!(error.to_string().starts_with("service \"s\": "), "{error}");
    let error = compile(&good, &mut Ids::default(), &Runtime { ports: &[], ..runtime() }).unwrap_err();
    assert!(matches!(error, CompileError::NoPort));
    let mut twice = good.clone();
    twice.services.push(Service { name: "t".into(), ..good.services[0].clone() });
    let error = compile(&twice, &mut Ids::default(), &runtime()).unwrap_err();
    assert!(matches!(error, CompileError::Rules(_)), "{error}");
}

#[test]
fn probes_pass() {
    let probe = TunnelProbe { source: Addr::V4(1), source_port: 2, vip: Addr::V4(3), backend: BackendId(4) };
    let view = compile(&config(""), &mut Ids::default(), &Runtime { probes: &[probe], ..runtime() }).unwrap();
    assert_eq!(view.probes.len(), 1);
    assert_eq!(view.probes[0].backend, BackendId(4));
}

#[test]
fn offline_views() {
    let text = service(
        HEALTH,
        &[
            ("a", "10.0.2.21", ""),
            ("b", "10.0.3.22", "mac = \"02:00:00:00:00:22\""),
            ("c", "10.0.2.23", "state = \"down\""),
        ],
    );
    let (view, ids) = offline(&config(&text)).unwrap();
    let found = |name: &str, address: &str| {
        let id = ids.backend("s", name, address.parse().unwrap()).unwrap();
        let view = view.backends[id.index()].as_ref().unwrap();
        (view.state, view.next_hop, view.port)
    };
    assert_eq!(found("a", "10.0.2.21"), (Up, None, PortId(0)));
    assert_eq!(found("b", "10.0.3.22"), (Up, Some([2, 0, 0, 0, 0, 0x22]), PortId(1)));
    assert_eq!(found("c", "10.0.2.23").0, Down);
    assert_eq!(view.ports[0].mac, [2, 0x67, 0x77, 0, 0, 0]);
    assert_eq!(view.ports[1].mac, [2, 0, 0, 0, 0x0f, 1]);
    let nowhere = PortRole::Data { exception: None, punt_to_nowhere: true };
    assert!(view.ports.iter().all(|p| p.role == nowhere));
    assert_eq!((view.ports[0].mtu, view.ports[1].mtu, view.ports.len()), (1500, 9000, 2));
}

/// The example configurations compile.
#[test]
fn examples() {
    for (name, text) in [
        ("guideway", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/guideway.toml"))),
        ("minimal", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/minimal.toml"))),
        ("replay", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/replay.toml"))),
    ] {
        let config = model::load(name, text).unwrap().config;
        let (view, _) = offline(&config).unwrap();
        assert_eq!(view.service.len(), config.services.len(), "{name}");
        assert!(view.service.iter().all(|s| s.maglev.at(0).is_some()), "{name}");
    }
}
