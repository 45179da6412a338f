//! Agents of backend hosts: what they register and report, and what comes of it on this machine.
//!
//! Rule of this module: [`registry::AgentRegistry`] decides, is told the time and does no I/O; [`listener`] talks, on a thread of its
//! own, and decides nothing but what its own limits and the tokens say; the controller carries messages between the two.

// Without a daemon there is nobody to talk, and whoever rehearses needs little of the rest.
#![cfg_attr(not(feature = "daemon"), allow(dead_code))]

#[cfg(feature = "daemon")]
pub(crate) mod candidate;
pub(crate) mod counts;
#[cfg(feature = "daemon")]
pub(crate) mod event;
pub(crate) mod facts;
#[cfg(feature = "daemon")]
pub(crate) mod gate;
pub(crate) mod heard;
pub(crate) mod held;
pub(crate) mod hello;
#[cfg(feature = "daemon")]
pub(crate) mod in_force;
#[cfg(feature = "daemon")]
pub(crate) mod listener;
#[cfg(feature = "daemon")]
pub(crate) mod outboxes;
pub(crate) mod registry;
#[cfg(any(test, feature = "rehearsal"))]
pub(crate) mod rehearsal;
pub(crate) mod session;
#[cfg(feature = "daemon")]
pub(crate) mod shown;
#[cfg(feature = "daemon")]
pub(crate) mod tend;
#[cfg(feature = "daemon")]
pub(crate) mod token_file;
