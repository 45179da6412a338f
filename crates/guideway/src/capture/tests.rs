use super::{Capture, CaptureError, CaptureWriter};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::{Endianness, TsResolution};
use proptest::prelude::*;
use std::time::Duration;

const STAMP: Duration = Duration::new(1_700_000_000, 123_456_000);

fn classic(endianness: Endianness, resolution: TsResolution, frames: &[&[u8]]) -> Vec<u8> {
    let header = PcapHeader { endianness, ts_resolution: resolution, ..PcapHeader::default() };
    let mut w = PcapWriter::with_header(Vec::new(), header).unwrap();
    for (i, f) in frames.iter().enumerate() {
        let stamp = STAMP + Duration::from_micros(i as u64);
        w.write_packet(&PcapPacket::new(stamp, f.len() as u32, f)).unwrap();
    }
    w.into_writer()
}

/// A pcapng file by hand: the byte order, `if_tsresol`, and (stamp units, captured, wire length) of each packet.
pub(crate) fn pcapng(big: bool, resolution: Option<u8>, packets: &[(u64, &[u8], u32)]) -> Vec<u8> {
    let w16 = |v: u16| if big { v.to_be_bytes() } else { v.to_le_bytes() };
    let w32 = |v: u32| if big { v.to_be_bytes() } else { v.to_le_bytes() };
    let block = |kind: u32, body: &[u8]| {
        let len = w32(12 + body.len() as u32);
        [&w32(kind)[..], &len, body, &len].concat()
    };
    let mut out = block(0x0a0d_0d0a, &[&w32(0x1a2b_3c4d)[..], &w16(1), &w16(0), &[0xff; 8]].concat());
    let mut interface = [&w16(1)[..], &w16(0), &w32(65535)].concat();
    if let Some(r) = resolution {
        interface.extend([&w16(9)[..], &w16(1), &[r, 0, 0, 0], &[0; 4]].concat());
    }
    out.extend(block(1, &interface));
    out.extend(block(4, &[0; 4])); // name resolution: to be skipped
    for (ticks, data, wire) in packets {
        let mut body = [
            &w32(0)[..],
            &w32((ticks >> 32) as u32),
            &w32(*ticks as u32),
            &w32(data.len() as u32),
            &w32(*wire),
            data,
        ]
        .concat();
        body.resize(body.len().next_multiple_of(4), 0);
        out.extend(block(6, &body));
    }
    out
}

#[test]
fn classic_of_either_order_and_resolution_agrees_with_the_library() {
    let frames: [&[u8]; 3] = [&[1; 60], &[2; 1514], &[]];
    for endianness in [Endianness::Big, Endianness::Little] {
        for resolution in [TsResolution::MicroSecond, TsResolution::NanoSecond] {
            let file = classic(endianness, resolution, &frames);
            let ours = Capture::parse(file.clone()).unwrap();
            let mut theirs = PcapReader::new(&file[..]).unwrap();
            assert_eq!(ours.len(), 3);
            assert_eq!(ours.is_nanoseconds(), resolution == TsResolution::NanoSecond);
            for frame in ours.iter() {
                let other = theirs.next_packet().unwrap().unwrap();
                assert_eq!(frame.bytes, &other.data[..]);
                assert_eq!(u128::from(frame.stamp_ns), other.timestamp.as_nanos());
                assert!(!frame.is_truncated());
            }
        }
    }
}

#[test]
fn pcapng_of_either_order_with_its_resolution() {
    for big in [false, true] {
        for (resolution, ticks, ns) in [
            (None, 1_700_000_000_000_001, 1_700_000_000_000_001_000),
            (Some(6), 5, 5000),
            (Some(9), 1_700_000_000_000_000_007, 1_700_000_000_000_000_007),
            (Some(3), 2, 2_000_000),
            (Some(0x80 | 1), 3, 1_500_000_000),
        ] {
            let file = pcapng(big, resolution, &[(ticks, &[7; 61], 61), (ticks, &[8; 10], 99)]);
            let capture = Capture::parse(file).unwrap();
            let first = capture.get(0).unwrap();
            assert_eq!((first.bytes, first.stamp_ns), (&[7; 61][..], ns), "{resolution:?}");
            assert!(!first.is_truncated());
            assert!(capture.get(1).unwrap().is_truncated());
            assert_eq!(capture.len(), 2);
            assert_eq!(capture.is_nanoseconds(), resolution == Some(9));
        }
    }
}

