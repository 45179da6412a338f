//! The loader as a whole: what is taken, and a snapshot of the report for every kind of mistake.

use crate::config::{
    AdminState, Announce, Checks, Hash, HealthKind, HttpCheck, Idle, Join, Mode, OnDown, OnEmpty, Overload,
    Policy, Protocol, Route, Select, Tracking, WeightBy,
};
use crate::{Config, Loaded, Report, Severity, load};
use proptest::prelude::*;
use serde_json::Value;

mod document;
mod mistakes;

/// A config without a warning, with one of everything that the mistakes need.
const BASE: &str = r#"[machine]
name = "lb1"
address = "10.0.2.11"
address6 = "fd00:2::11"
cluster_key = "7d0c3a9be1d24776a8b9c0d1e2f30415"
[api]
[metrics]
[timeouts]
[dpdk]
eal_args = ["--no-pci"]
[workers]
cpus = [1]
[[port]]
name = "data0"
device = "net_af_xdp0,iface=p0"
mtu = 1500
exception = "gw0"
exception_addresses = ["10.0.2.11/24"]
exception_gateway = "10.0.2.1"
[[service]]
name = "web"
vip = "203.0.113.10"
port = 80
protocol = "tcp"
mode = "ipip"
[service.health]
kind = "http"
[[service.backend]]
name = "b1"
address = "10.0.2.21"
[[service.backend]]
name = "b2"
address = "10.0.2.22"
"#;

/// Without an exception port.
const BARE: &str = r#"[machine]
name = "lb1"
address = "10.0.2.11"
next_hop_mac = "02:00:00:00:00:01"
cluster_key = "7d0c3a9be1d24776a8b9c0d1e2f30415"
[[port]]
name = "data0"
device = "net_null0"
[[service]]
name = "web"
vip = "203.0.113.10"
port = 80
[[service.backend]]
name = "b1"
address = "10.0.2.21"
"#;

fn edited(base: &str, edits: &[(&str, &str)]) -> String {
    edits.iter().fold(base.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from:?} is not in the text");
        text.replacen(from, to, 1)
    })
}

fn loaded(text: &str) -> Loaded {
    load("test.toml", text).map_err(|report| report.to_plain()).unwrap()
}

fn refused(text: &str) -> Report {
    load("test.toml", text).map(|l| l.config).expect_err("taken although wrong")
}

fn warnings(text: &str) -> String {
    loaded(text).warning_report().map_or(String::new(), |r| r.to_plain())
}

fn base() -> Config {
    loaded(BASE).config
}

#[test]
fn bases_draw_no_warning() {
    assert_eq!(warnings(BASE), "");
    assert_eq!(warnings(BARE), "");
}

/// Each packet of a stream renews its entry, so one without a beginning would go to a dead backend for ever.
#[test]
fn datagrams_leave_a_backend_that_is_down_unless_it_is_written_otherwise() {
    let on_down = |lines: &str| loaded(&edited(BARE, &[("port = 80\n", lines)])).config.services[0].on_down;
    assert_eq!(on_down("port = 80\n"), OnDown::Keep);
    assert_eq!(on_down("port = 53\nprotocol = \"udp\"\n"), OnDown::Reselect);
    assert_eq!(on_down("port = 53\nprotocol = \"udp\"\non_down = \"keep\"\n"), OnDown::Keep);
    assert_eq!(on_down("port = 80\non_down = \"reselect\"\n"), OnDown::Reselect);
}

#[test]
fn routing_peers_are_the_gateways_unless_written() {
    let peers = |edits: &[(&str, &str)]| loaded(&edited(BASE, edits)).config.machine.routing_peers;
    assert_eq!(peers(&[]), [std::net::IpAddr::from([10, 0, 2, 1])]);
    assert!(peers(&[("address6", "routing_peers = []\naddress6")]).is_empty());
    assert_eq!(peers(&[("address6", "routing_peers = [\"fe80::9\"]\naddress6")]).len(), 1);
    let bare = edited(BARE, &[("[machine]", "[machine]\nrouting_peers = [\"10.0.2.1\"]")]);
    assert!(warnings(&bare).contains("without an exception interface"));
}

