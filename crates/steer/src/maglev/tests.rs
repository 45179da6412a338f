use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::format;
use std::string::{String, ToString as _};
use std::vec;

const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

fn names(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("b{i}")).collect()
}

fn build(names: &[String], weights: &[u32], size: u32) -> Maglev {
    let backends: Vec<Weighted<'_>> =
        names.iter().zip(weights).map(|(name, &weight)| Weighted { name, weight }).collect();
    Maglev::build(&backends, size, &KEY).unwrap()
}

fn counts(table: &Maglev, backends: usize) -> Vec<u32> {
    let mut counts = vec![0; backends];
    for &index in table.slots().iter().filter(|&&index| index != NONE) {
        counts[usize::from(index)] += 1;
    }
    counts
}

/// The paper's figure "Pseudocode 1", word for word, with materialised permutations.
fn paper(names: &[String], size: u32) -> Vec<u16> {
    let m = u64::from(size);
    let permutation: Vec<Vec<u32>> = names
        .iter()
        .map(|name| {
            let offset = hash::maglev_offset_and_skip(&KEY, name).0 % m;
            let skip = hash::maglev_offset_and_skip(&KEY, name).1 % (m - 1) + 1;
            (0..m).map(|j| ((offset + j * skip) % m) as u32).collect()
        })
        .collect();
    let mut next = vec![0; names.len()];
    let mut entry = vec![NONE; size as usize];
    let mut n = 0;
    loop {
        for i in 0..names.len() {
            let mut c = permutation[i][next[i]];
            while entry[c as usize] != NONE {
                next[i] += 1;
                c = permutation[i][next[i]];
            }
            entry[c as usize] = i as u16;
            next[i] += 1;
            n += 1;
            if n == size {
                return entry;
            }
        }
    }
}

/// The weighted rule, naively: round after round, backend after backend; turn k is due in round floor(k*max/w).
fn naive(names: &[String], weights: &[u32], size: u32) -> Vec<u16> {
    let m = u64::from(size);
    let sum: u128 = weights.iter().map(|&w| u128::from(w)).sum();
    let mut entry = vec![NONE; size as usize];
    if sum == 0 {
        return entry;
    }
    // Largest remainder, one at a time.
    let mut quota: Vec<u128> = weights.iter().map(|&w| u128::from(m) * u128::from(w) / sum).collect();
    while quota.iter().sum::<u128>() < u128::from(m) {
        let remainder =
            |i: usize| (u128::from(m) * u128::from(weights[i])) as i128 - (quota[i] * sum) as i128;
        let mut best = 0;
        for i in 1..weights.len() {
            if remainder(i) > remainder(best) {
                best = i;
            }
        }
        quota[best] += 1;
    }
    let max = u128::from(*weights.iter().max().unwrap());
    let mut taken = vec![0_u128; names.len()];
    let mut n = 0;
    for round in 0.. {
        for i in 0..names.len() {
            while taken[i] < quota[i] && taken[i] * max / u128::from(weights[i]) == round {
                let offset = hash::maglev_offset_and_skip(&KEY, &names[i]).0 % m;
                let skip = hash::maglev_offset_and_skip(&KEY, &names[i]).1 % (m - 1) + 1;
                let free =
                    (0..m).map(|j| ((offset + j * skip) % m) as usize).find(|&c| entry[c] == NONE).unwrap();
                entry[free] = i as u16;
                taken[i] += 1;
                n += 1;
            }
        }
        if n == size {
            break;
        }
    }
    entry
}

#[test]
fn golden_table() {
    // From an implementation in another language.
    let expected =
        [0, 1, 0, 0, 2, 1, 1, 2, 1, 1, 2, 0, 2, 2, 1, 1, 2, 1, 1, 0, 0, 2, 2, 0, 2, 2, 0, 0, 1, 0, 0];
    assert_eq!(build(&names(3), &[1, 1, 1], 31).slots(), expected);
}

