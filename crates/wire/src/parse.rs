//! Frame bytes to [`Parsed`]: one pass over Ethernet, tags, IP with options or extension headers, and the
//! transport header; for ICMP errors also over the packet quoted inside.

use crate::{Addr, Tuple, checksum, field};

/// Why layer 2 or 3 cannot be trusted: the frame is dropped, whatever it was for. Closed; each is a drop reason.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Malformed {
    /// Shorter than an Ethernet header (and its tags).
    BadEthernet,
    /// IPv4: version, header length, total length (shorter than the header, or longer than the frame), options.
    BadIpv4,
    /// IPv4 header checksum is wrong.
    BadIpv4Checksum,
    /// IPv6: version, payload length longer than the frame, jumbograms.
    BadIpv6,
    /// IPv6 extension headers: truncated, more than eight, out of order hop-by-hop, routing header with segments left.
    BadIpv6Extension,
    /// Fragment geometry: not a multiple of eight, past 65,535 bytes, first fragment without its transport ports
    /// (RFC 1858, RFC 7112), TCP at offset one (RFC 3128).
    BadFragment,
}

/// Why the part above IP cannot be trusted; matters only for packets to a VIP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum BadTransport {
    /// TCP header truncated, or data offset below five or past the datagram.
    BadTcp,
    /// UDP header truncated, or its length below eight or past the datagram.
    BadUdp,
    /// ICMP truncated, or an error whose quoted packet is too short to name a flow.
    BadIcmp,
}

/// What stands above IP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// TCP with ports in [`Parsed::tuple`].
    Tcp(TcpFlags),
    /// UDP with ports in [`Parsed::tuple`].
    Udp,
    /// ICMP or ICMPv6 echo request (type 8, or 128; code 0), or its first fragment.
    EchoRequest,
    /// ICMP or ICMPv6 error, or its first fragment, with a quoted packet that names a flow: [`Parsed::quoted`].
    IcmpError,
    /// ICMPv6 133 to 137: router and neighbour discovery; always the kernel's.
    NeighbourDiscovery,
    /// Other ICMP.
    IcmpOther,
    /// A fragment that is not the first: no transport header here.
    LaterFragment,
    /// Any other protocol.
    Other,
    /// A transport header that is broken.
    Bad(BadTransport),
}

/// TCP flag bits as in the header's 14th byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// ACK.
    pub const ACK: u8 = 0x10;

    /// A connection's first packet: SYN without ACK, RST or FIN.
    pub const fn is_syn(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }

    /// RST.
    pub const fn is_reset(self) -> bool {
        self.0 & Self::RST != 0
    }

    /// FIN or RST.
    pub const fn is_closing(self) -> bool {
        self.0 & (Self::FIN | Self::RST) != 0
    }
}

/// The packet quoted by an ICMP error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quoted {
    /// Source address and port of the quoted packet (the VIP, when a backend sent it).
    pub src: (Addr, u16),
    /// Destination address and port of the quoted packet (the client).
    pub dst: (Addr, u16),
    /// Its protocol.
    pub protocol: u8,
}

/// Where a fragment belongs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Fragment {
    /// Identification (16 bits for IPv4).
    pub id: u32,
    /// Offset of this piece, bytes.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
}

/// Where things are in a frame that carries IP. All offsets are inside the frame.
///
/// Small on purpose: addresses stay in the frame ([`Parsed::src`], [`Parsed::dst`]), which is in the cache anyway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parsed {
    /// Offset of the IP header: 14, or 18 and 22 behind one or two VLAN tags.
    pub l3: u16,
    /// Offset of the transport header (of the fragment's payload for later fragments).
    pub l4: u16,
    /// One past the last byte of the IP datagram; what follows is Ethernet padding.
    pub end: u16,
    /// Source port; 0 unless TCP or UDP.
    pub sport: u16,
    /// Destination port; 0 unless TCP or UDP.
    pub dport: u16,
    /// Upper-layer protocol; behind a later fragment's header the next header as carried.
    pub protocol: u8,
    /// IPv6, not IPv4.
    pub v6: bool,
    /// Type of service or traffic class, DSCP and ECN.
    pub tos: u8,
    /// IPv4 don't-fragment; always true for IPv6.
    pub dont_fragment: bool,
    /// Set unless the datagram is whole (an IPv6 atomic fragment counts as whole, RFC 6946).
    pub fragment: Option<Fragment>,
    /// What stands above IP.
    pub kind: Kind,
}

