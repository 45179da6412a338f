//! Quantiles of times.

use crate::failure::Failure;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest time kept, nanoseconds.
const MAX_NS: u64 = 10_000_000_000;

/// An empty histogram of times from 1 ns to 10 s, with three digits.
///
/// # Errors
/// A defect.
pub fn histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_bounds(1, MAX_NS, 3).map_err(|e| Failure::Machine(e.to_string()))
}

/// Nanoseconds below which a share of the times lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Quantiles {
    /// Half of them.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
    /// The largest.
    pub max: u64,
}

impl Quantiles {
    /// Of what was recorded.
    pub fn of(histogram: &Histogram<u64>) -> Quantiles {
        Quantiles {
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p99_9: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }

    /// One line.
    pub fn words(&self) -> String {
        format!("p50 {} p90 {} p99 {} p99.9 {} max {} ns", self.p50, self.p90, self.p99, self.p99_9, self.max)
    }
}
