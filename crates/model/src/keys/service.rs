//! `[[service]]`.

use super::agents::ServiceAgents;
use super::backend::Backend;
use super::health::{Checks, Health};
use super::kind::{Many, Name, Number, Sub, ValueKind};
use super::mode;
use super::read::{At, Reader, Span, shown};
use super::slots::{MAGLEV_SIZE_DEFAULT, MAGLEV_SIZE_MAX, is_a_prime};
use super::table::table;
use super::word::words;
use crate::net::{Net, not_unicast};
use schemars::{Schema, SchemaGenerator};
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use toml::Value;
use wire::encap::{Mode, VNI_DEFAULT};

/// Largest number of `[[service]]`.
pub(crate) const SERVICES_MAX: usize = 4096;
/// Capacity of a backend of which nothing else is said, flows.
pub(super) const CAPACITY_DEFAULT: u32 = 10_000;

table! {
    /// A service: (VIP, port, protocol) and its policy.
    pub struct Service(ServiceRaw, ServiceFound) given(number: usize) {
        /// Unique name.
        name: Name = number.to_string(), required "give the service a name, like name = \"web\"" => Identity;
        /// Address or prefix (IPv6: /96 or longer).
        vip: VipPrefix = Net::host(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            required "write the address clients use, like vip = \"203.0.113.10\", or a prefix" => Live;
        /// 0 = any port.
        port: Number<u16, 0, 65_535> = 1,
            required "write the port clients use, like port = 80; port = 0 means any port" => Live;
        /// Transport protocol.
        protocol: Protocol = Protocol::Tcp => Live;
        /// How packets reach the backends.
        #[serde(serialize_with = "mode::as_text")]
        mode: Mode = Mode::Ipip, default "ipip" => Live;
        /// Slots: a prime, larger than the number of backends.
        maglev_size: Number<u32, 251, MAGLEV_SIZE_MAX> = MAGLEV_SIZE_DEFAULT,
            help "a prime, a hundred times the number of backends; leave it out for {default}",
            check is_a_prime => WhileStateless;
        /// What the slot is computed from.
        hash: Hash = Hash::Tuple => WhileStateless;
        /// Mode gue only.
        gue_port: Number<u16, 1, 65_535> = Mode::Gue.defaults().port,
            help "destination UDP port of the tunnel" => Live;
        /// Mode vxlan only.
        vxlan_port: Number<u16, 1, 65_535> = Mode::Vxlan.defaults().port,
            help "destination UDP port of the tunnel" => Live;
        /// Mode geneve only.
        geneve_port: Number<u16, 1, 65_535> = Mode::Geneve.defaults().port,
            help "destination UDP port of the tunnel" => Live;
        /// Network identifier; modes vxlan and geneve only.
        vni: mode::Vni = VNI_DEFAULT => Live;
        /// Path MTU to the backends.
        mtu: Mtu, default "the port's", unit "bytes" => Live;
        /// Fate of established flows of a backend that is down.
        on_down: OnDown = OnDown::default_of(protocol), default "keep for TCP, reselect for UDP" => Live;
        /// Answer when no backend is usable.
        on_empty: OnEmpty = OnEmpty::Reset => Live;
        /// Share of backends down above which, until all are, health is disregarded; 0 = never.
        panic_percent: Number<u8, 0, 100> = 50, unit "percent",
            help "percent of the backends; 0 = never disregard health; leave it out for {default}" => Live;
        /// How long flows of a removed backend may live on.
        drain_timeout_ms: Number<u64, 0, 86_400_000> = 300_000, unit "milliseconds",
            help "milliseconds, at most a day; leave it out for {default}" => Live;
        /// Which flows are tracked.
        state: Tracking = Tracking::All => Live;
        /// Whether the kernel holds the VIP while the service is ready.
        announce: Announce = Announce::None => Live;
        /// Who chooses the backend of a new flow.
        policy: Policy = Policy::Maglev => Live;
        /// Policy maglev: load lets weights follow the backends' load.
        weight_by "weight": WeightBy = WeightBy::Static => Live;
        /// Policy least-load: the least loaded of all, or the better of two.
        select: Select = Select::Min => Live;
        /// How a backend that comes up comes to its share; head: at once.
        join: Join = Join::Head => Live;
        /// Time over which its share grows; join slow-start only.
        slow_start_ms: Number<u32, 1000, 3_600_000> = 30_000, unit "milliseconds",
            help "milliseconds until a backend that came up has its whole share; leave it out for {default}"
            => Live;
        /// Flows that a backend of weight 1 is meant to carry.
        capacity: Number<u32, 1, 16_777_216> = CAPACITY_DEFAULT,
            help "flows that a backend of weight 1 is meant to carry; leave it out for {default}" => Live;
        /// Policy least-load: fate of new flows when every backend is full.
        overload: Overload = Overload::Spread => Live;
        /// Weight load: most slots moved a minute.
        churn_percent: Number<u8, 1, 100> = 5, unit "percent",
            help "percent of the slots that may move a minute; leave it out for {default}" => Live;
        agents: Sub<ServiceAgents> => Live;
        health: Sub<Health> = Health::unprobed(Checks::Machine), default "kind none" => Live;
        backends "backend": Many<Backend, 0, 65_535> = Vec::new() => Live;
    }
}

words! {
    /// Transport protocol of a service.
    #[derive(Hash, Deserialize)]
    pub enum Protocol {
        /// 6
        Tcp = "tcp",
        /// 17
        Udp = "udp",
    }

    /// What the slot is computed from.
    pub enum Hash {
        /// 5-tuple
        Tuple = "tuple",
        /// Source address
        Source = "source",
    }

    /// Which flows are tracked.
    pub enum Tracking {
        /// Every flow
        All = "all",
        /// TCP flows of slots whose backend changed lately, and all UDP flows
        Exceptions = "exceptions",
    }

    /// Fate of established flows of a down backend.
    pub enum OnDown {
        /// They stay
        Keep = "keep",
        /// Next packet steered anew
        Reselect = "reselect",
    }

    /// Fate of packets when no backend is usable.
    pub enum OnEmpty {
        /// RST or port unreachable
        Reset = "reset",
        /// Silence
        Drop = "drop",
    }

    /// Whether the VIP is put on the loopback while the service is ready.
    pub enum Announce {
        /// No
        None = "none",
        /// Yes: the kernel answers ARP and ND, a routing daemon can export it
        Kernel = "kernel",
    }

    /// Who chooses the backend of a new flow.
    #[derive(Hash)]
    pub enum Policy {
        /// The slot table
        Maglev = "maglev",
        /// The flow's owner, by load
        LeastLoad = "least-load",
    }

    /// Where weights come from.
    pub enum WeightBy {
        /// As written or registered
        Static = "static",
        /// They follow the load
        Load = "load",
    }

    /// How the least loaded is found.
    pub enum Select {
        /// The least of all
        Min = "min",
        /// The better of two random ones
        P2c = "p2c",
    }

    /// How a backend that comes up comes to its share.
    pub enum Join {
        /// At once
        Head = "head",
        /// It grows over `slow_start_ms`
        SlowStart = "slow-start",
    }

    /// Fate of new flows when every backend is full.
    pub enum Overload {
        /// They are spread all the same
        Spread = "spread",
        /// As `on_empty` says
        Reject = "reject",
    }
}

impl OnDown {
    /// A TCP connection is lost with its backend, so it may as well wait for it; a stream of datagrams is
    /// not, and would be sent to a dead backend for as long as it lasts.
    const fn default_of(protocol: Protocol) -> OnDown {
        match protocol {
            Protocol::Tcp => OnDown::Keep,
            Protocol::Udp => OnDown::Reselect,
        }
    }
}

/// Where clients connect.
pub(crate) struct VipPrefix;

impl ValueKind for VipPrefix {
    type Value = Net;

    fn label() -> String {
        "address or prefix".to_owned()
    }

    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<Net> {
        let help =
            "write an address like \"203.0.113.10\" or \"2001:db8::10\", or a prefix like \"203.0.113.0/24\"";
        let text = r.text(at, span, value, help)?;
        let net = r.net(at, span, &text, true, help)?;
        if !r.prefix(at, span, net) {
            return None;
        }
        let (what, help) = if net.addr.is_ipv6() && net.len < 96 {
            let what = format!("{} is an IPv6 prefix shorter than /96", shown(&text));
            (what, "use /96 to /128: a flow is told apart by the last 32 bits")
        } else if let Some(what) = not_unicast(net).or_else(|| link_local(net)) {
            let verb = if net.is_host() { "is" } else { "holds" };
            (format!("{net} {verb} {what}"), "write an address that clients can reach")
        } else {
            let Some(local) = r.others.local.iter().find(|local| net.contains(**local)) else {
                return Some(net);
            };
            let verb = if net.is_host() { "is" } else { "contains" };
            let help = "a VIP belongs to no machine: choose another, \
                or change machine.address or exception_addresses";
            (format!("{net} {verb} this machine's own address {local}"), help)
        };
        r.wrong(at, span, what, help);
        None
    }
}

/// Why no client behind a router can reach an address of `net`, if so.
fn link_local(net: Net) -> Option<&'static str> {
    const V4: Net = Net { addr: IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), len: 16 };
    const V6: Net = Net { addr: IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), len: 10 };
    if V4.overlaps(net) {
        Some("a link-local address (169.254.0.0/16, RFC 3927)")
    } else if V6.overlaps(net) {
        Some("a link-local address (fe80::/10, RFC 4291)")
    } else {
        None
    }
}

/// Of a path: at most the largest of a port.
pub(crate) struct Mtu;

impl ValueKind for Mtu {
    type Value = u16;

    fn label() -> String {
        "integer".to_owned()
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        <Number<u16, 576, 9000> as ValueKind>::schema(generator)
    }

    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<u16> {
        let max = r.others.mtu_max;
        let help =
            format!("bytes of IP to the backends, tunnel header included; leave it out for the port's {max}");
        let mtu = u16::try_from(r.integer(at, span, &value, (576, 9000), help)?).ok()?;
        if mtu > max {
            let help = "raise the mtu of the [[port]], or lower this one";
            r.wrong(at, span, format_args!("{mtu} is larger than the port's {max}"), help);
            return None;
        }
        Some(mtu)
    }
}
