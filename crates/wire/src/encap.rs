//! Tunnel headers, in every [`Mode`].
//!
//! Everything that does not depend on the packet is written once, when control builds the view, into a [`TunnelHeader`]
//! of one cache line or two; per packet it is copied in front of the datagram and the lengths, DSCP, ECN and entropy are
//! filled in, with the IPv4 header checksum updated from the precomputed one (RFC 1624).

use core::fmt;
use core::marker::PhantomData;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::parse::{self, Parsed};
use crate::{Addr, Tuple, checksum, field};

mod mode;
mod source;

pub use mode::{Mode, Parameters, PortKey, VNI_DEFAULT, VNI_MAX};
pub use source::{Remedy, SourcePrefix, SourcePrefixError};

/// What a [`TunnelHeader`] is built from.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel {
    /// The mode.
    pub mode: Mode,
    /// What else says where it ends.
    pub parameters: Parameters,
    /// Outer source (the machine's address of the backend's family).
    pub source: IpAddr,
    /// What each flow takes an outer source of its own from instead; a mode that has [ports](Mode::port_key) for that, or no outer
    /// header, does not look at it.
    pub sources: Option<SourcePrefix>,
    /// Outer destination (the backend).
    pub destination: IpAddr,
    /// Whether the inner packets (the service's VIP) are IPv6.
    pub inner_v6: bool,
    /// Inner Ethernet destination and source, for modes that carry Ethernet frames.
    pub inner_macs: ([u8; 6], [u8; 6]),
}

/// Why no [`TunnelHeader`] can be built from a [`Tunnel`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TunnelError {
    /// The outer source and destination are of different families.
    #[error(
        "tunnel source {source_address} and destination {destination} are of different families: \
         give the machine an address of the backend's family"
    )]
    MixedFamilies {
        /// Outer source.
        source_address: IpAddr,
        /// Outer destination.
        destination: IpAddr,
    },
    /// An outer address that names no single host: unspecified, multicast or broadcast.
    #[error("tunnel address {0} is not the address of one host: use a unicast address")]
    NotUnicast(IpAddr),
    /// UDP port 0.
    #[error("UDP port 0 cannot be a tunnel's destination: choose 1 to 65535 ({})", DefaultPorts)]
    PortZero,
    /// The network identifier has more than 24 bits.
    #[error("{protocol} network identifier {vni} is larger than 24 bits: choose 0 to {}", VNI_MAX)]
    VniTooLarge {
        /// What the mode's own header is called.
        protocol: &'static str,
        /// The identifier.
        vni: u32,
    },
}

/// Each mode that uses UDP, with its default port.
struct DefaultPorts;

impl fmt::Display for DefaultPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = Mode::ALL.into_iter().filter_map(|mode| Some((mode.as_str(), mode.port_key()?.default)));
        for (index, (mode, port)) in ports.enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{mode} {port}")?;
        }
        Ok(())
    }
}

/// An outer IPv6 header, UDP, eight bytes and inner Ethernet: the longest header there is.
pub const HEADER_MAX: usize = 40 + 8 + 8 + 14;

/// The outer IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outer {
    /// Nothing: MAC rewrite only.
    None,
    V4,
    V6,
}

/// Which fields of a [`TunnelHeader`] differ from packet to packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Layout {
    outer: Outer,
    /// Whether UDP follows the outer IP header.
    udp: bool,
    /// Whether each flow has an outer source of its own.
    spread: bool,
}

const OVER_V4: Layout = Layout { outer: Outer::V4, udp: false, spread: false };
const OVER_V6: Layout = Layout { outer: Outer::V6, ..OVER_V4 };
const UDP_OVER_V4: Layout = Layout { udp: true, ..OVER_V4 };
const UDP_OVER_V6: Layout = Layout { udp: true, ..OVER_V6 };
const SPREAD_OVER_V4: Layout = Layout { spread: true, ..OVER_V4 };
const SPREAD_OVER_V6: Layout = Layout { spread: true, ..OVER_V6 };

