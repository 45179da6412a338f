//! The engines for x86-64.
//!
//! Their methods are inlined into the functions that enable their instruction sets, at the end; each is made only there.
#![expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "a row of vector instructions on the same data is sound by one argument"
)]

use super::{Engine, stages};
use crate::ageing::{AGE_MAX, Clock};
use crate::bucket::{Bucket as _, NarrowBucket, WideBucket};
use crate::burst::{BURST, Hits, Keys, LANES, NO_SLOT, Offsets};
use crate::cuckoo::Cells;
use crate::hash::{Hasher, TAGS};
use crate::state::{State, TimingSet, Word};
use core::arch::x86_64::{
    __m256i, _mm_loadl_epi64, _mm_loadu_si128, _mm256_add_epi64, _mm256_and_si256, _mm256_andnot_si256,
    _mm256_blend_epi32, _mm256_blendv_pd, _mm256_broadcastsi128_si256, _mm256_castpd_si256,
    _mm256_castps_si256, _mm256_castsi256_pd, _mm256_castsi256_ps, _mm256_castsi256_si128, _mm256_cmpeq_epi8,
    _mm256_cmpeq_epi32, _mm256_cmpeq_epi64, _mm256_cmpgt_epi32, _mm256_cvtepi32_epi64, _mm256_cvtepu8_epi32,
    _mm256_extracti128_si256, _mm256_load_si256, _mm256_loadu_si256, _mm256_min_epu8, _mm256_movemask_epi8,
    _mm256_movemask_pd, _mm256_movemask_ps, _mm256_mul_epu32, _mm256_or_si256, _mm256_packus_epi16,
    _mm256_packus_epi32, _mm256_permute4x64_epi64, _mm256_permutevar8x32_epi32, _mm256_set1_epi8,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_setr_epi32, _mm256_setzero_si256,
    _mm256_shuffle_epi8, _mm256_shuffle_ps, _mm256_slli_epi32, _mm256_slli_epi64, _mm256_sllv_epi32,
    _mm256_srai_epi32, _mm256_srli_epi16, _mm256_srli_epi32, _mm256_srli_epi64, _mm256_storeu_si256,
    _mm256_sub_epi8, _mm256_sub_epi32, _mm256_sub_epi64, _mm256_subs_epu8, _mm256_xor_si256,
    _mm512_cmpeq_epi64_mask, _mm512_load_si512, _mm512_loadu_si512, _mm512_mullo_epi64, _mm512_set1_epi64,
    _mm512_srli_epi64, _mm512_storeu_si512, _mm512_xor_si512,
};
use wire::BackendId;

/// Bytes of a line, as a power of two.
const LINE_SHIFT: i32 = size_of::<NarrowBucket>().ilog2() as i32;

/// Exists only where AVX2 is enabled.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Exists only where AVX-512 F, BW, DQ and VL are enabled.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

const _: () = assert!(core::mem::offset_of!(NarrowBucket, keys) == 0 && size_of::<NarrowBucket>() == 64);

impl Engine for Avx2 {
    #[inline(always)]
    fn present(self, keys: &[u64; BURST]) -> u32 {
        // SAFETY: AVX2 is there, as this engine is.
        // JUSTIFICATION: eight steps instead of 32; part of what the engine gains.
        unsafe { present(keys) }
    }

    #[inline(always)]
    fn place(self, len: u64, hashes: &[u64; LANES], places: &mut Offsets, buckets: &mut [u32; LANES]) {
        // SAFETY: AVX2 is there, as this engine is.
        // JUSTIFICATION: four lanes at once, where the compiler mixes in scalars; part of what the engine gains.
        unsafe { place(len, hashes, places, buckets) }
    }

    #[inline(always)]
    fn overflow(
        self,
        words: &[u32; LANES],
        slots: &[u8; LANES],
        hashes: &[u64; LANES],
        places: &mut Offsets,
    ) -> u32 {
        // SAFETY: AVX2 is there, as this engine is.
        // JUSTIFICATION: eight filters are asked at once; part of what the engine gains.
        unsafe { overflow(words, slots, hashes, places) }
    }

