//! Random numbers that spread things in time; not for secrets.

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};
use std::hash::{BuildHasher, RandomState};

/// A source of them.
#[derive(Clone, Debug)]
pub(crate) struct Random(SplitMix64);

impl Random {
    /// Of a seed.
    pub(crate) fn new(seed: u64) -> Random {
        Random(SplitMix64::seed_from_u64(seed))
    }

    /// Other numbers in every process.
    pub(crate) fn of_this_process() -> Random {
        Random::new(RandomState::new().hash_one(std::process::id()))
    }

    /// 64 hexadecimal digits for a hello. They are no secret, and need not be hard to guess: they are to differ from those of other
    /// connections, so that what was said in one is nothing in another.
    pub(crate) fn nonce(&mut self) -> String {
        (0..4).map(|_| format!("{:016x}", self.0.next_u64())).collect()
    }

    /// From 0 to `most`, evenly as far as matters.
    pub(crate) fn up_to(&mut self, most: u64) -> u64 {
        self.0.next_u64() % most.saturating_add(1).max(1)
    }
}
