//! The command line as a whole; each command's own arguments stand in its file.

use crate::command::{
    apply, bench, capture, check, completions, doctor, drain, events, explain, flows, leave, maglev, man,
    plan, reload, replay, revision, service, show, top,
};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Shown below every command's help.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: a file cannot be read or written or is no capture, the daemon cannot be reached or refuses,
     doctor found a failure
  2  the usage is wrong, or a configuration was read and is refused";

/// Layer-4 load balancer: look at it, change it, and ask why.
#[derive(Parser, Debug)]
#[command(name = "guideway", version = env!("GUIDEWAY_VERSION"), after_help = EXIT_CODES, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    Check(check::Arguments),
    Plan(plan::Arguments),
    Apply(apply::Arguments),
    Reload(reload::Arguments),
    #[command(flatten)]
    Revision(revision::Command),
    #[command(flatten)]
    Service(service::Command),
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

/// Where the daemon listens, for the commands that talk to it.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Connection {
    /// The daemon's socket [default: the one of --config, else the only one in /run/guideway]
    #[arg(long, env = "GUIDEWAY_SOCKET", value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Configuration to take the socket from
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}
