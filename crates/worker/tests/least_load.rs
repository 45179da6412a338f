//! Policy least-load, of a machine alone: who gets a new flow, and that no flow moves.

mod rig;

use rig::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use wire::BackendId;
use worker::counters::CLOSED_SOON_US;
use worker::decide::least_load::share;
use worker::view::loads::{Load, Loads};
use worker::view::{BackendState, LeastLoad, Overload, Policy, Select};
use worker::{BURST, DropReason, RxMeta, Verdict, View};

/// A service by load whose backends carry `capacity` flows each.
fn spec(states: &[BackendState], capacity: u32, select: Select, overload: Overload) -> Spec {
    let up = states.iter().filter(|state| **state == BackendState::Up).count();
    let policy =
        Policy::LeastLoad(Box::new(LeastLoad { select, overload, shares: vec![share(capacity, 1, 1); up] }));
    Spec { states: states.to_vec(), policy, ..Spec::web(0) }
}

const UP: BackendState = BackendState::Up;

fn by_load(generation: u64, states: &[BackendState], loads: &Arc<Loads>) -> View {
    let mut view = view(generation, &[spec(states, 100, Select::Min, Overload::Spread)]);
    view.loads = Arc::clone(loads);
    view
}

fn say(loads: &Loads, ppm: &[u32]) {
    for (id, &ppm) in (0..).map(BackendId).zip(ppm) {
        loads.set(id, Load { ppm, joining: false });
    }
    loads.publish();
}

fn by_table(view: &View, sport: u16) -> BackendId {
    let flow = wire::Tuple {
        src: wire::Addr::from(std::net::IpAddr::from(CLIENT)),
        dst: wire::Addr::from(std::net::IpAddr::from(VIP)),
        sport,
        dport: 80,
        protocol: TCP,
    };
    worker::decide::slots::place(view, &view.service[0], &flow, false).expect("a table")
}

#[test]
fn new_flows_go_to_the_least_loaded_backend_and_stay() {
    let loads = Arc::new(Loads::new(8));
    say(&loads, &[500_000, 0, 900_000]);
    let mut rig = Rig::new(1, by_load(1, &[UP; 3], &loads));
    let mut homes = BTreeMap::new();
    // 0.5 of 100 flows is what the second may take before it is level with the first.
    for sport in 1000..1050 {
        homes.insert(sport, backend_of(&rig.put(0, &tcp(sport, 80, Tcp::Syn, 0)).1));
        assert_eq!(homes[&sport], BackendId(1));
    }
    for sport in 1050..1060 {
        homes.insert(sport, backend_of(&rig.put(0, &tcp(sport, 80, Tcp::Syn, 0)).1));
    }
    assert_eq!((1050..1060).filter(|sport| homes[sport] == BackendId(0)).count(), 5, "then they alternate");
    say(&loads, &[0, 900_000, 900_000]);
    rig.advance_ms(1);
    for (&sport, &home) in &homes {
        assert_eq!(backend_of(&rig.put(0, &tcp(sport, 80, Tcp::Ack, 0)).1), home, "a flow stays");
        assert_eq!(backend_of(&rig.put(0, &tcp(sport, 80, Tcp::Syn, 0)).1), home, "its SYN, too");
    }
    assert_eq!(backend_of(&rig.put(0, &tcp(2000, 80, Tcp::Syn, 0)).1), BackendId(0));
    let flows = |id| rig.counters[0].flows_of(BackendId(id)).unwrap();
    assert_eq!([0, 1, 2].map(|id| flows(id).syns()), [6, 55, 0]);
    assert_eq!([0, 1, 2].map(|id| flows(id).handshakes.get()), [5, 55, 0]);
}

#[test]
fn who_takes_no_new_flows_is_never_picked() {
    let loads = Arc::new(Loads::new(8));
    say(&loads, &[0, 0, 0, 900_000]);
    let states = [BackendState::Down, BackendState::Draining, BackendState::Down, UP];
    let mut rig = Rig::new(1, by_load(1, &states, &loads));
    for sport in 1000..1200 {
        assert_eq!(backend_of(&rig.put(0, &tcp(sport, 80, Tcp::Syn, 0)).1), BackendId(3));
    }
    rig.publish(by_load(2, &[UP, BackendState::Down, UP, BackendState::Draining], &loads));
    for sport in 2000..2200 {
        assert!([0, 2].contains(&backend_of(&rig.put(0, &tcp(sport, 80, Tcp::Syn, 0)).1).0));
    }
    rig.publishers[0].collect();
    rig.publish(by_load(3, &[BackendState::Down; 4], &loads));
    dropped(&rig.put(0, &tcp(3000, 80, Tcp::Syn, 0)).1, DropReason::NoBackend);
}

