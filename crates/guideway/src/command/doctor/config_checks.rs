//! Checks of what the configuration names: devices, interfaces, their place and their offloads.

use super::devices::{Device, device};
use super::finding::Finding;
use super::host::{Host, listed};
use model::Config;
use model::config::{Net, Port};
use std::collections::BTreeSet;
use std::process::Command;

/// Drivers through which DPDK reaches a device that the kernel does not use.
const USERSPACE_DRIVERS: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];
/// Kernel drivers that DPDK works beside.
const BIFURCATED_DRIVERS: [&str; 3] = ["mlx4_core", "mlx5_core", "mana"];
/// Offloads that make the kernel hand over frames that were never on a wire.
const HARMFUL_OFFLOADS: [&str; 3] = ["generic-receive-offload", "large-receive-offload", "rx-gro-hw"];
/// And these, of the other end of a veth pair, leave checksums undone and segments uncut.
const VETH_OFFLOADS: [&str; 3] =
    ["tx-checksumming", "tcp-segmentation-offload", "generic-segmentation-offload"];

pub(super) fn all(host: &Host, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for port in &config.ports {
        match device(&port.device) {
            Device::Pci(address) => pci(host, config, port, &address, &mut findings),
            Device::Interface { driver, interface } => netdev(host, port, driver, &interface, &mut findings),
            Device::Virtual(name) => {
                findings.push(Finding::pass(
                    "device",
                    format!("port {}: {name} needs nothing of the machine", port.name),
                ));
            }
        }
    }
    if config.ports.iter().any(|p| p.exception.is_some()) {
        findings.push(if host.exists("/dev/net/tun") {
            Finding::pass("exception port", "/dev/net/tun exists")
        } else {
            Finding::fail(
                "exception port",
                "/dev/net/tun does not exist",
                "modprobe tun; in a container pass the device in",
            )
        });
    }
    findings.extend(outer_sources(config));
    findings
}

/// What an outer source prefix takes of the network and of backends, where this machine cannot look.
fn outer_sources(config: &Config) -> Vec<Finding> {
    const CHECK: &str = "outer sources";
    let machine = &config.machine;
    let of_prefix = |prefix: Net| {
        let is_used = config.services.iter().filter(|of| of.mode.has_source_of_flow()).any(|service| {
            let registers = service.agents.as_ref().is_some_and(|agents| agents.register.is_some());
            registers || service.backends.iter().any(|of| of.address.is_ipv4() == prefix.addr.is_ipv4())
        });
        if !is_used {
            let reason = format!("{prefix} is of no use: no ipip or gre service has backends of that family");
            return Finding::warn(CHECK, reason, "take the prefix out of [machine]");
        }
        let takes = "tunnel devices with `remote any`, rp_filter off or loose on them and where \
                     tunnels arrive, firewalls";
        Finding::pass(
            CHECK,
            format!(
                "tunnels come from {prefix}: the network must route it to this machine and let it pass as \
                 a source, the machine have it as a local route, and backends take it ({takes}): \
                 docs/operations.md, Prepare backends"
            ),
        )
    };
    let prefixes = [machine.outer_source_prefix4, machine.outer_source_prefix6];
    prefixes.into_iter().flatten().map(of_prefix).collect()
}

fn pci(host: &Host, config: &Config, port: &Port, address: &str, findings: &mut Vec<Finding>) {
    const CHECK: &str = "driver";
    let name = &port.name;
    let dir = format!("/sys/bus/pci/devices/{address}");
    if !host.exists(&dir) {
        let text = format!("port {name}: there is no PCI device {address}");
        findings.push(Finding::fail(CHECK, text, "see: dpdk-devbind.py --status-dev net"));
        return;
    }
    let bind = format!(
        "dpdk-devbind.py --bind=vfio-pci {address} (dpdk-setup/ has a script that makes it permanent)"
    );
    findings.push(match host.link(&format!("{dir}/driver")).as_deref() {
        Some(d) if BIFURCATED_DRIVERS.contains(&d) => Finding::pass(
            CHECK,
            format!("port {name}: {address} is on {d}, which DPDK shares with the kernel"),
        ),
        Some("vfio-pci") if !host.exists("/dev/vfio/vfio") => {
            Finding::fail(CHECK, format!("port {name}: /dev/vfio/vfio does not exist"), "modprobe vfio-pci")
        }
        Some(d) if USERSPACE_DRIVERS.contains(&d) => {
            Finding::pass(CHECK, format!("port {name}: {address} is on {d}"))
        }
        Some(d) => Finding::fail(CHECK, format!("port {name}: {address} is on the kernel's {d}"), bind),
        None => Finding::fail(CHECK, format!("port {name}: {address} has no driver"), bind),
    });
    let node = host.number(&format!("{dir}/numa_node")).filter(|&n| n >= 0);
    findings.push(numa(host, config, name, node));
}

