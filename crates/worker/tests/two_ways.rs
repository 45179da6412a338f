//! The specialised and the general instance of the stages do the same: frames with a VLAN tag, which only the general one carries, have the
//! same outcomes, outputs, counters and flow tables as the same frames without, under views that change. And bursts in a row do what the same
//! bursts do one by one. A worker while a capture is on does what it does with frames that come one by one, and shows each once, with its end. 100,000 frames and more; `TWO_WAYS_CASES` asks for other numbers (`cargo xtask soak`: ten million).
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "helpers of tests are tests")]

mod rig;

use etherparse::PacketBuilder;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rig::*;
use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use wire::encap::{Mode, SourcePrefix};
use wire::{BackendId, PortId, ServiceId};
use worker::capture::{CaptureEnd, CaptureFilter, Listener, Side, tap};
use worker::commands::{Command, Commander};
use worker::view::slots::SlotMemory;
use worker::view::{BackendState, HashOn, LeastLoad, OnDown, Overload, Policy, Select};
use worker::{BURST, BURSTS_MAX, DropReason, Outcome, RxMeta, Verdict, View};

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
    /// To a port that no service has.
    Closed,
    Echo,
    /// A datagram's first fragment, or its last.
    Fragment(bool),
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
            Shape::Closed => start.ipv4(CLIENT, VIP, 64).tcp(sport, 81, 7, 99).write(&mut frame, &payload),
            Shape::Echo => {
                start.ipv4(CLIENT, VIP, 64).icmpv4_echo_request(sport, 1).write(&mut frame, &payload)
            }
            Shape::Fragment(_) => start.ipv4(CLIENT, VIP, 64).udp(sport, 53).write(&mut frame, &[0x42; 56]),
        }
        .unwrap();
        // No checksum that a balancer looks at covers the flags of TCP.
        match shape {
            Shape::Tcp => frame[47] = flags,
            Shape::Tcp6 => frame[67] = flags,
            Shape::Fragment(first) => {
                let mut pieces = fragments(&frame, 32);
                // Few identifications, so that pieces meet.
                let mut piece = if first { pieces.remove(0) } else { pieces.remove(1) };
                piece[18..20].copy_from_slice(&(sport % 4).to_be_bytes());
                let bits = u16::from_be_bytes([piece[20], piece[21]]);
                set_fragment_bits(&mut piece, bits);
                return piece;
            }
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

/// What is the same for all views of a case.
#[derive(Clone, Copy, Debug)]
struct Kind {
    on_down: OnDown,
    hash: HashOn,
    by_load: bool,
    /// TCP remembers slots instead of flows, and every third slot is tainted.
    by_slot: bool,
    /// Outer sources are of a prefix.
    spread: bool,
}

fn a_view(generation: u64, states: &[BackendState], kind: Kind) -> View {
    let Kind { on_down, hash, by_load, by_slot, spread } = kind;
    let spec = |port: u16, protocol: u8, v6: bool| {
        let mut spec = Spec::web(BACKENDS);
        (spec.port, spec.protocol, spec.states, spec.on_down) = (port, protocol, states.to_vec(), on_down);
        spec.mode = if v6 && spread { Mode::Gre } else { spec.mode };
        spec.sources = spread.then(|| SourcePrefix::new([10, 9, 0, 0].into(), 16).unwrap());
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
    // The order of the specifications: TCP comes first, and third.
    for service in view.service.iter_mut().step_by(2).filter(|_| by_slot) {
        let (size, base) = (service.maglev.size(), service.members.first().copied());
        let tainted = (0..size).step_by(3).map(|slot| (slot, base));
        service.memory = Some(Arc::new(SlotMemory::new(size, tainted)));
    }
    view
}

fn packet() -> impl Strategy<Value = Packet> {
    const FLAGS: [u8; 9] = [0x02, 0x02, 0x10, 0x10, 0x18, 0x11, 0x04, 0x12, 0x00];
    let shape = prop_oneof![
        12 => Just(Shape::Tcp),
        6 => Just(Shape::Udp),
        3 => Just(Shape::Tcp6),
        3 => Just(Shape::Udp6),
        1 => Just(Shape::Closed),
        1 => Just(Shape::Echo),
        1 => any::<bool>().prop_map(Shape::Fragment),
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

/// What was sent, and the end of each frame by its index.
type Played = (Vec<Vec<u8>>, Vec<(u32, Outcome)>);

/// Frames that are received so many at a time; their indices count from `first`.
fn play(rig: &mut Rig, core: usize, (first, frames): (u32, &[Vec<u8>]), at_a_time: usize) -> Played {
    let (mut all_sent, mut all_outcomes) = (Vec::new(), Vec::new());
    for (piece, frames) in frames.chunks(at_a_time).enumerate() {
        for (index, frame) in (0..).zip(frames) {
            let index = first + (piece * at_a_time) as u32 + index;
            rig.workers[core].io().push(PortId(0), frame, RxMeta { index, ..RxMeta::default() });
        }
        let (sent, outcomes) = rig.run();
        all_sent.extend(sent);
        all_outcomes.extend(outcomes.iter().map(|(meta, outcome)| (meta.index, *outcome)));
    }
    // A fragment may end long after it came.
    all_outcomes.sort_by_key(|(index, outcome)| (*index, format!("{outcome:?}")));
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

/// The entries of all flow tables: by worker and key, what an entry says but for its age.
fn entries(rig: &Rig) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (core, table) in rig.tables.iter().enumerate() {
        table.dump(0, table.buckets(), rig.now, |key, hit| {
            all.insert(format!("{core} {key:?}"), format!("{:?} {:?}", hit.backend, hit.state));
        });
    }
    all
}

/// Workers whose frames are captured, all of them.
struct Watched {
    rig: Rig,
    listeners: Vec<Listener>,
    /// Fragments that were shown again because they waited for too long.
    expired: u64,
}

impl Watched {
    fn new(workers: usize, view: View) -> Watched {
        let mut rig = Rig::new(workers, view);
        let mut listen = |commander: &mut Commander| {
            let (tap, listener) = tap(CaptureFilter::default(), 4 * BURST * (BURSTS_MAX + 2), 2048);
            commander.send(Command::Capture(Some(tap)), rig.now).unwrap();
            listener
        };
        let listeners = rig.commanders.iter_mut().map(&mut listen).collect();
        rig.run();
        Watched { rig, listeners, expired: 0 }
    }

    /// Every frame was shown once as it was received, and as it was sent where it was; with the end it had, but for fragments, which are shown
    /// when they come and may be held, and once more if they waited for too long.
    fn check(
        &mut self,
        (first, frames): (u32, &[Vec<u8>]),
        (sent, outcomes): &Played,
    ) -> Result<(), TestCaseError> {
        let is_fragment = |frame: &[u8]| frame[12..14] == [8, 0] && frame[20] & 0x3f | frame[21] != 0;
        let (mut received, mut left, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for listener in &mut self.listeners {
            prop_assert_eq!(listener.missed(), 0);
            while let Some(copy) = listener.take() {
                match copy.side {
                    Side::Sent => left.push(copy.bytes().to_vec()),
                    Side::Received if copy.end.reason == Some(DropReason::FragmentTimeout) => {
                        prop_assert!(is_fragment(copy.bytes()));
                        self.expired += 1;
                    }
                    Side::Received => {
                        if !is_fragment(copy.bytes()) {
                            ends.push(format!("{:?}", copy.end));
                        }
                        received.push(copy.bytes().to_vec());
                    }
                }
                listener.give_back(copy);
            }
        }
        let of_outcome = |outcome: &Outcome| {
            let reason = match outcome.verdict {
                Verdict::Dropped(reason) => Some(reason),
                _ => None,
            };
            let Outcome { service, backend, action, .. } = *outcome;
            let end = CaptureEnd { action: action.name(), reason, service, backend };
            format!("{end:?}")
        };
        // Of bursts before there are only fragments left.
        let is_whole = |index: u32| index >= first && !is_fragment(&frames[(index - first) as usize]);
        let whole = outcomes.iter().filter(|(index, _)| is_whole(*index));
        let mut expected: Vec<String> = whole.map(|(_, outcome)| of_outcome(outcome)).collect();
        let (mut frames, mut sent) = (frames.to_vec(), sent.clone());
        for frames in [&mut received, &mut left, &mut frames, &mut sent] {
            frames.sort();
        }
        prop_assert_eq!(received, frames);
        prop_assert_eq!(left, sent);
        ends.sort();
        expected.sort();
        prop_assert_eq!(ends, expected);
        prop_assert_eq!(self.expired, self.rig.drops(DropReason::FragmentTimeout));
        Ok(())
    }
}

fn both_ways(steps: Vec<Step>, workers: usize, kind: Kind, frames: &AtomicU64) -> Result<(), TestCaseError> {
    let mut states = [BackendState::Up; BACKENDS];
    let mut fast = Rig::new(workers, a_view(1, &states, kind));
    let mut general = Rig::new(workers, a_view(1, &states, kind));
    let mut alone = Rig::new(workers, a_view(1, &states, kind));
    let mut watched = Watched::new(workers, a_view(1, &states, kind));
    // It has had its first turn, too: from there on flow tables age.
    alone.run();
    let (mut generation, mut first) = (1, 0);
    for step in steps {
        match step {
            Step::Wait(ms) => {
                // A worker alone may sleep for long. Of two, both turn: an entry that its owner has not swept for as long as a flow table can
                // tell times apart would look young to the other.
                let at_once = if workers == 1 { u64::MAX } else { 20_000 };
                let mut left = ms;
                while left > 0 {
                    let slice = left.min(at_once);
                    left -= slice;
                    for rig in [&mut fast, &mut general, &mut alone, &mut watched.rig] {
                        rig.advance_ms(slice);
                        if left > 0 {
                            rig.run();
                        }
                    }
                }
            }
            Step::Change(index, state) => {
                states[index] = state;
                generation += 1;
                for rig in [&mut fast, &mut general, &mut alone, &mut watched.rig] {
                    rig.publish(a_view(generation, &states, kind));
                    rig.run();
                    for publisher in &mut rig.publishers {
                        publisher.collect();
                    }
                }
            }
            Step::Burst(core, packets) => {
                frames.fetch_add(packets.len() as u64, Relaxed);
                let plain: Vec<Vec<u8>> = packets.iter().map(|packet| packet.frame()).collect();
                let with_tags: Vec<Vec<u8>> = plain.iter().map(|frame| tagged(frame)).collect();
                // A fragment may be held, and end, or go to the other worker, between two bursts.
                let is_fragment = |packet: &Packet| matches!(packet.shape, Shape::Fragment(_));
                let at_once = if packets.iter().any(is_fragment) { BURST } else { usize::MAX };
                let played = play(&mut fast, core, (first, &plain), at_once);
                let (sent_with_tags, outcomes_with_tags) =
                    play(&mut general, core, (first, &with_tags), BURST);
                prop_assert_eq!(&played.1, &outcomes_with_tags);
                let without: Vec<Vec<u8>> = sent_with_tags.iter().map(|frame| untagged(frame)).collect();
                prop_assert_eq!(&played.0, &without);
                prop_assert_eq!(counted(&fast), counted(&general));
                let played = play(&mut alone, core, (first, &plain), 1);
                let at_once = if packets.iter().any(is_fragment) { 1 } else { at_once };
                let watched_played = play(&mut watched.rig, core, (first, &plain), at_once);
                prop_assert_eq!(&played, &watched_played);
                prop_assert_eq!(counted(&alone), counted(&watched.rig));
                watched.check((first, &plain), &played)?;
                first += packets.len() as u32;
            }
        }
    }
    prop_assert_eq!(entries(&fast), entries(&general));
    prop_assert_eq!(entries(&alone), entries(&watched.rig));
    Ok(())
}

/// Cases of each test.
fn cases() -> u32 {
    std::env::var("TWO_WAYS_CASES").ok().map_or(100, |cases| cases.parse().expect("a number"))
}

/// Plays many cases, of at least 200 frames each on average.
fn run(workers: usize, steps: usize, kind: impl Fn(bool, bool) -> Kind) {
    let mut runner = TestRunner::new(Config { cases: cases(), ..Config::default() });
    let strategy = (prop::collection::vec(step(workers), 1..steps), any::<bool>(), any::<bool>());
    let frames = AtomicU64::new(0);
    let result = runner
        .run(&strategy, |(steps, keep, by_source)| both_ways(steps, workers, kind(keep, by_source), &frames));
    if let Err(error) = result {
        panic!("{error}");
    }
    let frames = frames.into_inner();
    assert!(frames >= u64::from(cases()) * 200, "only {frames} frames");
    println!("{frames} frames");
}

fn kind(keep: bool, by_source: bool) -> Kind {
    let on_down = if keep { OnDown::Keep } else { OnDown::Reselect };
    let hash = if by_source { HashOn::Source } else { HashOn::Tuple };
    Kind { on_down, hash, by_load: false, by_slot: false, spread: false }
}

#[test]
fn one_worker() {
    run(1, 30, kind);
}

#[test]
fn one_worker_by_slots() {
    run(1, 30, |keep, by_source| Kind { by_slot: true, ..kind(keep, by_source) });
}

#[test]
fn one_worker_with_sources_of_a_prefix() {
    run(1, 30, |keep, by_source| Kind { spread: true, ..kind(keep, by_source) });
}

#[test]
fn two_workers() {
    run(2, 30, |keep, _| kind(keep, false));
}

#[test]
fn two_workers_by_slots() {
    run(2, 30, |keep, _| Kind { by_slot: true, ..kind(keep, false) });
}

#[test]
fn two_workers_by_load() {
    run(2, 30, |keep, _| Kind { by_load: true, ..kind(keep, false) });
}
