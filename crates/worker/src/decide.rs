//! Third stage: what becomes of a packet of a service.

pub mod known;
pub mod least_load;
pub(crate) mod new_flow;
pub(crate) mod other_workers;
pub(crate) mod probation;
