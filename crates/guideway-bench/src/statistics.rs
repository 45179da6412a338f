//! Quantiles, and how sure a median is.

use crate::random::Random;
use serde::Serialize;

/// Resamples of a bootstrap (Efron 1979, percentile method).
const RESAMPLES: usize = 2000;
/// Any seed, as long as it is always the same.
const SEED: u64 = 0x5eed;

/// Low and typical cost.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Figure {
    /// 5th percentile of all windows kept.
    pub p5: f64,
    /// Median of them.
    pub median: f64,
}

/// A median of per-round values and its 95 % interval.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Interval {
    /// The median.
    pub median: f64,
    /// 2.5 % of resamples have a median below this.
    pub low: f64,
    /// 2.5 % of resamples have a median above this.
    pub high: f64,
}

/// The value below which the share `q` (0 to 1) of sorted values lies, interpolated; NaN for none.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (below, part) = (at.floor() as usize, at.fract());
    let low = sorted[below];
    let high = sorted[(below + 1).min(last)];
    low + (high - low) * part
}

/// The median of values in any order; NaN for none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

/// 5th percentile and median; `None` for no values.
pub fn figure(values: &[f64]) -> Option<Figure> {
    if values.is_empty() {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    Some(Figure { p5: quantile(&sorted, 0.05), median: quantile(&sorted, 0.5) })
}

/// The median with its 95 % bootstrap interval; `None` for no values.
pub fn interval(values: &[f64]) -> Option<Interval> {
    if values.is_empty() {
        return None;
    }
    let mut random = Random::new(SEED);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let drawn: Vec<f64> =
                values.iter().map(|_| values[random.below(values.len() as u64) as usize]).collect();
            median(&drawn)
        })
        .collect();
    medians.sort_unstable_by(f64::total_cmp);
    Some(Interval { median: median(values), low: quantile(&medians, 0.025), high: quantile(&medians, 0.975) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{ProptestConfig, prop, prop_assert, proptest};

    #[test]
    fn quantiles_of_known_data() {
        let data: Vec<f64> = (1..=101).map(f64::from).collect();
        assert_eq!(quantile(&data, 0.0), 1.0);
        assert_eq!(quantile(&data, 0.05), 6.0);
        assert_eq!(quantile(&data, 0.5), 51.0);
        assert_eq!(quantile(&data, 1.0), 101.0);
        assert_eq!(quantile(&[10.0, 20.0], 0.25), 12.5);
        assert!(quantile(&[], 0.5).is_nan());
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(figure(&[3.0, 1.0, 2.0]), Some(Figure { p5: 1.1, median: 2.0 }));
        assert_eq!(figure(&[]), None);
    }

    #[test]
    fn an_interval_covers_what_is_known() {
        assert_eq!(interval(&[7.0; 40]), Some(Interval { median: 7.0, low: 7.0, high: 7.0 }));
        assert_eq!(interval(&[]), None);
        // 0 to 99: the order statistics 40 and 61 bound the median with 95 % (binomial, n = 100).
        let data: Vec<f64> = (0..100).map(f64::from).collect();
        let i = interval(&data).expect("values");
        assert_eq!(i.median, 49.5);
        assert!((35.0..44.0).contains(&i.low) && (55.0..64.0).contains(&i.high), "{i:?}");
        // Two modes, as a busy sibling makes them: the interval is honest about it.
        let modes: Vec<f64> = (0..41).map(|n| if n % 2 == 0 { 8.0 } else { 12.0 }).collect();
        let i = interval(&modes).expect("values");
        assert_eq!((i.low, i.high), (8.0, 12.0));
    }

    proptest! {
        // Each case resamples thousands of times.
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn median_splits_in_halves(values in prop::collection::vec(-1e6..1e6, 1..200)) {
            let m = median(&values);
            let below = values.iter().filter(|v| **v < m).count();
            let above = values.iter().filter(|v| **v > m).count();
            prop_assert!(below <= values.len() / 2 && above <= values.len() / 2);
            let i = interval(&values).unwrap();
            prop_assert!(i.low <= i.median && i.median <= i.high);
        }
    }
}
