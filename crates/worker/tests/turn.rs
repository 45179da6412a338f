//! The turn, from frames in to frames out.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod rig;

use rig::*;
use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::sync::Arc;
use wire::BackendId;
use wire::encap::{Mode, SourcePrefix};
use worker::io::memory::MemIo;
use worker::view::mailbox::mailbox;
use worker::view::{BackendState, OnClosedPort, OnDown, OnEmpty, PortRole};
use worker::{Counters, DropReason, Outcome, RxMeta, Setup, Verdict, View, Worker};

#[test]
fn a_flow_keeps_its_backend_and_is_encapsulated() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(4)]));
    let frame = tcp(40_000, 80, Tcp::Syn, 0);
    let (sent, outcomes) = rig.put(0, &frame);
    let backend = backend_of(&outcomes);
    assert_eq!(sent.len(), 1);
    let last = u8::try_from(backend.0).unwrap();
    assert_eq!(sent[0][..6], [2, 0, 0, 0, 0, 0x21 + last]);
    assert_eq!(sent[0][6..12], PORT_MAC);
    assert_eq!(sent[0][23], 4, "IP in IP");
    assert_eq!(sent[0][30..34], [10, 0, 2, 21 + last]);
    assert_eq!(sent[0][34..], frame[14..], "the datagram travels untouched");
    for kind in [Tcp::Ack, Tcp::Fin, Tcp::Ack] {
        let (_, outcomes) = rig.put(0, &tcp(40_000, 80, kind, 10));
        assert_eq!(backend_of(&outcomes), backend);
    }
    assert_eq!(rig.counters[0].totals.flow_inserts.get(), 1);
    assert_eq!(rig.counters[0].totals.flow_hits.get(), 3);
    assert_eq!(rig.counters[0].backend(backend).unwrap().packets.get(), 4);
    assert_eq!(rig.counters[0].flows_of(backend).unwrap().flows.get(), 1);
}

#[test]
fn established_flows_outlive_a_change_of_the_table() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(4)]));
    let mut chosen = Vec::new();
    for sport in 1000..1200 {
        rig.put(0, &tcp(sport, 80, Tcp::Syn, 0));
        chosen.push(backend_of(&rig.put(0, &tcp(sport, 80, Tcp::Ack, 0)).1));
    }
    let mut changed = Spec::web(4);
    changed.states[1] = BackendState::Draining;
    rig.publish(view(2, &[changed]));
    for (sport, backend) in (1000..1200).zip(&chosen) {
        assert_eq!(backend_of(&rig.put(0, &tcp(sport, 80, Tcp::Ack, 0)).1), *backend);
    }
    for sport in 2000..2200 {
        assert_ne!(backend_of(&rig.put(0, &tcp(sport, 80, Tcp::Syn, 0)).1).0, 1);
    }
    assert_eq!(rig.counters[0].totals.generation.get(), 2);
    assert!(rig.publishers[0].collect().is_some(), "the old view came home");
}

#[test]
fn down_keeps_or_reselects() {
    for (on_down, keeps) in [(OnDown::Keep, true), (OnDown::Reselect, false)] {
        let mut rig = Rig::new(1, view(1, &[Spec::web(3)]));
        let flows: Vec<_> = (1000..1100)
            .map(|sport| {
                rig.put(0, &tcp(sport, 80, Tcp::Syn, 0));
                (sport, backend_of(&rig.put(0, &tcp(sport, 80, Tcp::Ack, 0)).1))
            })
            .collect();
        let mut spec = Spec::web(3);
        spec.states[0] = BackendState::Down;
        spec.on_down = on_down;
        rig.publish(view(2, &[spec]));
        for (sport, before) in &flows {
            let after = backend_of(&rig.put(0, &tcp(*sport, 80, Tcp::Ack, 0)).1);
            assert_eq!(after == *before, before.0 != 0 || keeps);
        }
    }
}

#[test]
fn a_syn_on_a_closing_flow_begins_anew() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(2)]));
    rig.put(0, &tcp(7, 80, Tcp::Syn, 0));
    rig.put(0, &tcp(7, 80, Tcp::Ack, 0));
    let old = backend_of(&rig.put(0, &tcp(7, 80, Tcp::Fin, 0)).1);
    let mut spec = Spec::web(2);
    spec.states[old.index()] = BackendState::Draining;
    rig.publish(view(2, &[spec]));
    assert_eq!(
        backend_of(&rig.put(0, &tcp(7, 80, Tcp::Ack, 0)).1),
        old,
        "the last ACK goes where the FIN went"
    );
    assert_ne!(backend_of(&rig.put(0, &tcp(7, 80, Tcp::Syn, 0)).1), old);
}

#[test]
fn a_repeated_syn_stays_on_a_leaving_backend_only_for_half_a_second() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(2)]));
    let old = backend_of(&rig.put(0, &tcp(7, 80, Tcp::Syn, 0)).1);
    let mut spec = Spec::web(2);
    spec.states[old.index()] = BackendState::Draining;
    rig.publish(view(2, &[spec]));
    assert_eq!(backend_of(&rig.put(0, &tcp(7, 80, Tcp::Syn, 0)).1), old);
    rig.advance_ms(2_000);
    assert_ne!(backend_of(&rig.put(0, &tcp(7, 80, Tcp::Syn, 0)).1), old);
}

