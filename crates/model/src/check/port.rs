//! `[dpdk]`, `[workers]`, `[[port]]`.

use super::read::{Read, Reader, Scope, shown};
use super::{PORTS_MAX, Span};
use crate::config::{Dpdk, Idle, Machine, Net, Port, Workers};
use crate::raw::{self, Cell, List};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use toml::Spanned;

/// MTU of a port that names none, bytes.
pub(super) const MTU_DEFAULT: u16 = 1500;
/// Largest CPU number plus one: a `cpu_set_t` holds so many.
const CPUS_MAX: usize = 1024;
/// Largest number of workers.
const WORKERS_MAX: usize = 64;
const FLOWS: (i64, i64) = (1024, 67_108_864);
const FLOWS_DEFAULT: u64 = 1_048_576;
const EAL_ARGS_MAX: usize = 64;

pub(super) fn workers(r: &mut Reader<'_, '_>, raw: Option<Spanned<raw::Workers>>) -> Workers {
    let span = raw.as_ref().map_or(0..0, Spanned::span);
    let scope = Scope::new("workers", span.clone());
    let raw = raw.map(Spanned::into_inner).unwrap_or_default();

    let cpus_span = raw.cpus.as_ref().map(Spanned::span);
    let cpus = match cpus(r, &scope, "cpus", raw.cpus, WORKERS_MAX) {
        None => vec![0],
        Some(cpus) => {
            if cpus.is_empty() {
                let message = "workers: `cpus` is empty";
                let help = "name 1 to 64 CPUs, one for each worker, like cpus = [1]";
                r.problems.error(cpus_span.unwrap_or(span), message, help);
            }
            cpus
        }
    };
    let management_span = raw.management_cpus.as_ref().map_or(0..0, Spanned::span);
    let management_cpus =
        self::cpus(r, &scope, "management_cpus", raw.management_cpus, CPUS_MAX).unwrap_or_default();
    if let Some(cpu) = management_cpus.iter().find(|cpu| cpus.contains(cpu))
        && !management_cpus.iter().all(|cpu| cpus.contains(cpu))
    {
        let message = format!("workers: CPU {cpu} is a worker's and in `management_cpus`");
        r.problems.warning(management_span, message, "leave the workers' CPUs to the workers");
    }

    let idle = r.choice(&scope, "idle", raw.idle, &[("busy", Idle::Busy), ("adaptive", Idle::Adaptive)]);
    let help = "IPv4 flows a worker, 16 bytes each; leave it out for 1048576";
    let flows = r.number(&scope, "flows", raw.flows, FLOWS, help).or(FLOWS_DEFAULT);
    let help = "IPv6, any-port and prefix flows a worker, 40 bytes each; leave it out for as many as flows";
    let wide_flows = r.number(&scope, "wide_flows", raw.wide_flows, FLOWS, help).or(flows);
    Workers { cpus, management_cpus, idle: idle.or(Idle::Busy), flows, wide_flows }
}

/// Distinct CPU numbers; `None` when no list is written.
fn cpus(r: &mut Reader<'_, '_>, scope: &Scope, key: &str, list: List, max: usize) -> Option<Vec<u16>> {
    if list.as_ref()?.get_ref().is_empty() {
        return Some(Vec::new());
    }
    let items = r.items(scope, key, list, max).unwrap_or_default();
    let help = "CPU numbers are those of /proc/cpuinfo";
    let mut seen = HashSet::new();
    let mut cpus = Vec::new();
    for (cpu, span) in r.integers(scope, key, items, (0, CPUS_MAX as i64 - 1), help) {
        let Ok(cpu) = u16::try_from(cpu) else { continue };
        cpus.push(cpu);
        if !seen.insert(cpu) {
            let message = format!("workers: CPU {cpu} is named twice in `{key}`");
            r.problems.error(
                span,
                message,
                "name every CPU once; two workers on one CPU would starve each other",
            );
        }
    }
    // Not empty even when every entry was wrong: that has been said.
    Some(if cpus.is_empty() { vec![0] } else { cpus })
}

