//! `[machine]`.

use super::kind::{AbsolutePath, Address, Address4, Address6, List, Name, Secret, ValueKind};
use super::read::{At, ReadValue, Reader, Scope, Span};
use super::table::table;
use super::word::words;
use crate::config::{Mac, Net, Port};
use std::net::IpAddr;
use toml::{Spanned, Value};
use wire::encap::SourcePrefix;

/// The key where none is written, and in examples: 00 01 02 … 0f.
const SAMPLE_KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
/// Keys that stand in published files: everyone knows them.
const PUBLISHED_KEYS: [[u8; 16]; 2] =
    [SAMPLE_KEY, 0x5f0c_3a9b_e1d2_4776_a8b9_c0d1_e2f3_0415_u128.to_be_bytes()];

table! {
    /// This machine.
    pub struct Machine(MachineRaw, MachineFound) {
        /// Name: 1 to 63 of a-z A-Z 0-9 . _ -; part of the EAL file prefix.
        name: Name = String::new(),
            required "give the machine a name, like name = \"lb1\"; it also tells its DPDK files apart"
            => Restart;
        /// Outer source IPv4 and the machine's data address.
        address: Address4<true>, help "write the machine's own IPv4 address, like \"10.0.2.11\"" => InCluster;
        /// Outer source IPv6.
        address6: Address6<true>,
            help "write the machine's own IPv6 address, like \"fd00:2::11\"" => InCluster;
        /// Prefix that the outer IPv4 sources of modes ipip and gre are of, one for each flow; at most /24,
        /// routed to this machine.
        outer_source_prefix4: OuterSources<false>, default "address alone",
            help "write a prefix that is routed to this machine, like \"10.9.0.0/16\"" => Live;
        /// Prefix that the outer IPv6 sources of modes ipip and gre are of, one for each flow; at most /96,
        /// routed to this machine.
        outer_source_prefix6: OuterSources<true>, default "address6 alone",
            help "write a prefix that is routed to this machine, like \"fd00:9::/64\"" => Live;
        /// Static next hop of everything that is not given a MAC.
        next_hop_mac: Mac, default "the kernel's routes and neighbours" => Live;
        /// Key of the cluster hash, the same on every machine.
        #[serde(skip)]
        cluster_key: Secret = SAMPLE_KEY, default "a published one, with a warning" => Restart;
        /// Answer at ports of a VIP that no service has.
        on_closed_port: OnClosedPort = OnClosedPort::Reset => Live;
        /// Whom the machine speaks BGP or BFD with: their sessions reach the kernel within a budget of their
        /// own.
        routing_peers: List<Address, 0, 64> = Vec::new(), default "the exception gateways",
            help "write the routers' addresses, like [\"10.0.2.1\", \"fe80::1\"]" => Live;
        /// Where drains and the last applied config live.
        state_dir: AbsolutePath = "/var/lib/guideway".into() => Restart;
    }
}

words! {
    /// Fate of packets to ports of a VIP that no service has.
    pub enum OnClosedPort {
        /// RST or port unreachable
        Reset = "reset",
        /// Silence
        Drop = "drop",
    }
}

/// A prefix of outer sources of one family, under `outer_source_prefix4` and `outer_source_prefix6`.
pub(crate) struct OuterSources<const V6: bool>;

impl<const V6: bool> ValueKind for OuterSources<V6> {
    type Value = Net;

    fn label() -> String {
        format!("{} prefix", family(V6))
    }

    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<Net> {
        let text = r.text(at, span, value, &at.help())?;
        let net = r.net(at, span, &text, false, &at.help())?;
        if net.addr.is_ipv6() != V6 {
            let other = if V6 { "outer_source_prefix4" } else { "outer_source_prefix6" };
            r.wrong(
                at,
                span,
                format_args!("{net} is an {} prefix", family(!V6)),
                format!("move it to {other}"),
            );
            return None;
        }
        match SourcePrefix::new(net.addr, net.len) {
            Ok(_) => Some(net),
            Err(error) => {
                r.wrong(at, span, error, error.remedy().to_string());
                None
            }
        }
    }
}

const fn family(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}

