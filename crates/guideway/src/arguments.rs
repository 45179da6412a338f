//! The command line as a whole; each command's own arguments stand in its file.

use crate::command::{
    apply, bench, capture, check, completions, doctor, drain, events, explain, flows, leave, maglev, man,
    plan, reload, replay, revision, service, show, top,
};
use crate::outcome::EXIT_CODES;
use clap::{Parser, Subcommand};

/// Layer-4 load balancer: look at it, change it, and ask why.
#[derive(Parser, Debug)]
#[command(
    name = "guideway",
    version = env!("GUIDEWAY_VERSION"),
    after_help = EXIT_CODES,
    propagate_version = true,
    max_term_width = 100,
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Subcommands,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Subcommands {
    Check(check::Arguments),
    Plan(plan::Arguments),
    Apply(apply::Arguments),
    Reload(reload::Arguments),
    #[command(flatten)]
    Revision(revision::RevisionCommand),
    #[command(flatten)]
    Service(service::ServiceCommand),
    Show(show::Arguments),
    Top(top::Arguments),
    Events(events::Arguments),
    Drain(drain::Arguments),
    /// Give a drained backend new flows again
    #[command(after_help = EXIT_CODES)]
    Undrain(drain::Arguments),
    Flows(flows::Arguments),
    Capture(capture::Arguments),
    Leave(leave::Arguments),
    Explain(explain::Arguments),
    Replay(replay::Arguments),
    Maglev(maglev::Arguments),
    Bench(bench::Arguments),
    Doctor(doctor::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
}
