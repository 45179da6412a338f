use super::{REPLY_MAX, echo, echo_piece, is_echo_in_pieces, port_unreachable, tcp_reset, too_big};
use crate::parse::{Fragment, Parsed, ParsedFrame, parse};
use crate::sample::{
    CLIENT, CLIENT6, FROM_MAC, V4, VIP, VIP6, arbitrary_frame, chain, ethernet, ethernet4, ethernet6,
    fragment_header, icmp, icmpv6, naive_sum, options_header, tcp, udp, v6, v6_between, with_pseudo6,
};
use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice, icmpv4, icmpv6 as kinds6};
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use std::vec::Vec;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];

type Answer = fn(&[u8], &Parsed, [u8; 6], &mut [u8]) -> Option<usize>;

fn ip(frame: &[u8]) -> Parsed {
    match parse(frame) {
        Ok(ParsedFrame::Ip(parsed)) => parsed,
        other => panic!("{other:?}"),
    }
}

fn too_big_1480(frame: &[u8], p: &Parsed, mac: [u8; 6], out: &mut [u8]) -> Option<usize> {
    too_big(frame, p, mac, 1480, out)
}

fn answer(frame: &[u8], how: Answer) -> Option<Vec<u8>> {
    let mut out = std::vec![0xaa; frame.len().max(REPLY_MAX)];
    let p = ip(frame);
    let len = how(frame, &p, MAC, &mut out)?;
    out.truncate(len);
    let mut short = std::vec![0; len - 1];
    assert_eq!(how(frame, &p, MAC, &mut short), None, "out is one byte too short");
    check(frame, &out);
    Some(out)
}

/// What all answers have in common: link layer, addresses, lengths and checksums.
fn check(request: &[u8], reply: &[u8]) {
    let p = ip(request);
    let l3 = usize::from(p.l3);
    assert_eq!(reply[..12], [FROM_MAC, MAC].concat());
    assert_eq!(reply[12..l3], request[12..l3], "tags and Ethernet type");
    let theirs = SlicedPacket::from_ethernet(reply).unwrap();
    let payload = theirs.ip_payload().unwrap();
    let covered = match theirs.net.as_ref().unwrap() {
        NetSlice::Ipv4(net) => {
            let header = net.header();
            assert_eq!((header.ihl(), header.ttl(), header.more_fragments()), (5, 64, false));
            assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
            assert_eq!(usize::from(header.total_len()), reply.len() - l3);
            let pseudo = [
                &header.source()[..],
                &header.destination(),
                &[0, payload.ip_number.0],
                &(payload.payload.len() as u16).to_be_bytes(),
            ]
            .concat();
            if payload.ip_number.0 == 1 {
                payload.payload.to_vec()
            } else {
                [&pseudo, payload.payload].concat()
            }
        }
        NetSlice::Ipv6(net) => {
            let header = net.header();
            assert!(net.extensions().is_empty());
            assert_eq!(header.hop_limit(), 64);
            assert_eq!(usize::from(header.payload_length()), reply.len() - l3 - 40);
            with_pseudo6(&header.source(), &header.destination(), payload.ip_number.0, payload.payload)
        }
        NetSlice::Arp(_) => panic!("not ARP"),
    };
    assert_eq!(naive_sum(&covered), 0xffff, "transport checksum");
    let r = ip(reply);
    assert_eq!((r.src(reply), r.dst(reply)), (p.dst(request), p.src(request)));
}

fn v6_echo(extensions: &[(u8, Vec<u8>)], data: &[u8]) -> Vec<u8> {
    let (next, payload) = chain(extensions, 58, &icmpv6(CLIENT6, VIP6, 128, 0, data));
    ethernet6(&v6(next, 0x2e, &payload))
}

#[test]
fn echo_ipv4() {
    let request = V4 { tos: 0x2e, flags: 0x4000, options: std::vec![0x94, 4, 0, 0], ..V4::new(1) };
    let message = icmp(8, 0, b"ping with an odd length");
    let reply = answer(&ethernet(&[0x8100], 0x0800, &request.packet(&message)), echo).unwrap();
    assert_eq!(reply[19], 0x2e, "type of service");
    assert_eq!(reply[22..26], [0x12, 0x34, 0x40, 0], "identification and don't-fragment");
    assert_eq!(reply[38..40], [0, 0]);
    assert_eq!(reply[42..], message[4..], "identifier, sequence and data");
}