#[test]
fn defaults() {
    let config = loaded(BARE).config;
    assert_eq!(config.machine.state_dir.to_str(), Some("/var/lib/guideway"));
    assert_eq!(config.machine.on_closed_port, crate::config::OnClosedPort::Reset);
    assert!(config.machine.routing_peers.is_empty(), "no gateways");
    assert_eq!(config.api.socket.to_str(), Some("/run/guideway/lb1.sock"));
    assert_eq!((config.workers.cpus.as_slice(), config.workers.idle), ([0].as_slice(), Idle::Busy));
    assert_eq!((config.workers.flows, config.workers.wide_flows), (1_048_576, 1_048_576));
    assert_eq!(config.ports[0].mtu, 1500);
    let t = config.timeouts;
    assert_eq!(
        (t.tcp_established_s, t.tcp_closing_s, t.syn_s, t.udp_s, t.fragment_ms),
        (1800, 30, 30, 60, 1000)
    );
    let s = &config.services[0];
    assert_eq!((s.protocol, s.mode, s.maglev_size, s.hash), (Protocol::Tcp, Mode::Ipip, 65_537, Hash::Tuple));
    let ports = [Mode::Gue, Mode::Vxlan, Mode::Geneve].map(|mode| s.tunnel_port(mode));
    assert_eq!(ports, [6080, 4789, 6081]);
    assert_eq!((s.vni, s.mtu), (100, None));
    assert_eq!((s.on_down, s.on_empty, s.announce), (OnDown::Keep, OnEmpty::Reset, Announce::None));
    assert_eq!((s.panic_percent, s.drain_timeout_ms, s.state), (50, 300_000, Tracking::All));
    assert_eq!(s.health.kind, HealthKind::None);
    assert_eq!((s.policy, s.weight_by, s.select), (Policy::Maglev, WeightBy::Static, Select::Min));
    assert_eq!((s.join, s.slow_start_ms, s.capacity), (Join::Head, 30_000, 10_000));
    assert_eq!((s.overload, s.churn_percent), (Overload::Spread, 5));
    assert_eq!((&config.agents, &s.agents, s.health.checks), (&None, &None, Checks::Machine));
    assert_eq!((s.backends[0].capacity, &s.backends[0].registration), (10_000, &None));
    assert_eq!((s.backends[0].weight, s.backends[0].mac, s.backends[0].state), (1, None, AdminState::Up));

    let health = &base().services[0].health;
    let http = HttpCheck {
        path: "/".into(),
        host: None,
        expect_status: vec![(200, 399)],
        expect: None,
        sni: None,
        files: None,
    };
    assert_eq!(health.kind, HealthKind::Http(http));
    assert_eq!((health.interval_ms, health.timeout_ms, health.fall, health.rise), (1000, 500, 3, 2));
    assert_eq!((health.via.as_deref(), health.route, health.port), (Some("gw0"), Route::Direct, None));
    let short = loaded(&edited(BASE, &[("kind = \"http\"", "kind = \"http\"\ninterval_ms = 100")])).config;
    assert_eq!(short.services[0].health.timeout_ms, 100);
}