#[test]
fn an_empty_service_resets_or_is_silent() {
    let mut empty = Spec::web(0);
    let mut rig = Rig::new(1, view(1, &[Spec::web(0)]));
    let (sent, outcomes) = rig.put(0, &tcp(7, 80, Tcp::Syn, 0));
    dropped(&outcomes, DropReason::NoBackend);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0][47], 0x14, "RST and ACK");
    assert_eq!(sent[0][42..46], 8_u32.to_be_bytes(), "acknowledges the SYN");
    empty.on_empty = OnEmpty::Drop;
    rig.publish(view(2, &[empty]));
    let (sent, outcomes) = rig.put(0, &tcp(7, 80, Tcp::Syn, 0));
    dropped(&outcomes, DropReason::NoBackend);
    assert!(sent.is_empty());
}

#[test]
fn a_closed_port_of_a_vip_resets_or_is_silent() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(1)]));
    let (sent, outcomes) = rig.put(0, &tcp(7, 81, Tcp::Syn, 0));
    dropped(&outcomes, DropReason::NoService);
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0][47], &sent[0][34..38]), (0x14, &[0, 81, 0, 7][..]), "RST and ACK from that port");
    assert_eq!((&sent[0][26..30], &sent[0][30..34]), (&VIP[..], &CLIENT[..]));
    let (sent, outcomes) = rig.put(0, &udp(7, 80, 4));
    dropped(&outcomes, DropReason::NoService);
    assert_eq!(sent[0][34..36], [3, 3], "port unreachable");
    let totals = &rig.counters[0].totals;
    assert_eq!((totals.originated.get(), totals.reset_sent.get()), (2, 2));
    // Never to a reset, to a later fragment, or to what quotes another packet.
    let (sent, outcomes) = rig.put(0, &tcp(7, 81, Tcp::Rst, 0));
    dropped(&outcomes, DropReason::NoService);
    assert!(sent.is_empty());
    let pieces = fragments(&udp(7, 81, 3000), 1000);
    let answers: usize = pieces.iter().map(|piece| rig.put(0, piece).0.len()).sum();
    assert_eq!(answers, 1, "to the first piece alone");
    rig.publish(View { on_closed_port: OnClosedPort::Drop, ..view(2, &[Spec::web(1)]) });
    for frame in [tcp(7, 81, Tcp::Syn, 0), udp(7, 80, 4)] {
        let (sent, outcomes) = rig.put(0, &frame);
        dropped(&outcomes, DropReason::NoService);
        assert!(sent.is_empty());
    }
}

#[test]
fn a_scan_of_closed_ports_is_answered_within_the_budget_of_its_source() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(1)]));
    let answers: usize = (0..3000).map(|port| rig.put(0, &tcp(7, 1000 + port, Tcp::Syn, 0)).0.len()).sum();
    assert_eq!(answers, 50);
    assert_eq!(rig.drops(DropReason::NoService), 3000);
    // Segments that get no answer take nothing from those that do.
    rig.advance_ms(1000);
    (0..3000).for_each(|port| assert!(rig.put(0, &tcp(7, 1000 + port, Tcp::Rst, 0)).0.is_empty()));
    assert_eq!(rig.put(0, &tcp(7, 81, Tcp::Syn, 0)).0.len(), 1);
}

#[test]
fn what_is_not_for_a_service_is_named_or_punted() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(1)]));
    dropped(&rig.put(0, &tcp(7, 81, Tcp::Syn, 0)).1, DropReason::NoService);
    dropped(&rig.put(0, &udp(7, 80, 0)).1, DropReason::NoService);
    let mut other = tcp(7, 80, Tcp::Syn, 0);
    other[33] = 99;
    set_fragment_bits(&mut other, 0x4000);
    let (sent, outcomes) = rig.put(0, &other);
    assert!(sent.is_empty());
    assert_eq!(outcomes[0].1.verdict, Verdict::Punted);
    dropped(&rig.put(0, &[0; 9]).1, DropReason::BadEthernet);
    let truncated = RxMeta { truncated: true, ..RxMeta::default() };
    dropped(&rig.put_with(0, &tcp(7, 80, Tcp::Syn, 0), truncated).1, DropReason::Truncated);
    let chained = RxMeta { multi_segment: true, ..RxMeta::default() };
    dropped(&rig.put_with(0, &tcp(7, 80, Tcp::Syn, 0), chained).1, DropReason::MultiSegment);
}

#[test]
fn an_unresolved_next_hop_drops_by_name() {
    let mut spec = Spec::web(1);
    spec.resolved = false;
    let mut rig = Rig::new(1, view(1, &[spec]));
    dropped(&rig.put(0, &tcp(7, 80, Tcp::Syn, 0)).1, DropReason::NoNeighbour);
}

