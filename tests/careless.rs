//! What a careless operator, a stalled neighbour or a full disk may do to a machine, and what must hold meanwhile.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

#[path = "careless/management.rs"]
mod management;
#[path = "careless/words.rs"]
mod words;