#[test]
fn equal_weights_are_the_paper() {
    for (n, size) in [(1, 2), (1, 13), (2, 2), (3, 7), (7, 7), (10, 251), (100, 1009), (13, 10_007)] {
        let names = names(n);
        for weight in [1, 7, u32::MAX] {
            assert_eq!(
                build(&names, &vec![weight; n], size).slots(),
                paper(&names, size),
                "{n} backends, {size} slots"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn weighted_is_the_naive_algorithm(
        weights in prop::collection::vec(prop_oneof![0_u32..4, 0_u32..1000, any::<u32>()], 1..12),
        size in prop_oneof![Just(13_u32), Just(31), Just(251), Just(1009)],
    ) {
        prop_assume!(weights.iter().filter(|&&w| w > 0).count() <= size as usize);
        let names = names(weights.len());
        let table = build(&names, &weights, size);
        prop_assert_eq!(table.slots(), naive(&names, &weights, size));
    }

    #[test]
    fn shares_are_exact_to_one_slot(weights in prop::collection::vec(0_u32..10_000, 1..50)) {
        let size = 10_007_u32;
        let table = build(&names(weights.len()), &weights, size);
        let sum: u64 = weights.iter().map(|&w| u64::from(w)).sum();
        for (&weight, count) in weights.iter().zip(counts(&table, weights.len())) {
            if sum == 0 {
                prop_assert_eq!(count, 0);
                continue;
            }
            let exact = f64::from(size) * f64::from(weight) / sum as f64;
            prop_assert!((f64::from(count) - exact).abs() < 1.0, "weight {} of {}: {} slots", weight, sum, count);
            prop_assert!(weight > 0 || count == 0);
        }
    }

    #[test]
    fn pick_finds_a_usable_backend_whenever_there_is_one(
        n in 1_usize..40, slot in 0_u32..251, usable in any::<u64>(), zero in any::<u64>(),
    ) {
        let weights: Vec<u32> = (0..n).map(|i| u32::from(zero >> i & 1 == 0)).collect();
        let table = build(&names(n), &weights, 251);
        let is_usable = |i: u16| usable >> i & 1 == 1;
        let picked = table.pick(slot, is_usable);
        let members: BTreeSet<u16> = table.slots().iter().copied().filter(|&i| i != NONE).collect();
        match picked {
            Some(index) => prop_assert!(is_usable(index) && members.contains(&index)),
            None => prop_assert!(!members.iter().any(|&i| is_usable(i))),
        }
        if let Some(first) = table.at(slot).filter(|&i| is_usable(i)) {
            prop_assert_eq!(picked, Some(first));
        }
    }
}

#[test]
fn four_hundred_equal_backends() {
    let table = build(&names(400), &[1; 400], 65_537);
    let counts = counts(&table, 400);
    assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
    assert_eq!(counts.iter().sum::<u32>(), 65_537);
}

/// Mean share, in percent, of slots that change although their backend survives, when one of 1000 is removed.
fn moved_percent(runs: u32) -> f64 {
    let names = names(1000);
    let full = build(&names, &[1; 1000], 65_537);
    let mut moved = 0_u32;
    for run in 0..runs {
        let removed = (run * 1000 / runs) as u16;
        let mut weights = vec![1; 1000];
        weights[usize::from(removed)] = 0;
        let rest = build(&names, &weights, 65_537);
        moved += (full.slots().iter().zip(rest.slots()))
            .filter(|&(&before, &after)| before != removed && before != after)
            .count() as u32;
    }
    f64::from(moved) * 100.0 / f64::from(runs) / 65_537.0
}

#[test]
fn removing_one_of_a_thousand_moves_little_in_20_runs() {
    let percent = moved_percent(20);
    assert!(percent <= 0.65, "{percent} %");
}

#[test]
fn removing_one_of_a_thousand_moves_little_in_200_runs() {
    let percent = moved_percent(200);
    assert!(percent <= 0.65, "{percent} %");
}

#[test]
fn removing_by_weight_zero_is_removing() {
    let names = names(20);
    let mut weights = vec![1; 20];
    weights[7] = 0;
    let zero = build(&names, &weights, 1009);
    let mut fewer = names.clone();
    fewer.remove(7);
    let removed = build(&fewer, &[1; 19], 1009);
    for (&a, &b) in zero.slots().iter().zip(removed.slots()) {
        assert_eq!(names[usize::from(a)], fewer[usize::from(b)]);
    }
}

#[test]
fn a_masked_backend_spreads_over_all_others() {
    let table = build(&names(10), &[1; 10], 10_007);
    let mut counts = [0_u32; 10];
    for slot in 0..table.size() {
        if table.at(slot) == Some(3) {
            counts[usize::from(table.pick(slot, |i| i != 3).unwrap())] += 1;
        }
    }
    assert_eq!(counts[3], 0);
    for (i, &count) in counts.iter().enumerate().filter(|&(i, _)| i != 3) {
        assert!((60..170).contains(&count), "b{i}: {count} of some 1000, 111 expected");
    }
}

#[test]
fn the_last_member_is_found_among_many() {
    // Attempts alone would find it for a slot in ten.
    let table = build(&names(600), &[1; 600], 65_537);
    for slot in (0..table.size()).step_by(1009) {
        assert_eq!(table.pick(slot, |i| i == 599), Some(599));
        assert_eq!(table.pick(slot, |_| false), None);
    }
}

#[test]
fn empty_tables() {
    for weights in [&[][..], &[0], &[0, 0, 0]] {
        let table = build(&names(weights.len()), weights, 13);
        assert_eq!((table.size(), table.slots()), (13, &[NONE; 13][..]));
        assert_eq!((table.at(0), table.pick(5, |_| true)), (None, None));
    }
}

#[test]
fn slots_are_chosen_evenly_and_in_range() {
    let table = build(&names(3), &[1; 3], 13);
    assert_eq!(table.slot(0), 0);
    assert_eq!(table.slot(u64::MAX), 12);
    assert_eq!(table.slot(0x7fff_ffff_0000_0000), 6);
    assert_eq!(table.slot(0xffff_ffff), 0, "the low half has no say");
    assert_eq!(table.at(13), None);
}

#[test]
fn refusals() {
    let names = names(14);
    let backends: Vec<Weighted<'_>> = names.iter().map(|name| Weighted { name, weight: 1 }).collect();
    let err = |size| Maglev::build(&backends, size, &KEY).unwrap_err();
    assert_eq!(err(100), MaglevError::NotPrime { size: 100, next: 101 });
    assert_eq!(err(0), MaglevError::NotPrime { size: 0, next: 2 });
    assert_eq!(err(1), MaglevError::NotPrime { size: 1, next: 2 });
    assert_eq!(err(13), MaglevError::TooSmall { size: 13, backends: 14 });
    assert_eq!(err(u32::MAX), MaglevError::TooLarge { size: u32::MAX });
    assert!(err(13).to_string().contains("1409"), "{}", err(13));
    let many = vec![Weighted { name: "x", weight: 0 }; Maglev::BACKENDS_MAX + 1];
    assert_eq!(
        Maglev::build(&many, 13, &KEY).unwrap_err(),
        MaglevError::TooMany { backends: Maglev::BACKENDS_MAX + 1 }
    );
}

#[test]
fn extreme_weights_end_in_time() {
    let names = names(1000);
    let mut weights = vec![1; 1000];
    weights[0] = u32::MAX;
    let table = build(&names, &weights, 65_537);
    assert!(counts(&table, 1000)[0] >= 65_536);
    weights.fill(u32::MAX);
    weights[0] = 1;
    assert!(counts(&build(&names, &weights, 65_537), 1000)[0] <= 1);
}

#[test]
fn debug_does_not_show_the_key() {
    let shown = format!("{:?}", build(&names(3), &[1; 3], 13));
    assert!(!shown.contains("key") && shown.contains("13"), "{shown}");
}
