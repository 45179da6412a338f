//! `guideway apply`.

use crate::command::confirm;
use crate::connection::Connection;
use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::outcome::EXIT_CODES;
use crate::{CommandResult, Done, configuration, output};
use clap::Args;
use model::api::{APPLY_TIMEOUT_DEFAULT_MS, APPLY_TIMEOUT_MAX_MS, ApplyResult};
use std::path::PathBuf;
use std::time::Duration;

/// Hand a configuration to the running daemon
///
/// Everything or nothing: on a mistake, or a key that needs a restart, the daemon goes on as before and says why.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// The new configuration; - reads standard input
    file: PathBuf,
    /// Wait until every worker uses it
    #[arg(long)]
    wait: bool,
    /// How long to wait, milliseconds
    #[arg(long, value_name = "MS", default_value_t = APPLY_TIMEOUT_DEFAULT_MS,
        value_parser = clap::value_parser!(u64).range(1..=APPLY_TIMEOUT_MAX_MS))]
    timeout_ms: u64,
    /// Go back by itself unless somebody confirms within this time (1s to 1h; ms, s, m, h): type yes on the
    /// terminal, or run guideway confirm from another one
    #[arg(long, value_name = "DURATION", value_parser = confirm::duration)]
    confirm: Option<Duration>,
    #[command(flatten)]
    connection: Connection,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let text = configuration::read(&arguments.file)?;
    // A mistake is shown with its place in the file, before the daemon is asked at all.
    let loaded = configuration::check(&arguments.file, &text)?;
    let mut connection = arguments.connection.clone();
    if connection.socket.is_none() && connection.config.is_none() && arguments.file.as_os_str() != "-" {
        connection.socket = Some(loaded.config.api.socket);
    }
    let daemon = Daemon::new(&connection)?;
    let timeout_ms = arguments.timeout_ms;
    let within = arguments.confirm.map_or_else(String::new, |of| format!("&confirm_ms={}", of.as_millis()));
    let target = format!("/v1/apply?wait={}&timeout_ms={timeout_ms}{within}", arguments.wait);
    let result: ApplyResult = daemon.post(&target, text.into_bytes(), Duration::from_millis(timeout_ms))?;
    report(&result, arguments.json)?;
    let is_unused = arguments.wait && !result.acknowledged;
    if arguments.confirm.is_some() {
        if is_unused {
            output::warning(&not_in_use(result.generation, timeout_ms).to_string());
        }
        confirm::await_confirmation(&daemon, &result, arguments.json)?;
    }
    if is_unused {
        return Err(not_in_use(result.generation, timeout_ms));
    }
    Ok(Done::Well)
}

/// Some worker goes on with what was before.
pub(crate) fn not_in_use(generation: u64, timeout_ms: u64) -> Failure {
    Failure::failed(format!(
        "generation {generation} is published, but not every worker used it within {timeout_ms} ms"
    ))
    .help("see: guideway show workers")
}

/// Tells what was applied.
pub(crate) fn report(result: &ApplyResult, json: bool) -> Result<(), Failure> {
    configuration::warn(&result.warnings);
    if json {
        return output::json(result);
    }
    if let Some(why) = &result.unsaved_because {
        output::warning(&format!(
            "it is in force, and not on the disk yet, so a restart would lose it: {why}; \
             it is tried again until it is there"
        ));
    }
    let state = if result.acknowledged { "in use by every worker" } else { "published" };
    // A cluster has no revisions.
    let revision = match result.revision {
        0 => String::new(),
        revision => format!("revision {revision}, "),
    };
    output::line(&format!(
        "applied: {revision}generation {} {state} after {} ms",
        result.generation, result.duration_ms
    ))
}
