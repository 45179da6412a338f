//! `[[port]]`.

use super::kind::{Address4, Address6, List, Name, Number, Text, ValueKind, is_interface};
use super::read::{At, ReadValue, Reader, Scope, Span, shown};
use super::table::table;
use crate::config::{Mac, Net};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use toml::{Spanned, Value};

/// Largest number of `[[port]]`.
pub(super) const PORTS_MAX: usize = 16;
/// MTU of a port that names none, bytes.
pub(super) const MTU_DEFAULT: u16 = 1500;

table! {
    /// A DPDK port.
    pub struct Port(PortRaw, PortFound) given(number: usize) {
        /// Unique name.
        name: Name = number.to_string(), required "give the port a name, like name = \"data0\"" => Identity;
        /// A DPDK vdev (net_…) or PCI address, with its arguments.
        device: Text = String::new(),
            required "write a DPDK vdev like \"net_af_xdp0,iface=eth0\" \
                or a PCI address like \"0000:3b:00.0\"",
            check is_device => Restart;
        /// Bytes of IP: from 1280, or from 576 when nothing is IPv6.
        mtu: Number<u16, 576, 9000> = MTU_DEFAULT, unit "bytes",
            help "bytes of IP; 1500 is the default, 1280 the least with IPv6" => Restart;
        /// MAC to use instead of the device's own.
        mac: Mac => Restart;
        /// Kernel interface to create for what is not ours; at most 15 bytes.
        exception: Text<1, 15>, help "interface names have 1 to 15 of the characters a-z A-Z 0-9 . _ -",
            check is_new_interface => Restart;
        /// Its addresses with prefix lengths, set at every start.
        exception_addresses: List<InterfaceAddress, 0, 64, false> = Vec::new(),
            help "write addresses with their prefix lengths, like [\"10.0.2.11/24\", \"fd00:2::11/64\"]",
            check are_distinct => Restart;
        /// IPv4 default route through it.
        exception_gateway: Address4<false>,
            help "write the router's address in the network of one of exception_addresses" => Restart;
        /// IPv6 default route through it.
        exception_gateway6: Address6<false>,
            help "write the router's address in the network of one of exception_addresses" => Restart;
    }
}

fn is_device(r: &mut Reader<'_, '_>, at: &At<'_>, device: &str, span: &Span) -> bool {
    let good = is_vdev(device_name(device)) || is_pci(device_name(device));
    if !good {
        let what = format!("{} is neither a vdev (net_…) nor a PCI address", shown(device));
        r.wrong(at, span, what, at.help());
    }
    good
}

fn is_new_interface(r: &mut Reader<'_, '_>, at: &At<'_>, name: &str, span: &Span) -> bool {
    if name == "lo" {
        let help = "it is a new interface that we create: choose a free name, like \"gw0\"";
        r.wrong(at, span, "cannot be \"lo\"", help);
        return false;
    }
    is_interface(r, at, name, span)
}

/// An address with a prefix length.
pub(crate) struct InterfaceAddress;

impl ValueKind for InterfaceAddress {
    type Value = Net;

    fn label() -> String {
        "address with prefix length".to_owned()
    }

    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<Net> {
        let text = r.text(at, span, value, &at.help())?;
        let net = r.net(at, span, &text, false, &at.help())?;
        r.unicast(at, net.addr, span, &at.help()).then_some(net)
    }
}

fn are_distinct(r: &mut Reader<'_, '_>, at: &At<'_>, nets: &[(Net, Span)], _: &Span) -> bool {
    let mut seen = HashSet::new();
    for (net, span) in nets.iter().filter(|(net, _)| !seen.insert(net.addr)) {
        r.wrong(at, span, format_args!("names {} twice", net.addr), "name every address once");
    }
    true
}

/// The ports, and where the MTU of each is written.
pub(super) fn ports(
    r: &mut Reader<'_, '_>,
    raw: Vec<Spanned<PortRaw>>,
    machine_address: Option<Ipv4Addr>,
) -> (Vec<Port>, Vec<Span>) {
    if let Some(port) = raw.get(PORTS_MAX) {
        let message = format!("there are {} ports", raw.len());
        r.error(&port.span(), message, format!("at most {PORTS_MAX} are allowed"));
    }
    r.others.has_exception = raw.iter().any(|port| port.get_ref().exception.is_some())
        || ["exception", "port"].iter().any(|key| r.is_misspelt(key));
    let mut taken = TakenByPorts::default();
    let (mut ports, mut mtu_spans, mut addresses_span) = (Vec::new(), Vec::new(), None);
    for (number, raw) in (1..).zip(raw.into_iter().take(PORTS_MAX)) {
        let header = raw.span();
        let found = port(r, raw, number);
        mtu_spans.push(found.mtu.span().unwrap_or(header));
        addresses_span = addresses_span.or(found.exception_addresses.written());
        taken.check(r, &found, number);
        ports.push(found.finish(number));
    }
    let nets = || ports.iter().flat_map(|p: &Port| &p.exception_addresses).filter(|n| n.addr.is_ipv4());
    if let (Some(address), Some(span)) = (machine_address, addresses_span)
        && nets().next().is_some()
        && !nets().any(|n| n.addr == address)
    {
        let message = format!("machine.address {address} is not among the exception addresses");
        let help =
            format!("add \"{address}/24\" (or your prefix length), unless another interface has the address");
        r.warning(&span, message, help);
    }
    (ports, mtu_spans)
}

