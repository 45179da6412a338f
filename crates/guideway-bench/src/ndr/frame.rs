//! The packets that are sent: UDP of many flows, the time and the trial in their last bytes.

use crate::flows::client;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Frame checksum, which the device adds.
const FCS: usize = 4;
/// Preamble and gap between frames.
const WIRE_OVERHEAD: usize = 20;
const SIZE_MIN: usize = 64;
const SIZE_MAX: usize = 1518;
/// Ethernet, IPv4 and UDP.
const HEADERS: usize = 14 + 20 + 8;
/// Time, trial and mark at the end of the payload.
const TRAILER: usize = 16;
const MARK: u32 = 0x6777_6e64;
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Sizes of the simple IMIX by turns: 7 of 64, 4 of 594, 1 of 1518.
const IMIX: [u16; 12] = [64, 594, 64, 594, 64, 64, 1518, 64, 594, 64, 594, 64];

/// Where packets go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Destination {
    /// Destination MAC.
    pub(super) mac: [u8; 6],
    /// Destination address.
    pub(super) vip: Ipv4Addr,
    /// Destination port.
    pub(super) port: u16,
    /// Flows.
    pub(super) flows: u64,
}

/// Sizes of frames by turns, bytes on the wire with checksum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Sizes {
    One(u16),
    Imix,
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Sizes, String> {
        match text.parse::<u16>() {
            _ if text == "imix" => Ok(Sizes::Imix),
            Ok(size) if (SIZE_MIN..=SIZE_MAX).contains(&usize::from(size)) => Ok(Sizes::One(size)),
            _ => Err(format!("a size from {SIZE_MIN} to {SIZE_MAX}, or imix")),
        }
    }
}

impl std::fmt::Display for Sizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Sizes::One(size) => write!(f, "{size}"),
            Sizes::Imix => f.write_str("imix"),
        }
    }
}

impl Sizes {
    fn all(&self) -> &[u16] {
        match self {
            Sizes::One(size) => std::slice::from_ref(size),
            Sizes::Imix => &IMIX,
        }
    }

    /// Packets after which the sizes begin again.
    pub(super) fn turns(&self) -> usize {
        self.all().len()
    }

    /// Bytes of the packet of a turn (below [`turns`](Sizes::turns)) in memory: without checksum.
    #[inline]
    pub(super) fn len(&self, turn: usize) -> usize {
        usize::from(self.all()[turn]) - FCS
    }

    /// Bits a packet takes on the wire on average, preamble and gap included.
    pub(super) fn wire_bits(&self) -> f64 {
        let bytes: usize = self.all().iter().map(|&size| usize::from(size) + WIRE_OVERHEAD).sum();
        bytes as f64 * 8.0 / self.turns() as f64
    }
}

/// Writes and reads packets.
#[derive(Clone, Debug)]
pub(super) struct ProbeWriter {
    template: [u8; HEADERS],
    /// Sum of the IP header without length and source address.
    sum: u32,
    flows: u64,
}

impl ProbeWriter {
    pub(super) fn new(target: &Destination) -> ProbeWriter {
        let mut t = [0_u8; HEADERS];
        t[..6].copy_from_slice(&target.mac);
        t[6..12].copy_from_slice(&ROUTER_MAC);
        t[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
        t[20] = 0x40; // do not fragment
        t[22..24].copy_from_slice(&[64, 17]);
        t[30..34].copy_from_slice(&target.vip.octets());
        t[36..38].copy_from_slice(&target.port.to_be_bytes());
        let sum = t[14..34].chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        ProbeWriter { template: t, sum, flows: target.flows }
    }

    /// Flows.
    pub(super) fn flows(&self) -> u64 {
        self.flows
    }

    /// A packet of `flow` (below [`flows`](ProbeWriter::flows)), which should be sent at `due` (cycles). The frame has its length
    /// already. No UDP checksum.
    #[inline]
    pub(super) fn write(&self, frame: &mut [u8], flow: u64, due: u64, trial: u32) {
        let len = frame.len();
        if len < HEADERS + TRAILER {
            return;
        }
        frame[..HEADERS].copy_from_slice(&self.template);
        let client = client(flow);
        let total = (len - 14) as u16;
        let mut sum = self.sum + u32::from(total) + (client.address >> 16) + (client.address & 0xffff);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        frame[26..30].copy_from_slice(&client.address.to_be_bytes());
        frame[34..36].copy_from_slice(&client.port.to_be_bytes());
        frame[38..40].copy_from_slice(&(total - 20).to_be_bytes());
        frame[len - 16..len - 8].copy_from_slice(&due.to_le_bytes());
        frame[len - 8..len - 4].copy_from_slice(&trial.to_le_bytes());
        frame[len - 4..].copy_from_slice(&MARK.to_le_bytes());
    }

    /// When a packet of this trial should have been sent; `None` for anything else.
    #[inline]
    pub(super) fn due(frame: &[u8], trial: u32) -> Option<u64> {
        let trailer = frame.last_chunk::<TRAILER>()?;
        let (due, rest) = trailer.split_first_chunk::<8>()?;
        let (of, mark) = rest.split_first_chunk::<4>()?;
        (*mark == MARK.to_le_bytes() && *of == trial.to_le_bytes()).then(|| u64::from_le_bytes(*due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_valid_and_found_again() {
        let target = Destination { mac: [2; 6], vip: Ipv4Addr::new(203, 0, 113, 10), port: 53, flows: 100 };
        let writer = ProbeWriter::new(&target);
        for sizes in [Sizes::One(64), Sizes::One(1518), Sizes::Imix] {
            for turn in 0..sizes.turns() {
                let mut frame = vec![0xee; sizes.len(turn)];
                writer.write(&mut frame, turn as u64, 123_456, 7);
                let sliced = etherparse::SlicedPacket::from_ethernet(&frame).expect("valid");
                let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4") };
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                let Some(etherparse::TransportSlice::Udp(udp)) = &sliced.transport else { panic!("no UDP") };
                assert_eq!((udp.destination_port(), usize::from(udp.length())), (53, frame.len() - 34));
                assert_eq!(ProbeWriter::due(&frame, 7), Some(123_456));
                assert_eq!(ProbeWriter::due(&[vec![0; 20], frame.clone()].concat(), 7), Some(123_456));
                assert_eq!(ProbeWriter::due(&frame, 8), None);
            }
        }
        assert_eq!(ProbeWriter::due(&[1; 60], 7), None);
        assert_eq!("imix".parse(), Ok(Sizes::Imix));
        assert!("63".parse::<Sizes>().is_err() && "1519".parse::<Sizes>().is_err());
        assert_eq!(Sizes::One(64).wire_bits(), 672.0);
    }
}
