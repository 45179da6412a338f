//! Gates against getting slower, which need no quiet machine: instructions of a turn against a committed baseline, and
//! what a turn never does: allocate, call the kernel, lock, panic, read a clock.
//!
//! The program is crates/worker/benches/instructions, built as the release is. Each of its cases is run with N and
//! with 2N units of work; the difference is the cost of N, without start and preparations.

mod baseline;
mod binary;
mod kernel;
mod program;

use crate::project;
use baseline::{Baseline, Judgement};
use clap::Args;
use program::Program;
use std::collections::BTreeMap;

/// What to do besides measuring.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Write the measured instruction counts into benches/instructions.json: they are the baseline from then on
    #[arg(long)]
    accept: bool,
}

/// Runs all gates; true if all hold.
///
/// # Errors
/// The program cannot be built or run, or a tool is missing.
pub(crate) fn run(arguments: &Arguments) -> Result<bool, String> {
    let program = Program::build()?;
    let counted = program.instructions()?;
    let mut good = instructions(&counted, arguments.accept)?;
    good &= ratios(&counted);
    good &= allocations(&program)?;
    good &= calls(&program)?;
    good &= code(&program)?;
    Ok(good)
}

fn instructions(counted: &BTreeMap<String, f64>, accept: bool) -> Result<bool, String> {
    let compiler = project::compiler()?;
    if accept {
        let before = Baseline::read().ok();
        Baseline::accepted(before, counted, &compiler).write()?;
        println!("written: {}", baseline::PATH);
    }
    let baseline = Baseline::read()?;
    let tolerance = baseline.tolerance_percent(&compiler);
    println!("instructions, against {} ({tolerance} % are tolerated):", baseline::PATH);
    let mut good = true;
    for line in baseline.judge(counted, tolerance) {
        println!("    {line}");
        good &= matches!(line.judgement, Judgement::Same | Judgement::Fewer);
    }
    if !good {
        println!(
            "    If the change is wanted: cargo xtask gate --accept, and say in the commit what it buys."
        );
    }
    Ok(good)
}

/// What a case may cost at the most, as a multiple of another.
const RATIOS: &[(&str, &str, f64)] = &[
    // What nobody knows does not cost the more, the more workers could be asked.
    ("ack-flood-2", "ack-flood-1", 1.3),
    ("ack-flood-16", "ack-flood-2", 1.1),
    // A flood for the kernel beyond its budget is not dearer than one for a closed port.
    ("punt-refused", "no-service", 1.5),
];

fn ratios(counted: &BTreeMap<String, f64>) -> bool {
    let mut good = true;
    for &(case, than, limit) in RATIOS {
        let (Some(cost), Some(base)) = (counted.get(case), counted.get(than)) else { continue };
        let ratio = cost / base;
        println!("{case}: {ratio:.2} times {than}, at most {limit:.2}");
        good &= ratio <= limit;
    }
    good
}

fn allocations(program: &Program) -> Result<bool, String> {
    let mut good = true;
    for case in program::TURNS {
        let allocations = program.allocations(case)?;
        good &= allocations == 0;
        println!("allocations in {} turns, {case}: {allocations}", program::UNITS);
    }
    Ok(good)
}

fn calls(program: &Program) -> Result<bool, String> {
    let mut good = true;
    for case in program::TURNS {
        let (once, twice) = kernel::system_calls(program, case, program::UNITS)?;
        println!("system calls of {} more turns, {case}: {}", program::UNITS, twice.abs_diff(once));
        good &= once == twice;
    }
    Ok(good)
}

fn code(program: &Program) -> Result<bool, String> {
    let exempt = Baseline::read().map(|baseline| baseline.exempt).unwrap_or_default();
    let found = binary::examine(program.path(), program::ROOT)?;
    println!(
        "reached from {}: {} functions, {} instructions",
        program::ROOT,
        found.functions,
        found.instructions
    );
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for offence in &found.offences {
        let reason = exempt.iter().find(|(name, _)| offence.names.iter().any(|n| n.contains(*name)));
        if reason.is_none() {
            *counts.entry(offence.kind.name()).or_default() += 1;
        }
        let exempt = reason.map_or_else(String::new, |(_, why)| format!(" [exempt: {why}]"));
        *places.entry(format!("{offence}{exempt}")).or_default() += 1;
    }
    for (place, times) in places {
        println!("    {times} x {place}");
    }
    for kind in [binary::Kind::Lock, binary::Kind::Panic, binary::Kind::Clock] {
        println!("{}: {}", kind.name(), counts.get(kind.name()).copied().unwrap_or(0));
    }
    Ok(counts.is_empty())
}