/// Packets of one burst, among them two of one flow: the first places it.
#[test]
fn two_packets_of_a_burst_are_one_flow() {
    let loads = Arc::new(Loads::new(8));
    let mut rig = Rig::new(1, by_load(1, &[UP; 4], &loads));
    for round in 0..20_u16 {
        for n in 0..BURST as u16 {
            let kind = if n < 16 { Tcp::Syn } else { Tcp::Ack };
            let frame = tcp(1000 + round * 16 + n % 16, 80, kind, 0);
            let meta = RxMeta { index: u32::from(n), ..RxMeta::default() };
            rig.workers[0].io().push(wire::PortId(0), &frame, meta);
        }
        let outcomes = rig.run().1;
        assert_eq!(outcomes.len(), BURST);
        let mut homes = BTreeMap::new();
        for (meta, outcome) in outcomes {
            assert_eq!(outcome.verdict, Verdict::Sent);
            let home = homes.entry(meta.index % 16).or_insert(outcome.backend);
            assert_eq!(*home, outcome.backend);
        }
    }
    let flows: Vec<u64> =
        (0..4).map(|id| rig.counters[0].flows_of(BackendId(id)).unwrap().flows.get()).collect();
    assert_eq!(flows, [80; 4], "and all have the same share");
}

#[test]
fn tcp_in_the_middle_goes_by_the_table_on_any_worker() {
    let loads = Arc::new(Loads::new(8));
    say(&loads, &[0, 500_000, 500_000]);
    let reference = by_load(1, &[UP; 3], &loads);
    for core in 0..2 {
        let mut rig = Rig::new(2, by_load(1, &[UP; 3], &loads));
        for sport in 1000..1100 {
            let home = backend_of(&rig.put(core, &tcp(sport, 80, Tcp::Ack, 0)).1);
            assert_eq!(home, by_table(&reference, sport));
            let syns: u64 = (0..3).map(|id| rig.counters[core].flows_of(BackendId(id)).unwrap().syns()).sum();
            assert_eq!(syns, 0);
        }
    }
}

/// A NIC that chooses another queue moves no flow, not even one of which only the SYN was seen.
#[test]
fn other_workers_are_asked_first() {
    let loads = Arc::new(Loads::new(8));
    let mut rig = Rig::new(3, by_load(1, &[UP; 5], &loads));
    for sport in 1000..1100_u16 {
        let home = backend_of(&rig.put(usize::from(sport) % 3, &tcp(sport, 80, Tcp::Syn, 0)).1);
        for (core, kind) in [(1, Tcp::Syn), (2, Tcp::Syn), (0, Tcp::Ack), (2, Tcp::Ack)] {
            assert_eq!(backend_of(&rig.put(core, &tcp(sport, 80, kind, 0)).1), home);
        }
    }
}

#[test]
fn a_flow_for_which_there_is_no_room_of_its_own_goes_by_the_table() {
    let loads = Arc::new(Loads::new(8));
    say(&loads, &[0, 900_000, 900_000]);
    let mut rig = Rig::new(1, by_load(1, &[UP; 3], &loads));
    let reference = by_load(1, &[UP; 3], &loads);
    let (mut refused, mut placed) = (0, 0);
    for sport in 1000..4000 {
        let crowded = |rig: &Rig| {
            let totals = &rig.counters[0].totals;
            totals.flow_refused.get() + totals.flow_displaced.get()
        };
        let before = crowded(&rig);
        let home = backend_of(&rig.put(0, &tcp(sport, 80, Tcp::Syn, 0)).1);
        if crowded(&rig) > before {
            refused += 1;
            assert_eq!(home, by_table(&reference, sport));
            assert_eq!(
                backend_of(&rig.put(0, &tcp(sport, 80, Tcp::Ack, 0)).1),
                home,
                "and so does what follows"
            );
        } else {
            placed += 1;
        }
    }
    assert!(refused > 500 && placed >= 500, "{refused} {placed}");
}

#[test]
fn udp_begins_with_its_first_packet() {
    let loads = Arc::new(Loads::new(8));
    say(&loads, &[900_000, 0, 900_000]);
    let spec = Spec { port: 53, protocol: UDP, ..spec(&[UP; 3], 100, Select::Min, Overload::Spread) };
    let mut first = view(1, &[spec]);
    first.loads = Arc::clone(&loads);
    let mut rig = Rig::new(2, first);
    for sport in 1000..1050 {
        let home = backend_of(&rig.put(0, &udp(sport, 53, 9)).1);
        assert_eq!(home, BackendId(1));
        assert_eq!(backend_of(&rig.put(1, &udp(sport, 53, 9)).1), home);
    }
}

#[test]
fn a_full_service_spreads_or_rejects() {
    for overload in [Overload::Spread, Overload::Reject] {
        let loads = Arc::new(Loads::new(8));
        say(&loads, &[1_000_000, 995_000]);
        let mut first = view(1, &[spec(&[UP; 2], 1000, Select::Min, overload)]);
        first.loads = Arc::clone(&loads);
        let mut rig = Rig::new(1, first);
        for sport in 1000..1005 {
            assert_eq!(backend_of(&rig.put(0, &tcp(sport, 80, Tcp::Syn, 0)).1), BackendId(1));
        }
        let (sent, outcomes) = rig.put(0, &tcp(2000, 80, Tcp::Syn, 0));
        assert_eq!(sent.len(), 1);
        let web = wire::ServiceId(1);
        if overload == Overload::Spread {
            assert!(backend_of(&outcomes).0 < 2);
            assert_eq!(rig.counters[0].overload(web).unwrap().get(), 0);
            continue;
        }
        dropped(&outcomes, DropReason::Overload);
        assert_eq!(sent[0][47], 0x14, "answered as on_empty says: RST and ACK");
        assert_eq!(rig.counters[0].overload(web).unwrap().get(), 1);
        assert_eq!(rig.counters[0].service(web).unwrap().no_backend.get(), 0);
        assert_eq!(backend_of(&rig.put(0, &tcp(1000, 80, Tcp::Ack, 0)).1), BackendId(1), "old flows live on");
        say(&loads, &[1_000_000, 990_000]);
        rig.advance_ms(1);
        assert_eq!(backend_of(&rig.put(0, &tcp(2000, 80, Tcp::Syn, 0)).1), BackendId(1));
    }
}

