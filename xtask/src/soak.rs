//! What takes hours: minutes of each fuzz target, the property tests with many more cases, the lab at full length, the
//! simulator over many seeds, every rule and every ordering broken, and both README commands on a bare Debian 12.

use crate::hygiene;
use crate::step::Runner;
use crate::tests::{self, Group};
use crate::{fuzz, project, simulate};
use clap::Args;
use std::process::Command;
use std::time::Duration;

/// Release of cargo-deny whose reading of deny.toml is known.
const DENY_VERSION: &str = "0.20.2";

/// Cases of each of the five tests of `worker/tests/two_ways.rs`: ten million frames in all, at some 500 a case.
const TWO_WAYS_CASES: &str = "5000";

/// How long, and what.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Minutes for each fuzz target
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1440))]
    minutes: u64,
    /// Run only the steps whose name contains this (may be given several times)
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
}

const fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}

/// Runs all steps; true if all is well.
///
/// # Errors
/// The log directory cannot be made.
pub(crate) fn run(arguments: &Arguments) -> std::io::Result<bool> {
    hygiene::describe();
    let mut runner = Runner::new(project::target_directory().join("soak"), false)?;
    let wants =
        |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|o| name.contains(o.as_str()));
    let mut step = |name: &str, limit: Duration, commands: Result<Vec<Command>, String>| {
        if wants(name) {
            match commands {
                Ok(commands) => runner.step(name, limit, commands),
                Err(why) => runner.cannot(name, &why),
            }
        }
    };
    step("licences", minutes(60), Ok(licences()));
    let mut release = project::cargo();
    release.args(["build", "--release", "--locked"]);
    step("release build, for bare machines", minutes(60), Ok(vec![release]));
    for (name, words) in [
        ("bare machine: programs and packages", &["packages"][..]),
        ("bare machine: ./run demo", &["run", "./run", "demo"]),
        ("bare machine: ./run test", &["run", "./run", "test"]),
    ] {
        let mut command = Command::new(project::root().join("tests/bare_machine.sh"));
        command.args(words);
        step(name, minutes(120), Ok(vec![command]));
    }
    step("fuzz build", minutes(60), Ok(vec![fuzz::build()]));
    for target in fuzz::TARGETS {
        let command = fuzz::run(target, minutes(arguments.minutes))?;
        step(&format!("fuzz {target}"), minutes(arguments.minutes + 5), Ok(vec![command]));
    }
    step("test build", minutes(60), Ok(vec![tests::build()]));
    for (name, group, variable) in [
        ("lab at full length", Group::Lab, ("GUIDEWAY_LAB_FULL", "1")),
        ("unit tests, 5,000 cases each", Group::Pure, ("PROPTEST_CASES", "5000")),
    ] {
        if wants(name) {
            let commands = tests::commands(group).map(|mut commands| {
                for command in &mut commands {
                    command.env(variable.0, variable.1);
                }
                commands
            });
            step(name, minutes(180), commands);
        }
    }
    let mut both_ways = project::cargo();
    both_ways.args(["test", "--locked", "--release", "--package", "worker", "--test", "two_ways"]);
    both_ways.env("TWO_WAYS_CASES", TWO_WAYS_CASES);
    step("stages both ways, ten million frames", minutes(120), Ok(vec![both_ways]));
    for (name, words) in [
        ("cluster simulator, 10,000 seeds", &["--seeds", "0..10000"][..]),
        ("cluster simulator, broken rules", &["--mutations", "--seeds", "0..2000"]),
        ("cluster simulator, 468 backends", &["--experiment"]),
    ] {
        let mut command = simulate::command();
        command.args(words);
        step(name, minutes(180), Ok(vec![command]));
    }
    step("loom mutants", minutes(120), Ok(vec![Command::new(project::root().join(crate::ci::LOOM_MUTANTS))]));
    let mark = runner.mark.clone();
    runner.check("nothing left behind", || hygiene::nothing_left(&mark));
    Ok(runner.summary())
}

/// The commands of the licence check; cargo-deny is built, at its pinned release, where it is not there yet.
fn licences() -> Vec<Command> {
    let tools = project::target_directory().join("tools");
    let mut install = project::cargo();
    install.args(["install", "--locked", "--version", DENY_VERSION, "cargo-deny", "--root"]).arg(&tools);
    let mut deny = Command::new(tools.join("bin/cargo-deny"));
    deny.args(["--workspace", "check", "bans", "licenses", "sources"]).current_dir(project::root());
    vec![install, deny]
}
