//! Reproducible random numbers: which flow the next packet belongs to.

use clap::ValueEnum;
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};
use serde::Serialize;

/// Fast, and good enough to pick flows.
#[derive(Clone, Debug)]
pub struct Random(SplitMix64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Random {
        Random(SplitMix64::seed_from_u64(seed))
    }

    /// 64 random bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Evenly from 0 up to, not including, `n` (at most 2^32; biased by less than 2^-32).
    #[inline]
    pub fn below(&mut self, n: u64) -> u64 {
        ((self.bits() >> 32) * n) >> 32
    }

    /// Evenly from 0 to 1, but never 0: has a logarithm.
    pub fn positive_unit(&mut self) -> f64 {
        1.0 - self.unit()
    }

    /// Evenly from 0 to, but not including, 1.
    fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// How packets are spread over flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// Every flow alike: the worst for caches.
    Uniform,
    /// Zipf's law with exponent 1.
    Zipf,
    /// 90 % of the packets belong to 10 % of the flows.
    Trace,
}

/// Picks flows by number.
#[derive(Clone, Debug)]
pub struct Picker {
    random: Random,
    flows: u64,
    zipf: Option<Zipf>,
    trace: bool,
}

impl Picker {
    /// From `flows` flows (1 to 2^32).
    pub fn new(spread: Spread, flows: u64, seed: u64) -> Picker {
        let zipf = (spread == Spread::Zipf).then(|| Zipf::new(flows));
        Picker { random: Random::new(seed), flows: flows.max(1), zipf, trace: spread == Spread::Trace }
    }

    /// The next flow, from 0.
    #[inline]
    pub fn next_flow(&mut self) -> u64 {
        if let Some(zipf) = &self.zipf {
            return zipf.rank(&mut self.random) - 1;
        }
        if self.trace {
            let many = self.random.below(10) < 9;
            let few = (self.flows / 10).max(1);
            return if many || few == self.flows {
                self.random.below(few)
            } else {
                few + self.random.below(self.flows - few)
            };
        }
        self.random.below(self.flows)
    }
}

/// Ranks by Zipf's law with exponent 1, by rejection-inversion (Hörmann and Derflinger, ACM TOMACS 6(3), 1996): constant
/// time and memory for any number of ranks.
#[derive(Clone, Debug)]
struct Zipf {
    ranks: f64,
    first: f64,
    last: f64,
    squeeze: f64,
}

impl Zipf {
    fn new(ranks: u64) -> Zipf {
        let ranks = ranks.max(1) as f64;
        Zipf {
            ranks,
            first: 1.5_f64.ln() - 1.0,
            last: (ranks + 0.5).ln(),
            squeeze: 2.0 - (2.5_f64.ln() - 0.5).exp(),
        }
    }

    /// From 1 to `ranks`.
    fn rank(&self, random: &mut Random) -> u64 {
        loop {
            let u = self.last + random.unit() * (self.first - self.last);
            let x = u.exp();
            let rank = x.round().clamp(1.0, self.ranks);
            if rank - x <= self.squeeze || u >= (rank + 0.5).ln() - 1.0 / rank {
                return rank as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix_gives_the_published_numbers() {
        // The first values of seed 1234567, as in the reference code's test vectors.
        let mut random = Random::new(1_234_567);
        assert_eq!(
            [random.bits(), random.bits(), random.bits()],
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    fn shares(spread: Spread, flows: u64) -> Vec<f64> {
        const DRAWS: u32 = 400_000;
        let mut picker = Picker::new(spread, flows, 1);
        let mut counts = vec![0_u32; flows as usize];
        for _ in 0..DRAWS {
            counts[picker.next_flow() as usize] += 1;
        }
        counts.iter().map(|&count| f64::from(count) / f64::from(DRAWS)).collect()
    }

    #[test]
    fn zipf_follows_its_law() {
        let shares = shares(Spread::Zipf, 1000);
        let harmonic: f64 = (1..=1000).map(|rank| 1.0 / f64::from(rank)).sum();
        for rank in [1_usize, 2, 3, 10, 50] {
            let want = 1.0 / (rank as f64 * harmonic);
            let got = shares[rank - 1];
            assert!((got / want - 1.0).abs() < 0.1, "rank {rank}: {got} and not {want}");
        }
        let tail: f64 = shares[500..].iter().sum();
        let want: f64 = (501..=1000).map(|rank| 1.0 / (f64::from(rank) * harmonic)).sum();
        assert!((tail / want - 1.0).abs() < 0.05, "{tail} {want}");
    }

    #[test]
    fn uniform_is_even_and_a_trace_is_not() {
        for share in shares(Spread::Uniform, 50) {
            assert!((share - 0.02).abs() < 0.002, "{share}");
        }
        let shares = shares(Spread::Trace, 50);
        assert!((shares[..5].iter().sum::<f64>() - 0.9).abs() < 0.01);
        for spread in [Spread::Uniform, Spread::Zipf, Spread::Trace] {
            assert_eq!(Picker::new(spread, 1, 3).next_flow(), 0);
        }
    }
}
