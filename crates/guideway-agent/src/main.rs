//! The agent of a host of backends: registers them with every machine, checks them for all machines at once, and says how
//! loaded they are.
//!
//! Rule of this program: what it decides is in [`host::Host`], which does no I/O and is told the time; the rest carries
//! messages. It knows neither the data path nor the management core of a machine, only what both say to each other
//! ([`model::agent`]; docs/agents.md in words).
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing))]

mod addresses;
mod arguments;
mod backend;
mod client;
mod config;
mod connection;
mod detect;
mod event;
mod host;
mod load;
mod local_socket;
mod name;
mod random;
mod request;
mod run;
mod state_file;
mod tls;

use arguments::{Arguments, Subcommands};
use startup::{Log, LogFormat, log_report, say};
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

/// Exit status for a file that cannot be used, as `guideway check` has it.
const EXIT_CONFIG: u8 = 2;

fn main() -> ExitCode {
    let hangup = startup::hold_hangup();
    let arguments: Arguments = startup::parse();
    match arguments.command {
        Subcommands::Run(arguments) => run_agent(&arguments, &hangup),
        Subcommands::CheckConfig(arguments) => match config::check(&arguments.config) {
            Ok(warnings) => {
                if let Some(warnings) = warnings {
                    say(format_args!("{warnings:?}"));
                }
                let _ = writeln!(std::io::stdout(), "{}: ok", arguments.config.display());
                ExitCode::SUCCESS
            }
            Err(report) => {
                say(format_args!("{report:?}"));
                ExitCode::from(EXIT_CONFIG)
            }
        },
        Subcommands::Register(arguments) => client::finish(client::register(&arguments)),
        Subcommands::Deregister(arguments) => client::finish(client::deregister(&arguments)),
        Subcommands::Status(arguments) => client::finish(client::status(&arguments)),
    }
}

fn run_agent(arguments: &arguments::Run, hangup: &AtomicBool) -> ExitCode {
    let log = match Log::start(arguments.log_format, &arguments.log_level) {
        Ok(log) => log,
        Err(error) => {
            say(format_args!("guideway-agent: no log: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let loaded = match config::read(&arguments.config) {
        Ok(loaded) => loaded,
        Err(report) => {
            // Every line of a log in JSON is JSON; else people read a report with the lines concerned.
            match arguments.log_format {
                LogFormat::Json => log_report(&report),
                LogFormat::Text => say(format_args!("{report:?}")),
            }
            log.flush();
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if let Err(error) = health::descriptors::raise_limit() {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
    let result = run::run(arguments, loaded, hangup);
    if let Err(error) = &result {
        tracing::error!("{error}");
    }
    log.flush();
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