/// Outcome of [`parse`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParsedFrame {
    /// IPv4 or IPv6.
    Ip(Parsed),
    /// Something else (ARP, LLDP, three or more tags …): the kernel's.
    NotIp,
}

impl Parsed {
    /// VLAN tags between the Ethernet addresses and the IP header: 0, 1 or 2.
    pub const fn tag_count(&self) -> usize {
        (self.l3 as usize).saturating_sub(ETHERNET_LEN) / TAG_LEN
    }

    /// Bytes of the IP datagram, header included, padding not.
    pub const fn datagram_len(&self) -> usize {
        self.end.saturating_sub(self.l3) as usize
    }

    /// Whether the datagram is IPv6.
    pub const fn is_v6(&self) -> bool {
        self.v6
    }

    /// The source address, from the frame that was parsed; zero from any shorter one.
    #[inline]
    pub fn src(&self, frame: &[u8]) -> Addr {
        self.address(frame, 12, 8)
    }

    /// The destination address, from the frame that was parsed; zero from any shorter one.
    #[inline]
    pub fn dst(&self, frame: &[u8]) -> Addr {
        self.address(frame, 16, 24)
    }

    #[inline]
    fn address(&self, frame: &[u8], in_v4: usize, in_v6: usize) -> Addr {
        let l3 = usize::from(self.l3);
        if self.v6 {
            Addr::V6(field::chunk(frame, l3 + in_v6).map_or(0, u128::from_be_bytes))
        } else {
            Addr::V4(field::chunk(frame, l3 + in_v4).map_or(0, u32::from_be_bytes))
        }
    }

    /// Addresses, ports and protocol of the frame that was parsed.
    #[inline]
    pub fn tuple(&self, frame: &[u8]) -> Tuple {
        let (src, dst) = (self.src(frame), self.dst(frame));
        Tuple { src, dst, sport: self.sport, dport: self.dport, protocol: self.protocol }
    }

    /// The sequence number of TCP (RFC 9293 3.1), from the frame that was parsed; `None` for anything else.
    pub fn tcp_number(&self, frame: &[u8]) -> Option<u32> {
        matches!(self.kind, Kind::Tcp(_)).then_some(())?;
        field::chunk(frame, usize::from(self.l4) + 4).map(u32::from_be_bytes)
    }

    /// Whether TCP carries data, in the frame that was parsed.
    pub fn has_tcp_data(&self, frame: &[u8]) -> bool {
        let header_len = frame.get(usize::from(self.l4) + 12).map_or(0, |byte| usize::from(byte >> 4) * 4);
        matches!(self.kind, Kind::Tcp(_)) && usize::from(self.l4) + header_len < usize::from(self.end)
    }

    /// The packet quoted by an ICMP error, *as quoted*: its source is the VIP's side. `None` unless the kind is
    /// [`Kind::IcmpError`].
    #[cold]
    pub fn quoted(&self, frame: &[u8]) -> Option<Quoted> {
        if self.kind != Kind::IcmpError {
            return None;
        }
        let quote = frame.get(usize::from(self.l4) + ICMP_LEN..usize::from(self.end))?;
        if self.v6 { quoted_ipv6(quote) } else { quoted_ipv4(quote) }
    }
}

/// TCP's protocol number.
pub const TCP: u8 = 6;
/// UDP's protocol number.
pub const UDP: u8 = 17;
/// ICMP's protocol number.
pub const ICMP: u8 = 1;
/// ICMPv6's protocol number.
pub const ICMPV6: u8 = 58;

