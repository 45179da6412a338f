use super::{BadTransport, Fragment, Kind, Malformed, Parsed, ParsedFrame, Quoted, TcpFlags, parse};
use crate::Addr;
use crate::plain::{Plain, PlainV6};
use crate::sample::{
    CLIENT, CLIENT6, V4, VIP, VIP6, arbitrary_frame, authentication_header, chain, ethernet, ethernet4,
    ethernet6, fix_checksum, fragment_header, icmp, icmpv6, options_header, routing_header, tcp, udp, v6,
    v6_between,
};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use std::vec::Vec;

fn ip(frame: &[u8]) -> Parsed {
    match parse(frame) {
        Ok(ParsedFrame::Ip(parsed)) => parsed,
        other => panic!("{other:?} for {frame:02x?}"),
    }
}

fn v6_chain(extensions: &[(u8, Vec<u8>)], last: u8, payload: &[u8]) -> Vec<u8> {
    let (next, payload) = chain(extensions, last, payload);
    ethernet6(&v6(next, 0, &payload))
}

fn syn() -> Vec<u8> {
    tcp(0x02, 1, 0, &[], &[])
}

const V4_CLIENT: Addr = Addr::V4(u32::from_be_bytes(CLIENT));
const V4_VIP: Addr = Addr::V4(u32::from_be_bytes(VIP));
const V6_CLIENT: Addr = Addr::V6(u128::from_be_bytes(CLIENT6));
const V6_VIP: Addr = Addr::V6(u128::from_be_bytes(VIP6));

#[test]
fn tcp_over_ipv4() {
    let mut frame = ethernet4(&V4 { tos: 0xb9, flags: 0x4000, ..V4::new(6) }.packet(&syn()));
    frame.resize(60, 0);
    let p = ip(&frame);
    assert_eq!((p.l3, p.l4, p.end), (14, 34, 54));
    assert_eq!((p.src(&frame), p.dst(&frame)), (V4_CLIENT, V4_VIP));
    assert_eq!((p.sport, p.dport, p.protocol), (40_000, 80, 6));
    assert_eq!((p.tos, p.dont_fragment, p.fragment), (0xb9, true, None));
    assert_eq!(p.kind, Kind::Tcp(TcpFlags(0x02)));
    assert!(!p.is_v6());
    assert_eq!((p.tag_count(), p.datagram_len()), (0, 40));
}

#[test]
fn udp_over_ipv6_behind_every_extension_header() {
    let extensions = [
        options_header(0, 1),
        options_header(60, 0),
        routing_header(2, 0),
        fragment_header(0, false, 9),
        authentication_header(4),
        options_header(60, 3),
    ];
    let frame = v6_chain(&extensions, 17, &udp(b"hello"));
    let p = ip(&frame);
    assert_eq!(usize::from(p.l4), frame.len() - 13);
    assert_eq!((p.src(&frame), p.dst(&frame)), (V6_CLIENT, V6_VIP));
    assert_eq!((p.sport, p.dport, p.protocol), (40_001, 53, 17));
    assert_eq!((p.kind, p.fragment, p.dont_fragment), (Kind::Udp, None, true));
}

#[test]
fn tags_up_to_two() {
    let packet = V4::new(6).packet(&syn());
    for tags in
        [&[][..], &[0x8100], &[0x88a8], &[0x9100], &[0x88a8, 0x8100], &[0x8100, 0x8100], &[0x9100, 0x8100]]
    {
        let p = ip(&ethernet(tags, 0x0800, &packet));
        assert_eq!((usize::from(p.l3), p.tag_count()), (14 + 4 * tags.len(), tags.len()));
        assert_eq!(p.kind, Kind::Tcp(TcpFlags(0x02)));
    }
    assert_eq!(parse(&ethernet(&[0x88a8, 0x8100, 0x8100], 0x0800, &packet)), Ok(ParsedFrame::NotIp));
}

#[test]
fn what_is_not_ip() {
    for (name, frame) in [
        ("arp", ethernet(&[], 0x0806, &[0; 28])),
        ("lldp", ethernet(&[], 0x88cc, &[0; 10])),
        ("802.3 length", ethernet(&[], 46, &[0x42; 46])),
        ("802.3 length in a tag", ethernet(&[0x8100], 46, &[0x42; 46])),
        ("no payload", ethernet(&[], 0x88b5, &[])),
    ] {
        assert_eq!(parse(&frame), Ok(ParsedFrame::NotIp), "{name}");
    }
}

