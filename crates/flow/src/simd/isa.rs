//! Which vector instructions the CPU has.

/// Instruction sets that look-ups are compiled for, each including the ones before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Isa {
    /// What every CPU of this architecture has.
    Baseline,
    /// x86-64 with AVX2, BMI1 and BMI2.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl Isa {
    /// All, weakest first.
    pub const ALL: [Isa; 3] = [Isa::Baseline, Isa::Avx2, Isa::Avx512];

    /// In lower case, as tools write it.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Baseline => "baseline",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// Whether this CPU has it, and the operating system keeps its registers.
    pub fn is_available(self) -> bool {
        self <= isa()
    }
}

/// The best that this CPU has.
pub fn isa() -> Isa {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    {
        let has_avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2");
        let has_avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        match (has_avx2, has_avx512) {
            (true, true) => Isa::Avx512,
            (true, false) => Isa::Avx2,
            _ => Isa::Baseline,
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
    Isa::Baseline
}

/// An instruction set that this CPU has: proof of it for the unsafe code here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Available(Isa);

impl Available {
    pub(crate) fn best() -> Available {
        Available(isa())
    }

    pub(crate) fn new(isa: Isa) -> Option<Available> {
        isa.is_available().then_some(Available(isa))
    }

    pub(crate) const fn isa(self) -> Isa {
        self.0
    }
}
