use super::*;
use crate::ageing::{Ageing, Idle};
use proptest::prelude::*;
use wire::Tick;

#[cfg(target_arch = "x86_64")]
fn slot_by(isa: Isa, line: &NarrowBucket, key: u64) -> u32 {
    match isa {
        Isa::Baseline => Baseline.slot(line, key),
        // SAFETY: callers ask for what is available.
        Isa::Avx2 => unsafe { x86::engines::slot_avx2(line, key) },
        // SAFETY: as above.
        Isa::Avx512 => unsafe { x86::engines::slot_avx512(line, key) },
    }
}

#[cfg(target_arch = "x86_64")]
fn present_by(isa: Isa, keys: &[u64; BURST]) -> u32 {
    match isa {
        Isa::Baseline => Baseline.present(keys),
        // SAFETY: callers ask for what is available, and AVX-512 takes AVX2's.
        _ => unsafe { x86::engines::present_avx2(keys) },
    }
}

#[cfg(target_arch = "x86_64")]
fn hash_by(isa: Isa, hasher: &Hasher, blocks: usize, keys: &[u64; BURST]) -> [u64; BURST] {
    let mut hashes = [0; BURST];
    match isa {
        // SAFETY: callers ask for what is available.
        Isa::Avx512 => unsafe { x86::engines::hash_avx512(hasher, blocks, keys, &mut hashes) },
        _ => Baseline.hash(hasher, blocks, keys, &mut hashes),
    }
    hashes
}

#[cfg(target_arch = "x86_64")]
fn place_by(isa: Isa, len: u64, hashes: &[u64; LANES]) -> (Offsets, [u32; LANES]) {
    let (mut places, mut buckets) = (Offsets::ZERO, [0; LANES]);
    match isa {
        Isa::Baseline => Baseline.place(len, hashes, &mut places, &mut buckets),
        // SAFETY: callers ask for what is available, and AVX-512 takes AVX2's.
        _ => unsafe { x86::engines::place_avx2(len, hashes, &mut places, &mut buckets) },
    }
    (places, buckets)
}

#[cfg(target_arch = "x86_64")]
fn overflow_by(
    isa: Isa,
    words: &[u32; LANES],
    slots: &[u8; LANES],
    hashes: &[u64; LANES],
    places: &mut Offsets,
) -> u32 {
    match isa {
        Isa::Baseline => Baseline.overflow(words, slots, hashes, places),
        // SAFETY: as above.
        _ => unsafe { x86::engines::overflow_avx2(words, slots, hashes, places) },
    }
}

#[cfg(target_arch = "x86_64")]
fn live_by(isa: Isa, slots: &[u8; BURST], words: &[u32; BURST], clock: &Clock) -> u32 {
    match isa {
        Isa::Baseline => Baseline.live(slots, words, clock),
        // SAFETY: as above.
        _ => unsafe { x86::engines::live_avx2(slots, words, clock) },
    }
}

/// All that this CPU has; on one without AVX-512 the tests below hold for less.
fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

