//! A machine: the real workers over frames in memory, and the real controller.

use super::random::{Random, mix};
use super::scenario::Scenario;
use super::services::{ServicePool, machine_text};
use crate::frames::PORT_MAC;
use control::simulation::{self as control_side, MachineTime, SavedState};
use statesync::plan::{Plan, Report};
use statesync::spsc::{Receiver, channel};
use statesync::window::Windows;
use statesync::{Member, Owners, mesh};
use std::sync::Arc;
use std::time::Duration;
use wire::{CoreId, PortId, Tick};
use worker::cluster::SyncSize;
use worker::io::memory::MemIo;
use worker::view::View;
use worker::view::mailbox::{Publisher, mailbox};
use worker::{Counters, RxMeta, Setup, Worker};

/// UDP port of messages between machines.
pub(super) const UDP_PORT: u16 = 7480;
/// Key of slots.
pub(super) const KEY: [u8; 16] = *b"simulated secret";
/// Backends that have counters.
const BACKENDS_MAX: usize = 4096;
/// Unix time at the beginning, milliseconds.
const UNIX_MS: u64 = 1_800_000_000_000;

/// Address of a machine.
pub(super) const fn machine_address(machine: usize) -> u32 {
    0x0a00_0300 | machine as u32
}

/// The machine with this address.
pub(super) const fn machine_at(address: u32) -> usize {
    (address & 0xff) as usize
}

/// The backend with this address.
pub(super) const fn backend_at(address: u32) -> u32 {
    address & 0x00ff_ffff
}

/// A machine's process.
pub(super) struct Machine {
    /// Counts its starts: what belongs to an earlier one is nobody's.
    pub(super) run: u64,
    pub(super) alive: bool,
    pub(super) control: control_side::SimulatedMachine,
    /// Who it was before its start, or is.
    former: Member,
    pub(super) workers: Vec<Worker<MemIo>>,
    pub(super) counters: Vec<Arc<Counters>>,
    publishers: Vec<Publisher<View>>,
    reports: Vec<Receiver<Report>>,
    /// What they have reported, and the controller was not told.
    reported: Vec<(CoreId, Report)>,
    started: Tick,
    /// Its clock is ahead of the world's by so much.
    offset: u64,
    rss: u64,
    /// When each worker's next turn is planned.
    pub(super) turn_at: Vec<Tick>,
    /// A view that a worker's mailbox had no room for.
    waiting: Vec<Option<Arc<View>>>,
    /// Its way to the store.
    pub(super) link: StoreLink,
    /// Clients whose packets each worker has received since its last turn.
    pub(super) fresh: Vec<Vec<u32>>,
    pub(super) local_guesses: Vec<u64>,
    /// Decisions told.
    pub(super) decides: u64,
    /// What each worker has refused for want of room.
    pub(super) refused: Vec<u64>,
}

/// A machine's way to the store.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StoreLink {
    /// Its number; what was said on another one does not arrive.
    pub(super) connection: u64,
    /// What changes is told on it.
    pub(super) is_up: bool,
    /// The lease of the process.
    pub(super) lease: Option<u64>,
    /// Until when what was said last is under way, each way: nothing overtakes.
    pub(super) up_at: Tick,
    pub(super) down_at: Tick,
    /// When the store is reached again.
    pub(super) away_until: Tick,
}

/// A worker, and the ends of its channels.
struct Parts {
    worker: Worker<MemIo>,
    counters: Arc<Counters>,
    publisher: Publisher<View>,
    reports: Receiver<Report>,
}

fn parts(scenario: &Scenario, random: &mut Random) -> (Vec<Parts>, Vec<flow::Reader>) {
    let cores = scenario.cores;
    let idle = flow::Idle {
        tcp_established_us: scenario.habits.max_idle_us,
        tcp_closing_us: scenario.closing_us(),
        syn_us: scenario.habits.max_idle_us,
        udp_us: scenario.habits.max_idle_us,
    };
    let tables: Vec<flow::Table> = (0..cores)
        .map(|_| {
            let (narrow, wide) = match scenario.buckets {
                0 => (flow::Memory::heap(scenario.clients), flow::Memory::heap(1)),
                buckets => (few_buckets(buckets), few_buckets(buckets)),
            };
            flow::Table::new(narrow, wide, random.next(), idle, 100).expect("a table")
        })
        .collect();
    let peers: Vec<flow::Reader> = tables.iter().map(flow::Table::reader).collect();
    let windows = Arc::new(Windows::of(scenario.machines, cores));
    let mut parts = Vec::new();
    for ((core, table), rings) in (0..).zip(tables).zip(mesh(cores, 256)) {
        let (publisher, inbox) = mailbox(8);
        let counters = Arc::new(Counters::new(8, BACKENDS_MAX, 1));
        let mut worker = Worker::new(Setup {
            core: CoreId(core),
            io: MemIo::new(1),
            table,
            peers: peers.clone(),
            rings,
            inbox,
            counters: Arc::clone(&counters),
            commands: None,
        });
        let (sender, reports) = channel(64);
        let size = SyncSize {
            records: scenario.records,
            unacknowledged: scenario.unacknowledged,
            asks: scenario.clients.max(256) / 8,
        };
        worker.attach_sync(size, random.next(), Arc::clone(&windows), sender);
        if let Some(rule) = scenario.broken {
            worker.break_rule(rule);
        }
        parts.push(Parts { worker, counters, publisher, reports });
    }
    (parts, peers)
}

