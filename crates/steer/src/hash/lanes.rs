//! Several tuples hashed in lockstep.
//!
//! One SipHash is a chain of some fifty operations, each of which waits for the last; several chains side by side fill
//! the gaps, so that four cost little more than one and a half.

use super::domain;

/// A tuple of IPv4, as [`tuples_v4`] takes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TupleV4 {
    /// Source address.
    pub src: u32,
    /// Destination address.
    pub dst: u32,
    /// Source port in the high half, destination port in the low.
    pub ports: u32,
    /// Protocol number.
    pub protocol: u8,
}

/// [`tuple`](super::tuple) of each.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the key in halves")]
pub fn tuples_v4<const N: usize>(key: &[u8; 16], tuples: &[TupleV4; N]) -> [u64; N] {
    const LEN: u64 = 14;
    let key = u128::from_le_bytes(*key);
    let (low, high) = (key as u64, (key >> 64) as u64);
    let mut lanes = Lanes {
        v0: [low ^ 0x736f_6d65_7073_6575; N],
        v1: [high ^ 0x646f_7261_6e64_6f6d; N],
        v2: [low ^ 0x6c79_6765_6e65_7261; N],
        v3: [high ^ 0x7465_6462_7974_6573; N],
    };
    lanes.word(tuples.map(|t| {
        let (src, ports) = (u64::from(t.src.swap_bytes()), u64::from(t.ports.swap_bytes()));
        u64::from(domain::TUPLE_V4) | u64::from(t.protocol) << 8 | ports << 16 | src << 48
    }));
    lanes.word(tuples.map(|t| {
        let (src, dst) = (u64::from(t.src.swap_bytes()), u64::from(t.dst.swap_bytes()));
        src >> 16 | dst << 16 | LEN << 56
    }));
    lanes.v2 = lanes.v2.map(|v| v ^ 0xff);
    lanes.round();
    lanes.round();
    lanes.round();
    core::array::from_fn(|i| lanes.v0[i] ^ lanes.v1[i] ^ lanes.v2[i] ^ lanes.v3[i])
}

/// `N` states of SipHash.
struct Lanes<const N: usize> {
    v0: [u64; N],
    v1: [u64; N],
    v2: [u64; N],
    v3: [u64; N],
}

impl<const N: usize> Lanes<N> {
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
    use super::{TupleV4, tuples_v4};
    use proptest::prelude::{any, prop_assert_eq, proptest};
    use wire::{Addr, Tuple};

    proptest! {
        #[test]
        fn each_is_the_hash_of_its_tuple(key in any::<[u8; 16]>(), raw in any::<[(u32, u32, u16, u16, u8); 4]>()) {
            let lanes = raw.map(|(src, dst, sport, dport, protocol)| TupleV4 {
                src,
                dst,
                ports: u32::from(sport) << 16 | u32::from(dport),
                protocol,
            });
            let expected = raw.map(|(src, dst, sport, dport, protocol)| {
                crate::hash::tuple(&key, &Tuple { src: Addr::V4(src), dst: Addr::V4(dst), sport, dport, protocol })
            });
            prop_assert_eq!(tuples_v4(&key, &lanes), expected);
        }
    }
}
