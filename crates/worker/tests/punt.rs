//! What a flood of frames for the kernel leaves of everything else: each class has a budget, and what is beyond it is dropped by name.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod rig;

use etherparse::PacketBuilder;
use rig::*;
use wire::Addr;
use worker::view::PortRole;
use worker::{DropReason, Verdict, View};

const ROUTER: [u8; 4] = [10, 0, 2, 1];
const STRANGER: [u8; 4] = [10, 0, 2, 77];
const OWN: [u8; 4] = [10, 0, 2, 11];

fn peered() -> View {
    View { routing_peers: vec![Addr::V4(u32::from_be_bytes(ROUTER))], ..view(1, &[Spec::web(2)]) }
}

fn arp() -> Vec<u8> {
    [&[0xff; 6][..], &ROUTER_MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &[0; 36]].concat()
}

fn solicitation(hops: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(ROUTER_MAC, PORT_MAC)
        .ipv6(ipv6("fe80::1").octets(), ipv6("fd00:2::11").octets(), hops)
        .icmpv6_raw(135, 0, [0; 4])
        .write(&mut frame, &[0; 16])
        .unwrap();
    frame
}

fn bgp(from: [u8; 4], (sport, dport): (u16, u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(ROUTER_MAC, PORT_MAC)
        .ipv4(from, OWN, 1)
        .tcp(sport, dport, 1, 1000)
        .ack(1)
        .write(&mut frame, &[])
        .unwrap();
    frame
}

fn bfd(from: [u8; 4], hops: u8, port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(ROUTER_MAC, PORT_MAC)
        .ipv4(from, OWN, hops)
        .udp(49_152, port)
        .write(&mut frame, &[0; 24])
        .unwrap();
    frame
}

/// How many of so many equal frames are punted; all others end for this reason.
fn punted(rig: &mut Rig, frame: &[u8], count: usize, refused: DropReason) -> usize {
    let mut punted = 0;
    for _ in 0..count {
        match rig.put(0, frame).1[0].1.verdict {
            Verdict::Punted => punted += 1,
            end => assert_eq!(end, Verdict::Dropped(refused)),
        }
    }
    punted
}

#[test]
fn what_strangers_send_takes_nothing_from_arp_discovery_and_routing() {
    let mut rig = Rig::new(1, peered());
    let other = bgp(STRANGER, (40_000, 22));
    assert_eq!(punted(&mut rig, &other, 5000, DropReason::PuntLimit), 2000);
    // That of a stranger, from afar, or of a session that is none, counts as anything else.
    for frame in [
        bgp(STRANGER, (40_000, 179)),
        bgp(ROUTER, (40_000, 22)),
        bfd(STRANGER, 255, 3784),
        bfd(ROUTER, 254, 3784),
        bfd(ROUTER, 255, 53),
        solicitation(254),
        [&arp()[..12], &[0x88, 0xcc], &arp()[14..]].concat(),
    ] {
        assert_eq!(punted(&mut rig, &frame, 10, DropReason::PuntLimit), 0);
    }
    for frame in [
        bgp(ROUTER, (40_000, 179)),
        bgp(ROUTER, (179, 40_000)),
        bfd(ROUTER, 255, 3784),
        bfd(ROUTER, 255, 3785),
        bfd(ROUTER, 64, 4784),
    ] {
        assert_eq!(punted(&mut rig, &frame, 200, DropReason::PuntLimitRouting), 200);
    }
    assert_eq!(punted(&mut rig, &bgp(ROUTER, (40_000, 179)), 10, DropReason::PuntLimitRouting), 0);
    let tagged = [&arp()[..12], &[0x81, 0, 0, 5], &arp()[12..]].concat();
    assert_eq!(punted(&mut rig, &tagged, 500, DropReason::PuntLimitArp), 500);
    assert_eq!(punted(&mut rig, &arp(), 2000, DropReason::PuntLimitArp), 500);
    assert_eq!(punted(&mut rig, &solicitation(255), 2000, DropReason::PuntLimitDiscovery), 1000);
    let totals = &rig.counters[0].totals;
    assert_eq!(totals.punted.get(), 2000 + 1000 + 1000 + 1000);
    assert_eq!(rig.drops(DropReason::PuntLimit), 3000 + 70);
}

#[test]
fn no_class_gets_less_than_a_thousand_frames_a_second() {
    let mut rig = Rig::new(1, peered());
    for (frame, refused) in [
        (arp(), DropReason::PuntLimitArp),
        (solicitation(255), DropReason::PuntLimitDiscovery),
        (bgp(ROUTER, (40_000, 179)), DropReason::PuntLimitRouting),
        (bgp(STRANGER, (40_000, 22)), DropReason::PuntLimit),
    ] {
        punted(&mut rig, &frame, 3000, refused);
        let mut after = 0;
        for _ in 0..100 {
            rig.advance_ms(10);
            after += punted(&mut rig, &frame, 30, refused);
        }
        assert!(after >= 1000, "{refused:?}: {after}");
    }
}

#[test]
fn answers_to_health_checks_have_room_however_many_checks_there_are() {
    let mut rig = Rig::new(1, View { checks_per_second: 5000, ..peered() });
    let answer = bgp(STRANGER, (80, 40_000));
    punted(&mut rig, &answer, 5000, DropReason::PuntLimit);
    rig.advance_ms(20);
    // (20,000 + 10 x 5,000) / 50
    assert_eq!(punted(&mut rig, &answer, 3000, DropReason::PuntLimit), 1400);
    rig.publish(View { checks_per_second: 0, generation: 2, ..peered() });
    rig.advance_ms(20);
    assert_eq!(punted(&mut rig, &answer, 3000, DropReason::PuntLimit), 400);
}

#[test]
fn the_kernel_gets_what_its_budget_allows_and_traffic_goes_on() {
    let mut served = peered();
    served.ports[0].role = PortRole::Data { exception: Some(wire::PortId(1)), punt_to_nowhere: false };
    served.ports.push(worker::view::PortView {
        role: PortRole::Exception { data: wire::PortId(0) },
        ..served.ports[0]
    });
    let mut rig = Rig::new(1, served);
    let mut forwarded = 0;
    for round in 0..5000_u16 {
        rig.put(0, &bgp(STRANGER, (40_000, 22)));
        let (_, outcomes) = rig.put(0, &tcp(1000 + round % 50, 80, Tcp::Ack, 0));
        forwarded += usize::from(outcomes[0].1.verdict == Verdict::Sent);
    }
    assert_eq!(forwarded, 5000);
    assert_eq!(rig.counters[0].totals.punted.get(), 2000);
    assert_eq!(rig.drops(DropReason::PuntLimit), 3000);
}

#[test]
fn without_an_interface_for_the_kernel_the_reason_is_always_that() {
    let mut alone = peered();
    alone.ports[0].role = PortRole::Data { exception: None, punt_to_nowhere: false };
    let mut rig = Rig::new(1, alone);
    assert_eq!(punted(&mut rig, &arp(), 3000, DropReason::NoException), 0);
}

#[test]
fn a_port_that_is_absent_is_not_polled_until_it_is_there_again() {
    let with = |generation, is_there: bool| {
        let mut served = peered();
        served.generation = generation;
        let exception = is_there.then_some(wire::PortId(1));
        served.ports[0].role = PortRole::Data { exception, punt_to_nowhere: false };
        let role = if is_there { PortRole::Exception { data: wire::PortId(0) } } else { PortRole::Absent };
        served.ports.push(worker::view::PortView { role, ..served.ports[0] });
        served
    };
    let mut rig = Rig::new(1, with(1, false));
    assert_eq!(punted(&mut rig, &arp(), 10, DropReason::NoException), 0);
    rig.workers[0].io().push(wire::PortId(1), &arp(), worker::RxMeta::default());
    let turn = rig.workers[0].turn(rig.now);
    assert_eq!((turn.received, rig.workers[0].io().live()), (0, 1), "its frame waits");
    rig.publish(with(2, true));
    // What the kernel says leaves by the data port, and what is for it reaches it.
    assert_eq!(rig.run().0, [arp()]);
    rig.put(0, &arp());
    assert_eq!(rig.counters[0].totals.punted.get(), 1);
}
