//! What is printed, for programs and for people.

use crate::calibration::Calibration;
use crate::failure::Failure;
use crate::quantiles::Quantiles;
use crate::rounds::Measured;
use crate::statistics::{Figure, Interval};
use serde::Serialize;

/// A value, or the words "not measured": without a round there is no number.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(untagged)]
pub enum Maybe<T> {
    /// A value.
    Measured(T),
    /// No value, and why.
    Not(NotMeasured),
}

/// Serialised as words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum NotMeasured {
    /// No round was run.
    #[serde(rename = "not measured")]
    NoRound,
}

impl<T> From<Option<T>> for Maybe<T> {
    fn from(value: Option<T>) -> Maybe<T> {
        value.map_or(Maybe::Not(NotMeasured::NoRound), Maybe::Measured)
    }
}

impl Maybe<Figure> {
    /// Rounded for printing.
    pub fn rounded(self) -> Maybe<Figure> {
        match self {
            Maybe::Measured(f) => {
                Maybe::Measured(Figure { p5: rounded(f.p5, 2), median: rounded(f.median, 2) })
            }
            not => not,
        }
    }

    /// `8.1 (p5 7.9)` or `not measured`.
    pub fn words(&self) -> String {
        match self {
            Maybe::Measured(f) => format!("{:.2} ns (p5 {:.2})", f.median, f.p5),
            Maybe::Not(_) => "not measured".into(),
        }
    }
}

impl Maybe<Interval> {
    /// Rounded for printing.
    pub fn rounded(self) -> Maybe<Interval> {
        match self {
            Maybe::Measured(i) => Maybe::Measured(Interval {
                median: rounded(i.median, 3),
                low: rounded(i.low, 3),
                high: rounded(i.high, 3),
            }),
            not => not,
        }
    }

    /// `0.80 [0.78, 0.83]` or `not measured`.
    pub fn words(&self) -> String {
        match self {
            Maybe::Measured(i) => format!("{:.3} [{:.3}, {:.3}]", i.median, i.low, i.high),
            Maybe::Not(_) => "not measured".into(),
        }
    }
}

impl Measured {
    /// [`figure`](Measured::figure), for printing.
    pub fn cost(&self, cell: &str) -> Maybe<Figure> {
        Maybe::from(self.figure(cell)).rounded()
    }

    /// [`ratio`](Measured::ratio), for printing.
    pub fn compared(&self, of: &str, to: &str) -> Maybe<Interval> {
        Maybe::from(self.ratio(of, to)).rounded()
    }

    /// [`derived`](Measured::derived), for printing.
    pub fn combined(&self, cells: &[&str], of: impl Fn(&[f64]) -> f64) -> Maybe<Interval> {
        Maybe::from(self.derived(cells, of)).rounded()
    }
}

impl Maybe<Quantiles> {
    /// One line.
    pub fn words(&self) -> String {
        match self {
            Maybe::Measured(quantiles) => quantiles.words(),
            Maybe::Not(_) => "not measured".into(),
        }
    }
}

/// What every measurement in rounds says of its run.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Conditions {
    calibration: Calibration,
    rounds_kept: usize,
    rounds_total: usize,
    /// The machine was not quiet: of the rounds the least disturbed 30 % were kept.
    disturbed: bool,
}

impl From<&Measured> for Conditions {
    fn from(measured: &Measured) -> Conditions {
        Conditions {
            calibration: measured.calibration.rounded(),
            rounds_kept: measured.rounds_kept(),
            rounds_total: measured.rounds_total,
            disturbed: measured.disturbed,
        }
    }
}

impl Conditions {
    /// One line.
    pub fn words(&self) -> String {
        format!(
            "{} of {} rounds kept{}; {} adds a TSC cycle, {} ns a random line of 128 MiB",
            self.rounds_kept,
            self.rounds_total,
            if self.disturbed { " (the least disturbed of a machine that was not quiet)" } else { "" },
            self.calibration.adds_per_tsc,
            self.calibration.line_ns
        )
    }
}

/// Prints a result, for programs or for people.
///
/// # Errors
/// It has no form as JSON, which is a defect.
pub fn print<T: Serialize>(json: bool, outcome: &T, words: impl FnOnce(&T) -> String) -> Result<(), Failure> {
    if json {
        println!("{}", serde_json::to_string(outcome)?);
    } else {
        println!("{}", words(outcome).trim_end());
    }
    Ok(())
}

impl Calibration {
    /// Rounded for printing.
    pub fn rounded(self) -> Calibration {
        Calibration { adds_per_tsc: rounded(self.adds_per_tsc, 3), line_ns: rounded(self.line_ns, 2) }
    }
}

/// To so many places behind the point.
pub fn rounded(value: f64, places: i32) -> f64 {
    let factor = 10_f64.powi(places);
    (value * factor).round() / factor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_or_the_words() {
        let figure = Maybe::from(Some(Figure { p5: 1.234, median: 2.0 })).rounded();
        assert_eq!(serde_json::to_string(&figure).expect("JSON"), r#"{"p5":1.23,"median":2.0}"#);
        let not: Maybe<Figure> = None.into();
        assert_eq!(serde_json::to_string(&not).expect("JSON"), r#""not measured""#);
        assert_eq!(not.words(), "not measured");
    }
}
