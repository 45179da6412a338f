//! What a router between here and a backend says of a packet that we sent through a tunnel: "fragmentation needed" (RFC 1191) and
//! "packet too big" (RFC 4443 section 3.2), about the outer packet and to its source.

use crate::encap::TunnelHeader;
use crate::parse::{ICMP, ICMP_LEN, ICMPV6, IPV4_LEN, IPV6_LEN, Kind, Parsed};
use crate::{Addr, checksum, field};

/// Assumed of a router that names no MTU (RFC 1191 section 5).
const MTU_UNNAMED: u16 = 576;

/// Such an error, as far as it can be judged alone.
#[derive(Clone, Copy, Debug)]
pub struct TooBig<'f> {
    /// The next link's MTU, bytes of IP; what does not fit 16 bits is the largest that does.
    pub mtu: u16,
    /// Where the quoted packet was going.
    pub destination: Addr,
    quote: &'f [u8],
}

/// Reads one in `frame`. `None` for anything else: another kind, in fragments, with a wrong checksum, sent to another than the
/// quoted packet's source, or about a packet that would have fitted.
#[cold]
pub fn too_big<'f>(frame: &'f [u8], p: &Parsed) -> Option<TooBig<'f>> {
    if p.kind != Kind::IcmpError || p.fragment.is_some() {
        return None;
    }
    let quoted = p.quoted(frame)?;
    let message = frame.get(usize::from(p.l4)..usize::from(p.end))?;
    let quote = message.get(ICMP_LEN..)?;
    let (is_it, named, pseudo, len) = if p.v6 {
        let named = u16::try_from(field::long(message, 4)?).unwrap_or(u16::MAX);
        let len = u32::try_from(message.len()).ok()?;
        let pseudo = checksum::pseudo_header_sum(p.src(frame), p.dst(frame), ICMPV6, len);
        (message.first() == Some(&2), named, pseudo, field::word(quote, 4)?.saturating_add(40))
    } else {
        debug_assert_eq!(p.protocol, ICMP);
        (message.starts_with(&[3, 4]), field::word(message, 6)?, 0, field::word(quote, 2)?)
    };
    let is_sound = checksum::fold(pseudo + checksum::sum(message)) == 0xffff;
    if !is_it || !is_sound || quoted.src.0 != p.dst(frame) || len <= named {
        return None;
    }
    let mtu = if named == 0 { MTU_UNNAMED } else { named };
    Some(TooBig { mtu, destination: quoted.dst.0, quote })
}

impl TooBig<'_> {
    /// Whether the quoted packet may be one that was sent behind this header, to an inner destination that is admitted; where less
    /// than that is quoted, what is quoted decides.
    pub fn is_about(&self, header: &TunnelHeader, admits: impl Fn(Addr) -> bool) -> bool {
        let Some(inner) = header.after_quoted(self.quote) else { return false };
        let destination = match inner.first().map(|first| first >> 4) {
            None => return true,
            Some(4) if inner.len() >= IPV4_LEN => field::long(inner, 16).map(Addr::V4),
            Some(6) if inner.len() >= IPV6_LEN => {
                field::chunk(inner, 24).map(|address| Addr::V6(u128::from_be_bytes(address)))
            }
            Some(4 | 6) => return true,
            Some(_) => return false,
        };
        destination.is_some_and(admits)
    }
}

#[cfg(test)]
mod tests;
