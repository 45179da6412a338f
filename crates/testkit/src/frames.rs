//! Frames, built field by field from raw bytes.
//!
//! Rule of this module: nothing from `wire` is used to build, not even the checksum, so that a test which
//! compares the two compares two implementations.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// MAC of the router that clients are behind: source of requests.
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x01];
/// MAC of the balancer's port: destination of requests.
pub const PORT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];

/// IPv6 extension headers by number.
pub mod extension {
    /// Hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// Routing.
    pub const ROUTING: u8 = 43;
    /// Fragment.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header.
    pub const AUTHENTICATION: u8 = 51;
    /// Destination options.
    pub const DESTINATION: u8 = 60;
}

/// TCP flag bits.
pub mod flags {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// PSH.
    pub const PSH: u8 = 0x08;
    /// ACK.
    pub const ACK: u8 = 0x10;
}

/// What stands above IP.
#[derive(Clone, Debug)]
pub enum Upper {
    /// TCP; `options` is padded with zeros to a multiple of four bytes.
    Tcp {
        /// Sequence number.
        seq: u32,
        /// Acknowledgement number.
        ack: u32,
        /// Flag byte.
        flags: u8,
        /// Options.
        options: Vec<u8>,
    },
    /// UDP.
    Udp,
    /// ICMP or ICMPv6, by the family of the addresses.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The four bytes after the checksum.
        rest: [u8; 4],
    },
    /// Any protocol, the payload as it is.
    Raw(u8),
}

/// Place of a fragment in its datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentPlace {
    /// Identification.
    pub id: u32,
    /// Offset, bytes (a multiple of eight if the frame is to be valid).
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
}

/// A frame to be: every field is public, [`PacketBuilder::build`] makes the bytes with right lengths and checksums.
#[derive(Clone, Debug)]
pub struct PacketBuilder {
    /// Destination MAC.
    pub dst_mac: [u8; 6],
    /// Source MAC.
    pub src_mac: [u8; 6],
    /// VLAN tags, outermost first: (tag protocol, tag control).
    pub tags: Vec<(u16, u16)>,
    /// Source address; decides the family.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Type of service or traffic class.
    pub tos: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// IPv6 flow label.
    pub flow_label: u32,
    /// IPv4 don't-fragment.
    pub dont_fragment: bool,
    /// IPv4 identification of a whole datagram.
    pub id: u16,
    /// IPv4 options, padded with zeros to a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers in order: (number, the bytes behind next-header and length, which are filled in).
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Set for a fragment: then `payload` is the raw piece, unless the offset is 0.
    pub fragment: Option<FragmentPlace>,
    /// What stands above IP.
    pub upper: Upper,
    /// What stands above that.
    pub payload: Vec<u8>,
    /// Zero bytes behind the datagram.
    pub padding: usize,
}

impl PacketBuilder {
    /// A packet between two addresses of one family.
    ///
    /// # Panics
    /// An address does not parse, or the families differ.
    pub fn new(src: &str, dst: &str, upper: Upper) -> PacketBuilder {
        let (src, dst): (IpAddr, IpAddr) = (address(src), address(dst));
        assert_eq!(src.is_ipv4(), dst.is_ipv4(), "both addresses must be of one family");
        PacketBuilder {
            dst_mac: PORT_MAC,
            src_mac: ROUTER_MAC,
            tags: Vec::new(),
            src,
            dst,
            sport: 40_000,
            dport: 80,
            tos: 0,
            ttl: 63,
            flow_label: 0,
            dont_fragment: true,
            id: 0x1234,
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
            upper,
            payload: Vec::new(),
            padding: 0,
        }
    }

    /// A TCP segment.
    pub fn tcp(src: &str, dst: &str, flags: u8) -> PacketBuilder {
        PacketBuilder::new(src, dst, Upper::Tcp { seq: 0x0102_0304, ack: 0, flags, options: Vec::new() })
    }

