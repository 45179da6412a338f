//! Third stage: what becomes of a packet of a service.
//!
//! [`flows`] is what the worker knows; [`known`] decides packet by packet; [`new_flow`] and [`slots`] decide for many positions of a burst at
//! once what `known` would decide of each.

pub(crate) mod flows;
pub(crate) mod known;
pub mod least_load;
pub(crate) mod new_flow;
pub(crate) mod other_workers;
pub(crate) mod probation;
pub mod slots;
