//! The shape that almost every packet has: no tag, IPv4 without options, not a fragment, TCP or UDP, nothing wrong.

use crate::parse::{ETHERNET_LEN, IPV4_LEN, Kind, Parsed, TCP, TcpFlags, UDP};

const L4: usize = ETHERNET_LEN + IPV4_LEN;
const TCP_LEN: usize = 20;
const UDP_LEN: usize = 8;

/// Such a packet, in registers.
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
    /// One past the last byte of the datagram; what follows is Ethernet padding.
    pub end: u16,
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
    /// answer, they agree. A fifth of its instructions.
    #[inline(always)]
    pub fn read(frame: &[u8]) -> Option<Plain> {
        let head = frame.first_chunk::<{ L4 + UDP_LEN }>()?;
        let total_len = u16::from_be_bytes([head[16], head[17]]);
        let flags = u16::from_be_bytes([head[20], head[21]]);
        let end = usize::from(total_len) + ETHERNET_LEN;
        let ethernet_and_version = u32::from_be_bytes([head[12], head[13], head[14], 0]);
        if ethernet_and_version != 0x0800_4500 || flags & 0x3fff != 0 || end > frame.len() {
            return None;
        }
        if !is_checksum_right(head.get(ETHERNET_LEN..L4)?) {
            return None;
        }
        let protocol = head[23];
        let flags_of_tcp = match protocol {
            TCP => {
                let [.., offset, tcp_flags, _, _, _, _, _, _] = frame.first_chunk::<{ L4 + TCP_LEN }>()?;
                let header_len = usize::from(offset >> 4) * 4;
                if header_len < TCP_LEN || L4 + header_len > end {
                    return None;
                }
                TcpFlags(*tcp_flags)
            }
            UDP => {
                let len = usize::from(u16::from_be_bytes([head[38], head[39]]));
                if len < UDP_LEN || L4 + len > end {
                    return None;
                }
                TcpFlags(0)
            }
            _ => return None,
        };
        Some(Plain {
            src: u32::from_be_bytes([head[26], head[27], head[28], head[29]]),
            dst: u32::from_be_bytes([head[30], head[31], head[32], head[33]]),
            sport: u16::from_be_bytes([head[34], head[35]]),
            dport: u16::from_be_bytes([head[36], head[37]]),
            end: u16::try_from(end).ok()?,
            protocol,
            tos: head[15],
            flags: flags_of_tcp,
            dont_fragment: flags & 0x4000 != 0,
        })
    }

    /// The same as [`parse`](crate::parse::parse) describes it.
    #[inline]
    pub fn parsed(&self) -> Parsed {
        Parsed {
            l3: 14,
            l4: 34,
            end: self.end,
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

/// Of a header of 20 bytes. The sum's byte order does not matter (RFC 1071 section 2 B), so words are taken as they lie.
#[inline(always)]
fn is_checksum_right(header: &[u8]) -> bool {
    let words: u64 = header.as_chunks().0.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let sum = (words >> 32) + (words & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    (sum >> 16) + (sum & 0xffff) == 0xffff
}
