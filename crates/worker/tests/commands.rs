//! What a worker does when control asks: describe, forget, dump and restore flows.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod rig;

use allocation_counter::measure;
use flow::State;
use proptest::prelude::{Just, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy;
use rig::{
    CLIENT, COMMANDS, Rig, Spec, TCP, Tcp, UDP, VIP, backend_of, ipv6, set_fragment_bits, tcp, udp, view,
};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use wire::{Addr, BackendId, FlowKey, ServiceId, Tick, Tuple};
use worker::View;
use worker::cluster::flow_of;
use worker::commands::{
    CommandOutcome, CommandRefusal, DUMP_BUCKETS, DumpedFlow, FlowCommand, FlowDescription, ServiceFlow,
    TrackedFlow, WORK_A_TURN,
};
use worker::view::BackendState;
use worker::view::slots::SlotMemory;

/// Asks worker `core`, and turns it until it has answered.
fn ask(rig: &mut Rig, core: usize, command: FlowCommand) -> CommandOutcome {
    let number = rig.commanders[core].send(command, rig.now).unwrap();
    rig.workers[core].turn(rig.now);
    let answer = rig.commanders[core].collect().unwrap();
    assert_eq!(answer.number, number);
    answer.outcome
}

fn described(rig: &mut Rig, core: usize, of: ServiceFlow) -> FlowDescription {
    match ask(rig, core, FlowCommand::Describe(of)) {
        CommandOutcome::Described(description) => description,
        other => panic!("{other:?}"),
    }
}

/// All entries of a worker, piece by piece.
fn dump(rig: &mut Rig, core: usize) -> Vec<DumpedFlow> {
    let (mut flows, mut from_bucket) = (Vec::new(), 0);
    loop {
        let CommandOutcome::Dumped(dumped) = ask(rig, core, FlowCommand::Dump { from_bucket }) else {
            panic!("no dump")
        };
        flows.extend(dumped.flows);
        match dumped.next_bucket {
            Some(next) => from_bucket = next,
            None => return flows,
        }
    }
}

fn of_client(sport: u16, dport: u16, protocol: u8) -> Tuple {
    Tuple { src: IpAddr::from(CLIENT).into(), dst: IpAddr::from(VIP).into(), sport, dport, protocol }
}

fn web(sport: u16) -> ServiceFlow {
    ServiceFlow { service: ServiceId(1), flow: of_client(sport, 80, TCP) }
}

fn refused(outcome: CommandOutcome) -> CommandRefusal {
    match outcome {
        CommandOutcome::Refused(why) => why,
        other => panic!("{other:?}"),
    }
}

/// Open and ending flows of a backend, and its new ones, as counted.
fn counted(rig: &Rig, core: usize, id: BackendId) -> (u64, u64, u64) {
    let counters = &rig.counters[core];
    let flows = counters.flows_of(id).unwrap();
    (flows.flows.get(), counters.ending(id).unwrap().get(), flows.flows_new.get())
}

#[test]
fn a_flow_is_described_and_forgotten() {
    let mut rig = Rig::new(2, view(1, &[Spec::web(3)]));
    let backend = backend_of(&rig.put(0, &tcp(4000, 80, Tcp::Syn, 0)).1);
    rig.advance_ms(5000);
    let known = described(&mut rig, 0, web(4000));
    let entry = known.entry.unwrap();
    assert_eq!((entry.backend, entry.state), (backend, State::TcpNew));
    assert!((4_000_000..=5_000_000).contains(&entry.idle_us), "{entry:?}");
    assert_eq!((known.slot_backend, known.is_tracked, known.is_tainted), (Some(backend), true, false));
    assert_eq!((known.base, known.record), (None, None));
    let elsewhere = described(&mut rig, 1, web(4000));
    assert_eq!(elsewhere, FlowDescription { entry: None, ..known }, "the other worker knows the slot alone");
    assert_eq!(described(&mut rig, 0, web(4001)).entry, None);

    assert_eq!(counted(&rig, 0, backend), (1, 0, 1));
    assert_eq!(ask(&mut rig, 1, FlowCommand::Forget(web(4000))), CommandOutcome::Forgotten(None));
    let gone = ask(&mut rig, 0, FlowCommand::Forget(web(4000)));
    assert_eq!(gone, CommandOutcome::Forgotten(Some(entry)));
    assert_eq!(counted(&rig, 0, backend), (0, 0, 1), "it has left");
    assert_eq!(rig.counters[0].totals.flow_forgotten.get(), 1);
    assert_eq!(ask(&mut rig, 0, FlowCommand::Forget(web(4000))), CommandOutcome::Forgotten(None));
    rig.run();
    assert_eq!((rig.workers[0].flow_count(), rig.counters[0].totals.flows.get()), (0, 0));

    // One that has closed counts among those that end.
    rig.put_all(0, &[tcp(5000, 80, Tcp::Syn, 0), tcp(5000, 80, Tcp::Ack, 0), tcp(5000, 80, Tcp::Ack, 1)]);
    rig.put(0, &tcp(5000, 80, Tcp::Rst, 0));
    let entry = described(&mut rig, 0, web(5000)).entry.unwrap();
    ask(&mut rig, 0, FlowCommand::Forget(web(5000)));
    assert_eq!((counted(&rig, 0, entry.backend).0, counted(&rig, 0, entry.backend).1), (0, 0));

    // One that is expired has ended by itself, and is none.
    let backend = backend_of(&rig.put(0, &tcp(6000, 80, Tcp::Syn, 0)).1);
    rig.advance_ms(40_000);
    let expired = rig.counters[0].totals.flow_expired.get();
    assert_eq!(ask(&mut rig, 0, FlowCommand::Forget(web(6000))), CommandOutcome::Forgotten(None));
    assert_eq!(rig.counters[0].totals.flow_expired.get(), expired + 1, "counted once, by the sweep or here");
    assert_eq!(counted(&rig, 0, backend).0, 0);
}

#[test]
fn what_does_not_fit_is_refused_with_the_reason() {
    let drained = Spec { states: vec![BackendState::Up, BackendState::Draining], ..Spec::web(0) };
    let dns = Spec { port: 53, protocol: UDP, ..Spec::web(1) };
    let mut rig = Rig::new(1, view(1, &[drained, dns]));
    let entry = TrackedFlow { backend: BackendId(0), state: State::TcpEstablished, idle_us: 7_000_000 };
    let restore = |rig: &mut Rig, of, entry| ask(rig, 0, FlowCommand::Restore(of, entry));
    let not_of_service = [
        ServiceFlow { service: ServiceId(2), ..web(1) },
        ServiceFlow { service: ServiceId(1), flow: of_client(1, 81, TCP) },
        ServiceFlow { service: ServiceId(1), flow: Tuple { src: Addr::V6(7), ..of_client(1, 80, TCP) } },
        ServiceFlow { service: ServiceId(9), flow: of_client(1, 80, TCP) },
    ];
    for of in not_of_service {
        for command in [FlowCommand::Describe(of), FlowCommand::Forget(of), FlowCommand::Restore(of, entry)] {
            assert_eq!(refused(ask(&mut rig, 0, command)), CommandRefusal::NotOfService, "{of:?}");
        }
    }
    for backend in [2, 3, BackendId::MAX].map(BackendId) {
        let why = refused(restore(&mut rig, web(1), TrackedFlow { backend, ..entry }));
        assert_eq!(why, CommandRefusal::NoBackend, "{backend:?}");
    }
    let udp_entry = TrackedFlow { state: State::Udp, ..entry };
    assert_eq!(refused(restore(&mut rig, web(1), udp_entry)), CommandRefusal::StateOfOtherProtocol);
    let of_dns = ServiceFlow { service: ServiceId(2), flow: of_client(1, 53, UDP) };
    let of_tcp = TrackedFlow { backend: BackendId(2), ..entry };
    assert_eq!(refused(restore(&mut rig, of_dns, of_tcp)), CommandRefusal::StateOfOtherProtocol);
    for idle_us in [2_000_000_000, u64::MAX] {
        let why = refused(restore(&mut rig, web(1), TrackedFlow { idle_us, ..entry }));
        assert_eq!(why, CommandRefusal::Expired);
    }
    assert!(dump(&mut rig, 0).is_empty(), "nothing has changed");

    // A backend that takes no new flows keeps those it has.
    let at_draining = TrackedFlow { backend: BackendId(1), ..entry };
    assert_eq!(restore(&mut rig, web(1), at_draining), CommandOutcome::Restored);
    assert_eq!(refused(restore(&mut rig, web(1), entry)), CommandRefusal::Present);
    assert_eq!(described(&mut rig, 0, web(1)).entry.unwrap().backend, BackendId(1));
    assert_eq!(backend_of(&rig.put(0, &tcp(1, 80, Tcp::Ack, 9)).1), BackendId(1));

    let number = rig.commanders[0].send(FlowCommand::Forget(web(1)), Tick(rig.now.0 - 1)).unwrap();
    rig.run();
    let answer = rig.commanders[0].collect().unwrap();
    assert_eq!((answer.number, refused(answer.outcome)), (number, CommandRefusal::TooLate));
    assert!(described(&mut rig, 0, web(1)).entry.is_some(), "it has not been forgotten");
}

#[test]
fn a_flow_that_another_worker_has_is_not_restored_beside_it() {
    let mut rig = Rig::new(2, view(1, &[Spec::web(2)]));
    rig.put(1, &tcp(7, 80, Tcp::Syn, 0));
    let entry = TrackedFlow { backend: BackendId(0), state: State::TcpEstablished, idle_us: 0 };
    let why = refused(ask(&mut rig, 0, FlowCommand::Restore(web(7), entry)));
    assert_eq!(why, CommandRefusal::Present);
}

#[test]
fn restored_flows_count_as_live_and_not_as_new() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(2)]));
    let states = [State::TcpNew, State::TcpEstablished, State::TcpHalfClosed, State::TcpClosing];
    for (sport, state) in (1..).zip(states) {
        let entry = TrackedFlow { backend: BackendId(1), state, idle_us: 0 };
        let done = ask(&mut rig, 0, FlowCommand::Restore(web(sport), entry));
        assert_eq!(done, CommandOutcome::Restored);
    }
    rig.run();
    assert_eq!(counted(&rig, 0, BackendId(1)), (2, 2, 0));
    let totals = &rig.counters[0].totals;
    assert_eq!((totals.flow_restored.get(), totals.flow_inserts.get(), totals.flows.get()), (4, 0, 4));
    assert_eq!(rig.counters[0].service(ServiceId(1)).unwrap().flows_new.get(), 0);
    // Their ends are counted as those of all others.
    rig.advance_ms(4_000_000);
    rig.run();
    assert_eq!(counted(&rig, 0, BackendId(1)), (0, 0, 0));
    assert_eq!(rig.counters[0].totals.flow_expired.get(), 4);
}

