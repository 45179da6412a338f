//! The program that is counted.

use crate::project;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The cases that are turns of the engine.
pub(super) const TURNS: &[&str] = &[
    "hot-v4",
    "hot-v6",
    "exceptions",
    "miss",
    "flood",
    "ack-flood-1",
    "ack-flood-2",
    "ack-flood-16",
    "no-service",
    "punt-refused",
    "fragments",
    "too-big",
    "least-load",
    "cluster",
];
/// Units of work of a run, and twice as many of the run it is compared with.
pub(super) const UNITS: usize = 200;
/// Frames of a turn.
const BURST: usize = 32;
/// Those of a turn in the flood.
const FLOOD: usize = 8 * BURST;
/// The function that is the turn.
pub(super) const ROOT: &str = "instructions::whole_turn";
/// All cases, with their units and what one count stands for in one unit.
const CASES: &[(&str, usize, usize)] = &[
    ("edge", UNITS, BURST),
    ("hot-v4", UNITS, BURST),
    ("hot-v6", UNITS, BURST),
    ("exceptions", UNITS, BURST),
    ("miss", UNITS, BURST),
    ("flood", UNITS, FLOOD),
    ("ack-flood-1", UNITS, BURST),
    ("ack-flood-2", UNITS, BURST),
    ("ack-flood-16", UNITS, BURST),
    ("no-service", UNITS, BURST),
    ("punt-refused", UNITS, BURST),
    ("maglev", 2, 1),
];

/// The program, built.
#[derive(Debug)]
pub(super) struct Program {
    path: PathBuf,
}

impl Program {
    pub(super) fn build() -> Result<Program, String> {
        let mut command = project::cargo();
        command.args(["build", "--release", "--package", "worker", "--bench", "instructions"]);
        command.args(["--message-format", "json-render-diagnostics"]).stderr(std::process::Stdio::inherit());
        let output = command.output().map_err(|e| format!("cargo: {e}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let path = text.lines().filter_map(executable).next_back();
        match path {
            Some(path) if output.status.success() => Ok(Program { path }),
            _ => Err("the instructions program cannot be built".into()),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Instructions for each frame (or table) of every case.
    pub(super) fn instructions(&self) -> Result<BTreeMap<String, f64>, String> {
        let count = |&(case, units, parts): &(&str, usize, usize)| {
            let (once, twice) = (self.callgrind(case, units)?, self.callgrind(case, 2 * units)?);
            let each = twice.saturating_sub(once) as f64 / (units * parts) as f64;
            Ok((case.to_owned(), (each * 10.0).round() / 10.0))
        };
        CASES.iter().map(count).collect()
    }

    fn callgrind(&self, case: &str, units: usize) -> Result<u64, String> {
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        command.arg(&self.path).args([case, &units.to_string()]);
        let text = run(command, "valgrind")?;
        let collected = text.lines().find_map(|line| line.split("Collected :").nth(1)?.trim().parse().ok());
        collected.ok_or_else(|| format!("valgrind gave no count:\n{text}"))
    }

    /// Heap allocations during the turns of a case.
    pub(super) fn allocations(&self, case: &str) -> Result<u64, String> {
        let mut command = Command::new(&self.path);
        command.args([case, &UNITS.to_string()]);
        let text = run(command, "the instructions program")?;
        let count = text.split("allocations=").nth(1).and_then(|t| t.split_whitespace().next()?.parse().ok());
        count.ok_or_else(|| format!("no number of allocations:\n{text}"))
    }
}

/// Runs a command and gives both its outputs.
///
/// # Errors
/// It is not there (dpdk-setup/packages.sh installs it) or fails.
pub(super) fn run(mut command: Command, name: &str) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|e| format!("{name}: {e}; dpdk-setup/packages.sh --development installs what is needed"))?;
    let both = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&both).into_owned();
    if output.status.success() { Ok(text) } else { Err(format!("{name}: {}\n{text}", output.status)) }
}

fn executable(line: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_it = message["reason"] == "compiler-artifact" && message["target"]["name"] == "instructions";
    is_it.then(|| message["executable"].as_str())?.map(PathBuf::from)
}
