//! `guideway bench residence`: how long a packet is in the engine when the core is not saturated.

use crate::engine::{self, Mode, Rig, Scene, State};
use crate::failure::Failure;
use crate::random::{Picker, Random, Spread};
use crate::report::rounded;
use crate::tsc::Tsc;
use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::VecDeque;

/// A turn longer than this was interrupted by the machine.
const GAP_NS: f64 = 20_000.0;
/// Windows from which the highest rate is taken.
const WINDOWS: usize = 400;
/// Longest residence kept, nanoseconds.
const MAX_NS: u64 = 10_000_000_000;

/// Show how long packets stay in the engine at a load: from arrival to the end of the turn that sends them
///
/// Packets arrive at random (Poisson) at a share of the rate that full bursts reach. Turns are real and timed; time passes in turns only,
/// so that writing frames costs the queue nothing. The second set of figures leaves out packets that waited for a turn of more than 20 us: in
/// those the machine did something else.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Flows in the table
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=crate::flows::FLOWS_MAX))]
    flows: u64,
    /// Share of the highest rate, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u8).range(1..=99))]
    load: u8,
    /// Packets
    #[arg(long, value_name = "N", default_value_t = 5_000_000, value_parser = clap::value_parser!(u64).range(1000..=1_000_000_000))]
    packets: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Huge pages for the table.
    pub fn huge_bytes(&self) -> u64 {
        engine::table_bytes(self.flows) as u64 + (32 << 20)
    }
}

/// Quantiles of residence.
#[derive(Clone, Copy, Debug, Serialize)]
struct Quantiles {
    p50: u64,
    p90: u64,
    p99: u64,
    p99_9: u64,
    max: u64,
}

impl Quantiles {
    fn of(histogram: &Histogram<u64>) -> Quantiles {
        Quantiles {
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p99_9: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}

/// What is printed.
#[derive(Clone, Debug, Serialize)]
struct Outcome {
    flows: u64,
    load_percent: u8,
    mpps: f64,
    packets: u64,
    turns: u64,
    packets_a_turn: f64,
    raw_ns: Quantiles,
    corrected_ns: Quantiles,
    gaps: u64,
    pages: &'static str,
    verified: bool,
}

/// Measures and prints.
///
/// # Errors
/// [`Failure`]; a packet that misses is one.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let tsc = Tsc::measure();
    let scene = Scene::build(Mode::Ipip, 1000, State::All)?;
    let mut rig = Rig::new(&scene, arguments.flows, worker::BURST, tsc)?;
    let mut picker = Picker::new(Spread::Uniform, arguments.flows, 1);
    let full: Vec<f64> = (0..WINDOWS).map(|_| rig.window(&mut picker)).collect::<Result<_, _>>()?;
    let between_ns = crate::statistics::median(&full) * 100.0 / f64::from(arguments.load);
    let histogram =
        || Histogram::<u64>::new_with_bounds(1, MAX_NS, 3).map_err(|e| Failure::Machine(e.to_string()));
    let (mut raw, mut corrected) = (histogram()?, histogram()?);
    let mut random = Random::new(4);
    let mut next_arrival = 0.0_f64;
    let mut queue = VecDeque::new();
    let (mut now, mut done, mut turns, mut gaps, mut busy_turns) = (0.0_f64, 0, 0, 0, 0_u64);
    // Packets that arrived before this waited for an interrupted turn.
    let mut gap_end = f64::NEG_INFINITY;
    while done < arguments.packets {
        while next_arrival <= now {
            queue.push_back(next_arrival);
            next_arrival -= between_ns * random.positive_unit().ln();
        }
        let taken = queue.len().min(worker::BURST);
        let took = rig.turn_of(taken, &mut picker)?;
        now += took;
        turns += 1;
        busy_turns += u64::from(taken > 0);
        if took > GAP_NS {
            gaps += 1;
            // Whoever arrives before the queue is empty again waits because of it.
            gap_end = now;
        } else if queue.len() > worker::BURST
            && gap_end > f64::NEG_INFINITY
            && queue.front().is_some_and(|at| *at <= gap_end)
        {
            gap_end = now;
        }
        for arrived in queue.drain(..taken) {
            let ns = ((now - arrived) as u64).max(1);
            raw.saturating_record(ns);
            if arrived > gap_end {
                corrected.saturating_record(ns);
            }
            done += 1;
        }
    }
    let outcome = Outcome {
        flows: arguments.flows,
        load_percent: arguments.load,
        mpps: rounded(1000.0 / between_ns, 2),
        packets: done,
        turns,
        packets_a_turn: rounded(done as f64 / busy_turns.max(1) as f64, 2),
        raw_ns: Quantiles::of(&raw),
        corrected_ns: Quantiles::of(&corrected),
        gaps,
        pages: rig.pages().name(),
        verified: true,
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&outcome)?);
    } else {
        let words = |q: &Quantiles| {
            format!("p50 {} p90 {} p99 {} p99.9 {} max {} ns", q.p50, q.p90, q.p99, q.p99_9, q.max)
        };
        println!(
            "{} flows at {} % load, {} Mpps, {} packets a busy turn\nas measured        {}\nwithout {} gaps    {}",
            outcome.flows,
            outcome.load_percent,
            outcome.mpps,
            outcome.packets_a_turn,
            words(&outcome.raw_ns),
            outcome.gaps,
            words(&outcome.corrected_ns)
        );
    }
    Ok(())
}
