//! A packet from its description.

use super::{Arguments, Flag, Protocol};
use crate::capture::{Capture, CaptureWriter};
use crate::failure::Failure;
use etherparse::{
    EtherType, Ethernet2Header, IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber,
    Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader,
};
use std::net::IpAddr;

/// A description that makes sense.
#[derive(Debug)]
pub(super) struct Described {
    src: IpAddr,
    dst: IpAddr,
    sport: u16,
    dport: u16,
    protocol: Protocol,
    flags: Vec<Flag>,
    length: Option<u16>,
    may_fragment: bool,
}

impl TryFrom<Arguments> for Described {
    type Error = Failure;

    fn try_from(a: Arguments) -> Result<Described, Failure> {
        let (Some(src), Some(dst)) = (a.src, a.dst) else {
            return Err(Failure::usage("--src and --dst are needed, or --pcap"));
        };
        if src.is_ipv4() != dst.is_ipv4() {
            return Err(Failure::usage(format!("--src {src} and --dst {dst} are of different families")));
        }
        if !a.flags.is_empty() && a.protocol != Protocol::Tcp {
            return Err(Failure::usage("--flags are TCP's").help("leave them out, or give --protocol tcp"));
        }
        if a.may_fragment && src.is_ipv6() {
            return Err(Failure::usage("--may-fragment is IPv4's: nobody fragments IPv6 under way"));
        }
        let dport = match (a.protocol, a.dport) {
            (Protocol::Icmp, Some(_)) => return Err(Failure::usage("an echo request has no --dport")),
            (Protocol::Icmp, None) => 0,
            (_, Some(port)) => port,
            (_, None) => return Err(Failure::usage("--dport is needed for tcp and udp")),
        };
        let flags = if a.flags.is_empty() { vec![Flag::Syn] } else { a.flags };
        let (sport, protocol, length, may_fragment) = (a.sport, a.protocol, a.length, a.may_fragment);
        Ok(Described { src, dst, sport, dport, protocol, flags, length, may_fragment })
    }
}

