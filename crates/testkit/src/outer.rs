//! The outermost headers of a frame, found and checked without the engine's parser.

use crate::frames::{internet_checksum, pseudo_header};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where things are in a frame, seen from outside: no look into tunnels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameLayout {
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of what follows the IP header and its extension headers.
    pub l4: usize,
    /// One past the datagram's last byte.
    pub end: usize,
    /// Protocol behind the extension headers.
    pub protocol: u8,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Type of service or traffic class.
    pub tos: u8,
    /// Offset of a fragment's piece and whether more follow; `None` for a whole datagram.
    pub fragment: Option<(usize, bool)>,
}

/// Reads and checks layer 2 and 3: lengths consistent, IPv4 header checksum right, nothing behind the datagram.
///
/// # Errors
/// What is wrong, in words.
pub fn outer(frame: &[u8]) -> Result<FrameLayout, String> {
    let outer = locate(frame)?;
    if outer.end != frame.len() {
        return Err(format!("{} bytes behind the datagram", frame.len() - outer.end));
    }
    Ok(outer)
}

/// As [`outer`], but padding behind the datagram is allowed.
///
/// # Errors
/// What is wrong, in words.
pub fn locate(frame: &[u8]) -> Result<FrameLayout, String> {
    let mut at = 12;
    let ethertype = loop {
        let kind = be16(frame, at)?;
        at += 2;
        match kind {
            0x8100 | 0x88a8 | 0x9100 => at += 2,
            kind => break kind,
        }
    };
    let l3 = at;
    match ethertype {
        0x0800 => ipv4(frame, l3),
        0x86dd => ipv6(frame, l3),
        other => Err(format!("ethertype {other:#06x} is not IP")),
    }
}

fn ipv4(frame: &[u8], l3: usize) -> Result<FrameLayout, String> {
    let header = frame.get(l3..l3 + 20).ok_or("frame ends in the IPv4 header")?;
    if header[0] >> 4 != 4 {
        return Err(format!("version {} behind ethertype IPv4", header[0] >> 4));
    }
    let header_len = usize::from(header[0] & 15) * 4;
    let total = usize::from(be16(frame, l3 + 2)?);
    if header_len < 20 || total < header_len || l3 + total > frame.len() {
        let room = frame.len() - l3;
        return Err(format!("IPv4 header {header_len}, total length {total}, {room} bytes of frame"));
    }
    if internet_checksum(&frame[l3..l3 + header_len]) != 0 {
        return Err("IPv4 header checksum is wrong".into());
    }
    let field = be16(frame, l3 + 6)?;
    let (offset, more) = (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0);
    let v4 = |at: usize| {
        let b = &frame[l3 + at..l3 + at + 4];
        IpAddr::V4(Ipv4Addr::new(b[0], b[1], b[2], b[3]))
    };
    Ok(FrameLayout {
        l3,
        l4: l3 + header_len,
        end: l3 + total,
        protocol: header[9],
        src: v4(12),
        dst: v4(16),
        tos: header[1],
        fragment: (offset > 0 || more).then_some((offset, more)),
    })
}

fn ipv6(frame: &[u8], l3: usize) -> Result<FrameLayout, String> {
    let header = frame.get(l3..l3 + 40).ok_or("frame ends in the IPv6 header")?;
    if header[0] >> 4 != 6 {
        return Err(format!("version {} behind ethertype IPv6", header[0] >> 4));
    }
    let end = l3 + 40 + usize::from(be16(frame, l3 + 4)?);
    if end > frame.len() {
        return Err(format!("IPv6 payload ends at {end}, the frame at {}", frame.len()));
    }
    let v6 = |at: usize| -> Result<IpAddr, String> {
        let b: [u8; 16] =
            frame[l3 + at..l3 + at + 16].try_into().map_err(|_| "frame ends in the IPv6 header")?;
        Ok(IpAddr::V6(Ipv6Addr::from(b)))
    };
    let mut next = header[6];
    let mut l4 = l3 + 40;
    let mut fragment = None;
    while matches!(next, 0 | 43 | 44 | 51 | 60) {
        let here = frame.get(l4..l4 + 8).filter(|_| l4 + 8 <= end).ok_or("an extension header is cut")?;
        let len = match next {
            44 => {
                let field = be16(frame, l4 + 2)?;
                let (offset, more) = (usize::from(field & 0xfff8), field & 1 != 0);
                if offset > 0 || more {
                    fragment = Some((offset, more));
                }
                8
            }
            51 => (usize::from(here[1]) + 2) * 4,
            _ => (usize::from(here[1]) + 1) * 8,
        };
        next = here[0];
        l4 += len;
        if l4 > end {
            return Err("an extension header runs past the datagram".into());
        }
        if fragment.is_some_and(|(offset, _)| offset > 0) {
            break;
        }
    }
    Ok(FrameLayout {
        l3,
        l4,
        end,
        protocol: next,
        src: v6(8)?,
        dst: v6(24)?,
        tos: header[0] << 4 | header[1] >> 4,
        fragment,
    })
}

/// Whether the checksum of a TCP, UDP or ICMP datagram is right; a UDP checksum of 0 counts as right.
///
/// # Errors
/// Which checksum is wrong.
pub fn check_transport(frame: &[u8], outer: &FrameLayout) -> Result<(), String> {
    let body = &frame[outer.l4..outer.end];
    if outer.fragment.is_some() {
        return Ok(());
    }
    let pseudo = match outer.protocol {
        1 => Vec::new(),
        6 | 58 => pseudo_header(outer.src, outer.dst, outer.protocol, body.len()),
        17 if be16(body, 6)? == 0 => return Ok(()),
        17 => pseudo_header(outer.src, outer.dst, 17, body.len()),
        _ => return Ok(()),
    };
    if internet_checksum(&[pseudo.as_slice(), body].concat()) != 0 {
        return Err(format!("checksum of protocol {} is wrong", outer.protocol));
    }
    Ok(())
}

