//! `[machine]`, `[api]`, `[metrics]`, `[timeouts]`.

use super::read::{Read, Reader, Scope, shown};
use super::{Span, Surroundings};
use crate::config::{Api, Machine, Metrics, OnClosedPort, Port, Timeouts, Tls};
use crate::raw::{self, Cell, List};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use toml::Spanned;

/// The key where none is written, and in examples: 00 01 02 … 0f.
const SAMPLE_KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
/// Keys that stand in published files: everyone knows them.
const PUBLISHED_KEYS: [[u8; 16]; 2] =
    [SAMPLE_KEY, 0x5f0c_3a9b_e1d2_4776_a8b9_c0d1_e2f3_0415_u128.to_be_bytes()];
/// Largest number of `routing_peers`.
const ROUTING_PEERS_MAX: usize = 64;
/// Longest path of a unix socket, bytes: `sun_path` less its final zero.
const SOCKET_PATH_MAX: usize = 107;

/// What `cluster_key` has to protect.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum UseOfKey {
    /// Nothing: no port brings a packet of anybody.
    Nothing,
    /// Whoever knows it can find flows that all meet one slot.
    Slots,
    /// And can speak as a machine of the cluster.
    Cluster,
}

/// A key that everyone knows, or none, is an error or worth a word.
fn secret_key(r: &mut Reader<'_, '_>, scope: &Scope, key: &Read<[u8; 16]>, used: UseOfKey) {
    let (what, span) = match key {
        Read::Absent if !r.misspelt.contains("cluster_key") => ("is missing", scope.span.clone()),
        Read::Given(key, span) if is_published(key) => {
            ("is one that is published with this program", span.clone())
        }
        _ => return,
    };
    match used {
        UseOfKey::Nothing => {}
        UseOfKey::Slots => {
            let message = format!("machine: `cluster_key` {what}: anyone can aim at one slot");
            r.problems.warning(span, message, KEY_HELP);
        }
        UseOfKey::Cluster => {
            let message = format!(
                "machine: `cluster_key` {what}: in a cluster anyone could speak as one of its machines"
            );
            r.problems.error(span, message, KEY_HELP);
        }
    }
}

/// Whether everyone knows a key.
pub(super) fn is_published(key: &[u8; 16]) -> bool {
    PUBLISHED_KEYS.contains(key)
}

pub(super) fn machine(
    r: &mut Reader<'_, '_>,
    raw: Option<Spanned<raw::Machine>>,
    use_of_key: UseOfKey,
) -> Machine {
    let mut machine = Machine {
        name: String::new(),
        address: None,
        address6: None,
        next_hop_mac: None,
        cluster_key: SAMPLE_KEY,
        on_closed_port: OnClosedPort::Reset,
        routing_peers: Vec::new(),
        state_dir: PathBuf::from("/var/lib/guideway"),
    };
    let Some(raw) = raw else {
        if !r.misspelt.contains("machine") {
            r.problems.error(0..0, "there is no [machine]", "begin with [machine] and name = \"lb1\"");
        }
        return machine;
    };
    let scope = Scope::new("machine", raw.span());
    let raw = raw.into_inner();

    let name = r.name(&scope, raw.name);
    if name.is_absent() {
        r.missing(
            &scope,
            "name",
            "give the machine a name, like name = \"lb1\"; it also tells its DPDK files apart",
        );
    }
    machine.name = name.or(String::new());

    let help = "write the machine's own IPv4 address, like \"10.0.2.11\"";
    let address = r.address(&scope, "address", raw.address, help).and_then(|addr, span| match addr {
        IpAddr::V4(addr) => Some(addr),
        IpAddr::V6(_) => {
            let message = format!("machine: `address` {addr} is an IPv6 address");
            r.problems.error(span.clone(), message, "address is for IPv4; move it to address6");
            None
        }
    });
    machine.address = address.ok();
    let help = "write the machine's own IPv6 address, like \"fd00:2::11\"";
    let address6 = r.address(&scope, "address6", raw.address6, help).and_then(|addr, span| match addr {
        IpAddr::V6(addr) => Some(addr),
        IpAddr::V4(_) => {
            let message = format!("machine: `address6` {addr} is an IPv4 address");
            r.problems.error(span.clone(), message, "address6 is for IPv6; move it to address");
            None
        }
    });
    machine.address6 = address6.ok();
    machine.next_hop_mac = r.mac(&scope, "next_hop_mac", raw.next_hop_mac).ok();

    let key = key(r, &scope, "cluster_key", raw.cluster_key);
    secret_key(r, &scope, &key, use_of_key);
    machine.cluster_key = key.or(SAMPLE_KEY);
    let closed = [("reset", OnClosedPort::Reset), ("drop", OnClosedPort::Drop)];
    machine.on_closed_port =
        r.choice(&scope, "on_closed_port", raw.on_closed_port, &closed).or(OnClosedPort::Reset);
    if let Some(dir) = r.path(&scope, "state_dir", raw.state_dir).ok() {
        machine.state_dir = dir.into();
    }
    machine
}

