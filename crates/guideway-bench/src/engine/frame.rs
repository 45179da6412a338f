//! Frames of real flows: a template and the few bytes that differ.

use super::scene::{Family, PORT, PORT_MAC, ROUTER_MAC, VIP};
use crate::flows::{VIP6, client};

/// Longest frame that can be written.
const LEN_MAX: usize = 80;
/// Header lengths.
const ETHERNET: usize = 14;
const TCP: usize = 20;
/// Offsets in an IPv4 and in a TCP header.
const CHECKSUM: usize = 10;
const SOURCE_V4: usize = 12;
const SEQUENCE: usize = 4;
const FLAGS: usize = 13;
/// Offset in an IPv6 header.
const SOURCE_V6: usize = 8;
const ACK: u8 = 0x10;
const SYN: u8 = 0x02;

/// Writes minimum-size TCP segments. The sequence number is the flow's number, so that an output names its flow.
///
/// The TCP checksum is left zero: nothing on the way reads it.
#[derive(Clone, Debug)]
pub struct FrameWriter {
    template: [u8; LEN_MAX],
    len: usize,
    family: Family,
    /// Checksum of the IPv4 header without source address, not folded.
    sum: u32,
}

impl FrameWriter {
    /// Frames of `len` bytes without the checksum at the end: up to 80, and no shorter than the headers.
    pub fn new(family: Family, len: usize) -> FrameWriter {
        let ip = family.header_len();
        let len = len.clamp(ETHERNET + ip + TCP, LEN_MAX);
        let mut t = [0_u8; LEN_MAX];
        t[..6].copy_from_slice(&PORT_MAC);
        t[6..12].copy_from_slice(&ROUTER_MAC);
        t[12..14].copy_from_slice(&family.ethertype().to_be_bytes());
        let header = &mut t[ETHERNET..ETHERNET + ip];
        match family {
            Family::V4 => {
                header[0] = 0x45;
                header[2..4].copy_from_slice(&((len - ETHERNET) as u16).to_be_bytes());
                header[6] = 0x40; // do not fragment
                header[8..10].copy_from_slice(&[64, 6]);
                header[16..20].copy_from_slice(&VIP);
            }
            Family::V6 => {
                header[0] = 0x60;
                header[4..6].copy_from_slice(&((len - ETHERNET - ip) as u16).to_be_bytes());
                header[6..8].copy_from_slice(&[6, 64]);
                header[24..40].copy_from_slice(&VIP6.to_be_bytes());
            }
        }
        let sum = header.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        let tcp = &mut t[ETHERNET + ip..];
        tcp[2..4].copy_from_slice(&PORT.to_be_bytes());
        tcp[12] = 0x50;
        tcp[FLAGS] = ACK;
        tcp[14..16].copy_from_slice(&1000_u16.to_be_bytes());
        FrameWriter { template: t, len, family, sum }
    }

    /// Length of every frame.
    pub fn frame_len(&self) -> usize {
        self.len
    }

    /// Bytes from the IP header on.
    pub fn datagram_len(&self) -> usize {
        self.len - ETHERNET
    }

    /// Offset of the TCP header.
    #[inline]
    fn tcp(&self) -> usize {
        ETHERNET + self.family.header_len()
    }

    /// A segment of flow `number`; `frame` must be as long as the frames are.
    #[inline]
    pub fn write(&self, frame: &mut [u8], number: u64) {
        frame.copy_from_slice(&self.template[..self.len]);
        let client = client(number);
        match self.family {
            Family::V4 => {
                let source = client.address;
                let mut sum = self.sum + (source >> 16) + (source & 0xffff);
                sum = (sum & 0xffff) + (sum >> 16);
                sum = (sum & 0xffff) + (sum >> 16);
                let at = ETHERNET + CHECKSUM;
                frame[at..at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
                let at = ETHERNET + SOURCE_V4;
                frame[at..at + 4].copy_from_slice(&source.to_be_bytes());
            }
            Family::V6 => {
                let at = ETHERNET + SOURCE_V6;
                frame[at..at + 16].copy_from_slice(&client.address6().to_be_bytes());
            }
        }
        let tcp = &mut frame[self.tcp()..];
        tcp[..2].copy_from_slice(&client.port.to_be_bytes());
        tcp[SEQUENCE..SEQUENCE + 4].copy_from_slice(&(number as u32).to_be_bytes());
    }

    /// A SYN of flow `number`.
    #[inline]
    pub fn write_syn(&self, frame: &mut [u8], number: u64) {
        self.write(frame, number);
        frame[self.tcp() + FLAGS] = SYN;
    }

    /// The flow of a datagram at the end of a frame that was sent; `None` for a frame that is too short.
    #[inline]
    pub fn flow_of(&self, sent: &[u8]) -> Option<u64> {
        let at = sent.len().checked_sub(self.len)? + self.tcp() + SEQUENCE;
        let bytes = sent.get(at..at + 4)?;
        Some(u64::from(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])))
    }
}

