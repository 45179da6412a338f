//! What strangers and faults may do to a machine or a cluster, and what must hold meanwhile.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

#[path = "hostile/agents_port.rs"]
mod agents_port;
#[path = "hostile/floods.rs"]
mod floods;
#[path = "hostile/replay.rs"]
mod replay;
#[path = "hostile/wiped_store.rs"]
mod wiped_store;