    #[inline(always)]
    fn slot(self, line: &NarrowBucket, key: u64) -> u32 {
        // SAFETY: AVX2 is there, as this engine is.
        // JUSTIFICATION: five compares in two instructions; part of what the engine gains.
        unsafe { slot(line, key) }
    }

    #[inline(always)]
    fn live(self, slots: &[u8; BURST], words: &[u32; BURST], clock: &Clock) -> u32 {
        // SAFETY: AVX2 is there, as this engine is.
        // JUSTIFICATION: 32 entries are judged at once, by looking epochs and limits up in registers; part of what the engine gains.
        unsafe { live(slots, words, clock) }
    }
}

impl Engine for Avx512 {
    #[inline(always)]
    fn present(self, keys: &[u64; BURST]) -> u32 {
        Avx2(()).present(keys)
    }

    #[inline(always)]
    fn hash(self, hasher: &Hasher, blocks: usize, keys: &[u64; BURST], hashes: &mut [u64; BURST]) {
        // SAFETY: AVX-512 is there, as this engine is.
        // JUSTIFICATION: only AVX-512 has this multiplication; part of what the engine gains.
        unsafe { hash(hasher, blocks, keys, hashes) }
    }

    #[inline(always)]
    fn place(self, len: u64, hashes: &[u64; LANES], places: &mut Offsets, buckets: &mut [u32; LANES]) {
        Avx2(()).place(len, hashes, places, buckets);
    }

    #[inline(always)]
    fn overflow(
        self,
        words: &[u32; LANES],
        slots: &[u8; LANES],
        hashes: &[u64; LANES],
        places: &mut Offsets,
    ) -> u32 {
        Avx2(()).overflow(words, slots, hashes, places)
    }

    #[inline(always)]
    fn slot(self, line: &NarrowBucket, key: u64) -> u32 {
        // SAFETY: AVX-512 is there, as this engine is.
        // JUSTIFICATION: five compares in one instruction; part of what the engine gains.
        unsafe { slot_of_line(line, key) }
    }

    #[inline(always)]
    fn live(self, slots: &[u8; BURST], words: &[u32; BURST], clock: &Clock) -> u32 {
        Avx2(()).live(slots, words, clock)
    }
}

/// As [`Engine::hash`].
#[expect(clippy::cast_possible_wrap, reason = "bits")]
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn hash(hasher: &Hasher, blocks: usize, keys: &[u64; BURST], hashes: &mut [u64; BURST]) {
    let (xor, [first, second, third]) = hasher.narrow_secret();
    let (xor, first) = (_mm512_set1_epi64(xor as i64), _mm512_set1_epi64(first as i64));
    let (second, third) = (_mm512_set1_epi64(second as i64), _mm512_set1_epi64(third as i64));
    let all = keys.as_chunks::<LANES>().0.iter().zip(hashes.as_chunks_mut::<LANES>().0);
    for (keys, hashes) in all.take(blocks) {
        // SAFETY: eight keys are one load of 64 bytes.
        // JUSTIFICATION: there is no safe one; part of what the engine gains.
        let keys = unsafe { _mm512_loadu_si512(keys.as_ptr().cast()) };
        let hash = _mm512_mullo_epi64(_mm512_xor_si512(keys, xor), first);
        let hash = _mm512_mullo_epi64(_mm512_xor_si512(hash, _mm512_srli_epi64::<32>(hash)), second);
        let hash = _mm512_mullo_epi64(_mm512_xor_si512(hash, _mm512_srli_epi64::<29>(hash)), third);
        // SAFETY: eight hashes are one store of 64 bytes.
        // JUSTIFICATION: as above.
        unsafe { _mm512_storeu_si512(hashes.as_mut_ptr().cast(), hash) };
    }
}

/// As [`Engine::present`].
#[expect(clippy::cast_sign_loss, reason = "bits")]
#[inline]
#[target_feature(enable = "avx2")]
fn present(keys: &[u64; BURST]) -> u32 {
    let zero = _mm256_setzero_si256();
    let mut absent = 0_u32;
    // The last first, so that the compiler makes no vectors of the masks.
    for keys in keys.as_chunks::<LANES>().0.iter().rev() {
        let (low, high) = load(keys);
        let mask = |half| _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(half, zero))) as u32;
        absent = absent << LANES | mask(high) << 4 | mask(low);
    }
    !absent
}

