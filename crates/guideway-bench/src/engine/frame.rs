//! Frames of real flows: a template and the few bytes that differ.

use super::scene::{PORT, PORT_MAC, ROUTER_MAC, VIP};
use crate::flows::{Client, client};

/// Longest frame that can be written.
const LEN_MAX: usize = 64;
/// Offsets in a frame.
const L3: usize = 14;
const CHECKSUM: usize = L3 + 10;
const SOURCE: usize = L3 + 12;
const L4: usize = L3 + 20;
const SEQUENCE: usize = L4 + 4;
const FLAGS: usize = L4 + 13;
const ACK: u8 = 0x10;
const SYN: u8 = 0x02;

/// Writes minimum-size TCP segments. The sequence number is the flow's number, so that an output names its flow.
///
/// The TCP checksum is left zero: nothing on the way reads it.
#[derive(Clone, Debug)]
pub struct Writer {
    template: [u8; LEN_MAX],
    len: usize,
    /// Checksum of the IP header without source address, not folded.
    sum: u32,
}

impl Writer {
    /// Frames of `len` bytes without the checksum at the end: 54 to 64.
    pub fn new(len: usize) -> Writer {
        let len = len.clamp(L4 + 20, LEN_MAX);
        let mut t = [0_u8; LEN_MAX];
        t[..6].copy_from_slice(&PORT_MAC);
        t[6..12].copy_from_slice(&ROUTER_MAC);
        t[12..14].copy_from_slice(&0x0800_u16.to_be_bytes());
        t[L3] = 0x45;
        t[L3 + 2..L3 + 4].copy_from_slice(&((len - L3) as u16).to_be_bytes());
        t[L3 + 6] = 0x40; // do not fragment
        t[L3 + 8] = 64;
        t[L3 + 9] = 6;
        t[L3 + 16..L3 + 20].copy_from_slice(&VIP);
        t[L4 + 2..L4 + 4].copy_from_slice(&PORT.to_be_bytes());
        t[L4 + 12] = 0x50;
        t[FLAGS] = ACK;
        t[L4 + 14..L4 + 16].copy_from_slice(&1000_u16.to_be_bytes());
        let sum = t[L3..L4].chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        Writer { template: t, len, sum }
    }

    /// Length of every frame.
    pub fn frame_len(&self) -> usize {
        self.len
    }

    /// Bytes from the IP header on.
    pub fn datagram_len(&self) -> usize {
        self.len - L3
    }

    /// A segment of flow `number`; `frame` must be as long as the frames are.
    #[inline]
    pub fn write(&self, frame: &mut [u8], number: u64) {
        self.write_as(frame, client(number), number as u32);
    }

    /// A SYN of flow `number`.
    #[inline]
    pub fn write_syn(&self, frame: &mut [u8], number: u64) {
        self.write_as(frame, client(number), number as u32);
        frame[FLAGS] = SYN;
    }

    #[inline]
    fn write_as(&self, frame: &mut [u8], client: Client, number: u32) {
        frame.copy_from_slice(&self.template[..self.len]);
        let source = client.address;
        let mut sum = self.sum + (source >> 16) + (source & 0xffff);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        frame[CHECKSUM..CHECKSUM + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        frame[SOURCE..SOURCE + 4].copy_from_slice(&source.to_be_bytes());
        frame[L4..L4 + 2].copy_from_slice(&client.port.to_be_bytes());
        frame[SEQUENCE..SEQUENCE + 4].copy_from_slice(&number.to_be_bytes());
    }

    /// The flow of a datagram at the end of a frame that was sent; `None` for a frame that is too short.
    #[inline]
    pub fn flow_of(&self, sent: &[u8]) -> Option<u64> {
        let at = sent.len().checked_sub(self.len)? + SEQUENCE;
        let bytes = sent.get(at..at + 4)?;
        Some(u64::from(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_what_an_independent_parser_expects() {
        for len in [54, 60, 64] {
            let writer = Writer::new(len);
            for number in [0, 1, 77, 16_000_000, crate::flows::FLOWS_MAX - 1] {
                let mut frame = vec![0xff; len];
                writer.write(&mut frame, number);
                let sliced = etherparse::SlicedPacket::from_ethernet(&frame).expect("valid");
                let Some(etherparse::NetSlice::Ipv4(ip)) = sliced.net else { panic!("no IPv4") };
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                assert_eq!(u32::from_be_bytes(header.source), client(number).address);
                assert_eq!(usize::from(header.total_len), len - 14);
                let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
                assert_eq!((tcp.source_port(), tcp.destination_port()), (client(number).port, 80));
                assert!(tcp.ack() && !tcp.syn());
                assert_eq!(writer.flow_of(&frame), Some(number));
                let longer = [vec![0; 20], frame.clone()].concat();
                assert_eq!(writer.flow_of(&longer), Some(number));
                let mut syn = vec![0; len];
                writer.write_syn(&mut syn, number);
                assert_eq!(syn[FLAGS], SYN);
            }
            assert_eq!(writer.flow_of(&[0; 20]), None);
        }
    }
}