#[test]
fn too_big_is_answered_or_cut() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(1)]));
    let mut frame = tcp(7, 80, Tcp::Ack, 1460);
    set_fragment_bits(&mut frame, 0x4000);
    let (sent, outcomes) = rig.put(0, &frame);
    dropped(&outcomes, DropReason::TooBig);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0][34..36], [3, 4]);
    assert_eq!(sent[0][40..42], 1480_u16.to_be_bytes());
    assert_eq!(sent[0][26..30], VIP);

    set_fragment_bits(&mut frame, 0);
    let (sent, outcomes) = rig.put(0, &frame);
    assert_eq!(outcomes.len(), 1);
    assert_eq!(outcomes[0].1.verdict, Verdict::Sent);
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|piece| piece.len() <= 1514));
    assert_eq!(rig.counters[0].totals.originated.get(), 2, "one answer, one piece");

    rig.workers[0].io().buffers = 1;
    dropped(&rig.put(0, &frame).1, DropReason::NoBuffer);
}

#[test]
fn a_full_transmit_queue_is_counted() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(1)]));
    rig.workers[0].io().tx_room = 0;
    dropped(&rig.put(0, &tcp(7, 80, Tcp::Syn, 0)).1, DropReason::TxFull);
}

#[test]
fn fragments_meet_in_any_order_and_on_any_worker() {
    let mut spec = Spec::web(4);
    spec.protocol = UDP;
    spec.port = 53;
    let mut rig = Rig::new(3, view(1, &[spec]));
    for sport in 100..140 {
        let whole = udp(sport, 53, 4000);
        let mut pieces = fragments(&whole, 1000);
        for piece in &mut pieces {
            piece[18..20].copy_from_slice(&sport.to_be_bytes());
            let bits = u16::from_be_bytes([piece[20], piece[21]]);
            set_fragment_bits(piece, bits);
        }
        let order = usize::from(sport) % 5;
        pieces.rotate_left(order);
        let mut sent = Vec::new();
        let mut backends = Vec::new();
        for (n, piece) in pieces.iter().enumerate() {
            let (out, outcomes) = rig.put(n % 3, piece);
            sent.extend(out);
            backends.extend(outcomes.iter().map(|(_, o)| (o.verdict, o.backend)));
        }
        assert_eq!(sent.len(), 5);
        assert_eq!(backends.len(), 5);
        assert!(backends.iter().all(|b| *b == backends[0] && b.0 == Verdict::Sent));
        let (_, outcomes) = rig.put(1, &udp(sport, 53, 10));
        assert_eq!(Some(backend_of(&outcomes)), backends[0].1, "whole datagrams of the flow go the same way");
    }
    assert!(rig.counters.iter().map(|c| c.totals.ring_out.get()).sum::<u64>() > 0);
}

#[test]
fn a_flow_keeps_its_outer_source_and_flows_have_many() {
    let prefix = SourcePrefix::new([10, 9, 0, 0].into(), 16).unwrap();
    let spec = |port, protocol, mode| Spec { port, protocol, mode, sources: Some(prefix), ..Spec::web(2) };
    let mut rig = Rig::new(
        2,
        view(1, &[spec(80, TCP, Mode::Ipip), spec(53, UDP, Mode::Gre), spec(81, TCP, Mode::Gue)]),
    );
    let sources = |sent: &[Vec<u8>]| -> Vec<[u8; 4]> {
        sent.iter().map(|frame| frame[26..30].try_into().unwrap()).collect()
    };
    let mut all = BTreeSet::new();
    for sport in 1000..1400 {
        let mut of_flow = BTreeSet::new();
        for (core, kind, len) in
            [(0, Tcp::Syn, 0), (0, Tcp::Ack, 0), (1, Tcp::Ack, 900), (0, Tcp::Ack, 7), (0, Tcp::Fin, 0)]
        {
            of_flow.extend(sources(&rig.put(core, &tcp(sport, 80, kind, len)).0));
        }
        assert_eq!(of_flow.len(), 1, "{sport}: {of_flow:?}");
        all.append(&mut of_flow);
        // Short and padded, long, with a tag: of one flow. Its fragments have no ports, but for the first: one source for all of them.
        let short = udp(sport, 53, 1);
        let padded = [&short[..], &[0; 20]].concat();
        let tagged = [&short[..12], &[0x81, 0, 0, 5], &short[12..]].concat();
        for frame in [short, padded, udp(sport, 53, 1200)] {
            of_flow.extend(sources(&rig.put(0, &frame).0));
        }
        of_flow.extend(sources(&rig.put(0, &tagged).0.iter().map(|f| f[4..].to_vec()).collect::<Vec<_>>()));
        assert_eq!(of_flow.len(), 1, "{sport}: {of_flow:?}");
        all.append(&mut of_flow);
        for piece in fragments(&udp(sport, 53, 3000), 1000) {
            of_flow.extend(sources(&rig.put(0, &piece).0));
        }
        assert_eq!(of_flow.len(), 1, "{sport}: {of_flow:?}");
    }
    assert!(all.iter().all(|source| source[..2] == [10, 9]));
    // 800 balls in 65,536 bins.
    assert!(all.len() > 780, "{}", all.len());
    let (sent, _) = rig.put(0, &tcp(7, 81, Tcp::Syn, 0));
    assert_eq!(sources(&sent), [[10, 0, 2, 11]], "UDP has ports for that");
}