/// Two vectors of four.
#[inline]
#[target_feature(enable = "avx2")]
fn load(values: &[u64; LANES]) -> (__m256i, __m256i) {
    let vectors = values.as_ptr().cast::<__m256i>();
    // SAFETY: eight values are two loads of 32 bytes.
    // JUSTIFICATION: there is no safe one; part of what the engine gains.
    unsafe { (_mm256_loadu_si256(vectors), _mm256_loadu_si256(vectors.add(1))) }
}

/// Likewise.
#[inline]
#[target_feature(enable = "avx2")]
fn store(values: &mut [u64; LANES], (low, high): (__m256i, __m256i)) {
    let vectors = values.as_mut_ptr().cast::<__m256i>();
    // SAFETY: as above.
    // JUSTIFICATION: as above.
    unsafe {
        _mm256_storeu_si256(vectors, low);
        _mm256_storeu_si256(vectors.add(1), high);
    }
}

/// As [`Engine::slot`].
#[expect(clippy::cast_possible_wrap, reason = "bits")]
#[inline]
#[target_feature(enable = "avx2,bmi1")]
fn slot(line: &NarrowBucket, key: u64) -> u32 {
    first(keys(line), _mm256_set1_epi64x(key as i64))
}

/// As [`Engine::slot`].
#[expect(clippy::cast_possible_wrap, reason = "bits")]
#[inline]
#[target_feature(enable = "avx512f,bmi1")]
fn slot_of_line(line: &NarrowBucket, key: u64) -> u32 {
    const { assert!(core::mem::offset_of!(NarrowBucket, keys) == 0 && NarrowBucket::SLOTS == 5) };
    // SAFETY: the line is 64 bytes at a multiple of 64, and nobody stores to it while the table is borrowed (see the module
    // above), so one load is in bounds and races with nothing.
    // JUSTIFICATION: five compares in one instruction; part of what the engine gains.
    let words = unsafe { _mm512_load_si512(core::ptr::from_ref(line).cast()) };
    // What lies behind the keys is beyond the bit that stands for none.
    let mask = _mm512_cmpeq_epi64_mask(words, _mm512_set1_epi64(key as i64));
    (u32::from(mask) | 1 << NarrowBucket::SLOTS).trailing_zeros()
}

/// The keys of slots 0 to 3, and of 1 to 4.
#[inline]
#[target_feature(enable = "avx2")]
fn keys(line: &NarrowBucket) -> (__m256i, __m256i) {
    const { assert!(NarrowBucket::SLOTS == 5) };
    let first = core::ptr::from_ref(line).cast::<u64>();
    // SAFETY: the line is 64 bytes, and nobody stores to it while the table is borrowed (see the module above), so two loads
    // of four words, from the first and from the second, are in bounds and race with nothing.
    // JUSTIFICATION: five keys in two instructions; part of what the engine gains.
    unsafe { (_mm256_loadu_si256(first.cast()), _mm256_loadu_si256(first.add(1).cast())) }
}

/// The lowest slot with this key, or the one beyond the last.
#[expect(clippy::cast_sign_loss, reason = "bits")]
#[inline]
#[target_feature(enable = "avx2,bmi1")]
fn first((low, high): (__m256i, __m256i), wanted: __m256i) -> u32 {
    let (low, high) = (_mm256_cmpeq_epi64(low, wanted), _mm256_cmpeq_epi64(high, wanted));
    // Slot i is bit 2 i of the one and bit 2 i - 1 of the other.
    let both = _mm256_blend_epi32::<0b1010_1010>(low, high);
    let mask = _mm256_movemask_ps(_mm256_castsi256_ps(both)) as u32;
    ((mask | 1 << 9).trailing_zeros() + 1) >> 1
}

/// As [`super::expired`].
#[target_feature(enable = "avx2")]
pub(super) fn expired(line: &NarrowBucket, clock: &Clock) -> u32 {
    slots_of(is_expired(second_half(line), clock))
}

