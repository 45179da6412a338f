//! A corpus of frames with one named defect each.
//!
//! Every field of every header is broken in turn, and every header is cut at each of its boundaries. The corpus is
//! made by rule, so a new header or field adds its defects without a list to keep.

use crate::frames::{PacketBuilder, Upper, extension, flags, internet_checksum};
use std::collections::BTreeMap;

/// The VIP the corpus is aimed at (IPv4).
pub const VIP4: &str = "203.0.113.10";
/// The VIP the corpus is aimed at (IPv6).
pub const VIP6: &str = "2001:db8:f::10";
/// A client (IPv4).
pub const CLIENT4: &str = "198.51.100.7";
/// A client (IPv6).
pub const CLIENT6: &str = "2001:db8:1::7";

/// What may become of a defective frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DefectFate {
    /// It must never reach a backend: dropped or punted.
    Refused,
    /// Odd but harmless to whoever is behind us (a wrong TCP checksum, an unknown option): either is right.
    Either,
}

/// One frame with one defect.
#[derive(Clone, Debug)]
pub struct Defect {
    /// What is wrong, unique.
    pub name: String,
    /// The frame.
    pub bytes: Vec<u8>,
    /// What may become of it.
    pub fate: DefectFate,
}

/// A valid frame with the offsets of its parts.
struct Base {
    name: &'static str,
    packet: PacketBuilder,
    l3: usize,
    l4: usize,
    /// Boundaries inside the transport header and what it carries, relative to `l4`.
    upper_cuts: Vec<usize>,
}

impl Base {
    fn new(name: &'static str, packet: PacketBuilder, upper_cuts: &[usize]) -> Base {
        let l3 = packet.ethernet().len();
        let l4 = packet.build().len() - packet.upper_bytes().len();
        Base { name, packet, l3, l4, upper_cuts: upper_cuts.to_vec() }
    }

    fn is_v4(&self) -> bool {
        self.packet.src.is_ipv4()
    }
}

fn bases() -> Vec<Base> {
    let quoted4 = PacketBuilder::tcp(VIP4, CLIENT4, flags::ACK).ports(80, 40_000).payload_of(64);
    let quoted6 = PacketBuilder::tcp(VIP6, CLIENT6, flags::ACK).ports(80, 40_000).payload_of(64);
    let tcp_cuts: &[usize] = &[0, 2, 4, 8, 12, 13, 14, 16, 19];
    let udp_cuts: &[usize] = &[0, 2, 4, 6, 7];
    let icmp_cuts: &[usize] = &[0, 1, 2, 4, 7];
    vec![
        Base::new("tcp4", PacketBuilder::tcp(CLIENT4, VIP4, flags::ACK).payload_of(40), tcp_cuts),
        Base::new("udp4", PacketBuilder::udp(CLIENT4, VIP4).ports(5000, 53).payload_of(40), udp_cuts),
        Base::new("echo4", PacketBuilder::echo(CLIENT4, VIP4), icmp_cuts),
        Base::new(
            "error4",
            PacketBuilder::icmp_error(CLIENT4, VIP4, 3, 4, &quoted4, 28),
            &[0, 4, 7, 8, 9, 17, 20, 27, 28, 30],
        ),
        Base::new(
            "options4",
            PacketBuilder::tcp(CLIENT4, VIP4, flags::ACK)
                .options(&[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0])
                .payload_of(16),
            tcp_cuts,
        ),
        Base::new("vlan4", PacketBuilder::tcp(CLIENT4, VIP4, flags::ACK).vlan(7).payload_of(16), tcp_cuts),
        Base::new(
            "qinq4",
            PacketBuilder::udp(CLIENT4, VIP4).ports(5000, 53).qinq(100, 7).payload_of(16),
            udp_cuts,
        ),
        Base::new("tcp6", PacketBuilder::tcp(CLIENT6, VIP6, flags::ACK).payload_of(40), tcp_cuts),
        Base::new("udp6", PacketBuilder::udp(CLIENT6, VIP6).ports(5000, 53).payload_of(40), udp_cuts),
        Base::new("echo6", PacketBuilder::echo(CLIENT6, VIP6), icmp_cuts),
        Base::new(
            "error6",
            PacketBuilder::icmp_error(CLIENT6, VIP6, 2, 0, &quoted6, 60),
            &[0, 4, 7, 8, 9, 24, 47, 48, 50],
        ),
        Base::new(
            "extensions6",
            PacketBuilder::udp(CLIENT6, VIP6)
                .ports(5000, 53)
                .extension(extension::HOP_BY_HOP, &[1, 4, 0, 0, 0, 0])
                .extension(extension::DESTINATION, &[1, 4, 0, 0, 0, 0])
                .payload_of(16),
            udp_cuts,
        ),
    ]
}