/// Of a prefix that this machine's own address is of, its neighbours' addresses are, too: errors would reach
/// them.
fn own_address_is_apart(r: &mut Reader<'_, '_>, found: &MachineFound) {
    let own = [found.address.get().copied().map(IpAddr::V4), found.address6.get().copied().map(IpAddr::V6)];
    let prefixes = [
        (&found.outer_source_prefix4, MachineRaw::outer_source_prefix4.name),
        (&found.outer_source_prefix6, MachineRaw::outer_source_prefix6.name),
    ];
    for ((prefix, key), own) in prefixes.into_iter().zip(own) {
        if let (ReadValue::Given(prefix, span), Some(own)) = (prefix, own)
            && prefix.contains(own)
        {
            let message = format!("machine: `{key}` {prefix} contains the machine's own address {own}");
            r.error(
                span,
                message,
                "take a prefix that no station has an address of, and route it to this machine",
            );
        }
    }
}

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

/// The machine, but for its routing peers; those as they are written.
pub(super) fn machine(
    r: &mut Reader<'_, '_>,
    raw: Option<Spanned<MachineRaw>>,
    use_of_key: UseOfKey,
) -> (Machine, ReadValue<Vec<(IpAddr, Span)>>) {
    let mut found = match raw {
        None => MachineFound::default(),
        Some(raw) => {
            let scope = Scope::new("machine", raw.span());
            let found = MachineFound::read(r, &scope, raw.into_inner());
            secret_key(r, &scope, &found.cluster_key, use_of_key);
            own_address_is_apart(r, &found);
            found
        }
    };
    r.others.has_address = found.address.written().is_some() || r.is_misspelt("address");
    r.others.has_address6 = found.address6.written().is_some() || r.is_misspelt("address6");
    r.others.has_next_hop_mac = found.next_hop_mac.written().is_some() || r.is_misspelt("next_hop_mac");
    let peers = std::mem::take(&mut found.routing_peers);
    (found.finish(), peers)
}

/// A key that everyone knows, or none, is an error or worth a word.
fn secret_key(r: &mut Reader<'_, '_>, scope: &Scope, key: &ReadValue<[u8; 16]>, used: UseOfKey) {
    let (what, span) = match key {
        ReadValue::Absent if !r.is_misspelt("cluster_key") => ("is missing", &scope.span),
        ReadValue::Given(key, span) if is_published(key) => {
            ("is one that is published with this program", span)
        }
        _ => return,
    };
    match used {
        UseOfKey::Nothing => {}
        UseOfKey::Slots => {
            let message = format!("machine: `cluster_key` {what}: anyone can aim at one slot");
            r.warning(span, message, Secret::HELP);
        }
        UseOfKey::Cluster => {
            let message = format!(
                "machine: `cluster_key` {what}: in a cluster anyone could speak as one of its machines"
            );
            r.error(span, message, Secret::HELP);
        }
    }
}

/// Whether everyone knows a key.
pub(super) fn is_published(key: &[u8; 16]) -> bool {
    PUBLISHED_KEYS.contains(key)
}

/// Whom the machine speaks BGP or BFD with: the gateways, where nothing is written.
pub(super) fn routing_peers(
    r: &mut Reader<'_, '_>,
    written: ReadValue<Vec<(IpAddr, Span)>>,
    ports: &[Port],
) -> Vec<IpAddr> {
    let (written, span) = match written {
        ReadValue::Given(written, span) => (written, span),
        ReadValue::Bad(_) => return Vec::new(),
        ReadValue::Absent => {
            let gateways = ports.iter().flat_map(|port| {
                [port.exception_gateway.map(IpAddr::V4), port.exception_gateway6.map(IpAddr::V6)]
            });
            return gateways.flatten().collect();
        }
    };
    let mut peers: Vec<IpAddr> = Vec::new();
    for (peer, span) in written {
        if r.others.local.contains(&peer) {
            let message = format!("machine: `routing_peers` {peer} is our own address");
            r.error(&span, message, MachineRaw::routing_peers.help);
        } else if peers.contains(&peer) {
            let message = format!("machine: `routing_peers` names {peer} twice");
            r.error(&span, message, "name every address once");
        } else {
            peers.push(peer);
        }
    }
    if !peers.is_empty() && !r.others.has_exception {
        r.warning(
            &span,
            "machine: `routing_peers` has no effect without an exception interface",
            "add exception = \"gw0\" to a port, or remove the key",
        );
    }
    peers
}
