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

impl Default for Limits {
    /// A core that has itself to itself moves by 12 % between the steps of its clock, which ratios within a round do not
    /// feel; a busy sibling costs it 26 % and more. So 15 % off the best is still a good round, if its ends agree.
    fn default() -> Limits {
        Limits { between_ends: 0.05, below_best: 0.15 }
    }
}

impl Limits {
    /// The rounds to keep: both calibrations agree at both ends, and are near the session's best.
    pub(super) fn kept(self, ends: &[(Calibration, Calibration)]) -> Vec<usize> {
        let all = || ends.iter().flat_map(|(before, after)| [before, after]);
        let best_adds = all().map(|c| c.adds_per_tsc).fold(0.0, f64::max);
        let best_line = all().map(|c| c.line_ns).fold(f64::INFINITY, f64::min);
        let steady = |a: f64, b: f64| (a - b).abs() <= self.between_ends * a.max(b);
        let near = |c: &Calibration| {
            c.adds_per_tsc >= best_adds * (1.0 - self.below_best)
                && c.line_ns <= best_line * (1.0 + self.below_best)
        };
        ends.iter()
            .enumerate()
            .filter(|(_, (before, after))| {
                steady(before.adds_per_tsc, after.adds_per_tsc)
                    && steady(before.line_ns, after.line_ns)
                    && near(before)
                    && near(after)
            })
            .map(|(round, _)| round)
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
        assert_eq!(Limits::default().kept(&ends), [0, 5]);
        assert!(Limits::default().kept(&[]).is_empty());
    }
}