fn numa(host: &Host, config: &Config, port: &str, node: Option<i64>) -> Finding {
    const CHECK: &str = "numa";
    let Some(node) = node else {
        return Finding::pass(CHECK, format!("port {port}: the device belongs to no NUMA node"));
    };
    let far: BTreeSet<u16> =
        config.workers.cpus.iter().copied().filter(|&c| host.node_of(c).is_some_and(|n| n != node)).collect();
    if far.is_empty() {
        return Finding::pass(CHECK, format!("port {port}: device and workers are on node {node}"));
    }
    let near = host.text(&format!("/sys/devices/system/node/node{node}/cpulist")).unwrap_or_default();
    Finding::warn(
        CHECK,
        format!("port {port}: the device is on node {node}, workers on CPU {} are not", listed(far)),
        format!("use CPUs of that node in workers.cpus: {near}"),
    )
}

fn netdev(host: &Host, port: &Port, driver: &str, interface: &str, findings: &mut Vec<Finding>) {
    const CHECK: &str = "interface";
    let name = &port.name;
    let dir = format!("/sys/class/net/{interface}");
    if !host.exists(&dir) {
        let text = format!("port {name}: there is no interface {interface} here");
        findings.push(Finding::fail(CHECK, text, "see: ip link (is it in another network namespace?)"));
        return;
    }
    let mtu = host.number(&format!("{dir}/mtu")).unwrap_or(0);
    findings.push(if mtu < i64::from(port.mtu) {
        Finding::fail(
            CHECK,
            format!("port {name}: mtu {} is larger than {interface}'s {mtu}", port.mtu),
            format!("ip link set {interface} mtu {}, or lower the port's mtu", port.mtu),
        )
    } else {
        Finding::pass(CHECK, format!("port {name}: {interface} exists, mtu {mtu}"))
    });
    if host.text(&format!("{dir}/operstate")).as_deref() == Some("down") {
        let text = format!("port {name}: {interface} is down");
        findings.push(Finding::warn(CHECK, text, format!("ip link set {interface} up")));
    }
    findings.push(offloads(host, name, driver, interface));
    if host.is_live() {
        findings.extend(peer_offloads(host, name, interface));
    }
    if driver == "net_af_packet" {
        findings.push(Finding::warn(
            CHECK,
            format!(
                "port {name}: net_af_packet loses the type of an outer VLAN tag (0x88a8 leaves as 0x8100), \
                 and of datagrams that \
                 come in IPv4 fragments it brings none that is longer than about 1,900 bytes (dropped as \
                 bad_ipv4)"
            ),
            "for service tags, or for services whose clients send fragments, use net_af_xdp or a card",
        ));
        findings.push(Finding::warn(
            CHECK,
            format!(
                "port {name}: with AF_PACKET the kernel sees every frame of {interface} too, and answers some"
            ),
            format!(
                "drop them for the kernel with an nft netdev ingress rule on {interface}, or use net_af_xdp"
            ),
        ));
    }
}

fn offloads(host: &Host, port: &str, driver: &str, interface: &str) -> Finding {
    const CHECK: &str = "offloads";
    if !host.is_live() {
        return Finding::warn(
            CHECK,
            format!("port {port}: not the running machine"),
            format!("ethtool -k {interface}"),
        );
    }
    let Some(text) = ethtool("-k", interface) else {
        let text = format!("port {port}: cannot ask for the offloads of {interface}");
        return Finding::warn(CHECK, text, format!("apt-get install ethtool; then ethtool -k {interface}"));
    };
    let on = offloads_on(&text);
    if on.is_empty() {
        return Finding::pass(
            CHECK,
            format!("port {port}: {interface} hands over frames as they were on the wire"),
        );
    }
    Finding::warn(
        CHECK,
        format!(
            "port {port}: {interface} ({driver}) has {} on: frames may come merged or without checksum",
            on.join(", ")
        ),
        format!("ethtool -K {interface} gro off lro off rx-gro-hw off"),
    )
}

