//! Other people's loops over arrays, compiled for the look-ups' instruction set, and the masks that such loops need: the compiler
//! makes vectors of sums and selections by itself, but takes a vector of comparisons apart bit by bit.

use super::isa::{Available, Isa};
use super::prefetch;
use crate::burst::BURST;

/// The instruction set that a table uses, for loops of its owner's.
#[derive(Clone, Copy, Debug)]
pub struct Vectors(Available);

impl Vectors {
    pub(crate) const fn of(isa: Available) -> Vectors {
        Vectors(isa)
    }

    /// Runs `work`, and what is inlined into it, compiled for it. For loops over arrays of known length, which the compiler
    /// turns into vectors: eight SipHashes in lockstep take little more instructions than one with AVX-512.
    #[inline]
    pub fn run<R>(self, work: impl FnOnce(Lanes) -> R) -> R {
        match self.0.isa() {
            #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
            // SAFETY: an `Available` is made only of what the CPU has.
            // JUSTIFICATION: calls across instruction sets are unsafe. Hashing the tuples of eight new flows takes 148
            // instructions with AVX-512 and some 850 with AVX2 or without (disassembled), which have no vector rotation.
            Isa::Avx512 => unsafe { with_avx512(work) },
            #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
            // SAFETY: as above.
            // JUSTIFICATION: as above; judging the headers of a burst takes 29 instructions a packet with AVX2 and 90 without.
            Isa::Avx2 => unsafe { with_avx2(work) },
            _ => work(Lanes(Isa::Baseline)),
        }
    }
}

#[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2")]
fn with_avx512<R>(work: impl FnOnce(Lanes) -> R) -> R {
    work(Lanes(Isa::Avx512))
}

#[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn with_avx2<R>(work: impl FnOnce(Lanes) -> R) -> R {
    work(Lanes(Isa::Avx2))
}

/// Masks over arrays of a burst, a bit a position. Only [`Vectors::run`] gives one, with what the CPU has, so everything here folds into
/// the instructions of one set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lanes(Isa);

impl Lanes {
    /// Which instruction set it is.
    #[inline(always)]
    pub const fn isa(self) -> Isa {
        self.0
    }

    /// Starts to fetch the line in which `item` begins.
    #[inline(always)]
    pub fn prefetch<T>(self, item: &T) {
        prefetch::prefetch(item);
    }

    /// The positions of words that are equal to `value`.
    #[inline(always)]
    pub fn equal(self, words: &[u64; BURST], value: u64) -> u32 {
        match self.0 {
            #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
            // SAFETY: `Vectors::run` gives this only where the CPU has it.
            // JUSTIFICATION: 40 instructions a burst, with AVX-512 16; what the compiler makes of `equal_plainly` is 190.
            Isa::Avx512 => unsafe { x86::equal_avx512(words, value) },
            #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
            // SAFETY: as above.
            // JUSTIFICATION: as above.
            Isa::Avx2 => unsafe { x86::equal_avx2(words, value) },
            _ => mask(|position| words[position] == value),
        }
    }

    /// The positions of words whose bit `63 - below_sign` is set.
    #[inline(always)]
    pub fn bit<const BELOW_SIGN: u32>(self, words: &[u64; BURST]) -> u32 {
        const { assert!(BELOW_SIGN < 64) };
        match self.0 {
            #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
            // SAFETY: as above; AVX-512 includes AVX2.
            // JUSTIFICATION: as above: 32 instructions a burst.
            Isa::Avx512 | Isa::Avx2 => unsafe { x86::bit(words, BELOW_SIGN) },
            _ => mask(|position| words[position] << BELOW_SIGN >> 63 == 1),
        }
    }

    /// The positions of words that are equal to `value` in the bits of `of`.
    #[inline(always)]
    pub(crate) fn equal_in(self, words: &[u32; BURST], of: u32, value: u32) -> u32 {
        match self.0 {
            #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
            // SAFETY: as above; AVX-512 includes AVX2.
            // JUSTIFICATION: as above: 24 instructions a burst.
            Isa::Avx512 | Isa::Avx2 => unsafe { x86::equal_in(words, of, value) },
            _ => mask(|position| words[position] & of == value),
        }
    }
}

