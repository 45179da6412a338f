//! Frames made by an independent library, and captures of them.

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, PacketBuilder, VlanId};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use std::path::Path;
use std::time::Duration;

pub(crate) const CLIENT: [u8; 4] = [192, 0, 2, 7];
pub(crate) const VIP: [u8; 4] = [203, 0, 113, 10];
pub(crate) const LOCAL_VIP: [u8; 4] = [203, 0, 113, 20];
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xa1];
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb1];
const START: Duration = Duration::new(1_700_000_000, 250_000_000);

pub(crate) fn tcp(dst: [u8; 4], sport: u16, dport: u16, payload: usize) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(ROUTER_MAC, OUR_MAC)
        .ipv4(CLIENT, dst, 61)
        .tcp(sport, dport, 1000, 4000)
        .syn();
    let mut frame = Vec::new();
    builder.write(&mut frame, &vec![0x5a; payload]).unwrap();
    frame
}

pub(crate) fn tcp_v6(sport: u16) -> Vec<u8> {
    let dst = "2001:db8::10".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let src = "2001:db8:9::7".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let builder =
        PacketBuilder::ethernet2(ROUTER_MAC, OUR_MAC).ipv6(src, dst, 61).tcp(sport, 80, 1000, 4000).syn();
    let mut frame = Vec::new();
    builder.write(&mut frame, b"hello").unwrap();
    frame
}

pub(crate) fn tagged(dst: [u8; 4], sport: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(ROUTER_MAC, OUR_MAC)
        .single_vlan(VlanId::try_new(42).unwrap())
        .ipv4(CLIENT, dst, 61)
        .tcp(sport, 80, 1000, 4000)
        .syn();
    let mut frame = Vec::new();
    builder.write(&mut frame, b"x").unwrap();
    frame
}

pub(crate) fn echo(dst: [u8; 4]) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2(ROUTER_MAC, OUR_MAC).ipv4(CLIENT, dst, 61).icmpv4_echo_request(7, 9);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"are you there?").unwrap();
    frame
}

pub(crate) fn arp() -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &ROUTER_MAC, &[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    frame.resize(60, 0);
    frame
}

/// The pieces of a UDP datagram for the dns service, cut at 1,000 bytes.
pub(crate) fn udp_pieces(sport: u16, id: u16) -> Vec<Vec<u8>> {
    let mut datagram = Vec::new();
    PacketBuilder::ethernet2(ROUTER_MAC, OUR_MAC)
        .ipv4(CLIENT, VIP, 61)
        .udp(sport, 53)
        .write(&mut datagram, &[0x77; 2500])
        .unwrap();
    let payload = &datagram[34..];
    let pieces = payload.chunks(1000).enumerate();
    let count = payload.len().div_ceil(1000);
    pieces
        .map(|(i, piece)| {
            let mut ip = Ipv4Header::new(piece.len() as u16, 61, IpNumber::UDP, CLIENT, VIP).unwrap();
            ip.identification = id;
            ip.dont_fragment = false;
            ip.more_fragments = i + 1 < count;
            ip.fragment_offset = IpFragOffset::try_new(i as u16 * 125).unwrap();
            ip.header_checksum = ip.calc_header_checksum();
            let mut frame = datagram[..14].to_vec();
            ip.write(&mut frame).unwrap();
            frame.extend_from_slice(piece);
            frame
        })
        .collect()
}

/// Writes a capture; frame i is i × 10 ms after the first.
pub(crate) fn write(path: &Path, frames: &[Vec<u8>]) {
    let at = |i: usize| START + Duration::from_millis(10 * i as u64);
    let stamped: Vec<_> = frames.iter().enumerate().map(|(i, f)| (at(i), f.clone(), f.len())).collect();
    write_stamped(path, &stamped);
}

/// Writes a capture of (stamp, bytes, length on the wire).
pub(crate) fn write_stamped(path: &Path, frames: &[(Duration, Vec<u8>, usize)]) {
    let header = PcapHeader { snaplen: 1 << 18, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(std::fs::File::create(path).unwrap(), header).unwrap();
    for (stamp, bytes, wire_len) in frames {
        writer.write_packet(&PcapPacket::new(*stamp, *wire_len as u32, bytes)).unwrap();
    }
}

/// Reads a capture: (stamp, bytes) of each frame.
pub(crate) fn read(path: &Path) -> Vec<(Duration, Vec<u8>)> {
    let file = std::fs::read(path).unwrap();
    let mut reader = PcapReader::new(&file[..]).unwrap();
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.unwrap();
        frames.push((packet.timestamp, packet.data.into_owned()));
    }
    frames
}