/// Ethernet type of IPv4.
pub(crate) const TYPE_IPV4: u16 = 0x0800;
/// Ethernet type of IPv6.
pub(crate) const TYPE_IPV6: u16 = 0x86dd;
/// Ethernet type of ARP.
pub const TYPE_ARP: u16 = 0x0806;
/// Tag types: 802.1Q, 802.1ad, and what came before 802.1ad.
const TYPE_TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_LEN: usize = 14;
const TAG_LEN: usize = 4;
/// More tags than this make the frame [`ParsedFrame::NotIp`].
pub(crate) const TAGS_MAX: usize = 2;
/// Bytes of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
pub(crate) const IPV6_LEN: usize = 40;
const TCP_LEN: usize = 20;
const UDP_LEN: usize = 8;
pub(crate) const ICMP_LEN: usize = 8;
/// Ports, sequence numbers, data offset and flags: without the flags a first fragment could hide a SYN (RFC 1858 section 3).
const TCP_FIRST_FRAGMENT_MIN: usize = 16;
/// Extension headers followed in one packet.
const EXTENSIONS_MAX: usize = 8;
/// IPv4 total length and IPv6 payload length.
const LENGTH_MAX: usize = 65_535;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Finds the headers of `frame`, which starts with the destination MAC address and may end in Ethernet padding.
///
/// Reads nothing past the IP datagram's own length. The transport checksum is not verified: the receiver does. Where
/// [`Parsed::kind`] is [`Kind::Bad`] the ports are 0.
///
/// # Errors
/// [`Malformed`] when the frame has no well-formed layer 2 or 3 (also when the datagram ends past byte 65,535 of the frame).
pub fn parse(frame: &[u8]) -> Result<ParsedFrame, Malformed> {
    let (ethernet_type, l3) = link(frame)?;
    match ethernet_type {
        TYPE_IPV4 => ipv4(frame, l3),
        TYPE_IPV6 => ipv6(frame, l3),
        _ => Ok(ParsedFrame::NotIp),
    }
}

/// Where a frame is going that [`parse`] refuses, if its IP header is there as far as that: a hint for who has to judge it.
#[cold]
pub fn destination(frame: &[u8]) -> Option<Addr> {
    let (ethernet_type, l3) = link(frame).ok()?;
    match (ethernet_type, field::byte(frame, l3)? >> 4) {
        (TYPE_IPV4, 4) => Some(Addr::V4(field::long(frame, l3 + 16)?)),
        (TYPE_IPV6, 6) => Some(Addr::V6(u128::from_be_bytes(field::chunk(frame, l3 + 24)?))),
        _ => None,
    }
}

/// The Ethernet type behind up to two tags; `None` where the frame is too short for one.
pub fn ethernet_type(frame: &[u8]) -> Option<u16> {
    Some(link(frame).ok()?.0)
}

/// The Ethernet type behind up to [`TAGS_MAX`] tags, and the offset behind it.
#[inline]
fn link(frame: &[u8]) -> Result<(u16, usize), Malformed> {
    let header = frame.first_chunk::<ETHERNET_LEN>().ok_or(Malformed::BadEthernet)?;
    let mut ethernet_type = u16::from_be_bytes([header[12], header[13]]);
    let mut l3 = ETHERNET_LEN;
    for _ in 0..TAGS_MAX {
        if !TYPE_TAGS.contains(&ethernet_type) {
            break;
        }
        ethernet_type = field::word(frame, l3 + 2).ok_or(Malformed::BadEthernet)?;
        l3 += TAG_LEN;
    }
    Ok((ethernet_type, l3))
}

