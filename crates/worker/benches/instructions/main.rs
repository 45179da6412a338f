//! Turns of the engine on memory, to be counted and not timed: `cargo xtask gate` runs this under callgrind and strace and
//! takes it apart with objdump.
//!
//! `instructions CASE N` does its preparations and N units of work: a unit is a turn with a full burst (for `edge` the
//! same burst without an engine, for `flood` a turn with a row of eight, for `maglev` a build). The difference between N and 2N units is the cost of N. Prints one
//! line: the case, the frames sent, and the heap allocations made during the units.

mod loop_io;
mod pool_io;
mod rare;
#[path = "../../tests/rig/mod.rs"]
mod rig;

use allocation_counter::{AllocationInfo, measure};
use etherparse::PacketBuilder;
use loop_io::LoopIo;
use rig::{CLIENT, PORT_MAC, ROUTER_MAC, Spec, VIP};
use std::hint::black_box;
use std::net::Ipv6Addr;
use std::process::ExitCode;
use std::sync::Arc;
use steer::{Maglev, Weighted};
use wire::{CoreId, PortId, Tick};
use worker::view::OnClosedPort;
use worker::view::mailbox::{Publisher, mailbox};
use worker::{BURST, Counters, DropReason, Frames, PacketIo, Setup, Turn, View, Worker};

/// Flows of the hot cases: they and their entries stay in the nearest caches, so that a count is about all there is to say.
const FLOWS: u16 = 1024;
/// Flows that the table has room for: those of the miss case too.
const CAPACITY: usize = 1 << 16;
/// Backends of each service.
const BACKENDS: usize = 100;
/// Bursts of a turn in the flood.
const ROW: usize = 8;
/// Who floods.
const STRANGER: [u8; 4] = [10, 0, 7, 7];
/// Virtual time of a turn, microseconds.
const TURN_US: u64 = 1;
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0x10);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let (case, count) = match arguments.as_slice() {
        [case, count] => (case.as_str(), count.parse::<usize>().unwrap_or(0)),
        _ => ("", 0),
    };
    let done = match case {
        "hot-v4" => hot(frames_v4(), count),
        "hot-v6" => hot(frames_v6(), count),
        "exceptions" => exceptions(count),
        "miss" => miss(count),
        "flood" => flood(count),
        "ack-flood-1" => ack_flood(1, count),
        "ack-flood-2" => ack_flood(2, count),
        "ack-flood-16" => ack_flood(16, count),
        "no-service" => no_service(count),
        "punt-refused" => punt_refused(count),
        "edge" => edge(count),
        "maglev" => maglev(count),
        "fragments" => rare::fragments(count),
        "too-big" => rare::too_big(count),
        "least-load" => rare::least_load(count),
        "cluster" => rare::cluster(count),
        _ => {
            eprintln!(
                "usage: instructions hot-v4|hot-v6|exceptions|miss|flood|ack-flood-1|ack-flood-2|ack-flood-16|no-service|punt-refused|fragments|too-big|least-load|cluster|edge|maglev N"
            );
            return ExitCode::from(2);
        }
    };
    println!("{case} {count} sent={} allocations={}", done.sent, done.allocations.count_total);
    ExitCode::SUCCESS
}

/// What was done in the units.
struct Done {
    sent: u64,
    allocations: AllocationInfo,
}

/// An engine in a loop with itself.
struct Engine {
    worker: Worker<LoopIo>,
    counters: Arc<Counters>,
    now: Tick,
    /// Virtual time of a turn, microseconds.
    turn_us: u64,
    /// Of a turn.
    bursts: usize,
    _publisher: Publisher<View>,
}

impl Engine {
    fn new(io: LoopIo) -> Engine {
        let web6 = Spec { vip: VIP6.into(), len: 128, ..Spec::web(BACKENDS) };
        Engine::with(rig::view(1, &[Spec::web(BACKENDS), web6]), io)
    }

    fn with(view: View, io: LoopIo) -> Engine {
        Engine::among(1, view, io)
    }

