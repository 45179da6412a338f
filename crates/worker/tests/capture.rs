//! What a worker shows of its frames while a capture is on: which ones, what of them, and what it costs. That it does with them what it always
//! does is shown by `two_ways`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod rig;

use allocation_counter::measure;
use etherparse::PacketBuilder;
use rig::*;
use std::net::IpAddr;
use wire::{BackendId, PortId, ServiceId};
use worker::capture::{CaptureFilter, Listener, Side, Tap, tap};
use worker::commands::{Command, CommandOutcome};
use worker::view::{BackendState, PortRole};
use worker::{BURST, DropReason, RxMeta, View};

/// Gives a worker a tap, or takes it; gives the one before.
fn set(rig: &mut Rig, new: Option<Box<Tap>>) -> Option<Box<Tap>> {
    rig.commanders[0].send(Command::Capture(new), rig.now).unwrap();
    rig.workers[0].turn(rig.now);
    let answer = rig.commanders[0].collect().unwrap();
    assert_eq!(answer.outcome, CommandOutcome::Tapped);
    answer.former
}

fn listen(rig: &mut Rig, filter: CaptureFilter, copies: usize, snap: usize) -> Listener {
    let (tap, listener) = tap(filter, copies, snap);
    assert!(set(rig, Some(tap)).is_none());
    listener
}

/// A copy in words: side and port, length of the frame and of what there is of it, its end.
fn shown(listener: &mut Listener) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(copy) = listener.take() {
        let end = copy.end;
        let side = if copy.side == Side::Received { "rx" } else { "tx" };
        let of = |name: &str, id: Option<u32>| id.map_or(String::new(), |id| format!(" {name} {id}"));
        let reason = end.reason.map_or(String::new(), |reason| format!(" {}", reason.name()));
        let service = of("service", end.service.map(|id| u32::from(id.0)));
        let backend = of("backend", end.backend.map(|id| id.0));
        let (len, kept) = (copy.len, copy.bytes().len());
        all.push(format!("{side}{} {kept}/{len} {}{reason}{service}{backend}", copy.port.0, end.action));
        listener.give_back(copy);
    }
    all
}

fn with_exception() -> View {
    let mut view = view(1, &[Spec::web(1), Spec { port: 53, protocol: UDP, ..Spec::web(1) }]);
    view.ports[0].role = PortRole::Data { exception: Some(PortId(1)), punt_to_nowhere: false };
    let kernel = worker::view::PortView { role: PortRole::Exception { data: PortId(0) }, ..view.ports[0] };
    view.ports.push(kernel);
    view
}

fn arp() -> Vec<u8> {
    [&[0xff; 6][..], &ROUTER_MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &[0; 36]].concat()
}

#[test]
fn every_action_is_shown_once_and_as_sent_where_it_changed() {
    let mut rig = Rig::new(1, with_exception());
    let mut listener = listen(&mut rig, CaptureFilter::default(), 64, 2048);
    rig.put(0, &tcp(4000, 80, Tcp::Syn, 0));
    assert_eq!(
        shown(&mut listener),
        ["rx0 54/54 encapsulate service 1 backend 0", "tx0 74/74 encapsulate service 1 backend 0"]
    );
    rig.put(0, &tcp(4000, 81, Tcp::Syn, 0));
    assert_eq!(shown(&mut listener), ["rx0 54/54 reply no_service", "tx0 54/54 reply no_service"]);
    rig.put(0, &tcp(4000, 81, Tcp::Rst, 0));
    assert_eq!(shown(&mut listener), ["rx0 54/54 drop no_service"]);
    let mut echo = Vec::new();
    let ping = PacketBuilder::ethernet2(ROUTER_MAC, PORT_MAC).ipv4(CLIENT, VIP, 64).icmpv4_echo_request(1, 1);
    ping.write(&mut echo, &[7; 20]).unwrap();
    rig.put(0, &echo);
    assert_eq!(shown(&mut listener), ["rx0 62/62 reply answered", "tx0 62/62 reply answered"]);
    let pieces = fragments(&echo, 16);
    rig.put(0, &pieces[0]);
    assert_eq!(shown(&mut listener).len(), 2);
    rig.put(0, &pieces[1]);
    assert_eq!(shown(&mut listener), ["rx0 46/46 reply answered", "tx0 46/46 reply answered"]);
    rig.put(0, &arp());
    assert_eq!(shown(&mut listener), ["rx0 58/58 punt"]);
    rig.workers[0].io().push(PortId(1), &arp(), RxMeta { port: PortId(1), ..RxMeta::default() });
    rig.run();
    assert_eq!(shown(&mut listener), ["rx1 58/58 pass"]);
    // A datagram in pieces: the last is held, and leaves with the first.
    let pieces = fragments(&udp(4000, 53, 64), 40);
    rig.put(0, &pieces[1]);
    assert_eq!(shown(&mut listener), ["rx0 66/66 hold"]);
    rig.put(0, &pieces[0]);
    assert_eq!(
        shown(&mut listener),
        [
            "rx0 74/74 encapsulate service 2 backend 1",
            "tx0 94/94 encapsulate service 2 backend 1",
            "tx0 86/86 encapsulate service 2 backend 1"
        ]
    );
    assert_eq!(listener.missed(), 0);
}

