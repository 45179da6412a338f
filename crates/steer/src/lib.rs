//! Who serves a flow: which service a packet belongs to, which slot its flow hashes to, which backend the slot names.
//!
//! Rule of this crate: **every answer is a function of the configuration and the cluster key alone**, so all
//! machines, on every CPU, give the same one. [`hash`] is specified byte by byte for that reason; what is hashed only
//! inside one process (the maps of [`Services`]) may use anything. No clock, no unsafe, no allocation after `build`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod hash;
pub mod maglev;
pub mod prime;
pub mod services;

pub use hash::core_of;
pub use maglev::{Maglev, MaglevError, Weighted};
pub use prime::{is_prime, next_prime};
pub use services::{Match, RulesError, ServiceRule, Services};
