//! The forwarding modes: how each is called and configured, and what it puts in front of a packet.
//!
//! The one list of them is `modes!` below. Configuration, control, command line and benches ask [`Mode`], so that a mode is one entry
//! here, its keys in the configuration's schema, and its lines in the documents.

use crate::parse;

/// Largest network identifier: it has 24 bits (RFC 7348 section 5, RFC 8926 section 3.4).
pub const VNI_MAX: u32 = 0x00ff_ffff;
/// The network identifier where none is configured.
pub const VNI_DEFAULT: u32 = 100;

/// Bytes of the longest header of a mode's own.
const OWN_MAX: usize = 8;
const GRE: u8 = 47;
const IPV4_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
const VXLAN_VNI_VALID: u8 = 0x08;
/// Transparent Ethernet Bridging: what follows is an Ethernet frame (RFC 8926 section 3.4).
const ETHERNET_FRAME: u16 = 0x6558;

/// The key of the configuration that says to which UDP port a mode sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortKey {
    /// The key.
    pub name: &'static str,
    /// The port where it is not written.
    pub default: u16,
}

/// What differs between tunnels of one mode, beside their addresses. A mode does not look at what it has no place for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parameters {
    /// Destination UDP port; not 0.
    pub port: u16,
    /// Network identifier, at most [`VNI_MAX`].
    pub vni: u32,
}

/// What a mode is.
struct Format {
    /// In the configuration, in JSON and on the command line.
    word: &'static str,
    /// For people.
    title: &'static str,
    carrier: Carrier,
    /// Its own header, between the outer headers and what is carried.
    header: Option<OwnHeader>,
}

/// What stands in front of a mode's own header.
#[derive(Clone, Copy)]
enum Carrier {
    /// The Ethernet header: there is no outer one.
    Link,
    /// An outer IP header that names the inner packet's version.
    Ip,
    /// An outer IP header that names this protocol.
    Protocol(u8),
    /// UDP behind an outer IP header.
    Udp(PortKey),
}

/// A mode's own header.
struct OwnHeader {
    /// What its protocol is called.
    name: &'static str,
    /// Bytes of it, at most [`OWN_MAX`].
    len: u16,
    /// Makes it; the first `len` bytes count.
    make: fn(InnerPacket) -> [u8; OWN_MAX],
    /// Whether it holds a network identifier, of 24 bits from its byte 4 on.
    has_vni: bool,
    /// Whether an Ethernet header follows it.
    ethernet: bool,
}

/// What is carried, as far as a header says it.
#[derive(Clone, Copy)]
struct InnerPacket {
    v6: bool,
    vni: u32,
}

macro_rules! modes {
    ($($(#[doc = $doc:literal])+ $name:ident: $format:expr,)+) => {
        /// How packets reach a backend.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Mode {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Mode {
            /// All of them, in the order of the documentation.
            pub const ALL: [Mode; [$(Mode::$name),+].len()] = [$(Mode::$name),+];

            const fn format(self) -> &'static Format {
                match self {
                    $(Mode::$name => {
                        const FORMAT: Format = $format;
                        &FORMAT
                    })+
                }
            }
        }
    };
}

modes! {
    /// IP in IP (RFC 2003, RFC 2473, RFC 4213).
    Ipip: Format { word: "ipip", title: "IP in IP", carrier: Carrier::Ip, header: None },
    /// GRE without key, checksum or sequence number (RFC 2784).
    Gre: Format {
        word: "gre",
        title: "GRE",
        carrier: Carrier::Protocol(GRE),
        header: Some(OwnHeader { name: "GRE", len: 4, make: gre, has_vni: false, ethernet: false }),
    },
    /// Generic UDP encapsulation, variant 0 (draft-ietf-intarea-gue).
    Gue: Format {
        word: "gue",
        title: "GUE variant 0",
        carrier: Carrier::Udp(PortKey { name: "gue_port", default: 6080 }),
        header: Some(OwnHeader { name: "GUE", len: 4, make: gue, has_vni: false, ethernet: false }),
    },
    /// VXLAN (RFC 7348).
    Vxlan: Format {
        word: "vxlan",
        title: "VXLAN",
        carrier: Carrier::Udp(PortKey { name: "vxlan_port", default: 4789 }),
        header: Some(OwnHeader { name: "VXLAN", len: 8, make: vxlan, has_vni: true, ethernet: true }),
    },
    /// Geneve without options (RFC 8926).
    Geneve: Format {
        word: "geneve",
        title: "Geneve",
        carrier: Carrier::Udp(PortKey { name: "geneve_port", default: 6081 }),
        header: Some(OwnHeader { name: "Geneve", len: 8, make: geneve, has_vni: true, ethernet: true }),
    },
    /// MAC rewrite only.
    L2: Format { word: "l2", title: "MAC rewrite", carrier: Carrier::Link, header: None },
}

