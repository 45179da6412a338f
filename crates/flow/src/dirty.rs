//! Which buckets were stored to of late, so that what was read of the others still holds.

/// Stores that are remembered: more than a burst of insertions makes, nearly always.
const REMEMBERED: usize = 64;

/// The buckets of the last stores, in order. An answer that was read when there had been so many ([`DirtyBuckets::count`]) holds as long as
/// none of its buckets is among those since.
#[derive(Clone, Debug)]
pub(crate) struct DirtyBuckets {
    count: u64,
    buckets: [u32; REMEMBERED],
}

impl DirtyBuckets {
    pub(crate) const fn new() -> DirtyBuckets {
        DirtyBuckets { count: 0, buckets: [0; REMEMBERED] }
    }

    /// Stores so far.
    #[inline]
    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    #[expect(clippy::cast_possible_truncation, reason = "the place in a ring")]
    #[inline(always)]
    pub(crate) fn note(&mut self, bucket: u32) {
        self.buckets[self.count as usize % REMEMBERED] = bucket;
        self.count += 1;
    }

    /// Stores to buckets that nobody names.
    pub(crate) fn note_all(&mut self) {
        self.count += REMEMBERED as u64 + 1;
    }

    /// The buckets stored to since there had been `count` stores; `None` for too many of them.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most as many as are remembered; the place in a ring"
    )]
    #[inline(always)]
    pub(crate) fn since(&self, count: u64) -> Option<Filter> {
        let stores = self.count.wrapping_sub(count);
        if stores > REMEMBERED as u64 {
            return None;
        }
        let mut filter = Filter { low: 0, high: 0 };
        for store in 0..stores {
            let bucket = self.buckets[count.wrapping_add(store) as usize % REMEMBERED];
            filter.low |= 1 << (bucket & 63);
            filter.high |= 1 << (bucket >> 6 & 63);
        }
        Some(filter)
    }
}

/// A set of buckets, which may seem to hold others, too: two sets of residues, for the lower and the next six bits of their numbers. That
/// makes asking for many of them shifts of two words, which vectors do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filter {
    low: u64,
    high: u64,
}

impl Filter {
    /// 1 in the lowest bit for a bucket that may be one of them; other bits are anything.
    #[inline(always)]
    pub(crate) const fn may_hold(self, bucket: u64) -> u64 {
        (self.low >> (bucket & 63)) & (self.high >> (bucket >> 6 & 63))
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::{DirtyBuckets, REMEMBERED};
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    proptest! {
        #[test]
        fn every_bucket_since_is_held(
            before in prop::collection::vec(any::<u32>(), 0..200), since in prop::collection::vec(any::<u32>(), 0..100),
        ) {
            let mut dirty = DirtyBuckets::new();
            before.iter().for_each(|&bucket| dirty.note(bucket));
            let count = dirty.count();
            since.iter().for_each(|&bucket| dirty.note(bucket));
            let filter = dirty.since(count);
            prop_assert_eq!(filter.is_some(), since.len() <= REMEMBERED);
            if let Some(filter) = filter {
                prop_assert!(since.iter().all(|&bucket| filter.may_hold(u64::from(bucket)) & 1 == 1));
            }
            dirty.note_all();
            prop_assert!(dirty.since(count).is_none());
            prop_assert!(dirty.since(dirty.count()).is_some_and(|filter| filter.may_hold(0) == 0));
        }
    }

    #[test]
    fn few_buckets_seem_to_hold_few_others() {
        let mut dirty = DirtyBuckets::new();
        (0..16_u32).for_each(|i| dirty.note(i.wrapping_mul(0x9e37_79b1) >> 8));
        let filter = dirty.since(0).expect("few");
        let seeming = (0..100_000_u64).filter(|&bucket| filter.may_hold(bucket) & 1 == 1).count();
        assert!(seeming < 8_000, "{seeming}");
    }
}