#[test]
fn bad_ethernet() {
    let frame = ethernet(&[0x88a8, 0x8100], 0x0800, &V4::new(6).packet(&syn()));
    for len in 0..22 {
        assert_eq!(parse(&frame[..len]), Err(Malformed::BadEthernet), "{len} bytes");
    }
    assert_eq!(parse(&frame[..22]), Err(Malformed::BadIpv4));
}

/// The datagram with some header bytes set and the checksum put right again.
fn v4_with(bytes: &[(usize, u8)]) -> Vec<u8> {
    let mut packet = V4::new(17).packet(&udp(&[0; 20]));
    for (at, value) in bytes {
        packet[*at] = *value;
    }
    fix_checksum(&mut packet, 20);
    ethernet4(&packet)
}

#[test]
fn bad_ipv4() {
    let options = |options: &[u8]| ethernet4(&V4 { options: options.to_vec(), ..V4::new(6) }.packet(&syn()));
    for (name, frame) in [
        ("version 6", v4_with(&[(0, 0x65)])),
        ("version 0", v4_with(&[(0, 0x05)])),
        ("header of 16 bytes", v4_with(&[(0, 0x44)])),
        ("header of 0 bytes", v4_with(&[(0, 0x40)])),
        ("header longer than the datagram", v4_with(&[(0, 0x4f)])),
        ("total length 0", v4_with(&[(3, 0)])),
        ("total length 19", v4_with(&[(3, 19)])),
        ("total length one more than the frame", v4_with(&[(3, 49)])),
        ("total length 65535", v4_with(&[(2, 255), (3, 255)])),
        ("empty", ethernet4(&[])),
        ("19 bytes", ethernet4(&V4::new(6).packet(&[])[..19])),
        ("option length 0", options(&[7, 0, 0, 0])),
        ("option length 1", options(&[7, 1, 0, 0])),
        ("option past the header", options(&[7, 5, 0, 0])),
        ("option without length", options(&[1, 1, 1, 7])),
        ("second option past the header", options(&[0x94, 4, 0, 0, 1, 0x82, 4, 0])),
    ] {
        assert_eq!(parse(&frame), Err(Malformed::BadIpv4), "{name}");
    }
    for (name, frame) in [
        ("no operation", options(&[1, 1, 1, 1])),
        ("end of list hides the rest", options(&[0, 7, 0, 0])),
        ("forty bytes", options(&[[7, 39].as_slice(), &[0; 37], &[1]].concat())),
        ("reserved flag", v4_with(&[(6, 0x80)])),
    ] {
        assert_eq!(ip(&frame).fragment, None, "{name}");
    }
}

#[test]
fn bad_ipv4_checksum() {
    let good = ethernet4(&V4 { options: std::vec![0x94, 4, 0, 0], ..V4::new(6) }.packet(&syn()));
    ip(&good);
    for at in 14..38 {
        let mut frame = good.clone();
        frame[at] ^= 0x01;
        // A total length past the frame is seen before the checksum is.
        let expected = if matches!(at, 16 | 17) { Malformed::BadIpv4 } else { Malformed::BadIpv4Checksum };
        assert_eq!(parse(&frame), Err(expected), "byte {at}");
    }
}

#[test]
fn bad_ipv6() {
    let with = |at: usize, value: u8| {
        let mut packet = v6(17, 0, &udp(&[0; 8]));
        packet[at] = value;
        ethernet6(&packet)
    };
    let jumbo = std::vec![0, 0xc2, 4, 0, 1, 0, 0];
    let mut jumbogram = v6(0, 0, &[&[17], jumbo.as_slice(), &udp(&[0; 8])].concat());
    jumbogram[4..6].fill(0);
    for (name, frame) in [
        ("version 4", with(0, 0x40)),
        ("version 7", with(0, 0x70)),
        ("payload length one more than the frame", with(5, 17)),
        ("payload length 65535", with(4, 255)),
        ("empty", ethernet6(&[])),
        ("39 bytes", ethernet6(&v6(59, 0, &[])[..39])),
        ("jumbogram", ethernet6(&jumbogram)),
        ("jumbo option next to a length", v6_chain(&[(0, jumbo)], 17, &udp(&[]))),
    ] {
        assert_eq!(parse(&frame), Err(Malformed::BadIpv6), "{name}");
    }
    let empty = ip(&ethernet6(&v6(59, 0, &[])));
    assert_eq!((empty.kind, empty.protocol, empty.l4, empty.end), (Kind::Other, 59, 54, 54));
}

