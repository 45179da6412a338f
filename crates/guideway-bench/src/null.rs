//! `guideway bench null`: the engine between two ends of a DPDK null device, beside testpmd's io and macswap.

mod io;

use crate::bound::Lines;
use crate::calibration::Calibrator;
use crate::eal;
use crate::engine::{self, Family, FlowsIn, Mode, Rig, Scene};
use crate::failure::{Failure, wrong};
use crate::flows::FLOWS_MAX;
use crate::options::Options;
use crate::random::{Picker, Spread};
use crate::report::{self, Conditions, Maybe, rounded};
use crate::rounds::CellSet;
use crate::statistics::{Figure, Interval};
use crate::testpmd::{self, Testpmd};
use crate::tsc::Tsc;
use clap::Args;
use dpdk::clock::stamp;
use dpdk::pages::PageKind;
use dpdk::{Device, DpdkIo, Eal, Mempool, PortSetup, mempool};
use io::NullIo;
use serde::Serialize;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;
use wire::PortId;
use worker::view::mailbox::Publisher;
use worker::{Counters, Frames, PacketIo, View, Worker};

/// Packets between two looks at what came out.
const STRETCH: usize = 2048;
/// Windows of a cell in a round.
const WINDOWS: usize = 5;
/// Length of a window, of ours (in time measured) and of testpmd alike: what the machine takes away is in the cost of both.
const WINDOW: Duration = Duration::from_millis(10);
/// Length of a frame as net_null gives it.
const FRAME_LEN: usize = 64;
/// Huge-page memory for devices and buffers.
const DEVICE_BYTES: u64 = 64 << 20;
/// Flows of the engine in memory that stands beside.
const HOT_FLOWS: u64 = 1000;
/// The device.
const DEVICE: &str = "net_null0,size=64,copy=0";

/// Time the engine with DPDK: receive, turn, send on a null device, one core, beside testpmd
///
/// A null device gives frames of zeros, so a stage behind receive writes headers of real flows; it is measured alone in every
/// round and taken off. Every packet must be sent, and every 1000th is decoded and compared.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Flows in the table
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(1..=FLOWS_MAX),
    )]
    flows: u64,
    /// Backends of the service
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(1..=65_000),
    )]
    backends: u32,
    /// How packets reach backends
    #[arg(long, value_parser = engine::mode_parser(), default_value = Mode::Ipip.as_str())]
    mode: Mode,
    /// How packets are spread over the flows
    #[arg(long, value_enum, default_value_t = Spread::Uniform)]
    keys: Spread,
    /// Leave testpmd out
    #[arg(long)]
    alone: bool,
    #[command(flatten)]
    options: Options,
}

impl Arguments {
    /// Huge pages for the table, the bound's lines, calibration, and devices of both programs.
    pub fn huge_bytes(&self) -> u64 {
        2 * engine::table_bytes(Family::V4, self.flows) as u64 + 2 * DEVICE_BYTES + (320 << 20)
    }
}

/// What is printed.
#[derive(Clone, Debug, Serialize)]
struct NullReport {
    flows: u64,
    mode: &'static str,
    burst: usize,
    /// Receive, turn and send, without the stage that writes headers.
    ns_per_packet: Maybe<Interval>,
    mpps: Maybe<f64>,
    /// The stage taken off.
    stage_ns: Maybe<Interval>,
    /// Receive and send alone, through our binding.
    io_ns: Maybe<Figure>,
    bound_ns: Maybe<Figure>,
    testpmd_io_ns: Maybe<Figure>,
    testpmd_macswap_ns: Maybe<Figure>,
    /// Our packets a second over testpmd macswap's.
    rate_to_macswap: Maybe<Interval>,
    /// The engine in memory with hot flows, and its cost over that of testpmd macswap.
    engine_hot_ns: Maybe<Figure>,
    engine_hot_to_macswap: Maybe<Interval>,
    drops: u64,
    packets_sent: u64,
    packets_decoded: u64,
    #[serde(flatten)]
    conditions: Conditions,
    pages: &'static str,
    verified: bool,
}

/// The engine on a null device.
struct NullPath {
    worker: Worker<NullIo>,
    _publisher: Publisher<View>,
    counters: Arc<Counters>,
    tsc: Tsc,
    pages: PageKind,
    table_bytes: usize,
}

