//! The commands, one file each.

use crate::Outcome;
use crate::arguments::Command;

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
pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Check(a) => check::run(&a),
        Command::Plan(a) => plan::run(&a),
        Command::Apply(a) => apply::run(&a),
        Command::Reload(a) => reload::run(&a),
        Command::Revision(a) => revision::run(&a),
        Command::Service(a) => service::run(&a),
        Command::Show(a) => show::run(&a),
        Command::Top(a) => top::run(&a),
        Command::Events(a) => events::run(&a),
        Command::Drain(a) => drain::run(&a, "drain"),
        Command::Undrain(a) => drain::run(&a, "undrain"),
        Command::Flows(a) => flows::run(&a),
        Command::Capture(a) => capture::run(&a),
        Command::Leave(a) => leave::run(&a),
        Command::Explain(a) => explain::run(a),
        Command::Replay(a) => replay::run(&a),
        Command::Maglev(a) => maglev::run(a),
        Command::Bench(a) => bench::run(&a),
        Command::Doctor(a) => doctor::run(&a),
        Command::Completions(a) => completions::run(&a),
        Command::Man(a) => man::run(&a),
    }
}