#[test]
fn bad_ipv6_extension() {
    let destination = options_header(60, 0);
    let nine: Vec<_> = std::iter::repeat_n(destination.clone(), 9).collect();
    let whole = v6_chain(&[options_header(60, 2)], 6, &syn());
    let cut = |len: usize| {
        let mut frame = whole[..54 + len].to_vec();
        frame[18..20].copy_from_slice(&(len as u16).to_be_bytes());
        frame
    };
    for (name, frame) in [
        ("header cut to nothing", cut(0)),
        ("header cut to 1", cut(1)),
        ("header cut to 8 of 24", cut(8)),
        ("header cut to 23 of 24", cut(23)),
        ("hop-by-hop second", v6_chain(&[destination.clone(), options_header(0, 0)], 6, &syn())),
        ("hop-by-hop twice", v6_chain(&[options_header(0, 0), options_header(0, 0)], 6, &syn())),
        ("segments left", v6_chain(&[routing_header(2, 1)], 6, &syn())),
        ("nine headers", v6_chain(&nine, 6, &syn())),
        ("authentication header of 8 bytes", v6_chain(&[authentication_header(0)], 6, &syn())),
        (
            "two fragment headers",
            v6_chain(&[fragment_header(0, false, 1), fragment_header(0, false, 1)], 6, &syn()),
        ),
    ] {
        assert_eq!(parse(&frame), Err(Malformed::BadIpv6Extension), "{name}");
    }
    assert_eq!(ip(&v6_chain(&nine[1..], 6, &syn())).kind, Kind::Tcp(TcpFlags(0x02)));
}

#[test]
fn esp_and_unknown_headers_end_the_chain() {
    for protocol in [50, 135, 139, 253] {
        let p = ip(&v6_chain(&[options_header(60, 0)], protocol, &[1, 2, 3]));
        assert_eq!((p.kind, p.protocol, p.l4), (Kind::Other, protocol, 62));
    }
    for protocol in [1, 58] {
        let swapped = if protocol == 1 {
            ip(&ethernet6(&v6(protocol, 0, &icmp(8, 0, &[]))))
        } else {
            ip(&ethernet4(&V4::new(protocol).packet(&icmp(128, 0, &[]))))
        };
        assert_eq!(swapped.kind, Kind::Other, "ICMP of the other family");
    }
}

fn v4_fragment(protocol: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let flags = (offset / 8) | if more { 0x2000 } else { 0 };
    ethernet4(&V4 { flags, ..V4::new(protocol) }.packet(payload))
}

fn v6_fragment(protocol: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    v6_chain(&[fragment_header(offset, more, 0xdead_beef)], protocol, payload)
}