    /// A UDP datagram.
    pub fn udp(src: &str, dst: &str) -> PacketBuilder {
        PacketBuilder::new(src, dst, Upper::Udp)
    }

    /// An echo request.
    pub fn echo(src: &str, dst: &str) -> PacketBuilder {
        let kind = if address(src).is_ipv4() { 8 } else { 128 };
        PacketBuilder::new(src, dst, Upper::Icmp { kind, code: 0, rest: [0x12, 0x34, 0, 1] })
            .payload(b"abcdefghijklmnopqrstuvwabcdefghi")
    }

    /// An ICMP error from `src` that quotes `quoted`, a frame of this builder: the first `bytes` of its datagram.
    pub fn icmp_error(
        src: &str,
        dst: &str,
        kind: u8,
        code: u8,
        quoted: &PacketBuilder,
        bytes: usize,
    ) -> PacketBuilder {
        let datagram = quoted.datagram();
        let mut packet = PacketBuilder::new(src, dst, Upper::Icmp { kind, code, rest: [0; 4] });
        packet.payload = datagram[..bytes.min(datagram.len())].to_vec();
        packet
    }

    /// Sets the ports.
    #[must_use]
    pub fn ports(mut self, sport: u16, dport: u16) -> PacketBuilder {
        (self.sport, self.dport) = (sport, dport);
        self
    }

    /// Sets the payload.
    #[must_use]
    pub fn payload(mut self, bytes: &[u8]) -> PacketBuilder {
        self.payload = bytes.to_vec();
        self
    }

    /// Sets a payload of `n` counted bytes.
    #[must_use]
    pub fn payload_of(mut self, n: usize) -> PacketBuilder {
        self.payload = pattern(n);
        self
    }

    /// Adds an inner 802.1Q tag.
    #[must_use]
    pub fn vlan(mut self, id: u16) -> PacketBuilder {
        self.tags.push((0x8100, id));
        self
    }

    /// Adds an 802.1ad service tag and an 802.1Q tag.
    #[must_use]
    pub fn qinq(mut self, outer: u16, inner: u16) -> PacketBuilder {
        self.tags.extend([(0x88a8, outer), (0x8100, inner)]);
        self
    }