/// What a tunnel carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decapsulated {
    /// The datagram inside, from its IP header on.
    pub datagram: Vec<u8>,
    /// Name of the tunnel.
    pub tunnel: &'static str,
    /// UDP destination port, where there is one.
    pub port: Option<u16>,
}

/// Takes off IP in IP, GRE, GUE (variant 0), VXLAN or Geneve, told apart by protocol number and the UDP ports given with their tunnels' names.
///
/// # Errors
/// The frame is not such a tunnel, or its headers contradict each other.
pub fn decapsulate(frame: &[u8], udp_tunnels: &[(u16, &'static str)]) -> Result<Decapsulated, String> {
    let o = outer(frame)?;
    if o.fragment.is_some() {
        return Err("the outer datagram is a fragment".into());
    }
    let body = &frame[o.l4..o.end];
    let inner = |at: usize, number: u8, tunnel, port| -> Result<Decapsulated, String> {
        let datagram = body.get(at..).filter(|d| !d.is_empty()).ok_or("nothing in the tunnel")?.to_vec();
        let version = datagram[0] >> 4;
        let said = if number == 4 { 4 } else { 6 };
        if version != said {
            return Err(format!("{tunnel} says IPv{said}, version inside is {version}"));
        }
        Ok(Decapsulated { datagram, tunnel, port })
    };
    let by_ethertype = |at: usize| -> Result<u8, String> {
        match be16(body, at)? {
            0x0800 => Ok(4),
            0x86dd => Ok(41),
            other => Err(format!("ethertype {other:#06x} in the tunnel")),
        }
    };
    match o.protocol {
        4 | 41 => inner(0, o.protocol, "ipip", None),
        47 => {
            if be16(body, 0)? != 0 {
                return Err("GRE flags are set".into());
            }
            inner(4, by_ethertype(2)?, "gre", None)
        }
        17 => {
            let (source, port) = (be16(body, 0)?, be16(body, 2)?);
            if source == 0 || usize::from(be16(body, 4)?) != body.len() {
                return Err(format!("UDP source port {source}, length {} of {}", be16(body, 4)?, body.len()));
            }
            check_transport(frame, &o)?;
            let tunnel = udp_tunnels.iter().find(|(known, _)| *known == port).map(|(_, name)| *name);
            match tunnel {
                Some("gue") => {
                    let header = body.get(8..12).ok_or("GUE header is cut")?;
                    if header[0] != 0 || header[2..4] != [0, 0] {
                        return Err(format!("GUE header {header:02x?}"));
                    }
                    inner(12, header[1], "gue", Some(port))
                }
                Some("vxlan") => {
                    let header = body.get(8..30).ok_or("VXLAN header is cut")?;
                    if header[..4] != [8, 0, 0, 0] || header[7] != 0 {
                        return Err(format!("VXLAN header {:02x?}", &header[..8]));
                    }
                    inner(30, by_ethertype(28)?, "vxlan", Some(port))
                }
                Some("geneve") => {
                    let header = body.get(8..30).ok_or("Geneve header is cut")?;
                    // Without options (RFC 8926 section 3.4).
                    if header[..2] != [0, 0] || header[2..4] != [0x65, 0x58] || header[7] != 0 {
                        return Err(format!("Geneve header {:02x?}", &header[..8]));
                    }
                    inner(30, by_ethertype(28)?, "geneve", Some(port))
                }
                _ => Err(format!("UDP port {port} is no tunnel")),
            }
        }
        other => Err(format!("protocol {other} is no tunnel")),
    }
}

fn be16(bytes: &[u8], at: usize) -> Result<u16, String> {
    match bytes.get(at..at + 2) {
        Some(b) => Ok(u16::from_be_bytes([b[0], b[1]])),
        None => Err(format!("ends before byte {}", at + 2)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{PacketBuilder, Upper, flags};

    #[test]
    fn takes_off_ip_in_ip() {
        let inside = PacketBuilder::tcp("198.51.100.7", "203.0.113.10", flags::SYN);
        let tunnel = PacketBuilder::new("10.0.2.11", "10.0.2.21", Upper::Raw(4)).payload(&inside.datagram());
        let inner = decapsulate(&tunnel.build(), &[]).expect("valid");
        assert_eq!((inner.tunnel, inner.datagram), ("ipip", inside.datagram()));
    }

    #[test]
    fn says_what_is_broken() {
        let mut frame = PacketBuilder::tcp("198.51.100.7", "203.0.113.10", flags::SYN).build();
        frame[24] ^= 1;
        assert!(outer(&frame).expect_err("checksum").contains("checksum"));
        let padded = PacketBuilder::tcp("198.51.100.7", "203.0.113.10", flags::SYN).padded().build();
        assert!(outer(&padded).expect_err("padding").contains("behind the datagram"));
        assert!(locate(&padded).is_ok());
        let mut wrong = PacketBuilder::udp("198.51.100.7", "203.0.113.10").payload_of(9).build();
        wrong[40] ^= 0x55;
        let o = outer(&wrong).expect("layer 3 is right");
        assert!(check_transport(&wrong, &o).is_err());
    }
}