/// As [`super::due`].
#[expect(clippy::cast_possible_wrap, reason = "bits")]
#[target_feature(enable = "avx2")]
pub(super) fn due(line: &NarrowBucket, clock: &Clock, current: TimingSet) -> u32 {
    let words = second_half(line);
    let other = Word::new(BackendId(0), State::of_kind(0), current, 0).0;
    // The bit of the timing set becomes the sign.
    let is_stale = _mm256_slli_epi32::<20>(_mm256_xor_si256(words, _mm256_set1_epi32(other as i32)));
    slots_of(_mm256_or_si256(is_expired(words, clock), is_stale))
}

/// The last key, the values, and the meta word.
#[inline]
#[target_feature(enable = "avx2")]
fn second_half(line: &NarrowBucket) -> __m256i {
    const { assert!(core::mem::offset_of!(NarrowBucket, tail) == 40) };
    let halves = core::ptr::from_ref(line).cast::<__m256i>();
    // SAFETY: the line is 64 bytes at a multiple of 64, and nobody stores to it while the table is borrowed (see the module
    // above), so a load of its second half is in bounds and races with nothing.
    // JUSTIFICATION: five values in one instruction; part of what the engine gains.
    unsafe { _mm256_load_si256(halves.add(1)) }
}

/// The slots, a bit each, whose word of [`second_half`] has its sign set.
#[expect(clippy::cast_sign_loss, reason = "bits")]
#[inline]
#[target_feature(enable = "avx2")]
fn slots_of(signs: __m256i) -> u32 {
    // Two words are the last key, five the values, one the meta word.
    _mm256_movemask_ps(_mm256_castsi256_ps(signs)) as u32 >> 2 & 0b1_1111
}

/// The values, of eight, that are expired. As [`Clock::is_live`].
#[expect(clippy::cast_possible_wrap, reason = "bits")]
#[inline]
#[target_feature(enable = "avx2")]
fn is_expired(words: __m256i, clock: &Clock) -> __m256i {
    const { assert!(Word::KINDS == 16) };
    // SAFETY: the clock's arrays are 16 bytes each.
    // JUSTIFICATION: there are no safe loads; part of what the engine gains.
    let (epochs, limits) = unsafe {
        (
            _mm256_broadcastsi128_si256(_mm_loadu_si128(clock.epochs.as_ptr().cast())),
            _mm256_broadcastsi128_si256(_mm_loadu_si128(clock.limits.as_ptr().cast())),
        )
    };
    // An index with its highest bit set gives 0.
    let kind = _mm256_and_si256(_mm256_srli_epi32::<8>(words), _mm256_set1_epi32(0xf));
    let kind = _mm256_or_si256(kind, _mm256_set1_epi32(0x8080_8000_u32 as i32));
    let age = _mm256_sub_epi32(_mm256_shuffle_epi8(epochs, kind), words);
    let age = _mm256_and_si256(age, _mm256_set1_epi32(0xff));
    let is_future = _mm256_cmpgt_epi32(age, _mm256_set1_epi32(i32::from(AGE_MAX)));
    let age = _mm256_andnot_si256(is_future, age);
    let is_live = _mm256_cmpgt_epi32(_mm256_shuffle_epi8(limits, kind), age);
    _mm256_xor_si256(is_live, _mm256_set1_epi32(-1))
}

/// As [`Engine::place`].
#[expect(clippy::cast_possible_wrap, reason = "bits")]
#[inline]
#[target_feature(enable = "avx2")]
fn place(len: u64, hashes: &[u64; LANES], places: &mut Offsets, buckets: &mut [u32; LANES]) {
    let (low, high) = load(hashes);
    let all = _mm256_set1_epi64x(len as i64);
    let others = _mm256_set1_epi64x(len as i64 - 1);
    let one = _mm256_set1_epi64x(1);
    let four = |hashes: __m256i| {
        let first = _mm256_srli_epi64::<32>(_mm256_mul_epu32(_mm256_srli_epi64::<32>(hashes), all));
        let step = _mm256_srli_epi64::<32>(_mm256_mul_epu32(hashes, others));
        let second = _mm256_add_epi64(_mm256_add_epi64(first, step), one);
        let beyond = _mm256_sub_epi64(second, all);
        // The sign of the difference says whether the sum is within.
        let second = _mm256_blendv_pd(
            _mm256_castsi256_pd(beyond),
            _mm256_castsi256_pd(second),
            _mm256_castsi256_pd(beyond),
        );
        (first, _mm256_castpd_si256(second))
    };
    let ((first, second), (first_high, second_high)) = (four(low), four(high));
    let shift = |low, high| (_mm256_slli_epi64::<LINE_SHIFT>(low), _mm256_slli_epi64::<LINE_SHIFT>(high));
    store(&mut places.first, shift(first, first_high));
    store(&mut places.second, shift(second, second_high));
    let packed = pack(first, first_high);
    // SAFETY: eight buckets are 32 bytes.
    // JUSTIFICATION: there is no safe one; part of what the engine gains.
    unsafe { _mm256_storeu_si256(buckets.as_mut_ptr().cast(), packed) }
}