/// What ethtool says: asked, because the ioctl behind it needs unsafe code that a doctor should not have.
fn ethtool(option: &str, interface: &str) -> Option<String> {
    let output = Command::new("ethtool").args([option, interface]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Of a veth pair the other end: its sender leaves checksums undone and segments uncut, and nothing between the ends mends that.
fn peer_offloads(host: &Host, port: &str, interface: &str) -> Option<Finding> {
    const CHECK: &str = "offloads";
    let statistics = ethtool("-S", interface)?;
    let index = peer_index(&statistics)?;
    let Some(peer) = peer(host, interface, index) else {
        return Some(Finding::warn(
            CHECK,
            format!(
                "port {port}: {interface} is a veth whose other end (index {index}) is in another network \
                 namespace: whether its sender \
                 leaves checksums undone cannot be seen from here, and such packets would be forwarded wrong"
            ),
            "in that namespace: ethtool -K PEER tx off tso off gso off",
        ));
    };
    let text = ethtool("-k", &peer)?;
    let on: Vec<&str> = states_on(&text).filter(|name| VETH_OFFLOADS.contains(name)).collect();
    if on.is_empty() {
        return Some(Finding::pass(
            CHECK,
            format!("port {port}: {peer}, the other end of {interface}, finishes its checksums and segments"),
        ));
    }
    Some(Finding::warn(
        CHECK,
        format!(
            "port {port}: {peer}, the other end of {interface}, has {} on: its packets come without checksum \
             or too long",
            on.join(", ")
        ),
        format!("ethtool -K {peer} tx off tso off gso off"),
    ))
}

/// The index of a veth's other end in `ethtool -S`; `None` for other interfaces.
fn peer_index(statistics: &str) -> Option<i64> {
    let of = |line: &str| line.trim().strip_prefix("peer_ifindex:")?.trim().parse().ok();
    statistics.lines().find_map(of)
}

/// The other end of a veth pair, if it is in this namespace. Indices are counted by namespace, so both ends must name each other.
fn peer(host: &Host, interface: &str, index: i64) -> Option<String> {
    let number = |name: &str, file: &str| host.number(&format!("/sys/class/net/{name}/{file}"));
    let own = number(interface, "ifindex")?;
    host.names("/sys/class/net").into_iter().find(|name| {
        name != interface && number(name, "ifindex") == Some(index) && number(name, "iflink") == Some(own)
    })
}

fn states_on(text: &str) -> impl Iterator<Item = &str> {
    let states = text.lines().filter_map(|l| l.trim().split_once(':'));
    states.filter(|(_, state)| state.trim().starts_with("on")).map(|(name, _)| name)
}

/// Harmful offloads that `ethtool -k` lists as on.
fn offloads_on(text: &str) -> Vec<&str> {
    states_on(text).filter(|name| HARMFUL_OFFLOADS.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Host, offloads_on, peer, peer_index};

    #[test]
    fn the_other_end_of_a_veth_is_found_only_where_both_name_each_other() {
        assert_eq!(peer_index("NIC statistics:\n     peer_ifindex: 7\n     rx_queue_0_xdp: 0\n"), Some(7));
        assert_eq!(peer_index("no stats available"), None);
        let dir = tempfile::tempdir().unwrap();
        for (name, index, link) in [("p0", 4, 7), ("p1", 7, 4), ("other", 9, 4), ("lo", 1, 1)] {
            let of = dir.path().join("sys/class/net").join(name);
            std::fs::create_dir_all(&of).unwrap();
            std::fs::write(of.join("ifindex"), format!("{index}\n")).unwrap();
            std::fs::write(of.join("iflink"), format!("{link}\n")).unwrap();
        }
        let host = Host::new(dir.path());
        assert_eq!(peer(&host, "p0", 7).as_deref(), Some("p1"));
        // In other namespaces: an index that is nobody's here, our own, or a stranger's.
        for (interface, index) in [("p0", 8), ("p0", 4), ("p0", 1), ("lo", 9)] {
            assert_eq!(peer(&host, interface, index), None, "{interface} {index}");
        }
    }

    #[test]
    fn only_what_harms_is_named() {
        let text = "Features for p0:\nrx-checksumming: on\ntx-checksumming: on\n\ttx-checksum-ipv4: off [fixed]\n\
                    generic-receive-offload: on\nlarge-receive-offload: off [fixed]\nrx-gro-hw: on [fixed]\n";
        assert_eq!(offloads_on(text), ["generic-receive-offload", "rx-gro-hw"]);
    }
}
