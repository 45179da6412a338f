//! The words both sides speak: the config and its diagnostics, and the API's types.
//!
//! Rule of this crate: text comes in, and either a checked value or a [`diagnostic::Report`] with the place
//! and the remedy comes out. Nothing here does anything.
#![forbid(unsafe_code)]

pub mod agent;
pub mod api;
pub mod config;
pub mod diagnostic;
pub mod load;
pub mod mac;
pub mod name;
pub mod net;
pub mod registered;
pub mod schema;
pub mod visible;

mod hex;
mod keys;
mod shape;
mod suggest;
mod text;

pub use config::Config;
pub use diagnostic::{Diagnostic, Report, Severity};
pub use load::{Loaded, load};
pub use schema::schema;
pub use text::{SERVICES_TEXT_MAX, TEXT_MAX, services_of, text, too_long};
pub use visible::visible;

#[cfg(test)]
mod tests;