/// Every key of the format, with a value that is not its default, arrives.
#[test]
fn every_key_is_honoured() {
    let text = r#"
[machine]
name = "lb-2.a_b"
address = "10.0.2.12"
address6 = "fd00:2::12"
next_hop_mac = "02:00:00:00:00:0A"
cluster_key = "FFEEDDCCBBAA99887766554433221100"
on_closed_port = "drop"
routing_peers = ["10.0.2.1", "fe80::9"]
state_dir = "/srv/guideway"
[api]
socket = "/tmp/g.sock"
listen = "[::1]:8443"
token_file = "/etc/token"
tls = { cert = "/c.pem", key = "/k.pem", client_ca = "/ca.pem" }
[metrics]
listen = "127.0.0.1:9464"
[timeouts]
tcp_established_s = 100
tcp_closing_s = 11
syn_s = 12
udp_s = 13
fragment_ms = 14
[agents]
listen = "0.0.0.0:7481"
advertise = "10.0.2.12:7482"
tls = { cert = "/ac.pem", key = "/ak.pem", client_ca = "/aca.pem" }
connections = 9
[dpdk]
eal_args = ["--no-pci", "-m", "64"]
[workers]
cpus = [2, 3]
management_cpus = [0]
idle = "adaptive"
flows = 2048
wide_flows = 4096
[[port]]
name = "p"
device = "0000:3b:00.0,arg=1"
mtu = 9000
mac = "02:11:22:33:44:55"
exception = "gw1"
exception_addresses = ["10.0.2.12/24", "fd00:2::12/64"]
exception_gateway = "10.0.2.1"
exception_gateway6 = "fe80::1"
[[service]]
name = "s"
vip = "2001:db8::7"
port = 0
protocol = "udp"
mode = "vxlan"
maglev_size = 251
hash = "source"
vxlan_port = 8472
vni = 16777215
mtu = 1400
on_down = "reselect"
on_empty = "drop"
panic_percent = 0
drain_timeout_ms = 5
announce = "kernel"
state = "all"
weight = "load"
join = "slow-start"
slow_start_ms = 1000
capacity = 16777216
churn_percent = 100
[service.agents]
token_file = "/etc/s.token"
lease_ms = 500
[service.agents.register]
addresses = ["fd00:3::/64", "fd00:4::1"]
names = "s-*"
ports = [443, "8000-8999"]
limit = 7
weight_max = 8
[service.health]
checks = "machine"
kind = "https"
interval_ms = 700
timeout_ms = 600
fall = 4
rise = 5
port = 443
path = "/x"
host = "h"
expect_status = [200, "204", "300-302"]
expect = "ok"
sni = "n"
cert = "/h.pem"
key = "/h.key"
ca = "/ca.pem"
via = "gw1"
route = "tunnel"
[[service.backend]]
name = "b"
address = "fd00:2::21"
weight = 65535
mac = "02:00:00:00:00:21"
state = "drain"
capacity = 3
[[service]]
name = "l"
vip = "198.51.101.1"
port = 9
policy = "least-load"
select = "p2c"
overload = "reject"
agents = { token_file = "/l" }
health = { kind = "exec", command = "check-l" }
[[service]]
name = "g"
vip = "198.51.100.0/24"
port = 9
state = "exceptions"
mode = "gue"
gue_port = 6081
health = { kind = "tcp", send = "a\u0000b", expect = "c", expect_status = 200 }
backend = [{ name = "b", address = "10.0.2.21" }]
[[service]]
name = "e"
vip = "198.51.102.1"
port = 9
mode = "geneve"
geneve_port = 7081
vni = 16777215
backend = [{ name = "b", address = "10.0.2.21", mac = "02:00:00:00:00:21" }]
"#;
    // `expect_status` of "g" on purpose: in a check of kind tcp a status is a mistake, and the only one here.
    let report = refused(text);
    assert_eq!(
        report.diagnostics().iter().filter(|d| d.severity == Severity::Error).count(),
        1,
        "{}",
        report.to_plain()
    );
    let config = loaded(&text.replace(", expect_status = 200", "")).config;
    let json = serde_json::to_value(&config).unwrap();
    let get = |pointer: &str| json.pointer(pointer).unwrap_or_else(|| panic!("{pointer}")).clone();
    for (pointer, expected) in [
        ("/machine/name", Value::from("lb-2.a_b")),
        ("/machine/address", "10.0.2.12".into()),
        ("/machine/address6", "fd00:2::12".into()),
        ("/machine/next_hop_mac", "02:00:00:00:00:0a".into()),
        ("/machine/on_closed_port", "drop".into()),
        ("/machine/routing_peers/1", "fe80::9".into()),
        ("/machine/state_dir", "/srv/guideway".into()),
        ("/api/socket", "/tmp/g.sock".into()),
        ("/api/listen", "[::1]:8443".into()),
        ("/api/token_file", "/etc/token".into()),
        ("/api/tls/cert", "/c.pem".into()),
        ("/api/tls/key", "/k.pem".into()),
        ("/api/tls/client_ca", "/ca.pem".into()),
        ("/metrics/listen", "127.0.0.1:9464".into()),
        ("/timeouts/tcp_established_s", 100.into()),
        ("/timeouts/tcp_closing_s", 11.into()),
        ("/timeouts/syn_s", 12.into()),
        ("/timeouts/udp_s", 13.into()),
        ("/timeouts/fragment_ms", 14.into()),
        ("/dpdk/eal_args/2", "64".into()),
        ("/workers/cpus/1", 3.into()),
        ("/workers/management_cpus/0", 0.into()),
        ("/workers/idle", "adaptive".into()),
        ("/workers/flows", 2048.into()),
        ("/workers/wide_flows", 4096.into()),
        ("/ports/0/name", "p".into()),
        ("/ports/0/device", "0000:3b:00.0,arg=1".into()),
        ("/ports/0/mtu", 9000.into()),
        ("/ports/0/mac", "02:11:22:33:44:55".into()),
        ("/ports/0/exception", "gw1".into()),
        ("/ports/0/exception_addresses/0", "10.0.2.12/24".into()),
        ("/ports/0/exception_gateway", "10.0.2.1".into()),
        ("/ports/0/exception_gateway6", "fe80::1".into()),
        ("/services/0/vip", "2001:db8::7".into()),
        ("/services/0/port", 0.into()),
        ("/services/0/protocol", "udp".into()),
        ("/services/0/mode", "vxlan".into()),
        ("/services/0/maglev_size", 251.into()),
        ("/services/0/hash", "source".into()),
        ("/services/0/vxlan_port", 8472.into()),
        ("/services/0/vni", 16_777_215.into()),
        ("/services/0/mtu", 1400.into()),
        ("/services/0/on_down", "reselect".into()),
        ("/services/0/on_empty", "drop".into()),
        ("/services/0/panic_percent", 0.into()),
        ("/services/0/drain_timeout_ms", 5.into()),
        ("/services/0/announce", "kernel".into()),
        ("/services/0/state", "all".into()),
        ("/agents/listen", "0.0.0.0:7481".into()),
        ("/agents/advertise", "10.0.2.12:7482".into()),
        ("/agents/tls/cert", "/ac.pem".into()),
        ("/agents/tls/key", "/ak.pem".into()),
        ("/agents/tls/client_ca", "/aca.pem".into()),
        ("/agents/connections", 9.into()),
        ("/services/0/weight_by", "load".into()),
        ("/services/0/join", "slow-start".into()),
        ("/services/0/slow_start_ms", 1000.into()),
        ("/services/0/capacity", 16_777_216.into()),
        ("/services/0/churn_percent", 100.into()),
        ("/services/0/agents/token_file", "/etc/s.token".into()),
        ("/services/0/agents/lease_ms", 500.into()),
        ("/services/0/agents/register/addresses/1", "fd00:4::1".into()),
        ("/services/0/agents/register/names", "s-*".into()),
        ("/services/0/agents/register/ports/0/1", 443.into()),
        ("/services/0/agents/register/ports/1/1", 8999.into()),
        ("/services/0/agents/register/limit", 7.into()),
        ("/services/0/agents/register/weight_max", 8.into()),
        ("/services/0/health/checks", "machine".into()),
        ("/services/0/backends/0/capacity", 3.into()),
        ("/services/1/policy", "least-load".into()),
        ("/services/1/select", "p2c".into()),
        ("/services/1/overload", "reject".into()),
        ("/services/1/health/checks", "agent".into()),
        ("/services/1/health/kind/kind", "exec".into()),
        ("/services/1/health/kind/command", "check-l".into()),
        ("/services/2/state", "exceptions".into()),
        ("/services/0/health/kind/kind", "https".into()),
        ("/services/0/health/kind/path", "/x".into()),
        ("/services/0/health/kind/host", "h".into()),
        ("/services/0/health/kind/expect", "ok".into()),
        ("/services/0/health/kind/sni", "n".into()),
        ("/services/0/health/kind/files/cert", "/h.pem".into()),
        ("/services/0/health/kind/files/key", "/h.key".into()),
        ("/services/0/health/kind/files/ca", "/ca.pem".into()),
        ("/services/0/health/kind/expect_status/2/1", 302.into()),
        ("/services/0/health/interval_ms", 700.into()),
        ("/services/0/health/timeout_ms", 600.into()),
        ("/services/0/health/fall", 4.into()),
        ("/services/0/health/rise", 5.into()),
        ("/services/0/health/port", 443.into()),
        ("/services/0/health/via", "gw1".into()),
        ("/services/0/health/route", "tunnel".into()),
        ("/services/0/backends/0/weight", 65_535.into()),
        ("/services/0/backends/0/mac", "02:00:00:00:00:21".into()),
        ("/services/0/backends/0/state", "drain".into()),
        ("/services/2/vip", "198.51.100.0/24".into()),
        ("/services/2/gue_port", 6081.into()),
        ("/services/3/mode", "geneve".into()),
        ("/services/3/geneve_port", 7081.into()),
        ("/services/3/vni", 16_777_215.into()),
        ("/services/2/health/kind/send", "a\u{0}b".into()),
        ("/services/2/health/kind/expect", "c".into()),
    ] {
        assert_eq!(get(pointer), expected, "{pointer}");
    }
    assert_eq!(config.machine.cluster_key[..2], [0xff, 0xee]);
}

