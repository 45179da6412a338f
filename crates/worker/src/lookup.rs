//! Second stage: the keys of the burst against this worker's flow table, all at once, so that cache misses overlap; and those of
//! several bursts, where more than one waits, so that they overlap with everything else.

use crate::burst::Burst;
use flow::{Hit, Hits, Keys, LookupPipeline};

/// What the look-up said of a packet's key.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LookupResult {
    /// Its entry.
    pub(crate) hit: Option<Hit>,
    /// Its hash, for insertion.
    pub(crate) miss: Option<flow::Miss>,
}

/// A burst's keys and what was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LookedUp<'l> {
    pub(crate) keys: &'l Keys,
    pub(crate) hits: &'l Hits,
}

impl LookedUp<'_> {
    #[inline]
    pub(crate) fn at(self, position: usize) -> LookupResult {
        LookupResult { hit: self.hits.get(position), miss: self.hits.miss(position) }
    }
}

/// Bursts that are begun before the first of them is finished, at most.
pub(crate) const ON_THEIR_WAY: usize = 3;
/// And the one that is received next.
pub(crate) const BURSTS: usize = ON_THEIR_WAY + 1;

/// Bursts received one after the other while the lines of those before are on their way, so that memory and processor do not
/// wait for each other. The n-th burst of a turn has place n modulo [`BURSTS`].
#[derive(Debug)]
pub(crate) struct Lookups {
    pub(crate) pipeline: LookupPipeline,
    /// Of a burst that is alone.
    pub(crate) hits: Hits,
    /// Their descriptions.
    pub(crate) bursts: [Box<Burst>; BURSTS],
}

impl Lookups {
    pub(crate) fn new() -> Lookups {
        let bursts = core::array::from_fn(|_| Box::default());
        Lookups { pipeline: LookupPipeline::new(), hits: Hits::new(), bursts }
    }
}
