//! `guideway bench residence`: how long a packet is in the engine when the core is not saturated.

mod queue;

use crate::calibration::Calibrator;
use crate::engine::{self, Family, FlowsIn, Mode, Rig, Scene};
use crate::failure::Failure;
use crate::gaps::Gaps;
use crate::options::Options;
use crate::quantiles::{self, Quantiles};
use crate::random::{Picker, Spread};
use crate::report::{self, Conditions, Maybe, rounded};
use crate::rounds::{CellSet, Measured};
use crate::statistics::{Figure, Interval, median};
use crate::tsc::Tsc;
use clap::Args;
use hdrhistogram::Histogram;
use queue::QueueTimes;
use serde::Serialize;
use std::cell::RefCell;
use std::time::Duration;

/// Turns with full bursts from which a round takes the highest rate; as many before them bring the core to its pace.
const FULL_TURNS: usize = 1024;
/// How long a round looks for gaps with nothing running but the clock.
const CONTROL: Duration = Duration::from_millis(10);
/// The quantiles that have an interval.
const SHARES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

/// Show how long packets stay in the engine at a load: from arrival to the end of the turn that sends them
///
/// Packets arrive at random (Poisson) at a share of the rate that full bursts reach in the same round, into a queue of 1024 as a
/// device has it. Turns are real and timed; time passes in turns only, so that writing frames costs the queue nothing. Twice a
/// round: as measured, and with every turn of more than 20 us, in which the machine did something else, counted as a turn
/// with a full burst. A poller that does nothing but read the clock shows the machine's gaps for comparison.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Flows in the table
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100_000,
        value_parser = clap::value_parser!(u64).range(1..=crate::flows::FLOWS_MAX),
    )]
    flows: u64,
    /// Share of the highest rate, percent
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 80,
        value_parser = clap::value_parser!(u8).range(1..=99),
    )]
    load: u8,
    /// Packets of a round
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100_000,
        value_parser = clap::value_parser!(u64).range(1000..=100_000_000),
    )]
    packets: u64,
    #[command(flatten)]
    options: Options,
}

impl Arguments {
    /// Huge pages for the table and calibration.
    pub fn huge_bytes(&self) -> u64 {
        engine::table_bytes(Family::V4, self.flows) as u64 + (160 << 20)
    }
}

/// What is printed.
#[derive(Clone, Debug, Serialize)]
struct ResidenceReport {
    flows: u64,
    load_percent: u8,
    /// A packet in full bursts.
    full_ns: Maybe<Figure>,
    mpps: Maybe<f64>,
    packets: u64,
    packets_a_turn: f64,
    /// Share of the time that turns with packets took.
    utilization: f64,
    raw_ns: Maybe<Quantiles>,
    /// Without the machine's gaps.
    corrected_ns: Maybe<Quantiles>,
    /// The median over the rounds of each round's quantile, with its interval.
    corrected_by_round_ns: std::collections::BTreeMap<&'static str, Maybe<Interval>>,
    /// Packets for which the queue had no room, as measured and corrected.
    overflowed: [u64; 2],
    /// Turns of more than 20 us.
    gaps: u64,
    /// What a poller saw that did nothing else.
    control: Gaps,
    #[serde(flatten)]
    conditions: Conditions,
    pages: &'static str,
    verified: bool,
}

/// The engine, and what came of every round so far.
#[derive(Debug)]
struct ResidenceRounds {
    rig: Rig,
    picker: Picker,
    load_percent: u8,
    packets: u64,
    tsc: Tsc,
    /// A packet in full bursts, in the round under way.
    full_ns: f64,
    raw: Vec<QueueTimes>,
    corrected: Vec<QueueTimes>,
    control: Vec<Gaps>,
}

impl ResidenceRounds {
    /// Full bursts, in turns like those that the queue takes.
    fn full(&mut self, costs: &mut Vec<f64>) -> Result<(), Failure> {
        for _ in 0..FULL_TURNS {
            self.rig.turn_of(worker::BURST, &mut self.picker)?;
        }
        for _ in 0..FULL_TURNS {
            costs.push(self.rig.turn_of(worker::BURST, &mut self.picker)? / worker::BURST as f64);
        }
        self.full_ns = median(costs);
        Ok(())
    }

    /// A queue at the load, from empty; with its quantiles by round.
    fn queue(&mut self, corrected: bool) -> Result<(), Failure> {
        let between_ns = self.full_ns * 100.0 / f64::from(self.load_percent);
        // What an interrupted turn would have taken, at the most.
        let gap_ns = corrected.then_some(self.full_ns * worker::BURST as f64);
        let queue = QueueTimes::run(&mut self.rig, &mut self.picker, between_ns, gap_ns, self.packets)?;
        if corrected { &mut self.corrected } else { &mut self.raw }.push(queue);
        Ok(())
    }

