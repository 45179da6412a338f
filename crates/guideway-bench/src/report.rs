//! What is printed, for programs and for people.

use crate::calibration::Calibration;
use crate::statistics::{Figure, Interval};
use serde::Serialize;

/// A value, or the words "not measured": with too few rounds kept there is no number.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(untagged)]
pub enum Maybe<T> {
    /// A value.
    Measured(T),
    /// None.
    Not(NotMeasured),
}

/// Serialised as words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum NotMeasured {
    /// Too few rounds were kept.
    #[serde(rename = "not measured")]
    TooFewRounds,
}

impl<T> From<Option<T>> for Maybe<T> {
    fn from(value: Option<T>) -> Maybe<T> {
        value.map_or(Maybe::Not(NotMeasured::TooFewRounds), Maybe::Measured)
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
