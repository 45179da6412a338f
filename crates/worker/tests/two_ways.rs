//! The fast path and the general stages do the same: frames with a VLAN tag, which only the general stages carry, have the
//! same outcomes, outputs and counters as the same frames without. And bursts in a row do what the same bursts do one by one.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod rig;

use etherparse::PacketBuilder;
use proptest::prelude::*;
use rig::*;
use std::net::Ipv6Addr;
use wire::{BackendId, PortId, ServiceId};
use worker::view::{BackendState, HashOn, LeastLoad, OnDown, Overload, Policy, Select};
use worker::{BURST, BURSTS_MAX, RxMeta, View};

const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0x10);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7);
const BACKENDS: usize = 5;
const SERVICES: u16 = 4;

#[derive(Clone, Debug)]
enum Step {
    /// Frames received at once by a worker.
    Burst(usize, Vec<Packet>),
    Wait(u64),
    /// A backend of every service changes its state.
    Change(usize, BackendState),
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    sport: u16,
    flags: u8,
    shape: Shape,
    payload: usize,
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    Tcp,
    Udp,
    Tcp6,
    Udp6,
}

impl Packet {
    fn frame(self) -> Vec<u8> {
        let Packet { sport, flags, shape, payload } = self;
        let mut frame = Vec::new();
        let start = PacketBuilder::ethernet2(ROUTER_MAC, PORT_MAC);
        let payload = vec![0x42; payload];
        match shape {
            Shape::Udp => start.ipv4(CLIENT, VIP, 64).udp(sport, 53).write(&mut frame, &payload),
            Shape::Udp6 => {
                start.ipv6(CLIENT6.octets(), VIP6.octets(), 64).udp(sport, 53).write(&mut frame, &payload)
            }
            Shape::Tcp => start.ipv4(CLIENT, VIP, 64).tcp(sport, 80, 7, 99).write(&mut frame, &payload),
            Shape::Tcp6 => start
                .ipv6(CLIENT6.octets(), VIP6.octets(), 64)
                .tcp(sport, 80, 7, 99)
                .write(&mut frame, &payload),
        }
        .unwrap();
        // No checksum that a balancer looks at covers the flags of TCP.
        match shape {
            Shape::Tcp => frame[47] = flags,
            Shape::Tcp6 => frame[67] = flags,
            _ => {}
        }
        frame
    }
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat()
}

fn untagged(frame: &[u8]) -> Vec<u8> {
    assert_eq!(frame[12..16], [0x81, 0, 0, 5]);
    [&frame[..12], &frame[16..]].concat()
}

fn a_view(generation: u64, states: &[BackendState], on_down: OnDown, hash: HashOn, by_load: bool) -> View {
    let spec = |port: u16, protocol: u8, v6: bool| {
        let mut spec = Spec::web(BACKENDS);
        (spec.port, spec.protocol, spec.states, spec.on_down) = (port, protocol, states.to_vec(), on_down);
        if v6 {
            (spec.vip, spec.len) = (VIP6.into(), 128);
        }
        if by_load {
            spec.policy = Policy::LeastLoad(Box::new(LeastLoad {
                select: if protocol == TCP { Select::Min } else { Select::TwoChoices },
                overload: Overload::Spread,
                shares: vec![worker::decide::least_load::share(100, 1, 1); BACKENDS],
            }));
        }
        spec
    };
    let specs = [spec(80, TCP, false), spec(53, UDP, false), spec(80, TCP, true), spec(53, UDP, true)];
    let mut view = view(generation, &specs);
    for service in &mut view.service {
        service.hash = hash;
    }
    view
}

fn packet() -> impl Strategy<Value = Packet> {
    const FLAGS: [u8; 9] = [0x02, 0x02, 0x10, 0x10, 0x18, 0x11, 0x04, 0x12, 0x00];
    let shape = prop_oneof![
        4 => Just(Shape::Tcp),
        2 => Just(Shape::Udp),
        1 => Just(Shape::Tcp6),
        1 => Just(Shape::Udp6)
    ];
    (1000_u16..1012, 0..FLAGS.len(), shape, prop_oneof![9 => 0_usize..40, 1 => 1_400_usize..1_500])
        .prop_map(|(sport, flags, shape, payload)| Packet { sport, flags: FLAGS[flags], shape, payload })
}

/// Mostly of one burst or two; or a row of bursts, and more than a turn takes.
fn packets() -> impl Strategy<Value = Vec<Packet>> {
    prop_oneof![
        7 => prop::collection::vec(packet(), 1..40),
        1 => prop::collection::vec(packet(), 64..BURST * (BURSTS_MAX + 2)),
    ]
}

