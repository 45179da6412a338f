//! Remainders by a divisor that stays the same: two multiplications instead of a division, which takes the processors of
//! today from 10 to 90 cycles.

/// A divisor from 1 to 2^32 - 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Divisor {
    value: u64,
    /// `2^64 / value`, too little by at most 1.
    reciprocal: u64,
}

impl Divisor {
    /// By `value`, which is not 0.
    pub(super) fn new(value: u32) -> Divisor {
        let value = u64::from(value);
        Divisor { value, reciprocal: u64::MAX / value }
    }

    /// `n` modulo the divisor.
    ///
    /// `n * reciprocal / 2^64` is `n / value` less something below 1, so that its whole part is the quotient or one less.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the high half of a product; a remainder of a u32")]
    pub(super) fn remainder(self, n: u64) -> u32 {
        let quotient = ((u128::from(n) * u128::from(self.reciprocal)) >> 64) as u64;
        let rest = n - quotient * self.value;
        rest.min(rest.wrapping_sub(self.value)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::Divisor;
    use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};

    fn near(edge: u64) -> impl Strategy<Value = u64> {
        (0_u64..4).prop_map(move |off| edge.wrapping_sub(2).wrapping_add(off))
    }

    proptest! {
        #[test]
        fn is_the_remainder(
            value in prop_oneof![1_u32..100, any::<u32>(), Just(u32::MAX), Just(65_537), Just(16_777_213)],
            factor: u64,
            edge in prop_oneof![near(0), near(u64::MAX), any::<u64>()],
        ) {
            let value = value.max(1);
            let divisor = Divisor::new(value);
            // About a multiple, too, where a quotient may be one less than it should.
            let multiple = (factor / u64::from(value)).wrapping_mul(u64::from(value));
            for n in [edge, multiple, multiple.wrapping_sub(1), multiple.wrapping_add(1)] {
                prop_assert_eq!(u64::from(divisor.remainder(n)), n % u64::from(value));
            }
        }
    }
}