/// A service that remembers slots, all of whose slots are tainted with this base, or none.
fn with_memory(generation: u64, base: Option<BackendId>) -> View {
    let mut view = view(generation, &[Spec::web(3)]);
    let memory = match base {
        None => SlotMemory::default(),
        Some(base) => SlotMemory::new(251, (0..251).map(|slot| (slot, Some(base)))),
    };
    view.service[0].memory = Some(Arc::new(memory));
    view
}

#[test]
fn slots_that_decide_get_no_entries_that_say_otherwise() {
    let mut rig = Rig::new(1, with_memory(1, None));
    let known = described(&mut rig, 0, web(1));
    assert_eq!((known.is_tracked, known.is_tainted, known.base), (false, false, None));
    let home = known.slot_backend.unwrap();
    let entry = TrackedFlow { backend: home, state: State::TcpEstablished, idle_us: 0 };
    let why = refused(ask(&mut rig, 0, FlowCommand::Restore(web(1), entry)));
    assert_eq!(why, CommandRefusal::NotTracked);

    let [base, third] = [1, 2].map(|step| BackendId((home.0 + step) % 3));
    rig.publish(with_memory(2, Some(base)));
    rig.run();
    let known = described(&mut rig, 0, web(1));
    assert_eq!((known.is_tracked, known.is_tainted, known.base), (true, true, Some(base)));
    for (backend, sport) in [(home, 1), (base, 1), (third, 1)] {
        let entry = TrackedFlow { backend, ..entry };
        let done = ask(&mut rig, 0, FlowCommand::Restore(web(sport), entry));
        if backend == third {
            assert_eq!(refused(done), CommandRefusal::SlotDecides);
        } else {
            assert_eq!(done, CommandOutcome::Restored);
            ask(&mut rig, 0, FlowCommand::Forget(web(sport)));
        }
    }
}

