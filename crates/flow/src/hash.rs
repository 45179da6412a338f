//! The hash that places keys: keyed at random, and the same on every path and every CPU of this process.
//!
//! Clients choose most bits of a key, so they must not be able to choose the bucket. A narrow key is xored with a secret,
//! and then three times multiplied by a secret odd number, with its high bits folded onto the low ones in between: a
//! bijection, so no two keys share the whole hash, and which differences of keys land in one bucket depends on 250
//! secret bits. (Two multiplications are too few: keys that differ in their high bits only stay lines of a lattice, up to 300
//! standard deviations from even for some secrets.) These are low 64-bit multiplications, which AVX-512 does for
//! eight keys at a time (`vpmullq`); the loops of [`crate::simd`] over plain arrays compile to that. A wide key is folded first, two words at a time, by the high and low half of a 128-bit product (the
//! step of wyhash and of ahash's fallback).
//!
//! It decides where to look and never who is meant; nothing outside this process may depend on it.

use wire::key::WideKey;

/// Bits of the summary that a bucket keeps of the keys that overflowed out of it.
pub(crate) const TAGS: u32 = 8;

/// The secret.
#[derive(Clone)]
pub(crate) struct Hasher {
    xor: u64,
    /// Odd.
    multiply: [u64; 3],
    fold: [u64; 4],
}

impl core::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Hasher(..)")
    }
}

impl Hasher {
    /// The seed spread over the words of the secret (SplitMix64).
    pub(crate) fn new(seed: u64) -> Hasher {
        let word = |i: u64| {
            let z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ z >> 31
        };
        Hasher {
            xor: word(1),
            multiply: [word(2) | 1, word(3) | 1, word(4) | 1],
            fold: [word(5), word(6), word(7), word(8)],
        }
    }

    /// Hash of a narrow key.
    #[inline(always)]
    pub(crate) const fn narrow(&self, key: u64) -> u64 {
        let product = (key ^ self.xor).wrapping_mul(self.multiply[0]);
        let product = (product ^ product >> 32).wrapping_mul(self.multiply[1]);
        (product ^ product >> 29).wrapping_mul(self.multiply[2])
    }

    /// What [`narrow`](Hasher::narrow) is made of, for doing it by vectors.
    #[inline(always)]
    pub(crate) const fn narrow_secret(&self) -> (u64, [u64; 3]) {
        (self.xor, self.multiply)
    }

    /// Hash of a wide key.
    #[inline]
    pub(crate) const fn wide(&self, key: &WideKey) -> u64 {
        let source = fold(key.src[0] ^ self.fold[0], key.src[1] ^ self.fold[1]);
        let rest = fold(key.middle ^ self.fold[2], key.dport as u64 ^ self.fold[3]);
        self.narrow(source ^ rest.rotate_left(29))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
#[inline]
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

/// The primary bucket among `len` (1 to 2^32 - 1): the high half of the hash, scaled (Lemire, arXiv 1805.10941). Below
/// `len`.
#[inline(always)]
pub(crate) const fn primary(hash: u64, len: u64) -> u32 {
    (((hash >> 32) * (len & 0xffff_ffff)) >> 32) as u32
}

/// The secondary bucket, by the low half: as many buckets further, round the end, of the `len - 1` others. Below `len` (at
/// least 2) and another than `primary`, if that is below `len`.
#[inline(always)]
pub(crate) const fn secondary(hash: u64, len: u64, primary: u32) -> u32 {
    let step = (((hash & 0xffff_ffff) * ((len - 1) & 0xffff_ffff)) >> 32) + 1;
    let second = primary as u64 + step;
    (if second < len { second } else { second - len }) as u32
}

/// Which bit of a summary stands for the key: bits of the hash that hardly decide the primary bucket.
#[inline(always)]
pub(crate) const fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32 % TAGS
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn buckets_are_within_and_differ(hash in any::<u64>(), len in 2_u64..=u64::from(u32::MAX)) {
            let first = primary(hash, len);
            let second = secondary(hash, len, first);
            prop_assert!(u64::from(first) < len && u64::from(second) < len && first != second);
        }

        /// By arithmetic on 128 bits, as the definition has it.
        #[test]
        fn scaling_is_exact(hash in any::<u64>(), len in 2_u64..=u64::from(u32::MAX)) {
            let scaled = |half: u64| (u128::from(half) * u128::from(len) / (1 << 32)) as u32;
            prop_assert_eq!(primary(hash, len), scaled(hash >> 32));
            let step = u128::from(hash & 0xffff_ffff) * u128::from(len - 1) / (1 << 32) + 1;
            let second = (u128::from(primary(hash, len)) + step) % u128::from(len);
            prop_assert_eq!(u128::from(secondary(hash, len, primary(hash, len))), second);
        }

        #[test]
        fn every_bit_of_a_key_counts(seed in any::<u64>(), key in any::<(u64, u64, u64, u16)>(), bit in 0_u32..208) {
            let hasher = Hasher::new(seed);
            let wide = |k: (u64, u64, u64, u16)| hasher.wide(&WideKey { src: [k.0, k.1], middle: k.2, dport: k.3 });
            let mut other = key;
            match bit {
                0..64 => other.0 ^= 1 << bit,
                64..128 => other.1 ^= 1 << (bit - 64),
                128..192 => other.2 ^= 1 << (bit - 128),
                _ => other.3 ^= 1 << (bit - 192),
            }
            prop_assert_ne!(wide(key), wide(other));
            prop_assert_ne!(hasher.narrow(key.0), hasher.narrow(key.0 ^ 1 << (bit % 64)));
        }
    }

    /// Pearson's statistic of keys over cells, less its mean, in standard deviations.
    fn deviation(cells: &[u32]) -> f64 {
        let total: f64 = cells.iter().map(|&count| f64::from(count)).sum();
        let mean = total / cells.len() as f64;
        let sum: f64 = cells.iter().map(|&count| (f64::from(count) - mean).powi(2) / mean).sum();
        let freedom = cells.len() as f64 - 1.0;
        (sum - freedom) / (2.0 * freedom).sqrt()
    }

    #[test]
    fn structured_keys_spread_over_primary_secondary_and_tag() {
        const CELLS: usize = 4096;
        // Ports of one client, clients of one port, both, and addresses in steps of a power of two.
        let sets: [fn(u64) -> u64; 4] = [
            |i| 0xc633_6407_0000_0001 | i << 16,
            |i| i << 32 | 0x9c40_0001,
            |i| (0x0a00_0000 + (i >> 10)) << 32 | (1024 + (i & 0x3ff)) << 16 | 7,
            |i| i << 48 | 0x9c40_0001,
        ];
        for seed in 0..20 {
            let hasher = Hasher::new(seed);
            for (at, set) in sets.iter().enumerate() {
                let (mut first, mut second, mut tags) = (vec![0; CELLS], vec![0; CELLS], vec![0; 8]);
                for i in 0..1 << 16 {
                    let hash = hasher.narrow(set(i));
                    let home = primary(hash, CELLS as u64);
                    first[home as usize] += 1;
                    second[secondary(hash, CELLS as u64, home) as usize] += 1;
                    tags[tag(hash) as usize] += 1;
                }
                // More even than chance is welcome (a progression often is); more uneven by this much is not chance.
                for cells in [&first, &second, &tags] {
                    assert!(deviation(cells) < 6.0, "set {at} seed {seed}: {}", deviation(cells));
                }
            }
        }
    }
}
