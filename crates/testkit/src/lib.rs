//! What the tests of every crate share: frame builders, a corpus of defects, checks, the scenario runner.
//!
//! Rule of this crate: whatever judges the engine here is written without the engine's own parsers and checksums.
//! Development only; it panics where a test would.
#![forbid(unsafe_code)]
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test tool fails by panicking")]

#[cfg(feature = "replay")]
pub mod bench;
#[cfg(feature = "replay")]
pub mod check;
pub mod frames;
#[cfg(feature = "replay")]
pub mod malformed;
#[cfg(feature = "replay")]
pub mod outer;
#[cfg(feature = "replay")]
pub mod peers;
#[cfg(feature = "scenario")]
pub mod scenario;
#[cfg(feature = "simulate")]
pub mod simulation;
