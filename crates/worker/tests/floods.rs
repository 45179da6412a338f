//! What becomes of honest flows while others use up what they share, and how entries end.

mod rig;

use rig::*;
use std::sync::Arc;
use wire::BackendId;
use worker::View;
use worker::decide::least_load::share;
use worker::view::loads::Loads;
use worker::view::{BackendState, LeastLoad, Overload, Policy, Select};

const FLOWS: usize = 65_536;
/// Packets of a flood: 30,000 a second for 12 seconds, and honest flows after it.
const RATE: u32 = 30_000;
const FLOOD_S: u32 = 12;
const HONEST: u16 = 500;

fn tcp_of(source: u32, sport: u16, kind: Tcp) -> Vec<u8> {
    from(source, tcp(sport, 80, kind, 0))
}

/// The frame of IPv4 from another client.
fn from(source: u32, mut frame: Vec<u8>) -> Vec<u8> {
    frame[26..30].copy_from_slice(&(0x1400_0000 | source).to_be_bytes());
    set_fragment_bits(&mut frame, 0x4000);
    frame
}

fn by_load(protocol: u8, port: u16, states: &[BackendState], capacity: u32, overload: Overload) -> Spec {
    let up = states.iter().filter(|state| **state == BackendState::Up).count();
    let shares = vec![share(capacity, 1, 1); up];
    let policy = Policy::LeastLoad(Box::new(LeastLoad { select: Select::Min, overload, shares }));
    Spec { protocol, port, states: states.to_vec(), policy, ..Spec::web(0) }
}

/// Service 1: TCP by Maglev; 2: UDP by load; 3: UDP by Maglev. Three backends each, of which the first takes new flows or not.
fn three(generation: u64, first: BackendState, loads: &Arc<Loads>) -> View {
    let states = [first, BackendState::Up, BackendState::Up];
    let web = Spec { states: states.to_vec(), ..Spec::web(0) };
    let dns = Spec { protocol: UDP, port: 53, states: states.to_vec(), ..Spec::web(0) };
    let mut view = view(generation, &[web, by_load(UDP, 5000, &states, 100_000, Overload::Spread), dns]);
    view.loads = Arc::clone(loads);
    view
}

/// A flow of three packets, and more: which backend each went to.
fn packets(rig: &mut Rig, sport: u16, udp_port: Option<u16>, nth: usize) -> BackendId {
    let frame = match (udp_port, nth) {
        (Some(port), _) => udp(sport, port, 40),
        (None, 0) => tcp(sport, 80, Tcp::Syn, 0),
        (None, 1) => tcp(sport, 80, Tcp::Ack, 0),
        (None, _) => tcp(sport, 80, Tcp::Ack, 100),
    };
    backend_of(&rig.put(0, &frame).1)
}

enum Flood {
    Syns,
    Pairs,
    Datagrams(u16),
}

fn flood(rig: &mut Rig, kind: &Flood) {
    let each_turn = 30;
    for turn in 0..RATE * FLOOD_S / each_turn {
        let frames: Vec<Vec<u8>> = (0..each_turn)
            .map(|n| {
                let number = turn * each_turn + n;
                match kind {
                    Flood::Syns => tcp_of(number, 1000, Tcp::Syn),
                    // The ACK is as right as a guess can be.
                    Flood::Pairs => {
                        tcp_of(number / 2, 1000, if number % 2 == 0 { Tcp::Syn } else { Tcp::Ack })
                    }
                    Flood::Datagrams(port) => from(number, udp(1000, *port, 40)),
                }
            })
            .collect();
        rig.put_all(0, &frames);
        rig.now = wire::Tick(rig.now.0 + 1_000_000 * u64::from(each_turn) / u64::from(RATE));
    }
}