#[test]
fn a_fragment_id_used_again_names_another_datagram() {
    let mut spec = Spec::web(4);
    spec.protocol = UDP;
    spec.port = 53;
    let mut rig = Rig::new(1, view(1, &[spec]));
    let whole: Vec<BackendId> =
        (100..140).map(|sport| backend_of(&rig.put(0, &udp(sport, 53, 9)).1)).collect();
    let backends = |outcomes: Vec<(RxMeta, Outcome)>| -> Vec<BackendId> {
        assert!(outcomes.iter().all(|(_, outcome)| outcome.verdict == Verdict::Sent), "{outcomes:?}");
        outcomes.iter().filter_map(|(_, outcome)| outcome.backend).collect()
    };
    for (n, sport) in (100..140).enumerate() {
        // All of one identification, within a tenth of its time; every second one reordered, in two ways.
        let pieces = fragments(&udp(sport, 53, 2500), 1000);
        let order: [usize; 3] = match n % 4 {
            1 => [1, 2, 0],
            3 => [2, 0, 1],
            _ => [0, 1, 2],
        };
        let mut seen = Vec::new();
        for index in order {
            seen.extend(backends(rig.put(0, &pieces[index]).1));
        }
        assert_eq!(seen, [whole[n]; 3], "datagram {n} in order {order:?}");
        rig.advance_ms(2);
    }
    // One that never was complete: the next first piece begins anew all the same.
    let (old, new) = (fragments(&udp(100, 53, 2500), 1000), fragments(&udp(101, 53, 2500), 1000));
    assert_ne!(whole[0], whole[1]);
    assert_eq!(backends(rig.put(0, &old[0]).1), [whole[0]]);
    for piece in &new {
        assert_eq!(backends(rig.put(0, piece).1), [whole[1]]);
    }
}

#[test]
fn fragments_without_their_first_time_out() {
    let mut spec = Spec::web(1);
    spec.protocol = UDP;
    let mut rig = Rig::new(1, view(1, &[spec]));
    let pieces = fragments(&udp(9, 80, 3000), 1000);
    assert!(rig.put(0, &pieces[1]).1.is_empty());
    assert!(rig.put(0, &pieces[2]).1.is_empty());
    assert_eq!(rig.counters[0].totals.held.get(), 2);
    rig.advance_ms(999);
    assert!(rig.run().1.is_empty());
    rig.advance_ms(2);
    let (_, outcomes) = rig.run();
    assert_eq!(outcomes.len(), 2);
    assert_eq!(rig.drops(DropReason::FragmentTimeout), 2);
    assert_eq!(rig.counters[0].totals.held.get(), 0);
    // The first fragment alone still goes out.
    assert_eq!(rig.put(0, &pieces[0]).0.len(), 1);
}

/// A later piece that never has a first one.
fn tiny(source: [u8; 4], id: u16) -> Vec<u8> {
    let mut piece = fragments(&udp(9, 80, 24), 16).swap_remove(1);
    piece[26..30].copy_from_slice(&source);
    piece[18..20].copy_from_slice(&id.to_be_bytes());
    set_fragment_bits(&mut piece, 2);
    piece
}

#[test]
fn a_flood_of_tiny_fragments_costs_no_other_source_a_datagram() {
    for sources in [1_u16, 8, 5000] {
        let mut rig = Rig::new(1, view(1, &[Spec { protocol: UDP, ..Spec::web(2) }]));
        // 5,000 a second, and every fifth of a second a datagram of another source, of which the second piece comes 2 ms before the
        // first.
        for id in 0..5000_u16 {
            let [a, b] = (id % sources).to_be_bytes();
            rig.put(0, &tiny([192, 168, a, b], id));
            let pieces = fragments(&udp(1000 + id, 80, 1500), 1000);
            match id % 1000 {
                0 => assert!(rig.put(0, &pieces[1]).0.is_empty()),
                10 => {
                    let pieces = fragments(&udp(1000 + id - 10, 80, 1500), 1000);
                    let (sent, _) = rig.put(0, &pieces[0]);
                    assert_eq!(sent.len(), 2, "{sources} sources, {id}");
                }
                _ => {}
            }
            if id % 5 == 0 {
                rig.advance_ms(1);
            }
        }
        assert_eq!(rig.counters[0].totals.held.get(), worker::fragments::HELD_MAX as u64);
    }
}

#[test]
fn the_fragment_store_is_bounded() {
    let mut spec = Spec::web(1);
    spec.protocol = UDP;
    let mut rig = Rig::new(1, view(1, &[spec]));
    for id in 0..2000_u16 {
        rig.put(0, &tiny([192, 0, 2, 1], id));
    }
    let held = rig.counters[0].totals.held.get();
    assert_eq!(held, worker::fragments::HELD_MAX as u64);
    assert_eq!(held + rig.drops(DropReason::FragmentStoreFull), 2000);
    rig.workers[0].finish();
    assert_eq!(rig.counters[0].totals.held.get(), 0);
    assert_eq!(rig.workers[0].io().live(), 0);
    assert_eq!(rig.counters[0].imbalance(), 0);
}

