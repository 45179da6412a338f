//! All checks, cheapest first. If this passes, the change is good.

use crate::hygiene::{self, Snapshot};
use crate::step::Runner;
use crate::{fuzz, project};
use clap::Args;
use std::process::Command;
use std::time::Duration;

/// Crates whose tests run anywhere, several at a time.
const PURE: &[&str] =
    &["wire", "steer", "flow", "statesync", "worker", "model", "control", "guideway", "testkit", "xtask"];
/// Crates whose tests start an EAL: each needs a process of its own.
const EAL: &[&str] = &["dpdk-sys", "dpdk", "guidewayd"];
/// Crates with loom tests.
const LOOM: &[&str] = &["flow", "worker", "statesync"];
/// The root package, which owns tests/.
const LAB: &str = "guideway-lab";

/// What to leave out.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Print every line of every step, not only the log's tail of a failed one
    #[arg(long)]
    verbose: bool,
    /// Run only the steps whose name contains this (may be given several times)
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Seconds for each fuzz target
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    fuzz_s: u64,
    /// Use cargo test even where cargo-nextest is installed
    #[arg(long)]
    without_nextest: bool,
}

/// Runs everything; true if all is well.
///
/// # Errors
/// The log directory cannot be made.
pub(crate) fn run(arguments: &Arguments) -> std::io::Result<bool> {
    hygiene::describe();
    let before = Snapshot::take();
    let mut runner = Runner::new(project::target_directory().join("ci"), arguments.verbose)?;
    let tests = Tests { nextest: !arguments.without_nextest && project::has_cargo_command("nextest") };
    let wanted =
        |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|o| name.contains(o.as_str()));
    let minutes = |n: u64| Duration::from_secs(n * 60);

    if wanted("format") {
        if project::has_cargo_command("fmt") {
            let mut command = project::cargo();
            command.args(["fmt", "--all", "--check"]);
            runner.step("format", minutes(1), vec![command]);
        } else {
            runner.skip("format", "rustfmt is not installed");
        }
    }
    if wanted("clippy") {
        if project::has_cargo_command("clippy") {
            let mut command = project::cargo();
            command.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
            runner.step("clippy", minutes(12), vec![command]);
        } else {
            runner.skip("clippy", "clippy is not installed");
        }
    }
    if wanted("release build") {
        let mut command = project::cargo();
        command.args(["build", "--release", "--package", "guidewayd", "--package", "guideway"]);
        command.args(["--package", LAB, "--bins"]);
        runner.step("release build", minutes(15), vec![command]);
    }
    if wanted("unit tests") {
        runner.step("unit tests", minutes(12), tests.packages(PURE, false));
    }
    if wanted("doc tests") {
        // Programs have no doc tests, and cargo refuses --doc for a package without a library.
        let libraries: Vec<&str> = PURE.iter().copied().filter(|p| *p != "xtask").collect();
        let mut command = project::cargo();
        command.args(["test", "--doc"]).args(packages(&libraries));
        runner.step("doc tests", minutes(5), vec![command]);
    }
    if wanted("EAL tests") {
        runner.step("EAL tests", minutes(8), tests.packages(EAL, true));
    }
    if wanted("scenarios") {
        let mut command = project::cargo();
        command.args(["test", "--package", LAB, "--test", "scenarios"]);
        command.env("GUIDEWAY", project::release("guideway"));
        runner.step("scenarios", minutes(5), vec![command]);
    }
    if wanted("loom") {
        let mut command = project::cargo();
        command.args(["test", "--release"]).args(packages(LOOM)).args(["--lib", "loom"]);
        command.env("RUSTFLAGS", "--cfg loom").env("LOOM_MAX_PREEMPTIONS", "3");
        command.arg("--target-dir").arg(project::target_directory().join("loom"));
        runner.step("loom", minutes(8), vec![command]);
    }
    if wanted("fuzz") {
        runner.step("fuzz build", minutes(10), vec![fuzz::build()]);
        for target in fuzz::TARGETS {
            let command = fuzz::run(target, Duration::from_secs(arguments.fuzz_s))?;
            let limit = Duration::from_secs(arguments.fuzz_s + 120);
            runner.step(&format!("fuzz {target}"), limit, vec![command]);
        }
    }
    if wanted("alerts") {
        if Command::new("promtool").arg("--version").output().is_ok() {
            let mut command = Command::new("promtool");
            command.args(["check", "rules", "configs/monitoring/alerts.yml"]).current_dir(project::root());
            runner.step("alerts", minutes(1), vec![command]);
        } else {
            runner.skip("alerts", "promtool is not installed");
        }
    }
    if wanted("lab") {
        runner.step("lab", minutes(15), tests.lab()?);
    }
    if wanted("documentation") {
        let mut command = project::cargo();
        command.args(["doc", "--workspace", "--no-deps", "--document-private-items"]);
        command.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links");
        runner.step("documentation", minutes(6), vec![command]);
    }
    if wanted("licences") {
        if project::has_cargo_command("deny") {
            let mut command = project::cargo();
            command.args(["deny", "--workspace", "check", "bans", "licenses", "sources"]);
            runner.step("licences", minutes(2), vec![command]);
        } else {
            runner.skip("licences", "cargo-deny is not installed");
        }
    }
    let mark = runner.mark.clone();
    runner.check("nothing left behind", || before.compare(&mark));
    Ok(runner.summary())
}

