mod sources;

use super::{
    Mode, Parameters, Tunnel, TunnelError, TunnelHeader, encapsulate, entropy, finish_len, rewrite_macs,
    shapes,
};
use crate::parse::{Parsed, ParsedFrame, parse};
use crate::sample::{CLIENT, V4, VIP, arbitrary_frame, ethernet4, tcp};
use crate::{Addr, Tuple};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use etherparse::{Ethernet2Slice, NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};
use proptest::sample::select;
use std::collections::BTreeSet;
use std::string::ToString;
use std::vec::Vec;

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 11));
const BACKEND: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 21));
const SOURCE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x11));
const BACKEND6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x21));
const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 0, 0x21];
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
const INNER_MACS: ([u8; 6], [u8; 6]) = ([2, 1, 1, 1, 1, 1], [2, 2, 2, 2, 2, 2]);
const VNI: u32 = 0x00ab_cdef;

fn tunnel(mode: Mode, outer_v6: bool, inner_v6: bool) -> Tunnel {
    let (source, destination) = if outer_v6 { (SOURCE6, BACKEND6) } else { (SOURCE, BACKEND) };
    let parameters = Parameters { vni: VNI, ..mode.defaults() };
    Tunnel { mode, parameters, source, sources: None, destination, inner_v6, inner_macs: INNER_MACS }
}

fn ip(frame: &[u8]) -> Parsed {
    match parse(frame) {
        Ok(ParsedFrame::Ip(parsed)) => parsed,
        other => panic!("{other:?}"),
    }
}

/// What a worker does: grow in front, encapsulate, cut the padding off.
fn through(frame: &[u8], header: &TunnelHeader, entropy: u32) -> Vec<u8> {
    let p = ip(frame);
    let mut grown = std::vec![0xcc; header.len()];
    grown.extend(frame);
    encapsulate(&mut grown, &header.between(NEXT_HOP, OURS), &p, entropy);
    grown.truncate(finish_len(&p, header));
    grown
}

#[test]
fn header_length_is_the_overhead() {
    for mode in Mode::ALL {
        for (outer_v6, inner_v6) in [(false, false), (false, true), (true, false), (true, true)] {
            let header = TunnelHeader::new(&tunnel(mode, outer_v6, inner_v6)).unwrap();
            let vni = if mode.has_vni() { VNI } else { 0 };
            let port = mode.port_key().map_or(0, |key| key.default);
            assert_eq!((header.mode(), header.parameters()), (mode, Parameters { port, vni }));
            assert_eq!(header.len(), usize::from(mode.overhead(outer_v6)), "{mode:?}");
            assert_eq!(header.is_v6(), outer_v6 && mode != Mode::L2);
            assert_eq!(header.is_empty(), mode == Mode::L2);
        }
    }
    assert_eq!(TunnelHeader::default().len(), 0);
}

#[test]
fn bytes_of_every_mode() {
    let inner = V4 { tos: 0xb8 | 3, ..V4::new(6) }.packet(&tcp(2, 1, 0, &[], &[]));
    let frame = ethernet4(&inner);
    let link = [&NEXT_HOP[..], &OURS, &[8, 0]].concat();
    for (mode, protocol, behind_ip) in [
        (Mode::Ipip, 4, std::vec![]),
        (Mode::Gre, 47, std::vec![0, 0, 8, 0]),
        (Mode::Gue, 17, std::vec![0xf7, 0x7f, 0x17, 0xc0, 0, 52, 0, 0, 0, 4, 0, 0]),
        (
            Mode::Vxlan,
            17,
            [
                &[0xf7, 0x7f, 0x12, 0xb5, 0, 70, 0, 0, 8, 0, 0, 0, 0xab, 0xcd, 0xef, 0][..],
                &INNER_MACS.0,
                &INNER_MACS.1,
                &[8, 0],
            ]
            .concat(),
        ),
        (
            Mode::Geneve,
            17,
            [
                &[0xf7, 0x7f, 0x17, 0xc1, 0, 70, 0, 0, 0, 0, 0x65, 0x58, 0xab, 0xcd, 0xef, 0][..],
                &INNER_MACS.0,
                &INNER_MACS.1,
                &[8, 0],
            ]
            .concat(),
        ),
    ] {
        let header = TunnelHeader::new(&tunnel(mode, false, false)).unwrap();
        let out = through(&frame, &header, 0xddff_ffff);
        let total = (20 + behind_ip.len() + inner.len()) as u8;
        assert_eq!(out[..14], link, "{mode:?}");
        assert_eq!(out[14..24], [0x45, 0xbb, 0, total, 0, 0, 0x40, 0, 64, protocol], "{mode:?}");
        assert_eq!(out[26..34], [10, 0, 2, 11, 10, 0, 2, 21], "{mode:?}");
        assert_eq!(out[34..34 + behind_ip.len()], behind_ip, "{mode:?}");
        assert_eq!(out[34 + behind_ip.len()..], inner, "{mode:?}");
    }
}