/// No flags, version 0; the protocol as an Ethernet type (RFC 2784 section 2.1).
fn gre(of: InnerPacket) -> [u8; OWN_MAX] {
    let [high, low] = ethernet_type(of.v6).to_be_bytes();
    [0, 0, high, low, 0, 0, 0, 0]
}

/// Version 0, data (not control), no optional words; then the protocol, as in the IP header; no flags.
fn gue(of: InnerPacket) -> [u8; OWN_MAX] {
    [0, ip_protocol(of.v6), 0, 0, 0, 0, 0, 0]
}

/// The flag of a network identifier, that, and reserved bytes (RFC 7348 section 5).
fn vxlan(of: InnerPacket) -> [u8; OWN_MAX] {
    let [_, high, middle, low] = of.vni.to_be_bytes();
    [VXLAN_VNI_VALID, 0, 0, 0, high, middle, low, 0]
}

/// Version 0, no options; neither a control packet nor critical options; the protocol, the network identifier, and a reserved byte (RFC
/// 8926 section 3.4).
fn geneve(of: InnerPacket) -> [u8; OWN_MAX] {
    let [type_high, type_low] = ETHERNET_FRAME.to_be_bytes();
    let [_, high, middle, low] = of.vni.to_be_bytes();
    [0, 0, type_high, type_low, high, middle, low, 0]
}

impl Mode {
    /// Its word in the configuration, in JSON and on the command line.
    pub const fn as_str(self) -> &'static str {
        self.format().word
    }

    /// What it is, for people.
    pub const fn title(self) -> &'static str {
        self.format().title
    }

    /// What the protocol of its own header is called; `None`: it has no header of its own.
    pub const fn header_name(self) -> Option<&'static str> {
        match &self.format().header {
            Some(header) => Some(header.name),
            None => None,
        }
    }

    /// The key of its UDP port; `None`: it does not use UDP.
    pub const fn port_key(self) -> Option<PortKey> {
        match self.format().carrier {
            Carrier::Udp(key) => Some(key),
            Carrier::Link | Carrier::Ip | Carrier::Protocol(_) => None,
        }
    }

    /// Whether nothing but the outer addresses can tell its flows apart for those who look no further than IP and ports.
    pub const fn has_source_of_flow(self) -> bool {
        matches!(self.format().carrier, Carrier::Ip | Carrier::Protocol(_))
    }

    /// Whether its header holds a network identifier.
    pub const fn has_vni(self) -> bool {
        matches!(self.format().header, Some(OwnHeader { has_vni: true, .. }))
    }

    /// Whether it carries the packet in an Ethernet frame, whose destination is the backend's `mac`.
    pub const fn carries_ethernet(self) -> bool {
        matches!(self.format().header, Some(OwnHeader { ethernet: true, .. }))
    }

    /// What holds where nothing else is configured.
    pub const fn defaults(self) -> Parameters {
        let port = match self.port_key() {
            Some(key) => key.default,
            None => 0,
        };
        Parameters { port, vni: VNI_DEFAULT }
    }

    /// Bytes added in front of the inner IP header, the outer Ethernet header not counted (an inner one is).
    pub const fn overhead(self, outer_v6: bool) -> u16 {
        let format = self.format();
        let ip = if outer_v6 { 40 } else { 20 };
        let outer = match format.carrier {
            Carrier::Link => 0,
            Carrier::Ip | Carrier::Protocol(_) => ip,
            Carrier::Udp(_) => ip + 8,
        };
        let own = match &format.header {
            Some(header) => header.len + if header.ethernet { 14 } else { 0 },
            None => 0,
        };
        outer + own
    }

    /// The protocol number in the outer IP header.
    pub(super) const fn ip_protocol(self, inner_v6: bool) -> u8 {
        match self.format().carrier {
            Carrier::Link | Carrier::Ip => ip_protocol(inner_v6),
            Carrier::Protocol(number) => number,
            Carrier::Udp(_) => parse::UDP,
        }
    }

    /// The bytes of its own header, in front of a packet of this version or of its Ethernet header.
    pub(super) fn header(self, inner_v6: bool, vni: u32) -> impl Iterator<Item = u8> {
        let carried = InnerPacket { v6: inner_v6, vni };
        let header = self.format().header.as_ref();
        header.into_iter().flat_map(move |of| (of.make)(carried).into_iter().take(usize::from(of.len)))
    }
}

/// Of IP inside IP (RFC 2003, RFC 4213).
const fn ip_protocol(v6: bool) -> u8 {
    if v6 { IPV6_IN_IP } else { IPV4_IN_IP }
}

/// Of IP behind Ethernet or GRE.
pub(super) const fn ethernet_type(v6: bool) -> u16 {
    if v6 { parse::TYPE_IPV6 } else { parse::TYPE_IPV4 }
}
