//! `guideway bench engine`: the real turn, parse to encapsulation, on frames in memory.

mod check;
mod frame;
mod io;
mod rig;
mod scene;

pub use check::Expected;
pub use frame::FrameWriter;
pub use rig::{Parts, Rig, WaitingPacket, WithViews, table_bytes};
pub use scene::{Family, FlowsIn, Mode, Scene, mode_parser};

use crate::bound::Lines;
use crate::calibration::Calibrator;
use crate::failure::Failure;
use crate::flows::FLOWS_MAX;
use crate::footprint::Footprint;
use crate::options::Options;
use crate::random::{Picker, Spread};
use crate::report::{self, Conditions, Maybe, rounded};
use crate::rounds::{CellSet, Measured};
use crate::statistics::{Figure, Interval};
use crate::tsc::Tsc;
use clap::Args;
use dpdk::pages::PageKind;
use serde::Serialize;
use std::cell::RefCell;

/// Windows of a cell in a round.
pub(crate) const WINDOWS: usize = 64;
/// Lines of a window of the bound: as many as a window has packets.
pub(crate) const LINES: usize = rig::WINDOW;
/// Flows of the cell that shows what a packet costs without cache misses.
const HOT_FLOWS: u64 = 1000;
/// Above this a hot cell is measured in addition.
const COLD_FLOWS: u64 = 100_000;

/// Time the engine: parse to encapsulation in memory, every packet a verified hit
///
/// Frames of real flows are written outside the timed part, and every packet must find its flow and leave for its flow's
/// backend. The cost stands beside the one-line bound: what one random look into memory of the table's size costs.
/// Needs no root; says which pages it used.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Flows in the table
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1_000_000,
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
    #[arg(long, value_parser = mode_parser(), default_value = Mode::Ipip.as_str())]
    mode: Mode,
    /// IPv4 or IPv6: clients, VIP and backends
    #[arg(long, value_enum, default_value_t = Family::V4)]
    family: Family,
    /// Packets a turn receives
    #[arg(
        long,
        value_name = "N",
        default_value_t = 32,
        value_parser = clap::value_parser!(u16).range(1..=32),
    )]
    burst: u16,
    /// How packets are spread over the flows
    #[arg(long, value_enum, default_value_t = Spread::Uniform)]
    keys: Spread,
    /// What the service remembers
    #[arg(long, value_enum, default_value_t = FlowsIn::All)]
    state: FlowsIn,
    #[command(flatten)]
    options: Options,
    /// Add ratios, bytes a flow and the hot cost to the JSON
    #[arg(long, requires = "json")]
    detail: bool,
}

impl Arguments {
    /// Huge pages for the table, the bound's lines beside it and calibration.
    pub fn huge_bytes(&self) -> u64 {
        2 * table_bytes(self.family, self.flows) as u64 + (256 << 20)
    }
}

/// What is printed.
#[derive(Clone, Copy, Debug, Serialize)]
struct EngineReport {
    flows: u64,
    mode: &'static str,
    burst: u16,
    ns_per_packet: Maybe<Figure>,
    bound_ns: Maybe<Figure>,
    #[serde(flatten)]
    conditions: Conditions,
    pages: &'static str,
    verified: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Detail>,
}

/// For the gates.
#[derive(Clone, Copy, Debug, Serialize)]
struct Detail {
    backends: u32,
    family: Family,
    state: FlowsIn,
    keys: Spread,
    packets_checked: u64,
    bytes_per_flow: f64,
    /// Cost over the bound.
    ratio_to_bound: Maybe<Interval>,
    /// The same turn with every flow remembered, but so few that all is in the cache.
    hot_ns: Maybe<Figure>,
    /// Cost less bound less hot cost.
    excess_ns: Maybe<Interval>,
    /// Cost over hot cost.
    ratio_to_hot: Maybe<Interval>,
    /// A turn that finds nothing to do; contained in the cost.
    empty_turn_ns: Maybe<Figure>,
}

