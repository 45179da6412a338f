//! Answers that the balancer originates for a VIP: echo reply, "packet too big", port unreachable, TCP reset.
//!
//! Each function writes a complete frame into `out` and returns its length: Ethernet back to the request's source MAC
//! address, from `mac`, with the request's VLAN tags, IP from the VIP (the request's destination) to its source, without options or
//! extension headers, TTL or hop limit 64. Short frames are not padded; the device does that. `None` when `out` is too short, or
//! when no answer may be sent (RFC 1122 section 3.2.2, RFC 4443 section 2.4): to an ICMP error or redirect, to a later fragment but of an echo request, to a
//! broken transport header, to or from a broadcast or multicast address (IP or MAC), or to an address that is not one other host's.

use crate::parse::{
    self, ETHERNET_LEN, Fragment, ICMP_LEN, IPV4_LEN, IPV6_LEN, Kind, Parsed, TAGS_MAX, TcpFlags,
};
use crate::{Addr, checksum, field};

/// Longest answer except an echo reply, bytes: Ethernet, two tags, and the 1280 bytes of an ICMPv6 error. An echo reply is at most
/// as long as its request.
pub const REPLY_MAX: usize = ETHERNET_LEN + TAGS_MAX * 4 + ICMPV6_ERROR_MAX;

/// An ICMP error as a whole is at most as long as what every host takes (RFC 1812 section 4.3.2.3).
const ICMP_ERROR_MAX: usize = 576;
/// An ICMPv6 error as a whole is at most as long as the smallest MTU (RFC 4443 section 2.4 c).
const ICMPV6_ERROR_MAX: usize = 1280;
const TCP_LEN: usize = 20;
const HOPS: u8 = 64;

/// Echo reply (RFC 792, RFC 4443 section 4.2), with type of service, identification and don't-fragment of the request.
///
/// Also `None` when the request is not a whole echo request with a correct checksum.
pub fn echo(frame: &[u8], p: &Parsed, mac: [u8; 6], out: &mut [u8]) -> Option<usize> {
    if p.kind != Kind::EchoRequest || p.fragment.is_some() || !may_answer(frame, p) {
        return None;
    }
    let request = frame.get(usize::from(p.l4)..usize::from(p.end))?;
    let (reply_type, protocol) = if p.is_v6() { (129, parse::ICMPV6) } else { (0, parse::ICMP) };
    // Swapped addresses have the same sum, so it serves for both directions.
    let pseudo = pseudo_header_sum(frame, p, protocol, request.len())?;
    if checksum::fold(pseudo + checksum::sum(request)) != 0xffff {
        return None;
    }
    let identity = if p.v6 { 0 } else { field::long(frame, usize::from(p.l3) + 4)? & 0xffff_4000 };
    let headers = Headers { protocol, tos: p.tos, identity, payload_len: request.len() };
    let (message, len) = headers.write(frame, p, mac, out)?;
    field::put(message, 0, request)?;
    field::put(message, 0, &[reply_type, 0, 0, 0])?;
    let check = !checksum::fold(pseudo + checksum::sum(message));
    field::put(message, 2, &check.to_be_bytes())?;
    Some(len)
}

