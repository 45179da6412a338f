//! `guideway`: the command line of the balancer.

use std::process::ExitCode;

fn main() -> ExitCode {
    guideway::run(std::env::args_os())
}