    fn control(&mut self) {
        self.control.push(Gaps::watch(self.tsc, CONTROL));
    }

    /// The queues of the rounds kept. The first of all was for warming.
    fn kept<'a, T>(all: &'a [T], measured: &'a Measured) -> impl Iterator<Item = &'a T> {
        measured.kept().iter().filter_map(|round| all.get(round + 1))
    }

    fn quantiles(all: &[QueueTimes], measured: &Measured) -> Result<Maybe<Quantiles>, Failure> {
        if !measured.is_measured() {
            return Ok(Maybe::from(None));
        }
        let mut merged: Histogram<u64> = quantiles::histogram()?;
        for queue in ResidenceRounds::kept(all, measured) {
            merged.add(&queue.residence).map_err(|e| Failure::Machine(e.to_string()))?;
        }
        Ok(Maybe::from(Some(Quantiles::of(&merged))))
    }
}

/// Measures and prints.
///
/// # Errors
/// [`Failure`]; a packet that misses is one.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let tsc = Tsc::measure();
    let scene = Scene::build(Mode::Ipip, Family::V4, 1000, FlowsIn::All)?;
    let rounds = RefCell::new(ResidenceRounds {
        rig: Rig::new(&scene, arguments.flows, worker::BURST, tsc)?,
        picker: Picker::new(Spread::Uniform, arguments.flows, 1),
        load_percent: arguments.load,
        packets: arguments.packets,
        tsc,
        full_ns: 0.0,
        raw: Vec::new(),
        corrected: Vec::new(),
        control: Vec::new(),
    });
    let mut calibrator = Calibrator::new(tsc)?;
    let measured = {
        let mut cells = CellSet::default();
        cells.add("control", |_| {
            rounds.borrow_mut().control();
            Ok(())
        });
        cells.add("full", |costs| rounds.borrow_mut().full(costs));
        cells.add("raw", |_| rounds.borrow_mut().queue(false));
        cells.add("corrected", |_| rounds.borrow_mut().queue(true));
        for (name, share) in SHARES {
            let rounds = &rounds;
            cells.add(name, move |costs| {
                let rounds = rounds.borrow();
                costs.extend(rounds.corrected.last().map(|q| q.residence.value_at_quantile(share) as f64));
                Ok(())
            });
        }
        arguments.options.measure(&mut calibrator, &mut cells)?
    };
    let rounds = rounds.into_inner();
    let sum = |all, of: fn(&QueueTimes) -> u64| ResidenceRounds::kept(all, &measured).map(of).sum::<u64>();
    let packets = sum(&rounds.corrected, |queue| queue.residence.len());
    let busy_turns = sum(&rounds.corrected, |queue| queue.busy_turns);
    let busy_ns = sum(&rounds.corrected, |queue| queue.busy_ns as u64);
    let all_ns = sum(&rounds.corrected, |queue| queue.all_ns as u64);
    let full = measured.figure("full");
    let rate = full.map(|full| rounded(f64::from(arguments.load) * 10.0 / full.median, 2));
    let outcome = ResidenceReport {
        flows: arguments.flows,
        load_percent: arguments.load,
        full_ns: measured.cost("full"),
        mpps: Maybe::from(rate),
        packets,
        packets_a_turn: rounded(packets as f64 / busy_turns.max(1) as f64, 2),
        utilization: rounded(busy_ns as f64 / all_ns.max(1) as f64, 3),
        raw_ns: ResidenceRounds::quantiles(&rounds.raw, &measured)?,
        corrected_ns: ResidenceRounds::quantiles(&rounds.corrected, &measured)?,
        corrected_by_round_ns: SHARES
            .map(|(name, _)| (name, measured.combined(&[name], |v| v[0])))
            .into_iter()
            .collect(),
        overflowed: [&rounds.raw, &rounds.corrected].map(|all| sum(all, |queue| queue.overflowed)),
        gaps: sum(&rounds.corrected, |queue| queue.gaps),
        control: Gaps::sum(ResidenceRounds::kept(&rounds.control, &measured)),
        conditions: Conditions::from(&measured),
        pages: rounds.rig.pages().name(),
        verified: true,
    };
    report::print(arguments.options.json, &outcome, for_people)
}

fn for_people(outcome: &ResidenceReport) -> String {
    format!(
        "{} flows at {} % load, {} packets a busy turn, which take {} of the time\n\
         as measured    {}\n\
         without gaps   {}\n\
         {} turns were interrupted for more than 20 us; a poller alone: {}\n\
         packets without room in the queue: {} as measured, {} without gaps\n{}",
        outcome.flows,
        outcome.load_percent,
        outcome.packets_a_turn,
        outcome.utilization,
        outcome.raw_ns.words(),
        outcome.corrected_ns.words(),
        outcome.gaps,
        outcome.control.words(),
        outcome.overflowed[0],
        outcome.overflowed[1],
        outcome.conditions.words(),
    )
}