/// Each mode has its key in the schema, and only its own.
#[test]
fn ports_of_modes() {
    let keys: Vec<_> = Mode::ALL.into_iter().filter_map(|mode| Some((mode, mode.port_key()?))).collect();
    for mode in Mode::ALL {
        for &(owner, key) in &keys {
            let mac = "mac = \"02:00:00:00:00:21\"";
            let keys = format!("port = 80\nmode = \"{}\"\n{} = 7", mode.as_str(), key.name);
            let text =
                edited(BARE, &[("port = 80", &keys), ("\"10.0.2.21\"", &format!("\"10.0.2.21\"\n{mac}"))]);
            if mode == owner {
                let service = &loaded(&text).config.services[0];
                assert_eq!((service.mode, service.tunnel_port(mode)), (mode, 7));
                let json = serde_json::to_value(service).unwrap();
                assert_eq!((&json["mode"], &json[key.name]), (&mode.as_str().into(), &7.into()));
            } else {
                let report = refused(&text);
                assert_eq!(report.diagnostics().len(), 1, "{}", report.to_plain());
                let words = format!("`{}` belongs to mode \"{}\"", key.name, owner.as_str());
                assert!(report.to_plain().contains(&words), "{}", report.to_plain());
            }
        }
    }
}

#[test]
fn examples_load() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs");
    // The key of the first two is to be replaced, which install.sh does; `replay` opens no device, so no key
    // matters.
    let published = "`cluster_key` is one that is published";
    for (file, expected) in [("guideway.toml", published), ("minimal.toml", published), ("replay.toml", "")] {
        let text = std::fs::read_to_string(format!("{dir}/{file}")).unwrap();
        let found = warnings(&text);
        assert!(
            if expected.is_empty() { found.is_empty() } else { found.contains(expected) },
            "{file}: {found}"
        );
        assert_eq!(found.matches("warning:").count(), usize::from(!expected.is_empty()), "{file}: {found}");
    }
}

/// The full example shows every key of the schema, set or as a comment.
#[test]
fn full_example_is_full() {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/guideway.toml"));
    fn keys(schema: &Value, out: &mut Vec<String>) {
        for (key, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            out.push(key.clone());
            keys(inner.get("items").unwrap_or(inner), out);
        }
    }
    let mut all = Vec::new();
    keys(&crate::schema::released(), &mut all);
    assert!(all.len() > 75, "{}", all.len());
    for key in all {
        assert!(text.contains(&key), "{key} is not in configs/guideway.toml");
    }
}