#[test]
fn an_icmp_error_follows_the_flow_it_quotes() {
    let mut rig = Rig::new(2, view(1, &[Spec::web(4)]));
    for sport in 500..540 {
        rig.put(0, &tcp(sport, 80, Tcp::Syn, 0));
        let backend = backend_of(&rig.put(0, &tcp(sport, 80, Tcp::Ack, 0)).1);
        // "Fragmentation needed" from a router, quoting what the backend sent to the client.
        let mut quoted = Vec::new();
        etherparse::PacketBuilder::ipv4(VIP, CLIENT, 60)
            .tcp(80, sport, 1, 1)
            .ack(3)
            .write(&mut quoted, &[])
            .unwrap();
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2(ROUTER_MAC, PORT_MAC)
            .ipv4([192, 0, 2, 1], VIP, 60)
            .icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(
                etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 },
            ))
            .write(&mut frame, &quoted)
            .unwrap();
        let (sent, outcomes) = rig.put(1, &frame);
        assert_eq!(backend_of(&outcomes), backend, "also at a worker that does not have the flow");
        assert_eq!(sent[0][34..], frame[14..]);
    }
    assert_eq!(rig.counters[1].totals.flow_inserts.get(), 0, "an error makes no flow");
}

#[test]
fn echo_is_answered_under_a_bucket() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(1)]));
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(ROUTER_MAC, PORT_MAC)
        .ipv4(CLIENT, VIP, 64)
        .icmpv4_echo_request(1, 2)
        .write(&mut frame, b"hello, balancer")
        .unwrap();
    let (sent, outcomes) = rig.put(0, &frame);
    dropped(&outcomes, DropReason::Answered);
    assert_eq!(sent[0][34], 0);
    assert_eq!(sent[0][42..], frame[42..]);
    let mut limited = 0;
    for _ in 0..2000 {
        let (_, outcomes) = rig.put(0, &frame);
        limited += u64::from(outcomes[0].1.verdict == Verdict::Dropped(DropReason::RateLimited));
    }
    assert_eq!(limited, 2000 - 99, "one client has a hundred at once");
    // Others lose nothing by that, until the sum is used up.
    let mut answered = 0;
    for client in 0..2000_u16 {
        frame[26..30].copy_from_slice(&[10, 7, client.to_be_bytes()[0], client.to_be_bytes()[1]]);
        set_fragment_bits(&mut frame, 0);
        answered += u64::from(rig.put(0, &frame).1[0].1.verdict == Verdict::Dropped(DropReason::Answered));
    }
    assert_eq!(answered, 900);
    rig.advance_ms(100);
    frame[26..30].copy_from_slice(&[10, 7, 0, 1]);
    set_fragment_bits(&mut frame, 0);
    dropped(&rig.put(0, &frame).1, DropReason::Answered);
}

#[test]
fn an_echo_request_in_fragments_is_answered_piece_by_piece() {
    let mut rig = Rig::new(2, view(1, &[Spec::web(1)]));
    let data: Vec<u8> = (0..3000_u16).map(|n| n.to_be_bytes()[1]).collect();
    let mut whole = Vec::new();
    etherparse::PacketBuilder::ethernet2(ROUTER_MAC, PORT_MAC)
        .ipv4(CLIENT, VIP, 64)
        .icmpv4_echo_request(1, 2)
        .write(&mut whole, &data)
        .unwrap();
    let pieces = fragments(&whole, 1000);
    for turned in 0..pieces.len() {
        let mut order: Vec<usize> = (0..pieces.len()).collect();
        order.rotate_left(turned);
        let (mut replies, mut ends) = (Vec::new(), Vec::new());
        for (n, index) in order.into_iter().enumerate() {
            let (sent, outcomes) = rig.put(n % 2, &pieces[index]);
            replies.extend(sent);
            ends.extend(outcomes.iter().map(|(_, outcome)| outcome.verdict));
        }
        assert_eq!(ends, [Verdict::Dropped(DropReason::Answered); 4]);
        replies.sort_by_key(|reply| u16::from_be_bytes([reply[20], reply[21]]) & 0x1fff);
        let mut message = Vec::new();
        for (n, reply) in replies.iter().enumerate() {
            assert_eq!((&reply[26..30], &reply[30..34]), (&VIP[..], &CLIENT[..]));
            assert_eq!(reply[18..22], pieces[n][18..22], "identification, offset and more-fragments");
            message.extend(&reply[34..]);
        }
        assert_eq!(wire::checksum::checksum(&message), 0);
        assert_eq!((message[0], &message[8..]), (0, &data[..]));
    }
    let echo_sent: u64 = rig.counters.iter().map(|c| c.totals.echo_sent.get()).sum();
    assert_eq!(echo_sent, 4, "replies, not their pieces");
    // Pieces use up the budget of their destination one by one.
    let mut limited = 0;
    for _ in 0..100 {
        for piece in &pieces {
            limited += usize::from(rig.put(0, piece).0.is_empty());
        }
    }
    assert_eq!(limited, 400 - (100 - 16));
}

