use super::*;
use crate::ageing::{Ageing, Idle};
use proptest::prelude::*;
use wire::Tick;

#[cfg(target_arch = "x86_64")]
fn matches_by(isa: Isa, line: &NarrowBucket, key: u64) -> u32 {
    match isa {
        Isa::Baseline => Baseline.matches(line, key),
        // SAFETY: callers ask for what is available.
        Isa::Avx2 => unsafe { x86::engines::matches_avx2(line, key) },
        // SAFETY: as above.
        Isa::Avx512 => unsafe { x86::engines::matches_avx512(line, key) },
    }
}

#[cfg(target_arch = "x86_64")]
fn present_by(isa: Isa, keys: &[u64; BURST]) -> u32 {
    match isa {
        Isa::Baseline => Baseline.present(keys),
        // SAFETY: callers ask for what is available.
        Isa::Avx2 => unsafe { x86::engines::present_avx2(keys) },
        // SAFETY: as above.
        Isa::Avx512 => unsafe { x86::engines::present_avx512(keys) },
    }
}

#[cfg(target_arch = "x86_64")]
fn absent_by(isa: Isa, slots: &[u8; BURST]) -> u32 {
    match isa {
        Isa::Baseline => Baseline.absent(slots),
        // SAFETY: callers ask for what is available.
        Isa::Avx2 => unsafe { x86::engines::absent_avx2(slots) },
        // SAFETY: as above.
        Isa::Avx512 => unsafe { x86::engines::absent_avx512(slots) },
    }
}

type Placed = ([u64; stages::LANES], [u32; stages::LANES]);

#[cfg(target_arch = "x86_64")]
fn place_by(isa: Isa, hasher: &Hasher, len: u64, keys: &[u64; stages::LANES]) -> Placed {
    let (mut hashes, mut buckets) = ([0; stages::LANES], [0; stages::LANES]);
    match isa {
        // SAFETY: callers ask for what is available.
        Isa::Avx512 => unsafe { x86::engines::place_avx512(hasher, len, keys, &mut hashes, &mut buckets) },
        _ => {
            Baseline.hash(hasher, keys, &mut hashes);
            Baseline.scale(len, &hashes, &mut buckets);
        }
    }
    (hashes, buckets)
}

#[cfg(target_arch = "x86_64")]
fn live_by(isa: Isa, slots: &[u8; BURST], words: &[u32; BURST], clock: &Clock) -> u32 {
    match isa {
        // SAFETY: callers ask for what is available.
        Isa::Avx512 => unsafe { x86::engines::live_avx512(slots, words, clock) },
        _ => Baseline.live(slots, words, clock),
    }
}

/// All that this CPU has; on one without AVX-512 the tests below hold for less.
fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

#[cfg(target_arch = "x86_64")]
proptest! {
    #[test]
    fn engines_match_the_same_slots(keys in any::<[u64; 5]>(), tail in any::<[u32; 6]>(), few in 0_u64..3, bit in 0_u32..64) {
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
                let expected = (0..5).filter(|&slot| keys[slot] == key).fold(0, |mask, slot| mask | 1 << slot);
                for isa in available() {
                    prop_assert_eq!(matches_by(isa, &line, key), expected, "{}", isa.name());
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
    fn engines_hash_alike(keys in any::<[u64; stages::LANES]>(), seed in any::<u64>(), len in 2_u64..=u64::from(u32::MAX)) {
        let hasher = Hasher::new(seed);
        for isa in available() {
            let (hashes, buckets) = place_by(isa, &hasher, len, &keys);
            prop_assert_eq!(hashes, keys.map(|key| hasher.narrow(key)), "{}", isa.name());
            prop_assert_eq!(buckets, hashes.map(|hash| primary(hash, len)), "{}", isa.name());
        }
    }

    #[test]
    fn engines_see_the_same_empty_slots(slots in any::<[u8; BURST]>(), empty in any::<u32>()) {
        let slots: [u8; BURST] = core::array::from_fn(|i| if empty >> i & 1 == 1 { 0 } else { slots[i] });
        let expected = (0..BURST).filter(|&i| slots[i] == 0).fold(0, |mask, i| mask | 1 << i);
        for isa in available() {
            prop_assert_eq!(absent_by(isa, &slots), expected, "{}", isa.name());
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
                let edge = if words[i] & 1 == 0 { clock.limits[kind] } else { 248 };
                words[i] & !0xff | (clock.epochs[kind].wrapping_sub(edge).wrapping_add(words[i] >> 30) & 0xff)
            })
        } else {
            words
        };
        let slots = core::array::from_fn(|i| if empty >> i & 1 == 1 { 0 } else { 1 << (i % 5) });
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