#[test]
fn bad_fragment() {
    for (family, fragment) in [("v4", v4_fragment as fn(_, _, _, &[u8]) -> _), ("v6", v6_fragment)] {
        for (name, frame) in [
            ("not a multiple of eight", fragment(17, 0, true, &[0; 15])),
            ("later, not a multiple of eight", fragment(17, 16, true, &[0; 15])),
            ("past the longest datagram", fragment(17, 65_528, false, &[0; 8])),
            ("ping of death", fragment(1, 65_512, false, &[0; 40])),
            ("empty first", fragment(17, 0, true, &[])),
            ("empty last", fragment(17, 800, false, &[])),
            ("TCP first with 8 bytes", fragment(6, 0, true, &syn()[..8])),
            ("TCP at byte 8", fragment(6, 8, false, &[0; 24])),
        ] {
            assert_eq!(parse(&frame), Err(Malformed::BadFragment), "{family}: {name}");
        }
        for (name, frame) in [
            ("TCP first with 16 bytes", fragment(6, 0, true, &syn()[..16])),
            ("UDP first with 8 bytes", fragment(17, 0, true, &udp(&[0; 80])[..8])),
            ("UDP at byte 8", fragment(17, 8, false, &[0; 24])),
            ("last byte", fragment(17, 65_504, false, &[0; 7])),
            ("other protocol with 8 bytes", fragment(132, 0, true, &[0; 8])),
        ] {
            assert!(ip(&frame).fragment.is_some(), "{family}: {name}");
        }
    }
    let destination = options_header(60, 1).1;
    let chain_in_next_piece = [&[17][..], &destination[..7]].concat();
    assert_eq!(
        parse(&v6_fragment(60, 0, true, &chain_in_next_piece)),
        Err(Malformed::BadFragment),
        "RFC 7112"
    );
    let ports_in_next_piece = [&[17][..], &destination].concat();
    assert_eq!(
        parse(&v6_fragment(60, 0, true, &ports_in_next_piece)),
        Err(Malformed::BadFragment),
        "RFC 7112"
    );
}

#[test]
fn fragments() {
    for (fragment, id) in [(v4_fragment as fn(_, _, _, &[u8]) -> _, 0x1234), (v6_fragment, 0xdead_beef)] {
        let first = ip(&fragment(17, 0, true, &udp(&[0; 800])[..16]));
        assert_eq!(first.kind, Kind::Udp, "its length is that of the whole datagram");
        assert_eq!((first.sport, first.dport), (40_001, 53));
        assert_eq!(first.fragment, Some(Fragment { id, offset: 0, more: true }));
        let frame = fragment(6, 1480, false, &[9; 33]);
        let last = ip(&frame);
        assert_eq!((last.kind, last.protocol), (Kind::LaterFragment, 6));
        assert_eq!((last.sport, last.dport), (0, 0));
        assert_eq!(last.fragment, Some(Fragment { id, offset: 1480, more: false }));
        assert_eq!(frame[usize::from(last.l4)..usize::from(last.end)], [9; 33]);
        // The rest of the header is in the next piece.
        let long_header = tcp(0x12, 1, 2, &[1; 40], &[]);
        assert_eq!(ip(&fragment(6, 0, true, &long_header[..16])).kind, Kind::Tcp(TcpFlags(0x12)));
    }
    assert_eq!(ip(&v4_fragment(1, 0, true, &icmp(8, 0, &[0; 8]))).kind, Kind::EchoRequest);
    assert_eq!(ip(&v6_fragment(58, 0, true, &icmp(128, 0, &[0; 8]))).kind, Kind::EchoRequest);
    for discovery in 133..=137 {
        assert_eq!(ip(&v6_fragment(58, 0, true, &icmp(discovery, 0, &[0; 16]))).kind, Kind::IcmpOther);
    }
    // An error needs its whole quote in the first piece, as far as it names a flow.
    let error = icmp(3, 4, &answer4(6, 0, &[0; 100]));
    assert_eq!(ip(&v4_fragment(1, 0, true, &error[..40])).kind, Kind::IcmpError);
    let short = ip(&v4_fragment(1, 0, true, &error[..24]));
    assert_eq!(short.kind, Kind::Bad(BadTransport::BadIcmp));
    let later_chain = ip(&v6_fragment(60, 64, false, &[0xff; 8]));
    assert_eq!((later_chain.protocol, later_chain.kind), (60, Kind::LaterFragment), "as carried");
}

#[test]
fn bad_tcp() {
    let with_offset = |words: u8, len: usize| {
        let mut segment = syn();
        segment[12] = words << 4;
        segment.resize(len, 0);
        segment
    };
    for (name, segment) in [
        ("empty", Vec::new()),
        ("19 bytes", with_offset(5, 19)),
        ("offset 4", with_offset(4, 40)),
        ("offset 0", with_offset(0, 40)),
        ("offset 6 of 20 bytes", with_offset(6, 20)),
        ("offset 15 of 59 bytes", with_offset(15, 59)),
    ] {
        for frame in [ethernet4(&V4::new(6).packet(&segment)), ethernet6(&v6(6, 0, &segment))] {
            let p = ip(&frame);
            assert_eq!(p.kind, Kind::Bad(BadTransport::BadTcp), "{name}");
            assert_eq!((p.sport, p.dport), (0, 0), "{name}");
        }
    }
    assert_eq!(ip(&ethernet6(&v6(6, 0, &with_offset(15, 60)))).kind, Kind::Tcp(TcpFlags(2)));
    let first = v4_fragment(6, 0, true, &with_offset(4, 40));
    assert_eq!(ip(&first).kind, Kind::Bad(BadTransport::BadTcp), "in a first fragment");
}

