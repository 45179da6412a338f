use super::*;
use crate::describe::general::is_possible_source_v4;
use crate::io::memory::MemIo;
use crate::{Frames, PacketIo, RxMeta};
use proptest::prelude::*;
use wire::PortId;
use wire::plain::Plain;

const KEY: [u8; 16] = *b"sixteen bytes it";

/// The instruction sets of a table, weakest and strongest.
fn vectors(isa: usize) -> flow::Vectors {
    let idle =
        flow::Idle { tcp_established_us: 1 << 30, tcp_closing_us: 1 << 25, syn_us: 1 << 25, udp_us: 1 << 26 };
    let mut table =
        flow::Table::new(flow::Memory::heap(16), flow::Memory::heap(16), 1, idle, 50).expect("a table");
    if isa == 0 {
        assert!(table.use_isa(flow::Isa::Baseline));
    }
    table.vectors()
}

/// A frame that is mostly of the plain shape.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let fields = (any::<[u8; 12]>(), any::<u32>(), 0..4_u8, any::<u16>(), any::<u16>());
    let more = (prop_oneof![Just(TCP), Just(UDP), Just(1)], any::<u8>(), any::<u8>(), 0..40_usize);
    let defect = prop::option::weighted(0.4, (0..60_usize, any::<u8>()));
    (fields, more, defect, any::<bool>()).prop_map(|(fields, more, defect, is_mended)| {
        let ((macs, src, same, sport, dport), (protocol, tos, flags, payload)) = (fields, more);
        let dst = if same == 0 { src } else { 0xc000_0201 };
        let header_len: usize = if protocol == TCP { 20 } else { 8 };
        let total = 20 + header_len + payload;
        let mut bytes = vec![0; (14 + total).max(60)];
        bytes[..12].copy_from_slice(&macs);
        bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
        bytes[15] = tos;
        bytes[16..18].copy_from_slice(&(total as u16).to_be_bytes());
        bytes[20] = 0x40;
        bytes[22..24].copy_from_slice(&[64, protocol]);
        bytes[26..30].copy_from_slice(&src.to_be_bytes());
        bytes[30..34].copy_from_slice(&dst.to_be_bytes());
        bytes[34..36].copy_from_slice(&sport.to_be_bytes());
        bytes[36..38].copy_from_slice(&dport.to_be_bytes());
        if protocol == UDP {
            bytes[38..40].copy_from_slice(&((8 + payload) as u16).to_be_bytes());
        } else {
            bytes[46] = 0x50;
            bytes[47] = flags;
        }
        let check = |bytes: &mut Vec<u8>| {
            bytes[24..26].fill(0);
            let check = wire::checksum::checksum(&bytes[14..34]);
            bytes[24..26].copy_from_slice(&check.to_be_bytes());
        };
        check(&mut bytes);
        if let Some((at, value)) = defect {
            bytes[at] = value;
            if is_mended {
                check(&mut bytes);
            }
        }
        bytes
    })
}

/// What `wire::plain` and the general stages' rules say of a frame.
fn expected(mac_filter: MacFilter, bytes: &[u8]) -> Option<Plain> {
    let plain = Plain::read(bytes)?;
    let is_taken = mac_filter.admits(bytes) && is_possible_source_v4(plain.src) && plain.src != plain.dst;
    is_taken.then_some(plain)
}

proptest! {
    #[test]
    fn columns_say_what_single_packets_say(frames in prop::collection::vec(frame(), 0..=BURST), is_strict: bool) {
        let mut io = MemIo::new(1);
        for frame in &frames {
            io.push(PortId(0), frame, RxMeta::default());
        }
        let mut burst = Frames::new();
        io.rx(PortId(0), &mut burst);
        prop_assert_eq!(burst.len(), frames.len());
        let mac_filter = if is_strict { MacFilter { mask: 1, value: 0 } } else { MacFilter { mask: 0, value: 0 } };
        // What an earlier burst left behind must not matter.
        let (service_key, first) = ([7; BURST], [0x45_0008; BURST]);
        let mut columns = HeaderColumns { service_key, first, ..HeaderColumns::default() };
        let (sum, is_any) = columns.read(mac_filter, &burst);
        prop_assert!(is_any || columns.service_key == [0; BURST]);
        prop_assert_eq!(sum, frames.iter().map(Vec::len).sum::<usize>());
        for (position, frame) in frames.iter().enumerate() {
            let Some(plain) = expected(mac_filter, frame) else {
                prop_assert_eq!((columns.service_key[position], columns.key[position]), (0, 0), "{:x?}", frame);
                continue;
            };
            let service_key = ServiceKey(columns.service_key[position]);
            prop_assert_eq!(
                (service_key.dst(), service_key.dport(), service_key.protocol()),
                (plain.dst, plain.dport, plain.protocol)
            );
            prop_assert_eq!(columns.key[position], wire::key::narrow(plain.src, plain.sport, wire::ServiceId(0)));
            let summary = PacketSummary(columns.summary[position]);
            let event = match (plain.protocol, plain.flags.0 & 7) {
                (UDP, _) => FlowEvent::Udp,
                (_, 0) => FlowEvent::Tcp,
                _ if plain.flags.is_syn() => FlowEvent::Syn,
                _ => FlowEvent::Turning,
            };
            prop_assert_eq!(summary, PacketSummary::new(plain.len, plain.tos, event, 0, 0));
            prop_assert_eq!(columns.src(position), plain.src);
            let tuple = wire::Tuple {
                src: wire::Addr::V4(plain.src),
                dst: wire::Addr::V4(plain.dst),
                sport: plain.sport,
                dport: plain.dport,
                protocol: plain.protocol,
            };
            for isa in 0..2 {
                let hash = vectors(isa).run(|lanes| {
                    columns.hash(lanes, &KEY, 1 << position);
                    columns.hash[position]
                });
                prop_assert_eq!(hash, steer::hash::tuple(&KEY, &tuple));
            }
        }
        for position in frames.len()..frames.len().next_multiple_of(LANES).min(BURST) {
            prop_assert_eq!(columns.service_key[position], 0);
        }
    }
}

#[test]
fn captured_short_is_not_of_the_plain_shape() {
    let mut io = MemIo::new(1);
    let mut bytes = vec![0; 60];
    bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
    bytes[16..18].copy_from_slice(&40_u16.to_be_bytes());
    bytes[22..24].copy_from_slice(&[64, TCP]);
    bytes[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    bytes[46] = 0x50;
    let check = wire::checksum::checksum(&bytes[14..34]);
    bytes[24..26].copy_from_slice(&check.to_be_bytes());
    io.push(PortId(0), &bytes, RxMeta::default());
    io.push(PortId(0), &bytes, RxMeta::default());
    let mut burst = Frames::new();
    io.rx(PortId(0), &mut burst);
    let meta = burst[1].meta();
    crate::Frame::set_meta(&mut burst[1], RxMeta { truncated: true, ..meta });
    let mut columns = HeaderColumns::default();
    columns.read(MacFilter { mask: 0, value: 0 }, &burst);
    assert!(columns.service_key[0] != 0 && columns.service_key[1] == 0);
}