#[test]
fn a_header_has_one_shape() {
    let gre = TunnelHeader::new(&tunnel(Mode::Gre, false, false)).unwrap();
    assert!(gre.shaped::<shapes::Gre>().is_some() && gre.shaped::<shapes::GreOverV6>().is_none());
    assert!(TunnelHeader::default().shaped::<shapes::Link>().is_some());
}

#[test]
fn l2_changes_the_macs_only() {
    let mut frame = ethernet4(&V4::new(6).packet(&tcp(2, 1, 0, &[], &[])));
    let before = frame.clone();
    assert_eq!(through(&frame, &TunnelHeader::default(), 7), [&NEXT_HOP[..], &OURS, &before[12..]].concat());
    rewrite_macs(&mut frame, NEXT_HOP, OURS);
    assert_eq!(frame, [&NEXT_HOP[..], &OURS, &before[12..]].concat());
    let mut short = [1; 11];
    rewrite_macs(&mut short, NEXT_HOP, OURS);
    assert_eq!(short, [1; 11]);
}

#[test]
fn bad_tunnels() {
    let mixed = Tunnel { source: SOURCE6, ..tunnel(Mode::Gre, false, false) };
    assert_eq!(
        TunnelHeader::new(&mixed).unwrap_err(),
        TunnelError::MixedFamilies { source_address: SOURCE6, destination: BACKEND }
    );
    for bad in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1)] {
        let t = Tunnel { destination: bad.into(), ..tunnel(Mode::Ipip, false, true) };
        assert_eq!(TunnelHeader::new(&t).unwrap_err(), TunnelError::NotUnicast(bad.into()));
    }
    let unspecified = Tunnel { source: Ipv6Addr::UNSPECIFIED.into(), ..tunnel(Mode::Ipip, true, true) };
    assert_eq!(
        TunnelHeader::new(&unspecified).unwrap_err(),
        TunnelError::NotUnicast(Ipv6Addr::UNSPECIFIED.into())
    );
    let error = |mode, port, vni| {
        let parameters = Parameters { port, vni };
        TunnelHeader::new(&Tunnel { parameters, ..tunnel(mode, true, false) }).unwrap_err()
    };
    let large = |mode| error(mode, 7, 1 << 24);
    for mode in Mode::ALL.into_iter().filter(|mode| mode.port_key().is_some()) {
        assert_eq!(error(mode, 0, 1), TunnelError::PortZero);
    }
    for mode in Mode::ALL.into_iter().filter(|mode| mode.has_vni()) {
        let protocol = mode.header_name().unwrap();
        assert_eq!(large(mode), TunnelError::VniTooLarge { protocol, vni: 1 << 24 });
    }
    let words = "VXLAN network identifier 16777216 is larger than 24 bits: choose 0 to 16777215";
    assert_eq!(large(Mode::Vxlan).to_string(), words);
    let words =
        "UDP port 0 cannot be a tunnel's destination: choose 1 to 65535 (gue 6080, vxlan 4789, geneve 6081)";
    assert_eq!(TunnelError::PortZero.to_string(), words);
}

