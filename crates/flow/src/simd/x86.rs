//! The engines for x86-64.
//!
//! Their methods are inlined into the functions that enable their instruction sets, at the end; each is made only there.
#![expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "a row of vector instructions on the same data is sound by one argument"
)]

use super::stages::LANES;
use super::{Engine, stages};
use crate::ageing::{AGE_MAX, Clock};
use crate::bucket::{NarrowBucket, WideBucket};
use crate::burst::{BURST, Hits, Keys};
use crate::cuckoo::Cells;
use crate::hash::Hasher;
use crate::state::Word;
use core::arch::x86_64::{
    __m256i, __m512i, _mm256_castsi256_pd, _mm256_cmpeq_epi8, _mm256_cmpeq_epi64, _mm256_load_si256,
    _mm256_loadu_si256, _mm256_movemask_epi8, _mm256_movemask_pd, _mm256_set1_epi64x, _mm256_setzero_si256,
    _mm256_storeu_si256, _mm256_test_epi8_mask, _mm256_testn_epi8_mask, _mm512_and_si512,
    _mm512_cmpgt_epu32_mask, _mm512_cmplt_epu32_mask, _mm512_cvtepi64_epi32, _mm512_load_si512,
    _mm512_loadu_si512, _mm512_mask_cmpeq_epi64_mask, _mm512_mask_mov_epi32, _mm512_mul_epu32,
    _mm512_mullo_epi64, _mm512_permutexvar_epi32, _mm512_set1_epi32, _mm512_set1_epi64, _mm512_setzero_si512,
    _mm512_srli_epi32, _mm512_srli_epi64, _mm512_storeu_si512, _mm512_sub_epi32, _mm512_test_epi64_mask,
    _mm512_xor_si512,
};

/// Exists only where AVX2 is enabled.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Exists only where AVX-512 F, BW, DQ and VL are enabled.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

const _: () = assert!(core::mem::offset_of!(NarrowBucket, keys) == 0 && size_of::<NarrowBucket>() == 64);
const _: () =
    assert!(core::mem::offset_of!(Clock, epochs) == 0 && core::mem::offset_of!(Clock, limits) == 64);

impl Engine for Avx2 {
    #[expect(clippy::cast_sign_loss, reason = "bits")]
    #[inline(always)]
    fn present(self, keys: &[u64; BURST]) -> u32 {
        let mut absent = 0;
        for (block, keys) in keys.chunks_exact(4).enumerate() {
            // SAFETY: AVX2 is there, as this engine is; four keys are 32 bytes.
            // JUSTIFICATION: eight steps instead of 32; part of what the engine gains.
            let mask = unsafe {
                let keys = _mm256_loadu_si256(keys.as_ptr().cast::<__m256i>());
                let is_zero = _mm256_cmpeq_epi64(keys, _mm256_setzero_si256());
                _mm256_movemask_pd(_mm256_castsi256_pd(is_zero)) as u32
            };
            absent |= mask << (4 * block);
        }
        !absent
    }

    #[expect(clippy::cast_possible_wrap, clippy::cast_sign_loss, reason = "bits")]
    #[inline(always)]
    fn matches(self, line: &NarrowBucket, key: u64) -> u32 {
        let lanes = core::ptr::from_ref(line).cast::<__m256i>();
        // SAFETY: AVX2 is there, as this engine is. The line is 64 bytes at a multiple of 64, and nobody stores to it
        // while the table is borrowed (see the module above), so two 32-byte loads are in bounds and race with nothing.
        // JUSTIFICATION: five compares in two instructions; part of what the engine gains (see the module above).
        unsafe {
            let wanted = _mm256_set1_epi64x(key as i64);
            let low = _mm256_cmpeq_epi64(_mm256_load_si256(lanes), wanted);
            let high = _mm256_cmpeq_epi64(_mm256_load_si256(lanes.add(1)), wanted);
            let low = _mm256_movemask_pd(_mm256_castsi256_pd(low)) as u32;
            let high = _mm256_movemask_pd(_mm256_castsi256_pd(high)) as u32;
            low | (high & 1) << 4
        }
    }

    #[expect(clippy::cast_sign_loss, reason = "bits")]
    #[inline(always)]
    fn absent(self, slots: &[u8; BURST]) -> u32 {
        // SAFETY: AVX2 is there, as this engine is; 32 slots are 32 bytes.
        // JUSTIFICATION: one step instead of 32; part of what the engine gains.
        unsafe {
            let slots = _mm256_loadu_si256(slots.as_ptr().cast::<__m256i>());
            _mm256_movemask_epi8(_mm256_cmpeq_epi8(slots, _mm256_setzero_si256())) as u32
        }
    }

    #[inline(always)]
    fn live(self, slots: &[u8; BURST], words: &[u32; BURST], clock: &Clock) -> u32 {
        super::Baseline.live(slots, words, clock)
    }
}

