//! The program as users run it: arguments, standard output, standard error, exit code, files.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that panics has failed, and that is how it says so"
)]

mod capture;
mod daemon;
mod explain;
mod flows;
mod frames;
mod maglev;
mod offline;
mod replay;
mod revisions;
mod usage;

use std::path::Path;
use std::process::{Command, Output};

/// A configuration with one service of each kind that the tests need.
const CONFIG: &str = include_str!("lb1.toml");

/// Runs the program without anything of the environment that could change its answer.
fn guideway(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guideway"));
    command.args(arguments).env_remove("GUIDEWAY_SOCKET").env("NO_COLOR", "1");
    command.output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Writes the configuration to `dir` and gives its path.
fn config_in(dir: &Path) -> String {
    let path = dir.join("lb1.toml");
    std::fs::write(&path, CONFIG).unwrap();
    path.to_str().unwrap().to_owned()
}
