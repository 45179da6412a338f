use super::*;
use crate::frames::{PacketBuilder, flags};
use crate::malformed::{DefectFate, VIP4, corpus};
use proptest::prelude::*;
use worker::{DropReason, Verdict};

#[test]
fn good_frames_reach_a_backend_or_are_answered() {
    let frames = good_frames();
    let ends = check_worker(frames.iter().map(|(_, f)| f.as_slice()));
    for ((name, _), end) in frames.iter().zip(ends) {
        let right = match *name {
            "echo4" | "echo6" => end.verdict == Verdict::Dropped(DropReason::Answered),
            "too_big4" | "too_big6" => end.verdict == Verdict::Dropped(DropReason::TooBig),
            "empty" => end.verdict == Verdict::Dropped(DropReason::NoBackend),
            "to_kernel4" => end.verdict == Verdict::Punted,
            _ => end.verdict == Verdict::Sent,
        };
        assert!(right, "{name}: {end:?}");
    }
}

#[test]
fn no_defect_gets_through_or_loses_a_frame() {
    let corpus = corpus();
    // One engine for all, so that fragments and flows of one defect meet those of others ...
    check_worker(corpus.iter().map(|d| d.bytes.as_slice()));
    // ... and one for each, so that none hides behind another.
    let mut wrong = Vec::new();
    for defect in &corpus {
        let ends = check_worker([defect.bytes.as_slice()]);
        if defect.fate == DefectFate::Refused && ends[0].verdict == Verdict::Sent {
            wrong.push((&defect.name, ends[0]));
        }
    }
    assert!(wrong.is_empty(), "{} defects reached a backend: {wrong:#?}", wrong.len());
}

#[test]
fn nothing_is_lost_when_queues_are_full_and_buffers_scarce() {
    for faults in [
        IoFaults { transmit_full: true, no_buffers: false },
        IoFaults { transmit_full: false, no_buffers: true },
        IoFaults { transmit_full: true, no_buffers: true },
    ] {
        let mut bench = Bench::new();
        for (i, (_, frame)) in good_frames().iter().enumerate() {
            bench.receive(i, frame, faults);
        }
        let ends = bench.finish();
        let sent = ends.iter().filter(|e| e.verdict == Verdict::Sent).count();
        assert_eq!(sent == 0, faults.transmit_full, "{faults:?}: {sent} sent");
    }
}

#[test]
fn fragments_meet_whatever_worker_they_land_on() {
    let pieces = PacketBuilder::udp("198.51.100.9", VIP4).ports(5000, 53).payload_of(4000).fragments(5, 800);
    for order in [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [2, 0, 5, 1, 4, 3]] {
        for workers in 0..8_usize {
            let mut bench = Bench::new();
            let indices: Vec<u32> = order
                .iter()
                .map(|i| bench.receive(workers >> (i % 3) & 1, &pieces[*i], IoFaults::default()))
                .collect();
            let ends: Vec<_> = indices.iter().map(|i| bench.end(*i)).collect();
            let first = ends[0].expect("all pieces are there, none is held");
            assert_eq!(first.verdict, Verdict::Sent);
            assert!(ends.iter().all(|e| *e == Some(first)), "{order:?} on {workers:b}: {ends:?}");
            bench.finish();
        }
    }
}

#[test]
fn a_syn_flood_is_steered_and_forgets_no_trusted_flow() {
    let mut bench = Bench::new();
    let friend = PacketBuilder::tcp("198.51.100.77", VIP4, flags::SYN).ports(7, 80);
    bench.receive(0, &friend.build(), IoFaults::default());
    let ack = PacketBuilder::tcp("198.51.100.77", VIP4, flags::ACK).ports(7, 80).build();
    let before = bench.receive(0, &ack, IoFaults::default());
    for i in 0..2000_u32 {
        let source = format!("198.18.{}.{}", i >> 8, i & 255);
        bench.receive(0, &PacketBuilder::tcp(&source, VIP4, flags::SYN).build(), IoFaults::default());
    }
    let after = bench.receive(0, &ack, IoFaults::default());
    assert_eq!(bench.end(before), bench.end(after));
    assert!(bench.finish().iter().all(|e| e.verdict == Verdict::Sent));
}

#[test]
fn answers_of_backends() {
    for (name, seed) in health_seeds() {
        println!("{name}");
        check_health(&seed);
    }
}

#[test]
fn configurations_good_and_bad() {
    check_config(&crate::bench::config_text());
    for bad in
        ["", "[", "[machine]\nname = 3", "\u{0}", "[[service]]\nvip = \"x\"", "a = 1\na = 2\n", "é\n[é"]
    {
        check_config(bad);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_parsed_safely(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
        check_frame(&frame);
    }

    #[test]
    fn mutated_frames_are_parsed_safely(
        which in any::<usize>(),
        edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6),
        cut in any::<usize>(),
        mend in any::<bool>(),
    ) {
        let good = good_frames();
        let mut frame = good[which % good.len()].1.clone();
        for (at, value) in edits {
            let at = at % frame.len().min(90);
            frame[at] = value;
        }
        if cut.is_multiple_of(3) {
            frame.truncate(cut % (frame.len() + 1));
        }
        if mend {
            mend_ipv4_checksum(&mut frame);
        }
        check_frame(&frame);
        check_worker([frame.as_slice()]);
    }

    #[test]
    fn any_steps_conserve(input in proptest::collection::vec(any::<u8>(), 0..2000)) {
        check_steps(&input);
    }

    #[test]
    fn configurations_with_a_line_changed(line in any::<usize>(), what in any::<u8>(), with in "[ -~]{0,12}") {
        let text = crate::bench::config_text();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let at = line % lines.len();
        match what % 4 {
            0 => { lines.remove(at); }
            1 => lines.insert(at, with),
            2 => lines[at] = with,
            _ => { let cut = lines[at].len() / 2; lines[at].truncate(cut); lines[at].push_str(&with); }
        }
        check_config(&lines.join("\n"));
    }
}