    /// Worker 0 of so many; the others' tables are there, and empty.
    fn among(workers: usize, view: View, io: LoopIo) -> Engine {
        let idle = flow::Idle {
            tcp_established_us: view.timeouts.tcp_established_us,
            tcp_closing_us: view.timeouts.tcp_closing_us,
            syn_us: view.timeouts.syn_us,
            udp_us: view.timeouts.udp_us,
        };
        let table = || {
            let (narrow, wide) = (flow::Memory::heap(CAPACITY), flow::Memory::heap(CAPACITY));
            flow::Table::new(narrow, wide, 7, idle, 90).expect("a small table")
        };
        let others: Vec<flow::Table> = (1..workers).map(|_| table()).collect();
        let table = table();
        let peers = [&table].into_iter().chain(&others).map(flow::Table::reader).collect();
        let counters = Arc::new(Counters::new(16, 1024, 1));
        let (mut publisher, inbox) = mailbox(2);
        publisher.publish(Arc::new(view)).expect("an empty mailbox takes a view");
        let worker = Worker::new(Setup {
            core: CoreId(0),
            io,
            peers,
            table,
            rings: statesync::mesh(workers, 64).remove(0),
            inbox,
            counters: Arc::clone(&counters),
            commands: None,
        });
        Engine { worker, counters, now: Tick(1_000_000), turn_us: TURN_US, bursts: 1, _publisher: publisher }
    }

    fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.now = Tick(self.now.0 + self.turn_us);
            let turn = whole_turn(&mut self.worker, self.now);
            assert_eq!(turn.received, self.bursts * BURST);
        }
    }

    /// Turns all of whose frames are dropped.
    fn dropped_turns(&mut self, count: usize) {
        for _ in 0..count {
            self.worker.io().begin_turn();
            self.turns(1);
        }
    }

    /// Counted turns, nearly all of whose frames must have been dropped for this reason.
    fn counted_drops(&mut self, count: usize, reason: DropReason) -> Done {
        let before = self.counters.drops(reason).get();
        let allocations = measure(|| self.dropped_turns(count));
        let dropped = self.counters.drops(reason).get() - before;
        let all = (count * BURST) as u64;
        assert!(
            dropped >= all - all / 100,
            "every frame is dropped, but for the tokens of the time that passed"
        );
        Done { sent: 0, allocations }
    }

    /// Counted turns, all of whose frames must have been sent.
    fn counted_turns(&mut self, count: usize) -> Done {
        let before = self.worker.io().sent;
        let allocations = measure(|| self.turns(count));
        let sent = self.worker.io().sent - before;
        assert_eq!(sent, (count * self.bursts * BURST) as u64, "every frame is sent");
        Done { sent, allocations }
    }
}

/// The turn as one function, where the gate starts to look for what a turn may not do.
#[inline(never)]
fn whole_turn(worker: &mut Worker<LoopIo>, now: Tick) -> Turn {
    worker.turn(now)
}

/// Established flows: one segment each, again and again.
fn hot(frames: Vec<Vec<u8>>, count: usize) -> Done {
    let mut engine = Engine::new(LoopIo::new(frames));
    // The first round inserts, the second makes them trusted.
    engine.turns(3 * usize::from(FLOWS) / BURST);
    let hits = engine.counters.totals.flow_hits.get();
    let done = engine.counted_turns(count);
    assert_eq!(engine.counters.totals.flow_hits.get() - hits, done.sent, "every frame is a hit");
    done
}

/// First segments of flows that nobody has seen.
fn miss(count: usize) -> Done {
    assert!(count * BURST < CAPACITY / 2, "the table shall have room for all");
    let mut engine = Engine::new(LoopIo::new(frames_v4()));
    engine.worker.io().flood(vec![syn()], 1);
    engine.turns(1);
    let inserts = engine.counters.totals.flow_inserts.get();
    let done = engine.counted_turns(count);
    assert_eq!(engine.counters.totals.flow_inserts.get() - inserts, done.sent, "every frame is a new flow");
    done
}

/// Segments in the middle of flows that nobody has seen, a million a second, at one of several workers who could be asked.
fn ack_flood(workers: usize, count: usize) -> Done {
    assert!(count * BURST < CAPACITY / 2, "the table shall have room for all");
    let view = rig::view(1, &[Spec::web(BACKENDS)]);
    let mut engine = Engine::among(workers, view, LoopIo::new(frames_v4()));
    let mut ack = syn();
    ack[47] = 0x10;
    engine.worker.io().flood_of(vec![ack], 1);
    engine.turn_us = BURST as u64;
    // Until what there is to ask with is spent.
    engine.turns(100);
    let inserts = engine.counters.totals.flow_inserts.get();
    let done = engine.counted_turns(count);
    assert_eq!(engine.counters.totals.flow_inserts.get() - inserts, done.sent, "every frame is a new flow");
    done
}

/// Established flows whose slot alone decides.
fn exceptions(count: usize) -> Done {
    let mut view = rig::view(1, &[Spec::web(BACKENDS)]);
    view.service.iter_mut().for_each(|service| service.memory = Some(Arc::default()));
    let mut engine = Engine::with(view, LoopIo::new(frames_v4()));
    engine.turns(1);
    let stateless = engine.counters.totals.flow_stateless.get();
    let done = engine.counted_turns(count);
    assert_eq!(engine.counters.totals.flow_stateless.get() - stateless, done.sent, "no frame is looked up");
    done
}

