//! Which rounds the machine disturbed.

use crate::calibration::Calibration;

/// How far a calibration may be off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Between the two ends of a round.
    between_ends: f64,
    /// Below the best of the session.
    below_best: f64,
}

/// The rounds that figures are made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Choice {
    /// By number, from 0, in order.
    pub(super) rounds: Vec<usize>,
    /// Fewer than [`ENOUGH_PERCENT`] were within the limits: these are the least disturbed ones.
    pub(super) disturbed: bool,
}

/// So many of a hundred rounds are enough for a figure.
const ENOUGH_PERCENT: usize = 30;

impl Default for Limits {
    /// A core that has itself to itself moves by 12 % between the steps of its clock, which ratios within a round do not
    /// feel; a busy sibling costs it 26 % and more. So 15 % off the best is still a good round, if its ends agree.
    fn default() -> Limits {
        Limits { between_ends: 0.05, below_best: 0.15 }
    }
}

impl Limits {
    /// The rounds whose calibrations agree at both ends and are near the session's best, if these are [`ENOUGH_PERCENT`]; else so many
    /// of the least disturbed ones. O(n log n).
    pub(super) fn choose(self, ends: &[(Calibration, Calibration)]) -> Choice {
        let mut order: Vec<(f64, usize)> = self.disturbances(ends).into_iter().zip(0..).collect();
        let kept = |&&(disturbance, _): &&(f64, usize)| disturbance <= 1.0;
        let within = order.iter().filter(kept).count();
        let enough = (ends.len() * ENOUGH_PERCENT).div_ceil(100);
        let disturbed = within < enough;
        if disturbed {
            // Stable: of equally disturbed ones the first.
            order.sort_by(|a, b| a.0.total_cmp(&b.0));
            order.truncate(enough);
        } else {
            order.retain(|(disturbance, _)| *disturbance <= 1.0);
        }
        let mut rounds: Vec<usize> = order.into_iter().map(|(_, round)| round).collect();
        rounds.sort_unstable();
        Choice { rounds, disturbed }
    }

    /// By round, the largest of its deviations, each as a multiple of its limit: up to 1 is within all of them.
    fn disturbances(self, ends: &[(Calibration, Calibration)]) -> Vec<f64> {
        let all = || ends.iter().flat_map(|(before, after)| [before, after]);
        let best_adds = all().map(|c| c.adds_per_tsc).fold(0.0, f64::max);
        let best_line = all().map(|c| c.line_ns).fold(f64::INFINITY, f64::min);
        let between = |a: f64, b: f64| (a - b).abs() / a.max(b) / self.between_ends;
        let below = |c: &Calibration| {
            let adds = (best_adds - c.adds_per_tsc) / best_adds;
            let line = (c.line_ns - best_line) / best_line;
            adds.max(line) / self.below_best
        };
        ends.iter()
            .map(|(before, after)| {
                between(before.adds_per_tsc, after.adds_per_tsc)
                    .max(between(before.line_ns, after.line_ns))
                    .max(below(before))
                    .max(below(after))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disturbed_rounds_go() {
        let c = |adds_per_tsc, line_ns| Calibration { adds_per_tsc, line_ns };
        let ends = [
            (c(4.0, 10.0), c(4.0, 10.0)),
            (c(4.0, 10.0), c(3.7, 10.0)), // the core changed under way
            (c(4.0, 10.0), c(4.0, 10.6)), // the memory did
            (c(3.3, 10.0), c(3.3, 10.0)), // steady, but off the best
            (c(4.0, 11.6), c(4.0, 11.6)), // likewise
            (c(3.8, 10.4), c(3.9, 10.7)), // within all limits
        ];
        assert_eq!(Limits::default().choose(&ends), Choice { rounds: vec![0, 5], disturbed: false });
        assert_eq!(Limits::default().choose(&[]), Choice { rounds: vec![], disturbed: false });
    }

    #[test]
    fn where_too_few_stay_the_least_disturbed_are_taken() {
        let c = |adds_per_tsc, line_ns| Calibration { adds_per_tsc, line_ns };
        let ends = [
            (c(4.0, 10.0), c(2.0, 10.0)), // by 50 % between its ends
            (c(4.0, 10.0), c(3.7, 10.0)), // by 7.5 %
            (c(4.0, 10.0), c(4.0, 10.0)), // not at all
            (c(4.0, 10.0), c(4.0, 15.0)), // by a third
            (c(2.0, 10.0), c(2.0, 10.0)), // steady, at half the best
            (c(4.0, 10.0), c(3.0, 10.0)), // by a quarter
            (c(2.0, 20.0), c(2.0, 20.0)),
        ];
        // 30 % of seven are three.
        assert_eq!(Limits::default().choose(&ends), Choice { rounds: vec![1, 2, 4], disturbed: true });
        assert_eq!(Limits::default().choose(&ends[..3]), Choice { rounds: vec![2], disturbed: false });
        assert_eq!(Limits::default().choose(&ends[..1]), Choice { rounds: vec![0], disturbed: true });
    }
}
