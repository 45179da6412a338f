use super::too_big;
use crate::Addr;
use crate::encap::{Mode, SourcePrefix, Tunnel, TunnelHeader, encapsulate};
use crate::parse::{Parsed, ParsedFrame, parse};
use crate::sample::{V4, ethernet4, ethernet6, icmp, icmpv6, naive_sum, tcp, v6_between};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use proptest::prelude::{any, prop_assert, proptest};
use std::vec::Vec;

const CLIENT: [u8; 4] = [198, 51, 100, 7];
const VIP: [u8; 4] = [203, 0, 113, 10];
const OWN: [u8; 4] = [10, 0, 2, 11];
const BACKEND: [u8; 4] = [10, 0, 2, 21];
const ROUTER: [u8; 4] = [10, 0, 3, 1];
const OWN6: [u8; 16] = [0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11];
const BACKEND6: [u8; 16] = [0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x21];
const ROUTER6: [u8; 16] = [0xfd, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

fn ip(frame: &[u8]) -> Parsed {
    match parse(frame) {
        Ok(ParsedFrame::Ip(parsed)) => parsed,
        other => panic!("{other:?}"),
    }
}

fn header(mode: Mode, v6: bool, last: u8) -> TunnelHeader {
    let addresses = |own: &[u8], backend: &[u8]| {
        let mut backend = backend.to_vec();
        *backend.last_mut().unwrap() = last;
        if v6 {
            (<[u8; 16]>::try_from(own).unwrap().into(), <[u8; 16]>::try_from(&backend[..]).unwrap().into())
        } else {
            (<[u8; 4]>::try_from(own).unwrap().into(), <[u8; 4]>::try_from(&backend[..]).unwrap().into())
        }
    };
    let (source, destination) = if v6 { addresses(&OWN6, &BACKEND6) } else { addresses(&OWN, &BACKEND) };
    let inner_macs = ([2; 6], [4; 6]);
    let parameters = mode.defaults();
    let tunnel = Tunnel { mode, parameters, source, sources: None, destination, inner_v6: false, inner_macs };
    TunnelHeader::new(&tunnel).unwrap()
}

/// From a prefix that the machine's own address is not of.
fn spread(mode: Mode, v6: bool) -> TunnelHeader {
    let (source, destination, first, len): (IpAddr, IpAddr, IpAddr, u8) = if v6 {
        (OWN6.into(), BACKEND6.into(), Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 0).into(), 64)
    } else {
        (OWN.into(), BACKEND.into(), Ipv4Addr::new(10, 9, 0, 0).into(), 16)
    };
    let sources = Some(SourcePrefix::new(first, len).unwrap());
    let (parameters, inner_macs) = (mode.defaults(), ([2; 6], [4; 6]));
    let tunnel = Tunnel { mode, parameters, source, sources, destination, inner_v6: false, inner_macs };
    TunnelHeader::new(&tunnel).unwrap()
}

/// All that put an outer header in front.
fn modes() -> impl Iterator<Item = Mode> {
    Mode::ALL.into_iter().filter(|mode| *mode != Mode::L2)
}

/// A packet of 1,500 bytes as it leaves, from the outer IP header on.
fn sent(header: &TunnelHeader) -> Vec<u8> {
    let segment = tcp(0x10, 40_000, 80, &[], &[7; 1460]);
    let mut inner = ethernet4(&V4 { src: CLIENT, dst: VIP, ..V4::new(6) }.packet(&segment));
    inner.truncate(usize::from(ip(&inner).end));
    let mut frame = std::vec![0; header.len()];
    frame.extend(&inner);
    encapsulate(&mut frame, header, &ip(&inner), 0x1234_5678);
    frame[14..].to_vec()
}

/// The router's error, quoting so many bytes.
fn error(v6: bool, packet: &[u8], mtu: u16, quoted: usize) -> Vec<u8> {
    error_to((OWN, OWN6), v6, packet, mtu, quoted)
}

/// To one of these.
fn error_to((own, own6): ([u8; 4], [u8; 16]), v6: bool, packet: &[u8], mtu: u16, quoted: usize) -> Vec<u8> {
    let quote = &packet[..quoted.min(packet.len())];
    let mut message =
        [&[if v6 { 2 } else { 3 }, if v6 { 0 } else { 4 }, 0, 0, 0, 0][..], &mtu.to_be_bytes(), quote]
            .concat();
    if v6 {
        let covered = crate::sample::with_pseudo6(&ROUTER6, &own6, 58, &message);
        let check = !naive_sum(&covered);
        message[2..4].copy_from_slice(&check.to_be_bytes());
        ethernet6(&v6_between(ROUTER6, own6, 58, 0, &message))
    } else {
        let check = !naive_sum(&message);
        message[2..4].copy_from_slice(&check.to_be_bytes());
        ethernet4(&V4 { src: ROUTER, dst: own, ..V4::new(1) }.packet(&message))
    }
}

fn is_vip(address: Addr) -> bool {
    address == Addr::V4(u32::from_be_bytes(VIP))
}

#[test]
fn an_error_about_our_packet_is_taken_however_much_it_quotes() {
    for v6 in [false, true] {
        for mode in modes() {
            let header = header(mode, v6, 0x21);
            let packet = sent(&header);
            let least = if v6 { 48 } else { 28 };
            for quoted in least..600 {
                let frame = error(v6, &packet, 1400, quoted);
                let of = too_big(&frame, &ip(&frame)).unwrap();
                assert_eq!(of.mtu, 1400);
                assert!(of.is_about(&header, is_vip), "{mode:?} {v6} {quoted}");
            }
        }
    }
}

