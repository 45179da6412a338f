//! Hash maps of Rust. They have no burst call: asked one key at a time, the core overlaps what it can. For one of them
//! the look-ups of a burst are staged here, as our table stages its own.

use super::look_up::{Found, LookUp};
use dpdk::memory::prefetch;
use hashbrown::HashTable;
use hashbrown::hash_table::IterHash;
use worker::{BURST, Frames};

/// A map from keys to values that were inserted at once.
macro_rules! look_up {
    ($map:ty, $found:ident, $key:ident => $get:expr) => {
        impl LookUp for $map {
            #[inline(never)]
            fn look_up(&self, keys: &[u64]) -> Found {
                let $found = self;
                let mut found = Found::default();
                for $key in keys {
                    if let Some(value) = $get {
                        found.hits += 1;
                        found.sum += u64::from(value);
                    }
                }
                found
            }
        }
    };
}

/// hashbrown with ahash.
pub(super) type Hashbrown = hashbrown::HashMap<u64, u32, ahash::RandomState>;
/// The standard library's, with its SipHash.
pub(super) type Std = std::collections::HashMap<u64, u32>;
/// A map that several threads may use.
pub(super) type Dashmap = dashmap::DashMap<u64, u32, ahash::RandomState>;

look_up!(Hashbrown, map, key => map.get(key).copied());
look_up!(Std, map, key => map.get(key).copied());
look_up!(Dashmap, map, key => map.get(key).map(|value| *value));

/// A reproducible hasher.
pub(super) fn hasher() -> ahash::RandomState {
    ahash::RandomState::with_seeds(1, 2, 3, 4)
}

/// hashbrown with ahash, asked for a burst in stages: the control bytes of all keys, then a prefetch of each first
/// candidate, then the comparisons. The order and the layout are the map's own.
pub(super) struct Staged {
    table: HashTable<(u64, u32)>,
    hasher: ahash::RandomState,
}

impl Staged {
    pub(super) fn fill(capacity: usize, pairs: impl Iterator<Item = (u64, u32)>) -> Staged {
        let mut staged = Staged { table: HashTable::with_capacity(capacity), hasher: hasher() };
        for pair in pairs {
            let hash = staged.hasher.hash_one(pair.0);
            let hasher = &staged.hasher;
            staged.table.insert_unique(hash, pair, |(key, _)| hasher.hash_one(key));
        }
        staged
    }
}

impl LookUp for Staged {
    #[inline(never)]
    fn look_up(&self, keys: &[u64]) -> Found {
        let mut found = Found::default();
        for burst in keys.chunks(BURST) {
            // Each begins with a load of its control bytes, which nothing waits for yet.
            let candidates: Frames<IterHash<'_, (u64, u32)>> =
                burst.iter().map(|key| self.table.iter_hash(self.hasher.hash_one(key))).collect();
            let mut firsts = Frames::new();
            for mut rest in candidates {
                let first = rest.next();
                if let Some(entry) = first {
                    prefetch(entry);
                }
                firsts.push((first, rest));
            }
            for (key, (first, rest)) in burst.iter().zip(firsts) {
                if let Some((_, value)) = first.into_iter().chain(rest).find(|(of, _)| of == key) {
                    found.hits += 1;
                    found.sum += u64::from(*value);
                }
            }
        }
        found
    }
}