#[inline]
fn ipv4(frame: &[u8], l3: usize) -> Result<ParsedFrame, Malformed> {
    use Malformed::BadIpv4;
    let packet = frame.get(l3..).ok_or(BadIpv4)?;
    let fixed = packet.first_chunk::<IPV4_LEN>().ok_or(BadIpv4)?;
    let header_len = usize::from(fixed[0] & 0x0f) * 4;
    let total_len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    // A datagram whose time to live is 0 should not have come so far (RFC 1812 section 5.3.1).
    if fixed[0] >> 4 != 4 || header_len < IPV4_LEN || fixed[8] == 0 {
        return Err(BadIpv4);
    }
    let datagram = packet.get(..total_len).ok_or(BadIpv4)?;
    let (header, payload) = datagram.split_at_checked(header_len).ok_or(BadIpv4)?;
    let end = u16::try_from(l3 + total_len).map_err(|_| BadIpv4)?;
    let options = header.get(IPV4_LEN..).unwrap_or_default();
    // The fixed part by itself, because its length is known when this is compiled.
    let mut header_sum = checksum::sum_words(fixed.as_chunks().0);
    if !options.is_empty() {
        header_sum += checksum::sum(options);
    }
    if checksum::fold(header_sum) != 0xffff {
        return Err(Malformed::BadIpv4Checksum);
    }
    if !options.is_empty() {
        check_options(options)?;
    }

    let protocol = fixed[9];
    let flags = u16::from_be_bytes([fixed[6], fixed[7]]);
    let fragment = Fragment {
        id: u32::from(u16::from_be_bytes([fixed[4], fixed[5]])),
        offset: (flags & 0x1fff) << 3,
        more: flags & 0x2000 != 0,
    };
    let fragment = (fragment.more || fragment.offset != 0).then_some(fragment);
    if let Some(f) = fragment {
        check_fragment(f, protocol, payload.len(), header_len)?;
    }
    let (kind, sport, dport) = transport(payload, protocol, fragment, false)?;
    Ok(ParsedFrame::Ip(Parsed {
        l3: position(l3),
        l4: position(l3 + header_len),
        end,
        sport,
        dport,
        protocol,
        v6: false,
        tos: fixed[1],
        dont_fragment: flags & 0x4000 != 0,
        fragment,
        kind,
    }))
}

/// Every option of an IPv4 header has a length that stays inside it (RFC 791 section 3.1).
#[cold]
fn check_options(mut options: &[u8]) -> Result<(), Malformed> {
    while let Some((&kind, after_kind)) = options.split_first() {
        options = match kind {
            0 => break,
            1 => after_kind,
            _ => {
                let len = usize::from(*after_kind.first().ok_or(Malformed::BadIpv4)?);
                if len < 2 {
                    return Err(Malformed::BadIpv4);
                }
                options.get(len..).ok_or(Malformed::BadIpv4)?
            }
        };
    }
    Ok(())
}

/// The rules that hold for each fragment alone; `before` is what else of the whole datagram counts in its 16-bit length field.
#[cold]
fn check_fragment(fragment: Fragment, protocol: u8, payload: usize, before: usize) -> Result<(), Malformed> {
    let ragged = fragment.more && !payload.is_multiple_of(8);
    let too_long = before + usize::from(fragment.offset) + payload > LENGTH_MAX;
    // A second piece that starts at byte 8 could overwrite the flags of the first (RFC 3128).
    let overlaps_flags = protocol == TCP && fragment.offset == 8;
    if payload == 0 || ragged || too_long || overlaps_flags { Err(Malformed::BadFragment) } else { Ok(()) }
}

