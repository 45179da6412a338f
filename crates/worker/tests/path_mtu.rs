//! Path MTU of tunnels, learnt from what routers say.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod rig;

use etherparse::{Icmpv4Type, PacketBuilder, icmpv4::DestUnreachableHeader};
use rig::*;
use wire::BackendId;
use wire::encap::{Mode, SourcePrefix};
use worker::view::path_mtu::AGE_US;
use worker::view::{BackendState, BackendView};
use worker::{DropReason, Outcome, RxMeta, Verdict, View};

const OWN: [u8; 4] = [10, 0, 2, 11];
const ROUTER: [u8; 4] = [10, 0, 3, 1];

/// "Fragmentation needed", quoting so many bytes of a frame that was sent.
fn error(sent: &[u8], mtu: u16, quoted: usize) -> Vec<u8> {
    error_to(OWN, sent, mtu, quoted)
}

fn error_to(own: [u8; 4], sent: &[u8], mtu: u16, quoted: usize) -> Vec<u8> {
    let quote = &sent[14..];
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(ROUTER_MAC, PORT_MAC)
        .ipv4(ROUTER, own, 64)
        .icmpv4(Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
            next_hop_mtu: mtu,
        }))
        .write(&mut frame, &quote[..quoted.min(quote.len())])
        .unwrap();
    frame
}

/// TCP of one flow in a datagram of so many bytes.
fn data(sport: u16, len: usize, flags: u16) -> Vec<u8> {
    let mut frame = tcp(sport, 80, Tcp::Ack, len - 40);
    set_fragment_bits(&mut frame, flags);
    frame
}

const DF: u16 = 0x4000;

/// What became of a datagram: sent whole, or the MTU its sender was told.
fn told((sent, outcomes): (Vec<Vec<u8>>, Vec<(RxMeta, Outcome)>)) -> Option<u16> {
    assert_eq!((sent.len(), outcomes.len()), (1, 1), "{outcomes:?}");
    match outcomes[0].1.verdict {
        Verdict::Sent => None,
        Verdict::Dropped(DropReason::TooBig) => {
            let answer = &sent[0];
            assert_eq!((&answer[26..30], &answer[30..34]), (&VIP[..], &CLIENT[..]));
            assert_eq!(answer[34..36], [3, 4]);
            Some(u16::from_be_bytes([answer[40], answer[41]]))
        }
        other => panic!("{other:?}"),
    }
}

fn hear(rig: &mut Rig, core: usize, error: &[u8]) {
    let (sent, outcomes) = rig.put(core, error);
    assert!(sent.is_empty());
    assert_eq!(outcomes[0].1.verdict, Verdict::Punted, "the kernel hears of it, too");
}

#[test]
fn the_next_packet_that_is_too_big_for_the_path_is_answered() {
    for mode in Mode::ALL.into_iter().filter(|mode| *mode != Mode::L2) {
        let overhead = mode.overhead(false);
        let largest = usize::from(1500 - overhead);
        let mut rig = Rig::new(2, view(1, &[Spec { mode, ..Spec::web(1) }]));
        rig.put(0, &tcp(7, 80, Tcp::Syn, 0));
        rig.put(0, &tcp(7, 80, Tcp::Ack, 0));
        let (sent, _) = rig.put(0, &data(7, largest, DF));
        // The other worker hears of it.
        hear(&mut rig, 1, &error(&sent[0], 1400, 548));
        for core in [0, 1] {
            assert_eq!(told(rig.put(core, &data(7, largest, DF))), Some(1400 - overhead), "{mode:?}");
            assert_eq!(
                told(rig.put(core, &data(7, usize::from(1401 - overhead), DF))),
                Some(1400 - overhead)
            );
            assert_eq!(told(rig.put(core, &data(7, usize::from(1400 - overhead), DF))), None);
            // A new flow, too.
            assert_eq!(told(rig.put(core, &data(8, largest, DF))), Some(1400 - overhead));
        }
        // What may be cut is cut to fit.
        let (sent, _) = rig.put(0, &data(7, largest, 0));
        assert_eq!(sent.len(), 2);
        assert!(sent.iter().all(|piece| piece.len() <= 14 + 1400));
        // A larger one is not believed before the time, a smaller one is.
        let (sent, _) = rig.put(0, &data(7, 1200, DF));
        let mut larger = sent[0].clone();
        larger[16..18].copy_from_slice(&1500_u16.to_be_bytes());
        hear(&mut rig, 0, &error(&larger, 1450, 548));
        assert_eq!(told(rig.put(0, &data(7, largest, DF))), Some(1400 - overhead));
        hear(&mut rig, 0, &error(&larger, 1300, 548));
        assert_eq!(told(rig.put(0, &data(7, largest, DF))), Some(1300 - overhead));
        // Believed for ten minutes.
        rig.advance_ms(AGE_US / 1000 - 1);
        assert_eq!(told(rig.put(0, &data(7, largest, DF))), Some(1300 - overhead));
        rig.advance_ms(1);
        assert_eq!(told(rig.put(0, &data(7, largest, DF))), None);
        assert_eq!(told(rig.put(1, &data(7, largest, DF))), None);
    }
}