/// The ports, and where the MTU of each is written.
pub(super) fn ports(
    r: &mut Reader<'_, '_>,
    raw: Option<Vec<Spanned<raw::Port>>>,
    machine: &Machine,
) -> (Vec<Port>, Vec<Option<Span>>) {
    let raw = raw.unwrap_or_default();
    if raw.is_empty() && !r.misspelt.contains("port") {
        r.problems.error(
            0..0,
            "there is no [[port]]",
            "add [[port]] with name = \"data0\" and device = \"net_af_packet0,iface=eth0\" or a PCI address",
        );
    }
    if let Some(port) = raw.get(PORTS_MAX) {
        r.problems.error(
            port.span(),
            format!("there are {} ports", raw.len()),
            format!("at most {PORTS_MAX} are allowed"),
        );
    }
    let mut names = HashSet::new();
    let mut devices = HashMap::new();
    let mut exceptions = HashSet::new();
    let mut gateways = [None, None];
    let mut ports: Vec<Port> = Vec::new();
    let mut mtu_spans = Vec::new();
    let mut addresses_span = None;
    for raw in raw.into_iter().take(PORTS_MAX) {
        let (port, spans) = port(r, raw, ports.len());
        if let Some(span) = spans.name
            && !names.insert(port.name.clone())
        {
            let message = format!("port \"{}\": the name is taken", port.name);
            r.problems.error(span, message, "give every port a name of its own");
        }
        if let Some(span) = spans.device {
            let device = device_name(&port.device).to_owned();
            if let Some(other) = devices.insert(device.clone(), port.name.clone()) {
                let message = format!("port \"{}\": device {device} is already port \"{other}\"", port.name);
                r.problems.error(
                    span,
                    message,
                    "number vdevs apart (net_af_packet0, net_af_packet1), or remove one port",
                );
            }
        }
        if let (Some(span), Some(name)) = (spans.exception, &port.exception)
            && !exceptions.insert(name.clone())
        {
            let message =
                format!("port \"{}\": exception interface \"{name}\" is already another port's", port.name);
            r.problems.error(span, message, "give every port an exception interface of its own");
        }
        for (i, span) in [spans.gateway, spans.gateway6].into_iter().enumerate() {
            let Some(span) = span else { continue };
            if let Some(other) = gateways[i].replace(port.name.clone()) {
                let family = ["IPv4", "IPv6"][i];
                let message = format!(
                    "port \"{}\": port \"{other}\" already has the {family} default route",
                    port.name
                );
                r.problems.error(span, message, "keep one gateway of each family");
            }
        }
        mtu_spans.push(Some(spans.mtu));
        addresses_span = addresses_span.or(spans.addresses);
        ports.push(port);
    }
    let mut local = ports.iter().flat_map(|p| &p.exception_addresses).filter(|n| n.addr.is_ipv4()).peekable();
    if let (Some(address), Some(span)) = (machine.address, addresses_span)
        && local.peek().is_some()
        && !local.any(|n| n.addr == address)
    {
        let message = format!("machine.address {address} is not among the exception addresses");
        let help =
            format!("add \"{address}/24\" (or your prefix length), unless another interface has the address");
        r.problems.warning(span, message, help);
    }
    (ports, mtu_spans)
}

struct PortSpans {
    name: Option<Span>,
    device: Option<Span>,
    exception: Option<Span>,
    addresses: Option<Span>,
    gateway: Option<Span>,
    gateway6: Option<Span>,
    mtu: Span,
}

