//! The project's automation: `cargo xtask <command>`.

mod ci;
mod dist;
mod fuzz;
mod gate;
mod hygiene;
mod lab;
mod perf;
mod project;
mod seeds;
mod simulate;
mod step;
mod tests;

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
    /// Watch real TCP clients reach real nginx servers through the balancer, in network namespaces
    #[command(disable_help_flag = true)]
    Demo {
        /// Options of the demo; `cargo xtask demo --help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the bench suite and write its results, page and plots
    Perf(perf::Arguments),
    /// Run the long checks: minutes of each fuzz target, many cases of each property test
    Soak {
        /// Minutes for each fuzz target
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1440))]
        minutes: u64,
    },
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
    /// Write the named seeds of the fuzz targets again
    Seeds,
    /// Write man pages and completions below target/dist
    Dist,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Task::Ci(arguments) => ci::run(&arguments).map_err(|e| e.to_string()),
        Task::Demo { arguments } => demo(&arguments),
        Task::Perf(arguments) => perf::run(&arguments),
        Task::Soak { minutes } => ci::soak(minutes).map_err(|e| e.to_string()),
        Task::Fuzz { target, seconds } => fuzz_one(&target, seconds),
        Task::Sim(arguments) => simulate::run(&arguments),
        Task::Gate(arguments) => gate::run(&arguments),
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

/// The demo, after which the machine must be as before.
fn demo(arguments: &[String]) -> Result<bool, String> {
    let before = hygiene::Snapshot::take();
    let shown = lab::demo(arguments)?;
    before.compare("demo")?;
    Ok(shown)
}

fn fuzz_one(target: &str, seconds: u64) -> Result<bool, String> {
    let ok =
        |mut command: std::process::Command| command.status().map(|s| s.success()).map_err(|e| e.to_string());
    if !ok(fuzz::build())? {
        return Ok(false);
    }
    ok(fuzz::run(target, Duration::from_secs(seconds)).map_err(|e| e.to_string())?)
}