#[test]
fn a_backend_that_joins_gets_no_two_flows_in_a_row() {
    for select in [Select::Min, Select::TwoChoices] {
        let loads = Arc::new(Loads::new(8));
        say(&loads, &[0, 900_000, 900_000]);
        loads.set(BackendId(0), Load { ppm: 0, joining: true });
        let mut first = view(1, &[spec(&[UP; 3], 1_000_000, select, Overload::Spread)]);
        first.loads = Arc::clone(&loads);
        let mut rig = Rig::new(1, first);
        let homes: Vec<u32> =
            (1000..1200).map(|sport| backend_of(&rig.put(0, &tcp(sport, 80, Tcp::Syn, 0)).1).0).collect();
        assert!(homes.windows(2).all(|two| two != [0, 0]), "{select:?} {homes:?}");
        assert!(homes.iter().filter(|home| **home == 0).count() > 50);
        rig.publish(by_load(2, &[UP, BackendState::Down, BackendState::Down], &loads));
        for sport in 2000..2010 {
            assert_eq!(
                backend_of(&rig.put(0, &tcp(sport, 80, Tcp::Syn, 0)).1).0,
                0,
                "unless it is the only one"
            );
        }
    }
}

#[test]
fn a_handshake_counts_once() {
    let loads = Arc::new(Loads::new(8));
    for policy in [Policy::Maglev, spec(&[UP], 100, Select::Min, Overload::Spread).policy] {
        let mut first = view(1, &[Spec { policy, ..Spec::web(1) }]);
        first.loads = Arc::clone(&loads);
        let mut rig = Rig::new(1, first);
        rig.put(0, &tcp(7, 80, Tcp::Syn, 0));
        rig.put(0, &tcp(7, 80, Tcp::Syn, 0));
        // The ACK and what the client asks for, in one burst.
        for (index, size) in [(1, 0), (2, 30)] {
            let meta = RxMeta { index, ..RxMeta::default() };
            rig.workers[0].io().push(wire::PortId(0), &tcp(7, 80, Tcp::Ack, size), meta);
        }
        rig.run();
        rig.put(0, &tcp(7, 80, Tcp::Ack, 9));
        // Given up without an answer.
        rig.put(0, &tcp(8, 80, Tcp::Syn, 0));
        rig.put(0, &tcp(8, 80, Tcp::Rst, 0));
        let of = rig.counters[0].flows_of(BackendId(0)).unwrap();
        assert_eq!((of.syns(), of.handshakes.get()), (2, 1));
    }
}

#[test]
fn a_clients_close_counts_once_and_apart_if_it_is_soon() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(1)]));
    let ends = |rig: &Rig| {
        let of = rig.counters[0].ends(BackendId(0)).unwrap();
        (of.closes.get(), of.soon.get())
    };
    let begins = |rig: &mut Rig, sport: u16| {
        rig.put(0, &tcp(sport, 80, Tcp::Syn, 0));
        rig.put(0, &tcp(sport, 80, Tcp::Ack, 0));
        rig.put(0, &tcp(sport, 80, Tcp::Ack, 30));
    };
    // FIN, again, and the RST with which some clients go on.
    begins(&mut rig, 7);
    assert_eq!(ends(&rig), (0, 0));
    for flags in [Tcp::Fin, Tcp::Fin, Tcp::Rst] {
        rig.put(0, &tcp(7, 80, flags, 0));
        assert_eq!(ends(&rig), (1, 1));
    }
    // One that closes as soon as it is connected.
    rig.put(0, &tcp(8, 80, Tcp::Syn, 0));
    rig.put(0, &tcp(8, 80, Tcp::Ack, 0));
    rig.put(0, &tcp(8, 80, Tcp::Fin, 0));
    assert_eq!(ends(&rig), (2, 2));
    // One that gives up without an answer closes nothing.
    rig.put(0, &tcp(9, 80, Tcp::Syn, 0));
    rig.put(0, &tcp(9, 80, Tcp::Rst, 0));
    assert_eq!(ends(&rig), (2, 2));
    // One that stays for longer.
    begins(&mut rig, 10);
    rig.advance_ms(CLOSED_SOON_US / 1000 + 2);
    rig.put(0, &tcp(10, 80, Tcp::Rst, 0));
    assert_eq!(ends(&rig), (3, 2));
}
