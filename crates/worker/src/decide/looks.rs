//! Budgets of looks into other workers' tables.

use crate::token_bucket::TokenBucket;

/// Looks into other workers' tables, a second and at once, of each worker and each kind. One costs about half a microsecond, most of it
/// a miss of the cache: a hundredth of the worker's time.
const LOOKS: (u64, u64) = (20_000, 256);

const _: () = assert!(LOOKS.1 as usize >= crate::view::WORKERS_MAX);

/// Budgets of looks: a flood of the one kind leaves the other alone.
#[derive(Debug)]
pub(crate) struct Looks {
    /// For whole packets without an entry.
    pub(crate) misses: TokenBucket,
    /// For ICMP errors and first fragments, whose flows are with other workers as a rule.
    pub(crate) strays: TokenBucket,
}

impl Looks {
    /// Full.
    pub(crate) const fn new() -> Looks {
        let full = TokenBucket::new(LOOKS.0, LOOKS.1);
        Looks { misses: full, strays: full }
    }
}
