//! What a careless operator, a stalled neighbour or a failing machine does to a balancer, and what must hold meanwhile.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

#[path = "careless/passive_health.rs"]
mod passive_health;
