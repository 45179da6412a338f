//! Other people's loops over arrays, compiled for the look-ups' instruction set.

use super::{Available, Isa};

/// Runs `work`, and what is inlined into it, compiled for this instruction set, which it is told. For loops over arrays of
/// known length, which the compiler turns into vectors: eight SipHashes in lockstep take little more instructions than one with AVX-512.
#[inline]
pub(crate) fn vectors<R>(isa: Available, work: impl FnOnce(Isa) -> R) -> R {
    match isa.isa() {
        #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
        // SAFETY: an `Available` is made only of what the CPU has.
        // JUSTIFICATION: calls across instruction sets are unsafe. Hashing the tuples of eight new flows takes 148
        // instructions with AVX-512 and some 850 with AVX2 or without (disassembled), which have no vector rotation.
        Isa::Avx512 => unsafe { with_avx512(work) },
        #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
        // SAFETY: as above.
        // JUSTIFICATION: as above.
        Isa::Avx2 => unsafe { with_avx2(work) },
        _ => work(Isa::Baseline),
    }
}

#[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2")]
fn with_avx512<R>(work: impl FnOnce(Isa) -> R) -> R {
    work(Isa::Avx512)
}

#[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn with_avx2<R>(work: impl FnOnce(Isa) -> R) -> R {
    work(Isa::Avx2)
}
