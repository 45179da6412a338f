//! Many hashes in lockstep: the same operations on arrays, which the compiler turns into vectors where the CPU has them.

use super::domain;

/// Fields of packets of IPv4 as they lie there, by column: nothing is turned round on the way from a header to its hash.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'c, const N: usize> {
    /// The protocol.
    pub protocol: &'c [u64; N],
    /// Source and destination port: the first four bytes behind the IP header, read with the first byte lowest. What stands above 32
    /// bits is left out.
    pub ports: &'c [u64; N],
    /// Source and destination address: eight bytes of the header, read with the first byte lowest.
    pub addresses: &'c [u64; N],
}

/// [`tuple`](super::tuple) of each.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the key in halves")]
pub fn tuples_v4<const N: usize>(key: &[u8; 16], of: Columns<'_, N>) -> [u64; N] {
    const LEN: u64 = 14;
    let key = u128::from_le_bytes(*key);
    let (low, high) = (key as u64, (key >> 64) as u64);
    let mut lanes = SipStates {
        v0: [low ^ 0x736f_6d65_7073_6575; N],
        v1: [high ^ 0x646f_7261_6e64_6f6d; N],
        v2: [low ^ 0x6c79_6765_6e65_7261; N],
        v3: [high ^ 0x7465_6462_7974_6573; N],
    };
    lanes.word(core::array::from_fn(|i| {
        let ports = of.ports[i] & 0xffff_ffff;
        u64::from(domain::TUPLE_V4) | of.protocol[i] << 8 | ports << 16 | of.addresses[i] << 48
    }));
    lanes.word(core::array::from_fn(|i| of.addresses[i] >> 16 | LEN << 56));
    lanes.v2 = lanes.v2.map(|v| v ^ 0xff);
    lanes.round();
    lanes.round();
    lanes.round();
    core::array::from_fn(|i| lanes.v0[i] ^ lanes.v1[i] ^ lanes.v2[i] ^ lanes.v3[i])
}

/// `N` states of SipHash.
struct SipStates<const N: usize> {
    v0: [u64; N],
    v1: [u64; N],
    v2: [u64; N],
    v3: [u64; N],
}

impl<const N: usize> SipStates<N> {
    #[inline(always)]
    fn word(&mut self, words: [u64; N]) {
        for (v3, word) in self.v3.iter_mut().zip(words) {
            *v3 ^= word;
        }
        self.round();
        for (v0, word) in self.v0.iter_mut().zip(words) {
            *v0 ^= word;
        }
    }

    #[inline(always)]
    fn round(&mut self) {
        let lanes = self.v0.iter_mut().zip(&mut self.v1).zip(self.v2.iter_mut().zip(&mut self.v3));
        for ((v0, v1), (v2, v3)) in lanes {
            *v0 = v0.wrapping_add(*v1);
            *v2 = v2.wrapping_add(*v3);
            *v1 = v1.rotate_left(13) ^ *v0;
            *v3 = v3.rotate_left(16) ^ *v2;
            *v0 = v0.rotate_left(32);
            *v2 = v2.wrapping_add(*v1);
            *v0 = v0.wrapping_add(*v3);
            *v1 = v1.rotate_left(17) ^ *v2;
            *v3 = v3.rotate_left(21) ^ *v0;
            *v2 = v2.rotate_left(32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Columns, tuples_v4};
    use proptest::prelude::{any, prop_assert_eq, proptest};
    use wire::{Addr, Tuple};

    proptest! {
        #[test]
        fn each_is_the_hash_of_its_tuple(
            key in any::<[u8; 16]>(), raw in any::<[(u32, u32, u16, u16, u8); 4]>(), above in any::<u32>(),
        ) {
            let lanes = tuples_v4(&key, Columns {
                protocol: &raw.map(|(.., protocol)| u64::from(protocol)),
                ports: &raw.map(|(_, _, sport, dport, _)| {
                    u64::from(sport.swap_bytes()) | u64::from(dport.swap_bytes()) << 16 | u64::from(above) << 32
                }),
                addresses: &raw.map(|(src, dst, ..)| u64::from(src.swap_bytes()) | u64::from(dst.swap_bytes()) << 32),
            });
            let expected = raw.map(|(src, dst, sport, dport, protocol)| {
                crate::hash::tuple(&key, &Tuple { src: Addr::V4(src), dst: Addr::V4(dst), sport, dport, protocol })
            });
            prop_assert_eq!(lanes, expected);
        }
    }
}