/// The safe twin of all of them.
#[inline(always)]
fn mask(has: impl Fn(usize) -> bool) -> u32 {
    let mut mask = 0;
    for position in 0..BURST {
        mask |= u32::from(has(position)) << position;
    }
    mask
}

#[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
#[expect(
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "intrinsics take bits as signed numbers"
)]
mod x86 {
    use crate::burst::BURST;
    use core::arch::x86_64::{
        __m256i, _mm_cvtsi32_si128, _mm256_and_si256, _mm256_castsi256_pd, _mm256_castsi256_ps,
        _mm256_cmpeq_epi32, _mm256_cmpeq_epi64, _mm256_cmpeq_epi64_mask, _mm256_loadu_si256,
        _mm256_movemask_pd, _mm256_movemask_ps, _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_sll_epi64,
    };

    /// Four words of 64 bits, or eight of 32.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    fn load<T, const N: usize>(words: &[T; N]) -> __m256i {
        const { assert!(size_of::<[T; N]>() == size_of::<__m256i>()) };
        // SAFETY: as many bytes as are loaded, and any alignment will do.
        // JUSTIFICATION: the load of the comparisons below, whose gain is told where they are called.
        unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    pub(super) fn equal_avx2(words: &[u64; BURST], value: u64) -> u32 {
        let value = _mm256_set1_epi64x(value as i64);
        let mut mask = 0;
        for (block, words) in words.as_chunks::<4>().0.iter().enumerate() {
            let equal = _mm256_castsi256_pd(_mm256_cmpeq_epi64(load(words), value));
            mask |= (_mm256_movemask_pd(equal) as u32) << (block * 4);
        }
        mask
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn equal_avx512(words: &[u64; BURST], value: u64) -> u32 {
        let value = _mm256_set1_epi64x(value as i64);
        let mut mask = 0;
        for (block, words) in words.as_chunks::<4>().0.iter().enumerate() {
            mask |= u32::from(_mm256_cmpeq_epi64_mask(load(words), value)) << (block * 4);
        }
        mask
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    pub(super) fn bit(words: &[u64; BURST], below_sign: u32) -> u32 {
        let count = _mm_cvtsi32_si128(below_sign as i32);
        let mut mask = 0;
        for (block, words) in words.as_chunks::<4>().0.iter().enumerate() {
            let signs = _mm256_castsi256_pd(_mm256_sll_epi64(load(words), count));
            mask |= (_mm256_movemask_pd(signs) as u32) << (block * 4);
        }
        mask
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    pub(super) fn equal_in(words: &[u32; BURST], of: u32, value: u32) -> u32 {
        let (of, value) = (_mm256_set1_epi32(of as i32), _mm256_set1_epi32(value as i32));
        let mut mask = 0;
        for (block, words) in words.as_chunks::<8>().0.iter().enumerate() {
            let equal = _mm256_cmpeq_epi32(_mm256_and_si256(load(words), of), value);
            mask |= (_mm256_movemask_ps(_mm256_castsi256_ps(equal)) as u32) << (block * 8);
        }
        mask
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn masks_are_those_of_safe_code(
            few in prop::array::uniform32(0..4_u64), wild in prop::array::uniform32(any::<u64>()), value in 0..4_u64,
        ) {
            let words = core::array::from_fn(|i| if i % 3 == 0 { wild[i] } else { few[i] | wild[i] << 60 });
            let narrow = core::array::from_fn(|i| few[i] as u32 | (wild[i] as u32) << 12);
            for isa in Isa::ALL.into_iter().filter_map(Available::new) {
                Vectors::of(isa).run(|lanes| {
                    assert_eq!(lanes.isa(), isa.isa());
                    assert_eq!(lanes.equal(&few, value), mask(|i| few[i] == value));
                    assert_eq!(lanes.equal(&wild, wild[7]), mask(|i| wild[i] == wild[7]));
                    assert_eq!(lanes.bit::<0>(&words), mask(|i| words[i] >> 63 == 1));
                    assert_eq!(lanes.bit::<1>(&words), mask(|i| words[i] >> 62 & 1 == 1));
                    assert_eq!(lanes.bit::<63>(&words), mask(|i| words[i] & 1 == 1));
                    let of = 0xfff;
                    assert_eq!(lanes.equal_in(&narrow, of, value as u32), mask(|i| narrow[i] & of == value as u32));
                });
            }
        }
    }
}
