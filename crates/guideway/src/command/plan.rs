//! `guideway plan`.

use crate::arguments::{Connection, EXIT_CODES};
use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::{Done, Outcome, configuration, output};
use clap::Args;
use model::api::PlanResult;
use std::path::PathBuf;
use std::time::Duration;

/// Say what applying a configuration would change: slots moved, backends, memory, keys that need a restart
///
/// Against the running daemon, or against another file with --old.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// The new configuration; - reads standard input
    file: PathBuf,
    /// Compare with this file instead of the running daemon
    #[arg(long, value_name = "FILE", conflicts_with_all = ["socket", "config"])]
    old: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let text = configuration::read(&arguments.file)?;
    let new = configuration::check(&arguments.file, &text)?;
    let plan = if let Some(old) = &arguments.old {
        let old = configuration::load(old)?;
        configuration::warn_loaded(&new);
        let plan = control::plan::plan(&old.config, &new.config);
        serde_json::to_value(&plan).map_err(|e| Failure::failed(format!("cannot write JSON: {e}")))?
    } else {
        let mut connection = arguments.connection.clone();
        if connection.socket.is_none() && connection.config.is_none() && arguments.file.as_os_str() != "-" {
            connection.socket = Some(new.config.api.socket);
        }
        let daemon = Daemon::new(&connection)?;
        let result: PlanResult = daemon.post("/v1/plan", text.into_bytes(), Duration::ZERO)?;
        configuration::warn(&result.warnings);
        result.plan
    };
    if arguments.json { output::json(&plan)? } else { output::print(&for_people(&plan))? }
    Ok(Done::Well)
}

fn for_people(plan: &serde_json::Value) -> String {
    plan.to_string()
}
