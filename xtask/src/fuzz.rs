//! Builds the fuzz targets with coverage instrumentation on the stable compiler and runs them for a while.
//!
//! This is what `cargo fuzz run --sanitizer none` does; done here so that neither nightly nor cargo-fuzz is needed.
//! No sanitizer: the code under test forbids unsafe, so what is looked for is panics and broken assertions.

use crate::project;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The targets of fuzz/Cargo.toml.
pub(crate) const TARGETS: &[&str] =
    &["frame", "config", "replay", "statesync", "pieces", "agent", "store", "state", "health", "netlink"];

const TRIPLE: &str = env!("XTASK_TARGET");

/// Instrumentation of every crate: edge counters, and comparisons so that lengths and magic numbers are found.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

fn target_directory() -> PathBuf {
    project::target_directory().join("fuzz")
}

/// The command that builds all targets.
pub(crate) fn build() -> Command {
    let mut command = project::cargo();
    command.args(["build", "--release", "--target", TRIPLE, "--manifest-path", "fuzz/Cargo.toml"]);
    command.arg("--target-dir").arg(target_directory()).env("RUSTFLAGS", FLAGS);
    command
}

/// The command that runs one target for `time`, from its seeds and what earlier runs found.
///
/// # Errors
/// The corpus directory cannot be made.
pub(crate) fn run(target: &str, time: Duration) -> std::io::Result<Command> {
    let corpus = project::root().join("fuzz/corpus").join(target);
    let artifacts = project::root().join("fuzz/artifacts").join(target);
    std::fs::create_dir_all(&corpus)?;
    std::fs::create_dir_all(&artifacts)?;
    let mut command = Command::new(target_directory().join(TRIPLE).join("release").join(target));
    command.arg(corpus).arg(project::root().join("fuzz/seeds").join(target));
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.arg(format!("-max_total_time={}", time.as_secs()));
    command.args(["-timeout=20", "-rss_limit_mb=4096", "-print_final_stats=1"]);
    let longest = match target {
        "replay" => 16_384,
        // More than a check looks at.
        "health" => 80_000,
        _ => 4_096,
    };
    command.arg(format!("-max_len={longest}"));
    command.current_dir(project::root());
    Ok(command)
}