/// Many mistakes, one report, in the order of their places.
#[test]
fn all_problems_at_once() {
    let text = edited(
        BASE,
        &[
            ("cpus = [1]", "cpus = [1]\nfloes = 3"),
            ("mtu = 1500", "mtu = 100"),
            ("port = 80", "port = \"80\""),
            ("kind = \"http\"", "kind = \"htpt\""),
            ("\"10.0.2.22\"", "\"10.0.2.300\""),
        ],
    );
    let report = refused(&text);
    let lines: Vec<_> = report.diagnostics().iter().map(|d| (d.line, d.column)).collect();
    assert_eq!(lines, [(13, 1), (17, 7), (24, 8), (28, 8), (34, 11)], "{}", report.to_plain());
    assert_eq!(report.to_string(), "test.toml: 5 errors");
    let json = serde_json::to_value(&report.diagnostics()[0]).unwrap();
    assert_eq!(json["help"], "did you mean `flows`?");
    assert_eq!(json["severity"], "error");
}

#[test]
fn fancy_rendering() {
    let report = refused(&edited(BASE, &[("mtu = 1500", "mtu = 100")]));
    let mut out = String::new();
    let theme = miette::GraphicalTheme::unicode_nocolor();
    let handler = miette::GraphicalReportHandler::new_themed(theme).with_width(100).with_links(false);
    handler.render_report(&mut out, &report).unwrap();
    insta::assert_snapshot!("fancy", out);
}

#[test]
fn warnings_do_not_fail() {
    let draw = |base: &str, edits: &[(&str, &str)], words: &str| {
        let text = edited(base, edits);
        let found = warnings(&text);
        assert_eq!(found.matches("warning:").count(), 1, "{words}: {found}");
        assert!(found.contains(words) && found.contains("help: "), "{words}: {found}");
    };
    let key = "cluster_key = \"7d0c3a9be1d24776a8b9c0d1e2f30415\"";
    draw(BASE, &[(key, "")], "`cluster_key` is missing: anyone can aim at one slot");
    for published in ["000102030405060708090a0b0c0d0e0f", "5F0C3A9BE1D24776A8B9C0D1E2F30415"] {
        let key_line = format!("cluster_key = \"{published}\"");
        draw(
            BASE,
            &[(key, &key_line)],
            "`cluster_key` is one that is published with this program: anyone can",
        );
        // Where no port brings a packet, no key matters.
        assert_eq!(warnings(&edited(BARE, &[(key, &key_line)])), "");
    }
    assert_eq!(warnings(&edited(BARE, &[(key, "")])), "");
    draw(BASE, &[("mode = \"ipip\"", "mode = \"vxlan\"")], "2 of 2 vxlan backends have no `mac`");
    draw(BASE, &[("mode = \"ipip\"", "mode = \"geneve\"")], "2 of 2 geneve backends have no `mac`");
    draw(
        BARE,
        &[("[[service.backend]]\nname = \"b1\"\naddress = \"10.0.2.21\"\n", "")],
        "there is no [[service.backend]]",
    );
    draw(BARE, &[("\"10.0.2.21\"", "\"10.0.2.21\"\nweight = 0")], "every backend has weight 0");
    draw(BARE, &[("\"10.0.2.21\"", "\"10.0.2.21\"\nstate = \"drain\"")], "has state \"up\"");
    draw(
        BASE,
        &[("address = \"10.0.2.11\"", "address = \"10.0.2.12\"")],
        "is not among the exception addresses",
    );
    draw(BASE, &[("[timeouts]", "[timeouts]\nsyn_s = 2000")], "`syn_s` (2000) is longer");
    draw(BASE, &[("[metrics]", "[metrics]\nlisten = \"0.0.0.0:9464\"")], "there is no login");
    draw(BASE, &[("[api]", "[api]\ntoken_file = \"/t\"")], "`token_file` has no effect");
    draw(
        BASE,
        &[("[workers]", "[cluster]\nport = 7481\n[workers]")],
        "nothing here has an effect without `store`",
    );
    let store = "[cluster]\nstore = \"etcd\"\nendpoints = [\"http://10.0.0.5:2379\"]\n";
    draw(BASE, &[("[workers]", &format!("{store}[workers]"))], "without `user` everyone who reaches");
    let secure = "[cluster]\nstore = \"etcd\"\nendpoints = [\"https://10.0.0.5:2379\"]\n";
    let ca = format!("{secure}tls = {{ ca = \"/ca\" }}\n[workers]");
    draw(BASE, &[("[workers]", &ca)], "without `user` everyone who reaches");
    let both = format!("{secure}tls = {{ ca = \"/ca\", cert = \"/c\", key = \"/k\" }}\n[workers]");
    assert_eq!(warnings(&edited(BASE, &[("[workers]", &both)])), "");
    let user = format!("{store}user = {{ name = \"u\", password_file = \"/p\" }}\n[workers]");
    draw(BASE, &[("[workers]", &user)], "travels in the clear");
    #[cfg(feature = "negative-controls")]
    for (key, warning) in
        [("sync", "with `sync` off flows break"), ("export", "with `export` off silent flows")]
    {
        let off = both.replace("[workers]", &format!("{key} = \"off\"\n[workers]"));
        draw(BASE, &[("[workers]", &off)], warning);
    }
    draw(BASE, &[("port = 80", "port = 80\ncapacity = 5")], "`capacity` has no effect");
    draw(BASE, &[("\"10.0.2.22\"", "\"10.0.2.22\"\ncapacity = 5")], "`capacity` has no effect");
    let weights = [
        ("mode = \"ipip\"", "mode = \"ipip\"\nmaglev_size = 251"),
        ("\"10.0.2.21\"", "\"10.0.2.21\"\nweight = 1"),
        ("\"10.0.2.22\"", "\"10.0.2.22\"\nweight = 1000"),
    ];
    draw(BASE, &weights, "backend \"b1\" with weight 1 of 1001 has less than one of 251 slots");
    draw(BASE, &weights, "with maglev_size = 1009 it has one slot, with 100103 its share");
    draw(
        BASE,
        &[weights[0], weights[1], ("\"10.0.2.22\"", "\"10.0.2.22\"\nweight = 65535")],
        "with maglev_size = 65537 it has",
    );
    let enough = [("maglev_size = 251", "maglev_size = 1009")];
    assert_eq!(warnings(&edited(&edited(BASE, &weights), &enough)), "");
    draw(BASE, &[("\"--no-pci\"", "\"--in-memory\"")], "cannot attach");
    draw(BASE, &[("\"--no-pci\"", "\"--no-huge\"")], "without huge pages");
    draw(BASE, &[("cpus = [1]", "cpus = [1, 2, 3]\nflows = 67108864")], "flow tables take 9.0 GiB");
}