#[test]
fn a_port_that_is_full_and_a_backend_without_a_way_are_drops() {
    let mut view = with_exception();
    view.ports.truncate(1);
    let mut rig = Rig::new(1, view);
    let mut listener = listen(&mut rig, CaptureFilter::default(), 64, 2048);
    rig.workers[0].io().tx_room = 0;
    rig.put(0, &tcp(4000, 80, Tcp::Syn, 0));
    assert_eq!(shown(&mut listener), ["rx0 54/54 drop tx_full service 1 backend 0"]);
    let unresolved = Spec { resolved: false, ..Spec::web(1) };
    let mut rig = Rig::new(1, rig::view(1, &[unresolved]));
    let mut listener = listen(&mut rig, CaptureFilter::default(), 64, 2048);
    rig.put(0, &tcp(4000, 80, Tcp::Syn, 0));
    assert_eq!(shown(&mut listener), ["rx0 54/54 drop no_neighbour service 1 backend 0"]);
}

#[test]
fn only_what_is_wanted_is_shown() {
    let specs =
        [Spec::web(1), Spec { port: 53, protocol: UDP, states: vec![BackendState::Down], ..Spec::web(1) }];
    let client = Some(IpAddr::from(CLIENT).into());
    let other = Some(IpAddr::from([9, 9, 9, 9]).into());
    for (filter, expected) in [
        (
            CaptureFilter { service: Some(ServiceId(1)), ..CaptureFilter::default() },
            vec!["encapsulate", "encapsulate"],
        ),
        (CaptureFilter { service: Some(ServiceId(2)), ..CaptureFilter::default() }, vec!["reply", "reply"]),
        (
            CaptureFilter { reason: Some(DropReason::NoService), ..CaptureFilter::default() },
            vec!["reply", "reply"],
        ),
        (CaptureFilter { reason: Some(DropReason::NoNeighbour), ..CaptureFilter::default() }, vec![]),
        (CaptureFilter { client: other, ..CaptureFilter::default() }, vec![]),
        (
            CaptureFilter { client, ..CaptureFilter::default() },
            vec!["encapsulate", "encapsulate", "reply", "reply", "reply", "reply"],
        ),
    ] {
        let mut rig = Rig::new(1, view(1, &specs));
        let mut listener = listen(&mut rig, filter, 64, 2048);
        rig.put(0, &tcp(4000, 80, Tcp::Syn, 0));
        rig.put(0, &tcp(4000, 81, Tcp::Syn, 0));
        rig.put(0, &udp(4000, 53, 8));
        rig.put(0, &arp());
        let mut actions = Vec::new();
        while let Some(copy) = listener.take() {
            actions.push(copy.end.action);
        }
        assert_eq!(actions, expected, "{filter:?}");
        assert_eq!(listener.missed(), 0);
    }
}

