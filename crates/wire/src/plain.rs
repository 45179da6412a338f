//! The shapes that almost every packet has: no tag, no IPv4 option or IPv6 extension, not a fragment, TCP or UDP, nothing
//! wrong.

use crate::addr::Addr;
use crate::field;
use crate::key::Tuple;
use crate::parse::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN, Kind, Parsed, TCP, TcpFlags, UDP};

const TCP_LEN: usize = 20;
const UDP_LEN: usize = 8;
/// Where IPv4's payload begins.
const L4: usize = ETHERNET_LEN + IPV4_LEN;
/// Where IPv6's does.
const L4_V6: usize = ETHERNET_LEN + IPV6_LEN;
/// A frame of this shape is at least this long: with a whole TCP header, so that all fields are read without another look
/// at the length. Ethernet's shortest frame is longer; a shorter one is left to [`parse`](crate::parse::parse).
const SHORTEST: usize = L4 + TCP_LEN;
const SHORTEST_V6: usize = L4_V6 + TCP_LEN;
/// Offsets have 16 bits. No buffer of a device holds more, so this costs nothing where its length has 16 bits too.
const LONGEST: usize = u16::MAX as usize;

/// The tuple of a frame that was read as [`Plain`] or [`PlainV6`], also when its padding has been cut off since: a short UDP
/// datagram is shorter than the shortest frame that these read. Zero from any other frame.
#[inline]
pub fn tuple(frame: &[u8]) -> Tuple {
    let short = |at| field::word(frame, at).unwrap_or_default();
    let byte = |at| field::byte(frame, at).unwrap_or_default();
    if byte(ETHERNET_LEN) >> 4 == 6 {
        let address = |at| Addr::V6(field::chunk(frame, at).map_or(0, u128::from_be_bytes));
        let (sport, dport) = (short(L4_V6), short(L4_V6 + 2));
        Tuple { src: address(22), dst: address(38), sport, dport, protocol: byte(20) }
    } else {
        let address = |at| Addr::V4(field::long(frame, at).unwrap_or_default());
        let (sport, dport) = (short(L4), short(L4 + 2));
        Tuple { src: address(26), dst: address(30), sport, dport, protocol: byte(23) }
    }
}

/// Such a packet of IPv4, in registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plain {
    /// Source address.
    pub src: u32,
    /// Destination address.
    pub dst: u32,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Bytes of the datagram, at most 65521; what follows it is Ethernet padding.
    pub len: u16,
    /// TCP or UDP.
    pub protocol: u8,
    /// Type of service.
    pub tos: u8,
    /// None for UDP.
    pub flags: TcpFlags,
    /// Don't-fragment.
    pub dont_fragment: bool,
}

impl Plain {
    /// Reads `frame` if it has this shape. `None` says only that [`parse`](crate::parse::parse) has to look; where both
    /// answer, they agree. A sixth of its instructions.
    #[inline(always)]
    pub fn read(frame: &[u8]) -> Option<Plain> {
        let datagram = PlainIpv4::read(frame)?;
        match datagram.protocol() {
            TCP => datagram.plain::<TCP>(),
            UDP => datagram.plain::<UDP>(),
            _ => None,
        }
    }

    /// The packet as [`parse`](crate::parse::parse) describes it.
    #[inline]
    pub fn parsed(&self) -> Parsed {
        Parsed {
            l3: 14,
            l4: 34,
            end: self.len + 14,
            sport: self.sport,
            dport: self.dport,
            protocol: self.protocol,
            v6: false,
            tos: self.tos,
            dont_fragment: self.dont_fragment,
            fragment: None,
            kind: if self.protocol == TCP { Kind::Tcp(self.flags) } else { Kind::Udp },
        }
    }
}

/// The IPv4 half of reading a [`Plain`]: apart, so that a caller whose work depends on the protocol decides only once.
#[derive(Clone, Copy, Debug)]
pub struct PlainIpv4<'f> {
    head: &'f [u8; SHORTEST],
    /// The header in three words, from which all fields are taken: single fields would be single loads.
    first: u64,
    second: u64,
    third: u32,
    len: u16,
}

impl<'f> PlainIpv4<'f> {
    /// An IPv4 header of the plain shape, of any protocol.
    #[expect(clippy::cast_possible_truncation, reason = "fields are cut out of words")]
    #[inline(always)]
    pub fn read(frame: &'f [u8]) -> Option<PlainIpv4<'f>> {
        /// Version and header length; more-fragments and offset.
        const SHAPE: u64 = u64::from_le_bytes([0xff, 0, 0, 0, 0, 0, 0x3f, 0xff]);
        let head = frame.first_chunk::<SHORTEST>()?;
        let first = u64::from_le_bytes(*head.get(14..)?.first_chunk()?);
        let second = u64::from_le_bytes(*head.get(22..)?.first_chunk()?);
        let third = u32::from_le_bytes(*head.get(30..)?.first_chunk()?);
        if first & SHAPE != 0x45 || [head[12], head[13]] != [8, 0] {
            return None;
        }
        let len = ((first >> 16) as u16).swap_bytes();
        if usize::from(len) + ETHERNET_LEN > frame.len() || frame.len() > LONGEST {
            return None;
        }
        let lives = second & 0xff != 0;
        (lives && is_checksum_right(first, second, third)).then_some(PlainIpv4 {
            head,
            first,
            second,
            third,
            len,
        })
    }

    /// Its protocol.
    #[expect(clippy::cast_possible_truncation, reason = "a field is cut out of a word")]
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        (self.second >> 8) as u8
    }

