//! How many flows of a range may be exempt by the windows that must be rare.

/// One flow in so many.
const RARE: u64 = 100_000;
/// From so many flows on the share itself is the limit.
const LONG: u64 = 500_000;
/// A short range is judged wrongly once in so many ranges.
const ERROR: f64 = 1e-3;

/// The limit of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowance {
    /// Flows that may be exempt.
    pub flows: u64,
    is_exact: bool,
}

impl Allowance {
    /// Of a range with this many flows. Where five or more are expected at a share of 1 in 100,000 the limit is that share. In a short range
    /// such a share comes to more now and then; there the limit is what a Poisson distribution exceeds in one of 1,000 ranges.
    pub fn of(flows: u64) -> Allowance {
        if flows >= LONG {
            return Allowance { flows: flows / RARE, is_exact: true };
        }
        let expected = flows as f64 / RARE as f64;
        let (mut term, mut sum, mut limit) = ((-expected).exp(), (-expected).exp(), 0);
        while 1.0 - sum > ERROR {
            limit += 1;
            term *= expected / limit as f64;
            sum += term;
        }
        Allowance { flows: limit, is_exact: false }
    }
}

impl std::fmt::Display for Allowance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let limit = self.flows;
        if self.is_exact {
            write!(f, "{limit} are allowed, 1 in {RARE}")
        } else {
            write!(
                f,
                "{limit} are allowed: in a range this short a share of 1 in {RARE} comes to more in one of \
                 1,000 ranges (from {LONG} flows on: 1 in {RARE})"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Allowance;

    #[test]
    fn short_ranges_are_judged_by_chance_and_long_ones_by_the_share() {
        let of = |flows| Allowance::of(flows).flows;
        assert_eq!(of(0), 0);
        assert_eq!(of(18_000), 2);
        assert_eq!(of(100_000), 5);
        assert_eq!(of(500_000), 5);
        assert_eq!(of(1_399_999), 13);
        assert!((0..50).all(|n| of(n * 9_000) <= of((n + 1) * 9_000)));
    }
}