/// All defects, in a stable order, at least 200, no two with the same name.
///
/// # Panics
/// Two defects have one name (a mistake in this file).
pub fn corpus() -> Vec<Defect> {
    let mut out = Corpus::default();
    for base in bases() {
        truncations(&base, &mut out);
        if base.is_v4() {
            ipv4_fields(&base, &mut out);
        } else {
            ipv6_fields(&base, &mut out);
        }
        transport_fields(&base, &mut out);
    }
    ethernet(&mut out);
    ipv4_options(&mut out);
    ipv4_fragments(&mut out);
    ipv6_extensions(&mut out);
    ipv6_fragments(&mut out);
    addresses(&mut out);
    quotes(&mut out);
    out.list
}

#[derive(Default)]
struct Corpus {
    list: Vec<Defect>,
    names: BTreeMap<String, ()>,
}

impl Corpus {
    fn add(&mut self, name: impl Into<String>, bytes: Vec<u8>, fate: DefectFate) {
        let name = name.into();
        assert!(self.names.insert(name.clone(), ()).is_none(), "{name} is in the corpus twice");
        self.list.push(Defect { name, bytes, fate });
    }

    fn refused(&mut self, name: impl Into<String>, bytes: Vec<u8>) {
        self.add(name, bytes, DefectFate::Refused);
    }

    fn either(&mut self, name: impl Into<String>, bytes: Vec<u8>) {
        self.add(name, bytes, DefectFate::Either);
    }
}

/// The frame is cut (its lengths still say what they said), and the datagram is cut with its lengths made to fit.
fn truncations(base: &Base, out: &mut Corpus) {
    let whole = base.packet.build();
    let mut cuts: Vec<(usize, String)> = vec![];
    for at in [0, 1, 6, 12, 13] {
        cuts.push((at, format!("cut_in_ethernet_at_{at}")));
    }
    let mut tag_end = 14;
    while tag_end < base.l3 {
        cuts.push((tag_end, format!("cut_before_tag_at_{tag_end}")));
        cuts.push((tag_end + 3, format!("cut_in_tag_at_{}", tag_end + 3)));
        tag_end += 4;
    }
    let header_cuts: &[usize] = if base.is_v4() { &[0, 1, 10, 19] } else { &[0, 1, 8, 39] };
    for at in header_cuts {
        cuts.push((base.l3 + at, format!("cut_in_ip_at_{at}")));
    }
    for at in &base.upper_cuts {
        cuts.push((base.l4 + at, format!("cut_in_transport_at_{at}")));
    }
    cuts.push((whole.len() - 1, "cut_last_byte".to_owned()));
    for (at, name) in cuts {
        out.refused(format!("{}_{name}", base.name), whole[..at].to_vec());
    }
    for at in &base.upper_cuts {
        let mut frame = whole[..base.l4 + at].to_vec();
        fit_lengths(&mut frame, base);
        out.refused(format!("{}_datagram_ends_in_transport_at_{at}", base.name), frame);
    }
}

/// Makes the IP length fields say what the frame holds.
fn fit_lengths(frame: &mut [u8], base: &Base) {
    if base.is_v4() {
        let total = u16::try_from(frame.len() - base.l3).expect("short frame");
        frame[base.l3 + 2..base.l3 + 4].copy_from_slice(&total.to_be_bytes());
        fix_ipv4_checksum(frame, base.l3);
    } else {
        let payload = u16::try_from(frame.len() - base.l3 - 40).expect("short frame");
        frame[base.l3 + 4..base.l3 + 6].copy_from_slice(&payload.to_be_bytes());
    }
}

/// Writes the right checksum over whatever the header says its length is.
fn fix_ipv4_checksum(frame: &mut [u8], l3: usize) {
    let len = (usize::from(frame[l3] & 0xf) * 4).clamp(20, frame.len() - l3);
    frame[l3 + 10..l3 + 12].fill(0);
    let check = internet_checksum(&frame[l3..l3 + len]);
    frame[l3 + 10..l3 + 12].copy_from_slice(&check.to_be_bytes());
}

