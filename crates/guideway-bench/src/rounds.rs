//! Interleaved rounds: calibrate, every cell once, calibrate. What the machine disturbed is discarded and counted; where it disturbed
//! nearly all, figures are of the least disturbed rounds and say so.

mod discard;

use crate::calibration::{Calibration, Calibrator};
use crate::failure::Failure;
use crate::statistics::{self, Figure, Interval};
use discard::{Choice, Limits};
use std::time::{Duration, Instant};

/// One thing that is measured in every round: appends the cost of each of its windows, nanoseconds an operation.
pub type Cell<'a> = Box<dyn FnMut(&mut Vec<f64>) -> Result<(), Failure> + 'a>;

/// Cells by name, in the order in which they run.
#[derive(Default)]
pub struct CellSet<'a> {
    names: Vec<String>,
    runs: Vec<Cell<'a>>,
}

impl<'a> CellSet<'a> {
    /// Adds a cell.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        run: impl FnMut(&mut Vec<f64>) -> Result<(), Failure> + 'a,
    ) {
        self.names.push(name.into());
        self.runs.push(Box::new(run));
    }
}

impl std::fmt::Debug for CellSet<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.names).finish()
    }
}

/// What the rounds gave.
#[derive(Clone, Debug)]
pub struct Measured {
    names: Vec<String>,
    /// By round, then by cell: the windows.
    rounds: Vec<Vec<Vec<f64>>>,
    kept: Vec<usize>,
    /// Fewer than 30 % of the rounds were quiet: those kept are the least disturbed 30 %.
    pub disturbed: bool,
    /// The median of the calibrations of the rounds kept.
    pub calibration: Calibration,
    /// Rounds run.
    pub rounds_total: usize,
}

/// Runs one round for warming, then up to `rounds`, fewer when `patience` is over (but at least three).
///
/// # Errors
/// A cell's.
pub fn measure(
    calibrator: &mut Calibrator,
    cells: &mut CellSet<'_>,
    rounds: usize,
    patience: Duration,
) -> Result<Measured, Failure> {
    let started = Instant::now();
    let mut all = Vec::with_capacity(rounds);
    let mut ends: Vec<(Calibration, Calibration)> = Vec::with_capacity(rounds);
    calibrator.rest();
    calibrator.take()?;
    for run in &mut cells.runs {
        run(&mut Vec::new())?;
    }
    for round in 0..rounds.max(1) {
        if round >= 3 && started.elapsed() > patience {
            break;
        }
        calibrator.rest();
        let before = calibrator.take()?;
        let mut by_cell = Vec::with_capacity(cells.runs.len());
        for run in &mut cells.runs {
            let mut windows = Vec::new();
            calibrator.rest();
            run(&mut windows)?;
            by_cell.push(windows);
        }
        calibrator.rest();
        ends.push((before, calibrator.take()?));
        all.push(by_cell);
    }
    Ok(Measured::new(cells.names.clone(), all, &ends))
}

impl Measured {
    fn new(names: Vec<String>, rounds: Vec<Vec<Vec<f64>>>, ends: &[(Calibration, Calibration)]) -> Measured {
        let Choice { rounds: kept, disturbed } = Limits::default().choose(ends);
        let typical = |of: fn(&Calibration) -> f64| {
            let values: Vec<f64> =
                kept.iter().flat_map(|&round| [of(&ends[round].0), of(&ends[round].1)]).collect();
            statistics::median(&values)
        };
        let calibration =
            Calibration { adds_per_tsc: typical(|c| c.adds_per_tsc), line_ns: typical(|c| c.line_ns) };
        Measured { names, rounds_total: rounds.len(), rounds, kept, disturbed, calibration }
    }

    /// Which rounds were kept, from 0, in order.
    pub fn kept(&self) -> &[usize] {
        &self.kept
    }

    /// Rounds kept.
    pub fn rounds_kept(&self) -> usize {
        self.kept.len()
    }

    /// Whether there is a round to make numbers of.
    pub fn is_measured(&self) -> bool {
        !self.kept.is_empty()
    }

    fn index(&self, cell: &str) -> Option<usize> {
        self.names.iter().position(|name| name == cell)
    }