#[test]
fn a_turn_takes_so_many_commands_and_allocates_nothing() {
    let mut rig = Rig::new(1, view(1, &[Spec::web(2)]));
    rig.put_all(0, &(1..200).map(|sport| tcp(sport, 80, Tcp::Syn, 0)).collect::<Vec<_>>());
    let entry = TrackedFlow { backend: BackendId(0), state: State::TcpEstablished, idle_us: 0 };
    for (command, expected) in [
        (FlowCommand::Describe(web(1)), WORK_A_TURN),
        (FlowCommand::Dump { from_bucket: 0 }, WORK_A_TURN / DUMP_BUCKETS),
        (FlowCommand::Restore(web(300), entry), WORK_A_TURN),
        (FlowCommand::Forget(web(2)), WORK_A_TURN),
    ] {
        let sent = (0..).take_while(|_| rig.commanders[0].send(command, rig.now).is_ok()).count();
        assert_eq!(sent, COMMANDS);
        let (worker, now) = (&mut rig.workers[0], rig.now);
        let allocated = measure(|| {
            worker.turn(now);
        });
        assert_eq!(allocated.count_total, 0, "{command:?}");
        let answered = std::iter::from_fn(|| rig.commanders[0].collect()).count();
        assert_eq!(answered, expected, "{command:?}");
        for _ in 0..COMMANDS {
            rig.workers[0].turn(now);
            while rig.commanders[0].collect().is_some() {}
        }
    }
    // Answers that are not collected leave the commands behind them where they are.
    for _ in 0..2 * COMMANDS {
        rig.commanders[0].send(FlowCommand::Describe(web(1)), rig.now).unwrap();
        rig.workers[0].turn(rig.now);
    }
    assert!(rig.commanders[0].send(FlowCommand::Describe(web(1)), rig.now).is_err());
    assert_eq!(std::iter::from_fn(|| rig.commanders[0].collect()).count(), COMMANDS);
}

