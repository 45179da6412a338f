use super::*;
use core::net::IpAddr;
use proptest::prelude::*;
use std::vec::Vec;

const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

fn addr(text: &str) -> Addr {
    Addr::from(text.parse::<IpAddr>().unwrap())
}

fn tuple_of(src: &str, sport: u16, dst: &str, dport: u16, protocol: u8) -> Tuple {
    Tuple { src: addr(src), dst: addr(dst), sport, dport, protocol }
}

// The golden values come from an implementation of SipHash-1-3 and of the layout in another language. If one of these
// tests fails, the change would give machines of two versions different answers: do not change the value.

#[test]
fn golden_tuple() {
    let v4 = tuple_of("198.51.100.7", 40_000, "203.0.113.10", 80, 6);
    assert_eq!(tuple(&KEY, &v4), 0x191f_774c_5abb_cef9);
    let v6 = tuple_of("2001:db8::7", 5353, "2001:db8:1::10", 443, 17);
    assert_eq!(tuple(&KEY, &v6), 0x5a5a_51d3_27e4_f821);
    let mixed = tuple_of("198.51.100.7", 1, "2001:db8:1::10", 2, 6);
    assert_eq!(tuple(&KEY, &mixed), 0x13b7_5681_7153_46e2);
}

#[test]
fn golden_source() {
    assert_eq!(source(&KEY, addr("198.51.100.7")), 0x4d97_16d9_45b0_15d8);
    assert_eq!(source(&KEY, addr("2001:db8::7")), 0xfa54_e015_bd36_553a);
}

#[test]
fn golden_fragment() {
    let (src, dst) = (addr("198.51.100.7"), addr("203.0.113.10"));
    assert_eq!(fragment(&KEY, src, dst, 0xbeef, 6), 0x1f8f_7955_2a37_3bdb);
    let (src, dst) = (addr("2001:db8::7"), addr("2001:db8:1::10"));
    assert_eq!(fragment(&KEY, src, dst, 0xdead_beef, 17), 0x7889_61b2_977b_9fc0);
}

#[test]
fn golden_maglev_inputs() {
    assert_eq!(maglev_offset_and_skip(&KEY, "b1"), (0x2987_6c19_080d_2bc1, 0x781f_543a_d797_0115));
    assert_eq!(maglev_preference(&KEY, 77, 3), 0x3e85_4a6f_20a7_42de);
}

/// SipHash-1-3 after the paper (Aumasson and Bernstein, INDOCRYPT 2012), bit by bit; an oracle for the crate.
fn sip13(key: &[u8; 16], data: &[u8]) -> u64 {
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let (k0, k1) = (word(&key[..8]), word(&key[8..]));
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let round = |v: &mut [u64; 4]| {
        v[0] = v[0].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[2] = v[2].rotate_left(32);
    };
    let mut padded = data.to_vec();
    padded.resize(data.len() / 8 * 8 + 7, 0);
    padded.push(data.len().to_le_bytes()[0]);
    for chunk in padded.chunks(8) {
        v[3] ^= word(chunk);
        round(&mut v);
        v[0] ^= word(chunk);
    }
    v[2] ^= 0xff;
    (0..3).for_each(|_| round(&mut v));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[test]
fn oracle_is_siphash_1_3() {
    // First entry of the vectors of Rust's own SipHash-1-3 tests.
    assert_eq!(sip13(&KEY, &[]), 0xabac_0158_050f_c4dc);
}

proptest! {
    #[test]
    fn layout_is_as_documented(
        key: [u8; 16], src: u32, dst: u32, src6: u128, dst6: u128, sport: u16, dport: u16, protocol: u8, id: u32,
        name in "\\PC{0,40}",
    ) {
        let bytes = |parts: &[&[u8]]| -> Vec<u8> { parts.concat() };
        let (s, d) = (sport.to_be_bytes(), dport.to_be_bytes());
        let t = Tuple { src: Addr::V4(src), dst: Addr::V4(dst), sport, dport, protocol };
        let expected = bytes(&[&[1, protocol], &s, &d, &src.to_be_bytes(), &dst.to_be_bytes()]);
        prop_assert_eq!(tuple(&key, &t), sip13(&key, &expected));
        let t = Tuple { src: Addr::V6(src6), dst: Addr::V6(dst6), sport, dport, protocol };
        let expected = bytes(&[&[2, protocol], &s, &d, &src6.to_be_bytes(), &dst6.to_be_bytes()]);
        prop_assert_eq!(tuple(&key, &t), sip13(&key, &expected));
        prop_assert_eq!(source(&key, Addr::V4(src)), sip13(&key, &bytes(&[&[3], &src.to_be_bytes()])));
        prop_assert_eq!(source(&key, Addr::V6(src6)), sip13(&key, &bytes(&[&[4], &src6.to_be_bytes()])));
        let expected =
            bytes(&[&[5, protocol], &id.to_be_bytes(), &src.to_be_bytes(), &dst.to_be_bytes()]);
        prop_assert_eq!(fragment(&key, Addr::V4(src), Addr::V4(dst), id, protocol), sip13(&key, &expected));
        let expected =
            bytes(&[&[6, protocol], &id.to_be_bytes(), &src6.to_be_bytes(), &dst6.to_be_bytes()]);
        prop_assert_eq!(fragment(&key, Addr::V6(src6), Addr::V6(dst6), id, protocol), sip13(&key, &expected));
        let (offset, skip) = maglev_offset_and_skip(&key, &name);
        prop_assert_eq!(offset, sip13(&key, &bytes(&[&[0x10], name.as_bytes()])));
        prop_assert_eq!(skip, sip13(&key, &bytes(&[&[0x11], name.as_bytes()])));
        let (slot, attempt) = (src, dst);
        let expected = bytes(&[&[0x12], &slot.to_be_bytes(), &attempt.to_be_bytes()]);
        prop_assert_eq!(maglev_preference(&key, slot, attempt), sip13(&key, &expected));
    }

    #[test]
    fn by_words_is_the_library(key: [u8; 16], bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let (words, last) = bytes.as_chunks::<8>();
        let mut sip = sip::Sip::new(&key);
        for &word in words {
            sip = sip.word(u64::from_le_bytes(word));
        }
        let last = last.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        let library = siphasher::sip::SipHasher13::new_with_key(&key).hash(&bytes);
        prop_assert_eq!(sip.finish(last, bytes.len()), library);
        prop_assert_eq!(sip13(&key, &bytes), library);
    }

    #[test]
    fn core_is_in_range_and_ignores_the_slot_bits(hash: u64, high: u64, cores: u8) {
        let core = core_of(hash, cores);
        prop_assert!(core.0 < cores.max(1));
        prop_assert_eq!(core_of((hash & 0xffff) | (high << 16), cores), core);
    }
}

#[test]
fn cores_get_equal_shares() {
    for cores in [1_u8, 2, 3, 7, 64, 255] {
        let mut counts = std::vec![0_u32; usize::from(cores)];
        for hash in 0..=0xffff_u64 {
            counts[usize::from(core_of(hash, cores).0)] += 1;
        }
        let (min, max) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(max - min <= 1, "{cores} cores: {min} to {max}");
    }
}