#[test]
fn memory() {
    let config = base();
    assert_eq!(config.flow_table_bytes(), 48 << 20);
    assert_eq!(config.memory_bytes(), (48 << 20) + 4 * 65_537 + 2 * 256);
}

#[test]
fn restart_keys() {
    let old = base();
    assert_eq!(old.restart_keys(&old), Vec::<String>::new());
    let changed = |edits: &[(&str, &str)]| old.restart_keys(&loaded(&edited(BASE, edits)).config).join(" ");
    assert_eq!(changed(&[("port = 80", "port = 81")]), "");
    assert_eq!(changed(&[("address6 = \"fd00:2::11\"", "address6 = \"fd00:2::13\"")]), "");
    assert_eq!(
        changed(&[("\"lb1\"", "\"lb2\"\nstate_dir = \"/x\""), ("7d0c", "7d0d")]),
        "machine.name machine.cluster_key machine.state_dir api.socket"
    );
    assert_eq!(
        changed(&[("cpus = [1]", "cpus = [2]\nidle = \"adaptive\"\nflows = 2000\nwide_flows = 3000")]),
        "workers.cpus workers.idle workers.flows workers.wide_flows"
    );
    assert_eq!(
        changed(&[("mtu = 1500", "mtu = 1400"), ("\"gw0\"", "\"gw1\"")]),
        "port.data0.mtu port.data0.exception"
    );
    assert_eq!(changed(&[("name = \"data0\"", "name = \"data1\"")]), "port.data0 port.data1");
    assert_eq!(changed(&[("--no-pci", "--no-telemetry")]), "dpdk.eal_args");
    assert_eq!(changed(&[("[metrics]", "[metrics]\nlisten = \"127.0.0.1:1\"")]), "metrics.listen");
    assert_eq!(
        changed(&[("[api]", "[api]\nlisten = \"127.0.0.1:1\"\ntoken_file = \"/t\"")]),
        "api.listen api.token_file"
    );
}

#[test]
fn where_agents_connect_needs_a_restart_and_nothing_else_of_them() {
    let with = |keys: &str| loaded(&edited(BASE, &[("[workers]", &format!("{keys}\n[workers]"))])).config;
    let agents = with("[agents]\nlisten = \"10.0.2.11:7481\"");
    assert_eq!(
        agents.agents.as_ref().map(|of| (of.advertise, of.connections)),
        Some(("10.0.2.11:7481".parse().unwrap(), 4096))
    );
    assert_eq!(base().restart_keys(&agents), ["agents.listen"]);
    let tls = with("[agents]\nlisten = \"10.0.2.11:7481\"\ntls = { cert = \"/c\", key = \"/k\" }");
    assert_eq!(agents.restart_keys(&tls), ["agents.tls"]);
    let other = with("[agents]\nlisten = \"10.0.2.11:7481\"\nadvertise = \"10.0.2.12:1\"\nconnections = 1");
    assert_eq!(agents.restart_keys(&other), Vec::<String>::new());
    let mut served = agents.clone();
    let services = with("[agents]\nlisten = \"10.0.2.11:7481\"\n[[service]]\nname = \"s\"\nvip = \"203.0.113.20\"\nport = 1\nagents = { token_file = \"/t\" }").services;
    served.services = services;
    assert_eq!(agents.restart_keys(&served), Vec::<String>::new());
}