#[test]
fn entropy_spreads_and_stays() {
    let flow = |i: u32, sport| Tuple {
        src: Addr::V4(u32::from_be_bytes(CLIENT) + i),
        dst: Addr::V4(u32::from_be_bytes(VIP)),
        sport,
        dport: 80,
        protocol: 6,
    };
    let (mut ports, mut labels) = (BTreeSet::new(), BTreeSet::new());
    for i in 0..64 {
        for sport in 40_000..40_064 {
            let value = entropy(&flow(i, sport));
            assert_eq!(value, entropy(&flow(i, sport)));
            ports.insert(value >> 18);
            labels.insert(value & 0xf_ffff);
        }
    }
    // 4,096 balls: random placement fills 3,624 of 16,384 and 4,088 of 2^20 bins.
    assert!(ports.len() > 3_400, "{} ports", ports.len());
    assert!(labels.len() > 4_000, "{} labels", labels.len());
    // Receive queues: each low bit pattern of the port about equally often.
    for bit in 0..14 {
        let ones = (0..4096).filter(|i| entropy(&flow(*i, 40_000)) >> (18 + bit) & 1 == 1).count();
        assert!((1_800..2_300).contains(&ones), "bit {bit}: {ones}");
    }
    let v6 = |low: u128| Tuple { src: Addr::V6(low), dst: Addr::V6(1 << 64), ..flow(0, 1) };
    assert_ne!(entropy(&v6(1)), entropy(&v6(1 << 64)));
}

/// Every mode with an outer header, with any parameters.
fn arbitrary_mode() -> impl Strategy<Value = (Mode, Parameters)> {
    let modes: Vec<Mode> = Mode::ALL.into_iter().filter(|mode| *mode != Mode::L2).collect();
    let parameters = (1u16.., 0u32..1 << 24).prop_map(|(port, vni)| Parameters { port, vni });
    (select(modes), parameters)
}

