//! The loop over wire, steer, flow and statesync: one worker's turn.
//!
//! Rule of this crate: a [`Worker`] is a deterministic function of frames in, [`Tick`](wire::Tick)
//! and [`View`]. It reads no clock, logs nothing, locks nothing, and allocates nothing after start,
//! so the whole data path runs in a test, a fuzzer and a simulator by calling `turn()`.
//!
//! The modules in the order in which a packet meets them: [`turn`], [`classify`], [`lookup`], [`steering`],
//! [`rewrite`], [`punt`], [`emit`], and for almost every packet, in one piece, [`heads`], [`fast`] and [`fresh`]; beside them [`elsewhere`] (what other workers know), [`fragments`] (the bounded store), [`age`] and [`least_load`] (who gets a new flow where load decides), [`path_mtu`] (what routers say). What a member of a cluster does besides is in
//! [`station`], by what [`cluster`] says.
#![forbid(unsafe_code)]

pub mod age;
pub mod classify;
pub mod cluster;
pub mod counters;
pub mod drop_reason;
pub mod elsewhere;
pub mod emit;
pub mod fast;
pub mod fragments;
pub mod fresh;
pub mod heads;
pub mod io;
pub mod least_load;
pub mod loads;
pub mod lookup;
pub mod mailbox;
pub mod memory_io;
pub mod path_mtu;
mod probation;
pub mod punt;
pub mod rewrite;
pub mod slots;
pub mod sources;
pub mod station;
pub mod steering;
pub mod token_bucket;
pub mod turn;
pub mod view;

pub use counters::Counters;
pub use drop_reason::DropReason;
pub use io::{BURST, BURSTS_MAX, Burst, Frame, NoRoom, Outcome, PacketIo, RxMeta, Verdict};
pub use turn::{Relay, Setup, Turn, Worker};
pub use view::View;
