//! The time-stamp counter as [`Tick`]s: one clock for all workers and the management core.

use wire::Tick;

/// Microseconds since this clock was made. Copies tell the same time.
#[derive(Clone, Copy, Debug)]
pub struct TscClock {
    origin: u64,
    /// Microseconds a cycle, times 2^48: precise for years, without a division.
    scale: u64,
}

/// Binary places of `scale`.
const SHIFT: u32 = 48;

impl TscClock {
    /// Starts a clock. EAL measures the counter's frequency at its start, so one must run.
    pub fn start(_eal: &crate::Eal) -> TscClock {
        // SAFETY: EAL is started.
        let hz = unsafe { dpdk_sys::rte_get_tsc_hz() }.max(1);
        TscClock { origin: cycles(), scale: scale(hz) }
    }

    /// The time now. A call costs about 10 ns; read it once a turn.
    #[inline]
    pub fn now(&self) -> Tick {
        // The counters of two sockets may differ by a few cycles: never before the origin.
        Tick(ticks(cycles().saturating_sub(self.origin), self.scale))
    }
}

fn scale(hz: u64) -> u64 {
    u64::try_from((1_000_000_u128 << SHIFT) / u128::from(hz)).unwrap_or(u64::MAX)
}

#[inline]
fn ticks(cycles: u64, scale: u64) -> u64 {
    // Wraps after 2^64 microseconds only.
    ((u128::from(cycles) * u128::from(scale)) >> SHIFT) as u64
}

/// The raw counter.
#[inline]
pub fn cycles() -> u64 {
    // SAFETY: no preconditions.
    unsafe { dpdk_sys::shim_rdtsc() }
}

/// The raw counter, read when everything before is done and before anything after has begun: what a measurement
/// brackets its work with. Some 20 ns.
#[inline(always)]
pub fn stamp() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_mm_lfence, _rdtsc};
        // SAFETY: SSE2 is part of the architecture; a fence has no preconditions.
        unsafe { _mm_lfence() };
        // SAFETY: no preconditions.
        let cycles = unsafe { _rdtsc() };
        // SAFETY: as above.
        unsafe { _mm_lfence() };
        cycles
    }
    #[cfg(not(target_arch = "x86_64"))]
    cycles()
}

/// The same value, of which the compiler knows nothing; it stays in a register, where `black_box` may go through memory.
#[inline(always)]
pub fn opaque(mut value: u64) -> u64 {
    // SAFETY: no instruction at all.
    unsafe {
        core::arch::asm!("/* {0} */", inout(reg) value, options(pure, nomem, nostack, preserves_flags));
    };
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_become_microseconds_exactly_enough() {
        for hz in [1_000_000_u64, 1_999_999_999, 2_400_000_000, 5_100_000_000] {
            for seconds in [1_u64, 3_600, 86_400 * 365] {
                let got = ticks(hz * seconds, scale(hz));
                let want = seconds * 1_000_000;
                // The scale is truncated, by less than one part in 10^10 at 5 GHz.
                assert!(
                    want - got <= want / 10_000_000_000 + 1,
                    "{hz} Hz, {seconds} s: {got} and not {want}"
                );
            }
        }
    }
}