#[cfg(target_arch = "x86_64")]
proptest! {
    #[test]
    fn engines_find_the_same_slot(keys in any::<[u64; 5]>(), tail in any::<[u32; 6]>(), few in 0_u64..3, bit in 0_u32..64) {
        for keys in [keys, keys.map(|key| key % (few + 1))] {
            let line = NarrowBucket::default();
            for (slot, key) in keys.into_iter().enumerate() {
                line.store_key(slot, (key != 0).then_some(key));
            }
            for (word, value) in line.tail.iter().zip(tail) {
                word.store(value, crate::sync::Ordering::Relaxed);
            }
            // Each key, one bit beside it, the empty slot, and what lies behind the keys in the line.
            let near = keys.map(|key| key ^ 1 << bit);
            let behind = u64::from(tail[1]) << 32 | u64::from(tail[0]);
            for key in keys.into_iter().chain(near).chain([0, 1, behind]) {
                let expected = keys.iter().position(|&other| other == key).unwrap_or(5) as u32;
                for isa in available() {
                    prop_assert_eq!(slot_by(isa, &line, key), expected, "{}", isa.name());
                }
            }
        }
    }

    #[test]
    fn engines_see_the_same_keys(keys in any::<[u64; BURST]>(), empty in any::<u32>(), bit in 0_u32..64) {
        let keys: [u64; BURST] = core::array::from_fn(|i| if empty >> i & 1 == 1 { 0 } else { keys[i] & 1 << bit });
        let expected = (0..BURST).filter(|&i| keys[i] != 0).fold(0, |mask, i| mask | 1 << i);
        for isa in available() {
            prop_assert_eq!(present_by(isa, &keys), expected, "{}", isa.name());
        }
    }

    #[test]
    fn engines_hash_alike(keys in any::<[u64; BURST]>(), seed in any::<u64>(), blocks in 0_usize..=4) {
        let hasher = Hasher::new(seed);
        let expected = core::array::from_fn(|i| if i < blocks * LANES { hasher.narrow(keys[i]) } else { 0 });
        for isa in available() {
            prop_assert_eq!(hash_by(isa, &hasher, blocks, &keys), expected, "{}", isa.name());
        }
    }

    #[test]
    fn engines_place_alike(hashes in any::<[u64; LANES]>(), len in 2_u64..=u64::from(u32::MAX), edge in any::<u8>()) {
        // Also the lowest and the highest halves, where the ends of the table are.
        let half = |half: u64, edge: u8| match edge & 3 { 0 => 0, 1 => 0xffff_ffff, _ => half & 0xffff_ffff };
        let hashes = hashes.map(|hash| half(hash >> 32, edge) << 32 | half(hash, edge >> 2));
        let first = hashes.map(|hash| primary(hash, len));
        let second: [u32; LANES] = core::array::from_fn(|lane| secondary(hashes[lane], len, first[lane]));
        for isa in available() {
            let (places, buckets) = place_by(isa, len, &hashes);
            prop_assert_eq!(buckets, first, "{}", isa.name());
            prop_assert_eq!(places.first, first.map(|bucket| u64::from(bucket) * 64), "{}", isa.name());
            prop_assert_eq!(places.second, second.map(|bucket| u64::from(bucket) * 64), "{}", isa.name());
        }
    }

    #[test]
    fn engines_ask_the_filter_alike(
        words in any::<[u32; LANES]>(), slots in any::<[u8; LANES]>(), hashes in any::<[u64; LANES]>(),
        offsets in any::<([u64; LANES], [u64; LANES])>(),
    ) {
        let slots = slots.map(|slot| (slot % 10).min(NO_SLOT));
        let needs = |lane: usize| slots[lane] == NO_SLOT && words[lane] >> (hashes[lane] >> 32 & 7) & 1 == 1;
        let expected = (0..LANES).filter(|&lane| needs(lane)).fold(0, |mask, lane| mask | 1 << lane);
        for isa in available() {
            let mut places = Offsets { first: offsets.0, second: offsets.1 };
            prop_assert_eq!(overflow_by(isa, &words, &slots, &hashes, &mut places), expected, "{}", isa.name());
            for lane in 0..LANES {
                prop_assert_eq!(places.first[lane], if needs(lane) { offsets.1[lane] } else { offsets.0[lane] });
            }
            prop_assert_eq!(places.second, offsets.1);
        }
    }

    #[test]
    fn engines_judge_age_alike(
        words in any::<[u32; BURST]>(), empty in any::<u32>(), now in any::<u64>(),
        idle_us in proptest::array::uniform4(Idle::MIN_US..=Idle::MAX_US), near in any::<bool>(),
    ) {
        let [tcp_established_us, tcp_closing_us, syn_us, udp_us] = idle_us;
        let mut ageing = Ageing::new(&Idle { tcp_established_us, tcp_closing_us, syn_us, udp_us });
        ageing.change(&Idle { tcp_established_us: udp_us, tcp_closing_us: syn_us, syn_us: tcp_closing_us, udp_us: tcp_established_us });
        let now = Tick(now >> 4);
        let clock = ageing.clock(now);
        let words = if near {
            // Around the moments where an entry expires and where it is taken to be from the future.
            core::array::from_fn(|i| {
                let kind = Word(words[i]).kind();
                let edge = if words[i] & 1 == 0 { u32::from(clock.limits[kind]) } else { 248 };
                words[i] & !0xff | (u32::from(clock.epochs[kind]).wrapping_sub(edge).wrapping_add(words[i] >> 30) & 0xff)
            })
        } else {
            words
        };
        let slots = core::array::from_fn(|i| if empty >> i & 1 == 1 { NO_SLOT } else { (i % 5) as u8 });
        let expected = (0..BURST)
            .filter(|&i| empty >> i & 1 == 0 && ageing.idle_us(Word(words[i]), now).is_some())
            .fold(0, |mask, i| mask | 1 << i);
        for isa in available() {
            prop_assert_eq!(live_by(isa, &slots, &words, &clock), expected, "{}", isa.name());
        }
    }
}

#[test]
fn the_best_is_available_and_the_baseline_always_is() {
    assert!(isa().is_available() && Isa::Baseline.is_available());
    assert_eq!(Isa::ALL.map(Isa::name), ["baseline", "avx2", "avx512"]);
    assert_eq!(Available::new(isa()), Some(Available::best()));
    assert!(Isa::ALL.into_iter().all(|isa| Available::new(isa).is_some() == isa.is_available()));
}