/// The part of an echo reply that answers one piece of an echo request in fragments, so that all of the data comes back (RFC 1122
/// section 3.2.2.6) although nobody puts the request together: the type is all that changes, which is in the first piece like the
/// checksum (RFC 1624), and swapped addresses have the same sum. A request with a wrong checksum gets a reply with a wrong one.
///
/// Identification and offset are the request's: its sender does not use one twice, so the VIP does not either. That a later piece
/// belongs to a request that [`is_echo_in_pieces`] the caller has to know.
pub fn echo_piece(frame: &[u8], p: &Parsed, mac: [u8; 6], out: &mut [u8]) -> Option<usize> {
    let fragment = p.fragment?;
    let is_first = fragment.offset == 0;
    if is_first && !is_echo_in_pieces(frame, p) || !may_answer_sender(frame, p) {
        return None;
    }
    let piece = frame.get(usize::from(p.l4)..usize::from(p.end))?;
    let before = if p.v6 { parse::FRAGMENT_LEN } else { 0 };
    let (reply_type, protocol) = if p.v6 { (129, parse::FRAGMENT) } else { (0, parse::ICMP) };
    let identity = if p.v6 { 0 } else { field::long(frame, usize::from(p.l3) + 4)? & 0xffff_7fff };
    let headers = Headers { protocol, tos: p.tos, identity, payload_len: before + piece.len() };
    let (payload, len) = headers.write(frame, p, mac, out)?;
    if p.v6 {
        let offset_and_more = fragment.offset | u16::from(fragment.more);
        field::put(payload, 0, &[parse::ICMPV6, 0])?;
        field::put(payload, 2, &offset_and_more.to_be_bytes())?;
        field::put(payload, 4, &fragment.id.to_be_bytes())?;
    }
    let payload = payload.get_mut(before..)?;
    field::put(payload, 0, piece)?;
    if is_first {
        let check = checksum::update16(
            field::word(piece, 2)?,
            field::word(piece, 0)?,
            u16::from_be_bytes([reply_type, 0]),
        );
        // Of the two zeros of ones' complement this one is right for a message that is nothing but zeros, too.
        let check = if check == 0 { 0xffff } else { check };
        field::put(payload, 0, &[reply_type, 0])?;
        field::put(payload, 2, &check.to_be_bytes())?;
    }
    Some(len)
}

/// Whether this is the first piece of an echo request that can be answered by [`echo_piece`]. Not with IPv6 extension headers
/// behind the fragment header: a reply has none, so its pieces would have other offsets.
pub fn is_echo_in_pieces(frame: &[u8], p: &Parsed) -> bool {
    let Some(Fragment { id, offset: 0, .. }) = p.fragment else { return false };
    let fragment_header = usize::from(p.l4).saturating_sub(parse::FRAGMENT_LEN);
    let is_next_to_it = || {
        field::byte(frame, fragment_header) == Some(parse::ICMPV6)
            && field::long(frame, fragment_header + 4) == Some(id)
    };
    p.kind == Kind::EchoRequest && (!p.v6 || is_next_to_it())
}

/// "Fragmentation needed" (RFC 1191) or "packet too big" (RFC 4443 section 3.2), naming an `mtu` in bytes of IP, and quoting as much of the
/// packet as the answer may hold.
pub fn too_big(frame: &[u8], p: &Parsed, mac: [u8; 6], mtu: u16, out: &mut [u8]) -> Option<usize> {
    let type_and_code = if p.is_v6() { [2, 0] } else { [3, 4] };
    icmp_error(frame, p, mac, type_and_code, u32::from(mtu), out)
}

/// "Port unreachable" (RFC 1122 section 4.1.3.1, RFC 4443 section 3.1), quoting as much of the packet as the answer may hold.
pub fn port_unreachable(frame: &[u8], p: &Parsed, mac: [u8; 6], out: &mut [u8]) -> Option<usize> {
    let type_and_code = if p.is_v6() { [1, 4] } else { [3, 3] };
    icmp_error(frame, p, mac, type_and_code, 0, out)
}