/// The lengths that a [`TunnelHeader`] can have and what differs from packet to packet in it, densely numbered, so that choosing among
/// them is one jump. Modes of which both are the same have the same shapes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Nothing but Ethernet ([`Mode::L2`]).
    Link,
    /// An IPv4 header.
    Ipip,
    /// And GRE.
    Gre,
    /// Or UDP and GUE.
    Gue,
    /// Or UDP, eight bytes and Ethernet.
    UdpEthernet,
    /// The same behind an IPv6 header.
    IpipOverV6,
    /// See [`Shape::Gre`].
    GreOverV6,
    /// See [`Shape::Gue`].
    GueOverV6,
    /// See [`Shape::UdpEthernet`].
    UdpEthernetOverV6,
    /// [`Shape::Ipip`] with an outer source of each flow's own.
    IpipSpread,
    /// [`Shape::Gre`] with an outer source of each flow's own.
    GreSpread,
    /// [`Shape::IpipOverV6`] with an outer source of each flow's own.
    IpipOverV6Spread,
    /// [`Shape::GreOverV6`] with an outer source of each flow's own.
    GreOverV6Spread,
}

impl Layout {
    /// Whether a place in it is filled from the flow's hash.
    #[inline(always)]
    const fn has_entropy(self) -> bool {
        self.udp || self.spread || matches!(self.outer, Outer::V6)
    }
}

impl Shape {
    const fn layout(self) -> Layout {
        match self {
            Shape::Link => Layout { outer: Outer::None, ..OVER_V4 },
            Shape::Ipip | Shape::Gre => OVER_V4,
            Shape::Gue | Shape::UdpEthernet => UDP_OVER_V4,
            Shape::IpipOverV6 | Shape::GreOverV6 => OVER_V6,
            Shape::GueOverV6 | Shape::UdpEthernetOverV6 => UDP_OVER_V6,
            Shape::IpipSpread | Shape::GreSpread => SPREAD_OVER_V4,
            Shape::IpipOverV6Spread | Shape::GreOverV6Spread => SPREAD_OVER_V6,
        }
    }
}

impl Mode {
    /// The shape of its headers behind such an outer header, with a source of each flow's own or not; [`Shape::Link`] where there is
    /// none.
    const fn shape(self, outer: Outer, spread: bool) -> Shape {
        let udp = self.port_key().is_some();
        let len = self.overhead(matches!(outer, Outer::V6)) as usize;
        let mut shapes: &[Shape] = &Shape::ALL;
        while let [shape, rest @ ..] = shapes {
            let layout = shape.layout();
            let is_alike = layout.udp == udp && layout.spread == spread && layout.outer as u8 == outer as u8;
            if shape.len() == len && is_alike {
                return *shape;
            }
            shapes = rest;
        }
        Shape::Link
    }
}

/// Every mode has shapes, and room for its longest header.
const _: () = {
    let mut modes: &[Mode] = &Mode::ALL;
    while let [mode, rest @ ..] = modes {
        let lens = [mode.overhead(false) as usize, mode.overhead(true) as usize];
        assert!(lens[1] <= HEADER_MAX);
        assert!(
            mode.shape(Outer::V4, false).len() == lens[0] && mode.shape(Outer::V6, false).len() == lens[1]
        );
        if mode.has_source_of_flow() {
            assert!(mode.shape(Outer::V4, true).len() == lens[0]);
            assert!(mode.shape(Outer::V6, true).len() == lens[1]);
        }
        modes = rest;
    }
};

/// A [`Shape`] as a type: what a loop over packets of one shape is compiled for.
pub trait Prepend {
    /// The shape.
    const SHAPE: Shape;
    /// Bytes put in front of the inner IP header.
    const LEN: usize;
    /// Turns the first bytes of a frame that was just grown by [`LEN`](Prepend::LEN) into outer headers: as
    /// [`encapsulate_untagged`].
    fn prepend(frame: &mut [u8], header: Shaped<'_, Self>, inner: Inner, entropy: impl Fn(&[u8]) -> u32);
}

/// A header that is known to have this shape: whoever has one need not look again once the frame is written to.
#[derive(Debug)]
pub struct Shaped<'h, P: ?Sized> {
    header: &'h TunnelHeader,
    shape: PhantomData<P>,
}

/// Something to be done for a shape that is known only when the program runs.
pub trait ForShape {
    /// What it gives.
    type Output;
    /// Does it for one shape.
    fn with<P: Prepend>(self) -> Self::Output;
}