/// The outer source of a frame that was sent.
fn source(sent: &[u8]) -> [u8; 4] {
    sent[26..30].try_into().unwrap()
}

fn prefix() -> SourcePrefix {
    SourcePrefix::new([10, 9, 0, 0].into(), 16).unwrap()
}

#[test]
fn errors_to_outer_sources_of_a_prefix_are_heard() {
    for mode in [Mode::Ipip, Mode::Gre] {
        let overhead = mode.overhead(false);
        let largest = usize::from(1500 - overhead);
        let spec = || Spec { mode, sources: Some(prefix()), ..Spec::web(1) };
        let mut rig = Rig::new(2, view(1, &[spec()]));
        let (sent, _) = rig.put(0, &data(7, largest, DF));
        let own = source(&sent[0]);
        assert_eq!(own[..2], [10, 9], "{mode:?}");
        // To the machine's own address, to another of the prefix, to one outside of it that is quoted, too.
        let mut outside = sent[0].clone();
        outside[26..30].copy_from_slice(&OWN);
        for forged in [
            error_to(OWN, &sent[0], 1400, 548),
            error_to([10, 9, own[2], !own[3]], &sent[0], 1400, 548),
            error_to(OWN, &outside, 1400, 548),
        ] {
            rig.put(0, &forged);
            assert_eq!(told(rig.put(0, &data(7, largest, DF))), None, "{mode:?}");
        }
        hear(&mut rig, 1, &error_to(own, &sent[0], 1400, 28));
        // It is the path's, not the flow's: of all flows, wherever they come from.
        for (core, sport) in [(0, 7), (1, 7), (0, 8), (1, 9)] {
            assert_eq!(told(rig.put(core, &data(sport, largest, DF))), Some(1400 - overhead), "{mode:?}");
        }
        let next = view(2, &[spec()]);
        next.inherit_paths(&before(mode), rig.now);
        assert_eq!(backend(&next, 0).path_mtu(rig.now), Some(1300));
        let without = view(3, &[Spec { mode, ..Spec::web(1) }]);
        without.inherit_paths(&before(mode), rig.now);
        assert_eq!(backend(&without, 0).path_mtu(rig.now), None, "another tunnel");
    }
}

/// A view that has learnt something.
fn before(mode: Mode) -> View {
    let before = view(1, &[Spec { mode, sources: Some(prefix()), ..Spec::web(1) }]);
    backend(&before, 0).learn(1300, worker_tick(1000));
    before
}

#[test]
fn errors_that_no_packet_of_ours_can_have_caused_are_not_believed() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(1)]));
    let packet = data(7, 1480, DF);
    let (sent, _) = rig.put(0, &packet);
    let sent = &sent[0];
    let forged = |at: usize, bytes: &[u8]| {
        let mut other = sent.clone();
        other[at..at + bytes.len()].copy_from_slice(bytes);
        error(&other, 1000, 548)
    };
    for (what, frame) in [
        ("outer source", forged(26, &[10, 0, 2, 12])),
        ("outer destination", forged(30, &[10, 0, 2, 99])),
        ("protocol", forged(23, &[47])),
        ("inner destination", forged(50, &[203, 0, 113, 99])),
        ("a packet that fits", forged(16, &[0, 100])),
        ("not smaller than what is known", error(sent, 1500, 548)),
        ("no MTU of a tunnel's packet", data(7, 100, DF)),
    ] {
        rig.put(0, &frame);
        assert_eq!(told(rig.put(0, &packet)), None, "{what}");
    }
    // Nobody makes it smaller than what every host takes.
    for mtu in [68, 1, 0] {
        hear(&mut rig, 0, &error(sent, mtu, 28));
        assert_eq!(told(rig.put(0, &packet)), Some(576 - 20), "{mtu}");
        rig.advance_ms(AGE_US / 1000);
    }
    // A flood of forged ones costs no more than a look at a thousand a second.
    for _ in 0..1000 {
        rig.put(0, &forged(50, &[203, 0, 113, 99]));
    }
    hear(&mut rig, 0, &error(sent, 1400, 548));
    assert_eq!(told(rig.put(0, &packet)), None, "the budget is used up");
    rig.advance_ms(10);
    hear(&mut rig, 0, &error(sent, 1400, 548));
    assert_eq!(told(rig.put(0, &packet)), Some(1380), "the next one is heard");
}

