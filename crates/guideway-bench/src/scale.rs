//! `guideway bench scale`: one worker alone, and two workers of one machine side by side.

use crate::calibration::Calibrator;
use crate::engine::{self, Family, FlowsIn, Mode, Rig, Scene};
use crate::failure::{Failure, wrong};
use crate::machine::Cpus;
use crate::options::Options;
use crate::random::{Picker, Spread};
use crate::report::{self, Conditions, Maybe};
use crate::rounds::CellSet;
use crate::statistics::{Figure, Interval};
use crate::tsc::Tsc;
use clap::Args;
use core_affinity::CoreId;
use serde::Serialize;
use std::cell::RefCell;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

/// Windows of a cell in a round.
const WINDOWS: usize = 64;

/// Time one worker alone, and two workers of one machine side by side
///
/// The two are what the daemon makes for two CPUs: rings between them that both poll, each other's flow tables to read, one
/// picture of the configuration; so whatever two workers share is shared here. Each has its own flows, as the device's
/// receive queues would give them. The second worker runs where this machine does everything else too.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Flows of each worker
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u64).range(1..=16_000_000),
    )]
    flows: u64,
    #[command(flatten)]
    options: Options,
}

impl Arguments {
    /// Huge pages for two tables and calibration.
    pub fn huge_bytes(&self) -> u64 {
        2 * engine::table_bytes(Family::V4, self.flows) as u64 + (192 << 20)
    }
}

/// What is printed.
#[derive(Clone, Debug, Serialize)]
struct ScaleReport {
    flows: u64,
    /// A packet of each worker while the other one rests.
    one_ns: [Maybe<Figure>; 2],
    /// A packet of each worker while the other one works.
    two_ns: [Maybe<Figure>; 2],
    /// Packets a second of two side by side over the sum of what each reaches alone: the share of perfect scaling.
    efficiency: Maybe<Interval>,
    #[serde(flatten)]
    conditions: Conditions,
    verified: bool,
}

/// A worker and the flows of its packets.
#[derive(Debug)]
struct Half {
    rig: Rig,
    picker: Picker,
}

impl Half {
    fn work(&mut self, costs: &mut Vec<f64>) -> Result<(), Failure> {
        self.rig.windows(WINDOWS, &mut self.picker, costs)
    }
}

/// Two workers.
#[derive(Debug)]
struct TwoWorkers {
    first: Half,
    second: Half,
    second_core: CoreId,
    /// Costs of the second, of when it last worked beside the first.
    beside: Vec<f64>,
}

impl TwoWorkers {
    fn new(flows: u64, second_core: CoreId, tsc: Tsc) -> Result<TwoWorkers, Failure> {
        let scene = Scene::build(Mode::Ipip, Family::V4, 1000, FlowsIn::All)?;
        let crew = Rig::crew(&scene, &[(flows, flows); 2], worker::BURST, tsc)?;
        let mut halves = (1..)
            .zip(crew)
            .map(|(seed, rig)| Half { rig, picker: Picker::new(Spread::Uniform, flows, seed) });
        match (halves.next(), halves.next()) {
            (Some(first), Some(second)) => Ok(TwoWorkers { first, second, second_core, beside: Vec::new() }),
            _ => Err(wrong("no crew of two")),
        }
    }

    /// The second worker, on its core, while this thread waits.
    fn second_alone(&mut self, costs: &mut Vec<f64>) -> Result<(), Failure> {
        let (second, core) = (&mut self.second, self.second_core);
        std::thread::scope(|scope| {
            let running = scope.spawn(|| {
                core_affinity::set_for_current(core);
                second.work(costs)
            });
            running.join().unwrap_or_else(|_| Err(wrong("the second worker ended")))
        })
    }

    /// Both at once; the second goes on until the first is done.
    fn together(&mut self, costs: &mut Vec<f64>) -> Result<(), Failure> {
        let (first, second, core) = (&mut self.first, &mut self.second, self.second_core);
        let (start, stop) = (Barrier::new(2), AtomicBool::new(false));
        self.beside.clear();
        let beside = &mut self.beside;
        std::thread::scope(|scope| {
            let running = scope.spawn(|| {
                core_affinity::set_for_current(core);
                // Once before it counts, so that both are warm when the first begins.
                let warm = second.rig.window(&mut second.picker);
                start.wait();
                warm?;
                while !stop.load(Ordering::Relaxed) {
                    beside.push(second.rig.window(&mut second.picker)?);
                }
                Ok::<(), Failure>(())
            });
            start.wait();
            let result = first.work(costs);
            stop.store(true, Ordering::Relaxed);
            result.and(running.join().unwrap_or_else(|_| Err(wrong("the second worker ended"))))
        })
    }
}

/// Measures and prints.
///
/// # Errors
/// [`Failure`]; a packet that misses is one.
pub fn run(arguments: &Arguments, cpus: Cpus) -> Result<(), Failure> {
    let tsc = Tsc::measure();
    let pair = RefCell::new(TwoWorkers::new(arguments.flows, cpus.other()?, tsc)?);
    let mut calibrator = Calibrator::new(tsc)?;
    let measured = {
        let mut cells = CellSet::default();
        cells.add("one/first", |costs| pair.borrow_mut().first.work(costs));
        cells.add("one/second", |costs| pair.borrow_mut().second_alone(costs));
        cells.add("two/first", |costs| pair.borrow_mut().together(costs));
        cells.add("two/second", |costs| {
            costs.append(&mut pair.borrow_mut().beside);
            Ok(())
        });
        arguments.options.measure(&mut calibrator, &mut cells)?
    };
    let all = ["one/first", "one/second", "two/first", "two/second"];
    let outcome = ScaleReport {
        flows: arguments.flows,
        one_ns: [all[0], all[1]].map(|cell| measured.cost(cell)),
        two_ns: [all[2], all[3]].map(|cell| measured.cost(cell)),
        efficiency: measured.combined(&all, |v| (1.0 / v[2] + 1.0 / v[3]) / (1.0 / v[0] + 1.0 / v[1])),
        conditions: Conditions::from(&measured),
        verified: true,
    };
    report::print(arguments.options.json, &outcome, for_people)
}

fn for_people(outcome: &ScaleReport) -> String {
    let pair = |of: &[Maybe<Figure>; 2]| of.map(|figure| figure.words()).join(" and ");
    format!(
        "one worker alone  {}\ntwo side by side  {}\nefficiency        {}\n{}",
        pair(&outcome.one_ns),
        pair(&outcome.two_ns),
        outcome.efficiency.words(),
        outcome.conditions.words()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_workers_work_alone_and_together() {
        let core = core_affinity::get_core_ids().expect("cores")[0];
        let mut pair = TwoWorkers::new(2000, core, Tsc::measure()).expect("two workers");
        let mut costs = Vec::new();
        pair.second_alone(&mut costs).expect("all packets hit");
        assert_eq!(costs.len(), WINDOWS);
        pair.together(&mut costs).expect("all packets hit");
        assert_eq!(costs.len(), 2 * WINDOWS);
    }
}
