//! The engines for x86-64.
//!
//! Their methods are inlined into the functions that enable their instruction sets, at the end; each is made only there.
#![expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "a row of vector instructions on the same data is sound by one argument"
)]

use super::engine::{Engine, Judged};
use super::stages;
use crate::ageing::Clock;
use crate::bucket::{Bucket as _, NarrowBucket, Probe, WideBucket};
use crate::burst::{BURST, Entered, Hits, Keys, LANES, NewFlows};
use crate::cells::Cells;
use crate::dirty::DirtyBuckets;
use crate::hash::{Hasher, TAGS};
use crate::lookup_pipeline::Places;
use crate::state::{State, TimingSet, Word};
use core::arch::x86_64::{
    __m256i, __m512i, _mm_loadu_si128, _mm256_add_epi64, _mm256_and_si256, _mm256_blend_epi32,
    _mm256_blendv_pd, _mm256_broadcastsi128_si256, _mm256_castpd_si256, _mm256_castps_si256,
    _mm256_castsi256_pd, _mm256_castsi256_ps, _mm256_cmpeq_epi32, _mm256_cmpeq_epi64, _mm256_cmpgt_epi32,
    _mm256_cmpgt_epi32_mask, _mm256_load_si256, _mm256_loadu_si256, _mm256_mask_test_epi32_mask,
    _mm256_movemask_pd, _mm256_movemask_ps, _mm256_mul_epu32, _mm256_or_si256, _mm256_permute4x64_epi64,
    _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_setr_epi32, _mm256_setzero_si256, _mm256_shuffle_epi8,
    _mm256_shuffle_ps, _mm256_slli_epi32, _mm256_slli_epi64, _mm256_sllv_epi32, _mm256_srli_epi32,
    _mm256_srli_epi64, _mm256_storeu_si256, _mm256_sub_epi32, _mm256_sub_epi64, _mm256_testn_epi32_mask,
    _mm256_xor_si256, _mm512_add_epi64, _mm512_cmpeq_epi64_mask, _mm512_cmpge_epu64_mask,
    _mm512_cvtepi64_epi32, _mm512_load_si512, _mm512_loadu_si512, _mm512_mask_sub_epi64, _mm512_mul_epu32,
    _mm512_mullo_epi64, _mm512_set1_epi64, _mm512_slli_epi64, _mm512_srli_epi64, _mm512_storeu_si512,
    _mm512_test_epi64_mask, _mm512_xor_si512,
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
    fn present(self, keys: &[u64; LANES]) -> u32 {
        // SAFETY: AVX2 is there, as this engine is.
        // JUSTIFICATION: two steps instead of eight; part of what the engine gains.
        unsafe { present(keys) }
    }

    #[inline(always)]
    fn place(
        self,
        hasher: &Hasher,
        len: u64,
        keys: &[u64; LANES],
        hashes: &mut [u64; LANES],
        firsts: &mut [u64; LANES],
        seconds: &mut [u64; LANES],
    ) {
        // SAFETY: AVX2 is there, as this engine is.
        // JUSTIFICATION: four lanes at once, where the compiler mixes in scalars; part of what the engine gains.
        unsafe { place(hasher, len, keys, hashes, firsts, seconds) }
    }

    #[inline(always)]
    fn judge(
        self,
        said: [u32; LANES],
        words: &mut [u32; LANES],
        hashes: &[u64; LANES],
        clock: &Clock,
    ) -> Judged {
        // SAFETY: AVX2 is there, as this engine is.
        // JUSTIFICATION: eight filters are asked and eight ages judged at once; part of what the engine gains.
        unsafe { judge(said, words, hashes, clock) }
    }

    #[inline(always)]
    fn live(self, words: &[u32; LANES], clock: &Clock) -> u32 {
        // SAFETY: AVX2 is there, as this engine is.
        // JUSTIFICATION: eight ages are judged at once; part of what the engine gains.
        unsafe { live(words, clock) }
    }

    #[inline(always)]
    fn slot(self, line: &NarrowBucket, key: u64) -> u32 {
        // SAFETY: AVX2 is there, as this engine is.
        // JUSTIFICATION: five compares in two instructions; part of what the engine gains.
        unsafe { slot(line, key) }
    }

    #[inline(always)]
    fn expired(self, line: &NarrowBucket, clock: &Clock) -> u32 {
        // SAFETY: AVX2 is there, as this engine is.
        // JUSTIFICATION: five ages are judged at once; part of what the engine gains.
        unsafe { expired(line, clock) }
    }
}