/// Ten minutes of each fuzz target, and the property tests with many more cases.
///
/// # Errors
/// The log directory cannot be made.
pub(crate) fn soak(minutes: u64) -> std::io::Result<bool> {
    hygiene::describe();
    let before = Snapshot::take();
    let mut runner = Runner::new(project::target_directory().join("soak"), false)?;
    let time = Duration::from_secs(minutes * 60);
    runner.step("fuzz build", Duration::from_secs(1200), vec![fuzz::build()]);
    for target in fuzz::TARGETS {
        let command = fuzz::run(target, time)?;
        runner.step(
            &format!("fuzz {target}, {minutes} minutes"),
            time + Duration::from_secs(300),
            vec![command],
        );
    }
    let mut command = project::cargo();
    command.arg("test").args(packages(PURE)).args(["--release", "--lib"]).env("PROPTEST_CASES", "20000");
    runner.step("property tests, 20,000 cases", Duration::from_secs(3600), vec![command]);
    let mark = runner.mark.clone();
    runner.check("nothing left behind", || before.compare(&mark));
    Ok(runner.summary())
}

fn packages<'a>(names: &[&'a str]) -> Vec<&'a str> {
    names.iter().flat_map(|name| ["--package", *name]).collect()
}

/// How tests are started.
#[derive(Clone, Copy, Debug)]
struct Tests {
    nextest: bool,
}

impl Tests {
    /// The tests of some crates; `alone`: each in a process of its own, one at a time.
    fn packages(self, names: &[&'static str], alone: bool) -> Vec<Command> {
        let mut command = project::cargo();
        if self.nextest {
            command.args(["nextest", "run", "--no-fail-fast", "--no-tests=pass"]).args(packages(names));
            if alone {
                command.arg("--test-threads=1");
            }
            return vec![command];
        }
        if !alone {
            command.args(["test", "--no-fail-fast", "--lib", "--bins", "--tests"]).args(packages(names));
            return vec![command];
        }
        each_alone(names)
    }

    /// The tests in tests/ that need namespaces: one at a time, against the release build.
    fn lab(self) -> std::io::Result<Vec<Command>> {
        let mut commands = Vec::new();
        if self.nextest {
            let mut command = project::cargo();
            command.args([
                "nextest",
                "run",
                "--package",
                LAB,
                "--no-fail-fast",
                "--test-threads=1",
                "--no-tests=pass",
            ]);
            command.args(["-E", "not binary(scenarios)"]);
            commands.push(command);
        } else {
            let mut names: Vec<String> = std::fs::read_dir(project::root().join("tests"))?
                .filter_map(Result::ok)
                .filter_map(|e| e.file_name().into_string().ok())
                .filter_map(|n| n.strip_suffix(".rs").map(str::to_owned))
                .filter(|n| n != "scenarios")
                .collect();
            names.sort();
            let mut command = project::cargo();
            command.args(["test", "--no-fail-fast", "--package", LAB, "--lib"]);
            for name in &names {
                command.args(["--test", name]);
            }
            command.args(["--", "--test-threads=1"]);
            commands.push(command);
        }
        for command in &mut commands {
            command.env("GUIDEWAY_BIN_DIR", project::target_directory().join("release"));
        }
        Ok(commands)
    }
}

/// Without nextest: the names of the tests are asked for, and each gets its own `cargo test -- --exact`.
fn each_alone(names: &[&'static str]) -> Vec<Command> {
    let mut commands = Vec::new();
    for name in names {
        let mut list = project::cargo();
        list.args(["test", "--quiet", "--package", name, "--tests", "--", "--list", "--format", "terse"]);
        let output =
            list.output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        let mut tests: Vec<&str> = output.lines().filter_map(|l| l.strip_suffix(": test")).collect();
        tests.sort_unstable();
        tests.dedup();
        if tests.is_empty() {
            // Lets a compile error, or the absence of tests, be seen in the log.
            let mut build = project::cargo();
            build.args(["test", "--package", name, "--tests"]);
            commands.push(build);
        }
        for test in tests {
            let mut one = project::cargo();
            one.args(["test", "--package", name, "--tests", "--", "--exact", test]);
            commands.push(one);
        }
    }
    commands
}