#[test]
fn bad_udp() {
    let with_length = |length: u16, len: usize| {
        let mut datagram = udp(&[]);
        datagram[4..6].copy_from_slice(&length.to_be_bytes());
        datagram.resize(len, 0);
        datagram
    };
    for (name, datagram) in [
        ("empty", Vec::new()),
        ("7 bytes", with_length(8, 7)),
        ("length 7", with_length(7, 20)),
        ("length 0", with_length(0, 20)),
        ("length past the datagram", with_length(21, 20)),
    ] {
        for frame in [ethernet4(&V4::new(17).packet(&datagram)), ethernet6(&v6(17, 0, &datagram))] {
            assert_eq!(ip(&frame).kind, Kind::Bad(BadTransport::BadUdp), "{name}");
        }
    }
    assert_eq!(
        ip(&ethernet4(&V4::new(17).packet(&with_length(8, 20)))).kind,
        Kind::Udp,
        "bytes behind the datagram"
    );
}

#[test]
fn padding_is_not_read() {
    // The UDP header would be whole if the padding belonged to the datagram.
    let mut frame = ethernet4(&V4::new(17).packet(&udp(&[])[..7]));
    frame.extend([0; 40]);
    let p = ip(&frame);
    assert_eq!((p.kind, p.end), (Kind::Bad(BadTransport::BadUdp), 41));
}

/// What a backend sent to the client, as quoted.
fn answer4(protocol: u8, flags: u16, payload: &[u8]) -> Vec<u8> {
    V4 { src: VIP, dst: CLIENT, flags, ..V4::new(protocol) }.packet(payload)
}

fn quoted(src: Addr, dst: Addr, ports: (u16, u16), protocol: u8) -> (Kind, Option<Quoted>) {
    (Kind::IcmpError, Some(Quoted { src: (src, ports.0), dst: (dst, ports.1), protocol }))
}

/// The kind, and whom an ICMP error quotes.
fn kind_and_quote(frame: &[u8]) -> (Kind, Option<Quoted>) {
    let p = ip(frame);
    (p.kind, p.quoted(frame))
}

