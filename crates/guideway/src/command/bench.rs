//! `guideway bench`: hands over to `guideway-bench`, which links DPDK; this program does not.

use crate::failure::Failure;
use crate::outcome::CommandResult;
use crate::outcome::EXIT_CODES;
use clap::Args;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The program that measures.
const HELPER: &str = "guideway-bench";
/// Shown below the help.
const MEASUREMENTS: &str = "\
Measurements:
  engine     a packet's cost, parse to encapsulation, in memory
  table      a look-up's cost, beside the physical bound and other tables
  null       the engine between two DPDK null devices, beside testpmd
  ndr        the highest loss-free rate between two ports, and the latency below it
  maglev     building a slot table, beside the naive build
  memory     bytes a flow takes
  flood      what established flows lose in a SYN flood
  punt       what honest traffic keeps beside a flood for the kernel
  residence  how long a packet stays in the engine at a given load
  ring       the hand-off of packets between two workers, beside rte_ring
  scale      two workers beside one

Each has options: guideway bench engine --help";

/// Measure the engine, the flow table and devices on this machine
#[derive(Args, Debug)]
#[command(after_help = format!("{MEASUREMENTS}\n\n{EXIT_CODES}"))]
pub(crate) struct Arguments {
    /// What to measure
    #[arg(value_name = "MEASUREMENT")]
    measurement: String,
    /// Its options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<OsString>,
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let beside = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join(HELPER)));
    let program = beside.filter(|path| path.is_file());
    let program = program.as_deref().unwrap_or(Path::new(HELPER));
    // Only comes back when it did not work.
    let error = Command::new(program).arg(&arguments.measurement).args(&arguments.options).exec();
    Err(match error.kind() {
        ErrorKind::NotFound => {
            Failure::failed(format!("{HELPER} is neither beside this program nor in PATH"))
                .help(format!("install it, or build it: cargo build --release -p {HELPER}"))
        }
        _ => Failure::failed(format!("cannot start {}: {error}", program.display())),
    })
}
