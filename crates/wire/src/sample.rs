//! Frames for the tests of this crate, put together byte by byte, without any code that is under test.

use proptest::prelude::{Just, Strategy, any, prop_oneof};
use std::vec::Vec;

pub(crate) const TO_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const FROM_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const CLIENT: [u8; 4] = [198, 51, 100, 7];
pub(crate) const VIP: [u8; 4] = [203, 0, 113, 10];
pub(crate) const CLIENT6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
pub(crate) const VIP6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10];

/// RFC 1071 by the book: 16 bits at a time.
pub(crate) fn naive_sum(bytes: &[u8]) -> u16 {
    let mut total = 0u32;
    for pair in bytes.chunks(2) {
        total += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b));
        if total > 0xffff {
            total = (total & 0xffff) + 1;
        }
    }
    total as u16
}

pub(crate) fn ethernet(tags: &[u16], ethernet_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [TO_MAC, FROM_MAC].concat();
    for (i, tag) in tags.iter().enumerate() {
        frame.extend(tag.to_be_bytes());
        frame.extend([0x60, 100 + i as u8]);
    }
    frame.extend(ethernet_type.to_be_bytes());
    frame.extend(payload);
    frame
}

pub(crate) fn ethernet4(packet: &[u8]) -> Vec<u8> {
    ethernet(&[], 0x0800, packet)
}

pub(crate) fn ethernet6(packet: &[u8]) -> Vec<u8> {
    ethernet(&[], 0x86dd, packet)
}

#[derive(Clone, Debug)]
pub(crate) struct V4 {
    pub(crate) src: [u8; 4],
    pub(crate) dst: [u8; 4],
    pub(crate) protocol: u8,
    pub(crate) tos: u8,
    pub(crate) id: u16,
    pub(crate) flags: u16,
    pub(crate) options: Vec<u8>,
}

impl V4 {
    pub(crate) fn new(protocol: u8) -> V4 {
        V4 { src: CLIENT, dst: VIP, protocol, tos: 0, id: 0x1234, flags: 0, options: Vec::new() }
    }

    pub(crate) fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let mut packet = std::vec![0x40 | (header_len / 4) as u8, self.tos];
        packet.extend(((header_len + payload.len()) as u16).to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(self.flags.to_be_bytes());
        packet.extend([63, self.protocol, 0, 0]);
        packet.extend(self.src);
        packet.extend(self.dst);
        packet.extend(&self.options);
        fix_checksum(&mut packet, header_len);
        packet.extend(payload);
        packet
    }
}

/// Sets the checksum of the IPv4 header that `packet` starts with.
pub(crate) fn fix_checksum(packet: &mut [u8], header_len: usize) {
    packet[10..12].fill(0);
    let check = !naive_sum(&packet[..header_len]);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
}

pub(crate) fn v6(next: u8, tos: u8, payload: &[u8]) -> Vec<u8> {
    v6_between(CLIENT6, VIP6, next, tos, payload)
}

pub(crate) fn v6_between(src: [u8; 16], dst: [u8; 16], next: u8, tos: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = std::vec![0x60 | tos >> 4, tos << 4 | 0x0a, 0xbc, 0xde];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 63]);
    packet.extend(src);
    packet.extend(dst);
    packet.extend(payload);
    packet
}

/// A chain of extension headers in front of `payload`; returns the first header's number and the bytes.
pub(crate) fn chain(extensions: &[(u8, Vec<u8>)], last: u8, payload: &[u8]) -> (u8, Vec<u8>) {
    let mut bytes = Vec::new();
    for (i, (_, body)) in extensions.iter().enumerate() {
        bytes.push(extensions.get(i + 1).map_or(last, |(next, _)| *next));
        bytes.extend(body);
    }
    bytes.extend(payload);
    (extensions.first().map_or(last, |(first, _)| *first), bytes)
}

/// Bodies of extension headers, without the next header field.
pub(crate) fn options_header(kind: u8, units: u8) -> (u8, Vec<u8>) {
    // One PadN over everything, in pieces of at most 255 bytes.
    let mut body = std::vec![units];
    let mut left = 6 + usize::from(units) * 8;
    while left > 0 {
        let data = (left.max(2) - 2).min(248);
        if left == 1 {
            body.push(0);
            left = 0;
        } else {
            body.extend([1, data as u8]);
            body.extend(std::iter::repeat_n(0, data));
            left -= data + 2;
        }
    }
    (kind, body)
}

pub(crate) fn routing_header(units: u8, segments_left: u8) -> (u8, Vec<u8>) {
    let mut body = std::vec![units, 4, segments_left];
    body.extend(std::iter::repeat_n(0, 4 + usize::from(units) * 8));
    (43, body)
}

pub(crate) fn authentication_header(words: u8) -> (u8, Vec<u8>) {
    let mut body = std::vec![words];
    body.extend(std::iter::repeat_n(7, (usize::from(words) + 2) * 4 - 2));
    (51, body)
}

pub(crate) fn fragment_header(offset: u16, more: bool, id: u32) -> (u8, Vec<u8>) {
    let mut body = std::vec![0];
    body.extend((offset | u16::from(more)).to_be_bytes());
    body.extend(id.to_be_bytes());
    (44, body)
}

