//! The command line of the balancer, as a library so that tests and fuzz targets call what users call.
//!
//! Rule of this crate: arguments as typed (`Arguments` of each command) and arguments as checked (what its `run` works
//! with) are two things; a command writes its result to standard output and everything else to standard error, and
//! ends with 0, 1 (it failed, or a file cannot be read) or 2 (the usage, or a configuration that was read, is wrong).
#![forbid(unsafe_code)]

#[cfg(feature = "cli")]
mod arguments;
pub mod capture;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
mod command;
mod compiled_view;
#[cfg(feature = "cli")]
mod configuration;
#[cfg(feature = "cli")]
mod connection;
#[cfg(feature = "cli")]
mod daemon;
#[cfg(feature = "cli")]
mod failure;
#[cfg(feature = "cli")]
mod input;
#[cfg(feature = "cli")]
mod name;
#[cfg(feature = "cli")]
mod outcome;
#[cfg(feature = "cli")]
mod output;
pub mod replay;
#[cfg(feature = "cli")]
mod screen;
#[cfg(feature = "cli")]
mod secrets;
#[cfg(feature = "cli")]
mod table;

#[cfg(feature = "cli")]
pub use cli::run;
#[cfg(feature = "cli")]
use outcome::{CommandResult, Done};