/// A flood, then honest flows of three packets each, then a drain; and once more three quarters of a minute later.
#[test]
fn honest_flows_stay_after_any_flood() {
    for kind in [Flood::Syns, Flood::Pairs, Flood::Datagrams(53), Flood::Datagrams(5000)] {
        let loads = Arc::new(Loads::new(16));
        let mut rig = Rig::with_flows(1, FLOWS, three(1, BackendState::Up, &loads));
        flood(&mut rig, &kind);
        let mut generation = 1;
        for wait_ms in [0, 45_000] {
            for _ in 0..wait_ms / 100 {
                rig.advance_ms(100);
                rig.run();
            }
            let base = 2000 + 1000 * u16::try_from(generation).unwrap();
            let flows: Vec<(u16, Option<u16>)> =
                (0..HONEST).flat_map(|n| [None, Some(5000), Some(53)].map(|port| (base + n, port))).collect();
            let homes: Vec<[BackendId; 3]> = flows
                .iter()
                .map(|&(sport, port)| {
                    let homes = [0, 1, 2].map(|nth| packets(&mut rig, sport, port, nth));
                    rig.advance_ms(1);
                    homes
                })
                .collect();
            generation += 1;
            rig.publish(three(generation, BackendState::Draining, &loads));
            for (name, port) in [("TCP", None), ("UDP by load", Some(5000)), ("UDP by Maglev", Some(53))] {
                let of_it = flows.iter().zip(&homes).filter(|((_, of), _)| *of == port);
                let moved = of_it
                    .filter(|((sport, port), homes)| {
                        let after = packets(&mut rig, *sport, *port, 3);
                        homes.iter().any(|home| *home != after)
                    })
                    .count();
                assert!(moved * 100 <= usize::from(HONEST), "{name}: {moved} of {HONEST} moved");
            }
            generation += 1;
            rig.publishers[0].collect();
            rig.publish(three(generation, BackendState::Up, &loads));
            rig.run();
            rig.publishers[0].collect();
        }
        assert!(rig.counters[0].totals.flow_displaced.get() > 0);
    }
}

/// More clients than there is room for begin at once, and come back a second later, and again: those that found no room stay where they went
/// without.
#[test]
fn datagrams_by_load_stay_where_they_are_when_there_is_no_room() {
    let loads = Arc::new(Loads::new(16));
    let mut rig = Rig::with_flows(1, 4096, three(1, BackendState::Up, &loads));
    let mut homes = Vec::new();
    for round in 0..3 {
        for client in 0..2500_u32 {
            let home = backend_of(&rig.put(0, &from(client, udp(1000, 5000, 40))).1);
            if round == 0 {
                homes.push(home);
            } else {
                assert_eq!(home, homes[client as usize], "client {client} in round {round}");
            }
        }
        rig.advance_ms(1000);
    }
}

/// A service of a thousand one-packet flows a second moves no flow of another service.
#[test]
fn a_busy_service_of_single_datagrams_moves_no_flow_of_another() {
    let loads = Arc::new(Loads::new(16));
    let mut rig = Rig::with_flows(1, 4096, three(1, BackendState::Up, &loads));
    let mut number = 0;
    let mut dns = |rig: &mut Rig, ms: u64| {
        for _ in 0..ms {
            number += 1;
            rig.put(0, &from(number, udp(1000, 53, 40)));
            rig.advance_ms(1);
        }
    };
    dns(&mut rig, 20_000);
    let mut homes = [BackendId(0); 100];
    for round in 0..10 {
        for (sport, home) in (5000..).zip(&mut homes) {
            let now = packets(&mut rig, sport, Some(5000), 0);
            if round == 0 {
                *home = now;
            }
            assert_eq!(now, *home, "flow {sport} in round {round}");
            dns(&mut rig, 17);
        }
    }
}

/// Nothing of one service's flood refuses another's traffic: what has no entry is not charged.
#[test]
fn a_flow_without_an_entry_uses_up_no_capacity() {
    let loads = Arc::new(Loads::new(16));
    let states = [BackendState::Up; 2];
    let mut first = view(
        1,
        &[
            by_load(UDP, 5000, &states, 100, Overload::Reject),
            Spec { protocol: UDP, port: 53, ..Spec::web(2) },
        ],
    );
    first.loads = Arc::clone(&loads);
    let mut rig = Rig::with_flows(1, 4096, first);
    let flood: Vec<Vec<u8>> = (0..3000).map(|number| from(number, udp(1000, 53, 40))).collect();
    rig.put_all(0, &flood);
    let homes: Vec<BackendId> = (0..400).map(|_| packets(&mut rig, 5000, Some(5000), 0)).collect();
    assert!(homes.iter().all(|home| *home == homes[0]));
    assert_eq!(rig.counters[0].overload(wire::ServiceId(1)).unwrap().get(), 0);
}

