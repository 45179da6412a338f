//! All checks, cheapest first. If this passes, the change is good.

use crate::hygiene;
use crate::step::Runner;
use crate::tests::{self, Group};
use crate::{fuzz, project, released, without_dpdk, words};
use clap::Args;
use std::process::Command;
use std::time::Duration;

/// All shell scripts.
const SCRIPTS: &[&str] = &[
    "run",
    ".ci/run",
    "dpdk-setup/packages.sh",
    "dpdk-setup/hugepages.sh",
    "dpdk-setup/bind.sh",
    "dpdk-setup/install.sh",
    "tests/bare_machine.sh",
    "tests/scripts.sh",
    LOOM_MUTANTS,
];
/// Takes orderings away; with a number every tenth.
pub(crate) const LOOM_MUTANTS: &str = "crates/flow/loom-mutants.sh";
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
    /// Seconds of fuzzing, shared out among the targets; 0 leaves it out
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 150,
        value_parser = clap::value_parser!(u64).range(0..=86_400),
    )]
    fuzz_s: u64,
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
    let mut runner = Runner::new(project::target_directory().join("ci"), arguments.verbose)?;
    lints(&mut runner, arguments);
    tests(&mut runner, arguments);
    proofs(&mut runner, arguments)?;
    group(&mut runner, arguments, "lab", Group::Lab, minutes(40));
    documents(&mut runner, arguments);
    let mark = runner.mark.clone();
    runner.check("nothing left behind", || hygiene::nothing_left(&mark));
    Ok(runner.summary())
}

/// A step that runs a group of tests.
fn group(runner: &mut Runner, arguments: &Arguments, name: &str, group: Group, limit: Duration) {
    if !arguments.wants(name) {
        return;
    }
    match tests::commands(group) {
        Ok(mut commands) => {
            // Which tenth of the broken rules is tried.
            let number = project::commit_number().to_string();
            for command in &mut commands {
                command.env("GUIDEWAY_COMMIT_NUMBER", &number);
            }
            runner.step(name, limit, commands);
        }
        Err(why) => runner.cannot(name, &why),
    }
}

fn lints(runner: &mut Runner, arguments: &Arguments) {
    if arguments.wants("words") {
        runner.check("words", words::check);
    }
    if arguments.wants("format") {
        let mut command = project::cargo();
        command.args(["fmt", "--all", "--check"]);
        subcommand(runner, "format", "fmt", "rustfmt-web", minutes(5), command);
    }
    if arguments.wants("clippy") {
        let mut command = project::cargo();
        command.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
        subcommand(runner, "clippy", "clippy", "rust-web-clippy", minutes(40), command);
    }
}

/// A step of a cargo command that comes in a package of its own.
fn subcommand(
    runner: &mut Runner,
    step: &str,
    subcommand: &str,
    package: &str,
    limit: Duration,
    command: Command,
) {
    if project::has_cargo_command(subcommand) {
        runner.step(step, limit, vec![command]);
    } else {
        let why = format!(
            "cargo {subcommand} is missing: Debian's {package}, which dpdk-setup/packages.sh --development \
             installs beside cargo-web; of a toolchain by rustup: rustup component add"
        );
        runner.cannot(step, &why);
    }
}

fn tests(runner: &mut Runner, arguments: &Arguments) {
    if arguments.wants("released features") {
        runner.check("released features", released::check);
    }
    if arguments.wants("test build") {
        runner.step("test build", minutes(60), vec![tests::build()]);
    }
    if arguments.wants("build without DPDK") {
        runner.check("build without DPDK", without_dpdk::check);
    }
    group(runner, arguments, "unit tests", Group::Pure, minutes(20));
    group(runner, arguments, "EAL tests", Group::Eal, minutes(15));
    group(runner, arguments, "scenarios", Group::Scenarios, minutes(10));
    if arguments.wants("doc tests") {
        let mut command = project::cargo();
        command.args(["test", "--workspace", "--doc"]);
        runner.step("doc tests", minutes(20), vec![command]);
    }
}

/// What looks at more than the tests thought of.
fn proofs(runner: &mut Runner, arguments: &Arguments) -> std::io::Result<()> {
    if arguments.wants("loom") {
        let mut command = project::cargo();
        command.args(["test", "--profile", "loom"]);
        for package in LOOM {
            command.args(["--package", package]);
        }
        command.args(["--lib", "loom"]).env("RUSTFLAGS", "--cfg loom").env("LOOM_MAX_PREEMPTIONS", "3");
        command.env("CARGO_TARGET_DIR", project::target_directory().join("loom"));
        runner.step("loom", minutes(30), vec![command]);
    }
    if arguments.wants("loom mutants") {
        let mut command = Command::new(project::root().join(LOOM_MUTANTS));
        command.arg(project::commit_number().to_string()).env("LOOM_MAX_PREEMPTIONS", "3");
        runner.step("loom mutants", minutes(20), vec![command]);
    }
    if arguments.wants("gates") {
        // By cargo, not by our own path: building the tests may have replaced the file.
        let mut command = project::cargo();
        command.args(["xtask", "gate"]);
        runner.step("gates", minutes(30), vec![command]);
    }
    if arguments.fuzz_s > 0 && arguments.wants("fuzz") {
        runner.step("fuzz build", minutes(40), vec![fuzz::build()]);
        let each = Duration::from_secs(arguments.fuzz_s.div_ceil(fuzz::TARGETS.len() as u64));
        for target in fuzz::TARGETS {
            let command = fuzz::run(target, each)?;
            let limit = each + Duration::from_secs(120);
            runner.step(&format!("fuzz {target}"), limit, vec![command]);
        }
    }
    Ok(())
}

fn documents(runner: &mut Runner, arguments: &Arguments) {
    if arguments.wants("alerts") {
        let mut command = Command::new("promtool");
        command.args(["check", "rules", "configs/monitoring/alerts.yml"]).current_dir(project::root());
        runner.step("alerts", minutes(2), vec![command]);
    }
    if arguments.wants("scripts") {
        let mut command = Command::new("shellcheck");
        command.args(SCRIPTS).current_dir(project::root());
        runner.step(
            "scripts",
            minutes(5),
            vec![command, Command::new(project::root().join("tests/scripts.sh"))],
        );
    }
    if arguments.wants("documentation") {
        let mut command = project::cargo();
        command.args(["doc", "--workspace", "--no-deps", "--document-private-items"]);
        command.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links");
        runner.step("documentation", minutes(20), vec![command]);
    }
}