/// What only one port can have, by the port that has it.
#[derive(Default)]
struct TakenByPorts {
    names: HashSet<String>,
    devices: HashMap<String, String>,
    exceptions: HashSet<String>,
    /// Of IPv4, of IPv6.
    routes: [Option<String>; 2],
}

impl TakenByPorts {
    fn check(&mut self, r: &mut Reader<'_, '_>, found: &PortFound, number: usize) {
        let port = found.name.or(number.to_string());
        if let ReadValue::Given(name, span) = &found.name
            && !self.names.insert(name.clone())
        {
            let message = format!("port \"{port}\": the name is taken");
            r.error(span, message, "give every port a name of its own");
        }
        if let ReadValue::Given(device, span) = &found.device {
            let device = device_name(device);
            if let Some(other) = self.devices.insert(device.to_owned(), port.clone()) {
                let message = format!("port \"{port}\": device {device} is already port \"{other}\"");
                let help = "number vdevs apart (net_af_packet0, net_af_packet1), or remove one port";
                r.error(span, message, help);
            }
        }
        if let ReadValue::Given(name, span) = &found.exception
            && !self.exceptions.insert(name.clone())
        {
            let message =
                format!("port \"{port}\": exception interface \"{name}\" is already another port's");
            r.error(span, message, "give every port an exception interface of its own");
        }
        let gateways = [found.exception_gateway.span(), found.exception_gateway6.span()];
        for ((route, family), span) in self.routes.iter_mut().zip(["IPv4", "IPv6"]).zip(gateways) {
            let Some(span) = span else { continue };
            if let Some(other) = route.replace(port.clone()) {
                let message =
                    format!("port \"{port}\": port \"{other}\" already has the {family} default route");
                r.error(&span, message, "keep one gateway of each family");
            }
        }
    }
}

fn port(r: &mut Reader<'_, '_>, raw: Spanned<PortRaw>, number: usize) -> PortFound {
    let scope = Scope::named("port", number, raw.get_ref().name.as_ref(), raw.span());
    let raw = raw.into_inner();
    if raw.exception.is_none() && !r.is_misspelt("exception") {
        without_interface(r, &scope, &raw);
    }
    let mut found = PortFound::read(r, &scope, raw);
    // Of an address that is written twice one is kept.
    let mut seen = HashSet::new();
    if let ReadValue::Given(nets, _) = &mut found.exception_addresses {
        nets.retain(|(net, _)| seen.insert(net.addr));
    }
    let nets = found.exception_addresses.get().cloned().unwrap_or_default();
    let at = At { place: &scope.place, key: &PortRaw::exception_gateway };
    let check =
        |r: &mut Reader<'_, '_>, at: &At<'_>, addr: IpAddr, span: &Span| gateway(r, at, &nets, addr, span);
    found.exception_gateway =
        found.exception_gateway.check(|addr, span| check(r, &at, IpAddr::V4(*addr), span));
    let at = At { key: &PortRaw::exception_gateway6, ..at };
    found.exception_gateway6 =
        found.exception_gateway6.check(|addr, span| check(r, &at, IpAddr::V6(*addr), span));
    found
}

/// Reports what only an exception interface has.
fn without_interface(r: &mut Reader<'_, '_>, scope: &Scope, raw: &PortRaw) {
    let addresses = raw.exception_addresses.as_ref().filter(|list| !list.get_ref().is_empty());
    let unused = [
        ("exception_addresses", addresses.map(Spanned::span)),
        ("exception_gateway", raw.exception_gateway.as_ref().map(Spanned::span)),
        ("exception_gateway6", raw.exception_gateway6.as_ref().map(Spanned::span)),
    ];
    for (key, span) in unused {
        if let Some(span) = span {
            let message = format!("{}: `{key}` needs `exception`", scope.place);
            let help = "name the kernel interface to create, like exception = \"gw0\", or remove the key";
            r.error(&span, message, help);
        }
    }
}

/// Whether a router can be reached through the interface.
fn gateway(r: &mut Reader<'_, '_>, at: &At<'_>, nets: &[(Net, Span)], addr: IpAddr, span: &Span) -> bool {
    if nets.iter().any(|(net, _)| net.addr == addr) {
        r.wrong(at, span, format_args!("{addr} is our own address"), "write the router's address");
        return false;
    }
    let is_near = nets.iter().any(|(net, _)| net.contains(addr)) || is_link_local(addr);
    if !is_near {
        r.wrong(at, span, format_args!("{addr} is in no network of `exception_addresses`"), at.help());
    }
    is_near
}

const fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V6(a) => a.is_unicast_link_local(),
        IpAddr::V4(_) => false,
    }
}

/// The device without its arguments.
pub(super) fn device_name(device: &str) -> &str {
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
    fn link_local() {
        assert!(is_link_local("fe80::1".parse().unwrap()));
        assert!(!is_link_local("169.254.0.1".parse().unwrap()));
    }
}
