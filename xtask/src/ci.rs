//! All checks, cheapest first. If this passes, the change is good.

use crate::hygiene::{self, Snapshot};
use crate::step::Runner;
use crate::tests::{Group, Tests};
use crate::{fuzz, project};
use clap::Args;
use std::process::Command;
use std::time::Duration;

/// Crates with loom tests.
const LOOM: &[&str] = &["flow", "worker", "statesync"];

/// What to leave out.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Print every line of every step, not only the log's tail of a failed one
    #[arg(long)]
    verbose: bool,
    /// Run only the steps whose name contains this (may be given several times)
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Seconds for each fuzz target; 0 leaves fuzzing out
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    fuzz_s: u64,
    /// Start the tests without cargo-nextest even where it is installed
    #[arg(long)]
    without_nextest: bool,
}

impl Arguments {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|o| name.contains(o.as_str()))
    }
}

const fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}

/// Runs everything; true if all is well.
///
/// # Errors
/// The log directory cannot be made.
pub(crate) fn run(arguments: &Arguments) -> std::io::Result<bool> {
    hygiene::describe();
    let before = Snapshot::take();
    let mut runner = Runner::new(project::target_directory().join("ci"), arguments.verbose)?;
    lints(&mut runner, arguments);
    tests(&mut runner, arguments);
    proofs(&mut runner, arguments)?;
    if arguments.wants("lab") {
        runner.step("lab", minutes(15), tests_of(arguments).commands(Group::Lab));
    }
    documents(&mut runner, arguments);
    let mark = runner.mark.clone();
    runner.check("nothing left behind", || before.compare(&mark));
    Ok(runner.summary())
}

fn tests_of(arguments: &Arguments) -> Tests {
    Tests { nextest: !arguments.without_nextest && project::has_cargo_command("nextest") }
}

fn lints(runner: &mut Runner, arguments: &Arguments) {
    if arguments.wants("format") {
        let mut command = project::cargo();
        command.args(["fmt", "--all", "--check"]);
        optional(runner, "format", "fmt", minutes(1), command);
    }
    if arguments.wants("clippy") {
        let mut command = project::cargo();
        command.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
        optional(runner, "clippy", "clippy", minutes(20), command);
    }
}

/// A step of a cargo command that not every machine has.
fn optional(runner: &mut Runner, name: &str, subcommand: &str, limit: Duration, command: Command) {
    if project::has_cargo_command(subcommand) {
        runner.step(name, limit, vec![command]);
    } else {
        runner.skip(name, &format!("cargo {subcommand} is not installed"));
    }
}

fn tests(runner: &mut Runner, arguments: &Arguments) {
    let tests = tests_of(arguments);
    if arguments.wants("test build") {
        runner.step("test build", minutes(25), vec![tests.build(), Tests::programs()]);
    }
    for (name, group, limit) in [
        ("unit tests", Group::Pure, minutes(8)),
        ("EAL tests", Group::Eal, minutes(6)),
        ("scenarios", Group::Scenarios, minutes(3)),
    ] {
        if arguments.wants(name) {
            runner.step(name, limit, tests.commands(group));
        }
    }
    if arguments.wants("doc tests") {
        let mut command = project::cargo();
        command.args(["test", "--workspace", "--doc"]);
        runner.step("doc tests", minutes(5), vec![command]);
    }
}

/// What looks at more than the tests thought of.
fn proofs(runner: &mut Runner, arguments: &Arguments) -> std::io::Result<()> {
    if arguments.wants("loom") {
        let mut command = project::cargo();
        command.args(["test", "--release"]);
        for package in LOOM {
            command.args(["--package", package]);
        }
        command.args(["--lib", "loom"]).env("RUSTFLAGS", "--cfg loom").env("LOOM_MAX_PREEMPTIONS", "3");
        command.env("CARGO_TARGET_DIR", project::target_directory().join("loom"));
        runner.step("loom", minutes(8), vec![command]);
    }
    if arguments.wants("gates") {
        // By cargo, not by our own path: building the tests may have replaced the file.
        let mut command = project::cargo();
        command.args(["xtask", "gate"]);
        runner.step("gates", minutes(10), vec![command]);
    }
    if arguments.fuzz_s == 0 {
        runner.skip("fuzz", "--fuzz-s 0");
    } else if arguments.wants("fuzz") {
        runner.step("fuzz build", minutes(20), vec![fuzz::build()]);
        for target in fuzz::TARGETS {
            let command = fuzz::run(target, Duration::from_secs(arguments.fuzz_s))?;
            let limit = Duration::from_secs(arguments.fuzz_s + 120);
            runner.step(&format!("fuzz {target}"), limit, vec![command]);
        }
    }
    Ok(())
}