fn ipv4_fields(base: &Base, out: &mut Corpus) {
    let l3 = base.l3;
    let edit = |f: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = base.packet.build();
        f(&mut frame);
        fix_ipv4_checksum(&mut frame, l3);
        frame
    };
    let total = u16::try_from(base.packet.datagram().len()).expect("short datagram");
    let header_len = u16::try_from(base.l4 - l3).expect("short header");
    let name = base.name;
    for version in [0_u8, 5, 6, 15] {
        out.refused(format!("{name}_version_{version}"), edit(&|f| f[l3] = version << 4 | f[l3] & 0xf));
    }
    for ihl in [0_u8, 1, 4] {
        out.refused(format!("{name}_ihl_{ihl}"), edit(&|f| f[l3] = 0x40 | ihl));
    }
    // An IHL past the datagram's end; the datagram is cut to its header so that 15 words cannot fit.
    out.refused(
        format!("{name}_ihl_past_the_datagram"),
        edit(&|f| {
            f.truncate(l3 + usize::from(header_len) + 8);
            f[l3 + 2..l3 + 4].copy_from_slice(&(header_len + 8).to_be_bytes());
            f[l3] = 0x4f;
        }),
    );
    for (what, value) in [
        ("zero", 0),
        ("below_header", header_len - 1),
        ("one_past_the_frame", total + 1),
        ("largest", u16::MAX),
    ] {
        out.refused(
            format!("{name}_total_length_{what}"),
            edit(&|f| f[l3 + 2..l3 + 4].copy_from_slice(&value.to_be_bytes())),
        );
    }
    for bit in [0, 15] {
        let mut frame = base.packet.build();
        frame[l3 + 10 + usize::from(bit == 0)] ^= 1 << (bit / 2);
        out.refused(format!("{name}_header_checksum_bit_{bit}"), frame);
    }
    let mut frame = base.packet.build();
    frame[l3 + 10..l3 + 12].copy_from_slice(&[0, 0]);
    out.refused(format!("{name}_header_checksum_zero"), frame);
    out.either(format!("{name}_reserved_flag"), edit(&|f| f[l3 + 6] |= 0x80));
    out.either(format!("{name}_ttl_zero"), edit(&|f| f[l3 + 8] = 0));
    out.refused(format!("{name}_protocol_reserved"), edit(&|f| f[l3 + 9] = 255));
}

fn ipv6_fields(base: &Base, out: &mut Corpus) {
    let l3 = base.l3;
    let edit = |f: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = base.packet.build();
        f(&mut frame);
        frame
    };
    let payload = u16::try_from(base.packet.datagram().len() - 40).expect("short datagram");
    let name = base.name;
    for version in [0_u8, 4, 5, 7, 15] {
        out.refused(format!("{name}_version_{version}"), edit(&|f| f[l3] = version << 4 | f[l3] & 0xf));
    }
    for (what, value) in [("zero", 0), ("one_past_the_frame", payload + 1), ("largest", u16::MAX)] {
        out.refused(
            format!("{name}_payload_length_{what}"),
            edit(&|f| f[l3 + 4..l3 + 6].copy_from_slice(&value.to_be_bytes())),
        );
    }
    out.either(format!("{name}_hop_limit_zero"), edit(&|f| f[l3 + 7] = 0));
    out.refused(format!("{name}_next_header_none"), edit(&|f| f[l3 + 6] = 59));
    out.refused(format!("{name}_next_header_reserved"), edit(&|f| f[l3 + 6] = 255));
    out.refused(format!("{name}_next_header_ipv4_icmp"), edit(&|f| f[l3 + 6] = 1));
}