#[test]
fn icmp_kinds() {
    let error_of = |icmp: Vec<u8>| kind_and_quote(&ethernet4(&V4::new(1).packet(&icmp)));
    let kind = |icmp: Vec<u8>| error_of(icmp).0;
    let ports = [0, 80, 0x9c, 0x40];
    let quote = answer4(6, 0, &ports);
    let error = quoted(V4_VIP, V4_CLIENT, (80, 40_000), 6);
    assert_eq!(kind(icmp(8, 0, b"data")), Kind::EchoRequest);
    assert_eq!(kind(icmp(8, 1, b"data")), Kind::IcmpOther);
    assert_eq!(kind(icmp(0, 0, b"data")), Kind::IcmpOther);
    for other in [4, 5, 9, 13, 42] {
        assert_eq!(kind(icmp(other, 0, &quote)), Kind::IcmpOther, "type {other}");
    }
    for (icmp_type, code) in [(3, 0), (3, 4), (3, 13), (11, 0), (11, 1), (12, 0)] {
        assert_eq!(error_of(icmp(icmp_type, code, &quote)), error, "type {icmp_type}");
    }
    let mut truncated = answer4(17, 0, &[0; 1400]);
    truncated[20..24].copy_from_slice(&[0, 53, 0x9c, 0x41]);
    truncated[10..12].fill(0);
    assert_eq!(
        error_of(icmp(3, 4, &truncated[..28])),
        quoted(V4_VIP, V4_CLIENT, (53, 40_001), 17),
        "only 8 bytes, bad checksum"
    );
    let with_options =
        V4 { src: VIP, dst: CLIENT, options: std::vec![0x94, 4, 0, 0], ..V4::new(6) }.packet(&ports);
    assert_eq!(error_of(icmp(11, 0, &with_options)), error, "options");
    assert_eq!(
        error_of(icmp(3, 1, &answer4(6, 0x2000, &[&ports[..], &[0; 4]].concat()))),
        error,
        "first fragment"
    );
    assert_eq!(error_of(icmp(3, 1, &answer4(1, 0, &[]))), quoted(V4_VIP, V4_CLIENT, (0, 0), 1), "no ports");
    for (name, message) in [
        ("empty", Vec::new()),
        ("7 bytes", icmp(8, 0, &[])[..7].to_vec()),
        ("no quote", icmp(3, 3, &[])),
        ("quote of 19 bytes", icmp(3, 3, &quote[..19])),
        ("quote without ports", icmp(3, 3, &quote[..20])),
        ("half of the ports", icmp(3, 3, &quote[..23])),
        ("options cut", icmp(3, 3, &with_options[..22])),
        ("quoted later fragment", icmp(3, 3, &answer4(6, 0x0001, &ports))),
        ("quoted version 6", icmp(3, 3, &v6(6, 0, &ports))),
        ("quoted header length 4", icmp(3, 3, &[&[0x44], &quote[1..]].concat())),
    ] {
        assert_eq!(kind(message), Kind::Bad(BadTransport::BadIcmp), "{name}");
    }
}

#[test]
fn icmpv6_kinds() {
    let error_of = |icmp_type, code, body: &[u8]| {
        kind_and_quote(&ethernet6(&v6(58, 0, &icmpv6(CLIENT6, VIP6, icmp_type, code, body))))
    };
    let kind = |icmp_type, code, body: &[u8]| error_of(icmp_type, code, body).0;
    let ports = [0, 80, 0x9c, 0x40];
    let quote = |extensions: &[_], protocol| {
        let (next, payload) = chain(extensions, protocol, &ports);
        v6_between(VIP6, CLIENT6, next, 0, &payload)
    };
    let error = quoted(V6_VIP, V6_CLIENT, (80, 40_000), 6);
    assert_eq!(kind(128, 0, b"data"), Kind::EchoRequest);
    assert_eq!(kind(128, 3, b"data"), Kind::IcmpOther);
    assert_eq!(kind(129, 0, b"data"), Kind::IcmpOther);
    assert_eq!(kind(143, 0, b"data"), Kind::IcmpOther);
    assert_eq!(kind(100, 0, b"data"), Kind::IcmpOther);
    for discovery in 133..=137 {
        assert_eq!(kind(discovery, 0, &[0; 16]), Kind::NeighbourDiscovery);
    }
    for icmp_type in 1..=4 {
        assert_eq!(error_of(icmp_type, 0, &quote(&[], 6)), error, "type {icmp_type}");
    }
    assert_eq!(
        error_of(2, 0, &quote(&[options_header(0, 0), fragment_header(0, true, 1)], 6)),
        error,
        "extensions"
    );
    assert_eq!(error_of(1, 4, &quote(&[], 58)), quoted(V6_VIP, V6_CLIENT, (0, 0), 58), "no ports");
    for (name, body) in [
        ("no quote", Vec::new()),
        ("39 bytes", quote(&[], 6)[..39].to_vec()),
        ("half of the ports", quote(&[], 6)[..43].to_vec()),
        ("extension cut", quote(&[options_header(60, 4)], 6)[..60].to_vec()),
        ("later fragment", quote(&[fragment_header(8, false, 1)], 6)),
        ("version 4", answer4(6, 0, &[0; 30])),
    ] {
        assert_eq!(kind(1, 0, &body), Kind::Bad(BadTransport::BadIcmp), "{name}");
    }
    let short = icmpv6(CLIENT6, VIP6, 128, 0, &[])[..7].to_vec();
    assert_eq!(ip(&ethernet6(&v6(58, 0, &short))).kind, Kind::Bad(BadTransport::BadIcmp));
}