impl Engine for Avx512 {
    #[inline(always)]
    fn present(self, keys: &[u64; LANES]) -> u32 {
        // SAFETY: AVX-512 is there, as this engine is.
        // JUSTIFICATION: one step instead of eight; part of what the engine gains.
        unsafe { present_512(keys) }
    }

    #[inline(always)]
    fn place(
        self,
        hasher: &Hasher,
        len: u64,
        keys: &[u64; LANES],
        hashes: &mut [u64; LANES],
        firsts: &mut [u64; LANES],
        seconds: &mut [u64; LANES],
    ) {
        // SAFETY: AVX-512 is there, as this engine is.
        // JUSTIFICATION: only AVX-512 has this multiplication; part of what the engine gains.
        unsafe { place_512(hasher, len, keys, hashes, firsts, seconds) }
    }

    #[inline(always)]
    fn judge(
        self,
        said: [u32; LANES],
        words: &mut [u32; LANES],
        hashes: &[u64; LANES],
        clock: &Clock,
    ) -> Judged {
        // SAFETY: AVX-512 is there, as this engine is.
        // JUSTIFICATION: eight filters are asked and eight ages judged at once; part of what the engine gains.
        unsafe { judge_512(said, words, hashes, clock) }
    }

    #[inline(always)]
    fn live(self, words: &[u32; LANES], clock: &Clock) -> u32 {
        // SAFETY: AVX2 is there, as this engine is.
        // JUSTIFICATION: eight ages are judged at once; part of what the engine gains.
        unsafe { live(words, clock) }
    }

    #[inline(always)]
    fn slot(self, line: &NarrowBucket, key: u64) -> u32 {
        // SAFETY: AVX-512 is there, as this engine is.
        // JUSTIFICATION: five compares in one instruction; part of what the engine gains.
        unsafe { slot_of_line(line, key) }
    }

    #[inline(always)]
    fn expired(self, line: &NarrowBucket, clock: &Clock) -> u32 {
        // SAFETY: AVX-512 is there, as this engine is, and includes AVX2.
        // JUSTIFICATION: five ages are judged at once; part of what the engine gains.
        unsafe { expired(line, clock) }
    }
}

/// As [`Engine::present`].
#[inline]
#[target_feature(enable = "avx512f")]
fn present_512(keys: &[u64; LANES]) -> u32 {
    let keys = load_512(keys);
    u32::from(_mm512_test_epi64_mask(keys, keys))
}

/// Eight values.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_512(values: &[u64; LANES]) -> __m512i {
    // SAFETY: eight values are one load of 64 bytes.
    // JUSTIFICATION: there is no safe one; part of what the engine gains.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

/// Stores eight values.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_512(values: &mut [u64; LANES], vector: __m512i) {
    // SAFETY: as above.
    // JUSTIFICATION: as above.
    unsafe { _mm512_storeu_si512(values.as_mut_ptr().cast(), vector) }
}