    /// Sets IPv4 options.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> PacketBuilder {
        self.options = options.to_vec();
        self
    }

    /// Adds an IPv6 extension header; `body` is what follows next-header and length, and is padded with zeros.
    #[must_use]
    pub fn extension(mut self, number: u8, body: &[u8]) -> PacketBuilder {
        self.extensions.push((number, body.to_vec()));
        self
    }

    /// Makes it a fragment.
    #[must_use]
    pub fn fragment(mut self, id: u32, offset: u16, more: bool) -> PacketBuilder {
        self.fragment = Some(FragmentPlace { id, offset, more });
        self.dont_fragment = false;
        self
    }

    /// Sets type of service or traffic class.
    #[must_use]
    pub fn tos(mut self, tos: u8) -> PacketBuilder {
        self.tos = tos;
        self
    }

    /// Sets time to live or hop limit.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> PacketBuilder {
        self.ttl = ttl;
        self
    }

    /// Sets IPv4 don't-fragment.
    #[must_use]
    pub fn dont_fragment(mut self, set: bool) -> PacketBuilder {
        self.dont_fragment = set;
        self
    }

    /// Pads the frame to 60 bytes, as a NIC does.
    #[must_use]
    pub fn padded(mut self) -> PacketBuilder {
        self.padding = 60_usize.saturating_sub(self.build().len());
        self
    }

    /// Cuts the datagram into pieces of at most `bytes` of payload each (rounded down to a multiple of eight), in order.
    ///
    /// # Panics
    /// The datagram is longer than 65,535 bytes.
    pub fn fragments(&self, id: u32, bytes: usize) -> Vec<Vec<u8>> {
        let whole = self.upper_bytes();
        let step = (bytes & !7).max(8);
        let pieces = whole.len().div_ceil(step).max(1);
        (0..pieces)
            .map(|i| {
                let from = i * step;
                let to = (from + step).min(whole.len());
                let mut piece = self.clone();
                piece.payload = whole[from..to].to_vec();
                piece.upper = Upper::Raw(self.protocol());
                let offset = u16::try_from(from).expect("offset fits");
                piece.fragment = Some(FragmentPlace { id, offset, more: i + 1 < pieces });
                piece.dont_fragment = false;
                piece.build()
            })
            .collect()
    }

    /// Protocol number above IP and its extension headers.
    pub fn protocol(&self) -> u8 {
        match self.upper {
            Upper::Tcp { .. } => 6,
            Upper::Udp => 17,
            Upper::Icmp { .. } if self.src.is_ipv4() => 1,
            Upper::Icmp { .. } => 58,
            Upper::Raw(protocol) => protocol,
        }
    }

    /// The frame.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = self.ethernet();
        frame.extend(self.datagram());
        frame.resize(frame.len() + self.padding, 0);
        frame
    }

    /// Ethernet header and tags.
    pub fn ethernet(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(22);
        out.extend(self.dst_mac);
        out.extend(self.src_mac);
        for (tpid, tci) in &self.tags {
            out.extend(tpid.to_be_bytes());
            out.extend(tci.to_be_bytes());
        }
        let ethertype: u16 = if self.src.is_ipv4() { 0x0800 } else { 0x86dd };
        out.extend(ethertype.to_be_bytes());
        out
    }

    /// The IP datagram.
    ///
    /// # Panics
    /// It would be longer than 65,535 bytes.
    pub fn datagram(&self) -> Vec<u8> {
        let upper = self.upper_bytes();
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.ipv4(src, dst, &upper),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.ipv6(src, dst, &upper),
            _ => panic!("both addresses must be of one family"),
        }
    }

    fn ipv4(&self, src: Ipv4Addr, dst: Ipv4Addr, upper: &[u8]) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let header_len = 20 + options.len();
        let total = u16::try_from(header_len + upper.len()).expect("datagram fits 65,535 bytes");
        let (id, offset, more) = match self.fragment {
            Some(piece) => (u16::try_from(piece.id & 0xffff).expect("masked"), piece.offset / 8, piece.more),
            None => (self.id, 0, false),
        };
        let field = u16::from(self.dont_fragment) << 14 | u16::from(more) << 13 | offset;
        let mut out = vec![0x40 | u8::try_from(header_len / 4).expect("header length"), self.tos];
        out.extend(total.to_be_bytes());
        out.extend(id.to_be_bytes());
        out.extend(field.to_be_bytes());
        out.extend([self.ttl, self.protocol(), 0, 0]);
        out.extend(src.octets());
        out.extend(dst.octets());
        out.extend(options);
        let check = internet_checksum(&out);
        out[10..12].copy_from_slice(&check.to_be_bytes());
        out.extend(upper);
        out
    }

    fn ipv6(&self, src: Ipv6Addr, dst: Ipv6Addr, upper: &[u8]) -> Vec<u8> {
        let mut chain: Vec<(u8, Vec<u8>)> = self.extensions.clone();
        if let Some(piece) = self.fragment {
            let mut body = (piece.offset | u16::from(piece.more)).to_be_bytes().to_vec();
            body.extend(piece.id.to_be_bytes());
            chain.push((extension::FRAGMENT, body));
        }
        let mut bytes = Vec::new();
        for (i, (number, body)) in chain.iter().enumerate() {
            let next = chain.get(i + 1).map_or(self.protocol(), |(n, _)| *n);
            let unit = if *number == extension::AUTHENTICATION { 4 } else { 8 };
            let len = (body.len() + 2).next_multiple_of(unit);
            let units = match *number {
                extension::FRAGMENT => 0,
                extension::AUTHENTICATION => len / 4 - 2,
                _ => len / 8 - 1,
            };
            bytes.extend([next, u8::try_from(units).expect("extension length")]);
            bytes.extend(body);
            bytes.resize(bytes.len() + (len - 2 - body.len()), 0);
        }
        bytes.extend(upper);
        let first = chain.first().map_or(self.protocol(), |(n, _)| *n);
        let word = 6_u32 << 28 | u32::from(self.tos) << 20 | self.flow_label & 0xf_ffff;
        let mut out = word.to_be_bytes().to_vec();
        out.extend(u16::try_from(bytes.len()).expect("datagram fits 65,535 bytes").to_be_bytes());
        out.extend([first, self.ttl]);
        out.extend(src.octets());
        out.extend(dst.octets());
        out.extend(bytes);
        out
    }

    /// Transport header and payload, with the transport checksum right.
    ///
    /// # Panics
    /// They are longer than 65,535 bytes.
    pub fn upper_bytes(&self) -> Vec<u8> {
        if self.fragment.is_some_and(|piece| piece.offset > 0) {
            return self.payload.clone();
        }
        let mut out;
        let check_at;
        match &self.upper {
            Upper::Raw(_) => return self.payload.clone(),
            Upper::Tcp { seq, ack, flags, options } => {
                let mut options = options.clone();
                options.resize(options.len().next_multiple_of(4), 0);
                out = self.sport.to_be_bytes().to_vec();
                out.extend(self.dport.to_be_bytes());
                out.extend(seq.to_be_bytes());
                out.extend(ack.to_be_bytes());
                out.extend([u8::try_from(5 + options.len() / 4).expect("TCP options") << 4, *flags]);
                out.extend([0xfa, 0xf0, 0, 0, 0, 0]);
                out.extend(options);
                check_at = 16;
            }
            Upper::Udp => {
                let len = u16::try_from(8 + self.payload.len()).expect("datagram fits 65,535 bytes");
                out = self.sport.to_be_bytes().to_vec();
                out.extend(self.dport.to_be_bytes());
                out.extend(len.to_be_bytes());
                out.extend([0, 0]);
                check_at = 6;
            }
            Upper::Icmp { kind, code, rest } => {
                out = vec![*kind, *code, 0, 0];
                out.extend(rest);
                check_at = 2;
            }
        }
        out.extend(&self.payload);
        let pseudo = match (&self.upper, self.src) {
            (Upper::Icmp { .. }, IpAddr::V4(_)) => Vec::new(),
            _ => self.pseudo_header(out.len()),
        };
        let mut check = internet_checksum(&[pseudo.as_slice(), out.as_slice()].concat());
        if check == 0 && matches!(self.upper, Upper::Udp) {
            check = 0xffff;
        }
        out[check_at..check_at + 2].copy_from_slice(&check.to_be_bytes());
        out
    }

    fn pseudo_header(&self, len: usize) -> Vec<u8> {
        pseudo_header(self.src, self.dst, self.protocol(), len)
    }
}