    /// The rest, for [`TCP`] or [`UDP`] as [`protocol`](PlainIpv4::protocol) says; `None` for any other.
    #[expect(clippy::cast_possible_truncation, reason = "fields are cut out of words")]
    #[inline(always)]
    pub fn plain<const PROTOCOL: u8>(&self) -> Option<Plain> {
        let header = self.head.get(L4..)?.first_chunk()?;
        let flags = transport(PROTOCOL, header, L4, usize::from(self.len) + ETHERNET_LEN)?;
        let ports = u32::from_be_bytes(*header.first_chunk()?);
        Some(Plain {
            src: ((self.second >> 32) as u32).swap_bytes(),
            dst: self.third.swap_bytes(),
            sport: (ports >> 16) as u16,
            dport: ports as u16,
            len: self.len,
            protocol: PROTOCOL,
            tos: (self.first >> 8) as u8,
            flags,
            dont_fragment: self.first & 0x40 << 48 != 0,
        })
    }
}

/// Such a packet of IPv6, in registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlainV6 {
    /// Source address.
    pub src: u128,
    /// Destination address.
    pub dst: u128,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Bytes of the datagram, header included, at most 65521.
    pub len: u16,
    /// TCP or UDP.
    pub protocol: u8,
    /// Traffic class.
    pub tos: u8,
    /// None for UDP.
    pub flags: TcpFlags,
}

impl PlainV6 {
    /// As [`Plain::read`].
    #[inline(always)]
    pub fn read(frame: &[u8]) -> Option<PlainV6> {
        let head = frame.first_chunk::<SHORTEST_V6>()?;
        let payload_len = u16::from_be_bytes([head[18], head[19]]);
        let end = usize::from(payload_len) + L4_V6;
        if [head[12], head[13], head[14] & 0xf0] != [0x86, 0xdd, 0x60]
            || end > frame.len()
            || frame.len() > LONGEST
            || head[21] == 0
        {
            return None;
        }
        let protocol = head[20];
        let flags = transport(protocol, head.get(L4_V6..)?.first_chunk()?, L4_V6, end)?;
        Some(PlainV6 {
            src: u128::from_be_bytes(*head.get(22..)?.first_chunk()?),
            dst: u128::from_be_bytes(*head.get(38..)?.first_chunk()?),
            sport: u16::from_be_bytes([head[54], head[55]]),
            dport: u16::from_be_bytes([head[56], head[57]]),
            len: payload_len + 40,
            protocol,
            tos: head[14] << 4 | head[15] >> 4,
            flags,
        })
    }

    /// As [`Plain::parsed`].
    #[inline]
    pub fn parsed(&self) -> Parsed {
        Parsed {
            l3: 14,
            l4: 54,
            end: self.len + 14,
            sport: self.sport,
            dport: self.dport,
            protocol: self.protocol,
            v6: true,
            tos: self.tos,
            dont_fragment: true,
            fragment: None,
            kind: if self.protocol == TCP { Kind::Tcp(self.flags) } else { Kind::Udp },
        }
    }
}

/// The flags of the TCP header at `l4`, no flags for a UDP header, if what it says of lengths fits a datagram that ends at `end`.
#[inline(always)]
fn transport(protocol: u8, header: &[u8; TCP_LEN], l4: usize, end: usize) -> Option<TcpFlags> {
    match protocol {
        TCP => {
            let len = usize::from(header[12] >> 4) * 4;
            (len >= TCP_LEN && l4 + len <= end).then_some(TcpFlags(header[13]))
        }
        UDP => {
            let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
            (len >= UDP_LEN && l4 + len <= end).then_some(TcpFlags(0))
        }
        _ => None,
    }
}

/// Of a header of 20 bytes. The sum's byte order does not matter (RFC 1071 section 2 B), nor the width of the words summed
/// as long as carries come round (section 2 C), so words are taken as they lie and as wide as they come.
#[inline(always)]
const fn is_checksum_right(first: u64, second: u64, third: u32) -> bool {
    let (sum, carry) = first.overflowing_add(second);
    let (sum, again) = sum.overflowing_add(third as u64 + carry as u64);
    let sum = sum.wrapping_add(again as u64);
    // The upper half of a value plus itself turned by half is the sum of its halves, carry included.
    let half = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    half.wrapping_add(half.rotate_left(16)) >> 16 == 0xffff
}