/// Whom the machine speaks BGP or BFD with: the gateways, where nothing is written.
pub(super) fn routing_peers(
    r: &mut Reader<'_, '_>,
    list: List,
    surroundings: &Surroundings,
    ports: &[Port],
) -> Vec<IpAddr> {
    let Some(span) = list.as_ref().map(Spanned::span) else {
        let gateways = ports.iter().flat_map(|port| {
            [port.exception_gateway.map(IpAddr::V4), port.exception_gateway6.map(IpAddr::V6)]
        });
        return gateways.flatten().collect();
    };
    let scope = Scope::new("machine", span.clone());
    let help = "write the routers' addresses, like [\"10.0.2.1\", \"fe80::1\"]";
    let mut peers: Vec<IpAddr> = Vec::new();
    for (text, span) in r.texts(&scope, "routing_peers", list, ROUTING_PEERS_MAX, help) {
        let Ok(peer) = text.parse::<IpAddr>() else {
            let message = format!("machine: `routing_peers` {} is no IPv4 or IPv6 address", shown(&text));
            r.problems.error(span, message, help);
            continue;
        };
        if !r.unicast("machine", "routing_peers", peer, &span, help) {
            continue;
        }
        if surroundings.local.contains(&peer) {
            let message = format!("machine: `routing_peers` {peer} is our own address");
            r.problems.error(span, message, help);
        } else if peers.contains(&peer) {
            let message = format!("machine: `routing_peers` names {peer} twice");
            r.problems.error(span, message, "name every address once");
        } else {
            peers.push(peer);
        }
    }
    if !peers.is_empty() && !surroundings.has_exception {
        r.problems.warning(
            span,
            "machine: `routing_peers` has no effect without an exception interface",
            "add exception = \"gw0\" to a port, or remove the key",
        );
    }
    peers
}

pub(super) const KEY_HELP: &str =
    "make one with `openssl rand -hex 16` and give it to every machine of the cluster";

/// A secret that all machines of a cluster have.
pub(super) fn key(r: &mut Reader<'_, '_>, scope: &Scope, name: &str, cell: Cell) -> Read<[u8; 16]> {
    r.text(scope, name, cell, KEY_HELP).and_then(|text, span| {
        let is_hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let key = u128::from_str_radix(&text, 16).ok().filter(|_| is_hex).map(u128::to_be_bytes);
        if key.is_none() {
            let (place, digits) = (&scope.place, text.chars().count());
            let message = format!("{place}: `{name}` is not 32 hexadecimal digits ({digits} characters)");
            r.problems.error(span.clone(), message, KEY_HELP);
        }
        key
    })
}

/// An address and a port.
pub(super) fn listen(r: &mut Reader<'_, '_>, scope: &Scope, key: &str, cell: Cell) -> Read<SocketAddr> {
    let help = "write address:port, like \"127.0.0.1:8080\" or \"[::1]:8080\"";
    r.text(scope, key, cell, help).and_then(|text, span| {
        let addr: Option<SocketAddr> = text.parse().ok();
        match addr {
            Some(addr) if addr.port() != 0 => return Some(addr),
            Some(_) => {
                let message = format!("{}: `{key}` has port 0", scope.place);
                r.problems.error(span.clone(), message, "choose a port from 1 to 65535");
            }
            None => {
                let message = format!("{}: `{key}` {} is no address and port", scope.place, shown(&text));
                r.problems.error(span.clone(), message, help);
            }
        }
        None
    })
}

pub(super) fn metrics(r: &mut Reader<'_, '_>, raw: Option<Spanned<raw::Metrics>>) -> Metrics {
    let Some(raw) = raw else { return Metrics { listen: None } };
    let scope = Scope::new("metrics", raw.span());
    let listen = listen(r, &scope, "listen", raw.into_inner().listen);
    if let Read::Given(addr, span) = &listen
        && !addr.ip().is_loopback()
    {
        r.problems.warning(
            span.clone(),
            format!("metrics: everyone who reaches {addr} can read the metrics; there is no login"),
            "listen on a management address or on loopback, or read /metrics through the API",
        );
    }
    Metrics { listen: listen.ok() }
}

