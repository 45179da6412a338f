use super::{checksum, fold, pseudo_header_sum, sum, update16, update32};
use crate::Addr;
use crate::sample::naive_sum;
use proptest::prelude::{any, prop_assert_eq, proptest};
use std::vec::Vec;

#[test]
fn rfc_1071_example() {
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(fold(sum(&bytes)), 0xddf2);
    assert_eq!(checksum(&bytes), !0xddf2);
}

#[test]
fn rfc_1624_example() {
    // Section 4: equation 2 gives 0xffff here, which equation 3 avoids.
    assert_eq!(update16(0xdd2f, 0x5555, 0x3285), 0x0000);
}

#[test]
fn longest_slice_of_ones_does_not_overflow() {
    let bytes = std::vec![0xff; 65_536];
    assert_eq!(fold(sum(&bytes)), 0xffff);
}

proptest! {
    #[test]
    fn sum_is_the_naive_sum(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(fold(sum(&bytes)), naive_sum(&bytes));
    }

    #[test]
    fn sums_of_even_pieces_add_up(a in proptest::collection::vec(any::<[u8; 2]>(), 0..200), b in proptest::collection::vec(any::<u8>(), 0..200)) {
        let a = a.concat();
        let whole = [a.clone(), b.clone()].concat();
        prop_assert_eq!(fold(sum(&a) + sum(&b)), naive_sum(&whole));
    }

    #[test]
    fn update_is_recomputation(mut header in any::<[u8; 20]>(), at in 0usize..8, new in any::<u32>()) {
        header[0] = 0x45;
        header[10..12].fill(0);
        let at = if at < 4 { at * 2 } else { 12 + (at - 4) * 2 };
        let before = checksum(&header);
        let old16 = u16::from_be_bytes([header[at], header[at + 1]]);
        let old32 = u32::from_be_bytes([header[12], header[13], header[14], header[15]]);
        let mut changed = header;
        let new16 = if at == 0 { 0x4500 | new as u16 & 0xff } else { new as u16 };
        changed[at..at + 2].copy_from_slice(&new16.to_be_bytes());
        prop_assert_eq!(update16(before, old16, new16), checksum(&changed));
        let mut changed = header;
        changed[12..16].copy_from_slice(&new.to_be_bytes());
        prop_assert_eq!(update32(before, old32, new), checksum(&changed));
    }

    #[test]
    fn pseudo_header_is_that_of_etherparse(src in any::<[u8; 16]>(), dst in any::<[u8; 16]>(), data in proptest::collection::vec(any::<u8>(), 0..100)) {
        let datagram = etherparse::UdpHeader { source_port: 1, destination_port: 2, length: 8 + data.len() as u16, checksum: 0 };
        let mut bytes = Vec::from(datagram.to_bytes());
        bytes.extend(&data);
        let len = bytes.len() as u32;
        let v6 = pseudo_header_sum(Addr::V6(u128::from_be_bytes(src)), Addr::V6(u128::from_be_bytes(dst)), 17, len);
        let expected = datagram.calc_checksum_ipv6_raw(src, dst, &data).unwrap();
        prop_assert_eq!(!fold(v6 + sum(&bytes)), expected);
        let (src, dst) = ([src[0], src[1], src[2], src[3]], [dst[0], dst[1], dst[2], dst[3]]);
        let v4 = pseudo_header_sum(Addr::V4(u32::from_be_bytes(src)), Addr::V4(u32::from_be_bytes(dst)), 17, len);
        let expected = datagram.calc_checksum_ipv4_raw(src, dst, &data).unwrap();
        prop_assert_eq!(!fold(v4 + sum(&bytes)), expected);
    }
}