/// A service that backends register for needs none in the file.
#[test]
fn a_service_of_registered_backends_alone_draws_no_warning() {
    let text = edited(
        BASE,
        &[
            ("[workers]", "[agents]\nlisten = \"10.0.2.11:7481\"\n[workers]"),
            (
                "[service.health]",
                "agents = { token_file = \"/t\", register = { addresses = [\"10.1.0.0/16\"] } }\n[service.health]",
            ),
            (
                "[[service.backend]]\nname = \"b1\"\naddress = \"10.0.2.21\"\n[[service.backend]]\nname = \"b2\"\naddress = \"10.0.2.22\"\n",
                "",
            ),
        ],
    );
    assert_eq!(warnings(&text), "");
    let service = &loaded(&text).config.services[0];
    assert!(service.is_checked_by_agents() && service.health.checks == Checks::Agent);
    let template = service.agents.as_ref().unwrap().register.as_ref().unwrap();
    assert_eq!((template.names.as_str(), template.limit, template.weight_max), ("*", 256, 100));
    assert!(template.ports.is_empty());
}

/// What loses flows on purpose is unknown to every build but that of the tests.
#[test]
fn a_cluster_leaves_out_nothing_but_for_negative_controls() {
    for key in ["sync", "export"] {
        let table = format!(
            "[cluster]\nstore = \"etcd\"\nendpoints = [\"http://10.0.0.5:2379\"]\n{key} = \"off\"\n[workers]"
        );
        let text = edited(BASE, &[("[workers]", &table)]);
        if cfg!(feature = "negative-controls") {
            let left_out = loaded(&text).config.cluster.expect("a cluster").left_out;
            assert_eq!((left_out.sync(), left_out.export()), (key == "sync", key == "export"));
        } else {
            let problems = load("lb1.toml", &text).expect_err("an unknown key").to_plain();
            assert!(problems.contains(&format!("unknown key `{key}`")), "{problems}");
        }
    }
}

#[test]
fn a_cluster_is_read_and_its_keys_need_a_restart() {
    assert_eq!(base().cluster, None);
    let with = |keys: &str| {
        let table = format!("[cluster]\nstore = \"etcd\"\n{keys}\n[workers]");
        loaded(&edited(BASE, &[("[workers]", &table)])).config
    };
    let endpoints = "endpoints = [\"https://10.0.0.5:2379\", \"https://etcd.example:2379\"]\n";
    let full = with(&format!(
        "{endpoints}tls = {{ ca = \"/ca\", cert = \"/c\", key = \"/k\" }}\n\
         user = {{ name = \"u\", password_file = \"/p\" }}\nport = 7000"
    ));
    let cluster = full.cluster.clone().expect("a cluster");
    assert_eq!(cluster.endpoints, ["https://10.0.0.5:2379", "https://etcd.example:2379"]);
    assert_eq!(cluster.tls.and_then(|tls| tls.identity), Some(("/c".into(), "/k".into())));
    assert_eq!(cluster.user.map(|user| user.password_file), Some("/p".into()));
    assert_eq!(cluster.port, 7000);
    let plain = with("endpoints = [\"http://10.0.0.5:2379\"]");
    let cluster = plain.cluster.clone().expect("a cluster");
    assert_eq!((cluster.port, cluster.left_out), (7480, crate::config::LeftOut::default()));
    assert_eq!(base().restart_keys(&plain), ["cluster.store"]);
    assert_eq!(
        full.restart_keys(&plain),
        ["endpoints", "tls", "user", "port"].map(|key| format!("cluster.{key}"))
    );
    let keys = with(
        "endpoints = [\"http://10.0.0.5:2379\"]\nsync_key = \"100102030405060708090A0B0C0D0E0F\"\n\
         sync_key_accepted = \"7d0c3a9be1d24776a8b9c0d1e2f30415\"",
    );
    let [plain_keys, new_keys] = [&plain, &keys].map(|of| of.cluster.as_ref().expect("a cluster").tag_keys());
    assert_eq!(new_keys.1, Some(plain_keys.0), "without sync_key it is cluster_key's, which can be accepted");
    assert_eq!((plain_keys.1, plain_keys.0 == new_keys.0), (None, false));
    assert_ne!(plain_keys.0, plain.machine.cluster_key);
    assert_eq!(plain.restart_keys(&keys), Vec::<String>::new());
    let same = "[cluster]\nstore = \"etcd\"\nendpoints = [\"http://10.0.0.5:2379\"]\n\
                sync_key_accepted = \"7d0c3a9be1d24776a8b9c0d1e2f30415\"\n[workers]";
    let warnings = loaded(&edited(BASE, &[("[workers]", same)])).warnings;
    assert!(warnings.iter().any(|of| of.message.contains("is the key in use")), "{warnings:?}");
    let mut longer = plain.clone();
    longer.timeouts.udp_s = 61;
    longer.machine.address = Some(std::net::Ipv4Addr::new(10, 0, 2, 13));
    assert_eq!(plain.restart_keys(&longer), ["machine.address", "timeouts"]);
}

