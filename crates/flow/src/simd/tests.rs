use super::engine::{Engine as _, Judged};
use super::*;
use crate::ageing::{Ageing, Idle};
use crate::bucket::MARK;
use crate::burst::LANES;
use crate::hash::{Hasher, primary, secondary};
use proptest::prelude::*;
use wire::Tick;

/// Calls a method of the engine for an instruction set.
#[cfg(target_arch = "x86_64")]
macro_rules! by {
    ($isa:expr, $method:ident($($argument:expr),*)) => {
        match $isa {
            Isa::Baseline => Baseline.$method($($argument),*),
            // SAFETY: callers ask for what is available.
            Isa::Avx2 => unsafe { x86::engines::avx2::$method($($argument),*) },
            // SAFETY: as above.
            Isa::Avx512 => unsafe { x86::engines::avx512::$method($($argument),*) },
        }
    };
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
                    prop_assert_eq!(by!(isa, slot(&line, key)), expected, "{}", isa.name());
                }
            }
        }
    }

    #[test]
    fn engines_see_the_same_keys(keys in any::<[u64; LANES]>(), empty in any::<u8>(), bit in 0_u32..64) {
        let keys: [u64; LANES] = core::array::from_fn(|i| if empty >> i & 1 == 1 { 0 } else { keys[i] & 1 << bit });
        let expected = (0..LANES).filter(|&i| keys[i] != 0).fold(0, |mask, i| mask | 1 << i);
        for isa in available() {
            prop_assert_eq!(by!(isa, present(&keys)), expected, "{}", isa.name());
        }
    }

    #[test]
    fn engines_hash_and_place_alike(keys in any::<[u64; LANES]>(), seed in any::<u64>(), len in 2_u64..=u64::from(u32::MAX), bits in 0_u32..32) {
        let hasher = Hasher::new(seed);
        // Also small tables.
        for len in [len, (len >> bits).max(2)] {
            let hash = keys.map(|key| hasher.narrow(key));
            let first = hash.map(|hash| primary(hash, len));
            let second: [u32; LANES] = core::array::from_fn(|lane| secondary(hash[lane], len, first[lane]));
            for isa in available() {
                let [mut hashes, mut firsts, mut seconds] = [[0; LANES]; 3];
                by!(isa, place(&hasher, len, &keys, &mut hashes, &mut firsts, &mut seconds));
                prop_assert_eq!(hashes, hash, "{}", isa.name());
                prop_assert_eq!(firsts, first.map(|bucket| u64::from(bucket) * 64), "{}", isa.name());
                prop_assert_eq!(seconds, second.map(|bucket| u64::from(bucket) * 64), "{}", isa.name());
            }
        }
    }

    #[test]
    fn engines_judge_alike(
        words in any::<[u32; LANES]>(), meta in any::<u32>(), hashes in any::<[u64; LANES]>(), now in any::<u64>(),
        idle_us in proptest::array::uniform4(Idle::MIN_US..=Idle::MAX_US), near in any::<bool>(),
    ) {
        let [tcp_established_us, tcp_closing_us, syn_us, udp_us] = idle_us;
        let mut ageing = Ageing::new(&Idle { tcp_established_us, tcp_closing_us, syn_us, udp_us });
        ageing.change(&Idle { tcp_established_us: udp_us, tcp_closing_us: syn_us, syn_us: tcp_closing_us, udp_us: tcp_established_us });
        let now = Tick(now >> 4);
        let clock = ageing.clock(now);
        let said: [u32; LANES] = core::array::from_fn(|i| {
            let kind = Word(words[i]).kind();
            if meta >> i & 1 == 1 {
                words[i] | MARK
            } else if near && words[i] & MARK != MARK {
                // Around the moments where an entry expires and where it is taken to be from the future.
                let edge = if words[i] & 1 == 0 { u32::from(clock.limits[kind]) } else { 0 };
                words[i] & !0xff | (u32::from(clock.epochs[kind]).wrapping_sub(edge).wrapping_add(words[i] >> 30) & 0xff)
            } else {
                words[i]
            }
        });
        let is_meta = |i: usize| said[i] & MARK == MARK;
        let mask = |is_such: &dyn Fn(usize) -> bool| (0..LANES).filter(|&i| is_such(i)).fold(0, |mask, i| mask | 1 << i);
        let expected = Judged {
            live: mask(&|i| !is_meta(i) && ageing.idle_us(Word(said[i]), now).is_some()),
            needed: mask(&|i| is_meta(i) && said[i] >> (hashes[i] >> 32 & 7) & 1 == 1),
        };
        for isa in available() {
            let mut stored = [0; LANES];
            prop_assert_eq!(by!(isa, judge(said, &mut stored, &hashes, &clock)), expected, "{}", isa.name());
            prop_assert_eq!(stored, said);
            prop_assert_eq!(by!(isa, live(&said, &clock)), expected.live, "{}", isa.name());
            let line = NarrowBucket::default();
            for (word, value) in line.tail.iter().zip(said) {
                word.store(value, crate::sync::Ordering::Relaxed);
            }
            prop_assert_eq!(by!(isa, expired(&line, &clock)), !expected.live & 0b1_1111, "{}", isa.name());
        }
    }
}

#[test]
fn the_best_is_available_and_the_baseline_always_is() {
    assert!(isa().is_available() && Isa::Baseline.is_available());
    assert_eq!(Isa::ALL.map(Isa::name), ["baseline", "avx2", "avx512"]);
    assert_eq!(Available::new(isa()), Some(Available::best()));
    assert!(Isa::ALL.into_iter().all(|isa| Available::new(isa).is_some() == isa.is_available()));
    for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_available()) {
        println!("not run: flow's look-ups with {} (this CPU lacks it)", isa.name());
    }
}
