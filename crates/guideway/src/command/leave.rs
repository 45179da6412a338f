//! `guideway leave`.

use crate::connection::Connection;
use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::outcome::EXIT_CODES;
use crate::{CommandResult, Done, output};
use clap::Args;
use model::api::LeaveResult;
use std::time::{Duration, Instant};

/// How often it is looked whether the daemon has stopped.
const LOOK: Duration = Duration::from_millis(100);

/// Hand over what the machine knows of flows, leave its cluster, and stop the daemon
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,
    /// Wait at most so long for the daemon to stop
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(1..=3600),
    )]
    timeout: u64,
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let daemon = Daemon::new(&arguments.connection)?;
    let begun = Instant::now();
    let result: LeaveResult = daemon.post("/v1/leave", Vec::new(), Duration::ZERO)?;
    // It answers until the others go on without it.
    while daemon.get::<serde_json::Value>("/v1/status").is_ok() {
        if begun.elapsed() > Duration::from_secs(arguments.timeout) {
            let message = format!("{} has not left after {} s", result.machine, arguments.timeout);
            return Err(Failure::failed(message).help("see whom it waits for: guideway show cluster"));
        }
        std::thread::sleep(LOOK);
    }
    let left = format!("{} has left after {} ms", result.machine, begun.elapsed().as_millis());
    output::line(&match result.others {
        0 => format!("{left}; it was alone"),
        others => format!("{left}; {others} stay"),
    })?;
    Ok(Done::Well)
}
