//! Bytes to headers and back: parse once, edit in place, encapsulate, checksum.
//!
//! Rule of this crate: **after [`parse::parse`] returned `Ok`, every offset in the result lies inside the
//! frame**, so later stages need no length check of their own. No clock, no allocation, no unsafe.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::cast_possible_truncation)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]
#![cfg_attr(test, allow(clippy::cast_possible_truncation))]
#[cfg(test)]
extern crate std;

pub mod addr;
pub mod checksum;
pub mod encap;
mod field;
pub mod fragment;
pub mod hash;
pub mod id;
pub mod key;
pub mod parse;
pub mod plain;
pub mod reply;
#[cfg(test)]
mod sample;
pub mod tunnel_error;

pub use addr::Addr;
pub use id::{BackendId, CoreId, PortId, ServiceId, Tick};
pub use key::{FlowKey, Tuple};