fn ipv6(frame: &[u8], l3: usize) -> Result<ParsedFrame, Malformed> {
    use Malformed::BadIpv6;
    let packet = frame.get(l3..).ok_or(BadIpv6)?;
    let fixed = packet.first_chunk::<IPV6_LEN>().ok_or(BadIpv6)?;
    let payload_len = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let next = fixed[6];
    // A length of zero in front of hop-by-hop options announces a jumbogram (RFC 2675): longer than any frame here.
    // A hop limit of 0 is what the last router would have stopped at (RFC 8200 section 3).
    if fixed[0] >> 4 != 6 || (payload_len == 0 && next == HOP_BY_HOP) || fixed[7] == 0 {
        return Err(BadIpv6);
    }
    let datagram = packet.get(..IPV6_LEN + payload_len).ok_or(BadIpv6)?;
    let end = u16::try_from(l3 + datagram.len()).map_err(|_| BadIpv6)?;
    let chain = Chain::follow(datagram, next)?;
    if let Some((fragment, at)) = chain.fragment {
        let payload = datagram.len().saturating_sub(at);
        // The fragment header itself is gone after reassembly; what stands in front of it is not.
        let before = at.saturating_sub(IPV6_LEN + FRAGMENT_LEN);
        check_fragment(fragment, chain.protocol, payload, before)?;
    }
    let fragment = chain.fragment.map(|(fragment, _)| fragment);
    let segment = datagram.get(chain.l4..).ok_or(Malformed::BadIpv6Extension)?;
    let (kind, sport, dport) = transport(segment, chain.protocol, fragment, true)?;
    Ok(ParsedFrame::Ip(Parsed {
        l3: position(l3),
        l4: position(l3 + chain.l4),
        end,
        sport,
        dport,
        protocol: chain.protocol,
        v6: true,
        tos: (fixed[0] << 4) | (fixed[1] >> 4),
        dont_fragment: true,
        fragment,
        kind,
    }))
}

fn v6_addresses(fixed: &[u8; IPV6_LEN]) -> (Addr, Addr) {
    let address = |at| field::chunk(fixed, at).map_or(Addr::V6(0), |a| Addr::V6(u128::from_be_bytes(a)));
    (address(8), address(24))
}

pub(crate) const FRAGMENT_LEN: usize = 8;

/// Where the extension headers of an IPv6 packet lead.
struct Chain {
    /// Upper-layer protocol; behind a later fragment's header the next header as carried.
    protocol: u8,
    /// Its offset from the IPv6 header.
    l4: usize,
    /// The fragment header, unless atomic, and the offset behind it from the IPv6 header.
    fragment: Option<(Fragment, usize)>,
}

impl Chain {
    /// Follows the headers behind the fixed header at the start of `datagram`, the first of which is `next`.
    #[inline]
    fn follow(datagram: &[u8], next: u8) -> Result<Chain, Malformed> {
        match next {
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION => {
                Chain::follow_extensions(datagram, next)
            }
            _ => Ok(Chain { protocol: next, l4: IPV6_LEN, fragment: None }),
        }
    }

    #[cold]
    fn follow_extensions(datagram: &[u8], first: u8) -> Result<Chain, Malformed> {
        let mut chain = Chain { protocol: first, l4: IPV6_LEN, fragment: None };
        let mut fragment_seen = false;
        for count in 0..=EXTENSIONS_MAX {
            if !matches!(chain.protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION) {
                return Ok(chain);
            }
            // A first fragment holds the whole chain (RFC 7112 section 5).
            let truncated =
                if chain.fragment.is_some() { Malformed::BadFragment } else { Malformed::BadIpv6Extension };
            let [next, len, _, segments_left] = field::chunk(datagram, chain.l4).ok_or(truncated)?;
            let size = match chain.protocol {
                FRAGMENT => FRAGMENT_LEN,
                AUTHENTICATION => (usize::from(len) + 2) * 4,
                _ => (usize::from(len) + 1) * 8,
            };
            let header = datagram.get(chain.l4..chain.l4 + size).ok_or(truncated)?;
            let misplaced = match chain.protocol {
                HOP_BY_HOP => count != 0,
                ROUTING => segments_left != 0,
                FRAGMENT => core::mem::replace(&mut fragment_seen, true),
                // The fixed part (RFC 4302 section 2) is twelve bytes.
                AUTHENTICATION => size < 12,
                _ => false,
            };
            if misplaced || count == EXTENSIONS_MAX {
                return Err(Malformed::BadIpv6Extension);
            }
            if chain.protocol == HOP_BY_HOP && has_jumbo_option(header) {
                return Err(Malformed::BadIpv6);
            }
            let fragment = (chain.protocol == FRAGMENT).then(|| fragment_header(header)).flatten();
            chain.protocol = next;
            chain.l4 += size;
            if let Some(fragment) = fragment {
                chain.fragment = Some((fragment, chain.l4));
                if fragment.offset != 0 {
                    return Ok(chain);
                }
            }
        }
        Err(Malformed::BadIpv6Extension)
    }
}