fn transport_fields(base: &Base, out: &mut Corpus) {
    let l4 = base.l4;
    let name = base.name;
    let edit = |f: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = base.packet.build();
        f(&mut frame);
        frame
    };
    match base.packet.upper {
        Upper::Tcp { .. } => {
            for words in [0_u8, 1, 4] {
                out.refused(format!("{name}_tcp_offset_{words}"), edit(&|f| f[l4 + 12] = words << 4));
            }
            let mut short = base.packet.clone();
            short.payload.clear();
            let mut frame = short.build();
            frame[l4 + 12] = 0xf0;
            out.refused(format!("{name}_tcp_offset_past_the_datagram"), frame);
            for (what, bits) in
                [("none", 0_u8), ("syn_fin", 0x03), ("syn_rst", 0x06), ("all", 0xff), ("fin_only", 0x01)]
            {
                out.either(format!("{name}_tcp_flags_{what}"), edit(&|f| f[l4 + 13] = bits));
            }
            out.either(format!("{name}_tcp_checksum_wrong"), edit(&|f| f[l4 + 16] ^= 0xff));
            out.either(format!("{name}_tcp_source_port_zero"), edit(&|f| f[l4..l4 + 2].fill(0)));
            out.refused(format!("{name}_tcp_destination_port_zero"), edit(&|f| f[l4 + 2..l4 + 4].fill(0)));
        }
        Upper::Udp => {
            let len = u16::try_from(base.packet.upper_bytes().len()).expect("short datagram");
            for (what, value) in
                [("zero", 0), ("seven", 7), ("one_past_the_datagram", len + 1), ("largest", u16::MAX)]
            {
                out.refused(
                    format!("{name}_udp_length_{what}"),
                    edit(&|f| f[l4 + 4..l4 + 6].copy_from_slice(&u16::to_be_bytes(value))),
                );
            }
            out.either(
                format!("{name}_udp_length_eight"),
                edit(&|f| f[l4 + 4..l4 + 6].copy_from_slice(&[0, 8])),
            );
            out.either(format!("{name}_udp_checksum_wrong"), edit(&|f| f[l4 + 6] ^= 0xff));
            out.either(format!("{name}_udp_checksum_none"), edit(&|f| f[l4 + 6..l4 + 8].fill(0)));
        }
        Upper::Icmp { .. } => {
            out.refused(format!("{name}_icmp_type_reserved"), edit(&|f| f[l4] = 255));
            out.either(format!("{name}_icmp_code_odd"), edit(&|f| f[l4 + 1] = 99));
            out.either(format!("{name}_icmp_checksum_wrong"), edit(&|f| f[l4 + 2] ^= 0xff));
        }
        Upper::Raw(_) => {}
    }
}

fn ethernet(out: &mut Corpus) {
    let frame = |packet: PacketBuilder| packet.build();
    let tcp = || PacketBuilder::tcp(CLIENT4, VIP4, flags::ACK);
    let with_type = |ethertype: u16, body: &[u8]| {
        let mut f = tcp().ethernet();
        f[12..14].copy_from_slice(&ethertype.to_be_bytes());
        f.extend(body);
        f
    };
    let body = tcp().datagram();
    for (name, ethertype) in [
        ("length_field", 46_u16),
        ("ethertype_reserved", 0xffff),
        ("ethertype_ipx", 0x8137),
        ("ethertype_mpls", 0x8847),
        ("ethertype_pppoe", 0x8864),
        ("ethertype_macsec", 0x88e5),
        ("ethertype_arp_with_ip_inside", 0x0806),
    ] {
        out.refused(format!("ethernet_{name}"), with_type(ethertype, &body));
    }
    out.refused(
        "ethernet_ipv4_type_over_ipv6",
        with_type(0x0800, &PacketBuilder::tcp(CLIENT6, VIP6, 2).datagram()),
    );
    out.refused("ethernet_ipv6_type_over_ipv4", with_type(0x86dd, &body));
    out.refused("ethernet_arp_runt", with_type(0x0806, &[0, 1, 8]));
    out.refused("ethernet_zeros_64", vec![0; 64]);
    out.refused("ethernet_ones_64", vec![0xff; 64]);
    for tags in [3_usize, 4, 8] {
        let mut packet = tcp();
        packet.tags = (0..tags).map(|i| (0x8100, u16::try_from(i + 1).expect("few"))).collect();
        out.refused(format!("vlan_{tags}_tags"), frame(packet));
    }
    let mut tag_only = tcp().vlan(5).ethernet();
    tag_only.truncate(16);
    out.refused("vlan_tag_half", tag_only);
    let mut no_type = tcp().vlan(5).ethernet();
    no_type.truncate(17);
    out.refused("vlan_type_half", no_type);
    out.refused("vlan_nothing_behind", tcp().vlan(5).ethernet());
    let mut inner_length = tcp().vlan(5).build();
    inner_length[16..18].copy_from_slice(&46_u16.to_be_bytes());
    out.refused("vlan_length_field_inside", inner_length);
    out.refused("qinq_nothing_behind", tcp().qinq(5, 6).ethernet());
    for (name, mac) in [("broadcast", [0xff_u8; 6]), ("multicast", [1, 0, 0x5e, 0, 0, 1])] {
        let mut packet = tcp();
        packet.dst_mac = mac;
        out.either(format!("ethernet_destination_{name}"), frame(packet.clone()));
        packet.dst_mac = crate::frames::PORT_MAC;
        packet.src_mac = mac;
        out.either(format!("ethernet_source_{name}"), frame(packet));
    }
}

