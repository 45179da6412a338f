//! A bounded queue with one writer and one reader, wait-free on both sides.
//!
//! Everything of ours that needs a queue takes it from here. Normally it is rtrb; under `cfg(loom)` it is a model with
//! the same two cursors and the same orderings over loom's atomics (`spsc/model.rs`), so that a protocol built on
//! the queue can be explored exhaustively: rtrb itself knows nothing of loom. Why rtrb: docs/adr/0022.
//!
//! What is left in a queue when both ends are gone is dropped by whichever end goes last.

#[cfg(not(loom))]
#[path = "spsc/rtrb.rs"]
mod queue;

#[cfg(loom)]
#[path = "spsc/model.rs"]
mod queue;

pub use queue::{Receiver, Sender, channel};

#[cfg(test)]
mod tests;