#[test]
fn what_is_wanted_is_found_behind_full_bursts() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(1)]));
    let client = Some(IpAddr::from([9, 9, 9, 9]).into());
    let mut listener = listen(&mut rig, CaptureFilter { client, ..CaptureFilter::default() }, 64, 64);
    let mut wanted = tcp(4000, 80, Tcp::Syn, 0);
    wanted[26..30].copy_from_slice(&[9; 4]);
    wanted[24..26].copy_from_slice(&[0; 2]);
    let sum: u32 = wanted[14..34].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    wanted[24..26].copy_from_slice(&sum.to_be_bytes());
    for _ in 0..5 * BURST {
        rig.workers[0].io().push(PortId(0), &tcp(4000, 80, Tcp::Syn, 0), RxMeta::default());
    }
    rig.workers[0].io().push(PortId(0), &wanted, RxMeta::default());
    rig.run();
    assert_eq!((shown(&mut listener).len(), listener.missed()), (2, 0));
}

#[test]
fn copies_are_cut_and_what_does_not_fit_is_counted() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(1)]));
    let mut listener = listen(&mut rig, CaptureFilter::default(), 3, 64);
    let frames: Vec<Vec<u8>> = (0..4).map(|n| tcp(4000 + n, 80, Tcp::Syn, 100)).collect();
    rig.put_all(0, &frames);
    // The second frame's copy as sent, and both of the third and the fourth frame, had no room; all four were carried.
    assert_eq!(
        shown(&mut listener),
        [
            "rx0 64/154 encapsulate service 1 backend 0",
            "tx0 64/174 encapsulate service 1 backend 0",
            "rx0 64/154 encapsulate service 1 backend 0"
        ]
    );
    assert_eq!(listener.missed(), 3);
    assert_eq!(rig.counters[0].backend(BackendId(0)).unwrap().packets.get(), 4);
    // There is room again.
    rig.put(0, &frames[0]);
    assert_eq!(shown(&mut listener).len(), 2);
    // Without any the burst is carried as ever, and missed.
    let (tap, mut listener) = tap(CaptureFilter::default(), 1, 64);
    set(&mut rig, Some(tap));
    rig.put_all(0, &frames[..1]);
    rig.put_all(0, &frames);
    assert_eq!(listener.missed(), 1 + 4);
    // Of bursts that come at once, too.
    for frame in frames.iter().cycle().take(5 * BURST) {
        rig.workers[0].io().push(PortId(0), frame, RxMeta::default());
    }
    rig.run();
    assert_eq!(listener.missed(), 1 + 4 + 5 * BURST as u64);
    assert_eq!(shown(&mut listener).len(), 1);
    assert_eq!(
        rig.counters[0].backend(BackendId(0)).unwrap().packets.get(),
        4 + 1 + 1 + 4 + 5 * BURST as u64
    );
}

#[test]
fn a_tap_comes_home_and_a_new_one_takes_its_place() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(1)]));
    let mut first = listen(&mut rig, CaptureFilter::default(), 8, 64);
    let (second, mut heard) = tap(CaptureFilter::default(), 8, 64);
    assert!(set(&mut rig, Some(second)).is_some(), "the first comes home");
    rig.put(0, &tcp(4000, 80, Tcp::Syn, 0));
    assert_eq!((shown(&mut first).len(), shown(&mut heard).len()), (0, 2));
    // Control is gone: what it does not take is missed, and nothing else happens.
    drop(heard);
    for n in 0..20 {
        assert_eq!(rig.put(0, &tcp(4000 + n, 80, Tcp::Syn, 0)).0.len(), 1);
    }
    assert!(set(&mut rig, None).is_some());
    assert!(set(&mut rig, None).is_none());
    assert_eq!(rig.put(0, &tcp(4000, 80, Tcp::Syn, 0)).0.len(), 1);
}

#[test]
fn a_worker_allocates_nothing_for_a_capture() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(1)]));
    let (tap, mut listener) = tap(CaptureFilter::default(), 256, 2048);
    rig.commanders[0].send(Command::Capture(Some(tap)), rig.now).unwrap();
    // What the test's own back end keeps.
    rig.workers[0].io().outcomes.reserve(4 * BURST);
    let now = rig.now;
    for command in [None, Some(Command::Capture(None))] {
        for _ in 0..BURST {
            rig.workers[0].io().push(PortId(0), &tcp(4000, 81, Tcp::Rst, 0), RxMeta::default());
        }
        if let Some(command) = command {
            rig.commanders[0].send(command, now).unwrap();
        }
        let worker = &mut rig.workers[0];
        let allocated = measure(|| {
            worker.turn(now);
        });
        assert_eq!(allocated.count_total, 0);
    }
    assert!(rig.commanders[0].collect().unwrap().former.is_none());
    assert!(rig.commanders[0].collect().unwrap().former.is_some());
    assert_eq!(shown(&mut listener).len(), BURST, "of the first turn");
}