fn ipv4_options(out: &mut Corpus) {
    for (name, options, fate) in [
        ("length_zero", vec![7_u8, 0, 0, 0], DefectFate::Either),
        ("length_one", vec![7, 1, 0, 0], DefectFate::Either),
        ("length_past_the_header", vec![7, 40, 4, 0], DefectFate::Either),
        ("length_missing", vec![1, 1, 1, 7], DefectFate::Either),
        ("loose_source_route", vec![131, 7, 4, 10, 0, 0, 1, 0], DefectFate::Either),
        ("strict_source_route", vec![137, 7, 4, 10, 0, 0, 1, 0], DefectFate::Either),
        ("router_alert", vec![148, 4, 0, 0], DefectFate::Either),
        ("forty_bytes_unknown", [vec![222, 40], vec![0xaa; 38]].concat(), DefectFate::Either),
        ("end_then_garbage", vec![0, 0xff, 0xff, 0xff], DefectFate::Either),
    ] {
        let packet = PacketBuilder::tcp(CLIENT4, VIP4, flags::ACK).options(&options).payload_of(8);
        out.add(format!("options4_{name}"), packet.build(), fate);
    }
}

fn ipv4_fragments(out: &mut Corpus) {
    let raw = |id, offset, more, protocol, bytes: &[u8]| {
        let mut packet = PacketBuilder::new(CLIENT4, VIP4, Upper::Raw(protocol)).payload(bytes);
        packet.fragment = Some(crate::frames::FragmentPlace { id, offset, more });
        packet.dont_fragment = false;
        packet.build()
    };
    let tcp = PacketBuilder::tcp(CLIENT4, VIP4, flags::ACK).payload_of(64).upper_bytes();
    out.refused("fragment4_first_with_4_bytes", raw(1, 0, true, 6, &tcp[..4]));
    out.refused("fragment4_first_with_7_bytes", raw(1, 0, true, 17, &tcp[..7]));
    out.refused("fragment4_first_of_8_bytes_tcp", raw(1, 0, true, 6, &tcp[..8]));
    out.refused("fragment4_tcp_at_offset_one", raw(2, 8, false, 6, &tcp[8..40]));
    out.refused("fragment4_length_no_multiple_of_eight", raw(3, 0, true, 17, &tcp[..41]));
    out.refused("fragment4_middle_no_multiple_of_eight", raw(3, 16, true, 17, &tcp[..41]));
    out.refused("fragment4_past_65535", raw(4, 65_528, false, 17, &tcp[..24]));
    out.refused("fragment4_past_65535_by_one", raw(4, 65_512, false, 17, &tcp[..24]));
    out.refused("fragment4_empty_middle", raw(5, 64, true, 17, &[]));
    out.refused("fragment4_empty_last", raw(5, 64, false, 17, &[]));
    out.refused("fragment4_later_alone", raw(6, 64, false, 17, &tcp[..24]));
    out.refused("fragment4_icmp_later_alone", raw(7, 64, false, 1, &tcp[..24]));
    out.either("fragment4_overlap_first", raw(8, 0, true, 17, &tcp[..48]));
    out.either("fragment4_overlap_second", raw(8, 24, false, 17, &tcp[..48]));
    out.either("fragment4_overlap_of_the_header", raw(8, 8, false, 17, &tcp[..48]));
    out.either("fragment4_twice_a", raw(9, 0, true, 17, &tcp[..32]));
    out.either("fragment4_twice_b", raw(9, 0, true, 17, &tcp[8..40]));
    let mut both = PacketBuilder::new(CLIENT4, VIP4, Upper::Raw(17)).payload(&tcp[..24]);
    both.fragment = Some(crate::frames::FragmentPlace { id: 10, offset: 0, more: true });
    both.dont_fragment = true;
    out.either("fragment4_with_dont_fragment", both.build());
    for i in 0..3_u16 {
        out.either(
            format!("fragment4_flood_{i}"),
            raw(100 + u32::from(i), 800 * (i + 1), true, 17, &tcp[..8]),
        );
    }
}