/// Half of the frames are of established flows, half begin flows that nobody has seen: rows of bursts, each of which is looked up
/// while the flows of the one ahead are entered.
fn flood(count: usize) -> Done {
    let mut engine = Engine::new(LoopIo::new(frames_v4()));
    engine.turns(3 * usize::from(FLOWS) / BURST);
    let mixed = frames_v4().into_iter().flat_map(|known| [known, syn()]).collect();
    engine.worker.io().flood(mixed, ROW);
    engine.bursts = ROW;
    engine.turns(1);
    let totals = &engine.counters.totals;
    let before = (totals.flow_hits.get(), totals.flow_inserts.get());
    let done = engine.counted_turns(count);
    let totals = &engine.counters.totals;
    let known = (totals.flow_hits.get() - before.0, totals.flow_inserts.get() - before.1);
    assert_eq!(known, (done.sent / 2, done.sent / 2), "established flows are found, others entered");
    done
}

/// To ports of the VIP that no service has, in silence.
fn no_service(count: usize) -> Done {
    let mut frames = frames_v4();
    // The destination port: no checksum that a balancer looks at covers it.
    frames.iter_mut().for_each(|frame| frame[36..38].copy_from_slice(&81_u16.to_be_bytes()));
    let view = View { on_closed_port: OnClosedPort::Drop, ..rig::view(1, &[Spec::web(BACKENDS)]) };
    let mut engine = Engine::with(view, LoopIo::new(frames));
    engine.dropped_turns(100);
    engine.counted_drops(count, DropReason::NoService)
}

/// To be punted, when the budget is spent.
fn punt_refused(count: usize) -> Done {
    let mut engine = Engine::new(LoopIo::new(vec![to_kernel()]));
    engine.dropped_turns(100);
    engine.counted_drops(count, DropReason::PuntLimit)
}

/// Receiving and sending alone: what the other cases contain of the loop's own work.
fn edge(count: usize) -> Done {
    let mut io = LoopIo::new(frames_v4());
    let allocations = measure(|| {
        for _ in 0..count {
            let mut burst = Frames::new();
            io.rx(PortId(0), &mut burst);
            io.tx(PortId(0), black_box(&mut burst));
        }
    });
    Done { sent: io.sent, allocations }
}

/// The table of the paper's evaluation: 65537 slots, 1000 backends.
fn maglev(count: usize) -> Done {
    let names: Vec<String> = (0..1000).map(|i| format!("backend-{i}")).collect();
    let backends: Vec<Weighted<'_>> = names.iter().map(|name| Weighted { name, weight: 1 }).collect();
    for _ in 0..count {
        black_box(Maglev::build(black_box(&backends), 65_537, &rig::KEY).expect("a table"));
    }
    // A build allocates, on the management core.
    Done { sent: 0, allocations: AllocationInfo::default() }
}

/// A frame of each flow. 64 bytes with the frame check sequence, which software does not see.
fn frames_v4() -> Vec<Vec<u8>> {
    let frame = |port: u16| {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(ROUTER_MAC, PORT_MAC).ipv4(CLIENT, VIP, 64);
        builder.tcp(port, 80, 8, 1000).ack(9).write(&mut frame, &[0; 6]).expect("memory takes a frame");
        frame
    };
    (0..FLOWS).map(|flow| frame(10_000 + flow)).collect()
}

/// The first segment of a flow.
fn syn() -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(ROUTER_MAC, PORT_MAC).ipv4(STRANGER, VIP, 64);
    builder.tcp(1, 80, 7, 1000).syn().write(&mut frame, &[0; 6]).expect("memory takes a frame");
    frame
}

fn frames_v6() -> Vec<Vec<u8>> {
    let frame = |port: u16| {
        let mut frame = Vec::new();
        let builder =
            PacketBuilder::ethernet2(ROUTER_MAC, PORT_MAC).ipv6(CLIENT6.octets(), VIP6.octets(), 64);
        builder.tcp(port, 80, 8, 1000).ack(9).write(&mut frame, &[]).expect("memory takes a frame");
        frame
    };
    (0..FLOWS).map(|flow| frame(10_000 + flow)).collect()
}

/// A segment to the machine itself.
fn to_kernel() -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(ROUTER_MAC, PORT_MAC).ipv4(STRANGER, [10, 0, 2, 11], 64);
    builder.tcp(1, 22, 7, 1000).syn().write(&mut frame, &[0; 6]).expect("memory takes a frame");
    frame
}