pub(crate) fn tcp(flags: u8, seq: u32, ack: u32, options: &[u8], data: &[u8]) -> Vec<u8> {
    let mut segment = Vec::from([0x9c, 0x40, 0, 80]);
    segment.extend(seq.to_be_bytes());
    segment.extend(ack.to_be_bytes());
    segment.extend([(((20 + options.len()) / 4) << 4) as u8, flags, 0x20, 0, 0xbe, 0xef, 0, 0]);
    segment.extend(options);
    segment.extend(data);
    segment
}

pub(crate) fn udp(data: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::from([0x9c, 0x41, 0, 53]);
    datagram.extend((8 + data.len() as u16).to_be_bytes());
    datagram.extend([0xbe, 0xef]);
    datagram.extend(data);
    datagram
}

pub(crate) fn icmp(kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::from([kind, code, 0, 0, 0, 1, 0, 2]);
    message.extend(body);
    let check = !naive_sum(&message);
    message[2..4].copy_from_slice(&check.to_be_bytes());
    message
}

/// Pseudo-header and message together, to be summed.
pub(crate) fn with_pseudo6(src: &[u8], dst: &[u8], protocol: u8, message: &[u8]) -> Vec<u8> {
    let mut all = [src, dst].concat();
    all.extend((message.len() as u32).to_be_bytes());
    all.extend([0, 0, 0, protocol]);
    all.extend(message);
    all
}

pub(crate) fn icmpv6(src: [u8; 16], dst: [u8; 16], kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::from([kind, code, 0, 0, 0, 1, 0, 2]);
    message.extend(body);
    let check = !naive_sum(&with_pseudo6(&src, &dst, 58, &message));
    message[2..4].copy_from_slice(&check.to_be_bytes());
    message
}

/// Well-formed IPv4 options, padded: mixtures of padding, record route, router alert and others.
pub(crate) fn arbitrary_options() -> impl Strategy<Value = Vec<u8>> {
    let one = prop_oneof![
        Just(Vec::from([1])),
        Just(Vec::from([0x94, 4, 0, 0])),
        Just(Vec::from([7, 7, 4, 0, 0, 0, 0])),
        Just(Vec::from([0x82, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        (2u8..=127, 2usize..8).prop_map(|(kind, len)| {
            let mut option = std::vec![kind, len as u8];
            option.resize(len, 0x55);
            option
        }),
        (0x83u8..=255, 2usize..8).prop_map(|(kind, len)| {
            let mut option = std::vec![kind, len as u8];
            option.resize(len, 0xaa);
            option
        }),
    ];
    proptest::collection::vec(one, 0..6).prop_map(|options| {
        let mut bytes = Vec::new();
        for option in options {
            if bytes.len() + option.len() <= 40 {
                bytes.extend(option);
            }
        }
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    })
}

/// A transport protocol number and bytes in its form.
pub(crate) fn arbitrary_transport() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let data = || proptest::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        (any::<u8>(), any::<u32>(), any::<u32>(), 0usize..=10, data()).prop_map(
            |(flags, seq, ack, words, data)| { (6, tcp(flags, seq, ack, &std::vec![1; words * 4], &data)) }
        ),
        data().prop_map(|data| (17, udp(&data))),
        (prop_oneof![Just(47u8), Just(132), Just(253)], data()),
    ]
}

/// Well-formed frames of all kinds: tags, families, options, extension headers, padding; not fragments.
pub(crate) fn arbitrary_frame() -> impl Strategy<Value = Vec<u8>> {
    let tag = prop_oneof![Just(0x8100u16), Just(0x88a8), Just(0x9100)];
    let tags = proptest::collection::vec(tag, 0..=2);
    let extension = prop_oneof![
        (0u8..5).prop_map(|units| options_header(60, units)),
        (0u8..5).prop_map(|units| routing_header(units, 0)),
        (1u8..9).prop_map(|half| authentication_header(half * 2)),
    ];
    let extensions = proptest::collection::vec(extension, 0..5);
    let ends = (any::<bool>(), proptest::option::of(any::<u32>()));
    let v4 =
        (any::<[u8; 4]>(), any::<[u8; 4]>(), any::<u8>(), any::<u16>(), any::<bool>(), arbitrary_options())
            .prop_map(|(src, dst, tos, id, df, options)| V4 {
                src,
                dst,
                protocol: 0,
                tos,
                id,
                flags: if df { 0x4000 } else { 0 },
                options,
            });
    let v6_fields = (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<u8>(), extensions, ends);
    let network = prop_oneof![v4.prop_map(Ok), v6_fields.prop_map(Err)];
    (tags, network, arbitrary_transport(), 0usize..30).prop_map(
        |(tags, network, (protocol, segment), padding)| {
            let (ethernet_type, packet) = match network {
                Ok(v4) => (0x0800, V4 { protocol, ..v4 }.packet(&segment)),
                Err((src, dst, tos, mut extensions, (hop_by_hop, atomic))) => {
                    if let Some(id) = atomic {
                        extensions.push(fragment_header(0, false, id));
                    }
                    if hop_by_hop {
                        extensions.insert(0, options_header(0, 1));
                    }
                    let (next, payload) = chain(&extensions, protocol, &segment);
                    (0x86dd, v6_between(src, dst, next, tos, &payload))
                }
            };
            let mut frame = ethernet(&tags, ethernet_type, &packet);
            frame.resize(frame.len() + padding, 0xee);
            frame
        },
    )
}