pub(super) fn api(
    r: &mut Reader<'_, '_>,
    raw: Option<Spanned<raw::Api>>,
    machine: &str,
    metrics: &Metrics,
) -> Api {
    let default = PathBuf::from(format!("/run/guideway/{machine}.sock"));
    let Some(raw) = raw else {
        return Api { socket: default, listen: None, token_file: None, tls: None };
    };
    let scope = Scope::new("api", raw.span());
    let raw = raw.into_inner();
    let socket = r.path(&scope, "socket", raw.socket).and_then(|path, span| {
        if path.len() <= SOCKET_PATH_MAX {
            return Some(path);
        }
        let message = format!("api: `socket` has {} bytes", path.len());
        let help =
            format!("the kernel allows {SOCKET_PATH_MAX}: choose a shorter path, like {}", default.display());
        r.problems.error(span.clone(), message, help);
        None
    });
    let has_token = raw.token_file.is_some() || r.misspelt.contains("token_file");
    let has_tls = raw.tls.is_some() || r.misspelt.contains("tls");
    let written = raw.listen.is_some() || r.misspelt.contains("listen");
    let unused: [(&str, Option<Span>); 2] = [
        ("token_file", raw.token_file.as_ref().map(Spanned::span)),
        ("tls", raw.tls.as_ref().map(Spanned::span)),
    ];

    let listen = listen(r, &scope, "listen", raw.listen);
    if let Read::Given(addr, span) = &listen {
        if !has_token {
            let message = format!("api: `listen` {addr} needs `token_file`");
            let help = "write a secret into a file, name it as token_file, and let clients send it as bearer token; or remove listen: the unix socket needs none";
            r.problems.error(span.clone(), message, help);
        }
        if !has_tls && !addr.ip().is_loopback() {
            let message = format!("api: `listen` {addr} is not a loopback address and needs `tls`");
            let help = "add tls = { cert = \"/etc/guideway/cert.pem\", key = \"/etc/guideway/key.pem\" }, or listen on 127.0.0.1";
            r.problems.error(span.clone(), message, help);
        }
        if metrics.listen == Some(*addr) {
            let message = format!("api: `listen` {addr} is also metrics.listen");
            r.problems.error(
                span.clone(),
                message,
                "choose another port for one; the API serves /metrics, too",
            );
        }
    }
    if !written {
        for (key, span) in unused {
            if let Some(span) = span {
                let message = format!("api: `{key}` has no effect without `listen`");
                r.problems.warning(span, message, "add listen = \"127.0.0.1:8080\", or remove the key");
            }
        }
    }
    let tls = raw.tls.and_then(|raw| tls(r, "api.tls", raw));
    Api {
        socket: socket.ok().map_or(default, PathBuf::from),
        listen: listen.ok(),
        token_file: r.path(&scope, "token_file", raw.token_file).ok().map(PathBuf::from),
        tls,
    }
}

/// The files of a TLS listener.
pub(super) fn tls(r: &mut Reader<'_, '_>, place: &str, raw: Spanned<raw::Tls>) -> Option<Tls> {
    let scope = Scope::new(place, raw.span());
    let raw = raw.into_inner();
    let mut file = |key: &str, cell: Cell, required: bool| {
        let read = r.path(&scope, key, cell);
        if required && read.is_absent() {
            r.missing(&scope, key, "tls needs the PEM files of cert and key");
        }
        read.ok().map(PathBuf::from)
    };
    let (cert, key, client_ca) =
        (file("cert", raw.cert, true), file("key", raw.key, true), file("client_ca", raw.client_ca, false));
    Some(Tls { cert: cert?, key: key?, client_ca })
}

pub(super) fn timeouts(r: &mut Reader<'_, '_>, raw: Option<Spanned<raw::Timeouts>>) -> Timeouts {
    let span = raw.as_ref().map_or(0..0, Spanned::span);
    let scope = Scope::new("timeouts", span);
    let raw = raw.map(Spanned::into_inner).unwrap_or_default();
    let mut seconds = |key: &str, cell: Cell, default: u32| {
        let help = format!("seconds; leave it out for {default}");
        let read = r.number(&scope, key, cell, (1, 86_400), &help);
        (read.span(), read.or(default))
    };
    let (_, tcp_established_s) = seconds("tcp_established_s", raw.tcp_established_s, 1800);
    let (closing, tcp_closing_s) = seconds("tcp_closing_s", raw.tcp_closing_s, 30);
    let (syn, syn_s) = seconds("syn_s", raw.syn_s, 30);
    let (_, udp_s) = seconds("udp_s", raw.udp_s, 60);
    let help = "milliseconds; leave it out for 1000";
    let fragment_ms = r.number(&scope, "fragment_ms", raw.fragment_ms, (10, 60_000), help).or(1000);
    for (key, span, value) in [("tcp_closing_s", closing, tcp_closing_s), ("syn_s", syn, syn_s)] {
        if let Some(span) = span
            && value > tcp_established_s
        {
            r.problems.warning(
                span,
                format!(
                    "timeouts: `{key}` ({value}) is longer than `tcp_established_s` ({tcp_established_s})"
                ),
                "flows that are over would outlive flows that are used; 30 is usual",
            );
        }
    }
    Timeouts { tcp_established_s, tcp_closing_s, syn_s, udp_s, fragment_ms }
}