/// As [`Engine::place`].
#[expect(clippy::cast_possible_wrap, reason = "bits")]
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn place_512(
    hasher: &Hasher,
    len: u64,
    keys: &[u64; LANES],
    hashes: &mut [u64; LANES],
    firsts: &mut [u64; LANES],
    seconds: &mut [u64; LANES],
) {
    let all_of = |value: u64| _mm512_set1_epi64(value as i64);
    let (xor, [first, second, third]) = hasher.narrow_secret();
    let hash = _mm512_mullo_epi64(_mm512_xor_si512(load_512(keys), all_of(xor)), all_of(first));
    let hash = _mm512_mullo_epi64(_mm512_xor_si512(hash, _mm512_srli_epi64::<32>(hash)), all_of(second));
    let hash = _mm512_mullo_epi64(_mm512_xor_si512(hash, _mm512_srli_epi64::<29>(hash)), all_of(third));
    store_512(hashes, hash);
    let first = _mm512_srli_epi64::<32>(_mm512_mul_epu32(_mm512_srli_epi64::<32>(hash), all_of(len)));
    let step = _mm512_srli_epi64::<32>(_mm512_mul_epu32(hash, all_of(len - 1)));
    let second = _mm512_add_epi64(_mm512_add_epi64(first, step), all_of(1));
    let is_beyond = _mm512_cmpge_epu64_mask(second, all_of(len));
    let second = _mm512_mask_sub_epi64(second, is_beyond, second, all_of(len));
    store_512(firsts, _mm512_slli_epi64::<{ LINE_SHIFT as u32 }>(first));
    store_512(seconds, _mm512_slli_epi64::<{ LINE_SHIFT as u32 }>(second));
}

/// As [`Engine::judge`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
fn judge_512(said: [u32; LANES], words: &mut [u32; LANES], hashes: &[u64; LANES], clock: &Clock) -> Judged {
    const { assert!(TAGS == 8) };
    let said = vector_of(said);
    store_words(words, said);
    let tags = _mm512_cvtepi64_epi32(_mm512_srli_epi64::<32>(load_512(hashes)));
    let tags = _mm256_and_si256(tags, _mm256_set1_epi32(7));
    let bits = _mm256_sllv_epi32(_mm256_set1_epi32(1), tags);
    let limits = limits_of(said, clock);
    // What is no entry has no limit.
    let is_meta = _mm256_testn_epi32_mask(limits, limits);
    let needed = _mm256_mask_test_epi32_mask(is_meta, said, bits);
    let live = _mm256_cmpgt_epi32_mask(limits, ages_of(said, clock));
    Judged { live: u32::from(live), needed: u32::from(needed) }
}

/// As [`Engine::present`].
#[expect(clippy::cast_sign_loss, reason = "bits")]
#[inline]
#[target_feature(enable = "avx2")]
fn present(keys: &[u64; LANES]) -> u32 {
    let zero = _mm256_setzero_si256();
    let (low, high) = load(keys);
    let mask = |half| _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(half, zero))) as u32;
    (mask(high) << 4 | mask(low)) ^ 0xff
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

/// Stores two vectors of four.
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
    // What lies behind the keys is beyond the bit that stands for none. A bit more keeps the compiler from doing it in eight.
    let mask = _mm512_cmpeq_epi64_mask(words, _mm512_set1_epi64(key as i64));
    (u32::from(mask) | 1 << NarrowBucket::SLOTS | 1 << LANES).trailing_zeros()
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

/// As [`super::probe`].
#[expect(clippy::cast_possible_wrap, reason = "bits")]
#[target_feature(enable = "avx2,bmi1")]
pub(super) fn probe(line: &NarrowBucket, key: u64) -> Probe {
    let keys = keys(line);
    Probe { slot: first(keys, _mm256_set1_epi64x(key as i64)), empty: first(keys, _mm256_setzero_si256()) }
}

/// As [`super::expired`].
#[inline]
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
#[inline]
#[target_feature(enable = "avx2")]
fn is_expired(words: __m256i, clock: &Clock) -> __m256i {
    let is_live = _mm256_cmpgt_epi32(limits_of(words, clock), ages_of(words, clock));
    _mm256_xor_si256(is_live, _mm256_set1_epi32(-1))
}

/// Ages from which on these values are expired, counted as in [`Clock`]; 0 for what is no value.
#[inline]
#[target_feature(enable = "avx2")]
fn limits_of(words: __m256i, clock: &Clock) -> __m256i {
    by_kind(words, &clock.limits)
}