macro_rules! shapes {
    ($($(#[$doc:meta])+ $name:ident $len:literal $all:literal,)+) => {
        /// The shapes as types.
        pub mod shapes {
            $($(#[$doc])+ #[derive(Clone, Copy, Debug)] pub struct $name;)+
        }
        $(impl Prepend for shapes::$name {
            const SHAPE: Shape = Shape::$name;
            const LEN: usize = $len;
            #[inline(always)]
            fn prepend(
                frame: &mut [u8],
                header: Shaped<'_, Self>,
                inner: Inner,
                entropy: impl Fn(&[u8]) -> u32,
            ) {
                let _ = prepend::<$all, $len>(frame, header.header, Shape::$name.layout(), inner, entropy);
            }
        })+
        impl Shape {
            const ALL: [Shape; [$(Shape::$name),+].len()] = [$(Shape::$name),+];

            /// Bytes put in front of the inner IP header.
            #[inline(always)]
            pub const fn len(self) -> usize {
                match self {
                    $(Shape::$name => $len,)+
                }
            }

            /// Whether that is nothing.
            pub const fn is_empty(self) -> bool {
                self.len() == 0
            }

            /// Does something for this shape.
            #[inline(always)]
            pub fn choose<W: ForShape>(self, what: W) -> W::Output {
                match self {
                    $(Shape::$name => what.with::<shapes::$name>(),)+
                }
            }
        }
    };
}

shapes! {
    /// As [`super::Shape::Link`].
    Link 0 14,
    /// As [`super::Shape::Ipip`].
    Ipip 20 34,
    /// As [`super::Shape::Gre`].
    Gre 24 38,
    /// As [`super::Shape::Gue`].
    Gue 32 46,
    /// As [`super::Shape::UdpEthernet`].
    UdpEthernet 50 64,
    /// As [`super::Shape::IpipOverV6`].
    IpipOverV6 40 54,
    /// As [`super::Shape::GreOverV6`].
    GreOverV6 44 58,
    /// As [`super::Shape::GueOverV6`].
    GueOverV6 52 66,
    /// As [`super::Shape::UdpEthernetOverV6`].
    UdpEthernetOverV6 70 84,
    /// As [`super::Shape::IpipSpread`].
    IpipSpread 20 34,
    /// As [`super::Shape::GreSpread`].
    GreSpread 24 38,
    /// As [`super::Shape::IpipOverV6Spread`].
    IpipOverV6Spread 40 54,
    /// As [`super::Shape::GreOverV6Spread`].
    GreOverV6Spread 44 58,
}

/// A precomputed outer header, from the outer Ethernet addresses to what stands in front of the inner IP header. The
/// default is [`Mode::L2`] to and from nobody: nothing but Ethernet.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TunnelHeader {
    /// What an outer IPv4 header's words come to without the fields that differ from packet to packet, as they lie in memory.
    sum: u16,
    len: u8,
    shape: Shape,
    /// Outer Ethernet header, then `len` bytes.
    bytes: [u8; parse::ETHERNET_LEN + HEADER_MAX],
    /// Of the outer source, the bits that all flows share; 0 where they share it all.
    prefix_len: u8,
}

impl Default for TunnelHeader {
    fn default() -> TunnelHeader {
        let bytes = [0; parse::ETHERNET_LEN + HEADER_MAX];
        TunnelHeader { sum: 0, len: 0, shape: Shape::Link, bytes, prefix_len: 0 }
    }
}

impl TunnelHeader {
    /// Everything of the outer header that is the same for all packets of a tunnel.
    ///
    /// # Errors
    /// [`TunnelError`] when the tunnel's parameters do not fit together; for [`Mode::L2`] addresses are not looked at.
    pub fn new(tunnel: &Tunnel) -> Result<TunnelHeader, TunnelError> {
        let Tunnel { mode, parameters: Parameters { port, vni }, inner_v6, .. } = *tunnel;
        if mode == Mode::L2 {
            return Ok(TunnelHeader::default());
        }
        let sources = tunnel.sources.filter(|_| mode.has_source_of_flow());
        let source = sources.map_or(tunnel.source, SourcePrefix::first);
        for address in [source, tunnel.destination] {
            let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
            if address.is_unspecified() || address.is_multicast() || broadcast {
                return Err(TunnelError::NotUnicast(address));
            }
        }
        let mut header = Builder { bytes: [0; HEADER_MAX], len: 0 };
        let protocol = mode.ip_protocol(inner_v6);
        let outer = match (source, tunnel.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                header.ipv4(protocol, source, destination);
                Outer::V4
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                header.ipv6(protocol, source, destination);
                Outer::V6
            }
            (source_address, destination) => {
                return Err(TunnelError::MixedFamilies { source_address, destination });
            }
        };
        if let Some(protocol) = mode.header_name()
            && mode.has_vni()
            && vni > VNI_MAX
        {
            return Err(TunnelError::VniTooLarge { protocol, vni });
        }
        if mode.port_key().is_some() {
            header.udp(port)?;
        }
        mode.header(inner_v6, vni).for_each(|byte| header.push(&[byte]));
        if mode.carries_ethernet() {
            header.push(&tunnel.inner_macs.0);
            header.push(&tunnel.inner_macs.1);
            header.push(&mode::ethernet_type(inner_v6).to_be_bytes());
        }
        let mut bytes = [0; parse::ETHERNET_LEN + HEADER_MAX];
        let (link, rest) = bytes.split_at_mut(parse::ETHERNET_LEN);
        rest.copy_from_slice(&header.bytes);
        let _ = field::put(link, 12, &mode::ethernet_type(outer == Outer::V6).to_be_bytes());
        // Both fields are 0 in the precomputed checksum (RFC 1624 with m = 0).
        let check = field::word(&bytes, parse::ETHERNET_LEN + IPV4_CHECKSUM).unwrap_or_default();
        let sum = !check.to_be();
        let shape = mode.shape(outer, sources.is_some());
        let prefix_len = sources.map_or(0, |prefix| prefix.len);
        Ok(TunnelHeader { sum, len: header.len, shape, bytes, prefix_len })
    }

    /// The same header between these stations: destination (the next hop) and source (the port) MAC address.
    #[must_use]
    pub fn between(mut self, dst: [u8; 6], src: [u8; 6]) -> TunnelHeader {
        rewrite_macs(&mut self.bytes, dst, src);
        self
    }

    fn macs(&self) -> ([u8; 6], [u8; 6]) {
        let mac = |at| field::chunk(&self.bytes, at).unwrap_or_default();
        (mac(0), mac(6))
    }

    /// Bytes put in front of the inner IP header; 0 for [`Mode::L2`].
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Its shape.
    #[inline(always)]
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// The same header, if it has this shape.
    #[inline(always)]
    pub fn shaped<P: Prepend>(&self) -> Option<Shaped<'_, P>> {
        (self.shape == P::SHAPE).then_some(Shaped { header: self, shape: PhantomData })
    }

    /// Whether nothing is put in front ([`Mode::L2`]).
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether [`encapsulate`] makes use of its `entropy`: for UDP, for an IPv6 outer header, and for sources of a prefix.
    pub const fn has_entropy(&self) -> bool {
        self.shape.layout().has_entropy()
    }

    /// Whether the outer header is IPv6; `false` for an empty header.
    pub const fn is_v6(&self) -> bool {
        matches!(self.shape.layout().outer, Outer::V6)
    }

    /// The mode it was built for, as its bytes say.
    pub fn mode(&self) -> Mode {
        let own = self.own();
        let is_of = |mode: &Mode| {
            let header = |inner_v6| mode.header(inner_v6, vni(own));
            let begins = |inner_v6| header(inner_v6).zip(own).all(|(byte, ours)| byte == *ours);
            let len = usize::from(mode.overhead(self.is_v6()));
            let udp = mode.port_key().is_some();
            (len, udp) == (self.len(), self.shape.layout().udp) && (begins(false) || begins(true))
        };
        Mode::ALL.into_iter().find(is_of).unwrap_or(Mode::L2)
    }

    /// The parameters it was built with, as its bytes say; 0 for what its mode has no place for.
    pub fn parameters(&self) -> Parameters {
        let mode = self.mode();
        let port = field::word(&self.bytes, parse::ETHERNET_LEN + self.outer_ip_len() + 2);
        Parameters {
            port: if mode.port_key().is_some() { port.unwrap_or_default() } else { 0 },
            vni: if mode.has_vni() { vni(self.own()) } else { 0 },
        }
    }

    /// Bytes of the outer IP header.
    const fn outer_ip_len(&self) -> usize {
        match self.shape.layout().outer {
            Outer::None => 0,
            Outer::V4 => parse::IPV4_LEN,
            Outer::V6 => parse::IPV6_LEN,
        }
    }

    /// What follows the outer IP header and UDP: the mode's own header, and what else stands in front of the packet.
    fn own(&self) -> &[u8] {
        let udp_len = if self.shape.layout().udp { UDP_LEN } else { 0 };
        self.outer().get(self.outer_ip_len() + udp_len..).unwrap_or_default()
    }

    /// The outer destination; `None` for [`Mode::L2`].
    pub fn destination(&self) -> Option<Addr> {
        match self.shape.layout().outer {
            Outer::None => None,
            Outer::V4 => field::long(self.outer(), 16).map(Addr::V4),
            Outer::V6 => address_v6(self.outer(), 24),
        }
    }

    /// The prefix that each flow has an outer source of its own from; `None`: all have one.
    pub fn sources(&self) -> Option<SourcePrefix> {
        let first = self.source_in(self.outer()).filter(|_| self.shape.layout().spread)?;
        Some(SourcePrefix { first, len: self.prefix_len })
    }

    /// The source in an outer IP header of this header's version; `None` for [`Mode::L2`].
    fn source_in(&self, ip: &[u8]) -> Option<Addr> {
        match self.shape.layout().outer {
            Outer::None => None,
            Outer::V4 => field::long(ip, 12).map(Addr::V4),
            Outer::V6 => address_v6(ip, 8),
        }
    }

    /// Whether both put the same in front of a packet, but for the outer Ethernet header.
    pub fn is_same_tunnel(&self, other: &TunnelHeader) -> bool {
        let same = self.shape == other.shape && self.prefix_len == other.prefix_len;
        same && self.outer() == other.outer()
    }

    /// From the outer IP header on.
    fn outer(&self) -> &[u8] {
        self.bytes.get(parse::ETHERNET_LEN..parse::ETHERNET_LEN + self.len()).unwrap_or_default()
    }

    /// What follows this header in a packet of which an error quotes the beginning; `None` if the packet was not sent behind this header.
    /// Of what follows the outer IP header at least eight bytes have to be there, as in all errors (RFC 792).
    pub fn after_quoted<'q>(&self, quote: &'q [u8]) -> Option<&'q [u8]> {
        let (outer, layout) = (self.outer(), self.shape.layout());
        // What routers and packets do not change: not type of service, lengths, time to live, checksum, flow label.
        let (ip_len, fixed) = match layout.outer {
            Outer::None => return None,
            Outer::V4 => (parse::IPV4_LEN, [0..1, 4..8, 9..10, 16..20]),
            Outer::V6 => (parse::IPV6_LEN, [0..0, 0..0, 6..7, 24..40]),
        };
        let source = self.source_in(quote)?;
        let is_ours = match self.sources() {
            Some(prefix) => prefix.contains(source),
            None => self.source_in(outer) == Some(source),
        };
        let same_version = quote.first()? >> 4 == outer.first()? >> 4;
        let same = |bytes: core::ops::Range<usize>| quote.get(bytes.clone()) == outer.get(bytes);
        let (rest, wanted) = (quote.get(ip_len..)?, outer.get(ip_len..)?);
        if !is_ours || !same_version || !fixed.into_iter().all(same) || rest.len() < QUOTED_MIN {
            return None;
        }
        let from = if layout.udp {
            if field::word(rest, 0)? < PORT_FIRST || field::word(rest, 2) != field::word(wanted, 2) {
                return None;
            }
            UDP_LEN
        } else {
            0
        };
        let quoted_so_far = rest.iter().zip(wanted).skip(from);
        quoted_so_far.into_iter().all(|(quoted, wanted)| quoted == wanted).then_some(())?;
        Some(quote.get(self.len()..).unwrap_or_default())
    }
}

