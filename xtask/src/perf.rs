//! The bench suite: every measurement, one after another, as JSON, a page and plots.

mod page;
mod plot;
mod suite;
mod targets;

use crate::project;
use clap::Args;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use suite::{Run, Suite};

/// What to measure and where to write it.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// At most 6 minutes instead of 25: fewer sizes and rounds
    #[arg(long)]
    quick: bool,
    /// Where the results go
    #[arg(long, value_name = "DIRECTORY", default_value = "docs/performance")]
    out: PathBuf,
    /// Run only measurements whose name contains this (may be given several times); others are taken from the last results
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Measure nothing: write page and plots anew from the last results
    #[arg(long)]
    page: bool,
}

/// Runs the suite. True when every measurement gave a result; missed targets are results.
pub(crate) fn run(arguments: &Arguments) -> Result<bool, String> {
    let out = project::root().join(&arguments.out);
    let cannot = |what: &std::path::Path, e: std::io::Error| format!("{}: {e}", what.display());
    fs::create_dir_all(&out).map_err(|e| cannot(&out, e))?;
    let file = out.join("results.json");
    let mut results = match fs::read_to_string(&file) {
        Ok(text) => serde_json::from_str(&text).map_err(|e| format!("{}: {e}", file.display()))?,
        Err(_) => json!({}),
    };
    let mut all_well = true;
    if !arguments.page {
        build()?;
        if arguments.only.is_empty() {
            results = json!({});
        }
        results["machine"] = machine();
        let suite = Suite::new(arguments.quick);
        let deadline = Instant::now() + Duration::from_secs(suite.budget_s);
        for run in suite.runs.iter().filter(|run| wants(arguments, run)) {
            let result = measure(run, deadline);
            all_well &= result.get("failure").is_none();
            results["runs"][&run.name] = result;
            // After each, so that an interrupted suite leaves what it has.
            let text = serde_json::to_string_pretty(&results).map_err(|e| e.to_string())?;
            fs::write(&file, text + "\n").map_err(|e| cannot(&file, e))?;
        }
    }
    for (name, svg) in plot::all(&results)? {
        let file = out.join(name);
        fs::write(&file, svg).map_err(|e| cannot(&file, e))?;
    }
    let file = out.join("README.md");
    fs::write(&file, page::write(&results)).map_err(|e| cannot(&file, e))?;
    println!("{}", file.display());
    for what in targets::stale_reasons(&targets::rows(&results)) {
        println!("xtask/src/perf/targets/reasons.rs says why this is missed, but it is met: {what}");
    }
    Ok(all_well)
}

fn wants(arguments: &Arguments, run: &Run) -> bool {
    arguments.only.is_empty() || arguments.only.iter().any(|text| run.name.contains(text.as_str()))
}

fn build() -> Result<(), String> {
    let status =
        project::cargo().args(["build", "--release", "-p", "guideway-bench", "-p", "guidewayd"]).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("cargo build: {status}")),
        Err(e) => Err(format!("cargo: {e}")),
    }
}

/// After the deadline a measurement that has begun may take so much longer.
const GRACE: Duration = Duration::from_secs(60);

/// One measurement in a process of its own, if there is time. Its JSON, or why there is none.
fn measure(run: &Run, deadline: Instant) -> Value {
    let begun = Instant::now();
    println!("{:<28} {}", run.name, run.arguments.join(" "));
    let left = deadline.saturating_duration_since(begun);
    let limit_s = run.limit_s.min((left + GRACE).as_secs());
    let failure = |why: String| {
        println!("{:<28} FAILED: {why}", "");
        json!({ "arguments": run.arguments, "failure": why })
    };
    if left.is_zero() {
        return failure("not begun: the suite's time was over".to_owned());
    }
    let output = Command::new("timeout")
        .args(["--signal=INT", "--kill-after=30", &limit_s.to_string()])
        .arg(project::release("guideway-bench"))
        .args(&run.arguments)
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(e) => return failure(e.to_string()),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    match serde_json::from_str::<Value>(last) {
        Ok(result) if output.status.success() => {
            let of = |name: &str| result.get(name).and_then(Value::as_u64);
            let rounds = match (of("rounds_kept"), of("rounds_total")) {
                (Some(kept), Some(total)) => format!("{kept} of {total} rounds kept, "),
                _ => String::new(),
            };
            println!("{:<28} {rounds}{} s", "", begun.elapsed().as_secs());
            json!({ "arguments": run.arguments, "result": result })
        }
        _ if output.status.code() == Some(124) => failure(format!("not finished after {limit_s} s")),
        _ => failure(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// What these numbers come from. No date and no name: the same machine gives the same words.
fn machine() -> Value {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let first = |file: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().next().unwrap_or_default().trim().to_owned()
    };
    let dpdk = Command::new("pkg-config").args(["--modversion", "libdpdk"]).output();
    let memory = first("/proc/meminfo");
    let kib: Option<u64> = memory.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    json!({
        "cpu": field("model name"),
        "family": field("cpu family"),
        "model": field("model\t"),
        "cpus": cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
        "cache": field("cache size"),
        "avx512": cpuinfo.contains(" avx512f"),
        "hypervisor": cpuinfo.contains(" hypervisor"),
        "memory_gib": kib.map(|kib| kib >> 20),
        "kernel": first("/proc/sys/kernel/osrelease"),
        "dpdk": dpdk.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default(),
    })
}
