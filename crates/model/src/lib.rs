//! The words both sides speak: the config and its diagnostics, and the API's types.
//!
//! Rule of this crate: text comes in, and either a checked value or a [`diagnostic::Report`] with the place and the
//! remedy comes out. Nothing here does anything.
#![forbid(unsafe_code)]

pub mod agent;
pub mod api;
pub mod config;
pub mod diagnostic;
pub mod load;
pub mod mac;
pub mod net;
pub mod registered;
pub mod schema;
pub mod visible;

mod keys;
mod shape;
mod shared;
mod suggest;

pub use config::Config;
pub use diagnostic::{Diagnostic, Report, Severity};
pub use load::{Loaded, TEXT_MAX, load, text, too_long};
pub use schema::schema;
pub use shared::{SERVICES_TEXT_MAX, services_of};
pub use visible::visible;

#[cfg(test)]
mod tests;
