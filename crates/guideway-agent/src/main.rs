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
mod host;
mod load;
mod local_socket;
mod log;
mod name;
mod random;
mod request;
mod run;
mod state_file;
mod tls;

use arguments::{Arguments, Command};
use clap::Parser;
use std::process::ExitCode;

/// Exit status for a file that cannot be used, as `guideway check` has it.
const EXIT_CONFIG: u8 = 2;

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) => {
            let loaded = match config::read(&arguments.config) {
                Ok(loaded) => loaded,
                Err(report) => {
                    eprintln!("{report:?}");
                    return ExitCode::from(EXIT_CONFIG);
                }
            };
            log::start(arguments.log_format, &arguments.log_level);
            if let Err(error) = health::descriptors::raise_limit() {
                tracing::warn!("cannot raise the limit of open files: {error}");
            }
            match run::run(&arguments, loaded) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    tracing::error!("{error}");
                    ExitCode::FAILURE
                }
            }
        }
        Command::CheckConfig(arguments) => match config::check(&arguments.config) {
            Ok(warnings) => {
                if let Some(warnings) = warnings {
                    eprintln!("{warnings:?}");
                }
                println!("{}: ok", arguments.config.display());
                ExitCode::SUCCESS
            }
            Err(report) => {
                eprintln!("{report:?}");
                ExitCode::from(EXIT_CONFIG)
            }
        },
        Command::Register(arguments) => client::finish(client::register(&arguments)),
        Command::Deregister(arguments) => client::finish(client::deregister(&arguments)),
        Command::Status(arguments) => client::finish(client::status(&arguments)),
    }
}
