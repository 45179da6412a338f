//! The command line of the balancer, as a library so that tests and fuzz targets call what users call.
//!
//! Rule of this crate: arguments as typed (`Arguments` of each command) and arguments as checked (what its `run` works
//! with) are two things; a command writes its result to standard output and everything else to standard error, and
//! ends with 0, 1 (it failed) or 2 (the configuration or the usage is wrong).
#![forbid(unsafe_code)]

mod arguments;
pub mod capture;
mod command;
mod configuration;
mod daemon;
mod failure;
mod name;
mod output;
mod picture;
pub mod replay;
mod screen;
mod table;

use clap::Parser;
use failure::Failure;
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command line `arguments` (the first is the program's name) and says how the process shall end.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match arguments::Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version go to standard output and end well; the rest is wrong usage. A closed pipe is no news.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    match command::run(cli.command) {
        Ok(done) => done.exit_code(),
        Err(failure) => {
            failure.report();
            failure.exit_code()
        }
    }
}

/// How a command ended that did what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Done {
    /// All is well.
    Well,
    /// The answer is bad news, already told (doctor found a failure).
    BadNews,
}

impl Done {
    fn exit_code(self) -> ExitCode {
        match self {
            Done::Well => ExitCode::SUCCESS,
            Done::BadNews => ExitCode::FAILURE,
        }
    }
}

/// What every command returns.
type Outcome = Result<Done, Failure>;