/// The pseudo header of TCP, UDP and ICMPv6 checksums; an even number of bytes.
///
/// # Panics
/// `len` does not fit 32 bits.
pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(40);
    for a in [src, dst] {
        match a {
            IpAddr::V4(a) => out.extend(a.octets()),
            IpAddr::V6(a) => out.extend(a.octets()),
        }
    }
    out.extend(u32::try_from(len).expect("length fits").to_be_bytes());
    out.extend([0, 0, 0, protocol]);
    out
}

/// RFC 1071, the slow way: pairs of bytes, end-around carry at each step.
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("carry was folded")
}

/// `n` bytes that count.
pub fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| u8::try_from(i % 251).expect("below 251")).collect()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    const V4: (&str, &str) = ("198.51.100.7", "203.0.113.10");
    const V6: (&str, &str) = ("2001:db8:1::7", "2001:db8:f::10");

    fn all() -> Vec<(&'static str, PacketBuilder)> {
        let mut all = Vec::new();
        for (name4, name6, a) in [("v4", "", V4), ("", "v6", V6)] {
            let name = if name4.is_empty() { name6 } else { name4 };
            all.push((name, PacketBuilder::tcp(a.0, a.1, flags::SYN)));
            all.push((name, PacketBuilder::tcp(a.0, a.1, flags::ACK).payload_of(101)));
            all.push((name, PacketBuilder::udp(a.0, a.1).payload_of(33).vlan(7)));
            all.push((name, PacketBuilder::udp(a.0, a.1).payload_of(32).qinq(100, 7)));
            all.push((name, PacketBuilder::echo(a.0, a.1)));
            let quoted = PacketBuilder::tcp(a.1, a.0, flags::ACK).ports(80, 40_000);
            all.push((name, PacketBuilder::icmp_error(a.0, a.1, 3, 1, &quoted, 28)));
        }
        all.push(("options", PacketBuilder::tcp(V4.0, V4.1, flags::ACK).options(&[1, 1, 0x94, 4, 0, 0])));
        all.push((
            "extensions",
            PacketBuilder::udp(V6.0, V6.1)
                .extension(extension::HOP_BY_HOP, &[1, 4, 0, 0, 0, 0])
                .extension(extension::DESTINATION, &[1, 12])
                .payload_of(9),
        ));
        all
    }

    #[test]
    fn etherparse_agrees_with_every_builder() {
        for (name, packet) in all() {
            let bytes = packet.build();
            let sliced = SlicedPacket::from_ethernet(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(sliced.link_exts.len(), packet.tags.len(), "{name}");
            match sliced.net.expect(name) {
                NetSlice::Ipv4(v4) => {
                    let header = v4.header().to_header();
                    assert_eq!(header.header_checksum, header.calc_header_checksum(), "{name}");
                    assert_eq!(IpAddr::from(header.source), packet.src, "{name}");
                }
                NetSlice::Ipv6(v6) => assert_eq!(v6.header().source_addr(), packet.src, "{name}"),
                NetSlice::Arp(_) => panic!("{name}"),
            }
            let whole = [packet.pseudo_header(packet.upper_bytes().len()), packet.upper_bytes()].concat();
            match sliced.transport.expect(name) {
                TransportSlice::Tcp(tcp) => assert_eq!(tcp.destination_port(), 80),
                TransportSlice::Udp(udp) => assert_eq!(udp.destination_port(), 80),
                TransportSlice::Icmpv4(_) => {
                    assert_eq!(internet_checksum(&packet.upper_bytes()), 0, "{name}");
                    continue;
                }
                TransportSlice::Icmpv6(_) => {}
                TransportSlice::Igmp(_) => panic!("{name}"),
            }
            assert_eq!(internet_checksum(&whole), 0, "{name}: transport checksum");
        }
    }

    #[test]
    fn fragments_reassemble() {
        for a in [V4, V6] {
            let packet = PacketBuilder::udp(a.0, a.1).payload_of(3000);
            let pieces = packet.fragments(77, 1400);
            assert_eq!(pieces.len(), 3);
            let header = if packet.src.is_ipv4() { 34 } else { 14 + 40 + 8 };
            let joined: Vec<u8> = pieces.iter().flat_map(|p| p[header..].to_vec()).collect();
            assert_eq!(joined, packet.upper_bytes());
            for piece in &pieces {
                SlicedPacket::from_ethernet(piece).expect("etherparse takes each piece");
            }
        }
    }

    #[test]
    fn padding_reaches_sixty_bytes() {
        let frame = PacketBuilder::tcp(V4.0, V4.1, flags::ACK).padded().build();
        assert_eq!(frame.len(), 60);
        assert_eq!(u16::from_be_bytes([frame[16], frame[17]]), 40);
    }
}