#[test]
fn echo_ipv6() {
    for extensions in [std::vec![], std::vec![options_header(60, 1), fragment_header(0, false, 7)]] {
        let reply = answer(&v6_echo(&extensions, b"ping"), echo).unwrap();
        assert_eq!(reply[14..16], [0x62, 0xe0]);
        assert_eq!(reply[54..56], [129, 0]);
        assert_eq!(reply[58..], [&[0, 1, 0, 2][..], b"ping"].concat());
    }
}

#[test]
fn echo_of_zeros_and_of_a_long_message() {
    // The one message whose reply sums to nothing: RFC 1624 cannot update its checksum, so it is recomputed.
    let mut zeros = std::vec![8, 0, 0xf7, 0xff, 0, 0, 0, 0];
    let reply = answer(&ethernet4(&V4::new(1).packet(&zeros)), echo).unwrap();
    assert_eq!(reply[34..], [0, 0, 0xff, 0xff, 0, 0, 0, 0]);
    zeros[3] = 0xfe;
    assert_eq!(answer(&ethernet4(&V4::new(1).packet(&zeros)), echo), None, "bad checksum");
    let mut wrong = v6_echo(&[], b"ping");
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(answer(&wrong, echo), None, "bad checksum");
    let long = ethernet4(&V4::new(1).packet(&icmp(8, 0, &std::vec![0x5a; 9000])));
    assert_eq!(answer(&long, echo).unwrap().len(), long.len());
    assert_eq!(answer(&ethernet4(&V4::new(17).packet(&udp(b"no ping"))), echo), None);
    assert_eq!(answer(&ethernet4(&V4::new(1).packet(&icmp(0, 0, b"reply"))), echo), None);
}

/// Cuts a message into frames with pieces of 800 bytes.
fn pieces(v6: bool, message: &[u8]) -> Vec<Vec<u8>> {
    let count = message.len().div_ceil(800);
    let cut = |(n, piece): (usize, &[u8])| {
        let (offset, more) = (n as u16 * 800, n + 1 < count);
        if v6 {
            let (next, payload) = chain(&[fragment_header(offset, more, 0xdead_beef)], 58, piece);
            ethernet6(&v6_packet(next, &payload))
        } else {
            let flags = (offset / 8) | if more { 0x2000 } else { 0 };
            let options = std::vec![0x94, 4, 0, 0];
            ethernet(&[0x8100], 0x0800, &V4 { tos: 0x2e, flags, options, ..V4::new(1) }.packet(piece))
        }
    };
    message.chunks(800).enumerate().map(cut).collect()
}

fn v6_packet(next: u8, payload: &[u8]) -> Vec<u8> {
    v6(next, 0x2e, payload)
}

#[test]
fn pieces_of_an_echo_request_are_answered_as_the_whole_would_be() {
    // With zeros alone the checksum is the one of two zeros that holds for them.
    let data: Vec<u8> = (0..2001).map(|n| n as u8).collect();
    for (v6, data) in [(false, &data[..]), (true, &data[..]), (false, &[0; 2001]), (true, &[0; 2001])] {
        let mut message = if v6 { icmpv6(CLIENT6, VIP6, 128, 0, data) } else { icmp(8, 0, data) };
        if !v6 && data[1] == 0 {
            message = [&[8, 0, 0xf7, 0xff, 0, 0, 0, 0][..], data].concat();
        }
        let whole =
            if v6 { ethernet6(&v6_packet(58, &message)) } else { ethernet4(&V4::new(1).packet(&message)) };
        let expected = {
            let mut out = std::vec![0; whole.len()];
            let len = echo(&whole, &ip(&whole), MAC, &mut out).unwrap();
            out[usize::from(ip(&whole).l4)..len].to_vec()
        };
        let mut together: Vec<u8> = Vec::new();
        for piece in pieces(v6, &message) {
            let p = ip(&piece);
            assert_eq!(echo(&piece, &p, MAC, &mut std::vec![0; 3000]), None, "no whole request");
            let mut out = std::vec![0xaa; piece.len()];
            let len = echo_piece(&piece, &p, MAC, &mut out).unwrap();
            assert_eq!(echo_piece(&piece, &p, MAC, &mut std::vec![0; len - 1]), None);
            out.truncate(len);
            let r = ip(&out);
            assert_eq!((r.src(&out), r.dst(&out)), (p.dst(&piece), p.src(&piece)));
            assert_eq!((r.fragment, r.tos, r.protocol), (p.fragment, 0x2e, if v6 { 58 } else { 1 }));
            assert_eq!(r.tag_count(), p.tag_count());
            assert_eq!(usize::from(r.fragment.unwrap().offset), together.len());
            together.extend(&out[usize::from(r.l4)..]);
        }
        assert_eq!(together, expected);
    }
}

