//! What workers tell each other: rings between the cores of one machine.
//!
//! Rule of this crate: **a queue has one writer, one reader and a fixed depth**. Sending and receiving never wait,
//! never allocate, and say at once when there is no room, so that the sender can count a drop by name.
//!
//! * [`spsc`]: the one seam for queues, as `flow::sync` is for atomics: rtrb, or under `cfg(loom)` a model of it that
//!   loom can explore.
//! * [`ring`]: a mesh of them, one per ordered pair of workers.
#![deny(unsafe_code)]

pub mod ring;
pub mod spsc;

pub use ring::{Ports, mesh};
