use super::*;
use crate::{Maglev, is_prime};
use proptest::prelude::*;

proptest! {
    /// Also for the largest table, where products have the least room for error.
    #[test]
    fn the_least_product_is_the_first_in_the_permutation(
        size in prop_oneof![Just(16_777_213_u32), Just(655_373), Just(65_537), Just(13)],
        position: u32, skip: u32, slots in prop::collection::vec(any::<u32>(), 1..40), near: bool,
    ) {
        prop_assert!(is_prime(size) && size <= Maglev::SIZE_MAX);
        let (position, skip) = (position % size, skip % (size - 1) + 1);
        let circle = Circle::new(size);
        let modulus = u64::from(size);
        // Neighbours in the permutation, or anywhere.
        let slots: Vec<u32> = slots
            .iter()
            .map(|&slot| match near {
                true => (u64::from(position) + u64::from(slot % 5) * u64::from(skip)) % modulus,
                false => u64::from(slot) % modulus,
            } as u32)
            .collect();
        let factor = factors(&[circle.walk(position, skip)], &[0], &circle)[0];
        let inverse = inverse(u64::from(skip), size);
        prop_assert_eq!(inverse * u64::from(skip) % modulus, 1);
        let steps = |slot: u32| (u64::from(slot) + modulus - u64::from(position)) % modulus * inverse % modulus;
        let least = least_product(&slots, position, factor);
        let first = slots.iter().map(|&slot| steps(slot)).min().unwrap();
        prop_assert_eq!(circle.count(least), first);
    }
}

#[test]
fn one_inversion_gives_each_backends_factor() {
    let size = 65_537;
    let circle = Circle::new(size);
    let walks: Vec<Walk> = (1..50).map(|skip| circle.walk(0, skip * 1300)).collect();
    let turns = [3, 3, 7, 0, 48, 7];
    let together = factors(&walks, &turns, &circle);
    for (index, &factor) in (0_u16..).zip(&together) {
        if turns.contains(&index) {
            let inverse = u128::from(inverse((u64::from(index) + 1) * 1300, size));
            let exact = (inverse << 64) / u128::from(size);
            assert!((exact - 1..=exact).contains(&u128::from(factor)), "{index}: {factor}, {exact}");
        } else {
            assert_eq!(factor, 0);
        }
    }
}