    /// p5 and median of a cell's windows in the rounds kept; `None` when it was not measured.
    pub fn figure(&self, cell: &str) -> Option<Figure> {
        let index = self.index(cell)?;
        if !self.is_measured() {
            return None;
        }
        let windows: Vec<f64> =
            self.kept.iter().flat_map(|&round| self.rounds[round][index].iter().copied()).collect();
        statistics::figure(&windows)
    }

    /// The median of a cell's windows in each round kept.
    fn per_round(&self, cell: &str) -> Option<Vec<f64>> {
        let index = self.index(cell)?;
        Some(self.kept.iter().map(|&round| statistics::median(&self.rounds[round][index])).collect())
    }

    /// Median over the rounds kept of a value made from the medians of cells in one round, with its interval; `None` when it was
    /// not measured.
    pub fn derived(&self, cells: &[&str], of: impl Fn(&[f64]) -> f64) -> Option<Interval> {
        if !self.is_measured() {
            return None;
        }
        let columns = cells.iter().map(|cell| self.per_round(cell)).collect::<Option<Vec<_>>>()?;
        let values: Vec<f64> = (0..self.kept.len())
            .map(|round| of(&columns.iter().map(|column| column[round]).collect::<Vec<_>>()))
            .filter(|value| value.is_finite())
            .collect();
        statistics::interval(&values)
    }

    /// The median of per-round ratios of two cells, with its interval.
    pub fn ratio(&self, of: &str, to: &str) -> Option<Interval> {
        self.derived(&[of, to], |values| values[0] / values[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calibration(adds: f64, line: f64) -> Calibration {
        Calibration { adds_per_tsc: adds, line_ns: line }
    }

    #[test]
    fn figures_and_ratios_of_known_rounds() {
        // Ours costs half of the peer's in every round, whatever the machine did; the third round is thrown away.
        let rounds = vec![
            vec![vec![4.0, 5.0, 6.0], vec![10.0]],
            vec![vec![8.0, 8.0], vec![16.0]],
            vec![vec![100.0], vec![1.0]],
        ];
        let same = (calibration(4.0, 10.0), calibration(4.0, 10.0));
        let changed = (calibration(4.0, 10.0), calibration(2.0, 10.0));
        let measured = Measured::new(vec!["ours".into(), "peer".into()], rounds, &[same, same, changed]);
        assert_eq!((measured.rounds_kept(), measured.rounds_total), (2, 3));
        assert_eq!(measured.figure("ours").expect("measured").median, 6.0);
        let ratio = measured.ratio("ours", "peer").expect("measured");
        assert_eq!((ratio.median, ratio.low, ratio.high), (0.5, 0.5, 0.5));
        let sum = measured.derived(&["ours", "peer"], |v| v[0] + v[1]).expect("measured");
        assert_eq!(sum.median, 19.5);
        assert_eq!(measured.figure("nobody"), None);
        assert_eq!(measured.calibration, calibration(4.0, 10.0));
    }

    #[test]
    fn a_machine_that_is_not_quiet_gives_a_figure_that_says_so() {
        let changed = (calibration(4.0, 10.0), calibration(2.0, 10.0));
        let same = (calibration(4.0, 10.0), calibration(4.0, 10.0));
        let ends = [changed, same, changed, changed];
        let rounds = [[8.0], [1.0], [16.0], [32.0]].map(|window| vec![window.to_vec()]).to_vec();
        let measured = Measured::new(vec!["ours".into()], rounds.clone(), &ends);
        assert!(measured.is_measured() && measured.disturbed);
        assert_eq!(
            measured.kept(),
            [0, 1],
            "the quiet one, and the first of those that are equally disturbed"
        );
        assert_eq!(measured.figure("ours").expect("a figure").median, 4.5);
        let quiet = Measured::new(vec!["ours".into()], rounds, &[same; 4]);
        assert!(!quiet.disturbed);
        assert_eq!(quiet.rounds_kept(), 4);
    }

    #[test]
    fn no_round_is_no_measurement() {
        let measured = Measured::new(vec!["ours".into()], vec![], &[]);
        assert!(!measured.is_measured());
        assert_eq!(measured.figure("ours"), None);
        assert_eq!(measured.ratio("ours", "ours"), None);
    }
}