/// The reset of a segment that belongs to no connection (RFC 9293 section 3.10.7.1): never to a reset; with the segment's
/// acknowledgement number as sequence number, or else acknowledging the segment.
///
/// Also `None` for anything but TCP, and for a first fragment without ACK, the length of which is not known.
pub fn tcp_reset(frame: &[u8], p: &Parsed, mac: [u8; 6], out: &mut [u8]) -> Option<usize> {
    let Kind::Tcp(flags) = p.kind else { return None };
    if flags.0 & TcpFlags::RST != 0 || !may_answer(frame, p) {
        return None;
    }
    let segment = frame.get(usize::from(p.l4)..usize::from(p.end))?;
    let (seq, ack, reset_flags) = if flags.0 & TcpFlags::ACK != 0 {
        (field::long(segment, 8)?, 0, TcpFlags::RST)
    } else if p.fragment.is_none() {
        let header_len = usize::from(field::byte(segment, 12)? >> 4) * 4;
        let data_len = u32::try_from(segment.len().checked_sub(header_len)?).ok()?;
        let controls = (flags.0 & (TcpFlags::SYN | TcpFlags::FIN)).count_ones();
        (0, field::long(segment, 4)?.wrapping_add(data_len + controls), TcpFlags::RST | TcpFlags::ACK)
    } else {
        return None;
    };
    // DSCP is the connection's; ECN is not for control packets (RFC 3168 section 6.1).
    let headers =
        Headers { protocol: parse::TCP, tos: p.tos & 0xfc, identity: DONT_FRAGMENT, payload_len: TCP_LEN };
    let (reset, len) = headers.write(frame, p, mac, out)?;
    field::put(reset, 0, &p.dport.to_be_bytes())?;
    field::put(reset, 2, &p.sport.to_be_bytes())?;
    field::put(reset, 4, &seq.to_be_bytes())?;
    field::put(reset, 8, &ack.to_be_bytes())?;
    field::put(reset, 12, &[0x50, reset_flags, 0, 0, 0, 0, 0, 0])?;
    let pseudo =
        checksum::pseudo_header_sum(p.dst(frame), p.src(frame), parse::TCP, u32::try_from(TCP_LEN).ok()?);
    let check = !checksum::fold(pseudo + checksum::sum(reset));
    field::put(reset, 16, &check.to_be_bytes())?;
    Some(len)
}

fn icmp_error(
    frame: &[u8],
    p: &Parsed,
    mac: [u8; 6],
    type_and_code: [u8; 2],
    rest: u32,
    out: &mut [u8],
) -> Option<usize> {
    if !may_answer(frame, p) || is_error_or_redirect(frame, p) {
        return None;
    }
    let (protocol, quote_max) = if p.is_v6() {
        (parse::ICMPV6, ICMPV6_ERROR_MAX - IPV6_LEN - ICMP_LEN)
    } else {
        (parse::ICMP, ICMP_ERROR_MAX - IPV4_LEN - ICMP_LEN)
    };
    let datagram = frame.get(usize::from(p.l3)..usize::from(p.end))?;
    let quote = datagram.get(..quote_max).unwrap_or(datagram);
    // Errors are sent with type of service 0 (RFC 1122 section 3.2.1.6).
    let headers = Headers { protocol, tos: 0, identity: DONT_FRAGMENT, payload_len: ICMP_LEN + quote.len() };
    let (message, len) = headers.write(frame, p, mac, out)?;
    field::put(message, 0, &type_and_code)?;
    field::put(message, 2, &[0, 0])?;
    field::put(message, 4, &rest.to_be_bytes())?;
    field::put(message, ICMP_LEN, quote)?;
    let pseudo = pseudo_header_sum(frame, p, protocol, message.len())?;
    let check = !checksum::fold(pseudo + checksum::sum(message));
    field::put(message, 2, &check.to_be_bytes())?;
    Some(len)
}

/// Only ICMPv6 has a pseudo-header.
fn pseudo_header_sum(frame: &[u8], p: &Parsed, protocol: u8, len: usize) -> Option<u32> {
    if !p.is_v6() {
        return Some(0);
    }
    Some(checksum::pseudo_header_sum(p.dst(frame), p.src(frame), protocol, u32::try_from(len).ok()?))
}

/// The rules common to all answers.
fn may_answer(frame: &[u8], p: &Parsed) -> bool {
    let later = matches!(p.fragment, Some(Fragment { offset: 1.., .. }));
    !later && !matches!(p.kind, Kind::Bad(_)) && may_answer_sender(frame, p)
}