/// The ages of these values, in quanta of their kinds.
#[inline]
#[target_feature(enable = "avx2")]
fn ages_of(words: __m256i, clock: &Clock) -> __m256i {
    let age = _mm256_sub_epi32(by_kind(words, &clock.epochs), words);
    _mm256_and_si256(age, _mm256_set1_epi32(0xff))
}

/// The byte for the kind of each of these values, in 32 bits.
#[expect(clippy::cast_possible_wrap, reason = "bits")]
#[inline]
#[target_feature(enable = "avx2")]
fn by_kind(words: __m256i, bytes: &[u8; Word::KINDS]) -> __m256i {
    const { assert!(Word::KINDS == 16) };
    // SAFETY: 16 bytes are one load.
    // JUSTIFICATION: there is no safe one; part of what the engine gains.
    let bytes = unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes.as_ptr().cast())) };
    // An index with its highest bit set gives 0.
    let kind = _mm256_and_si256(_mm256_srli_epi32::<8>(words), _mm256_set1_epi32(0xf));
    _mm256_shuffle_epi8(bytes, _mm256_or_si256(kind, _mm256_set1_epi32(0x8080_8000_u32 as i32)))
}

/// As [`Engine::place`].
#[expect(clippy::cast_possible_wrap, reason = "bits")]
#[inline]
#[target_feature(enable = "avx2")]
fn place(
    hasher: &Hasher,
    len: u64,
    keys: &[u64; LANES],
    hashes: &mut [u64; LANES],
    firsts: &mut [u64; LANES],
    seconds: &mut [u64; LANES],
) {
    let all_of = |value: u64| _mm256_set1_epi64x(value as i64);
    let (xor, [one, two, three]) = hasher.narrow_secret();
    let four = |keys: __m256i| {
        let hash = multiply(_mm256_xor_si256(keys, all_of(xor)), one);
        let hash = multiply(_mm256_xor_si256(hash, _mm256_srli_epi64::<32>(hash)), two);
        let hash = multiply(_mm256_xor_si256(hash, _mm256_srli_epi64::<29>(hash)), three);
        let first = _mm256_srli_epi64::<32>(_mm256_mul_epu32(_mm256_srli_epi64::<32>(hash), all_of(len)));
        let step = _mm256_srli_epi64::<32>(_mm256_mul_epu32(hash, all_of(len - 1)));
        let second = _mm256_add_epi64(_mm256_add_epi64(first, step), all_of(1));
        let beyond = _mm256_sub_epi64(second, all_of(len));
        // The sign of the difference says whether the sum is within.
        let second = choose(beyond, second, beyond);
        (hash, _mm256_slli_epi64::<LINE_SHIFT>(first), _mm256_slli_epi64::<LINE_SHIFT>(second))
    };
    let (low, high) = load(keys);
    let (low, high) = (four(low), four(high));
    store(hashes, (low.0, high.0));
    store(firsts, (low.1, high.1));
    store(seconds, (low.2, high.2));
}

/// Products modulo 2^64, of which AVX2 has only those of halves.
#[expect(clippy::cast_possible_wrap, reason = "bits")]
#[inline]
#[target_feature(enable = "avx2")]
fn multiply(a: __m256i, b: u64) -> __m256i {
    let (low, high) = (_mm256_set1_epi64x(b as i64), _mm256_set1_epi64x((b >> 32) as i64));
    let cross =
        _mm256_add_epi64(_mm256_mul_epu32(_mm256_srli_epi64::<32>(a), low), _mm256_mul_epu32(a, high));
    _mm256_add_epi64(_mm256_mul_epu32(a, low), _mm256_slli_epi64::<32>(cross))
}

/// The first where the sign of `by` is not set, else the second.
#[inline]
#[target_feature(enable = "avx2")]
fn choose(first: __m256i, second: __m256i, by: __m256i) -> __m256i {
    let pd = |vector| _mm256_castsi256_pd(vector);
    _mm256_castpd_si256(_mm256_blendv_pd(pd(first), pd(second), pd(by)))
}

