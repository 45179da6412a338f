//! First stage: bytes to what a frame is.

pub(crate) mod columns;
pub mod general;
