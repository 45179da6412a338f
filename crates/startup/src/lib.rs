//! How every program here begins: its command line and environment, SIGHUP, and the log.
#![forbid(unsafe_code)]

mod arguments;
mod log;
mod writer;

pub use arguments::{Filter, LogFormat, parse, without_empty_variables};
pub use log::{Log, log_report, say};

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Takes SIGHUP, which would end the process, and sets the flag that is returned whenever one comes. Called first thing, so
/// that a reload which is asked for during the start is neither deadly nor lost. Where it is refused, that is said.
pub fn hold_hangup() -> Arc<AtomicBool> {
    let flag = Arc::<AtomicBool>::default();
    if let Err(error) = signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&flag)) {
        say(format_args!("SIGHUP ends this process until it runs: {error}"));
    }
    flag
}