fn backend(view: &View, id: u32) -> &BackendView {
    view.backends[BackendId(id).index()].as_ref().unwrap()
}

#[test]
fn a_path_to_a_host_is_that_of_all_its_services_with_one_header() {
    // The rig numbers addresses by service: 10.0.2.21 is the first backend of each.
    let second = Spec { port: 81, ..Spec::web(1) };
    let other = Spec { port: 82, mode: Mode::Gre, ..Spec::web(1) };
    let mut rig = Rig::new(1, view(1, &[Spec::web(2), second, other]));
    let find = |rig: &mut Rig, wanted: u32| {
        (1000..1100)
            .find(|&sport| backend_of(&rig.put(0, &tcp(sport, 80, Tcp::Syn, 0)).1).0 == wanted)
            .unwrap()
    };
    let (to_first, to_second) = (find(&mut rig, 0), find(&mut rig, 1));
    let (sent, _) = rig.put(0, &data(to_first, 1480, DF));
    hear(&mut rig, 0, &error(&sent[0], 1400, 548));
    assert_eq!(told(rig.put(0, &data(to_first, 1480, DF))), Some(1380));
    assert_eq!(told(rig.put(0, &data(to_second, 1480, DF))), None, "another host");
    for (port, expected) in [(81_u16, Some(1380)), (82, None)] {
        let mut frame = tcp(9, port, Tcp::Ack, 1476 - 40);
        set_fragment_bits(&mut frame, DF);
        assert_eq!(told(rig.put(0, &frame)), expected, "{port}");
    }
}

#[test]
fn ipv6_packets_are_told_no_less_than_1280() {
    let spec = || Spec { vip: ipv6("2001:db8:f::10").into(), len: 128, ..Spec::web(1) };
    let view = view(1, &[spec()]);
    let (of, now) = (backend(&view, 0), worker_tick(5));
    of.learn(1290, now);
    assert_eq!((of.path_mtu(now), of.room.get()), (Some(1290), 1270));
    assert_eq!((of.inner_mtu_now(true, now), of.inner_mtu_now(false, now)), (1280, 1270));
}

fn worker_tick(ms: u64) -> wire::Tick {
    wire::Tick::from_ms(ms)
}

#[test]
fn the_next_view_inherits_what_is_known_of_the_same_tunnels() {
    let before = view(1, &[Spec::web(3)]);
    let now = worker_tick(1_000_000);
    backend(&before, 0).learn(1400, now);
    backend(&before, 1).learn(1300, worker_tick(1_000_000 - AGE_US / 1000));
    let after = view(2, &[Spec { states: vec![BackendState::Up, BackendState::Up], ..Spec::web(2) }]);
    after.inherit_paths(&before, now);
    assert_eq!((backend(&after, 0).path_mtu(now), backend(&after, 0).room.get()), (Some(1400), 1380));
    assert_eq!((backend(&after, 1).path_mtu(now), backend(&after, 1).room.get()), (None, 1480), "too old");
    let late = worker_tick(1_000_000 + AGE_US / 1000);
    assert_eq!(backend(&after, 0).inner_mtu_now(false, late), 1480, "with the age it had");
    assert_eq!(backend(&after, 0).room.get(), 1480);
    // An id that another backend has got, a backend that is down, one whose configured MTU is as small.
    let other = view(3, &[Spec { mode: Mode::Gre, ..Spec::web(1) }]);
    other.inherit_paths(&before, now);
    assert_eq!(backend(&other, 0).path_mtu(now), None);
    let down = view(4, &[Spec { states: vec![BackendState::Down], ..Spec::web(1) }]);
    down.inherit_paths(&before, now);
    assert_eq!((backend(&down, 0).room.get(), backend(&down, 0).inner_mtu_now(false, now)), (0, 1380));
}