fn address_v6(bytes: &[u8], at: usize) -> Option<Addr> {
    field::chunk(bytes, at).map(|address| Addr::V6(u128::from_be_bytes(address)))
}

/// The network identifier of an own header that has one.
fn vni(own: &[u8]) -> u32 {
    // Behind it are eight reserved bits.
    field::long(own, 4).unwrap_or_default() >> 8
}

/// Bytes behind the IP header that an ICMP error quotes at least.
const QUOTED_MIN: usize = 8;
const UDP_LEN: usize = 8;

const HOPS: u8 = 64;
const DONT_FRAGMENT: [u8; 2] = [0x40, 0];
/// First of the dynamic ports (RFC 6335), and the mask that spreads over all of them.
const PORT_FIRST: u16 = 49_152;

struct Builder {
    bytes: [u8; HEADER_MAX],
    len: u8,
}

impl Builder {
    /// Appends; the longest sequence of pushes is [`HEADER_MAX`] long, which the tests check for every mode.
    #[expect(clippy::cast_possible_truncation, reason = "pieces are at most 40 bytes long")]
    fn push(&mut self, piece: &[u8]) {
        if field::put(&mut self.bytes, usize::from(self.len), piece).is_some() {
            self.len += piece.len() as u8;
        }
    }

    /// With length and type of service 0, and the checksum of that.
    fn ipv4(&mut self, protocol: u8, source: Ipv4Addr, destination: Ipv4Addr) {
        self.push(&[0x45, 0, 0, 0, 0, 0]);
        self.push(&DONT_FRAGMENT);
        self.push(&[HOPS, protocol, 0, 0]);
        self.push(&source.octets());
        self.push(&destination.octets());
        let check = checksum::checksum(&self.bytes);
        let _ = field::put(&mut self.bytes, IPV4_CHECKSUM, &check.to_be_bytes());
    }