#[test]
fn an_icmp_error_in_fragments_follows_the_flow_it_quotes() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(4)]));
    for sport in 1000..1020 {
        let backend = backend_of(&rig.put(0, &tcp(sport, 80, Tcp::Syn, 0)).1);
        let mut quote = Vec::new();
        etherparse::PacketBuilder::ipv4(VIP, CLIENT, 64)
            .tcp(80, sport, 1, 100)
            .write(&mut quote, &[0; 1400])
            .unwrap();
        let mut error = Vec::new();
        etherparse::PacketBuilder::ethernet2(ROUTER_MAC, PORT_MAC)
            .ipv4([10, 0, 9, 9], VIP, 64)
            .icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(
                etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 },
            ))
            .write(&mut error, &quote)
            .unwrap();
        let pieces = fragments(&error, 1000);
        let (sent, _) = rig.put(0, &pieces[1]);
        assert!(sent.is_empty());
        let (sent, outcomes) = rig.put(0, &pieces[0]);
        assert_eq!(sent.len(), 2);
        assert!(outcomes.iter().all(|(_, outcome)| outcome.backend == Some(backend)));
    }
    // What is neither stays what it is, in all its pieces.
    let mut timestamp = Vec::new();
    etherparse::PacketBuilder::ethernet2(ROUTER_MAC, PORT_MAC)
        .ipv4([10, 0, 9, 9], VIP, 64)
        .icmpv4_echo_reply(1, 2)
        .write(&mut timestamp, &[0; 2000])
        .unwrap();
    for piece in fragments(&timestamp, 1000) {
        dropped(&rig.put(0, &piece).1, DropReason::IcmpUnhandled);
    }
}

#[test]
fn packets_that_are_too_big_for_one_client_silence_no_other() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(1)]));
    let mut frame = tcp(7, 80, Tcp::Ack, 1460);
    set_fragment_bits(&mut frame, 0x4000);
    let told = |rig: &mut Rig, frame: &[u8]| {
        let (sent, outcomes) = rig.put(0, frame);
        dropped(&outcomes, DropReason::TooBig);
        sent.len()
    };
    let flood: usize = (0..5000).map(|_| told(&mut rig, &frame)).sum();
    assert_eq!(flood, 50);
    frame[26..30].copy_from_slice(&[10, 7, 7, 7]);
    set_fragment_bits(&mut frame, 0x4000);
    assert_eq!((0..200).map(|_| told(&mut rig, &frame)).sum::<usize>(), 50, "an honest client is told");
}

#[test]
fn wide_flows_and_any_port() {
    let mut spec = Spec::web(3);
    spec.port = 0;
    let mut six = Spec::web(3);
    six.vip = ipv6("2001:db8::10").into();
    six.len = 128;
    let mut rig = Rig::new(1, view(1, &[spec, six]));
    let a = backend_of(&rig.put(0, &tcp(5, 8080, Tcp::Syn, 0)).1);
    assert!(a.0 < 3);
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(ROUTER_MAC, PORT_MAC)
        .ipv6(ipv6("fd00:1::5").octets(), ipv6("2001:db8::10").octets(), 64)
        .tcp(5, 80, 0, 1000)
        .syn()
        .write(&mut frame, &[])
        .unwrap();
    let (sent, outcomes) = rig.put(0, &frame);
    assert!((3..6).contains(&backend_of(&outcomes).0));
    assert_eq!(sent[0][23], 41, "IPv6 in IPv4");
    assert_eq!(sent[0][34..], frame[14..]);
}

#[test]
fn idle_flows_end_and_free_their_place() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(2)]));
    for sport in 1..500 {
        rig.put(0, &tcp(sport, 80, Tcp::Syn, 0));
    }
    assert_eq!(rig.workers[0].flow_count(), 499);
    for _ in 0..200 {
        rig.advance_ms(1000);
        rig.run();
    }
    assert_eq!(rig.workers[0].flow_count(), 0);
    assert_eq!(rig.counters[0].totals.flow_expired.get(), 499);
    let live: u64 = (0..2).map(|b| rig.counters[0].flows_of(wire::BackendId(b)).unwrap().flows.get()).sum();
    assert_eq!(live, 0);
}

#[test]
fn a_syn_flood_evicts_no_established_flow() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(2)]));
    let mut chosen = Vec::new();
    for sport in 1..200 {
        rig.put(0, &tcp(sport, 80, Tcp::Syn, 0));
        rig.put(0, &tcp(sport, 80, Tcp::Ack, 0));
        chosen.push(backend_of(&rig.put(0, &tcp(sport, 80, Tcp::Ack, 100)).1));
    }
    for flood in 10_000..14_000 {
        rig.put(0, &tcp(flood, 80, Tcp::Syn, 0));
    }
    assert!(rig.counters[0].totals.flow_displaced.get() > 0);
    let hits = rig.counters[0].totals.flow_hits.get();
    for (sport, backend) in (1..200).zip(&chosen) {
        assert_eq!(backend_of(&rig.put(0, &tcp(sport, 80, Tcp::Ack, 0)).1), *backend);
    }
    assert_eq!(rig.counters[0].totals.flow_hits.get() - hits, 199);
}

