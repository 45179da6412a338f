//! The project's automation: `cargo xtask <command>`.

mod ci;
mod dist;
mod docs;
mod fuzz;
mod gate;
mod hygiene;
mod perf;
mod project;
mod released;
mod seeds;
mod simulate;
mod soak;
mod step;
mod tests;
mod without_dpdk;
mod words;

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser, Debug)]
#[command(name = "cargo xtask", about = "Builds, tests and shows Guideway")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand, Debug)]
enum Task {
    /// Run everything that must pass, cheapest first
    Ci(ci::Arguments),
    /// Run the bench suite and write its results, page and plots
    Perf(perf::Arguments),
    /// Run the long checks: minutes of each fuzz target, many cases of each property test, bare machines
    Soak(soak::Arguments),
    /// Build and run one fuzz target
    Fuzz {
        /// The target
        #[arg(value_parser = clap::builder::PossibleValuesParser::new(fuzz::TARGETS.iter().copied()))]
        target: String,
        /// Seconds
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Run the cluster simulator over seeds
    Sim(simulate::Arguments),
    /// Count the instructions of a turn and look for what a turn never does: allocate, call the kernel, lock, panic
    Gate(gate::Arguments),
    /// Check names, widths, lengths, comments and circles in the code, and the glossary; and show the circles
    Words,
    /// Write anew what documents say of the code: configs/schema.json, docs/configuration.md, the tables of docs/packet-path.md
    Docs,
    /// Write the named seeds of the fuzz targets again
    Seeds,
    /// Write man pages and completions below target/dist
    Dist,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Task::Ci(arguments) => ci::run(&arguments).map_err(|e| e.to_string()),
        Task::Perf(arguments) => perf::run(&arguments),
        Task::Soak(arguments) => soak::run(&arguments).map_err(|e| e.to_string()),
        Task::Fuzz { target, seconds } => fuzz_one(&target, seconds),
        Task::Sim(arguments) => simulate::run(&arguments),
        Task::Gate(arguments) => gate::run(&arguments),
        Task::Words => words::run(),
        Task::Docs => docs::run(),
        Task::Seeds => seeds::run().map(|()| true),
        Task::Dist => dist::run().map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("xtask: {e}");
            ExitCode::FAILURE
        }
    }
}

fn fuzz_one(target: &str, seconds: u64) -> Result<bool, String> {
    let ok =
        |mut command: std::process::Command| command.status().map(|s| s.success()).map_err(|e| e.to_string());
    if !ok(fuzz::build())? {
        return Ok(false);
    }
    ok(fuzz::run(target, Duration::from_secs(seconds)).map_err(|e| e.to_string())?)
}