fn step(workers: usize) -> impl Strategy<Value = Step> {
    let states = [BackendState::Up, BackendState::Draining, BackendState::Down];
    prop_oneof![
        8 => (0..workers, packets()).prop_map(|(core, packets)| Step::Burst(core, packets)),
        // Some pauses are so long that what a flow table keeps of a time (eight bits) comes round.
        2 => prop_oneof![2 => 0_u64..2_000, 2 => 0_u64..100_000, 1 => 120_000_u64..280_000].prop_map(Step::Wait),
        2 => (0..BACKENDS, 0..states.len()).prop_map(move |(index, state)| Step::Change(index, states[state])),
    ]
}

/// Frames that are received so many at a time.
fn play(rig: &mut Rig, core: usize, frames: &[Vec<u8>], at_a_time: usize) -> (Vec<Vec<u8>>, Vec<String>) {
    let (mut all_sent, mut all_outcomes) = (Vec::new(), Vec::new());
    for (piece, frames) in frames.chunks(at_a_time).enumerate() {
        for (index, frame) in (0..).zip(frames) {
            let index = (piece * at_a_time) as u32 + index;
            rig.workers[core].io().push(PortId(0), frame, RxMeta { index, ..RxMeta::default() });
        }
        let (sent, mut outcomes) = rig.run();
        outcomes.sort_by_key(|(meta, _)| meta.index);
        all_sent.extend(sent);
        all_outcomes.extend(outcomes.iter().map(|(meta, outcome)| format!("{} {outcome:?}", meta.index)));
    }
    (all_sent, all_outcomes)
}

/// All counters but the ones that count bytes of whole frames or turns.
fn counted(rig: &Rig) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    for counters in &rig.counters {
        let totals =
            counters.totals.each().filter(|(name, ..)| !name.contains("turns") && !name.contains("_bytes"));
        all.extend(totals.map(|(name, _, value)| (name.to_owned(), value)));
        for id in 1..=SERVICES {
            let of = counters.service(ServiceId(id)).unwrap();
            all.extend(of.each().map(|(name, _, value)| (format!("service {id} {name}"), value)));
        }
        for id in 0..u32::from(SERVICES) * BACKENDS as u32 {
            let of = counters.backend(BackendId(id)).unwrap();
            all.extend(of.each().map(|(name, _, value)| (format!("backend {id} {name}"), value)));
            let of = counters.flows_of(BackendId(id)).unwrap();
            all.extend(of.each().map(|(name, _, value)| (format!("backend {id} {name}"), value)));
        }
    }
    all
}

fn both_ways(
    steps: Vec<Step>,
    workers: usize,
    on_down: OnDown,
    hash: HashOn,
    by_load: bool,
) -> Result<(), TestCaseError> {
    let mut states = [BackendState::Up; BACKENDS];
    let mut fast = Rig::new(workers, a_view(1, &states, on_down, hash, by_load));
    let mut general = Rig::new(workers, a_view(1, &states, on_down, hash, by_load));
    let mut generation = 1;
    for step in steps {
        match step {
            Step::Wait(ms) => {
                fast.advance_ms(ms);
                general.advance_ms(ms);
            }
            Step::Change(index, state) => {
                states[index] = state;
                generation += 1;
                fast.publish(a_view(generation, &states, on_down, hash, by_load));
                general.publish(a_view(generation, &states, on_down, hash, by_load));
                let _ = (fast.run(), general.run());
                for publisher in fast.publishers.iter_mut().chain(&mut general.publishers) {
                    publisher.collect();
                }
            }
            Step::Burst(core, packets) => {
                let frames: Vec<Vec<u8>> = packets.iter().map(|packet| packet.frame()).collect();
                let with_tags: Vec<Vec<u8>> = frames.iter().map(|frame| tagged(frame)).collect();
                let (sent, outcomes) = play(&mut fast, core, &frames, usize::MAX);
                let (sent_with_tags, outcomes_with_tags) = play(&mut general, core, &with_tags, BURST);
                prop_assert_eq!(outcomes, outcomes_with_tags);
                let without: Vec<Vec<u8>> = sent_with_tags.iter().map(|frame| untagged(frame)).collect();
                prop_assert_eq!(sent, without);
                prop_assert_eq!(counted(&fast), counted(&general));
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn one_worker(steps in prop::collection::vec(step(1), 1..30), keep in any::<bool>(), by_source in any::<bool>()) {
        let on_down = if keep { OnDown::Keep } else { OnDown::Reselect };
        let hash = if by_source { HashOn::Source } else { HashOn::Tuple };
        both_ways(steps, 1, on_down, hash, false)?;
    }

    #[test]
    fn two_workers(steps in prop::collection::vec(step(2), 1..30), keep in any::<bool>()) {
        both_ways(steps, 2, if keep { OnDown::Keep } else { OnDown::Reselect }, HashOn::Tuple, false)?;
    }

    #[test]
    fn two_workers_by_load(steps in prop::collection::vec(step(2), 1..20), keep in any::<bool>()) {
        both_ways(steps, 2, if keep { OnDown::Keep } else { OnDown::Reselect }, HashOn::Tuple, true)?;
    }
}
