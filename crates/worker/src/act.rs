//! Fourth stage: does with a frame what was decided.

pub(crate) mod cut;
pub(crate) mod encapsulate;
pub(crate) mod path_mtu;
pub(crate) mod punt;
pub(crate) mod reply;