/// Frames that are for the kernel: a segment to the machine's own address, a broadcast (ARP), a neighbour solicitation.
pub(super) fn for_kernel() -> [Vec<u8>; 3] {
    let mut own = vec![0; ETHERNET + 20 + TCP];
    let writer = FrameWriter::new(Family::V4, own.len());
    writer.write(&mut own, 1);
    let header = &mut own[ETHERNET..ETHERNET + 20];
    header[16..20].copy_from_slice(&[192, 0, 2, 1]);
    header[CHECKSUM..CHECKSUM + 2].fill(0);
    let sum: u32 = header.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&(!((sum + (sum >> 16)) as u16)).to_be_bytes());
    own[ETHERNET + 20 + 2..ETHERNET + 20 + 4].copy_from_slice(&22_u16.to_be_bytes());

    let ethernet = |to: [u8; 6], kind: u16| [&to[..], &ROUTER_MAC, &kind.to_be_bytes()].concat();
    let arp = [&ethernet([0xff; 6], 0x0806)[..], &[0, 1, 8, 0, 6, 4, 0, 1], &[0; 38]].concat();

    let router: [u8; 16] = 0xfe80_0000_0000_0000_0000_0000_0000_0001_u128.to_be_bytes();
    let target: [u8; 16] = 0x2001_0db8_0002_0000_0000_0000_0000_0001_u128.to_be_bytes();
    let header = [&[0x60, 0, 0, 0, 0, 24, 58, 255][..], &router, &target].concat();
    let solicitation = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target].concat();
    let discovery = [ethernet(PORT_MAC, 0x86dd), header, solicitation].concat();
    [own, arp, discovery]
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    #[test]
    fn frames_are_what_an_independent_parser_expects() {
        for (family, len) in [(Family::V4, 54), (Family::V4, 60), (Family::V4, 64), (Family::V6, 74)] {
            let writer = FrameWriter::new(family, len);
            assert_eq!(writer.frame_len(), len);
            for number in [0, 1, 77, 16_000_000, crate::flows::FLOWS_MAX - 1] {
                let mut frame = vec![0xff; len];
                writer.write(&mut frame, number);
                let sliced = SlicedPacket::from_ethernet(&frame).expect("valid");
                match &sliced.net {
                    Some(NetSlice::Ipv4(ip)) => {
                        let header = ip.header().to_header();
                        assert_eq!(header.header_checksum, header.calc_header_checksum());
                        assert_eq!(u32::from_be_bytes(header.source), client(number).address);
                        assert_eq!(usize::from(header.total_len), len - 14);
                        assert_eq!(family, Family::V4);
                    }
                    Some(NetSlice::Ipv6(ip)) => {
                        let header = ip.header().to_header();
                        assert_eq!(u128::from_be_bytes(header.source), client(number).address6());
                        assert_eq!(u128::from_be_bytes(header.destination), VIP6);
                        assert_eq!(usize::from(header.payload_length), len - 54);
                        assert_eq!(family, Family::V6);
                    }
                    _ => panic!("no IP"),
                }
                let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
                assert_eq!((tcp.source_port(), tcp.destination_port()), (client(number).port, 80));
                assert!(tcp.ack() && !tcp.syn());
                assert_eq!(writer.flow_of(&frame), Some(number));
                let longer = [vec![0; 20], frame.clone()].concat();
                assert_eq!(writer.flow_of(&longer), Some(number));
                let mut syn = vec![0; len];
                writer.write_syn(&mut syn, number);
                let sliced = SlicedPacket::from_ethernet(&syn).expect("valid");
                let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
                assert!(tcp.syn() && !tcp.ack());
            }
            assert_eq!(writer.flow_of(&[0; 20]), None);
        }
    }
}
