//! Hash maps of Rust, asked one key at a time: they have no burst call, and the core overlaps what it can.

use super::{Found, LookUp};

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
