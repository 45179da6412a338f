//! `guideway reload`.

use crate::command::apply;
use crate::connection::Connection;
use crate::daemon::Daemon;
use crate::outcome::EXIT_CODES;
use crate::{CommandResult, Done};
use clap::Args;
use model::api::{APPLY_TIMEOUT_MAX_MS, ApplyResult};
use std::time::Duration;

/// Have the daemon read its configuration file again
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let daemon = Daemon::new(&arguments.connection)?;
    let wait = Duration::from_millis(APPLY_TIMEOUT_MAX_MS);
    let result: ApplyResult = daemon.post("/v1/reload", Vec::new(), wait)?;
    apply::report(&result, arguments.json)?;
    Ok(Done::Well)
}
