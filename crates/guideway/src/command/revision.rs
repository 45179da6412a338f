//! Commands about revisions of the configuration: `guideway history`, `guideway rollback` and `guideway confirm`.

use crate::command::{apply, confirm};
use crate::connection::Connection;
use crate::daemon::Daemon;
use crate::outcome::EXIT_CODES;
use crate::table::moment;
use crate::{CommandResult, Done, output};
use clap::{Args, Subcommand};
use model::api::{APPLY_TIMEOUT_DEFAULT_MS, APPLY_TIMEOUT_MAX_MS, ApplyResult, History, RevisionStatus};
use std::time::Duration;

#[derive(Subcommand, Debug)]
pub(crate) enum RevisionCommand {
    History(HistoryArguments),
    Rollback(RollbackArguments),
    Confirm(ConfirmArguments),
}

pub(crate) fn run(command: &RevisionCommand) -> CommandResult {
    match command {
        RevisionCommand::History(arguments) => history(arguments),
        RevisionCommand::Rollback(arguments) => rollback(arguments),
        RevisionCommand::Confirm(arguments) => {
            confirm::confirm(&Daemon::new(&arguments.connection)?, arguments.revision, false)
        }
    }
}

/// Configurations that were in force: number, time, who asked for it, what changed
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct HistoryArguments {
    #[command(flatten)]
    connection: Connection,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn history(arguments: &HistoryArguments) -> CommandResult {
    let daemon = Daemon::new(&arguments.connection)?;
    let history: History = daemon.get("/v1/history")?;
    if arguments.json {
        output::json(&history)?;
        return Ok(Done::Well);
    }
    if let Some(left_ms) = history.confirm_within_ms {
        output::note(&format!(
            "the first one goes back by itself in {} s; to keep it: guideway confirm",
            left_ms.div_ceil(1000)
        ));
    }
    for RevisionStatus { number, unix_ms, caller, change } in &history.revisions {
        let words = format!("{change} (by {caller})");
        output::line(&format!("{}  {number:>5}  {}", moment(*unix_ms), model::visible(&words)))?;
    }
    Ok(Done::Well)
}

/// Put a configuration in force again that was before
///
/// Checked like one that is applied. Refused when a key differs that needs a restart, and in a cluster.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct RollbackArguments {
    /// Number of the revision
    #[arg(value_name = "REVISION")]
    revision: u64,
    #[command(flatten)]
    waiting: WaitArguments,
    #[command(flatten)]
    connection: Connection,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn rollback(arguments: &RollbackArguments) -> CommandResult {
    let daemon = Daemon::new(&arguments.connection)?;
    let target = format!("/v1/rollback?revision={}&{}", arguments.revision, arguments.waiting.query());
    let result: ApplyResult = daemon.post(&target, Vec::new(), arguments.waiting.longest())?;
    arguments.waiting.conclude(&result, arguments.json)
}

/// Keep a configuration that is in force on trial, see guideway apply --confirm
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ConfirmArguments {
    /// Only if it is this revision that waits
    #[arg(value_name = "REVISION")]
    revision: Option<u64>,
    #[command(flatten)]
    connection: Connection,
}

/// Whether and how long a command waits for the workers.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct WaitArguments {
    /// Wait until every worker uses it
    #[arg(long)]
    wait: bool,
    /// How long to wait, milliseconds
    #[arg(long, value_name = "MS", default_value_t = APPLY_TIMEOUT_DEFAULT_MS,
        value_parser = clap::value_parser!(u64).range(1..=APPLY_TIMEOUT_MAX_MS))]
    timeout_ms: u64,
}

impl WaitArguments {
    /// As parameters of a request.
    pub(crate) fn query(self) -> String {
        format!("wait={}&timeout_ms={}", self.wait, self.timeout_ms)
    }

    /// How long the answer may take.
    pub(crate) fn longest(self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// Tells what came of a change; one that was to be waited for and is not in use is a failure.
    pub(crate) fn conclude(self, result: &ApplyResult, json: bool) -> CommandResult {
        apply::report(result, json)?;
        if self.wait && !result.acknowledged {
            return Err(apply::not_in_use(result.generation, self.timeout_ms));
        }
        Ok(Done::Well)
    }
}
