//! Measurements that can be believed on a noisy machine: the flow table, the engine in memory, the engine on DPDK
//! devices, each beside its peers and beside the physical bound, in one run.
//!
//! Rules of this crate:
//! * What is compared is measured in **interleaved rounds** ([`rounds`]), bracketed by [`calibration`]s; rounds in which the
//!   machine changed are discarded and counted; with too few left the least disturbed are taken, and the figure says so.
//! * **Ratios within a run** are what is judged; nanoseconds are quoted with the calibration of their run.
//! * Everything looked up or sent is checked against what it must be. A wrong answer ends the measurement.
//! * Seeds are fixed; keys and frames are made outside the timed part.
#![forbid(unsafe_code)]

pub mod bound;
pub mod calibration;
pub mod eal;
pub mod engine;
pub mod failure;
pub mod flood;
pub mod flows;
pub mod footprint;
pub mod gaps;
pub mod machine;
pub mod maglev;
pub mod memory;
pub mod ndr;
pub mod null;
pub mod options;
pub mod punt;
pub mod quantiles;
pub mod random;
pub mod report;
pub mod residence;
pub mod ring;
pub mod rounds;
pub mod scale;
pub mod statistics;
pub mod supervisor;
pub mod table;
pub mod testpmd;
pub mod tsc;

pub use failure::Failure;