/// Measures and prints.
///
/// # Errors
/// [`Failure`]; a packet dropped or changed is one.
pub fn run(arguments: &Arguments, cpu: usize) -> Result<(), Failure> {
    let tsc = Tsc::measure();
    let scene = Scene::build(arguments.mode, Family::V4, arguments.backends, FlowsIn::All)?;
    let mut words = eal::words(cpu, DEVICE_BYTES);
    words.extend(["--vdev".to_owned(), DEVICE.to_owned()]);
    let eal = Eal::start(&words, DEVICE_BYTES, |_, _| ())?;
    let path = RefCell::new(NullPath::new(&eal, &scene, arguments, tsc)?);
    let hot = RefCell::new(Rig::new(&scene, HOT_FLOWS, worker::BURST, tsc)?);
    let lines = Lines::new(path.borrow().table_bytes)?;
    let peer = match arguments.alone {
        true => None,
        false => Some(RefCell::new(start_testpmd(cpu)?)),
    };
    let mut calibrator = Calibrator::new(tsc)?;
    let measured = {
        let mut hot_picker = Picker::new(arguments.keys, HOT_FLOWS, 2);
        let mut cells = CellSet::default();
        cells.add("bound", lines.cell(tsc, engine::LINES, engine::WINDOWS));
        cells.add("io", |costs| windows(costs, || path.borrow_mut().bare(false)));
        cells.add("io+stage", |costs| windows(costs, || path.borrow_mut().bare(true)));
        cells.add("path", |costs| windows(costs, || path.borrow_mut().stretch()));
        cells.add("engine", |costs| {
            windows(costs, || {
                let cost = hot.borrow_mut().window(&mut hot_picker)?;
                Ok(Stretch::of(cost, Rig::WINDOW))
            })
        });
        if let Some(peer) = &peer {
            for (cell, mode) in [("testpmd/io", "io"), ("testpmd/macswap", "macswap")] {
                cells.add(cell, move |costs| peer.borrow_mut().forward(mode, WINDOW, WINDOWS, costs));
            }
        }
        arguments.options.measure(&mut calibrator, &mut cells)?
    };
    let net = |v: &[f64]| v[0] - (v[1] - v[2]);
    let cost = measured.derived(&["path", "io+stage", "io"], net);
    let mut path = path.into_inner();
    let decoded = path.worker.io().decoded();
    let totals = &path.counters.totals;
    let outcome = NullReport {
        flows: arguments.flows,
        mode: arguments.mode.as_str(),
        burst: worker::BURST,
        ns_per_packet: Maybe::from(cost).rounded(),
        mpps: Maybe::from(cost.map(|cost| rounded(1000.0 / cost.median, 2))),
        stage_ns: measured.combined(&["io+stage", "io"], |v| v[0] - v[1]),
        io_ns: measured.cost("io"),
        bound_ns: measured.cost("bound"),
        testpmd_io_ns: measured.cost("testpmd/io"),
        testpmd_macswap_ns: measured.cost("testpmd/macswap"),
        rate_to_macswap: measured
            .combined(&["path", "io+stage", "io", "testpmd/macswap"], |v| v[3] / net(&v[..3])),
        engine_hot_ns: measured.cost("engine"),
        engine_hot_to_macswap: measured.compared("engine", "testpmd/macswap"),
        drops: path.counters.dropped(),
        packets_sent: totals.tx.get(),
        packets_decoded: decoded,
        conditions: Conditions::from(&measured),
        pages: path.pages.name(),
        verified: true,
    };
    report::print(arguments.options.json, &outcome, for_people)
}

/// Packets in a row, timed.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Stretch {
    ns: f64,
    packets: usize,
}

impl Stretch {
    /// `packets` that cost `ns` each.
    fn of(ns: f64, packets: usize) -> Stretch {
        Stretch { ns: ns * packets as f64, packets }
    }
}

/// A cell's windows: the mean of as many stretches as fill one.
fn windows(
    costs: &mut Vec<f64>,
    mut stretch: impl FnMut() -> Result<Stretch, Failure>,
) -> Result<(), Failure> {
    for _ in 0..WINDOWS {
        let mut sum = Stretch { ns: 0.0, packets: 0 };
        while sum.ns < WINDOW.as_nanos() as f64 {
            let next = stretch()?;
            sum.ns += next.ns;
            sum.packets += next.packets;
        }
        costs.push(sum.ns / sum.packets.max(1) as f64);
    }
    Ok(())
}