#[test]
fn frames_to_a_group_of_stations_are_not_forwarded() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(1)]));
    for mac in [[0xff; 6], [1, 0, 0x5e, 1, 1, 1]] {
        let mut frame = tcp(7, 80, Tcp::Syn, 0);
        frame[..6].copy_from_slice(&mac);
        dropped(&rig.put(0, &frame).1, DropReason::BadLinkAddress);
        frame[33] = 99;
        set_fragment_bits(&mut frame, 0x4000);
        assert_eq!(
            rig.put(0, &frame).1[0].1.verdict,
            Verdict::Punted,
            "the kernel's broadcasts are the kernel's"
        );
    }
    // RFC 1812 section 5.3.4 speaks of destinations.
    let mut frame = tcp(7, 80, Tcp::Syn, 0);
    frame[6..12].copy_from_slice(&[0xff; 6]);
    backend_of(&rig.put(0, &frame).1);
}

/// A frame of IPv6 with `next` and `rest` behind its fixed header, from `src` to `dst`.
fn raw6(src: Ipv6Addr, dst: Ipv6Addr, hops: u8, next: u8, rest: &[u8]) -> Vec<u8> {
    let mut frame = [PORT_MAC, ROUTER_MAC].concat();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
    frame.extend([next, hops]);
    frame.extend(src.octets());
    frame.extend(dst.octets());
    frame.extend(rest);
    frame
}

