use super::{Options, ReplayResult, replay};
use crate::capture::{Capture, CaptureWriter};
use etherparse::PacketBuilder;
use model::Config;
use proptest::prelude::*;

fn config() -> Config {
    let text = include_str!("../../tests/cli/lb1.toml");
    match model::load("lb1.toml", text) {
        Ok(loaded) => {
            let mut config = loaded.config;
            // Small tables: they are built anew for every case.
            config.services.iter_mut().for_each(|s| s.maglev_size = 251);
            config
        }
        Err(report) => panic!("{}", report.to_plain()),
    }
}

fn capture(frames: &[(u64, Vec<u8>)]) -> Capture {
    let mut writer = CaptureWriter::new(Vec::new(), true).unwrap();
    for (stamp_ns, bytes) in frames {
        writer.write(*stamp_ns, bytes).unwrap();
    }
    Capture::parse(writer.finish().unwrap()).unwrap()
}

fn run(config: &Config, frames: &[(u64, Vec<u8>)], workers: u8) -> ReplayResult {
    replay(config, &capture(frames), Options { workers, per_frame: true }).unwrap()
}

fn udp(sport: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([192, 0, 2, 7], [203, 0, 113, 10], 61)
        .udp(sport, 53)
        .write(&mut frame, &[7; 40])
        .unwrap();
    frame
}

#[test]
fn workers_out_of_range_are_refused() {
    for workers in [0, 65, 255] {
        assert!(replay(&config(), &capture(&[]), Options { workers, per_frame: false }).is_err());
    }
}

#[test]
fn more_flows_than_a_small_table_holds_are_all_sent() {
    let mut config = config();
    config.workers.flows = 1024;
    config.workers.wide_flows = 1024;
    let frames: Vec<_> = (0..5000_u16).map(|i| (u64::from(i) * 1000, udp(i))).collect();
    let replayed = run(&config, &frames, 1);
    assert_eq!((replayed.summary.tx, replayed.sent.len()), (5000, 5000));
    assert!(replayed.summary.dropped.is_empty());
}

/// Frames near enough to good ones to reach every stage: a good frame with a few bytes changed, cut or prolonged.
fn nearly_good() -> impl Strategy<Value = Vec<u8>> {
    let good = prop_oneof![
        (1000_u16..1100).prop_map(udp),
        (any::<u8>(), 0_usize..1500, prop_oneof![Just(10_u8), Just(20), Just(30), Just(99)]).prop_map(
            |(port, payload, host)| {
                let mut frame = Vec::new();
                PacketBuilder::ethernet2([2; 6], [4; 6])
                    .ipv4([192, 0, 2, 7], [203, 0, 113, host], 61)
                    .tcp(u16::from(port), 80, 1, 1)
                    .syn()
                    .write(&mut frame, &vec![1; payload])
                    .unwrap();
                frame
            }
        ),
        (any::<u8>(), 0_usize..100).prop_map(|(port, payload)| {
            let vip = "2001:db8::10".parse::<std::net::Ipv6Addr>().unwrap().octets();
            let mut frame = Vec::new();
            PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv6([0x20; 16], vip, 61)
                .tcp(u16::from(port), 80, 1, 1)
                .write(&mut frame, &vec![1; payload])
                .unwrap();
            frame
        }),
        Just({
            let mut frame = Vec::new();
            PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv4([192, 0, 2, 7], [203, 0, 113, 10], 61)
                .icmpv4_echo_request(1, 1)
                .write(&mut frame, &[0; 30])
                .unwrap();
            frame
        }),
    ];
    // A changed header byte mostly ends in a bad checksum, so half of the frames get a right one again.
    (good, proptest::collection::vec((0_usize..80, any::<u8>()), 0..3), any::<bool>(), -8_isize..8).prop_map(
        |(mut frame, changes, mend, longer)| {
            for (at, value) in changes {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            frame.resize(frame.len().saturating_add_signed(longer), 0);
            if mend && frame.len() >= 34 && frame[14] == 0x45 {
                frame[24..26].fill(0);
                let check = wire::checksum::checksum(&frame[14..34]);
                frame[24..26].copy_from_slice(&check.to_be_bytes());
            }
            frame
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    /// Conservation and one end for each frame are asserted by `replay` itself.
    #[test]
    fn every_frame_has_one_end_whatever_it_is(
        frames in proptest::collection::vec((0_u64..20_000_000_000, nearly_good()), 0..40),
        workers in 1_u8..5,
    ) {
        let config = config();
        let one = run(&config, &frames, 1);
        let summary = &one.summary;
        prop_assert_eq!(summary.rx, frames.len() as u64);
        prop_assert_eq!(summary.frames.as_ref().map(Vec::len), Some(frames.len()));
        prop_assert_eq!(one.sent.len() as u64, summary.tx);
        prop_assert_eq!(one.punted.len() as u64, summary.punted);
        let dropped: u64 = summary.dropped.values().sum();
        prop_assert_eq!(summary.rx + summary.originated, summary.tx + summary.punted + summary.relayed + dropped);
        prop_assert!(one.sent.is_sorted_by_key(|(index, _)| *index));
        let several = run(&config, &frames, workers);
        prop_assert_eq!(one.sent, several.sent);
        prop_assert_eq!(&one.summary.frames, &several.summary.frames);
    }
}
