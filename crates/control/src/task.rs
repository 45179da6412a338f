//! What the controller has done: small tasks and threads, each of which tells it by events what came of it.

pub(crate) mod check;
pub(crate) mod log;
pub(crate) mod renew;
pub(crate) mod tables;
