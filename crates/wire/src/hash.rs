//! A hash of a number, for what nobody has to be kept from guessing.

/// The finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014): a
/// bijection in which every bit of the input moves half of the output's. Machines of a cluster have to agree on it. Not keyed.
#[inline]
pub const fn mix(x: u64) -> u64 {
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::mix;

    /// The first numbers that the reference code draws with the seed 1234567: its state grows by the same step each time.
    #[test]
    fn it_gives_the_published_numbers() {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let drawn = [1, 2, 3].map(|i| mix(STEP.wrapping_mul(i).wrapping_add(1_234_567)));
        assert_eq!(drawn, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }
}