/// The low halves of eight lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn pack(low: __m256i, high: __m256i) -> __m256i {
    let mixed = _mm256_shuffle_ps::<0b10_00_10_00>(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high));
    _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_castps_si256(mixed))
}

/// Eight words as a vector.
#[expect(clippy::cast_possible_wrap, reason = "bits")]
#[inline]
#[target_feature(enable = "avx2")]
fn vector_of(said: [u32; LANES]) -> __m256i {
    let [a, b, c, d, e, f, g, h] = said.map(|word| word as i32);
    _mm256_setr_epi32(a, b, c, d, e, f, g, h)
}

/// Stores eight words.
#[inline]
#[target_feature(enable = "avx2")]
fn store_words(words: &mut [u32; LANES], vector: __m256i) {
    // SAFETY: eight words are one store of 32 bytes.
    // JUSTIFICATION: there is no safe one; part of what the engine gains.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), vector) };
}

/// As [`Engine::live`].
#[expect(clippy::cast_sign_loss, reason = "bits")]
#[inline]
#[target_feature(enable = "avx2")]
fn live(words: &[u32; LANES], clock: &Clock) -> u32 {
    // SAFETY: eight words are one load of 32 bytes.
    // JUSTIFICATION: there is no safe one; part of what the engine gains.
    let words = unsafe { _mm256_loadu_si256(words.as_ptr().cast()) };
    let live = _mm256_cmpgt_epi32(limits_of(words, clock), ages_of(words, clock));
    _mm256_movemask_ps(_mm256_castsi256_ps(live)) as u32
}

/// As [`Engine::judge`].
#[expect(clippy::cast_sign_loss, reason = "bits")]
#[inline]
#[target_feature(enable = "avx2")]
fn judge(said: [u32; LANES], words: &mut [u32; LANES], hashes: &[u64; LANES], clock: &Clock) -> Judged {
    const { assert!(TAGS == 8) };
    let said = vector_of(said);
    store_words(words, said);
    let (low, high) = load(hashes);
    let tags = pack(_mm256_srli_epi64::<32>(low), _mm256_srli_epi64::<32>(high));
    let tags = _mm256_and_si256(tags, _mm256_set1_epi32(7));
    let limits = limits_of(said, clock);
    // What is no entry has no limit.
    let is_meta = _mm256_cmpeq_epi32(limits, _mm256_setzero_si256());
    // The bit in question becomes the sign.
    let bits = _mm256_sllv_epi32(said, _mm256_sub_epi32(_mm256_set1_epi32(31), tags));
    let needed = _mm256_and_si256(bits, is_meta);
    let live = _mm256_cmpgt_epi32(limits, ages_of(said, clock));
    let signs = |vector| _mm256_movemask_ps(_mm256_castsi256_ps(vector)) as u32;
    Judged { live: signs(live), needed: signs(needed) }
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

/// As [`super::compare_again`].
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub(super) fn compare_again_avx2(
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
) {
    stages::compare_again(Avx2(()), narrow, wide, keys, clock, hits);
}

/// As [`super::compare_again`].
#[target_feature(enable = "avx2,bmi1,bmi2,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn compare_again_avx512(
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
) {
    stages::compare_again(Avx512(()), narrow, wide, keys, clock, hits);
}

/// As [`super::fetch_primaries`].
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub(super) fn fetch_primaries_avx2(narrow: &Cells<NarrowBucket>, wide: &Cells<WideBucket>, keys: &Keys) {
    stages::fetch_primaries(Avx2(()), narrow, wide, keys);
}

/// As [`super::fetch_primaries`].
#[target_feature(enable = "avx2,bmi1,bmi2,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn fetch_primaries_avx512(narrow: &Cells<NarrowBucket>, wide: &Cells<WideBucket>, keys: &Keys) {
    stages::fetch_primaries(Avx512(()), narrow, wide, keys);
}