#[test]
fn pieces_that_are_not_answered() {
    let room = &mut std::vec![0; 3000];
    let first = |frame: &[u8]| is_echo_in_pieces(frame, &ip(frame));
    let request = icmpv6(CLIENT6, VIP6, 128, 0, &[0; 1000]);
    assert!(first(&pieces(true, &request)[0]));
    assert!(!first(&pieces(true, &request)[1]), "the first piece tells");
    assert!(!first(&ethernet6(&v6_packet(58, &request))), "whole");
    let other = icmpv6(CLIENT6, VIP6, 129, 0, &[0; 1000]);
    let frame = &pieces(true, &other)[0];
    assert!(!first(frame));
    assert_eq!(echo_piece(frame, &ip(frame), MAC, room), None);
    // Options behind the fragment header are part of what was cut, and no part of a reply.
    let headers = [fragment_header(0, true, 7), options_header(60, 1)];
    let (next, payload) = chain(&headers, 58, &request[..800]);
    let frame = ethernet6(&v6_packet(next, &payload));
    let p = ip(&frame);
    assert_eq!(p.fragment, Some(Fragment { id: 7, offset: 0, more: true }));
    assert!(!first(&frame));
    assert_eq!(echo_piece(&frame, &p, MAC, room), None);
    // From a group.
    let mut frame = pieces(false, &icmp(8, 0, &[0; 1000])).swap_remove(1);
    frame[6] |= 1;
    assert_eq!(echo_piece(&frame, &ip(&frame), MAC, room), None);
}