#[test]
fn what_is_not_for_a_vip_is_the_kernels_whatever_its_headers() {
    let vip = ipv6("2001:db8:f::10");
    let spec = Spec { vip: vip.into(), len: 128, ..Spec::web(1) };
    let mut rig = Rig::new(1, view(1, &[spec]));
    // A routing header with a segment left (RFC 8200 section 4.4); nine extension headers; options that end nowhere.
    let mut segment_left = vec![59, 2, 4, 1, 0, 0, 0, 0];
    segment_left.extend([0; 16]);
    let mut nine = [60, 0, 1, 4, 0, 0, 0, 0].repeat(8);
    nine.extend([59, 0, 1, 4, 0, 0, 0, 0]);
    let cut = vec![59, 9, 1, 4];
    for (next, rest) in [(43, segment_left), (60, nine), (60, cut)] {
        let to = |dst| raw6(ipv6("2001:db8:1::7"), dst, 64, next, &rest);
        assert_eq!(rig.put(0, &to(ipv6("2001:db8::1"))).1[0].1.verdict, Verdict::Punted, "{next} {rest:?}");
        dropped(&rig.put(0, &to(vip)).1, DropReason::BadIpv6Extension);
    }
    // Likewise of IPv4: an option without an end.
    let mut frame = tcp(7, 80, Tcp::Syn, 0);
    frame[14] = 0x46;
    frame[34] = 7;
    frame[35] = 1;
    set_fragment_bits(&mut frame, 0x4000);
    frame[24..26].fill(0);
    let sum = wire::checksum::checksum(&frame[14..38]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let mut v4 = Rig::new(1, view(1, &[Spec::web(1)]));
    dropped(&v4.put(0, &frame).1, DropReason::BadIpv4);
    assert_eq!(rig.put(0, &frame).1[0].1.verdict, Verdict::Punted, "{:?}", "no VIP of this view");
}

#[test]
fn neighbour_discovery_that_a_router_has_forwarded_is_dropped() {
    let vip = ipv6("2001:db8:f::10");
    let mut rig = Rig::new(1, view(1, &[Spec { vip: vip.into(), len: 128, ..Spec::web(1) }]));
    for kind in 133..=137 {
        let mut message = vec![kind, 0, 0, 0];
        message.resize(24, 0);
        let of = |hops| raw6(ipv6("2001:db8:1::7"), vip, hops, 58, &message);
        assert_eq!(rig.put(0, &of(255)).1[0].1.verdict, Verdict::Punted);
        for hops in [254, 64, 1] {
            dropped(&rig.put(0, &of(hops)).1, DropReason::BadIcmp);
        }
    }
}

#[test]
fn sources_of_this_link_and_packets_past_their_life_go_nowhere() {
    let vip = ipv6("2001:db8:f::10");
    let spec6 = Spec { vip: vip.into(), len: 128, ..Spec::web(1) };
    let mut rig = Rig::new(1, view(1, &[Spec::web(1), spec6]));
    let mend = |frame: &mut Vec<u8>| set_fragment_bits(frame, 0x4000);
    // With a tag the general stages judge, without one the columns do.
    let tagged = |frame: &[u8]| [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat();
    let syn6 = |src, hops| {
        let mut segment = vec![0; 20];
        segment[..4].copy_from_slice(&[0x30, 0x39, 0, 80]);
        segment[12..14].copy_from_slice(&[0x50, 2]);
        raw6(src, vip, hops, TCP, &segment)
    };
    let mut local = tcp(7, 80, Tcp::Syn, 0);
    local[26..30].copy_from_slice(&[169, 254, 3, 4]);
    mend(&mut local);
    for frame in [local, syn6(ipv6("fe80::7"), 64), syn6(ipv6("febf::7"), 64)] {
        dropped(&rig.put(0, &frame).1, DropReason::BadSource);
        dropped(&rig.put(0, &tagged(&frame)).1, DropReason::BadSource);
    }
    let mut dead = tcp(7, 80, Tcp::Syn, 0);
    dead[22] = 0;
    mend(&mut dead);
    for (frame, reason) in
        [(dead, DropReason::BadIpv4), (syn6(ipv6("2001:db8:1::7"), 0), DropReason::BadIpv6)]
    {
        dropped(&rig.put(0, &frame).1, reason);
        dropped(&rig.put(0, &tagged(&frame)).1, reason);
    }
    // The neighbours of what is refused.
    let mut near = tcp(7, 80, Tcp::Syn, 0);
    near[26..30].copy_from_slice(&[169, 253, 255, 4]);
    near[22] = 1;
    mend(&mut near);
    backend_of(&rig.put(0, &near).1);
    backend_of(&rig.put(0, &syn6(ipv6("fec0::7"), 1)).1);
}

#[test]
fn short_datagrams_leave_by_the_path_of_their_flow() {
    for mode in Mode::ALL.into_iter().filter(|mode| mode.port_key().is_some()) {
        let spec = Spec { mode, protocol: UDP, port: 53, ..Spec::web(1) };
        let mut rig = Rig::new(1, view(1, &[spec]));
        let mut ports = std::collections::BTreeSet::new();
        for payload in [4, 40, 0, 11, 12, 1000] {
            let mut frame = udp(7, 53, payload);
            // As Ethernet has it.
            frame.resize(frame.len().max(60), 0);
            for tag in [&[][..], &[0x81, 0, 0, 5]] {
                let received = [&frame[..12], tag, &frame[12..]].concat();
                let (sent, outcomes) = rig.put(0, &received);
                backend_of(&outcomes);
                let l4 = 34 + tag.len();
                ports.insert(u16::from_be_bytes([sent[0][l4], sent[0][l4 + 1]]));
            }
        }
        assert_eq!(ports.len(), 1, "{mode:?}: {ports:?}");
        assert!(ports.iter().all(|port| *port >= 49_152));
    }
}

#[test]
fn frames_on_their_way_to_another_station_are_left_to_the_kernel() {
    let mut served = view(1, &[Spec::web(1)]);
    served.ports[0].role = PortRole::Data { exception: None, punt_to_nowhere: false };
    let mut rig = Rig::new(1, served);
    let mut frame = tcp(7, 80, Tcp::Syn, 0);
    frame[..6].copy_from_slice(&PORT_MAC);
    assert_eq!(rig.put(0, &frame).1[0].1.verdict, Verdict::Sent);
    frame[5] ^= 1;
    // Punted, that is; this port has no exception port.
    dropped(&rig.put(0, &frame).1, DropReason::NoException);
    let mut replayed = Rig::new(1, view(1, &[Spec::web(1)]));
    assert_eq!(replayed.put(0, &frame).1[0].1.verdict, Verdict::Sent, "a capture may come from anywhere");
}

#[test]
fn a_view_without_a_way_home_is_kept_and_the_next_one_waits() {
    let (mut publisher, mut inbox) = mailbox(1);
    while inbox.give_back(Arc::new(View::default())).is_ok() {}
    let idle = flow::Idle {
        tcp_established_us: 1_000_000,
        tcp_closing_us: 1_000_000,
        syn_us: 1_000_000,
        udp_us: 1_000_000,
    };
    let table = flow::Table::new(flow::Memory::heap(64), flow::Memory::heap(64), 7, idle, 90).unwrap();
    let counters = Arc::new(Counters::new(1, 1, 1));
    let mut worker = Worker::new(Setup {
        core: wire::CoreId(0),
        io: MemIo::new(1),
        peers: vec![table.reader()],
        table,
        rings: statesync::mesh(1, 1).remove(0),
        inbox,
        counters: Arc::clone(&counters),
        commands: None,
    });
    let views: [Arc<View>; 3] = [1, 2, 3].map(|generation| Arc::new(View { generation, ..View::default() }));
    let mut now = wire::Tick(1);
    let mut generation_after_turn = || {
        now.0 += 1;
        worker.turn(now);
        counters.totals.generation.get()
    };
    publisher.publish(Arc::clone(&views[0])).unwrap();
    assert_eq!(generation_after_turn(), 1);
    publisher.publish(Arc::clone(&views[1])).unwrap();
    assert_eq!(generation_after_turn(), 2, "the first is out of use, and cannot leave");
    assert_eq!(generation_after_turn(), 2);
    assert_eq!(Arc::strong_count(&views[0]), 2, "neither dropped nor forgotten");

    while publisher.collect().is_some_and(|view| view.generation == 0) {}
    publisher.publish(Arc::clone(&views[2])).unwrap();
    assert_eq!(generation_after_turn(), 3);
    let home: Vec<u64> = std::iter::from_fn(|| publisher.collect()).map(|view| view.generation).collect();
    assert_eq!(home, [1, 2]);
    assert_eq!(Arc::strong_count(&views[0]), 1);
}
