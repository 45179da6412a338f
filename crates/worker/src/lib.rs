//! The loop over wire, steer, flow and statesync: one worker's turn.
//!
//! Rule of this crate: a [`Worker`] is a deterministic function of frames in, [`Tick`](wire::Tick)
//! and [`View`]. It reads no clock, logs nothing, locks nothing, and allocates nothing after start,
//! so the whole data path runs in a test, a fuzzer and a simulator by calling `turn()`.
//!
//! The modules in the order in which a packet meets them: [`turn`], [`describe`], [`lookup`], [`decide`], [`rewrite`], [`act`],
//! [`send`]; and for almost every packet, in one piece, [`fast`]. Beside them [`fragments`] (the bounded store), [`age`], and what
//! a member of a cluster does besides ([`cluster`]), by what the [`view`] says.
#![forbid(unsafe_code)]

pub mod act;
pub mod age;
pub mod cluster;
pub mod counters;
pub mod decide;
pub mod describe;
pub mod drop_reason;
pub mod fast;
pub mod fragments;
pub mod io;
pub mod lookup;
pub mod rewrite;
pub mod send;
pub mod sources;
pub mod token_bucket;
pub mod turn;
pub mod view;

pub use counters::Counters;
pub use drop_reason::DropReason;
pub use io::{BURST, BURSTS_MAX, Burst, Frame, NoRoom, Outcome, PacketIo, RxMeta, Verdict};
pub use turn::{Relay, Setup, Turn, Worker};
pub use view::View;