    fn ipv6(&mut self, protocol: u8, source: Ipv6Addr, destination: Ipv6Addr) {
        self.push(&[0x60, 0, 0, 0, 0, 0, protocol, HOPS]);
        self.push(&source.octets());
        self.push(&destination.octets());
    }

    /// Without checksum: the inner packet has its own, and tunnels may do so over IPv6 too (RFC 6935, RFC 6936).
    fn udp(&mut self, port: u16) -> Result<(), TunnelError> {
        if port == 0 {
            return Err(TunnelError::PortZero);
        }
        self.push(&[0, 0]);
        self.push(&port.to_be_bytes());
        self.push(&[0, 0, 0, 0]);
        Ok(())
    }
}

const IPV4_CHECKSUM: usize = 10;

/// Turns the first bytes of `frame` into outer headers.
///
/// `frame` has just been grown in front by `header.len()` bytes, so the packet that `parsed` describes (in its own numbering)
/// starts at that offset. Ethernet and tags move to the front, with the header's stations and the outer
/// Ethernet type behind the tags; the outer header follows. The inner packet stays bit for bit. DSCP and ECN are copied (RFC
/// 6040 normal mode); the outer IPv4 header has DF set, identification 0 (RFC 6864), TTL 64; `entropy` becomes the UDP source port
/// (49152 to 65535), the IPv6 flow label (RFC 6438), and what stands behind the prefix in a source of [`Tunnel::sources`]. With an
/// empty header only the MAC addresses change.
///
/// The outer lengths leave Ethernet padding out: the caller cuts the frame to [`finish_len`], before or after. A frame too short
/// for `header` and `parsed` is left as it is. The caller has checked the path MTU, so that the outer length fits 16 bits.
#[inline]
pub fn encapsulate(frame: &mut [u8], header: &TunnelHeader, parsed: &Parsed, entropy: u32) {
    let inner = Inner { len: parsed.end.saturating_sub(parsed.l3), tos: parsed.tos };
    if usize::from(parsed.l3) == parse::ETHERNET_LEN {
        encapsulate_untagged(frame, header, inner, |_| entropy);
    } else {
        encapsulate_tagged(frame, header, parsed.l3, inner, entropy);
    }
}