/// As [`super::fetch_seconds`].
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub(super) fn fetch_seconds_avx2(
    cells: &Cells<NarrowBucket>,
    hashes: &[u64; BURST],
    positions: u32,
    clock: &Clock,
) {
    stages::fetch_seconds(Avx2(()), cells, hashes, positions, clock);
}

/// As [`super::compare_some`].
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub(super) fn compare_some_avx2(
    narrow: &Cells<NarrowBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
    positions: u32,
) {
    stages::compare_some(Avx2(()), narrow, keys, clock, hits, positions);
}

/// As [`super::compare_some`].
#[target_feature(enable = "avx2,bmi1,bmi2,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn compare_some_avx512(
    narrow: &Cells<NarrowBucket>,
    keys: &Keys,
    clock: &Clock,
    hits: &mut Hits,
    positions: u32,
) {
    stages::compare_some(Avx512(()), narrow, keys, clock, hits, positions);
}

/// As [`super::enter`].
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub(super) fn enter_avx2(
    narrow: &Cells<NarrowBucket>,
    keys: &Keys,
    hashes: &[u64; BURST],
    new: NewFlows<'_>,
    word: Word,
    clock: &Clock,
    dirty: &mut DirtyBuckets,
) -> Entered {
    stages::enter(Avx2(()), narrow, keys, hashes, new, word, clock, dirty)
}

/// As [`super::enter`].
#[target_feature(enable = "avx2,bmi1,bmi2,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn enter_avx512(
    narrow: &Cells<NarrowBucket>,
    keys: &Keys,
    hashes: &[u64; BURST],
    new: NewFlows<'_>,
    word: Word,
    clock: &Clock,
    dirty: &mut DirtyBuckets,
) -> Entered {
    stages::enter(Avx512(()), narrow, keys, hashes, new, word, clock, dirty)
}

/// As [`super::step`].
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub(super) fn step_avx2(
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    clock: &Clock,
    places: Places<'_>,
) {
    stages::step(Avx2(()), narrow, wide, clock, places);
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

/// As [`super::step`].
#[target_feature(enable = "avx2,bmi1,bmi2,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn step_avx512(
    narrow: &Cells<NarrowBucket>,
    wide: &Cells<WideBucket>,
    clock: &Clock,
    places: Places<'_>,
) {
    stages::step(Avx512(()), narrow, wide, clock, places);
}

/// Engines for tests that compare them, where the CPU has them.
#[cfg(test)]
pub(super) mod engines {
    use super::{Clock, Engine, Hasher, Judged, LANES, NarrowBucket};

    /// Engine functions that enable their instruction set; the caller asks for what is available.
    macro_rules! engine {
        ($module:ident, $engine:ident, $features:literal, $($method:ident($($argument:ident: $of:ty),*) $(-> $result:ty)?;)*) => {
            pub(in super::super) mod $module {
                use super::*;
                $(
                    #[target_feature(enable = $features)]
                    pub(in super::super::super) fn $method($($argument: $of),*) $(-> $result)? {
                        super::super::$engine(()).$method($($argument),*)
                    }
                )*
            }
        };
    }

    /// All methods.
    macro_rules! methods {
        ($module:ident, $engine:ident, $features:literal) => {
            engine! {
                $module, $engine, $features,
                present(keys: &[u64; LANES]) -> u32;
                slot(line: &NarrowBucket, key: u64) -> u32;
                expired(line: &NarrowBucket, clock: &Clock) -> u32;
                place(hasher: &Hasher, len: u64, keys: &[u64; LANES], hashes: &mut [u64; LANES], firsts: &mut [u64; LANES], seconds: &mut [u64; LANES]);
                live(words: &[u32; LANES], clock: &Clock) -> u32;
                judge(said: [u32; LANES], words: &mut [u32; LANES], hashes: &[u64; LANES], clock: &Clock) -> Judged;
            }
        };
    }

    methods!(avx2, Avx2, "avx2,bmi1,bmi2");
    methods!(avx512, Avx512, "avx2,bmi1,bmi2,avx512f,avx512bw,avx512dq,avx512vl");
}