/// The low halves of eight lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn pack(low: __m256i, high: __m256i) -> __m256i {
    let mixed = _mm256_shuffle_ps::<0b10_00_10_00>(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high));
    _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_castps_si256(mixed))
}

/// As [`Engine::overflow`].
#[expect(clippy::cast_sign_loss, reason = "bits")]
#[inline]
#[target_feature(enable = "avx2")]
fn overflow(words: &[u32; LANES], slots: &[u8; LANES], hashes: &[u64; LANES], places: &mut Offsets) -> u32 {
    const { assert!(TAGS == 8) };
    let (low, high) = load(hashes);
    // SAFETY: eight words are 32 bytes, eight slots are 8.
    // JUSTIFICATION: there are no safe ones; part of what the engine gains.
    let (words, slots) =
        unsafe { (_mm256_loadu_si256(words.as_ptr().cast()), _mm_loadl_epi64(slots.as_ptr().cast())) };
    let is_absent = _mm256_cmpeq_epi32(_mm256_cvtepu8_epi32(slots), _mm256_set1_epi32(i32::from(NO_SLOT)));
    let tags = pack(_mm256_srli_epi64::<32>(low), _mm256_srli_epi64::<32>(high));
    let tags = _mm256_and_si256(tags, _mm256_set1_epi32(7));
    // The bit in question becomes the sign.
    let bits = _mm256_sllv_epi32(words, _mm256_sub_epi32(_mm256_set1_epi32(31), tags));
    let needed = _mm256_srai_epi32::<31>(_mm256_and_si256(bits, is_absent));
    let wide = |half| _mm256_castsi256_pd(_mm256_cvtepi32_epi64(half));
    let is_needed = (wide(_mm256_castsi256_si128(needed)), wide(_mm256_extracti128_si256::<1>(needed)));
    let choose = |first, second, is_needed| {
        _mm256_castpd_si256(_mm256_blendv_pd(
            _mm256_castsi256_pd(first),
            _mm256_castsi256_pd(second),
            is_needed,
        ))
    };
    let (first, second) = (load(&places.first), load(&places.second));
    let chosen = (choose(first.0, second.0, is_needed.0), choose(first.1, second.1, is_needed.1));
    store(&mut places.first, chosen);
    _mm256_movemask_ps(_mm256_castsi256_ps(needed)) as u32
}

