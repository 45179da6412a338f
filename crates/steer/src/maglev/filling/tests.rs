use super::flags::flag;
use super::*;
use crate::is_prime;
use proptest::prelude::*;
use std::vec;

/// Turn after turn, probe after probe, by division.
fn one_at_a_time(walks: &[(u32, u32)], turns: &mut Turns, size: u32) -> Vec<u16> {
    let modulus = u64::from(size);
    let mut slots = vec![NONE; size as usize];
    let mut next: Vec<u64> = walks.iter().map(|&(position, _)| u64::from(position)).collect();
    for _ in 0..size {
        let Some(&index) = turns.next(1).first() else { break };
        let at = &mut next[usize::from(index)];
        while slots[*at as usize] != NONE {
            *at = (*at + u64::from(walks[usize::from(index)].1)) % modulus;
        }
        slots[*at as usize] = index;
    }
    slots
}

fn sizes() -> impl Strategy<Value = u32> {
    prop_oneof![
        prop::sample::select((2..300).filter(|&n| is_prime(n)).collect::<Vec<u32>>()),
        prop::sample::select(vec![1009, 4093, 10_007, 65_537]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Walks as hashes would never give them: many at the same place, with the same skip, in lockstep.
    #[test]
    fn is_what_one_at_a_time_gives(
        size in sizes(),
        seeds in prop::collection::vec((0_u32..8, 0_u32..4, prop_oneof![Just(1_u32), 1_u32..20]), 1..200),
        spread: bool,
    ) {
        let count = seeds.len().min(size as usize);
        let factor = if spread { 7919 } else { 1 };
        let walks: Vec<(u32, u32)> = seeds[..count]
            .iter()
            .map(|&(at, skip, _)| (at * factor % size, skip * factor % (size - 1) + 1))
            .collect();
        let equal = vec![1; count];
        let weights: Vec<u32> = seeds[..count].iter().map(|&(_, _, weight)| weight).collect();
        for weights in [equal, weights] {
            let expected = one_at_a_time(&walks, &mut Turns::new(&weights, size), size);
            let circle = Circle::new(size);
            let begun = walks.iter().map(|&(position, skip)| circle.walk(position, skip)).collect();
            let filled = Filling::new(circle, begun).fill(&mut Turns::new(&weights, size));
            prop_assert!(filled == expected, "{} backends, {} slots", count, size);
        }
    }
}

/// The largest primes of each number of flags, and the smallest with more.
const EDGES: [u32; 8] = [2, 13, 65_537, 131_071, 131_101, 655_373, 1_048_573, 1_048_583];

/// The slot and the flag of every place of a walk all round are those of the slot it stands for, however far the place has
/// strayed.
fn goes_round<const FLAGS: usize>(size: u32, skip: u32) {
    let circle = Circle::new(size);
    let mut walk = circle.walk(size - 1, skip);
    let mut slot = size - 1;
    let mut seen = vec![false; FLAGS];
    for _ in 0..size {
        let at = walk.at;
        assert_eq!(circle.slot(at), slot);
        assert_eq!(flag(at, FLAGS), flag(circle.place(slot), FLAGS), "{size} {skip} {slot}");
        assert!(!core::mem::replace(&mut seen[flag(at, FLAGS)], true), "two slots have one flag");
        let from = if FLAGS > FLAGS_MIDDLE { circle.place(slot) } else { at };
        walk.at = from.wrapping_add(walk.stride);
        slot = ((u64::from(slot) + u64::from(skip)) % u64::from(size)) as u32;
    }
}

#[test]
fn places_never_leave_their_flags() {
    for size in EDGES {
        assert!(is_prime(size));
        for skip in [1, size / 3 + 1, size - 1] {
            match flags(size) {
                FLAGS_SMALL => goes_round::<FLAGS_SMALL>(size, skip),
                FLAGS_MIDDLE => goes_round::<FLAGS_MIDDLE>(size, skip),
                _ => goes_round::<FLAGS_LARGE>(size, skip),
            }
        }
    }
}

#[test]
fn places_never_leave_their_flags_in_the_largest_table() {
    goes_round::<FLAGS_LARGE>(16_777_213, 7_919);
}

#[test]
fn tables_with_more_flags_are_the_same() {
    for (size, weight_max) in [(131_101, 1), (131_101, 7), (1_048_583, 1)] {
        let walks: Vec<(u32, u32)> = (0..40).map(|i| (i * 3000 + 7, i * i * 601 % (size - 1) + 1)).collect();
        let circle = Circle::new(size);
        let weights: Vec<u32> = (0..40).map(|i| 1 + i % weight_max).collect();
        let begun = walks.iter().map(|&(position, skip)| circle.walk(position, skip)).collect();
        let filled = Filling::new(circle, begun).fill(&mut Turns::new(&weights, size));
        assert!(filled == one_at_a_time(&walks, &mut Turns::new(&weights, size), size));
    }
}

/// Also where backends between others have no turn, so that batches are no ranges.
#[test]
fn backends_without_weight_are_passed_over() {
    let size = 10_007;
    let walks: Vec<(u32, u32)> = (0..700).map(|i| (i * 13 + 7, i * i % (size - 1) + 1)).collect();
    let circle = Circle::new(size);
    let weights: Vec<u32> = (0..700).map(|i| u32::from(i % 300 != 5)).collect();
    let begun = walks.iter().map(|&(position, skip)| circle.walk(position, skip)).collect();
    let filled = Filling::new(circle, begun).fill(&mut Turns::new(&weights, size));
    assert!(filled == one_at_a_time(&walks, &mut Turns::new(&weights, size), size));
    assert!(!filled.contains(&5) && !filled.contains(&305));
}
