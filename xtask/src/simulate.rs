//! Builds and runs the cluster simulator.

use crate::project;
use clap::Args;
use std::process::Command;

/// What to run.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Seeds A..B; B is excluded
    #[arg(long, default_value = "0..200", conflicts_with = "seed")]
    seeds: String,
    /// One seed
    #[arg(long)]
    seed: Option<u64>,
    /// Print each step of the one seed
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Break each rule of the protocol in turn, and tell after how many of the seeds it is noticed
    #[arg(long, conflicts_with = "seed")]
    mutations: bool,
    /// 468 backends, 1k to 100k flows: how many flows move, and how many bytes are told
    #[arg(long, conflicts_with_all = ["seed", "seeds", "mutations"])]
    experiment: bool,
    /// Other options of the simulator; `cargo xtask sim -- --help` lists them
    #[arg(last = true)]
    more: Vec<String>,
}

/// The simulator, built first if need be, without options.
pub(crate) fn command() -> Command {
    let mut command = project::cargo();
    command.args(["run", "--quiet", "--profile", "sim", "--package", "testkit", "--no-default-features"]);
    command.args(["--features", "simulate", "--bin", "simulate", "--"]);
    command
}

/// Runs it; true if every property held.
///
/// # Errors
/// It cannot be built or run.
pub(crate) fn run(arguments: &Arguments) -> Result<bool, String> {
    let mut command = command();
    match arguments.seed {
        _ if arguments.experiment => command.arg("--experiment"),
        Some(seed) => command.arg("--seed").arg(seed.to_string()),
        None => command.arg("--seeds").arg(&arguments.seeds),
    };
    if arguments.mutations {
        command.arg("--mutations");
    }
    if arguments.trace {
        command.arg("--trace");
    }
    command.args(&arguments.more);
    command.status().map(|status| status.success()).map_err(|e| e.to_string())
}