fn start_testpmd(cpu: usize) -> Result<Testpmd, Failure> {
    let mut eal = eal::memory_words(DEVICE_BYTES);
    eal.extend(["--vdev".to_owned(), DEVICE.to_owned()]);
    // One port that sends what it receives, like ours.
    let options = vec!["--port-topology=loop".to_owned()];
    let setup = testpmd::TestpmdSetup { eal, cpu, burst: worker::BURST as u16, options };
    Testpmd::start(&setup, 1)
}

impl NullPath {
    fn new(eal: &Eal, scene: &Scene, arguments: &Arguments, tsc: Tsc) -> Result<NullPath, Failure> {
        let device = |e: dpdk::PortError| Failure::Machine(e.to_string());
        let pool = Mempool::create(eal, "bench", testpmd::BUFFERS, mempool::data_room(1500, false), None)
            .map_err(|e| Failure::Machine(e.to_string()))?;
        let setup = PortSetup { queues: 1, mtu: 1500, mac: None, promiscuous: true, rss: false };
        let mut port =
            Device::find(eal, DEVICE).and_then(|found| found.start(&setup, &pool)).map_err(device)?;
        let queues = port.take_queues();
        let io = NullIo::new(DpdkIo::new(queues, pool), scene, arguments.keys, arguments.flows, FRAME_LEN);
        let parts = engine::Parts::new(scene, arguments.flows, tsc)?;
        let (pages, table_bytes, counters) = (parts.pages, parts.table_bytes, Arc::clone(&parts.counters));
        let (worker, publisher) = parts.worker(io)?;
        Ok(NullPath { worker, _publisher: publisher, counters, tsc, pages, table_bytes })
    }

    /// Receive, stage, turn, send.
    fn stretch(&mut self) -> Result<Stretch, Failure> {
        self.worker.io().prepare(STRETCH);
        let (sent, hits) = (self.counters.totals.tx.get(), self.counters.totals.flow_hits.get());
        let now = self.tsc.tick();
        let begin = stamp();
        let mut received = 0;
        while received < STRETCH {
            let turn = self.worker.turn(now).received;
            if turn == 0 {
                return Err(wrong("the null device gave nothing"));
            }
            received += turn;
        }
        let end = stamp();
        let sent = self.counters.totals.tx.get() - sent;
        let hits = self.counters.totals.flow_hits.get() - hits;
        if sent != received as u64 || hits != sent {
            let drops = self.counters.dropped();
            return Err(wrong(format!("{received} received, {hits} hits, {sent} sent, {drops} dropped")));
        }
        self.worker.io().check_samples()?;
        Ok(Stretch { ns: self.tsc.nanoseconds(begin, end), packets: received })
    }

    /// Receive, stage (or not) and send, without an engine.
    fn bare(&mut self, stage: bool) -> Result<Stretch, Failure> {
        let io = self.worker.io();
        let mut burst = Frames::new();
        io.prepare(STRETCH);
        let begin = stamp();
        let mut received = 0;
        while received < STRETCH {
            if stage {
                io.rx(PortId(0), &mut burst);
            } else {
                io.device().rx(PortId(0), &mut burst);
            }
            received += burst.len();
            io.device().tx(PortId(0), &mut burst);
            if !burst.is_empty() {
                return Err(wrong("the null device refused a frame"));
            }
        }
        let end = stamp();
        Ok(Stretch { ns: self.tsc.nanoseconds(begin, end), packets: received })
    }
}

fn for_people(outcome: &NullReport) -> String {
    let mpps = match outcome.mpps {
        Maybe::Measured(mpps) => format!("{mpps} Mpps"),
        Maybe::Not(_) => "not measured".into(),
    };
    format!(
        "{} flows, null device, engine, null device on one core: {mpps}\n\
         a packet          {} ns; the stage taken off {} ns\n\
         receive and send  {}\n\
         testpmd io        {}\n\
         testpmd macswap   {}\n\
         rate / macswap    {}\n\
         engine hot        {}; over macswap {}\n\
         one-line bound    {}\n\
         {} packets sent, {} dropped, {} decoded; pages {}; {}\n",
        outcome.flows,
        outcome.ns_per_packet.words(),
        outcome.stage_ns.words(),
        outcome.io_ns.words(),
        outcome.testpmd_io_ns.words(),
        outcome.testpmd_macswap_ns.words(),
        outcome.rate_to_macswap.words(),
        outcome.engine_hot_ns.words(),
        outcome.engine_hot_to_macswap.words(),
        outcome.bound_ns.words(),
        outcome.packets_sent,
        outcome.drops,
        outcome.packets_decoded,
        outcome.pages,
        outcome.conditions.words(),
    )
}