#[test]
fn a_frame_longer_than_the_snapshot_length_is_read_and_marked() {
    let mut file = Vec::new();
    let mut w = CaptureWriter::new(&mut file, false).unwrap();
    w.write(0, &[1; 64]).unwrap();
    file[16..20].copy_from_slice(&64_u32.to_le_bytes());
    file[36..40].copy_from_slice(&1514_u32.to_le_bytes());
    let capture = Capture::parse(file).unwrap();
    assert!(capture.get(0).unwrap().is_truncated());
}

#[test]
fn a_file_that_is_cut_is_read_up_to_the_cut_and_says_so() {
    for (file, header) in [
        (classic(Endianness::Little, TsResolution::MicroSecond, &[&[1; 60], &[2; 61]]), 24),
        (pcapng(false, None, &[(1, &[1; 60], 60), (2, &[2; 61], 61)]), 28),
    ] {
        let whole = Capture::parse(file.clone()).unwrap();
        assert!(whole.cut().is_none());
        let mut whole_prefixes = 0;
        for cut in 0..file.len() {
            match Capture::parse(file[..cut].to_vec()) {
                Ok(c) => {
                    assert!(cut >= header && c.len() < whole.len(), "cut at {cut}");
                    assert!(c.iter().eq(whole.iter().take(c.len())), "what comes before the cut is the same");
                    match c.cut() {
                        None => whole_prefixes += 1,
                        Some(CaptureError::Truncated { offset, .. }) => {
                            assert!(*offset <= cut, "cut at {cut}");
                        }
                        Some(other) => panic!("cut at {cut}: {other}"),
                    }
                }
                Err(e) => {
                    assert!(cut < header, "cut at {cut}: {e}");
                    assert!(matches!(e, CaptureError::Truncated { .. } | CaptureError::NotACapture), "{e}");
                }
            }
        }
        assert!(whole_prefixes >= 2, "block ends are whole files");
    }
}

/// IPv4 and IPv6 packets, as far as a header is made for them.
const PACKETS: [(&[u8], [u8; 2]); 2] = [(&[0x45; 20], [0x08, 0x00]), (&[0x60; 40], [0x86, 0xdd])];

/// The frame that stands for a packet captured without an address.
fn ethernet(to: [u8; 6], ether_type: [u8; 2], packet: &[u8]) -> Vec<u8> {
    [&to[..], &[2, 0, 0, 0, 0, 1], &ether_type, packet].concat()
}

#[test]
fn raw_ip_and_cooked_captures_become_ethernet() {
    let ours = [2, 0, 0, 0, 0, 2];
    let cooked = |way: u8, of: [u8; 2], packet: &[u8]| {
        [&[0, way, 0, 1, 0, 6, 9, 9, 9, 9, 9, 9, 0, 0][..], &of, packet].concat()
    };
    let cooked2 = |way: u8, of: [u8; 2], packet: &[u8]| {
        [&of[..], &[0, 0, 0, 0, 0, 3, 0, 1, way, 6, 9, 9, 9, 9, 9, 9, 0, 0], packet].concat()
    };
    for (packet, of) in PACKETS {
        for (link, captured, to) in [
            (101_u32, packet.to_vec(), ours),
            (228, packet.to_vec(), ours),
            (113, cooked(0, of, packet), ours),
            (113, cooked(1, of, packet), [0xff; 6]),
            (276, cooked2(0, of, packet), ours),
            (276, cooked2(2, of, packet), [0xff; 6]),
        ] {
            let mut file = classic(Endianness::Little, TsResolution::MicroSecond, &[&captured, &captured]);
            file[20..24].copy_from_slice(&link.to_le_bytes());
            let mut next = pcapng(false, None, &[(1, &captured[..], captured.len() as u32); 2]);
            next[36..38].copy_from_slice(&(link as u16).to_le_bytes());
            for file in [file, next] {
                let capture = Capture::parse(file).unwrap();
                assert_eq!(capture.len(), 2);
                for frame in capture.iter() {
                    assert_eq!(frame.bytes, ethernet(to, of, packet), "link type {link}");
                    assert!(!frame.is_truncated());
                }
            }
        }
    }
}

