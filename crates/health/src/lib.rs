//! Health checks, as machines and agents do them: one probe, and the verdict that is formed of many.
//!
//! Rule of this crate: a [`Check`] only probes; what a result means is decided in [`Verdict::observe`], which reads no clock and
//! does no I/O. Who runs probes, and when, is up to the program.
#![forbid(unsafe_code)]

use model::api::CheckResult;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

pub mod descriptors;
mod exec;
mod probe;
#[cfg(test)]
mod tests;
mod tls;
mod verdict;

pub use exec::{EXEC_AT_ONCE_MAX, Exec};
#[cfg(feature = "rehearsal")]
pub use probe::rehearse;
pub use probe::{Check, CheckFailure, SourcePorts};
pub use verdict::{Change, FLAP_WINDOW_MS, HOLD_MAX_MS, Rules, Verdict};

/// The result of a probe that was begun at `begun` and ends now.
pub fn result(begun: Instant, outcome: Result<(), CheckFailure>) -> CheckResult {
    CheckResult {
        passed: outcome.is_ok(),
        unsent: matches!(outcome, Err(CheckFailure::Unsent(_))),
        reason: outcome.map_or_else(|failure| failure.to_string(), |()| "ok".to_owned()),
        duration_us: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
        unix_ms: unix_ms(),
    }
}

/// Unix time, milliseconds.
pub fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