#[test]
fn an_error_to_a_source_of_the_prefix_is_taken() {
    for v6 in [false, true] {
        for mode in [Mode::Ipip, Mode::Gre] {
            let (spread, plain) = (spread(mode, v6), header(mode, v6, 0x21));
            let packet = sent(&spread);
            let at = if v6 { 8 } else { 12 };
            let to = |quoted: &[u8]| {
                let own = quoted[12..16].try_into().unwrap();
                (own, quoted[8..24].try_into().unwrap())
            };
            assert_eq!(&packet[at..at + 2], if v6 { &[0xfd, 0] } else { &[10, 9] });
            let host = if v6 { &packet[16..24] } else { &packet[14..16] };
            assert!(host.iter().any(|byte| *byte != 0));
            let is_taken = |to, quoted: &[u8], header: &TunnelHeader| {
                let frame = error_to(to, v6, quoted, 1400, 548);
                too_big(&frame, &ip(&frame)).is_some_and(|of| of.mtu == 1400 && of.is_about(header, is_vip))
            };
            assert!(is_taken(to(&packet), &packet, &spread), "{mode:?} {v6}");
            assert!(!is_taken(to(&packet), &packet, &plain), "sources are of a prefix or one");
            let other = header(mode, v6, 0x22);
            assert!(!is_taken(to(&packet), &packet, &other), "another backend");
            // To another address of the prefix, or quoting a source outside of it.
            let mut moved = packet.clone();
            moved[at + if v6 { 15 } else { 3 }] ^= 1;
            assert!(!is_taken(to(&moved), &packet, &spread), "not to the quoted packet's source");
            assert!(is_taken(to(&moved), &moved, &spread), "any address of the prefix");
            moved[at + 1] ^= 1;
            assert!(!is_taken(to(&moved), &moved, &spread), "outside of the prefix");
            let ours = sent(&plain);
            assert!(!is_taken((OWN, OWN6), &ours, &spread), "from the machine's own address");
        }
    }
}

#[test]
fn what_no_packet_of_ours_can_have_caused_is_refused() {
    let refused = |frame: &[u8], header: &TunnelHeader| {
        too_big(frame, &ip(frame)).is_none_or(|of| !of.is_about(header, is_vip))
    };
    for v6 in [false, true] {
        for mode in modes() {
            let ours = header(mode, v6, 0x21);
            let packet = sent(&ours);
            assert!(!refused(&error(v6, &packet, 1400, 500), &ours));
            assert!(refused(&error(v6, &packet, 1400, 500), &header(mode, v6, 0x22)), "another backend");
            for other in modes().filter(|other| *other != mode) {
                assert!(refused(&error(v6, &packet, 1400, 500), &header(other, v6, 0x21)), "{other:?}");
            }
            assert!(refused(&error(v6, &packet, 1400, 500), &TunnelHeader::default()), "no tunnel at all");
            assert!(refused(&error(v6, &packet, u16::MAX, 500), &ours), "it would have fitted");
            // An outer address, the protocol, the first byte behind IP but for a UDP source port, the inner destination.
            let ip_len = if v6 { 40 } else { 20 };
            let udp = mode.port_key().is_some();
            let protocol = if v6 { 6 } else { 9 };
            for at in [protocol, 13, ip_len - 1, ip_len + if udp { 3 } else { 0 }, ours.len() + 16] {
                let mut other = packet.clone();
                other[at] ^= 0x10;
                assert!(refused(&error(v6, &other, 1400, 500), &ours), "{mode:?} {v6} byte {at}");
            }
            let mut frame = error(v6, &packet, 1400, 500);
            *frame.last_mut().unwrap() ^= 1;
            assert!(refused(&frame, &ours), "checksum");
            let mut frame = error(v6, &packet, 1400, 500);
            let l3 = 14;
            let to = if v6 { l3 + 39 } else { l3 + 19 };
            frame[to] ^= 1;
            if !v6 {
                crate::sample::fix_checksum(&mut frame[l3..], 20);
            }
            assert!(refused(&frame, &ours), "to another than the quoted source");
        }
    }
    let packet = sent(&header(Mode::Ipip, false, 0x21));
    for (kind, code) in [(3, 3), (11, 0), (12, 4)] {
        let frame =
            ethernet4(&V4 { src: ROUTER, dst: OWN, ..V4::new(1) }.packet(&icmp(kind, code, &packet[..60])));
        assert!(too_big(&frame, &ip(&frame)).is_none());
    }
    let frame = ethernet6(&v6_between(
        ROUTER6,
        OWN6,
        58,
        0,
        &icmpv6(ROUTER6, OWN6, 1, 0, &sent(&header(Mode::Ipip, true, 1))[..90]),
    ));
    assert!(too_big(&frame, &ip(&frame)).is_none());
}

#[test]
fn a_router_that_names_no_mtu_means_576() {
    let header = header(Mode::Gre, false, 0x21);
    let frame = error(false, &sent(&header), 0, 28);
    assert_eq!(too_big(&frame, &ip(&frame)).unwrap().mtu, 576);
}

proptest! {
    #[test]
    fn any_quote_is_judged(v6 in any::<bool>(), quote in proptest::collection::vec(any::<u8>(), 0..200), mtu in any::<u16>()) {
        let frame = error(v6, &quote, mtu, 200);
        if let Ok(ParsedFrame::Ip(p)) = parse(&frame)
            && let Some(of) = too_big(&frame, &p)
        {
            for mode in modes() {
                prop_assert!(!of.is_about(&header(mode, v6, 0x21), is_vip));
            }
        }
    }
}