/// The fields of a fragment header; `None` when the fragment is the whole datagram (RFC 6946).
fn fragment_header(header: &[u8]) -> Option<Fragment> {
    let bits = field::word(header, 2)?;
    let id = field::long(header, 4)?;
    let fragment = Fragment { id, offset: bits & 0xfff8, more: bits & 1 != 0 };
    (fragment.more || fragment.offset != 0).then_some(fragment)
}

/// Whether hop-by-hop options name a jumbo payload (RFC 2675), which is an error next to any 16-bit length.
fn has_jumbo_option(header: &[u8]) -> bool {
    const JUMBO: u8 = 0xc2;
    let mut options = header.get(2..).unwrap_or_default();
    while let Some((&kind, after_kind)) = options.split_first() {
        options = match (kind, after_kind.first()) {
            (JUMBO, _) => return true,
            (0, _) => after_kind,
            (_, Some(&len)) => options.get(usize::from(len) + 2..).unwrap_or_default(),
            (_, None) => break,
        };
    }
    false
}

/// What stands in `segment`, and its ports. Breaks the frame only for a first fragment too short to be judged; other defects
/// are [`Kind::Bad`].
#[inline(always)]
fn transport(
    segment: &[u8],
    protocol: u8,
    fragment: Option<Fragment>,
    v6: bool,
) -> Result<(Kind, u16, u16), Malformed> {
    if let Some(fragment) = fragment {
        if fragment.offset != 0 {
            return Ok((Kind::LaterFragment, 0, 0));
        }
        let least = match protocol {
            TCP => TCP_FIRST_FRAGMENT_MIN,
            UDP => UDP_LEN,
            _ => 0,
        };
        if segment.len() < least {
            return Err(Malformed::BadFragment);
        }
    }
    let whole = fragment.is_none();
    Ok(match protocol {
        TCP => tcp(segment, whole),
        UDP => udp(segment, whole),
        ICMP if !v6 => (icmp(segment), 0, 0),
        ICMPV6 if v6 => match icmpv6(segment) {
            // Nobody takes it in fragments (RFC 6980 section 5).
            Kind::NeighbourDiscovery if !whole => (Kind::IcmpOther, 0, 0),
            kind => (kind, 0, 0),
        },
        _ => (Kind::Other, 0, 0),
    })
}

#[inline]
fn tcp(segment: &[u8], whole: bool) -> (Kind, u16, u16) {
    const BAD: (Kind, u16, u16) = (Kind::Bad(BadTransport::BadTcp), 0, 0);
    let Some(fixed) = segment.first_chunk::<TCP_FIRST_FRAGMENT_MIN>() else { return BAD };
    let header_len = usize::from(fixed[12] >> 4) * 4;
    // Of a first fragment the rest of the header may be in the next one.
    if header_len < TCP_LEN || (whole && header_len > segment.len()) {
        return BAD;
    }
    let (sport, dport) = ([fixed[0], fixed[1]], [fixed[2], fixed[3]]);
    (Kind::Tcp(TcpFlags(fixed[13])), u16::from_be_bytes(sport), u16::from_be_bytes(dport))
}