fn ipv6_extensions(out: &mut Corpus) {
    use extension::{AUTHENTICATION, DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING};
    let udp = || PacketBuilder::udp(CLIENT6, VIP6).ports(5000, 53).payload_of(16);
    let hop: &[u8] = &[1, 4, 0, 0, 0, 0];
    let mut many = udp();
    many.extensions = (0..9).map(|_| (DESTINATION, hop.to_vec())).collect();
    out.refused("extensions6_nine", many.build());
    let mut too_many = udp();
    too_many.extensions = (0..60).map(|_| (DESTINATION, hop.to_vec())).collect();
    out.refused("extensions6_sixty", too_many.build());
    out.refused(
        "extensions6_hop_by_hop_second",
        udp().extension(DESTINATION, hop).extension(HOP_BY_HOP, hop).build(),
    );
    out.refused(
        "extensions6_hop_by_hop_twice",
        udp().extension(HOP_BY_HOP, hop).extension(HOP_BY_HOP, hop).build(),
    );
    for (name, kind) in [("type_0", 0_u8), ("type_2", 2), ("type_4", 4), ("type_253", 253)] {
        out.refused(
            format!("extensions6_routing_{name}_segments_left"),
            udp().extension(ROUTING, &[&[kind, 1, 0, 0, 0, 0][..], &[0; 16]].concat()).build(),
        );
    }
    for (name, number) in [("hop_by_hop", HOP_BY_HOP), ("destination", DESTINATION), ("routing", ROUTING)] {
        let mut frame = udp().extension(number, &[0; 6]).build();
        frame[14 + 41] = 255;
        out.refused(format!("extensions6_{name}_length_past_the_datagram"), frame);
        let mut cut = udp().extension(number, &[0; 6]).build();
        cut.truncate(14 + 40 + 1);
        cut[18..20].copy_from_slice(&1_u16.to_be_bytes());
        out.refused(format!("extensions6_{name}_one_byte"), cut);
    }
    let mut auth = udp().extension(AUTHENTICATION, &[0; 10]).build();
    auth[14 + 41] = 255;
    out.refused("extensions6_authentication_length_past_the_datagram", auth);
    let mut cut = udp().fragment(9, 0, true).build();
    cut.truncate(14 + 40 + 5);
    cut[18..20].copy_from_slice(&5_u16.to_be_bytes());
    out.refused("extensions6_fragment_header_cut", cut);
    out.either(
        "extensions6_unknown_option_must_answer",
        udp().extension(DESTINATION, &[0xc3, 4, 0, 0, 0, 0]).build(),
    );
    out.either(
        "extensions6_option_length_past_the_header",
        udp().extension(DESTINATION, &[1, 200, 0, 0, 0, 0]).build(),
    );
    out.refused("extensions6_jumbo", {
        let mut frame = udp().extension(HOP_BY_HOP, &[0xc2, 4, 0, 1, 0, 0]).build();
        frame[18..20].fill(0);
        frame
    });
    let mut end = PacketBuilder::new(CLIENT6, VIP6, Upper::Raw(59)).extension(DESTINATION, hop);
    end.payload = vec![0; 8];
    out.refused("extensions6_no_next_header", end.build());
    let mut esp = PacketBuilder::new(CLIENT6, VIP6, Upper::Raw(50));
    esp.payload = vec![0; 16];
    out.refused("extensions6_encrypted", esp.build());
    let twice = udp().extension(FRAGMENT, &[0, 0, 0, 0, 0, 1]).extension(FRAGMENT, &[0, 0, 0, 0, 0, 2]);
    out.either("extensions6_atomic_fragment_twice", twice.build());
    let mut fragmented = udp().fragment(11, 0, true);
    fragmented.extensions.push((FRAGMENT, vec![0, 1, 0, 0, 0, 1]));
    out.refused("extensions6_fragment_of_a_fragment", fragmented.build());
}

