//! `guideway-bench`: what `guideway bench` runs. Apart, because only this program and the daemon link DPDK.

use clap::{Parser, Subcommand};
use guideway_bench::{
    Failure, engine, flood, machine, maglev, memory, ndr, null, punt, residence, ring, scale, supervisor,
    table,
};
use std::process::ExitCode;

/// Measures the engine, the flow table and devices.
#[derive(Parser, Debug)]
#[command(name = "guideway bench", version = env!("GUIDEWAY_VERSION"), max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Subcommand, Debug)]
enum Subcommands {
    Engine(engine::Arguments),
    Table(table::Arguments),
    Null(null::Arguments),
    Ndr(ndr::Arguments),
    Scale(scale::Arguments),
    Residence(residence::Arguments),
    Flood(flood::Arguments),
    Punt(punt::Arguments),
    Ring(ring::Arguments),
    Maglev(maglev::Arguments),
    Memory(memory::Arguments),
}

impl Subcommands {
    /// Huge-page memory it would like to have.
    fn huge_bytes(&self) -> u64 {
        match self {
            Subcommands::Engine(arguments) => arguments.huge_bytes(),
            Subcommands::Table(arguments) => arguments.huge_bytes(),
            Subcommands::Null(arguments) => arguments.huge_bytes(),
            Subcommands::Ndr(arguments) => arguments.huge_bytes(),
            Subcommands::Scale(arguments) => arguments.huge_bytes(),
            Subcommands::Residence(arguments) => arguments.huge_bytes(),
            Subcommands::Flood(arguments) => arguments.huge_bytes(),
            Subcommands::Punt(arguments) => arguments.huge_bytes(),
            Subcommands::Ring(arguments) => arguments.huge_bytes(),
            Subcommands::Maglev(arguments) => arguments.huge_bytes(),
            Subcommands::Memory(arguments) => arguments.huge_bytes(),
        }
    }

    fn run(&self) -> Result<(), Failure> {
        let cpus = machine::pin()?;
        let cpu = cpus.own;
        match self {
            Subcommands::Engine(arguments) => engine::run(arguments),
            Subcommands::Table(arguments) => table::run(arguments, cpu),
            Subcommands::Null(arguments) => null::run(arguments, cpu),
            Subcommands::Ndr(arguments) => ndr::run(arguments, cpu),
            Subcommands::Scale(arguments) => scale::run(arguments, cpus),
            Subcommands::Residence(arguments) => residence::run(arguments),
            Subcommands::Flood(arguments) => flood::run(arguments),
            Subcommands::Punt(arguments) => punt::run(arguments),
            Subcommands::Ring(arguments) => ring::run(arguments, cpus),
            Subcommands::Maglev(arguments) => maglev::run(arguments),
            Subcommands::Memory(arguments) => memory::run(arguments),
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help goes to standard output and ends well; the rest is wrong usage.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    let result = if supervisor::is_child() {
        cli.command.run().map(|()| ExitCode::SUCCESS)
    } else {
        supervisor::run(cli.command.huge_bytes())
    };
    result.unwrap_or_else(|failure| {
        eprintln!("error: {failure}");
        ExitCode::from(if matches!(failure, Failure::Usage(_)) { 2 } else { 1 })
    })
}
