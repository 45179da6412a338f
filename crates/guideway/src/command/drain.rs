//! `guideway drain` and `guideway undrain`.

use crate::connection::Connection;
use crate::daemon::Daemon;
use crate::name::{BackendName, escaped};
use crate::outcome::EXIT_CODES;
use crate::table::grouped;
use crate::{CommandResult, Done, output};
use clap::Args;
use model::api::DrainResult;
use std::time::Duration;

/// Give a backend no new flows; those it has live on
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// The backend, for example web/b1
    #[arg(value_name = "SERVICE/BACKEND")]
    backend: BackendName,
    #[command(flatten)]
    connection: Connection,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `verb` is `drain` or `undrain`, as in the API.
pub(crate) fn run(arguments: &Arguments, verb: &str) -> CommandResult {
    let BackendName { service, backend } = &arguments.backend;
    let daemon = Daemon::new(&arguments.connection)?;
    let target = format!("/v1/services/{}/backends/{}/{verb}", escaped(service), escaped(backend));
    let result: DrainResult = daemon.post(&target, Vec::new(), Duration::ZERO)?;
    if result.drained && result.backends_up == 0 {
        // Drained it is; that nobody else is there may be what was wanted, or a slip.
        output::warning(&nobody_left(&result.service));
    }
    if arguments.json {
        output::json(&result)?;
        return Ok(Done::Well);
    }
    let name = format!("{}/{}", result.service, result.backend);
    let flows = grouped(result.flows);
    if let Some(why) = &result.unsaved_because {
        startup::say(format_args!(
            "warning: it is in force, and not on the disk yet, so a restart would lose it: {why}; it is \
             tried again until it is there"
        ));
    }
    output::line(&match (result.drained, result.changed) {
        (true, true) => format!("{name} takes no new flows; {flows} live on"),
        (true, false) => format!("{name} was drained already; {flows} flows live on"),
        (false, true) => format!("{name} takes new flows again"),
        (false, false) => format!("{name} was not drained"),
    })?;
    Ok(Done::Well)
}

fn nobody_left(service: &str) -> String {
    format!(
        "{service} has no other backend that is up and not drained: nobody takes its new flows; take it back \
         with: guideway undrain"
    )
}
