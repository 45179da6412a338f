//! Safe, narrow DPDK for Guideway: one noun a module, typed errors, ownership that cannot be got wrong from outside.
//!
//! Rules of this crate:
//! * All hand-written `unsafe` of the workspace lives here; each block says why it holds.
//! * [`Mbuf`] is owned: dropping frees it, transmitting moves it to the driver. All access to fields of `rte_mbuf` is in
//!   `mbuf.rs`, because newer DPDK moves them around.
//! * Things are closed in the right order by ownership: a [`Queue`] keeps its port, a port its [`Mempool`], each its [`Eal`].
//! * Huge-page slices are `'static`: once one was handed out, EAL's memory is never unmapped.
//! * No DPDK offload is used: what a frame says is in its bytes.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod clock;
pub mod eal;
pub mod errno;
pub mod hash;
pub mod huge_pages;
mod hugetlbfs;
pub mod log;
pub mod mbuf;
pub mod memory;
pub mod mempool;
pub mod pages;
pub mod pdump;
pub mod port;
pub mod queue;
pub mod ring;
pub mod stats;
pub mod telemetry;
pub mod thread;

pub use clock::TscClock;
pub use eal::{Eal, EalArguments, EalError};
pub use errno::Errno;
pub use mbuf::Mbuf;
pub use mempool::Mempool;
pub use port::{Device, Port, PortError, PortSetup};
pub use queue::{DpdkIo, Queue};
pub use stats::PortStats;