fn documents(runner: &mut Runner, arguments: &Arguments) {
    if arguments.wants("alerts") {
        if Command::new("promtool").arg("--version").output().is_ok() {
            let mut command = Command::new("promtool");
            command.args(["check", "rules", "configs/monitoring/alerts.yml"]).current_dir(project::root());
            runner.step("alerts", minutes(1), vec![command]);
        } else {
            runner.skip("alerts", "promtool is not installed");
        }
    }
    if arguments.wants("scripts") {
        if Command::new("shellcheck").arg("--version").output().is_ok() {
            let mut command = Command::new("shellcheck");
            command.args(["run", ".ci/run", "dpdk-setup/packages.sh", "dpdk-setup/hugepages.sh"]);
            command.args(["dpdk-setup/bind.sh", "dpdk-setup/install.sh"]).current_dir(project::root());
            runner.step("scripts", minutes(1), vec![command]);
        } else {
            runner.skip("scripts", "shellcheck is not installed");
        }
    }
    if arguments.wants("documentation") {
        let mut command = project::cargo();
        command.args(["doc", "--workspace", "--no-deps", "--document-private-items"]);
        command.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links");
        runner.step("documentation", minutes(6), vec![command]);
    }
    if arguments.wants("licences") {
        let mut command = project::cargo();
        command.args(["deny", "--workspace", "check", "bans", "licenses", "sources"]);
        optional(runner, "licences", "deny", minutes(2), command);
    }
}

/// Minutes of each fuzz target, the property tests with many more cases, and the lab at full length.
///
/// # Errors
/// The log directory cannot be made.
pub(crate) fn soak(minutes_each: u64) -> std::io::Result<bool> {
    hygiene::describe();
    let before = Snapshot::take();
    let mut runner = Runner::new(project::target_directory().join("soak"), false)?;
    runner.step("fuzz build", minutes(20), vec![fuzz::build()]);
    for target in fuzz::TARGETS {
        let command = fuzz::run(target, minutes(minutes_each))?;
        runner.step(
            &format!("fuzz {target}, {minutes_each} minutes"),
            minutes(minutes_each + 5),
            vec![command],
        );
    }
    let tests = Tests { nextest: project::has_cargo_command("nextest") };
    let mut commands = tests.commands(Group::Pure);
    for command in &mut commands {
        command.env("PROPTEST_CASES", "5000");
    }
    runner.step("test build", minutes(20), vec![tests.build(), Tests::programs()]);
    let mut lab = tests.commands(Group::Lab);
    for command in &mut lab {
        command.env("GUIDEWAY_LAB_FULL", "1");
    }
    runner.step("lab at full length", minutes(30), lab);
    let mut simulation = crate::simulate::command();
    simulation.args(["--seeds", "0..10000"]);
    runner.step("cluster simulator, 10,000 seeds", minutes(120), vec![simulation]);
    let mut mutations = crate::simulate::command();
    mutations.args(["--mutations", "--seeds", "0..2000"]);
    runner.step("cluster simulator, broken rules", minutes(120), vec![mutations]);
    let mut experiment = crate::simulate::command();
    experiment.arg("--experiment");
    runner.step("cluster simulator, 468 backends", minutes(120), vec![experiment]);
    runner.step("unit tests, 5,000 cases each", minutes(120), commands);
    let mark = runner.mark.clone();
    runner.check("nothing left behind", || before.compare(&mark));
    Ok(runner.summary())
}
