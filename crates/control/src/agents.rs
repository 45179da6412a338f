//! Agents of backend hosts: what they register and report, and what comes of it on this machine.
//!
//! Rule of this module: [`registry::Registry`] decides, is told the time and does no I/O; [`listener`] talks, on a thread of its
//! own, and decides nothing but what its own limits and the tokens say; the owner of the truth carries messages between the two.

pub(crate) mod counts;
pub(crate) mod desk;
pub(crate) mod facts;
pub(crate) mod heard;
pub(crate) mod held;
pub(crate) mod hello;
pub(crate) mod listener;
pub(crate) mod registry;
pub(crate) mod session;
pub(crate) mod truth;