#[test]
fn a_held_fragment_is_shown_again_when_it_is_dropped() {
    let mut rig = Rig::new(1, with_exception());
    let reason = Some(DropReason::FragmentTimeout);
    let mut all = listen(&mut rig, CaptureFilter::default(), 64, 64);
    rig.put(0, &fragments(&udp(4000, 53, 64), 40)[1]);
    rig.advance_ms(60_000);
    rig.run();
    assert_eq!(shown(&mut all), ["rx0 64/66 hold", "rx0 64/66 drop fragment_timeout"]);
    let (tap, mut dropped) = tap(CaptureFilter { reason, ..CaptureFilter::default() }, 64, 64);
    set(&mut rig, Some(tap));
    rig.put(0, &fragments(&udp(4000, 53, 64), 40)[1]);
    rig.advance_ms(60_000);
    rig.run();
    assert_eq!(shown(&mut dropped), ["rx0 64/66 drop fragment_timeout"]);
}

/// Whoever sends more fragments of one datagram than a capture has places costs it copies of those, and nothing else.
#[test]
fn a_datagram_of_many_fragments_takes_no_copies_away() {
    for reason in [None, Some(DropReason::NoService)] {
        let mut rig = Rig::new(1, with_exception());
        let mut listener = listen(&mut rig, CaptureFilter { reason, ..CaptureFilter::default() }, 256, 64);
        let pieces = fragments(&udp(4000, 53, 8 * 60), 8);
        assert!(pieces.len() > 2 * BURST - 8, "{}", pieces.len());
        for round in 1..=3_u64 {
            for piece in pieces.iter().skip(1).chain([&pieces[0]]) {
                rig.put(0, piece);
            }
            assert_eq!(rig.counters[0].totals.held.get(), 0);
            let shown = shown(&mut listener);
            let sent = shown.iter().filter(|copy| copy.starts_with("tx")).count();
            assert_eq!((shown.is_empty(), sent), if reason.is_none() { (false, BURST) } else { (true, 0) });
            // One as sent for each piece; as many as there are places with the one as received.
            assert_eq!(listener.missed(), round * (pieces.len() - BURST) as u64);
            rig.advance_ms(60_000);
        }
    }
}

#[test]
fn a_fragment_that_makes_room_for_another_is_shown_again() {
    let mut rig = Rig::new(1, with_exception());
    let mut listener = listen(&mut rig, CaptureFilter::default(), 2048, 64);
    let piece = fragments(&udp(4000, 53, 64), 40).remove(1);
    let of_source = |host: u8, id: u16| {
        let mut piece = piece.clone();
        piece[29] = host;
        piece[18..20].copy_from_slice(&id.to_be_bytes());
        let bits = u16::from_be_bytes([piece[20], piece[21]]);
        set_fragment_bits(&mut piece, bits);
        piece
    };
    let full = u16::try_from(worker::fragments::HELD_MAX).unwrap();
    let sent: Vec<Vec<u8>> =
        (0..full).map(|id| of_source(7, id)).chain((0..8).map(|host| of_source(100 + host, 1))).collect();
    for frame in &sent {
        rig.put(0, frame);
    }
    let shown = shown(&mut listener);
    let count = |end: &str| shown.iter().filter(|copy| copy.ends_with(end)).count();
    let dropped = rig.drops(DropReason::FragmentStoreFull);
    assert!(dropped >= 8, "{dropped}");
    assert_eq!(count("drop fragment_store_full") as u64, dropped);
    // Every frame came once, and those that were held and dropped are shown twice.
    assert_eq!(count("hold") as u64, rig.counters[0].totals.held.get() + dropped);
    assert_eq!(count("hold"), sent.len());
}
