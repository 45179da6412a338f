//! What must come out: each frame by its backend's address, a sample of them decoded in full.

use super::frame::FrameWriter;
use super::scene::{Family, Mode, Scene, backend_address, backend_mac};
use crate::failure::{Failure, wrong};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use std::net::IpAddr;

/// One output in so many is decoded in full.
const SAMPLE: u64 = 1000;

/// Judges frames that were sent.
#[derive(Clone, Debug)]
pub struct Expected {
    scene: Scene,
    writer: FrameWriter,
    checked: u64,
}

impl Expected {
    /// For frames of `writer` under `scene`.
    pub fn new(scene: &Scene, writer: FrameWriter) -> Expected {
        Expected { scene: scene.clone(), writer, checked: 0 }
    }

    /// Frames judged.
    pub fn checked(&self) -> u64 {
        self.checked
    }

    /// Whether `sent` is what its flow's packet must become.
    ///
    /// # Errors
    /// It is not.
    #[inline]
    pub fn check(&mut self, sent: &[u8]) -> Result<(), Failure> {
        self.checked += 1;
        let Some(number) = self.writer.flow_of(sent) else { return Err(wrong("a frame was cut")) };
        let Some(backend) = self.scene.backend_of(number) else {
            return Err(wrong(format!("flow {number} has no backend")));
        };
        let right = match self.scene.mode {
            Mode::L2 => sent.get(..6) == Some(&backend_mac(backend)),
            _ => match backend_address(self.scene.family, backend) {
                IpAddr::V4(address) => sent.get(30..34) == Some(&address.octets()),
                IpAddr::V6(address) => sent.get(38..54) == Some(&address.octets()),
            },
        };
        if !right {
            return Err(wrong(format!("a packet of flow {number} was not sent to backend {backend}")));
        }
        if self.checked.is_multiple_of(SAMPLE) { self.decode(sent, number) } else { Ok(()) }
    }

    /// Checks a frame as [`check`](Expected::check), and decodes it in any case.
    ///
    /// # Errors
    /// It is not.
    pub fn check_in_full(&mut self, sent: &[u8]) -> Result<(), Failure> {
        self.check(sent)?;
        match self.writer.flow_of(sent) {
            Some(number) => self.decode(sent, number),
            None => Err(wrong("a frame was cut")),
        }
    }

    fn decode(&self, sent: &[u8], number: u64) -> Result<(), Failure> {
        self.compare(sent, number).map_err(|what| wrong(format!("a packet of flow {number}: {what}")))
    }

    /// Takes the frame apart with an independent parser and compares the datagram inside, bit by bit.
    fn compare(&self, sent: &[u8], number: u64) -> Result<(), String> {
        let mut original = vec![0; self.writer.frame_len()];
        self.writer.write(&mut original, number);
        let original = &original[original.len() - self.writer.datagram_len()..];
        let sliced = SlicedPacket::from_ethernet(sent).map_err(|e| e.to_string())?;
        let (protocol, payload, len) = match &sliced.net {
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header().to_header();
                if header.header_checksum != header.calc_header_checksum() {
                    return Err("the outer header's checksum is wrong".into());
                }
                (ip.payload().ip_number.0, ip.payload().payload, usize::from(header.total_len))
            }
            Some(NetSlice::Ipv6(ip)) => {
                let len = Family::V6.header_len() + usize::from(ip.header().payload_length());
                (ip.payload().ip_number.0, ip.payload().payload, len)
            }
            _ => return Err("no IP header".into()),
        };
        if len + 14 != sent.len() {
            return Err(format!("a datagram of {len} bytes in a frame of {}", sent.len()));
        }
        let inner = match self.scene.mode {
            Mode::L2 => &sent[14..],
            mode => tunnelled(mode, self.scene.family, protocol, payload, sliced.transport.as_ref())?,
        };
        if inner == original { Ok(()) } else { Err("the datagram was changed on the way".into()) }
    }
}

/// The datagram inside a tunnel.
fn tunnelled<'a>(
    mode: Mode,
    family: Family,
    protocol: u8,
    payload: &'a [u8],
    transport: Option<&TransportSlice<'a>>,
) -> Result<&'a [u8], String> {
    let udp = || match transport {
        Some(TransportSlice::Udp(udp)) if udp.source_port() != 0 => Ok(udp.payload()),
        _ => Err(format!("protocol {protocol} is not UDP, or its source port is 0")),
    };
    let inner_protocol = match family {
        Family::V4 => 4,
        Family::V6 => 41,
    };
    let [high, low] = family.ethertype().to_be_bytes();
    let (body, header, tail): (&[u8], usize, Vec<u8>) = match (mode, protocol) {
        (Mode::Ipip, inner) if inner == inner_protocol => (payload, 0, vec![]),
        (Mode::Gre, 47) => (payload, 4, vec![0, 0, high, low]),
        (Mode::Gue, 17) => (udp()?, 4, vec![0, inner_protocol, 0, 0]),
        // Header and inner Ethernet header.
        (Mode::Vxlan | Mode::Geneve, 17) => (udp()?, 8 + 14, vec![high, low]),
        _ => return Err(format!("protocol {protocol} in mode {}", mode.as_str())),
    };
    let (head, inner) = body.split_at_checked(header).ok_or("the tunnel's header is cut")?;
    if head.ends_with(&tail) { Ok(inner) } else { Err(format!("a tunnel header {head:02x?}")) }
}