#[inline]
fn udp(segment: &[u8], whole: bool) -> (Kind, u16, u16) {
    const BAD: (Kind, u16, u16) = (Kind::Bad(BadTransport::BadUdp), 0, 0);
    let Some(header) = segment.first_chunk::<UDP_LEN>() else { return BAD };
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if len < UDP_LEN || (whole && len > segment.len()) {
        return BAD;
    }
    let (sport, dport) = ([header[0], header[1]], [header[2], header[3]]);
    (Kind::Udp, u16::from_be_bytes(sport), u16::from_be_bytes(dport))
}

#[cold]
fn icmp(message: &[u8]) -> Kind {
    let Some((header, quote)) = message.split_first_chunk::<ICMP_LEN>() else {
        return Kind::Bad(BadTransport::BadIcmp);
    };
    match (header[0], header[1]) {
        (8, 0) => Kind::EchoRequest,
        // Destination unreachable, time exceeded, parameter problem. Source quench is deprecated (RFC 6633); a redirect
        // is for the host that has the route.
        (3 | 11 | 12, _) => error(quoted_ipv4(quote).is_some()),
        _ => Kind::IcmpOther,
    }
}

#[cold]
fn icmpv6(message: &[u8]) -> Kind {
    let Some((header, quote)) = message.split_first_chunk::<ICMP_LEN>() else {
        return Kind::Bad(BadTransport::BadIcmp);
    };
    match (header[0], header[1]) {
        (128, 0) => Kind::EchoRequest,
        (1..=4, _) => error(quoted_ipv6(quote).is_some()),
        (133..=137, _) => Kind::NeighbourDiscovery,
        _ => Kind::IcmpOther,
    }
}

/// An error that names a flow, or is of no use.
const fn error(names_flow: bool) -> Kind {
    if names_flow { Kind::IcmpError } else { Kind::Bad(BadTransport::BadIcmp) }
}

/// The flow of a quoted IPv4 packet. Its checksum and total length are not looked at: routers on the way changed the TTL,
/// some stacks swap the length, and most quote only the first bytes.
fn quoted_ipv4(quote: &[u8]) -> Option<Quoted> {
    let fixed = quote.first_chunk::<IPV4_LEN>()?;
    let header_len = usize::from(fixed[0] & 0x0f) * 4;
    let later = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1fff != 0;
    if fixed[0] >> 4 != 4 || header_len < IPV4_LEN || later {
        return None;
    }
    let protocol = fixed[9];
    let (sport, dport) = quoted_ports(quote.get(header_len..)?, protocol)?;
    let src = Addr::V4(u32::from_be_bytes([fixed[12], fixed[13], fixed[14], fixed[15]]));
    let dst = Addr::V4(u32::from_be_bytes([fixed[16], fixed[17], fixed[18], fixed[19]]));
    Some(Quoted { src: (src, sport), dst: (dst, dport), protocol })
}

fn quoted_ipv6(quote: &[u8]) -> Option<Quoted> {
    let fixed = quote.first_chunk::<IPV6_LEN>()?;
    if fixed[0] >> 4 != 6 {
        return None;
    }
    let chain = Chain::follow(quote, fixed[6]).ok()?;
    if chain.fragment.is_some_and(|(fragment, _)| fragment.offset != 0) {
        return None;
    }
    let (sport, dport) = quoted_ports(quote.get(chain.l4..)?, chain.protocol)?;
    let (src, dst) = v6_addresses(fixed);
    Some(Quoted { src: (src, sport), dst: (dst, dport), protocol: chain.protocol })
}

fn quoted_ports(segment: &[u8], protocol: u8) -> Option<(u16, u16)> {
    match protocol {
        TCP | UDP => Some((field::word(segment, 0)?, field::word(segment, 2)?)),
        _ => Some((0, 0)),
    }
}

/// An offset that was checked to be at most the datagram's end, which fits.
#[expect(clippy::cast_possible_truncation, reason = "at most `end`, which was converted with a check")]
const fn position(at: usize) -> u16 {
    debug_assert!(at <= LENGTH_MAX);
    at as u16
}

#[cfg(test)]
mod tests;