/// What [`encapsulate`] needs to know of the inner packet.
#[derive(Clone, Copy, Debug)]
pub struct Inner {
    /// Length of the datagram, bytes.
    pub len: u16,
    /// Type of service or traffic class.
    pub tos: u8,
}

/// [`encapsulate`] for a packet whose IP header begins at byte 14. `entropy` is asked only where the header has a place for it, and is
/// given the frame as it was, from its Ethernet header on.
#[inline(always)]
pub fn encapsulate_untagged(
    frame: &mut [u8],
    header: &TunnelHeader,
    inner: Inner,
    entropy: impl Fn(&[u8]) -> u32,
) {
    struct Once<'a, E>(&'a mut [u8], &'a TunnelHeader, Inner, E);
    impl<E: Fn(&[u8]) -> u32> ForShape for Once<'_, E> {
        type Output = ();
        #[inline(always)]
        fn with<P: Prepend>(self) {
            if let Some(header) = self.1.shaped::<P>() {
                P::prepend(self.0, header, self.2, self.3);
            }
        }
    }
    header.shape.choose(Once(frame, header, inner, entropy));
}

fn rewrite_link(frame: &mut [u8], header: &TunnelHeader) -> Option<()> {
    let (dst, src) = header.macs();
    rewrite_macs(frame.first_chunk_mut::<{ parse::ETHERNET_LEN }>()?, dst, src);
    Some(())
}