fn port(r: &mut Reader<'_, '_>, raw: Spanned<raw::Port>, index: usize) -> (Port, PortSpans) {
    let header = raw.span();
    let raw = raw.into_inner();
    let number = index + 1;
    let name = r.name(&Scope::new(format!("port {number}"), header.clone()), raw.name);
    let place = match &name {
        Read::Given(name, _) => format!("port \"{name}\""),
        _ => format!("port {number}"),
    };
    let scope = Scope::new(place, header.clone());
    if name.is_absent() {
        r.missing(&scope, "name", "give the port a name, like name = \"data0\"");
    }
    let device_help =
        "write a DPDK vdev like \"net_af_xdp0,iface=eth0\" or a PCI address like \"0000:3b:00.0\"";
    let device = r.text(&scope, "device", raw.device, device_help).and_then(|device, span| {
        if is_vdev(device_name(&device)) || is_pci(device_name(&device)) {
            return Some(device);
        }
        let message = format!(
            "{}: `device` {} is neither a vdev (net_…) nor a PCI address",
            scope.place,
            shown(&device)
        );
        r.problems.error(span.clone(), message, device_help);
        None
    });
    if device.is_absent() {
        r.missing(&scope, "device", device_help);
    }
    let mtu = r.number(
        &scope,
        "mtu",
        raw.mtu,
        (576, 9000),
        "bytes of IP; 1500 is the default, 1280 the least with IPv6",
    );
    let mac = r.mac(&scope, "mac", raw.mac).ok();

    let has_exception = raw.exception.is_some() || r.misspelt.contains("exception");
    let addressed = raw.exception_addresses.as_ref().is_some_and(|l| !l.get_ref().is_empty());
    if !has_exception {
        let unused = [
            (
                "exception_addresses",
                raw.exception_addresses.as_ref().map(Spanned::span).filter(|_| addressed),
            ),
            ("exception_gateway", raw.exception_gateway.as_ref().map(Spanned::span)),
            ("exception_gateway6", raw.exception_gateway6.as_ref().map(Spanned::span)),
        ];
        for (key, span) in unused {
            if let Some(span) = span {
                let message = format!("{}: `{key}` needs `exception`", scope.place);
                r.problems.error(
                    span,
                    message,
                    "name the kernel interface to create, like exception = \"gw0\", or remove the key",
                );
            }
        }
    }
    let exception = r.interface(&scope, "exception", raw.exception).and_then(|name, span| {
        if name != "lo" {
            return Some(name);
        }
        let message = format!("{}: `exception` cannot be \"lo\"", scope.place);
        r.problems.error(
            span.clone(),
            message,
            "it is a new interface that we create: choose a free name, like \"gw0\"",
        );
        None
    });
    let addresses_span = raw.exception_addresses.as_ref().map(Spanned::span);
    let exception_addresses = exception_addresses(r, &scope, raw.exception_addresses);
    let gateway = gateway(r, &scope, "exception_gateway", raw.exception_gateway, &exception_addresses, false);
    let gateway6 = gateway6(r, &scope, raw.exception_gateway6, &exception_addresses);

    let spans = PortSpans {
        name: name.span(),
        device: device.span(),
        exception: exception.span(),
        addresses: addresses_span,
        gateway: gateway.span(),
        gateway6: gateway6.span(),
        mtu: mtu.span().unwrap_or(header),
    };
    let port = Port {
        name: name.or(format!("{number}")),
        device: device.or(String::new()),
        mtu: mtu.or(MTU_DEFAULT),
        mac,
        exception: exception.ok(),
        exception_addresses,
        exception_gateway: gateway.ok().and_then(|a| match a {
            IpAddr::V4(a) => Some(a),
            IpAddr::V6(_) => None,
        }),
        exception_gateway6: gateway6.ok(),
    };
    (port, spans)
}

fn exception_addresses(r: &mut Reader<'_, '_>, scope: &Scope, list: List) -> Vec<Net> {
    let key = "exception_addresses";
    let help = "write addresses with their prefix lengths, like [\"10.0.2.11/24\", \"fd00:2::11/64\"]";
    let mut nets: Vec<Net> = Vec::new();
    for (text, span) in r.texts(scope, key, list, 64, help) {
        let Some(net) = r.net(&scope.place, key, &text, &span, false, help) else { continue };
        if !r.unicast(&scope.place, key, net.addr, &span, help) {
            continue;
        }
        if nets.iter().any(|n| n.addr == net.addr) {
            let message = format!("{}: `{key}` names {} twice", scope.place, net.addr);
            r.problems.error(span, message, "name every address once");
            continue;
        }
        nets.push(net);
    }
    nets
}