/// Services of every kind of key.
fn services() -> Vec<Spec> {
    vec![
        Spec::web(3),
        Spec { port: 53, protocol: UDP, ..Spec::web(2) },
        Spec { vip: ipv6("2001:db8::10").into(), len: 128, ..Spec::web(3) },
        Spec { vip: IpAddr::from([203, 0, 113, 64]), len: 28, port: 0, ..Spec::web(2) },
    ]
}

/// Address, port and protocol of those.
fn vip(service: ServiceId) -> (Addr, u16, u8) {
    let spec = &services()[usize::from(service.0) - 1];
    (spec.vip.into(), spec.port, spec.protocol)
}

/// A flow of one of the services; few of each, so that some come twice.
fn any_flow() -> impl Strategy<Value = ServiceFlow> {
    (0..4_u16, 0..200_u32, 1..5_u16, 0..16_u32, any::<u16>()).prop_map(|(at, client, sport, host, dport)| {
        let service = ServiceId(at + 1);
        let (dst, port, protocol) = vip(service);
        let v6 = matches!(dst, Addr::V6(_));
        let src = if v6 {
            Addr::V6(0x2001_0db8 << 96 | u128::from(client))
        } else {
            Addr::V4(0x0a00_0100 + client)
        };
        let (dst, dport) = match dst {
            Addr::V4(first) if port == 0 => (Addr::V4(first + host), 1 + dport % 3),
            _ => (dst, port),
        };
        ServiceFlow { service, flow: Tuple { src, dst, sport, dport, protocol } }
    })
}

/// The flow of a key.
fn named(flow: &DumpedFlow) -> ServiceFlow {
    let service = flow.key.service();
    ServiceFlow { service, flow: flow_of(&flow.key, vip(service)) }
}