impl Described {
    /// The Ethernet frame, with right checksums.
    pub(super) fn frame(&self) -> Result<Vec<u8>, Failure> {
        let ip_header_len = if self.src.is_ipv4() { 20 } else { 40 };
        let transport_len = if self.protocol == Protocol::Tcp { 20 } else { 8 };
        let headers = ip_header_len + transport_len;
        let length =
            usize::from(self.length.unwrap_or(0)).max(if self.length.is_some() { 0 } else { headers });
        let Some(payload_len) = length.checked_sub(headers) else {
            return Err(Failure::usage(format!(
                "--length {length} is shorter than the headers, {headers} bytes"
            )));
        };
        let payload = vec![0; payload_len];
        let cannot = |e: &dyn std::fmt::Display| Failure::usage(format!("there is no such packet: {e}"));
        let mut frame = Vec::new();
        let ether_type = if self.src.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 };
        let ethernet =
            Ethernet2Header { source: [2, 0, 0, 0, 0, 1], destination: [2, 0, 0, 0, 0, 2], ether_type };
        ethernet.write(&mut frame).map_err(|e| cannot(&e))?;
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let number = self.ip_number(IpNumber::ICMP);
                let len = u16::try_from(transport_len + payload_len).map_err(|e| cannot(&e))?;
                let mut ip =
                    Ipv4Header::new(len, 64, number, src.octets(), dst.octets()).map_err(|e| cannot(&e))?;
                ip.dont_fragment = !self.may_fragment;
                ip.header_checksum = ip.calc_header_checksum();
                ip.write(&mut frame).map_err(|e| cannot(&e))?;
                self.transport_v4(&ip, &payload, &mut frame).map_err(|e| cannot(&e))?;
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let ip = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: u16::try_from(transport_len + payload_len).map_err(|e| cannot(&e))?,
                    next_header: self.ip_number(IpNumber::IPV6_ICMP),
                    hop_limit: 64,
                    source: src.octets(),
                    destination: dst.octets(),
                };
                ip.write(&mut frame).map_err(|e| cannot(&e))?;
                self.transport_v6(&ip, &payload, &mut frame).map_err(|e| cannot(&e))?;
            }
            _ => return Err(cannot(&"addresses of different families")),
        }
        frame.extend(payload);
        Ok(frame)
    }

    fn ip_number(&self, icmp: IpNumber) -> IpNumber {
        match self.protocol {
            Protocol::Tcp => IpNumber::TCP,
            Protocol::Udp => IpNumber::UDP,
            Protocol::Icmp => icmp,
        }
    }

    fn tcp(&self) -> TcpHeader {
        let mut tcp = TcpHeader::new(self.sport, self.dport, 1, 65_535);
        for flag in &self.flags {
            match flag {
                Flag::Syn => tcp.syn = true,
                Flag::Ack => tcp.ack = true,
                Flag::Fin => tcp.fin = true,
                Flag::Rst => tcp.rst = true,
                Flag::Psh => tcp.psh = true,
            }
        }
        tcp
    }

    fn transport_v4(&self, ip: &Ipv4Header, payload: &[u8], frame: &mut Vec<u8>) -> Result<(), String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        match self.protocol {
            Protocol::Tcp => {
                let mut tcp = self.tcp();
                tcp.checksum = tcp.calc_checksum_ipv4(ip, payload).map_err(|e| text(&e))?;
                tcp.write(frame).map_err(|e| text(&e))
            }
            Protocol::Udp => {
                let udp = UdpHeader::with_ipv4_checksum(self.sport, self.dport, ip, payload)
                    .map_err(|e| text(&e))?;
                udp.write(frame).map_err(|e| text(&e))
            }
            Protocol::Icmp => {
                let echo = Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 1, seq: 1 });
                Icmpv4Header::with_checksum(echo, payload).write(frame).map_err(|e| text(&e))
            }
        }
    }

    fn transport_v6(&self, ip: &Ipv6Header, payload: &[u8], frame: &mut Vec<u8>) -> Result<(), String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        match self.protocol {
            Protocol::Tcp => {
                let mut tcp = self.tcp();
                tcp.checksum = tcp.calc_checksum_ipv6(ip, payload).map_err(|e| text(&e))?;
                tcp.write(frame).map_err(|e| text(&e))
            }
            Protocol::Udp => {
                let udp = UdpHeader::with_ipv6_checksum(self.sport, self.dport, ip, payload)
                    .map_err(|e| text(&e))?;
                udp.write(frame).map_err(|e| text(&e))
            }
            Protocol::Icmp => {
                let echo = Icmpv6Type::EchoRequest(IcmpEchoHeader { id: 1, seq: 1 });
                let icmp = Icmpv6Header::with_checksum(echo, ip.source, ip.destination, payload)
                    .map_err(|e| text(&e))?;
                icmp.write(frame).map_err(|e| text(&e))
            }
        }
    }
}

/// A capture in memory of this one frame, which had `wire_len` bytes on the wire.
pub(super) fn capture_of(frame: &[u8], wire_len: usize) -> Result<Capture, Failure> {
    /// Where the record's wire length stands: behind the file header, stamp and captured length.
    const WIRE_LEN: std::ops::Range<usize> = 36..40;
    let cannot = |e: &dyn std::fmt::Display| Failure::failed(format!("cannot use the packet: {e}"));
    let mut writer = CaptureWriter::new(Vec::new(), false).map_err(|e| cannot(&e))?;
    writer.write(0, frame).map_err(|e| cannot(&e))?;
    let mut file = writer.finish().map_err(|e| cannot(&e))?;
    let wire_len = u32::try_from(wire_len).unwrap_or(u32::MAX);
    if let Some(field) = file.get_mut(WIRE_LEN) {
        field.copy_from_slice(&wire_len.to_le_bytes());
    }
    Capture::parse(file).map_err(|e| cannot(&e))
}