fn ipv6_fragments(out: &mut Corpus) {
    let raw = |id, offset, more, protocol, bytes: &[u8]| {
        let mut packet = PacketBuilder::new(CLIENT6, VIP6, Upper::Raw(protocol)).payload(bytes);
        packet.fragment = Some(crate::frames::FragmentPlace { id, offset, more });
        packet.build()
    };
    let tcp = PacketBuilder::tcp(CLIENT6, VIP6, flags::ACK).payload_of(64).upper_bytes();
    out.refused("fragment6_first_with_4_bytes", raw(1, 0, true, 6, &tcp[..4]));
    // RFC 7112 lets a node on the way drop it or not; the ports and flags are there.
    out.either("fragment6_first_without_whole_tcp", raw(1, 0, true, 6, &tcp[..16]));
    out.refused("fragment6_first_with_7_bytes", raw(1, 0, true, 17, &tcp[..7]));
    out.refused("fragment6_first_of_nothing", raw(1, 0, true, 17, &[]));
    out.refused("fragment6_tcp_at_offset_one", raw(2, 8, false, 6, &tcp[8..40]));
    out.refused("fragment6_length_no_multiple_of_eight", raw(3, 0, true, 17, &tcp[..41]));
    out.refused("fragment6_past_65535", raw(4, 65_528, false, 17, &tcp[..24]));
    out.refused("fragment6_later_alone", raw(6, 64, false, 17, &tcp[..24]));
    out.either("fragment6_overlap_first", raw(8, 0, true, 17, &tcp[..48]));
    out.either("fragment6_overlap_second", raw(8, 24, false, 17, &tcp[..48]));
    let mut header_later =
        PacketBuilder::udp(CLIENT6, VIP6).ports(5000, 53).payload_of(16).fragment(12, 0, true);
    header_later.payload = pad_to_eight(header_later.payload.clone());
    let mut no_transport = header_later.clone();
    no_transport.upper = Upper::Raw(extension::DESTINATION);
    no_transport.payload = vec![17, 7, 1, 4, 0, 0, 0, 0];
    out.refused("fragment6_first_without_whole_header_chain", no_transport.build());
}