#[test]
fn a_cooked_frame_without_its_header_is_damaged_or_cut() {
    let mut file = classic(Endianness::Little, TsResolution::MicroSecond, &[&[0; 10]]);
    file[20..24].copy_from_slice(&113_u32.to_le_bytes());
    assert!(matches!(Capture::parse(file.clone()), Err(CaptureError::Damaged { offset: 40, .. })));
    file[36..40].copy_from_slice(&1514_u32.to_le_bytes());
    assert!(Capture::parse(file).unwrap().get(0).unwrap().is_truncated());
}

#[test]
fn a_foreign_interface_matters_only_if_it_has_frames() {
    let foreign = {
        let mut other = pcapng(false, None, &[]);
        other[36..38].copy_from_slice(&105_u16.to_le_bytes());
        other[28..48].to_vec()
    };
    let file = pcapng(false, None, &[(1, &[7; 60], 60)]);
    let unused = [&file[..48], &foreign, &file[48..]].concat();
    let capture = Capture::parse(unused.clone()).unwrap();
    assert_eq!(capture.get(0).unwrap().bytes, [7; 60]);
    // The frame is now the foreign interface's.
    let mut used = unused;
    let packet = 48 + 20 + 16;
    used[packet + 8..packet + 12].copy_from_slice(&1_u32.to_le_bytes());
    assert!(matches!(Capture::parse(used), Err(CaptureError::LinkType(105))));
}

#[test]
fn what_is_refused_says_why() {
    let mut other_link = classic(Endianness::Little, TsResolution::MicroSecond, &[]);
    other_link[20] = 105;
    let mut huge = classic(Endianness::Little, TsResolution::MicroSecond, &[&[0; 4]]);
    huge[32..36].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    let mut lengths = pcapng(false, None, &[]);
    let end = lengths.len();
    lengths[end - 4] ^= 4;
    for (file, part) in [
        (b"".to_vec(), "not a pcap"),
        (b"GIF89a, certainly no capture".to_vec(), "not a pcap"),
        (0xa1b2_cd34_u32.to_le_bytes().to_vec(), "modified"),
        (other_link, "tcpdump -i INTERFACE"),
        (vec![0x28, 0xb5, 0x2f, 0xfd, 1, 2], "zstd -dc CAPTURE | guideway replay --in -"),
        (vec![0x1f, 0x8b, 8], "gunzip -c CAPTURE"),
        (huge, "damaged: a frame of 2147483647 bytes"),
        (lengths, "two lengths differ"),
        (pcapng(false, Some(0x7f), &[]), "resolution of 127"),
    ] {
        let message = Capture::parse(file).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn what_is_written_is_read_back_also_by_the_library() {
    for nanoseconds in [false, true] {
        let mut w = CaptureWriter::new(Vec::new(), nanoseconds).unwrap();
        w.write(STAMP.as_nanos() as u64, &[3; 60]).unwrap();
        let file = w.finish().unwrap();
        let mut theirs = PcapReader::new(&file[..]).unwrap();
        let packet = theirs.next_packet().unwrap().unwrap();
        assert_eq!((packet.timestamp, packet.data.len()), (STAMP, 60));
        assert_eq!(Capture::parse(file).unwrap().is_nanoseconds(), nanoseconds);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0..4, flips in proptest::collection::vec((0_usize..400, any::<u8>()), 0..4)) {
        match kind {
            0 => bytes.splice(0..0, 0xa1b2_c3d4_u32.to_le_bytes()).for_each(drop),
            1 => bytes = classic(Endianness::Big, TsResolution::MicroSecond, &[&bytes]),
            2 => bytes = pcapng(true, Some(9), &[(9, &bytes, 300)]),
            _ => {}
        }
        for (at, value) in flips {
            if let Some(b) = bytes.get_mut(at) { *b = value; }
        }
        if let Ok(c) = Capture::parse(bytes) {
            prop_assert_eq!(c.iter().count(), c.len());
        }
    }
}