#[test]
fn the_longest_frame() {
    let packet = V4::new(253).packet(&std::vec![0; 65_521 - 20]);
    assert_eq!(ip(&ethernet4(&packet)).end, 65_535);
    let packet = V4::new(253).packet(&std::vec![0; 65_522 - 20]);
    assert_eq!(parse(&ethernet4(&packet)), Err(Malformed::BadIpv4), "no offset of 16 bits for its end");
}

fn offset_in(frame: &[u8], part: &[u8]) -> usize {
    part.as_ptr() as usize - frame.as_ptr() as usize
}

fn check_inside(frame: &[u8], p: &Parsed) {
    let [l3, l4, end] = [p.l3, p.l4, p.end].map(usize::from);
    let header_len = if p.is_v6() { 40 } else { 20 };
    assert!(l3 >= 14 && l3 + header_len <= l4 && l4 <= end && end <= frame.len(), "{p:?} in {}", frame.len());
    assert!(matches!(l3, 14 | 18 | 22));
    assert_eq!((p.src(frame).is_v6(), p.dst(frame).is_v6()), (p.is_v6(), p.is_v6()));
    assert_eq!(p.kind == Kind::IcmpError, p.quoted(frame).is_some());
    let least = match p.kind {
        Kind::Tcp(_) => {
            if p.fragment.is_some() {
                16
            } else {
                20
            }
        }
        Kind::Udp | Kind::EchoRequest | Kind::NeighbourDiscovery => 8,
        Kind::IcmpError => 28,
        Kind::LaterFragment => 1,
        _ => 0,
    };
    assert!(end - l4 >= least, "{p:?}");
    assert_eq!(p.kind == Kind::LaterFragment, p.fragment.is_some_and(|f| f.offset != 0));
}