/// `ALL` is `LEN` and the Ethernet header.
#[inline(always)]
fn prepend<const ALL: usize, const LEN: usize>(
    frame: &mut [u8],
    header: &TunnelHeader,
    layout: Layout,
    inner: Inner,
    entropy: impl Fn(&[u8]) -> u32,
) -> Option<()> {
    debug_assert_eq!(
        (layout, LEN),
        (header.shape.layout(), header.len()),
        "every shape has one layout and length"
    );
    if matches!(layout.outer, Outer::None) {
        return rewrite_link(frame, header);
    }
    let entropy = if layout.has_entropy() { entropy(frame.get(LEN..)?) } else { 0 };
    let front = frame.first_chunk_mut::<ALL>()?;
    *front = *header.bytes.first_chunk::<ALL>()?;
    let (_, outer) = front.split_first_chunk_mut::<{ parse::ETHERNET_LEN }>()?;
    fill(outer.first_chunk_mut::<LEN>()?, layout, header, inner, entropy)
}

#[cold]
fn encapsulate_tagged(frame: &mut [u8], header: &TunnelHeader, l3: u16, inner: Inner, entropy: u32) {
    let (link_len, grown) = (usize::from(l3), header.len());
    let Some((link, precomputed)) = header.bytes.split_first_chunk::<{ parse::ETHERNET_LEN }>() else {
        return;
    };
    if frame.len() < grown + link_len || link_len < parse::ETHERNET_LEN {
        return;
    }
    frame.copy_within(grown..grown + link_len, 0);
    let _ = rewrite_link(frame, header);
    if header.is_empty() {
        return;
    }
    let _ = field::put(frame, link_len - 2, &link[12..]);
    if let Some(outer) = frame.get_mut(link_len..link_len + grown)
        && let Some(bytes) = precomputed.get(..grown)
    {
        outer.copy_from_slice(bytes);
        let _ = fill(outer, header.shape.layout(), header, inner, entropy);
    }
}