proptest! {
    #[test]
    fn etherparse_finds_the_outer_headers_and_the_inner_packet(frame in arbitrary_frame(), (mode, parameters) in arbitrary_mode(), outer_v6 in any::<bool>(), entropy in any::<u32>()) {
        let p = ip(&frame);
        let Parameters { port, vni } = parameters;
        let header = TunnelHeader::new(&Tunnel { parameters, ..tunnel(mode, outer_v6, p.is_v6()) }).unwrap();
        let out = through(&frame, &header, entropy);
        let inner = &frame[usize::from(p.l3)..usize::from(p.end)];
        let link_len = usize::from(p.l3);
        prop_assert_eq!(&out[..12], &[NEXT_HOP, OURS].concat()[..]);
        prop_assert_eq!(&out[12..link_len - 2], &frame[12..link_len - 2], "tags are kept");
        prop_assert_eq!(&out[link_len + header.len()..], inner);

        let theirs = SlicedPacket::from_ethernet(&out).unwrap();
        let protocol = match mode {
            Mode::Gre => 47,
            Mode::Gue | Mode::Vxlan | Mode::Geneve => 17,
            _ => if p.is_v6() { 41 } else { 4 },
        };
        let payload = theirs.ip_payload().unwrap();
        prop_assert_eq!(payload.ip_number.0, protocol);
        match theirs.net.as_ref().unwrap() {
            NetSlice::Ipv4(net) => {
                prop_assert!(!outer_v6);
                let outer = net.header().to_header();
                prop_assert_eq!(outer.header_checksum, outer.calc_header_checksum());
                prop_assert_eq!(usize::from(outer.total_len), header.len() + inner.len());
                prop_assert_eq!(outer.dscp.value() << 2 | outer.ecn.value(), p.tos);
                prop_assert_eq!((outer.time_to_live, outer.dont_fragment, outer.identification), (64, true, 0));
                prop_assert_eq!((IpAddr::from(outer.source), IpAddr::from(outer.destination)), (SOURCE, BACKEND));
            }
            NetSlice::Ipv6(net) => {
                prop_assert!(outer_v6);
                let outer = net.header();
                prop_assert_eq!(usize::from(outer.payload_length()), header.len() - 40 + inner.len());
                prop_assert_eq!((outer.traffic_class(), outer.hop_limit()), (p.tos, 64));
                prop_assert_eq!(outer.flow_label().value(), entropy & 0xf_ffff);
                prop_assert_eq!((IpAddr::from(outer.source()), IpAddr::from(outer.destination())), (SOURCE6, BACKEND6));
            }
            NetSlice::Arp(_) => prop_assert!(false),
        }
        let ether_type: u16 = if p.is_v6() { 0x86dd } else { 0x0800 };
        let carried = match (mode, &theirs.transport) {
            (Mode::Gue, Some(TransportSlice::Udp(udp))) => {
                prop_assert_eq!((udp.destination_port(), udp.checksum()), (port, 0));
                prop_assert!(udp.source_port() >= 49_152);
                prop_assert_eq!(&udp.payload()[..4], &[0, if p.is_v6() { 41 } else { 4 }, 0, 0]);
                &udp.payload()[4..]
            }
            (Mode::Vxlan, Some(TransportSlice::Udp(udp))) => {
                prop_assert_eq!((udp.destination_port(), udp.checksum()), (port, 0));
                prop_assert!(udp.source_port() >= 49_152);
                prop_assert_eq!(&udp.payload()[..4], &[8, 0, 0, 0]);
                prop_assert_eq!(&udp.payload()[4..8], &(vni << 8).to_be_bytes());
                let inner_frame = Ethernet2Slice::from_slice_without_fcs(&udp.payload()[8..]).unwrap();
                prop_assert_eq!(inner_frame.ether_type().0, ether_type);
                prop_assert_eq!((inner_frame.destination(), inner_frame.source()), INNER_MACS);
                &udp.payload()[22..]
            }
            (Mode::Geneve, Some(TransportSlice::Udp(udp))) => {
                prop_assert_eq!((udp.destination_port(), udp.checksum()), (port, 0));
                prop_assert!(udp.source_port() >= 49_152);
                // RFC 8926 section 3.4: version and option length; O, C and reserved bits; protocol; identifier; reserved byte.
                let (head, frame) = udp.payload().split_at(8);
                prop_assert_eq!((head[0] >> 6, head[0] & 0x3f, head[1]), (0, 0, 0));
                prop_assert_eq!(u16::from_be_bytes([head[2], head[3]]), 0x6558);
                prop_assert_eq!(u32::from_be_bytes([0, head[4], head[5], head[6]]), vni);
                prop_assert_eq!(head[7], 0);
                let inner_frame = Ethernet2Slice::from_slice_without_fcs(frame).unwrap();
                prop_assert_eq!(inner_frame.ether_type().0, ether_type);
                prop_assert_eq!((inner_frame.destination(), inner_frame.source()), INNER_MACS);
                &frame[14..]
            }
            (Mode::Gre, None) => {
                prop_assert_eq!(&payload.payload[..4], &[[0, 0], ether_type.to_be_bytes()].concat()[..]);
                &payload.payload[4..]
            }
            (_, None) => payload.payload,
            (_, other) => panic!("{other:?}"),
        };
        prop_assert_eq!(carried, inner);
        // And our own parser takes what we send.
        prop_assert_eq!(ip(&out).protocol, protocol);
    }

    #[test]
    fn short_frames_are_left_alone(frame in arbitrary_frame(), (mode, parameters) in arbitrary_mode(), outer_v6 in any::<bool>(), len in 0usize..34) {
        let p = ip(&frame);
        let header = TunnelHeader::new(&Tunnel { parameters, ..tunnel(mode, outer_v6, p.is_v6()) }).unwrap();
        let mut short = frame[..len.min(header.len() + usize::from(p.l3) - 1)].to_vec();
        let before = short.clone();
        encapsulate(&mut short, &header.between(NEXT_HOP, OURS), &p, 0);
        prop_assert_eq!(short, before);
    }
}