/// Measures and prints.
///
/// # Errors
/// [`Failure`]; a packet that missed or went to the wrong backend is one.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let tsc = Tsc::measure();
    let build = |state| Scene::build(arguments.mode, arguments.family, arguments.backends, state);
    let (scene, all) = (build(arguments.state)?, build(FlowsIn::All)?);
    let burst = usize::from(arguments.burst);
    let before = Footprint::now();
    let mut rig = Rig::new(&scene, arguments.flows, burst, tsc)?;
    let bytes_per_flow = before.growth().bytes() as f64 / arguments.flows as f64;
    let is_cold = arguments.flows > COLD_FLOWS || arguments.state != FlowsIn::All;
    let mut hot = match is_cold {
        false => None,
        true => Some(Rig::new(&all, HOT_FLOWS, burst, tsc)?),
    };
    let lines = Lines::new(rig.table_bytes())?;
    let pages = rig.pages();
    if pages != PageKind::Huge {
        let kind = if pages == PageKind::Small { "4 KiB pages" } else { "transparent huge pages" };
        eprintln!("note: no reserved huge pages; the table is in {kind} (sysctl vm.nr_hugepages)");
    }
    let mut calibrator = Calibrator::new(tsc)?;
    let measured = {
        let mut picker = Picker::new(arguments.keys, arguments.flows, 1);
        let rig = RefCell::new(&mut rig);
        let mut cells = CellSet::default();
        cells.add("bound", lines.cell(tsc, LINES, WINDOWS));
        cells.add("engine", |costs| rig.borrow_mut().windows(WINDOWS, &mut picker, costs));
        cells.add("empty", |windows| {
            windows.push(rig.borrow_mut().empty_turn());
            Ok(())
        });
        if let Some(hot) = &mut hot {
            let mut picker = Picker::new(arguments.keys, HOT_FLOWS, 2);
            cells.add("hot", move |costs| hot.windows(WINDOWS / 2, &mut picker, costs));
        }
        arguments.options.measure(&mut calibrator, &mut cells)?
    };
    let checked = rig.packets_checked() + hot.as_ref().map_or(0, Rig::packets_checked);
    let outcome = EngineReport {
        flows: arguments.flows,
        mode: arguments.mode.as_str(),
        burst: arguments.burst,
        ns_per_packet: measured.cost("engine"),
        bound_ns: measured.cost("bound"),
        conditions: Conditions::from(&measured),
        pages: pages.name(),
        verified: true,
        detail: arguments.detail.then(|| detail(arguments, &measured, bytes_per_flow, checked)),
    };
    report::print(arguments.options.json, &outcome, |outcome| {
        for_people(outcome, &detail(arguments, &measured, bytes_per_flow, checked))
    })
}

fn detail(arguments: &Arguments, measured: &Measured, bytes_per_flow: f64, packets_checked: u64) -> Detail {
    let is_cold = arguments.flows > COLD_FLOWS || arguments.state != FlowsIn::All;
    let hot = if is_cold { "hot" } else { "engine" };
    Detail {
        backends: arguments.backends,
        family: arguments.family,
        state: arguments.state,
        keys: arguments.keys,
        packets_checked,
        bytes_per_flow: rounded(bytes_per_flow, 2),
        ratio_to_bound: measured.compared("engine", "bound"),
        hot_ns: measured.cost(hot),
        excess_ns: measured.combined(&["engine", "bound", hot], |v| v[0] - v[1] - v[2]),
        ratio_to_hot: measured.compared("engine", hot),
        empty_turn_ns: measured.cost("empty"),
    }
}

fn for_people(outcome: &EngineReport, detail: &Detail) -> String {
    format!(
        "{} flows, {} backends, bursts of {}, pages {}\n\
         a packet       {}\n\
         one-line bound {}\n\
         cost / bound   {}\n\
         hot            {}\n\
         empty turn     {}\n\
         a flow takes   {} bytes\n\
         {} packets checked; {}\n",
        outcome.flows,
        detail.backends,
        outcome.burst,
        outcome.pages,
        outcome.ns_per_packet.words(),
        outcome.bound_ns.words(),
        detail.ratio_to_bound.words(),
        detail.hot_ns.words(),
        detail.empty_turn_ns.words(),
        detail.bytes_per_flow,
        detail.packets_checked,
        outcome.conditions.words(),
    )
}