impl Engine for Avx512 {
    #[expect(clippy::cast_possible_wrap, reason = "bits")]
    #[inline(always)]
    fn hash(self, hasher: &Hasher, keys: &[u64], hashes: &mut [u64]) {
        let (Some(keys), Some(hashes)) = (keys.first_chunk::<LANES>(), hashes.first_chunk_mut::<LANES>())
        else {
            return;
        };
        let (xor, [first, second, third]) = hasher.narrow_secret();
        // SAFETY: AVX-512 is there, as this engine is; eight keys and hashes are 64 bytes.
        // JUSTIFICATION: the compiler prefers vectors of half the size; part of what the engine gains.
        unsafe {
            let keys = _mm512_loadu_si512(keys.as_ptr().cast());
            let hash = _mm512_xor_si512(keys, _mm512_set1_epi64(xor as i64));
            let hash = _mm512_mullo_epi64(hash, _mm512_set1_epi64(first as i64));
            let hash = _mm512_xor_si512(hash, _mm512_srli_epi64::<32>(hash));
            let hash = _mm512_mullo_epi64(hash, _mm512_set1_epi64(second as i64));
            let hash = _mm512_xor_si512(hash, _mm512_srli_epi64::<29>(hash));
            let hash = _mm512_mullo_epi64(hash, _mm512_set1_epi64(third as i64));
            _mm512_storeu_si512(hashes.as_mut_ptr().cast(), hash);
        }
    }

    #[expect(clippy::cast_possible_wrap, reason = "bits")]
    #[inline(always)]
    fn scale(self, len: u64, hashes: &[u64], buckets: &mut [u32]) {
        let (Some(hashes), Some(buckets)) =
            (hashes.first_chunk::<LANES>(), buckets.first_chunk_mut::<LANES>())
        else {
            return;
        };
        // SAFETY: AVX-512 is there, as this engine is; eight hashes are 64 bytes, eight buckets are 32.
        // JUSTIFICATION: the compiler takes the vectors apart for the buckets; part of what the engine gains.
        unsafe {
            let hashes = _mm512_loadu_si512(hashes.as_ptr().cast());
            // The compiler takes the short multiplication only if it sees that the length is short.
            let len = _mm512_set1_epi64((len & 0xffff_ffff) as i64);
            let scaled = _mm512_mul_epu32(_mm512_srli_epi64::<32>(hashes), len);
            let scaled = _mm512_cvtepi64_epi32(_mm512_srli_epi64::<32>(scaled));
            _mm256_storeu_si256(buckets.as_mut_ptr().cast::<__m256i>(), scaled);
        }
    }

    #[inline(always)]
    fn absent(self, slots: &[u8; BURST]) -> u32 {
        // SAFETY: AVX-512 is there, as this engine is; 32 slots are 32 bytes.
        // JUSTIFICATION: one step instead of 32; part of what the engine gains.
        unsafe {
            let slots = _mm256_loadu_si256(slots.as_ptr().cast::<__m256i>());
            _mm256_testn_epi8_mask(slots, slots)
        }
    }

    #[inline(always)]
    fn present(self, keys: &[u64; BURST]) -> u32 {
        let mut present = 0;
        for (block, keys) in keys.chunks_exact(8).enumerate() {
            // SAFETY: AVX-512 is there, as this engine is; eight keys are 64 bytes.
            // JUSTIFICATION: four steps instead of 32; part of what the engine gains.
            let mask = unsafe {
                let keys = _mm512_loadu_si512(keys.as_ptr().cast::<__m512i>());
                _mm512_test_epi64_mask(keys, keys)
            };
            present |= u32::from(mask) << (8 * block);
        }
        present
    }

    #[expect(clippy::cast_possible_wrap, reason = "bits")]
    #[inline(always)]
    fn matches(self, line: &NarrowBucket, key: u64) -> u32 {
        let lane = core::ptr::from_ref(line).cast::<__m512i>();
        // SAFETY: AVX-512 is there, as this engine is. The line is 64 bytes at a multiple of 64, and nobody stores to
        // it while the table is borrowed (see the module above), so one load is in bounds and races with nothing.
        // JUSTIFICATION: five compares in one instruction; part of what the engine gains (see the module above).
        unsafe {
            let wanted = _mm512_set1_epi64(key as i64);
            u32::from(_mm512_mask_cmpeq_epi64_mask(0b1_1111, _mm512_load_si512(lane), wanted))
        }
    }

    #[inline(always)]
    fn live(self, slots: &[u8; BURST], words: &[u32; BURST], clock: &Clock) -> u32 {
        let halves = words.as_ptr().cast::<__m512i>();
        let table = core::ptr::from_ref(clock).cast::<__m512i>();
        // SAFETY: AVX-512 is there, as this engine is. 32 words are two loads of 64 bytes, 32 slots are one of 32; the
        // clock begins with two arrays of 64 bytes at a multiple of 64 (asserted above).
        // JUSTIFICATION: sixteen entries are judged at once, by looking epochs and limits up in registers; part of what the engine gains.
        unsafe {
            let (epochs, limits) = (_mm512_load_si512(table), _mm512_load_si512(table.add(1)));
            let (low, high) = (_mm512_loadu_si512(halves), _mm512_loadu_si512(halves.add(1)));
            let is_live = judge(low, epochs, limits) | judge(high, epochs, limits) << 16;
            let slots = _mm256_loadu_si256(slots.as_ptr().cast::<__m256i>());
            is_live & _mm256_test_epi8_mask(slots, slots)
        }
    }
}