fn gateway(
    r: &mut Reader<'_, '_>,
    scope: &Scope,
    key: &str,
    cell: Cell,
    nets: &[Net],
    v6: bool,
) -> Read<IpAddr> {
    let help = "write the router's address in the network of one of exception_addresses";
    r.address(scope, key, cell, help).and_then(|addr, span| {
        let place = &scope.place;
        let (message, help) = if addr.is_ipv6() != v6 {
            let (is, other) = if v6 { (4, "exception_gateway") } else { (6, "exception_gateway6") };
            (format!("{place}: `{key}` {addr} is an IPv{is} address"), format!("move it to {other}"))
        } else if nets.iter().any(|n| n.addr == addr) {
            (format!("{place}: `{key}` {addr} is our own address"), "write the router's address".to_owned())
        } else if nets.iter().any(|n| n.contains(addr)) || is_link_local(addr) {
            return Some(addr);
        } else {
            (format!("{place}: `{key}` {addr} is in no network of `exception_addresses`"), help.to_owned())
        };
        r.problems.error(span.clone(), message, help);
        None
    })
}

fn gateway6(r: &mut Reader<'_, '_>, scope: &Scope, cell: Cell, nets: &[Net]) -> Read<Ipv6Addr> {
    gateway(r, scope, "exception_gateway6", cell, nets, true).and_then(|addr, _| match addr {
        IpAddr::V6(addr) => Some(addr),
        IpAddr::V4(_) => None,
    })
}

const fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V6(a) => a.is_unicast_link_local(),
        IpAddr::V4(_) => false,
    }
}

/// The device without its arguments.
fn device_name(device: &str) -> &str {
    device.split(',').next().unwrap_or("")
}

