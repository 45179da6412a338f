//! The commands, one file each.

use crate::arguments::{Cli, Subcommands};
use crate::outcome::CommandResult;
use clap::CommandFactory as _;

pub(crate) mod apply;
pub(crate) mod bench;
pub(crate) mod capture;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod confirm;
pub(crate) mod doctor;
pub(crate) mod drain;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod flows;
pub(crate) mod leave;
pub(crate) mod maglev;
pub(crate) mod man;
pub(crate) mod plan;
pub(crate) mod reload;
pub(crate) mod replay;
pub(crate) mod revision;
pub(crate) mod service;
pub(crate) mod show;
pub(crate) mod top;

/// Does what the command says.
pub(crate) fn run(command: Subcommands) -> CommandResult {
    match command {
        Subcommands::Check(a) => check::run(&a),
        Subcommands::Plan(a) => plan::run(&a),
        Subcommands::Apply(a) => apply::run(&a),
        Subcommands::Reload(a) => reload::run(&a),
        Subcommands::Revision(a) => revision::run(&a),
        Subcommands::Service(a) => service::run(&a),
        Subcommands::Show(a) => show::run(&a),
        Subcommands::Top(a) => top::run(&a),
        Subcommands::Events(a) => events::run(&a),
        Subcommands::Drain(a) => drain::run(&a, "drain"),
        Subcommands::Undrain(a) => drain::run(&a, "undrain"),
        Subcommands::Flows(a) => flows::run(&a),
        Subcommands::Capture(a) => capture::run(&a),
        Subcommands::Leave(a) => leave::run(&a),
        Subcommands::Explain(a) => explain::run(a),
        Subcommands::Replay(a) => replay::run(&a),
        Subcommands::Maglev(a) => maglev::run(a),
        Subcommands::Bench(a) => bench::run(&a),
        Subcommands::Doctor(a) => doctor::run(&a),
        Subcommands::Completions(a) => completions::run(&a, Cli::command()),
        Subcommands::Man(a) => man::run(&a, Cli::command()),
    }
}
