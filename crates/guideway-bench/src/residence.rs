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
/// so that writing frames costs the queue nothing. For the second set of figures a turn of more than 20 us, in which the machine did
/// something else, counts as long as a full burst takes.
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

/// A queue before the engine, in the engine's own time.
struct Simulation<'a> {
    rig: &'a mut Rig,
    picker: &'a mut Picker,
    /// Mean time between arrivals.
    between_ns: f64,
    /// What an interrupted turn counts; as it is measured, if `None`.
    gap_ns: Option<f64>,
}

/// What came of it.
struct Simulated {
    residence: Histogram<u64>,
    turns: u64,
    busy_turns: u64,
    gaps: u64,
}

impl Simulation<'_> {
    fn run(&mut self, packets: u64) -> Result<Simulated, Failure> {
        let residence = Histogram::<u64>::new_with_bounds(1, MAX_NS, 3);
        let residence = residence.map_err(|e| Failure::Machine(e.to_string()))?;
        let mut done = Simulated { residence, turns: 0, busy_turns: 0, gaps: 0 };
        let mut random = Random::new(4);
        let (mut now, mut next_arrival) = (0.0_f64, 0.0_f64);
        let mut queue = VecDeque::new();
        while done.residence.len() < packets {
            while next_arrival <= now {
                queue.push_back(next_arrival);
                next_arrival -= self.between_ns * random.positive_unit().ln();
            }
            let taken = queue.len().min(worker::BURST);
            let took = self.rig.turn_of(taken, self.picker)?;
            done.turns += 1;
            done.busy_turns += u64::from(taken > 0);
            done.gaps += u64::from(took > GAP_NS);
            now += self.gap_ns.filter(|_| took > GAP_NS).unwrap_or(took);
            for arrived in queue.drain(..taken) {
                done.residence.saturating_record(((now - arrived) as u64).max(1));
            }
        }
        Ok(done)
    }
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
    let full_ns = crate::statistics::median(&full);
    let between_ns = full_ns * 100.0 / f64::from(arguments.load);
    let mut simulate = |gap_ns: Option<f64>| {
        let mut simulation = Simulation { rig: &mut rig, picker: &mut picker, between_ns, gap_ns };
        simulation.run(arguments.packets)
    };
    let raw = simulate(None)?;
    // What an interrupted turn would have taken, at the most: a full burst.
    let corrected = simulate(Some(full_ns * worker::BURST as f64))?;
    let outcome = Outcome {
        flows: arguments.flows,
        load_percent: arguments.load,
        mpps: rounded(1000.0 / between_ns, 2),
        packets: corrected.residence.len(),
        turns: corrected.turns,
        packets_a_turn: rounded(corrected.residence.len() as f64 / corrected.busy_turns.max(1) as f64, 2),
        raw_ns: Quantiles::of(&raw.residence),
        corrected_ns: Quantiles::of(&corrected.residence),
        gaps: corrected.gaps,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_stay_at_least_for_their_turn() {
        let scene = Scene::build(Mode::Ipip, 3, State::All).expect("a scene");
        let mut rig = Rig::new(&scene, 1000, worker::BURST, Tsc::measure()).expect("a rig");
        let mut picker = Picker::new(Spread::Uniform, 1000, 1);
        // So slow that each packet is alone, if the machine allows.
        let mut simulation =
            Simulation { rig: &mut rig, picker: &mut picker, between_ns: 1e6, gap_ns: Some(1000.0) };
        let done = simulation.run(200).expect("all packets hit");
        assert_eq!(done.residence.len(), 200);
        assert!(done.busy_turns <= 200 && done.turns >= done.busy_turns);
        let quantiles = Quantiles::of(&done.residence);
        assert!(quantiles.p50 > 0 && quantiles.p50 <= quantiles.p99 && quantiles.p99 <= quantiles.max);
    }
}