#[test]
fn too_big_ipv4() {
    for (len, quoted) in [(1, 29), (519, 547), (520, 548), (521, 548), (1472, 548)] {
        let request = V4 { flags: 0x4000, tos: 0xff, ..V4::new(17) }.packet(&udp(&std::vec![7; len]));
        let mut frame = ethernet4(&request);
        frame.extend([0; 30]);
        let reply = answer(&frame, too_big_1480).unwrap();
        assert_eq!(reply[15], 0, "type of service");
        assert_eq!(reply.len(), 14 + 28 + quoted, "{len}");
        assert_eq!(reply[42..], request[..quoted]);
        match SlicedPacket::from_ethernet(&reply).unwrap().transport.unwrap() {
            TransportSlice::Icmpv4(icmp) => assert_eq!(
                icmp.icmp_type(),
                Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::FragmentationNeeded {
                    next_hop_mtu: 1480
                })
            ),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn too_big_ipv6() {
    for (len, quoted) in [(1, 49), (1183, 1231), (1184, 1232), (1452, 1232)] {
        let request = v6(17, 3, &udp(&std::vec![7; len]));
        let frame = ethernet(&[0x88a8, 0x8100], 0x86dd, &request);
        let reply = answer(&frame, too_big_1480).unwrap();
        assert_eq!(reply.len(), 22 + 48 + quoted, "{len}");
        assert!(reply.len() <= REPLY_MAX);
        assert_eq!(reply[70..], request[..quoted]);
        match SlicedPacket::from_ethernet(&reply).unwrap().transport.unwrap() {
            TransportSlice::Icmpv6(icmp) => {
                assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1480 });
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn port_unreachable_both_families() {
    let reply = answer(&ethernet4(&V4::new(17).packet(&udp(b"data"))), port_unreachable).unwrap();
    match SlicedPacket::from_ethernet(&reply).unwrap().transport.unwrap() {
        TransportSlice::Icmpv4(icmp) => assert_eq!(
            icmp.icmp_type(),
            Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port)
        ),
        other => panic!("{other:?}"),
    }
    let reply = answer(&ethernet6(&v6(17, 0, &udp(b"data"))), port_unreachable).unwrap();
    match SlicedPacket::from_ethernet(&reply).unwrap().transport.unwrap() {
        TransportSlice::Icmpv6(icmp) => assert_eq!(
            icmp.icmp_type(),
            Icmpv6Type::DestinationUnreachable(kinds6::DestUnreachableCode::Port)
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn tcp_reset_rules() {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;
    let top = u32::MAX;
    for (name, flags, options, data, seq, ack, expected) in [
        ("SYN", SYN, 0, 0, 100, 0, Some((0, 101, RST | ACK))),
        ("SYN with options", SYN, 20, 0, 100, 0, Some((0, 101, RST | ACK))),
        ("SYN with data (fast open)", SYN, 4, 10, 100, 0, Some((0, 111, RST | ACK))),
        ("SYN FIN", SYN | FIN, 0, 0, 100, 0, Some((0, 102, RST | ACK))),
        ("FIN without ACK", FIN, 0, 5, 100, 0, Some((0, 106, RST | ACK))),
        ("data without ACK", 0, 0, 5, 100, 77, Some((0, 105, RST | ACK))),
        ("nothing", 0, 0, 0, 100, 77, Some((0, 100, RST | ACK))),
        ("SYN at the last number", SYN, 0, 0, top, 0, Some((0, 0, RST | ACK))),
        ("ACK", ACK, 0, 0, 100, 77, Some((77, 0, RST))),
        ("data", ACK | 8, 12, 99, 100, top, Some((top, 0, RST))),
        ("SYN ACK", SYN | ACK, 4, 0, 100, 77, Some((77, 0, RST))),
        ("FIN ACK", FIN | ACK, 0, 0, 100, 77, Some((77, 0, RST))),
        ("RST", RST, 0, 0, 100, 0, None),
        ("RST ACK", RST | ACK, 0, 0, 100, 77, None),
    ] {
        let segment = tcp(flags, seq, ack, &std::vec![1; options], &std::vec![9; data]);
        let mut frame4 = ethernet4(&V4 { tos: 0xbb, ..V4::new(6) }.packet(&segment));
        frame4.extend([0; 12]);
        for frame in [frame4, ethernet6(&v6(6, 0xbb, &segment))] {
            let reply = answer(&frame, tcp_reset);
            let Some((seq, ack, flags)) = expected else {
                assert_eq!(reply, None, "{name}");
                continue;
            };
            let reply = reply.unwrap();
            let p = ip(&reply);
            assert_eq!(p.tos, 0xb8, "ECN is cleared");
            match SlicedPacket::from_ethernet(&reply).unwrap().transport.unwrap() {
                TransportSlice::Tcp(tcp) => {
                    assert_eq!((tcp.source_port(), tcp.destination_port()), (80, 40_000));
                    assert_eq!((tcp.sequence_number(), tcp.acknowledgment_number()), (seq, ack), "{name}");
                    assert_eq!(tcp.header_slice()[13], flags, "{name}");
                    assert_eq!((tcp.data_offset(), tcp.window_size(), tcp.payload().len()), (5, 0, 0));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let fragment = |flags, len: usize| {
        ethernet4(&V4 { flags: 0x2000, ..V4::new(6) }.packet(&tcp(flags, 100, 77, &[], &[0; 28])[..len]))
    };
    assert_eq!(answer(&fragment(SYN, 48), tcp_reset), None, "its length is not known");
    assert!(answer(&fragment(ACK, 16), tcp_reset).is_some());
    assert_eq!(answer(&ethernet4(&V4::new(17).packet(&udp(b"no segment"))), tcp_reset), None);
}

#[test]
fn nothing_is_sent_to() {
    let segment = tcp(2, 1, 0, &[], &[]);
    let from = |src: [u8; 4]| V4 { src, ..V4::new(6) }.packet(&segment);
    let to = |dst: [u8; 4]| V4 { dst, ..V4::new(6) }.packet(&segment);
    let mut ipv4: Vec<_> = [
        [0, 0, 0, 0],
        [0, 1, 2, 3],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [240, 0, 0, 1],
        [255, 255, 255, 255],
        VIP,
    ]
    .map(|src| ("source", ethernet4(&from(src))))
    .into();
    ipv4.extend(
        [[224, 0, 0, 1], [255, 255, 255, 255], CLIENT].map(|dst| ("destination", ethernet4(&to(dst)))),
    );
    let multicast = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let one = |last| std::array::from_fn(|i| if i == 15 { last } else { 0 });
    for (src, dst) in [
        (multicast, VIP6),
        (one(0), VIP6),
        (one(1), VIP6),
        (VIP6, VIP6),
        (CLIENT6, multicast),
        (CLIENT6, one(0)),
    ] {
        ipv4.push(("IPv6 address", ethernet6(&v6_between(src, dst, 6, 0, &segment))));
    }
    let mut group = ethernet4(&from(CLIENT));
    assert!(answer(&group, tcp_reset).is_some());
    group[0] |= 1;
    ipv4.push(("group MAC", group.clone()));
    group[0] &= 0xfe;
    group[6] |= 1;
    ipv4.push(("from a group MAC", group));
    let later = |flags| ethernet4(&V4 { flags, ..V4::new(6) }.packet(&[0; 24]));
    ipv4.push(("later fragment", later(0x2002)));
    ipv4.push(("last fragment", later(0x0002)));
    ipv4.push(("bad TCP", ethernet4(&V4::new(6).packet(&segment[..19]))));
    for (name, frame) in ipv4 {
        for how in [too_big_1480 as Answer, port_unreachable, tcp_reset, echo] {
            assert_eq!(answer(&frame, how), None, "{name}");
        }
    }
}

#[test]
fn no_error_about_an_error() {
    let quote = V4 { src: VIP, dst: CLIENT, ..V4::new(6) }.packet(&tcp(16, 1, 1, &[], &[]));
    for icmp_type in [3, 4, 5, 11, 12] {
        let frame = ethernet4(&V4::new(1).packet(&icmp(icmp_type, 1, &quote)));
        assert_eq!(answer(&frame, too_big_1480), None, "type {icmp_type}");
        let first = ethernet4(&V4 { flags: 0x2000, ..V4::new(1) }.packet(&icmp(icmp_type, 1, &quote)[..48]));
        assert_eq!(answer(&first, too_big_1480), None, "type {icmp_type} in a first fragment");
    }
    let quote = v6_between(VIP6, CLIENT6, 6, 0, &tcp(16, 1, 1, &[], &[]));
    for icmp_type in [1, 2, 3, 4, 100, 127, 135, 137] {
        let frame = ethernet6(&v6(58, 0, &icmpv6(CLIENT6, VIP6, icmp_type, 0, &quote)));
        assert_eq!(answer(&frame, too_big_1480), None, "type {icmp_type}");
    }
    // A ping that does not fit may be told so.
    assert!(answer(&ethernet4(&V4::new(1).packet(&icmp(8, 0, &[0; 1480]))), too_big_1480).is_some());
    assert!(answer(&v6_echo(&[], &[0; 1480]), too_big_1480).is_some());
    assert!(answer(&ethernet4(&V4::new(1).packet(&icmp(13, 0, &[0; 12]))), too_big_1480).is_some());
}

proptest! {
    #[test]
    fn answers_are_sound(frame in arbitrary_frame(), mtu in any::<u16>()) {
        let p = ip(&frame);
        let mut out = std::vec![0; frame.len().max(REPLY_MAX)];
        for len in [
            too_big(&frame, &p, MAC, mtu, &mut out.clone()),
            port_unreachable(&frame, &p, MAC, &mut out.clone()),
            tcp_reset(&frame, &p, MAC, &mut out.clone()),
        ] {
            prop_assert!(len.is_none_or(|len| len <= REPLY_MAX));
        }
        if let Some(len) = port_unreachable(&frame, &p, MAC, &mut out) {
            check(&frame, &out[..len]);
            // What we answer, we would refuse to answer.
            let r = ip(&out[..len]);
            prop_assert_eq!(port_unreachable(&out[..len], &r, MAC, &mut std::vec![0; REPLY_MAX]), None);
            match r.quoted(&out[..len]) {
                Some(quoted) => {
                    prop_assert_eq!(quoted.src, (p.src(&frame), p.sport));
                    prop_assert_eq!(quoted.dst, (p.dst(&frame), p.dport));
                }
                None => prop_assert!(false, "{:?}", r.kind),
            }
        }
    }

    /// A frame that was not the one parsed: refused or answered, but no panic.
    #[test]
    fn a_frame_that_does_not_match(frame in arbitrary_frame(), other in proptest::collection::vec(any::<u8>(), 0..200)) {
        let p = ip(&frame);
        let mut out = [0; REPLY_MAX];
        for how in [too_big_1480 as Answer, port_unreachable, tcp_reset, echo, echo_piece] {
            let len = how(&other, &p, MAC, &mut out);
            prop_assert!(len.is_none_or(|len| len <= REPLY_MAX && other.len() >= usize::from(p.l4)));
        }
    }
}