impl Machine {
    /// The machine of this number starts, for the `run`-th time, with what it had saved.
    pub(super) fn new(
        (machine, run): (usize, u64),
        (scenario, services): (&Scenario, &ServicePool),
        saved: SavedState,
        random: &mut Random,
        now: Tick,
    ) -> Machine {
        let (parts, readers) = parts(scenario, random);
        let offset = random.below(10_000_000) + 1_000_000;
        let text = machine_text(machine, scenario) + &services.first_text(scenario);
        let loaded = match model::load("simulated.toml", &text) {
            Ok(loaded) => loaded,
            Err(report) => panic!("{}", report.to_plain()),
        };
        let setup = control_side::MachineSetup {
            loaded,
            tokens: &services.tokens(),
            workers: parts.iter().map(|of| Arc::clone(&of.counters)).zip(readers).collect(),
            saved,
            relays: scenario.relays,
            slots: scenario.slots,
            broken: scenario.broken,
        };
        let at = MachineTime {
            uptime: Duration::ZERO,
            unix_ms: UNIX_MS + now.0 / 1000,
            tick: Tick(now.0 + offset),
        };
        let control =
            control_side::SimulatedMachine::start(setup, PORT_MAC, at).expect("a good configuration");
        let cores = scenario.cores;
        let mut of = Machine {
            run,
            alive: true,
            control,
            former: Member::default(),
            workers: Vec::new(),
            counters: Vec::new(),
            publishers: Vec::new(),
            reports: Vec::new(),
            reported: Vec::new(),
            started: now,
            offset,
            rss: random.next(),
            turn_at: vec![Tick(u64::MAX); cores],
            waiting: vec![None; cores],
            link: StoreLink::default(),
            fresh: vec![Vec::new(); cores],
            local_guesses: vec![0; cores],
            decides: 0,
            refused: vec![0; cores],
        };
        for Parts { worker, counters, publisher, reports } in parts {
            of.workers.push(worker);
            of.counters.push(counters);
            of.publishers.push(publisher);
            of.reports.push(reports);
        }
        of
    }

    /// Who it is; before the store has said so, who its process before was.
    pub(super) fn member(&self) -> Member {
        self.control.member().unwrap_or(self.former)
    }

    /// It was this one before its start.
    pub(super) fn was(mut self, former: Member) -> Machine {
        self.former = former;
        self
    }

    /// How long its process has run.
    pub(super) fn since_start_us(&self, now: Tick) -> u64 {
        now.since_us(self.started)
    }

    /// The machine's own time.
    pub(super) fn clock(&self, now: Tick) -> Tick {
        Tick(now.0 + self.offset)
    }

    /// A moment, for its controller.
    pub(super) fn moment(&self, now: Tick) -> MachineTime {
        MachineTime {
            uptime: Duration::from_micros(now.0 - self.started.0),
            unix_ms: UNIX_MS + now.0 / 1000,
            tick: self.clock(now),
        }
    }

    /// The queue, and so the worker, that the network card chooses.
    pub(super) fn queue(&self, frame: &[u8]) -> usize {
        let word =
            |at: usize| frame.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        let (source, destination, ports) = if frame.get(12) == Some(&0x86) {
            (word(34), word(50), word(54))
        } else {
            (word(26), word(30), word(34))
        };
        let tuple = u64::from(source) << 32 ^ u64::from(ports) ^ u64::from(destination) << 16;
        mix(tuple ^ self.rss) as usize % self.workers.len()
    }

    pub(super) fn push(&mut self, queue: usize, frame: &[u8]) {
        self.workers[queue].io().push(PortId(0), frame, RxMeta::default());
    }

    /// What the workers report; true if anything was.
    pub(super) fn collect_reports(&mut self) -> bool {
        for (core, reports) in (0..).map(CoreId).zip(&mut self.reports) {
            while let Some(report) = reports.pop() {
                self.reported.push((core, report));
            }
        }
        !self.reported.is_empty()
    }

    /// Housekeeping of its controller, with what the workers have reported. True: workers are given a view.
    pub(super) fn tend(&mut self, now: Tick) -> bool {
        let at = self.moment(now);
        self.control.tick(std::mem::take(&mut self.reported), at);
        if let Some(view) = self.control.take_view() {
            self.waiting.fill(Some(view));
        }
        let mut is_given = false;
        for (publisher, waiting) in self.publishers.iter_mut().zip(&mut self.waiting) {
            while publisher.collect().is_some() {}
            if let Some(view) = waiting.take() {
                match publisher.publish(Arc::clone(&view)) {
                    Ok(()) => is_given = true,
                    Err(_) => *waiting = Some(view),
                }
            }
        }
        is_given
    }

    /// Whether it takes traffic, as far as its newest view says.
    pub(super) fn is_ready(&self) -> bool {
        self.alive && self.control.is_ready()
    }
}

/// Memory of a flow table with so many buckets.
fn few_buckets<B: flow::bucket::Bucket + Default>(buckets: usize) -> flow::Memory<B> {
    flow::Memory::Shared((0..buckets).map(|_| B::default()).collect())
}

/// Who owns the slots.
pub(super) fn owners_of(plan: &Plan, scenario: &Scenario) -> Owners {
    if scenario.broken == Some(statesync::Rule::Ranking) {
        plan.owners().going_round()
    } else {
        plan.owners()
    }
}