fn pad_to_eight(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn addresses(out: &mut Corpus) {
    for (name, src) in [
        ("vip", VIP4),
        ("unspecified", "0.0.0.0"),
        ("this_network", "0.1.2.3"),
        ("loopback", "127.0.0.1"),
        ("multicast", "224.0.0.1"),
        ("reserved", "240.0.0.1"),
        ("broadcast", "255.255.255.255"),
    ] {
        let fate = if matches!(name, "this_network" | "reserved") {
            DefectFate::Either
        } else {
            DefectFate::Refused
        };
        out.add(format!("source4_{name}_tcp"), PacketBuilder::tcp(src, VIP4, flags::SYN).build(), fate);
        out.add(format!("source4_{name}_udp"), PacketBuilder::udp(src, VIP4).ports(7, 53).build(), fate);
        out.add(format!("source4_{name}_echo"), PacketBuilder::echo(src, VIP4).build(), fate);
    }
    for (name, src) in [
        ("vip", VIP6),
        ("unspecified", "::"),
        ("loopback", "::1"),
        ("multicast", "ff02::1"),
        ("mapped_ipv4", "::ffff:198.51.100.7"),
    ] {
        let fate = if name == "mapped_ipv4" { DefectFate::Either } else { DefectFate::Refused };
        out.add(format!("source6_{name}_tcp"), PacketBuilder::tcp(src, VIP6, flags::SYN).build(), fate);
        out.add(format!("source6_{name}_udp"), PacketBuilder::udp(src, VIP6).ports(7, 53).build(), fate);
        out.add(format!("source6_{name}_echo"), PacketBuilder::echo(src, VIP6).build(), fate);
    }
    for (name, dst) in
        [("unspecified", "0.0.0.0"), ("loopback", "127.0.0.1"), ("broadcast", "255.255.255.255")]
    {
        out.refused(format!("destination4_{name}"), PacketBuilder::tcp(CLIENT4, dst, flags::SYN).build());
    }
    for (name, dst) in [("unspecified", "::"), ("loopback", "::1"), ("multicast", "ff02::1")] {
        out.refused(format!("destination6_{name}"), PacketBuilder::tcp(CLIENT6, dst, flags::SYN).build());
    }
    out.refused("land_attack4", PacketBuilder::tcp(VIP4, VIP4, flags::SYN).ports(80, 80).build());
    out.refused("land_attack6", PacketBuilder::tcp(VIP6, VIP6, flags::SYN).ports(80, 80).build());
}

/// ICMP errors whose quoted packet cannot name a flow.
fn quotes(out: &mut Corpus) {
    let tcp4 = PacketBuilder::tcp(VIP4, CLIENT4, flags::ACK).ports(80, 40_000).payload_of(64);
    let tcp6 = PacketBuilder::tcp(VIP6, CLIENT6, flags::ACK).ports(80, 40_000).payload_of(64);
    for kind in [3_u8, 4, 5, 11, 12] {
        for bytes in [0_usize, 1, 19, 20, 23] {
            out.refused(
                format!("error4_type_{kind}_quotes_{bytes}"),
                PacketBuilder::icmp_error(CLIENT4, VIP4, kind, 0, &tcp4, bytes).build(),
            );
        }
    }
    for kind in [1_u8, 2, 3, 4] {
        for bytes in [0_usize, 1, 39, 40, 43] {
            out.refused(
                format!("error6_type_{kind}_quotes_{bytes}"),
                PacketBuilder::icmp_error(CLIENT6, VIP6, kind, 0, &tcp6, bytes).build(),
            );
        }
    }
    let nested = PacketBuilder::icmp_error(VIP4, CLIENT4, 3, 1, &tcp4, 28);
    out.refused(
        "error4_quotes_an_error",
        PacketBuilder::icmp_error(CLIENT4, VIP4, 3, 1, &nested, 60).build(),
    );
    let later = tcp4.clone().fragment(5, 64, true);
    out.refused(
        "error4_quotes_a_later_fragment",
        PacketBuilder::icmp_error(CLIENT4, VIP4, 3, 1, &later, 28).build(),
    );
    let stranger = PacketBuilder::tcp("192.0.2.99", CLIENT4, flags::ACK).ports(80, 40_000);
    out.refused(
        "error4_quotes_a_stranger",
        PacketBuilder::icmp_error(CLIENT4, VIP4, 3, 1, &stranger, 28).build(),
    );
    let mut wrong_version = PacketBuilder::icmp_error(CLIENT4, VIP4, 3, 1, &tcp4, 28);
    wrong_version.payload[0] = 0x65;
    out.refused("error4_quotes_version_6_in_4", wrong_version.build());
    let mut short_header = PacketBuilder::icmp_error(CLIENT4, VIP4, 3, 1, &tcp4, 28);
    short_header.payload[0] = 0x44;
    out.refused("error4_quotes_ihl_4", short_header.build());
    let mut long_header = PacketBuilder::icmp_error(CLIENT4, VIP4, 3, 1, &tcp4, 28);
    long_header.payload[0] = 0x4f;
    out.refused("error4_quotes_ihl_past_the_quote", long_header.build());
    let mut wrong6 = PacketBuilder::icmp_error(CLIENT6, VIP6, 2, 0, &tcp6, 60);
    wrong6.payload[0] = 0x45;
    out.refused("error6_quotes_version_4_in_6", wrong6.build());
    let endless = tcp6.clone().extension(extension::DESTINATION, &[1, 4, 0, 0, 0, 0]);
    let mut chain = PacketBuilder::icmp_error(CLIENT6, VIP6, 2, 0, &endless, 60);
    chain.payload[41] = 255;
    out.refused("error6_quotes_extension_past_the_quote", chain.build());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn there_are_at_least_two_hundred_distinct_defects() {
        let corpus = corpus();
        let distinct: BTreeSet<&[u8]> = corpus.iter().map(|d| d.bytes.as_slice()).collect();
        assert!(distinct.len() >= 200, "{} distinct of {}", distinct.len(), corpus.len());
    }

    #[test]
    fn the_same_corpus_every_time() {
        let names = |c: Vec<Defect>| c.into_iter().map(|d| (d.name, d.bytes)).collect::<Vec<_>>();
        assert_eq!(names(corpus()), names(corpus()));
    }

    #[test]
    fn the_bases_themselves_are_valid() {
        for base in bases() {
            etherparse::SlicedPacket::from_ethernet(&base.packet.build())
                .unwrap_or_else(|e| panic!("{}: {e}", base.name));
        }
    }
}
