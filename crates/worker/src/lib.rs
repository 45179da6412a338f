//! The loop over wire, steer, flow and statesync: one worker's turn.
//!
//! Rule of this crate: a [`Worker`] is a deterministic function of frames in, [`Tick`](wire::Tick)
//! and [`View`]. It reads no clock, logs nothing, locks nothing, and allocates nothing after start,
//! so the whole data path runs in a test, a fuzzer and a simulator by calling `turn()`.
//!
//! The modules in the order in which a packet meets them: [`turn`], [`describe`], `lookup`, [`decide`], `act`, `send`; `pipeline` is how they
//! stand one behind the other. What passes from one to the next is a `burst`, and each of its positions comes to one [`action`]. Beside them
//! [`fragments`] (the bounded store), what control asks between two bursts ([`commands`]), copies of frames for those who look on ([`capture`]), and what a member of a cluster does besides ([`cluster`]), by what the [`view`] says.
#![forbid(unsafe_code)]

mod act;
pub mod action;
mod burst;
pub mod capture;
pub mod cluster;
pub mod commands;
pub mod counters;
pub mod decide;
pub mod describe;
pub mod drop_reason;
pub mod fragments;
mod inspect;
pub mod io;
mod label;
mod lookup;
mod pipeline;
pub mod rings;
mod send;
pub mod sources;
mod token_bucket;
pub mod turn;
pub mod view;

pub use action::Action;
pub use counters::Counters;
pub use drop_reason::DropReason;
pub use io::{BURST, BURSTS_MAX, Frame, Frames, NoRoom, Outcome, PacketIo, RxMeta, Verdict};
pub use rings::Relay;
pub use turn::{Setup, Turn, Worker};
pub use view::View;