proptest! {
    /// The short way never says anything but what the long way says.
    #[test]
    fn the_plain_shape_is_no_exception(
        mut frame in arbitrary_frame(),
        damage in proptest::collection::vec((12usize..60, any::<u8>()), 0..3),
        cut in 0usize..30,
        fix in any::<bool>(),
    ) {
        for (at, value) in damage {
            let at = at % frame.len();
            frame[at] = value;
        }
        frame.truncate(frame.len() - cut.min(frame.len()));
        if fix && frame.get(12..15) == Some(&[8, 0, 0x45]) && frame.len() >= 34 {
            fix_checksum(&mut frame[14..], 20);
        }
        if let Some(plain) = Plain::read(&frame) {
            prop_assert_eq!(parse(&frame), Ok(ParsedFrame::Ip(plain.parsed())));
            let tuple = plain.parsed().tuple(&frame);
            prop_assert_eq!((tuple.src, tuple.dst), (Addr::V4(plain.src), Addr::V4(plain.dst)));
        }
        if let Some(plain) = PlainV6::read(&frame) {
            prop_assert_eq!(parse(&frame), Ok(ParsedFrame::Ip(plain.parsed())));
            let tuple = plain.parsed().tuple(&frame);
            prop_assert_eq!((tuple.src, tuple.dst), (Addr::V6(plain.src), Addr::V6(plain.dst)));
        }
    }

    #[test]
    fn agrees_with_etherparse(frame in arbitrary_frame()) {
        let p = ip(&frame);
        check_inside(&frame, &p);
        let theirs = SlicedPacket::from_ethernet(&frame).unwrap();
        prop_assert_eq!(p.tag_count(), theirs.link_exts.len());
        let payload = theirs.ip_payload().unwrap();
        prop_assert_eq!(p.protocol, payload.ip_number.0);
        prop_assert_eq!(usize::from(p.l4), offset_in(&frame, payload.payload));
        // etherparse takes an IPv6 payload length of 0 as unknown, and the padding for payload.
        if p.datagram_len() > 40 || !p.is_v6() {
            prop_assert_eq!(usize::from(p.end), offset_in(&frame, payload.payload) + payload.payload.len());
        }
        prop_assert_eq!(p.fragment.is_some(), payload.fragmented);
        match theirs.net.unwrap() {
            NetSlice::Ipv4(net) => {
                let header = net.header();
                prop_assert_eq!(usize::from(p.l3), offset_in(&frame, header.slice()));
                prop_assert_eq!(p.src(&frame), Addr::V4(u32::from_be_bytes(header.source())));
                prop_assert_eq!(p.dst(&frame), Addr::V4(u32::from_be_bytes(header.destination())));
                prop_assert_eq!(p.dont_fragment, header.dont_fragment());
                prop_assert_eq!(p.tos, header.dcp().value() << 2 | header.ecn().value());
            }
            NetSlice::Ipv6(net) => {
                let header = net.header();
                prop_assert_eq!(usize::from(p.l3), offset_in(&frame, header.slice()));
                prop_assert_eq!(p.src(&frame), Addr::V6(u128::from_be_bytes(header.source())));
                prop_assert_eq!(p.dst(&frame), Addr::V6(u128::from_be_bytes(header.destination())));
                prop_assert!(p.dont_fragment);
                prop_assert_eq!(p.tos, header.traffic_class());
            }
            NetSlice::Arp(_) => prop_assert!(false),
        }
        match theirs.transport {
            Some(TransportSlice::Tcp(tcp)) => {
                prop_assert_eq!((p.sport, p.dport), (tcp.source_port(), tcp.destination_port()));
                prop_assert_eq!(p.kind, Kind::Tcp(TcpFlags(tcp.header_slice()[13])));
            }
            Some(TransportSlice::Udp(udp)) => {
                prop_assert_eq!((p.sport, p.dport), (udp.source_port(), udp.destination_port()));
                prop_assert_eq!(p.kind, Kind::Udp);
            }
            None => prop_assert_eq!((p.sport, p.dport, p.kind), (0, 0, Kind::Other)),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(ParsedFrame::Ip(p)) = parse(&bytes) {
            check_inside(&bytes, &p);
        }
    }

    /// Wrong in a few places; where etherparse takes the frame too, both see the same addresses and the same end.
    #[test]
    fn damaged_frames(mut frame in arbitrary_frame(), damage in proptest::collection::vec((0usize..90, any::<u8>()), 1..4), cut in 0usize..20, fix in any::<bool>()) {
        for (at, value) in damage {
            let at = at % frame.len();
            frame[at] = value;
        }
        frame.truncate(frame.len() - cut);
        if fix && frame.get(12..14) == Some(&[8, 0]) {
            let header_len = usize::from(frame[14] & 15) * 4;
            if header_len >= 20 && frame.len() >= 14 + header_len {
                fix_checksum(&mut frame[14..], header_len);
            }
        }
        if let Ok(ParsedFrame::Ip(p)) = parse(&frame) {
            check_inside(&frame, &p);
            let Ok(theirs) = SlicedPacket::from_ethernet(&frame) else { return Ok(()) };
            let payload = theirs.ip_payload().unwrap();
            let (src, end_counts) = match theirs.net.as_ref().unwrap() {
                NetSlice::Ipv4(net) => (Addr::V4(u32::from_be_bytes(net.header().source())), true),
                // etherparse takes a payload length of 0 as unknown.
                NetSlice::Ipv6(net) => (Addr::V6(u128::from_be_bytes(net.header().source())), net.header().payload_length() != 0),
                NetSlice::Arp(_) => panic!("not ARP"),
            };
            prop_assert_eq!(p.src(&frame), src);
            if end_counts {
                prop_assert_eq!(usize::from(p.end), offset_in(&frame, payload.payload) + payload.payload.len());
            }
        }
    }
}

#[test]
fn what_is_plain() {
    for (packet, plain) in [
        (V4::new(6).packet(&syn()), true),
        (V4 { flags: 0x4000, ..V4::new(17) }.packet(&udp(&[0; 12])), true),
        (V4::new(17).packet(&udp(&[0; 11])), false),
        (V4 { flags: 0x2000, ..V4::new(17) }.packet(&udp(&[0; 16])), false),
        (V4 { options: std::vec![1, 1, 1, 1], ..V4::new(6) }.packet(&syn()), false),
        (V4::new(1).packet(&icmp(8, 0, b"data")), false),
    ] {
        let frame = ethernet4(&packet);
        assert_eq!(Plain::read(&frame).is_some(), plain, "{frame:02x?}");
        assert!(parse(&frame).is_ok());
    }
}