/// `net_af_xdp0`; `eth_…` and `virtio_user0` are DPDK's older spellings.
fn is_vdev(name: &str) -> bool {
    let prefix = ["net_", "eth_", "virtio_user"].iter().find(|p| name.starts_with(**p));
    prefix.is_some_and(|p| p.len() < name.len() || *p == "virtio_user")
        && name.len() <= 63
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

/// `0000:3b:00.0` or `3b:00.0`.
fn is_pci(name: &str) -> bool {
    let hex = |s: &str, digits: std::ops::RangeInclusive<usize>| {
        digits.contains(&s.len()) && s.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let Some((rest, function)) = name.rsplit_once('.') else { return false };
    let mut parts = rest.rsplit(':');
    let (device, bus, domain) = (parts.next(), parts.next(), parts.next());
    hex(function, 1..=1)
        && device.is_some_and(|d| hex(d, 2..=2))
        && bus.is_some_and(|b| hex(b, 2..=2))
        && domain.is_none_or(|d| hex(d, 4..=8))
        && parts.next().is_none()
}

/// EAL arguments that we write ourselves, and where to say it instead.
const OWNED: [(&str, &str); 12] = [
    ("--lcores", "workers.cpus and workers.management_cpus say which CPUs are used"),
    ("-l", "workers.cpus and workers.management_cpus say which CPUs are used"),
    ("-c", "workers.cpus and workers.management_cpus say which CPUs are used"),
    ("-s", "workers.cpus and workers.management_cpus say which CPUs are used"),
    ("-S", "workers.cpus and workers.management_cpus say which CPUs are used"),
    ("--main-lcore", "the management core is EAL's main lcore"),
    ("--master-lcore", "the management core is EAL's main lcore"),
    ("--file-prefix", "it is guideway-<machine.name>: change machine.name"),
    ("--proc-type", "guidewayd is always the primary process"),
    ("-h", "it would print EAL's help and exit"),
    ("--help", "it would print EAL's help and exit"),
    ("--", "it would end EAL's arguments before ours"),
];

pub(super) fn dpdk(r: &mut Reader<'_, '_>, raw: Option<Spanned<raw::Dpdk>>, ports: &[Port]) -> Dpdk {
    let Some(raw) = raw else { return Dpdk { eal_args: Vec::new() } };
    let scope = Scope::new("dpdk", raw.span());
    let help = "one string for each argument, like [\"--no-pci\", \"--huge-dir\", \"/dev/hugepages\"]";
    let args = r.texts(&scope, "eal_args", raw.into_inner().eal_args, EAL_ARGS_MAX, help);
    for (i, (arg, span)) in args.iter().enumerate() {
        let (flag, value) = match arg.split_once('=') {
            Some((flag, value)) => (flag, Some(value)),
            None => (arg.as_str(), args.get(i + 1).map(|(next, _)| next.as_str())),
        };
        if let Some((owned, remedy)) = OWNED.iter().find(|(owned, _)| is_flag(arg, flag, owned)) {
            let message = format!("dpdk: `eal_args` has {}, which guidewayd writes itself", shown(owned));
            r.problems.error(span.clone(), message, format!("remove it: {remedy}"));
            continue;
        }
        // The value of a short option may be glued to it: -a0000:3b:00.0
        let device = match flag {
            "--vdev" | "--allow" | "--block" | "-a" | "-b" => value,
            _ => arg.strip_prefix("-a").or_else(|| arg.strip_prefix("-b")).filter(|_| !arg.starts_with("--")),
        };
        let same = |p: &&Port| {
            device.is_some_and(|d| device_name(d) == device_name(&p.device) && !p.device.is_empty())
        };
        if let Some(port) = ports.iter().find(same) {
            let device = device_name(&port.device);
            let message = format!("dpdk: `eal_args` names {device}, the device of port \"{}\"", port.name);
            r.problems.error(
                span.clone(),
                message,
                "remove it: the device of a [[port]] is passed to EAL by guidewayd",
            );
        }
        if flag == "--in-memory" {
            let message =
                "dpdk: with --in-memory dpdk-telemetry, dpdk-proc-info and dpdk-dumpcap cannot attach";
            r.problems.warning(span.clone(), message, "remove it unless that is meant");
        }
        if flag == "--no-huge" {
            let message =
                "dpdk: without huge pages the flow tables are some four times slower at random access";
            r.problems.warning(span.clone(), message, "remove --no-huge outside of tests");
        }
    }
    Dpdk { eal_args: args.into_iter().map(|(arg, _)| arg).collect() }
}

/// Whether `arg` is the option `owned`: getopt takes glued values of short ones and unambiguous beginnings of long ones.
fn is_flag(arg: &str, flag: &str, owned: &str) -> bool {
    if owned.len() == 2 && owned != "--" {
        return !arg.starts_with("--") && arg.starts_with(owned);
    }
    flag == owned || (owned != "--" && flag.len() >= 5 && owned.starts_with(flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_shapes() {
        for good in ["net_af_xdp0", "net_null", "eth_tap0", "virtio_user0", "net_pcap0", "net_bonding-1"] {
            assert!(is_vdev(good), "{good}");
        }
        for good in ["0000:3b:00.0", "3b:00.1", "10000:01:00.f"] {
            assert!(is_pci(good), "{good}");
        }
        for bad in
            ["", "eth0", "net_", "net_a b", "0000:3b:00", "3b.0", "00000:0:3b:00.0", "x:3b:00.0", ":3b:00.0"]
        {
            assert!(!is_vdev(bad) && !is_pci(bad), "{bad}");
        }
    }

    #[test]
    fn flags() {
        let owned = |arg: &str| {
            let flag = arg.split_once('=').map_or(arg, |(f, _)| f);
            OWNED.iter().any(|(owned, _)| is_flag(arg, flag, owned))
        };
        for arg in [
            "-l",
            "-l0-3",
            "-c=f",
            "--lcores",
            "--lcore=0",
            "--file-prefix=x",
            "--file-p",
            "--",
            "--main-lcore=1",
        ] {
            assert!(owned(arg), "{arg}");
        }
        for arg in [
            "--log-level",
            "--legacy-mem",
            "--no-pci",
            "-m",
            "-n",
            "--huge-dir",
            "--socket-mem",
            "-a",
            "--single-file-segments",
        ] {
            assert!(!owned(arg), "{arg}");
        }
    }

    #[test]
    fn link_local() {
        assert!(is_link_local("fe80::1".parse().unwrap()));
        assert!(!is_link_local("169.254.0.1".parse().unwrap()));
    }
}