/// Writes what differs from packet to packet into the copy of the header.
#[inline(always)]
fn fill(outer: &mut [u8], layout: Layout, header: &TunnelHeader, inner: Inner, entropy: u32) -> Option<()> {
    let header_len = outer.len();
    let len_from = |offset: usize| length(header_len - offset, inner.len);
    let ip_len = match layout.outer {
        Outer::None => return None,
        Outer::V4 => {
            let fixed = outer.first_chunk_mut::<{ parse::IPV4_LEN }>()?;
            // Words are summed as they lie in memory (RFC 1071 section 2 B).
            let total_len = len_from(0).to_be();
            let tos = u16::from_ne_bytes([0, inner.tos]);
            let mut sum = u32::from(header.sum) + u32::from(tos) + u32::from(total_len);
            if layout.spread {
                // The header's own source has nothing there, so that bytes and sum become those of both by adding.
                let [a, b, c, d] = source::host_v4(header.prefix_len, entropy).to_be_bytes();
                for (byte, of_flow) in fixed[12..16].iter_mut().zip([a, b, c, d]) {
                    *byte |= of_flow;
                }
                sum += u32::from(u16::from_ne_bytes([a, b])) + u32::from(u16::from_ne_bytes([c, d]));
            }
            fixed[1] = inner.tos;
            [fixed[2], fixed[3]] = total_len.to_ne_bytes();
            [fixed[10], fixed[11]] = (!fold(sum)).to_ne_bytes();
            parse::IPV4_LEN
        }
        Outer::V6 => {
            let fixed = outer.first_chunk_mut::<{ parse::IPV6_LEN }>()?;
            let first = 0x6000_0000 | u32::from(inner.tos) << 20 | entropy & 0x000f_ffff;
            [fixed[0], fixed[1], fixed[2], fixed[3]] = first.to_be_bytes();
            [fixed[4], fixed[5]] = len_from(parse::IPV6_LEN).to_be_bytes();
            if layout.spread {
                let host = source::host_v6(header.prefix_len, entropy).to_be_bytes();
                for (byte, of_flow) in fixed[8..24].iter_mut().zip(host) {
                    *byte |= of_flow;
                }
            }
            parse::IPV6_LEN
        }
    };
    if layout.udp {
        let udp = outer.get_mut(ip_len..)?.first_chunk_mut::<8>()?;
        [udp[0], udp[1]] = source_port(entropy).to_be_bytes();
        [udp[4], udp[5]] = len_from(ip_len).to_be_bytes();
    }
    Some(())
}

#[expect(clippy::cast_possible_truncation, reason = "headers are at most 70 bytes long")]
#[inline(always)]
fn length(of_headers: usize, inner_len: u16) -> u16 {
    let bytes = inner_len.checked_add(of_headers as u16);
    debug_assert!(
        bytes.is_some(),
        "outer packet of {inner_len} and {of_headers} bytes: the MTU was not checked"
    );
    bytes.unwrap_or(u16::MAX)
}

/// Folds a sum of 16-bit words: the upper half of a value plus itself turned by half is the sum of its halves, carry
/// included.
#[inline(always)]
const fn fold(sum: u32) -> u16 {
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// The upper bits, because the flow label has the lower ones.
const fn source_port(entropy: u32) -> u16 {
    PORT_FIRST | (entropy >> 18) as u16
}

/// Length of the frame after [`encapsulate`], Ethernet padding cut off.
pub const fn finish_len(parsed: &Parsed, header: &TunnelHeader) -> usize {
    header.len() + parsed.end as usize
}

/// Writes new MAC addresses and nothing else ([`Mode::L2`]); a frame without them is left as it is.
pub fn rewrite_macs(frame: &mut [u8], dst: [u8; 6], src: [u8; 6]) {
    if let Some(macs) = frame.first_chunk_mut::<12>() {
        let (to, from) = macs.split_at_mut(6);
        to.copy_from_slice(&dst);
        from.copy_from_slice(&src);
    }
}

/// A value that is the same for all packets of a flow and spreads flows over the 32 bits. Not keyed: it only balances the
/// receive queues of a backend.
pub fn entropy(tuple: &Tuple) -> u32 {
    let ports = u64::from(tuple.sport) << 16 | u64::from(tuple.dport) | u64::from(tuple.protocol) << 32;
    let mixed = mix(mix(ports, tuple.src), tuple.dst);
    high32(mixed ^ mixed >> 29)
}

fn mix(state: u64, address: Addr) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let (high, low) = match address {
        Addr::V4(a) => (0, u64::from(a)),
        Addr::V6(a) => (high64(a), low64(a)),
    };
    let state = (state ^ high).wrapping_mul(ODD);
    let state = (state ^ state >> 32 ^ low).wrapping_mul(ODD);
    state ^ state >> 32
}

const fn high32(value: u64) -> u32 {
    (value >> 32) as u32
}

const fn high64(value: u128) -> u64 {
    (value >> 64) as u64
}

#[expect(clippy::cast_possible_truncation, reason = "the half is what is asked for")]
const fn low64(value: u128) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests;