/// The oracle's picture of a table.
fn by_key(flows: impl IntoIterator<Item = DumpedFlow>) -> HashMap<FlowKey, TrackedFlow> {
    flows.into_iter().map(|of| (of.key, of.entry)).collect()
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(32))]

    /// What is dumped and restored into an empty table is there as it was: flow for flow, backend, state and age; the counters say so.
    #[test]
    fn a_dump_restored_is_the_same_table(
        flows in prop::collection::vec(
            (any_flow(), 0..3_u32, prop_oneof![Just(0_usize), 1..4_usize], 0..25_000_u64), 1..300),
    ) {
        let mut first = Rig::new(1, view(1, &services()));
        first.now = Tick::from_ms(100_000);
        let firsts = [0_u32, 3, 5, 8];
        let mut oracle = HashMap::new();
        for (of, backend, kind, idle_ms) in flows {
            let at = usize::from(of.service.0) - 1;
            let count = u32::try_from(services()[at].states.len()).unwrap();
            let is_tcp = of.flow.protocol == TCP;
            let state = match (is_tcp, kind) {
                (true, 0) => State::TcpEstablished,
                (true, 1) => State::TcpNew,
                (true, 2) => State::TcpClosing,
                (true, _) => State::TcpHalfClosed,
                (false, 0 | 1) => State::Udp,
                (false, _) => State::UdpNew,
            };
            let backend = BackendId(firsts[at] + backend % count);
            let entry = TrackedFlow { backend, state, idle_us: idle_ms * 1000 };
            let done = ask(&mut first, 0, FlowCommand::Restore(of, entry));
            match oracle.entry(of) {
                Entry::Occupied(_) => prop_assert_eq!(refused(done), CommandRefusal::Present),
                Entry::Vacant(place) => {
                    prop_assert_eq!(done, CommandOutcome::Restored);
                    place.insert(entry);
                }
            }
        }

        let dumped = dump(&mut first, 0);
        prop_assert_eq!(dumped.len(), oracle.len());
        for flow in &dumped {
            let entry = oracle[&named(flow)];
            prop_assert_eq!((flow.entry.backend, flow.entry.state), (entry.backend, entry.state));
            let late = entry.idle_us.saturating_sub(flow.entry.idle_us);
            let is_near = flow.entry.idle_us <= entry.idle_us && late <= 1_800_000_000 / 32;
            prop_assert!(is_near, "{flow:?} {entry:?}");
        }

        let mut second = Rig::new(1, view(1, &services()));
        second.now = first.now;
        for flow in &dumped {
            let done = ask(&mut second, 0, FlowCommand::Restore(named(flow), flow.entry));
            prop_assert_eq!(done, CommandOutcome::Restored);
        }
        prop_assert_eq!(by_key(dump(&mut second, 0)), by_key(dumped.iter().copied()));
        second.run();
        let mut live = BTreeMap::<BackendId, (u64, u64)>::new();
        for flow in &dumped {
            let of = live.entry(flow.entry.backend).or_default();
            if flow.entry.state.is_open() { of.0 += 1 } else { of.1 += 1 }
        }
        for id in (0..10).map(BackendId) {
            let (open, ending, new) = counted(&second, 0, id);
            prop_assert_eq!(((open, ending), new), (live.get(&id).copied().unwrap_or_default(), 0));
        }
        prop_assert_eq!(second.counters[0].totals.flows.get(), dumped.len() as u64);
    }
}

/// Packets find restored entries by their keys, of narrow and of wide services.
#[test]
fn packets_of_restored_flows_go_to_their_backends() {
    let mut rig = Rig::new(1, view(1, &services()));
    for backend in [BackendId(3), BackendId(4)] {
        let sport = u16::try_from(backend.0).unwrap();
        let of = ServiceFlow { service: ServiceId(2), flow: of_client(sport, 53, UDP) };
        let entry = TrackedFlow { backend, state: State::Udp, idle_us: 1000 };
        assert_eq!(ask(&mut rig, 0, FlowCommand::Restore(of, entry)), CommandOutcome::Restored);
        assert_eq!(backend_of(&rig.put(0, &udp(sport, 53, 8)).1), backend);
    }
    for backend in [BackendId(8), BackendId(9)] {
        let sport = u16::try_from(backend.0).unwrap();
        let dst = IpAddr::from([203, 0, 113, 70]);
        let flow = Tuple { dst: dst.into(), ..of_client(sport, 443, TCP) };
        let of = ServiceFlow { service: ServiceId(4), flow };
        let entry = TrackedFlow { backend, state: State::TcpEstablished, idle_us: 1000 };
        assert_eq!(ask(&mut rig, 0, FlowCommand::Restore(of, entry)), CommandOutcome::Restored);
        let mut frame = tcp(sport, 443, Tcp::Ack, 3);
        frame[33] = 70;
        // Writes the header's checksum anew; that of TCP is the backend's to judge.
        set_fragment_bits(&mut frame, 0x4000);
        assert_eq!(backend_of(&rig.put(0, &frame).1), backend);
    }
}
