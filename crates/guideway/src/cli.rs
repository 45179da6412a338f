//! From the words typed to a command, and from its end to an exit code.

use crate::{arguments, command};
use clap::{CommandFactory as _, FromArgMatches as _};
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command line `arguments` (the first is the program's name) and says how the process shall end.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut command = startup::without_empty_variables(arguments::Cli::command());
    let parsed = command.try_get_matches_from_mut(arguments).and_then(|mut matches| {
        arguments::Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
    });
    let cli = match parsed {
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