/// Which of sixteen values are live, by epochs and limits of their sixteen kinds. As [`Clock::is_live`].
#[expect(clippy::cast_possible_wrap, reason = "bits")]
#[inline]
#[target_feature(enable = "avx512f")]
fn judge(words: __m512i, epochs: __m512i, limits: __m512i) -> u32 {
    const { assert!(Word::KINDS == 16) };
    // The permutation looks at the low four bits of each index only.
    let kind = _mm512_srli_epi32::<8>(words);
    let age = _mm512_sub_epi32(_mm512_permutexvar_epi32(kind, epochs), words);
    let age = _mm512_and_si512(age, _mm512_set1_epi32(0xff));
    let is_future = _mm512_cmpgt_epu32_mask(age, _mm512_set1_epi32(AGE_MAX as i32));
    let age = _mm512_mask_mov_epi32(age, is_future, _mm512_setzero_si512());
    u32::from(_mm512_cmplt_epu32_mask(age, _mm512_permutexvar_epi32(kind, limits)))
}

/// As [`super::lookup`].
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub(super) fn lookup_avx2(
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
) {
    stages::lookup(Avx2(()), narrow, wide, keys, clock, hits);
}

/// As [`super::start`].
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub(super) fn start_avx2(
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    hits: &mut Hits,
) {
    stages::start(Avx2(()), narrow, wide, keys, hits);
}

/// As [`super::finish`].
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub(super) fn finish_avx2(
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
) {
    stages::finish(Avx2(()), narrow, wide, keys, clock, hits);
}

/// As [`super::lookup`].
#[target_feature(enable = "avx2,bmi1,bmi2,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn lookup_avx512(
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
) {
    stages::lookup(Avx512(()), narrow, wide, keys, clock, hits);
}

/// As [`super::start`].
#[target_feature(enable = "avx2,bmi1,bmi2,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn start_avx512(
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    hits: &mut Hits,
) {
    stages::start(Avx512(()), narrow, wide, keys, hits);
}

/// As [`super::finish`].
#[target_feature(enable = "avx2,bmi1,bmi2,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn finish_avx512(
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
) {
    stages::finish(Avx512(()), narrow, wide, keys, clock, hits);
}

/// Engines for tests that compare them, where the CPU has them.
#[cfg(test)]
pub(super) mod engines {
    use super::{Avx2, Avx512, BURST, Clock, Engine, Hasher, LANES, NarrowBucket};

    /// As [`Engine::matches`]. The caller asks for what is available.
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    pub(in super::super) fn matches_avx2(line: &NarrowBucket, key: u64) -> u32 {
        Avx2(()).matches(line, key)
    }

    /// Likewise.
    #[target_feature(enable = "avx2,bmi1,bmi2,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(in super::super) fn matches_avx512(line: &NarrowBucket, key: u64) -> u32 {
        Avx512(()).matches(line, key)
    }

    /// As [`Engine::present`].
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    pub(in super::super) fn present_avx2(keys: &[u64; BURST]) -> u32 {
        Avx2(()).present(keys)
    }

    /// Likewise.
    #[target_feature(enable = "avx2,bmi1,bmi2,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(in super::super) fn present_avx512(keys: &[u64; BURST]) -> u32 {
        Avx512(()).present(keys)
    }

    /// As [`Engine::absent`].
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    pub(in super::super) fn absent_avx2(slots: &[u8; BURST]) -> u32 {
        Avx2(()).absent(slots)
    }

    /// Likewise.
    #[target_feature(enable = "avx2,bmi1,bmi2,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(in super::super) fn absent_avx512(slots: &[u8; BURST]) -> u32 {
        Avx512(()).absent(slots)
    }

    /// As [`Engine::hash`] and [`Engine::scale`].
    #[target_feature(enable = "avx2,bmi1,bmi2,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(in super::super) fn place_avx512(
        hasher: &Hasher,
        len: u64,
        keys: &[u64; LANES],
        hashes: &mut [u64; LANES],
        buckets: &mut [u32; LANES],
    ) {
        Avx512(()).hash(hasher, keys, hashes);
        Avx512(()).scale(len, hashes, buckets);
    }

    /// As [`Engine::live`].
    #[target_feature(enable = "avx2,bmi1,bmi2,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(in super::super) fn live_avx512(slots: &[u8; BURST], words: &[u32; BURST], clock: &Clock) -> u32 {
        Avx512(()).live(slots, words, clock)
    }
}