/// Who floods is named: by what is dropped, and by new flows that find no room.
#[test]
fn who_floods_is_named() {
    let mut rig = Rig::with_flows(1, 4096, view(1, &[Spec::web(1)]));
    let to_a_closed_port: Vec<Vec<u8>> = (0..4000).map(|n| from(3, udp(n, 99, 40))).collect();
    rig.put_all(0, &to_a_closed_port);
    let new: Vec<Vec<u8>> = (0..8000).map(|n| tcp_of(9, n, Tcp::Syn)).collect();
    rig.put_all(0, &new);
    let known: Vec<Vec<u8>> = (0..8000).map(|_| tcp_of(5, 7, Tcp::Ack)).collect();
    rig.put_all(0, &known);
    let mut named: Vec<_> = rig.counters[0].sources.busiest().map(|(source, _)| source).collect();
    named.sort();
    assert_eq!(named, [3, 9].map(|source| wire::Addr::V4(0x1400_0000 | source)));
}

/// A service with one backend, whose flow has been established; what was lost and found is in the worker's counters.
fn established() -> Rig {
    let mut rig = Rig::new(1, view(1, &[Spec::web(1)]));
    for nth in 0..3 {
        packets(&mut rig, 7, None, nth);
    }
    rig
}

fn is_known(rig: &mut Rig, kind: Tcp, payload: usize) -> bool {
    let misses = rig.counters[0].totals.flow_misses.get();
    rig.put(0, &tcp(7, 80, kind, payload));
    rig.counters[0].totals.flow_misses.get() == misses
}

fn wait(rig: &mut Rig, seconds: u64) {
    for _ in 0..10 * seconds {
        rig.advance_ms(100);
        rig.run();
    }
}

#[test]
fn a_reset_ends_a_flow_unless_it_goes_on() {
    let mut rig = established();
    assert!(is_known(&mut rig, Tcp::Rst, 0));
    wait(&mut rig, 1);
    assert!(is_known(&mut rig, Tcp::Ack, 100), "the reset was nobody's");
    wait(&mut rig, 40);
    assert!(is_known(&mut rig, Tcp::Ack, 100));
    assert!(is_known(&mut rig, Tcp::Rst, 0));
    wait(&mut rig, 40);
    assert!(!is_known(&mut rig, Tcp::Ack, 100), "this one was");
}

#[test]
fn a_half_closed_flow_is_kept_as_long_as_an_open_one() {
    for data in [0, 100] {
        let mut rig = established();
        let open = |rig: &Rig| rig.counters[0].flows_of(BackendId(0)).unwrap().flows.get();
        assert_eq!(open(&rig), 1);
        assert!(is_known(&mut rig, Tcp::Fin, 0));
        let ending = |rig: &Rig| rig.counters[0].ending(BackendId(0)).unwrap().get();
        assert_eq!((open(&rig), ending(&rig)), (0, 1), "most often it is the end");
        wait(&mut rig, 1);
        assert!(is_known(&mut rig, Tcp::Ack, data));
        assert_eq!(open(&rig), u64::from(data > 0), "data after a FIN: it was nobody's");
        wait(&mut rig, 40);
        assert!(is_known(&mut rig, Tcp::Ack, 0));
        wait(&mut rig, 1000);
        assert!(is_known(&mut rig, Tcp::Ack, 0));
        wait(&mut rig, 2000);
        assert_eq!((open(&rig), ending(&rig), rig.workers[0].flow_count()), (0, 0, 0));
    }
}

#[test]
fn what_ends_before_it_is_trusted_is_forgotten_soon() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(1)]));
    for kind in [Tcp::Syn, Tcp::Ack, Tcp::Rst] {
        rig.put(0, &tcp(7, 80, kind, 0));
    }
    assert_eq!(rig.counters[0].totals.flows_untrusted.get(), 1);
    wait(&mut rig, 90);
    assert_eq!(rig.workers[0].flow_count(), 0);
}

/// No new flow after a drain, however soon: a SYN is a retransmission only while nothing but SYNs was seen.
#[test]
fn a_new_connection_from_the_same_port_leaves_a_draining_backend_at_once() {
    for packets_before in [2, 3] {
        for wait_ms in [800, 20_000] {
            let loads = Arc::new(Loads::new(16));
            let mut rig = Rig::new(1, three(1, BackendState::Up, &loads));
            for sport in 1000..1400 {
                for nth in 0..packets_before {
                    packets(&mut rig, sport, None, nth);
                }
            }
            rig.publish(three(2, BackendState::Draining, &loads));
            rig.advance_ms(wait_ms);
            for sport in 1000..1400 {
                assert_ne!(packets(&mut rig, sport, None, 0), BackendId(0), "{sport} after {wait_ms} ms");
            }
        }
    }
}
