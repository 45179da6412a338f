//! Echo of several programs at the same absolute rates, in interleaved rounds.

use super::TrialPath;
use super::frame::Sizes;
use super::trial::{Latencies, Trial};
use crate::calibration::Calibrator;
use crate::failure::Failure;
use crate::gaps::Gaps;
use crate::machine;
use crate::options::Options;
use crate::quantiles::Quantiles;
use crate::report::{Conditions, Maybe, rounded};
use crate::rounds::{CellSet, Measured};
use crate::statistics::Interval;
use crate::tsc::Tsc;
use serde::Serialize;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

/// Shares of the lowest rate found at which all are compared.
const LOADS_PERCENT: [u32; 3] = [10, 50, 80];
/// The quantiles that are compared.
const SHARES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99_9", 0.999)];
/// Length of a trial: short, so that rounds are.
const LENGTH: Duration = Duration::from_millis(50);
/// How long the CPU of the programs is watched in a round, while all of them rest.
const CONTROL: Duration = Duration::from_millis(10);

/// A contest to be run.
#[derive(Debug)]
pub(super) struct Contest<'a> {
    pub(super) path: &'a mut TrialPath,
    pub(super) sizes: &'a Sizes,
    /// The rate that all programs reach.
    pub(super) lowest_pps: f64,
    /// Their CPU.
    pub(super) cpu: usize,
    pub(super) tsc: Tsc,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ContestReport {
    loads: Vec<ContestLoad>,
    /// What a poller saw on the programs' CPU while they rested.
    control: Gaps,
    #[serde(flatten)]
    conditions: Conditions,
}

/// One rate.
#[derive(Clone, Debug, Serialize)]
struct ContestLoad {
    load_percent: u32,
    mpps: f64,
    of: Vec<ContestProgram>,
    /// The first program's over the second's, without windows that a gap overlaps.
    ratios: BTreeMap<&'static str, Maybe<Interval>>,
}

/// One program at one rate.
#[derive(Clone, Debug, Serialize)]
struct ContestProgram {
    name: String,
    /// Of all rounds kept.
    raw_ns: Maybe<Quantiles>,
    corrected_ns: Maybe<Quantiles>,
    /// Share of the windows left out of the latter.
    removed: f64,
    lost: u64,
    /// Time for which nothing came back although packets were under way; a part is the machine's.
    silences: Gaps,
}

/// One cell's trials, a round each.
#[derive(Debug, Default)]
struct Log {
    trials: RefCell<Vec<Trial>>,
}

impl Log {
    /// The trials of the rounds kept. The first of all was for warming.
    fn kept(&self, measured: &Measured) -> Vec<Trial> {
        let trials = self.trials.borrow();
        measured.kept().iter().filter_map(|round| trials.get(round + 1)).cloned().collect()
    }
}

fn cell(quantile: &str, load_percent: u32, program: usize) -> String {
    format!("{load_percent}/{program}/{quantile}")
}

impl Contest<'_> {
    pub(super) fn run(self, options: &Options) -> Result<ContestReport, Failure> {
        let Contest { path, sizes, lowest_pps, cpu, tsc } = self;
        let names = path.setup.names();
        let rate = |load_percent: u32| lowest_pps * f64::from(load_percent) / 100.0;
        path.length = LENGTH;
        let path = RefCell::new(path);
        let all = || LOADS_PERCENT.into_iter().flat_map(|load| (0..names.len()).map(move |n| (load, n)));
        let logs: BTreeMap<(u32, usize), Log> = all().map(|key| (key, Log::default())).collect();
        let control = RefCell::new(Vec::new());
        let mut calibrator = Calibrator::of(cpu, 0, tsc)?;
        let measured = {
            let mut cells = CellSet::default();
            cells.add("control", |_| {
                machine::move_to(cpu)?;
                control.borrow_mut().push(Gaps::watch(tsc, CONTROL));
                machine::move_to(0)
            });
            for (&(load, program), log) in &logs {
                for (position, (name, share)) in SHARES.into_iter().enumerate() {
                    let path = &path;
                    cells.add(cell(name, load, program), move |costs| {
                        // The first cell runs the trial for all.
                        if position == 0 {
                            let mut path = path.borrow_mut();
                            log.trials.borrow_mut().push(path.trial(program, sizes, rate(load), true)?);
                        }
                        let trials = log.trials.borrow();
                        let last = trials.last().map(|trial| &trial.latencies);
                        // Nothing in a round without enough left: its ratio is then left out.
                        let enough = last.filter(|of| of.corrected_quantiles().is_some());
                        costs.extend(enough.map(|of| of.corrected.value_at_quantile(share) as f64));
                        Ok(())
                    });
                }
            }
            options.measure(&mut calibrator, &mut cells)?
        };
        let of_load = |load_percent: u32| {
            let of = |(program, name): (usize, &String)| {
                let trials = logs.get(&(load_percent, program)).map(|log| log.kept(&measured));
                ContestProgram::new(name, &trials.unwrap_or_default(), measured.is_measured())
            };
            let ratio = |name| measured.compared(&cell(name, load_percent, 0), &cell(name, load_percent, 1));
            Ok(ContestLoad {
                load_percent,
                mpps: rounded(rate(load_percent) / 1e6, 4),
                of: names.iter().enumerate().map(of).collect::<Result<_, Failure>>()?,
                ratios: SHARES.into_iter().map(|(name, _)| (name, ratio(name))).collect(),
            })
        };
        let control = control.into_inner();
        let watched = measured.kept().iter().filter_map(|round| control.get(round + 1));
        Ok(ContestReport {
            loads: LOADS_PERCENT.into_iter().map(of_load).collect::<Result<_, Failure>>()?,
            control: Gaps::sum(watched),
            conditions: Conditions::from(&measured),
        })
    }
}

impl ContestProgram {
    fn new(name: &str, trials: &[Trial], measured: bool) -> Result<ContestProgram, Failure> {
        let mut sum = Latencies::new()?;
        for trial in trials {
            sum.add(&trial.latencies)?;
        }
        Ok(ContestProgram {
            name: name.to_owned(),
            raw_ns: Maybe::from(measured.then(|| Quantiles::of(&sum.raw))),
            corrected_ns: Maybe::from(sum.corrected_quantiles().filter(|_| measured)),
            removed: rounded(sum.removed as f64 / sum.windows.max(1) as f64, 3),
            lost: trials.iter().map(Trial::lost).sum(),
            silences: Gaps::sum(trials.iter().map(|trial| &trial.silences)),
        })
    }
}

impl ContestReport {
    pub(super) fn for_people(&self) -> String {
        let mut text = String::new();
        for load in &self.loads {
            text += &format!("echo at {} Mpps ({} % of the lowest NDR)\n", load.mpps, load.load_percent);
            for of in &load.of {
                for (what, quantiles) in [("raw", &of.raw_ns), ("corrected", &of.corrected_ns)] {
                    text += &format!("  {:<16} {what:<10} {}\n", of.name, quantiles.words());
                }
            }
            for (name, ratio) in &load.ratios {
                text += &format!("  {:<16} {name:<10} {}\n", "first / second", ratio.words());
            }
        }
        text + &format!("poller alone: {}\n{}\n", self.control.words(), self.conditions.words())
    }
}
