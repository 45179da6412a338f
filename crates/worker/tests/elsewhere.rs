//! What workers ask of each other's tables, and how much of it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod rig;

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, PacketBuilder};
use rig::*;
use wire::BackendId;
use worker::view::BackendState;

/// Packets of flows that nobody has seen, to one worker at one time.
fn flood(rig: &mut Rig, core: usize, sports: std::ops::Range<u16>, of: impl Fn(u16) -> Vec<u8>) -> u64 {
    let before = rig.counters[core].totals.flow_unasked.get();
    for sport in sports {
        rig.put(core, &of(sport));
    }
    rig.counters[core].totals.flow_unasked.get() - before
}

fn ack(sport: u16) -> Vec<u8> {
    tcp(sport, 80, Tcp::Ack, 0)
}

/// With a tag the same packet goes by the general stages.
fn tagged(sport: u16) -> Vec<u8> {
    let frame = ack(sport);
    [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat()
}

/// What a router tells the VIP about a flow.
fn too_big(sport: u16) -> Vec<u8> {
    let (mut quoted, mut frame) = (Vec::new(), Vec::new());
    PacketBuilder::ipv4(VIP, CLIENT, 60).tcp(80, sport, 1, 1).ack(3).write(&mut quoted, &[]).unwrap();
    let kind = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
    PacketBuilder::ethernet2(ROUTER_MAC, PORT_MAC)
        .ipv4([192, 0, 2, 1], VIP, 60)
        .icmpv4(Icmpv4Type::DestinationUnreachable(kind))
        .write(&mut frame, &quoted)
        .unwrap();
    frame
}

/// Flows that worker 0 knows, on backends that the table has no more.
fn moved(workers: usize) -> (Rig, Vec<(u16, BackendId)>) {
    let mut rig = Rig::new(workers, view(1, &[Spec::web(4)]));
    let flows = (1000..1040)
        .map(|sport| {
            rig.put(0, &tcp(sport, 80, Tcp::Syn, 0));
            (sport, backend_of(&rig.put(0, &ack(sport)).1))
        })
        .filter(|(_, backend)| backend.0 < 2)
        .collect::<Vec<_>>();
    assert!(flows.len() > 10);
    let mut changed = Spec::web(4);
    changed.states[..2].fill(BackendState::Draining);
    rig.publish(view(2, &[changed]));
    rig.run();
    (rig, flows)
}

#[test]
fn a_flood_of_no_flow_asks_no_more_of_many_workers_than_of_two() {
    for frame in [ack, tagged] {
        for (workers, asked) in [(1, 300), (2, 256), (16, 17)] {
            let mut rig = Rig::new(workers, view(1, &[Spec::web(4)]));
            assert_eq!(flood(&mut rig, 0, 10_000..10_300, frame), 300 - asked, "{workers} workers");
            assert_eq!(rig.counters[0].totals.flow_misses.get(), 300);
        }
    }
    let mut spec = Spec::web(4);
    spec.protocol = UDP;
    let mut rig = Rig::new(2, view(1, &[spec]));
    assert_eq!(flood(&mut rig, 0, 10_000..10_300, |sport| udp(sport, 80, 9)), 300 - 256);
}

#[test]
fn syns_ask_nobody() {
    let mut rig = Rig::new(2, view(1, &[Spec::web(4)]));
    assert_eq!(flood(&mut rig, 0, 10_000..10_300, |sport| tcp(sport, 80, Tcp::Syn, 0)), 0);
}

#[test]
fn flows_that_come_to_another_worker_keep_their_backends_also_after_a_flood() {
    for workers in [2, 16] {
        let (mut rig, flows) = moved(workers);
        assert!(flood(&mut rig, 1, 10_000..10_300, ack) > 0);
        let spent = backend_of(&rig.put(1, &ack(flows[0].0)).1);
        assert_ne!(spent, flows[0].1, "nobody was asked");
        for (sport, backend) in &flows[1..] {
            // 20 looks.
            rig.advance_ms(1);
            assert_eq!(backend_of(&rig.put(1, &ack(*sport)).1), *backend, "{workers} workers");
        }
    }
}

#[test]
fn a_flood_of_no_flow_takes_nothing_from_icmp_errors() {
    let (mut rig, flows) = moved(2);
    assert!(flood(&mut rig, 1, 10_000..10_300, ack) > 0);
    for (sport, backend) in flows {
        assert_eq!(backend_of(&rig.put(1, &too_big(sport)).1), backend);
    }
}