/// What names a slot cannot change under flows that only their slot is known of; the option itself can.
#[test]
fn slots_of_a_stateless_service_keep_their_meaning() {
    let mode = "mode = \"ipip\"";
    let with = |keys: &str| loaded(&edited(BASE, &[(mode, &format!("{mode}\n{keys}"))])).config;
    let stateless = with("state = \"exceptions\"");
    assert!(stateless.services[0].is_stateless() && !base().services[0].is_stateless());
    assert_eq!(base().restart_keys(&stateless), Vec::<String>::new());
    assert_eq!(stateless.restart_keys(&base()), Vec::<String>::new());
    let other = with("state = \"exceptions\"\nmaglev_size = 251\nhash = \"source\"");
    assert_eq!(stateless.restart_keys(&other), ["service.web.maglev_size", "service.web.hash"]);
    assert_eq!(base().restart_keys(&with("maglev_size = 251\nhash = \"source\"")), Vec::<String>::new());
    let mut elsewhere = other;
    elsewhere.services[0].port = 81;
    assert_eq!(stateless.restart_keys(&elsewhere), Vec::<String>::new(), "another service");
    assert!(stateless.memory_bytes() > base().memory_bytes());
}

/// UDP has no packet that begins a flow.
#[test]
fn exceptions_over_udp_draw_a_warning() {
    let text = edited(BASE, &[("protocol = \"tcp\"", "protocol = \"udp\"\nstate = \"exceptions\"")]);
    assert!(warnings(&text).contains("UDP flows are all tracked"), "{}", warnings(&text));
    assert!(!loaded(&text).config.services[0].is_stateless());
}

/// A config of 65,536 backends is read in reasonable time, and the limit is exact.
#[test]
fn limits() {
    let backends = |services: usize, each: usize| {
        let mut text = BARE.split("[[service]]").next().unwrap().to_owned();
        for s in 0..services {
            let (hi, lo) = (s / 250, s % 250);
            text += &format!(
                "[[service]]\nname = \"s{s}\"\nvip = \"203.0.{hi}.{lo}\"\nport = 80\nmaglev_size = 5000011\n"
            );
            for b in 0..each {
                text += &format!(
                    "[[service.backend]]\nname = \"b{b}\"\naddress = \"10.{}.{}.{}\"\n",
                    8 + (b >> 16),
                    (b >> 8) & 255,
                    b & 255
                );
            }
        }
        text
    };
    assert_eq!(loaded(&backends(2, 1000)).config.services[1].backends.len(), 1000);
    assert_eq!(loaded(&backends(4096, 1)).config.services.len(), 4096);
    let report = refused(&backends(4097, 1));
    assert!(report.to_plain().contains("at most 4096"), "{}", report.to_plain());
    let report = refused(&backends(2, 32_769));
    assert!(report.to_plain().contains("more than 65536 backends"), "{}", report.to_plain());
}

#[test]
fn long_texts_are_refused() {
    let report = refused(&"#".repeat(crate::TEXT_MAX + 1));
    assert!(report.to_plain().contains("longer than 16777216 bytes"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// No text panics, and every problem has a place within the text.
    #[test]
    fn arbitrary_text(text in "\\PC{0,200}|[\\[\\]a-z_=\"0-9./: \\n,{}#-]{0,300}") {
        check_report(&text);
    }

    /// Nor does a good config of which a piece is lost, doubled or replaced.
    #[test]
    fn damaged_config(from in 0..BASE.len(), len in 0..80usize, put in "[\\[\\]a-z_=\"0-9./: \\n,{}-]{0,20}", double: bool) {
        let to = (from + len).min(BASE.len());
        let piece = if double { BASE[from..to].repeat(2) } else { put };
        check_report(&format!("{}{piece}{}", &BASE[..from], &BASE[to..]));
    }

    /// Any value under any key.
    #[test]
    fn any_value_anywhere(line in 0..BASE.lines().count(), value in prop_oneof![
        Just("[]".to_owned()), Just("{}".to_owned()), Just("true".to_owned()), Just("1979-05-27".to_owned()), Just("nan".to_owned()),
        Just("[[1]]".to_owned()), any::<i64>().prop_map(|i| i.to_string()), "[a-z0-9./:-]{0,40}".prop_map(|s| format!("\"{s}\"")),
        Just("99999999999999999999999999".to_owned()), Just("0x7fff_ffff".to_owned()), Just("\"\\u0000\"".to_owned()),
    ]) {
        let text: Vec<String> = BASE.lines().enumerate().map(|(i, l)| match l.split_once(" = ") {
            Some((key, _)) if i == line => format!("{key} = {value}"),
            _ => l.to_owned(),
        }).collect();
        check_report(&text.join("\n"));
    }
}

fn check_report(text: &str) {
    match load("t", text) {
        Ok(loaded) => assert!(loaded.warnings.iter().all(|w| w.severity == Severity::Warning)),
        Err(report) => {
            assert!(report.diagnostics().iter().any(|d| d.severity == Severity::Error));
            for d in report.diagnostics() {
                assert!(d.offset + d.length <= text.len() && d.line >= 1 && d.column >= 1);
                assert!(d.line <= text.lines().count() + 1);
                assert!(!d.message.is_empty() && !d.help.is_empty());
            }
        }
    }
}