/// As [`Engine::live`].
#[expect(clippy::cast_possible_wrap, clippy::cast_sign_loss, reason = "bits")]
#[inline]
#[target_feature(enable = "avx2")]
fn live(slots: &[u8; BURST], words: &[u32; BURST], clock: &Clock) -> u32 {
    const { assert!(Word::KINDS == 16) };
    let quarters = words.as_ptr().cast::<__m256i>();
    // SAFETY: 32 words are four loads of 32 bytes, 32 slots are one of 32, the clock's arrays are 16 bytes each.
    // JUSTIFICATION: there are no safe ones; part of what the engine gains.
    let (words, slots, epochs, limits) = unsafe {
        (
            [0, 1, 2, 3].map(|quarter| _mm256_loadu_si256(quarters.add(quarter))),
            _mm256_loadu_si256(slots.as_ptr().cast()),
            _mm256_broadcastsi128_si256(_mm_loadu_si128(clock.epochs.as_ptr().cast())),
            _mm256_broadcastsi128_si256(_mm_loadu_si128(clock.limits.as_ptr().cast())),
        )
    };
    // The low halves of the words: kind above, epoch below. Packing works within halves of vectors, so the order is
    // mended at the end.
    let [a, b, c, d] = words.map(|word| _mm256_and_si256(word, _mm256_set1_epi32(0xfff)));
    let (low, high) = (_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
    let byte = _mm256_set1_epi16(0xff);
    let epoch = _mm256_packus_epi16(_mm256_and_si256(low, byte), _mm256_and_si256(high, byte));
    let kind = _mm256_packus_epi16(_mm256_srli_epi16::<8>(low), _mm256_srli_epi16::<8>(high));
    let age = _mm256_sub_epi8(_mm256_shuffle_epi8(epochs, kind), epoch);
    let is_past = _mm256_cmpeq_epi8(_mm256_min_epu8(age, _mm256_set1_epi8(AGE_MAX as i8)), age);
    let left = _mm256_subs_epu8(_mm256_shuffle_epi8(limits, kind), _mm256_and_si256(age, is_past));
    let is_expired = _mm256_cmpeq_epi8(left, _mm256_setzero_si256());
    let is_expired = _mm256_permutevar8x32_epi32(is_expired, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    let is_absent = _mm256_cmpeq_epi8(slots, _mm256_set1_epi8(NO_SLOT as i8));
    !(_mm256_movemask_epi8(_mm256_or_si256(is_expired, is_absent)) as u32)
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

/// As [`super::fetch_seconds`].
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub(super) fn fetch_seconds_avx2(cells: &Cells<NarrowBucket>, hashes: &[u64; BURST], positions: u32) {
    stages::fetch_seconds(Avx2(()), cells, hashes, positions);
}

/// As [`super::finish_and_start`].
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub(super) fn finish_and_start_avx2(
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
    next_keys: &Keys,
    next_hits: &mut Hits,
) {
    stages::finish_and_start(Avx2(()), narrow, wide, keys, clock, hits, next_keys, next_hits);
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

/// As [`super::finish_and_start`].
#[target_feature(enable = "avx2,bmi1,bmi2,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn finish_and_start_avx512(
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
    next_keys: &Keys,
    next_hits: &mut Hits,
) {
    stages::finish_and_start(Avx512(()), narrow, wide, keys, clock, hits, next_keys, next_hits);
}

/// Engines for tests that compare them, where the CPU has them.
#[cfg(test)]
pub(super) mod engines {
    use super::{Avx2, Avx512, BURST, Clock, Engine, Hasher, LANES, NarrowBucket, Offsets};

    /// Engine functions that enable their instruction set; the caller asks for what is available.
    macro_rules! engine {
        ($engine:ident, $features:literal, $($name:ident as $method:ident($($argument:ident: $of:ty),*) $(-> $result:ty)?;)*) => {
            $(
                #[target_feature(enable = $features)]
                pub(in super::super) fn $name($($argument: $of),*) $(-> $result)? {
                    $engine(()).$method($($argument),*)
                }
            )*
        };
    }

    engine! {
        Avx2, "avx2,bmi1,bmi2",
        present_avx2 as present(keys: &[u64; BURST]) -> u32;
        slot_avx2 as slot(line: &NarrowBucket, key: u64) -> u32;
        place_avx2 as place(len: u64, hashes: &[u64; LANES], places: &mut Offsets, buckets: &mut [u32; LANES]);
        overflow_avx2 as overflow(words: &[u32; LANES], slots: &[u8; LANES], hashes: &[u64; LANES], places: &mut Offsets) -> u32;
        live_avx2 as live(slots: &[u8; BURST], words: &[u32; BURST], clock: &Clock) -> u32;
    }

    engine! {
        Avx512, "avx2,bmi1,bmi2,avx512f,avx512bw,avx512dq,avx512vl",
        slot_avx512 as slot(line: &NarrowBucket, key: u64) -> u32;
        hash_avx512 as hash(hasher: &Hasher, blocks: usize, keys: &[u64; BURST], hashes: &mut [u64; BURST]);
    }
}