/// Those of them that look at addresses.
fn may_answer_sender(frame: &[u8], p: &Parsed) -> bool {
    const GROUP: u8 = 1;
    let group_mac = |at| field::byte(frame, at).is_none_or(|first| first & GROUP != 0);
    !group_mac(0)
        && !group_mac(6)
        && p.src(frame) != p.dst(frame)
        && is_one_host(p.src(frame))
        && is_one_host(p.dst(frame))
}

/// Whether an address can be that of one host elsewhere (RFC 1122 section 3.2.2): not zero, loopback, multicast, broadcast or class E.
fn is_one_host(address: Addr) -> bool {
    match address {
        Addr::V4(a) => !matches!(a >> 24, 0 | 127 | 224..),
        Addr::V6(a) => a > 1 && a >> 120 != 0xff,
    }
}

/// ICMP errors, also of types that are not steered by, and redirects; of a first fragment too.
fn is_error_or_redirect(frame: &[u8], p: &Parsed) -> bool {
    let icmp_type = || field::byte(frame, usize::from(p.l4));
    match p.kind {
        Kind::IcmpError | Kind::NeighbourDiscovery => true,
        Kind::IcmpOther if p.is_v6() => icmp_type().is_none_or(|t| t < 128),
        Kind::IcmpOther => icmp_type().is_none_or(|t| matches!(t, 3 | 4 | 5 | 11 | 12)),
        _ => false,
    }
}

/// Don't-fragment in an otherwise zero second word of the IPv4 header: identification 0 is fine for it (RFC 6864 section 4.1).
const DONT_FRAGMENT: u32 = 0x4000;

/// What differs between the IP headers of answers.
struct Headers {
    protocol: u8,
    tos: u8,
    /// Second word of the IPv4 header: identification, flags, offset. Not used for IPv6.
    identity: u32,
    payload_len: usize,
}

impl Headers {
    /// Writes Ethernet, tags and IP; returns the space behind and the frame's length.
    fn write<'a>(
        &self,
        frame: &[u8],
        p: &Parsed,
        mac: [u8; 6],
        out: &'a mut [u8],
    ) -> Option<(&'a mut [u8], usize)> {
        let l3 = usize::from(p.l3);
        let ip_len = if p.is_v6() { IPV6_LEN } else { IPV4_LEN };
        let len = l3 + ip_len + self.payload_len;
        let out = out.get_mut(..len)?;
        field::put(out, 0, frame.get(6..12)?)?;
        field::put(out, 6, &mac)?;
        field::put(out, 12, frame.get(12..l3)?)?;
        let (header, payload) = out.get_mut(l3..)?.split_at_mut_checked(ip_len)?;
        // The answer goes from the request's destination to its source.
        match (p.dst(frame), p.src(frame)) {
            (Addr::V4(src), Addr::V4(dst)) => {
                let total_len = u16::try_from(ip_len + self.payload_len).ok()?;
                field::put(header, 0, &[0x45, self.tos])?;
                field::put(header, 2, &total_len.to_be_bytes())?;
                field::put(header, 4, &self.identity.to_be_bytes())?;
                field::put(header, 8, &[HOPS, self.protocol, 0, 0])?;
                field::put(header, 12, &src.to_be_bytes())?;
                field::put(header, 16, &dst.to_be_bytes())?;
                let check = checksum::checksum(header);
                field::put(header, 10, &check.to_be_bytes())?;
            }
            (Addr::V6(src), Addr::V6(dst)) => {
                let payload_len = u16::try_from(self.payload_len).ok()?;
                field::put(header, 0, &(0x6000_0000 | u32::from(self.tos) << 20).to_be_bytes())?;
                field::put(header, 4, &payload_len.to_be_bytes())?;
                field::put(header, 6, &[self.protocol, HOPS])?;
                field::put(header, 8, &src.to_be_bytes())?;
                field::put(header, 24, &dst.to_be_bytes())?;
            }
            _ => return None,
        }
        Some((payload, len))
    }
}

#[cfg(test)]
mod tests;
