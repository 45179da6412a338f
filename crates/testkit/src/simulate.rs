//! Runs the cluster simulator over a range of seeds.

use clap::Parser;
use statesync::Rule;
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;
use testkit::simulation::{Exempt, Faults, Scenario, Summary, run};

#[derive(Parser, Debug)]
#[command(name = "simulate", about = "Machines and workers of the real engine in one thread, by seeds")]
struct Arguments {
    /// Seeds A..B; B is excluded
    #[arg(long, conflicts_with = "seed")]
    seeds: Option<String>,
    /// One seed
    #[arg(long)]
    seed: Option<u64>,
    /// Print each step
    #[arg(long, requires = "seed")]
    trace: bool,
    /// No machine dies, no partition: then nothing is exempt
    #[arg(long)]
    network_only: bool,
    /// Two machines of one worker, and nothing is lost
    #[arg(long)]
    plain: bool,
    /// Break a rule (E1 to E18, M1 ...), by name or by the beginning of it, and expect to be caught
    #[arg(long = "break")]
    broken: Option<String>,
    /// Break each rule in turn, and tell after how many seeds it is noticed
    #[arg(long)]
    mutations: bool,
    /// Go on after a failure
    #[arg(long)]
    keep_going: bool,
}

fn range(text: &str) -> Option<std::ops::Range<u64>> {
    let (from, to) = text.split_once("..")?;
    Some(from.parse().ok()?..to.parse().ok()?)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seeds = match (&arguments.seeds, arguments.seed) {
        (Some(text), _) => match range(text) {
            Some(range) => range,
            None => {
                eprintln!("simulate: --seeds wants A..B, such as 0..200; B is excluded");
                return ExitCode::FAILURE;
            }
        },
        (None, Some(seed)) => seed..seed + 1,
        (None, None) => 0..200,
    };
    if arguments.mutations {
        return mutations(seeds, arguments.broken.as_deref());
    }
    let broken = match &arguments.broken {
        None => None,
        Some(name) => match Rule::ALL.iter().find(|rule| rule.name().split(' ').next() == Some(name)) {
            Some(&rule) => Some(rule),
            None => {
                eprintln!("simulate: no rule {name}");
                return ExitCode::FAILURE;
            }
        },
    };
    let begun = Instant::now();
    let mut total = Summary::default();
    let mut failures = 0;
    let count = seeds.end.saturating_sub(seeds.start);
    for seed in seeds {
        let faults = if arguments.network_only { Faults::Network } else { Faults::All };
        let mut scenario = if arguments.plain { Scenario::plain(seed) } else { Scenario::new(seed, faults) };
        scenario.broken = broken;
        let mut out = std::io::stdout().lock();
        let mut print = |line: String| {
            let _ = writeln!(out, "{line}");
        };
        let outcome = run(&scenario, if arguments.trace { Some(&mut print) } else { None });
        match outcome {
            Ok(summary) => {
                if arguments.network_only || arguments.plain {
                    let exempt: u64 = summary.exempt.values().sum();
                    if exempt > 0 {
                        failures += 1;
                        println!(
                            "seed {seed}: {exempt} flows moved, and nothing is exempt without machine faults"
                        );
                    }
                }
                total.add(&summary);
            }
            Err(failure) => {
                failures += 1;
                println!("FAILED {failure}");
                println!("  replay: cargo xtask sim --seed {} --trace", failure.seed);
                if !arguments.keep_going {
                    break;
                }
            }
        }
    }
    println!(
        "{count} seeds in {:.1} s: {} flows, {} packets, {} changes, {} crashes, {} turns",
        begun.elapsed().as_secs_f64(),
        total.flows,
        total.delivered,
        total.changes,
        total.crashes,
        total.turns
    );
    println!(
        "relays {} (between cores {}), answers cached {}, told {:?} (decided, exported, refreshed, migrated), pushes {}, guesses {}, note bytes {}",
        total.relays,
        total.core_relays,
        total.answers_cached,
        total.statements,
        total.pushes,
        total.guesses,
        total.note_bytes
    );
    let windows =
        [Exempt::W1, Exempt::W2, Exempt::W3, Exempt::W4, Exempt::W5, Exempt::ForcedMask, Exempt::Partition];
    let exempt: Vec<String> = windows
        .iter()
        .map(|window| format!("{window:?} {}", total.exempt.get(window).copied().unwrap_or(0)))
        .collect();
    println!("exempt: {}; released (idle or backend removed): {}", exempt.join(", "), total.released);
    if total.rare() > 2 + total.flows / 100_000 {
        println!(
            "FAILED: W1 + W3 + W4 are {} of {} flows, more than 1 in 100,000",
            total.rare(),
            total.flows
        );
        failures += 1;
    }
    println!("{failures} failures");
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Breaks each rule (or those whose names `only` names, by commas) and looks for the first seed that shows it. A rule is caught by
/// a failure, or by a flow that is exempt without machine faults. Before, the same seeds must pass with all rules in force.
fn mutations(seeds: std::ops::Range<u64>, only: Option<&str>) -> ExitCode {
    let chosen = |rule: &Rule| {
        let first = rule.name().split(' ').next().unwrap_or_default();
        only.is_none_or(|names| names.split(',').any(|name| name == first))
    };
    let mut failures = 0;
    let rules = std::iter::once(None).chain(Rule::ALL.iter().copied().filter(chosen).map(Some));
    for rule in rules {
        let begun = Instant::now();
        let noticed =
            (1_u64..).zip(seeds.clone()).find_map(|(count, seed)| Some((count, notice(rule, seed)?)));
        let seconds = begun.elapsed().as_secs_f64();
        let name = rule.map_or("none broken", Rule::name);
        match &noticed {
            Some((count, why)) => {
                println!("{name:<18} noticed after {count} seeds, {seconds:.1} s: {why:.140}");
            }
            None => println!("{name:<18} not noticed in {seconds:.1} s"),
        }
        failures += u32::from(noticed.is_some() == rule.is_none());
    }
    println!("{failures} not as they should be");
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the checker has against a seed.
fn notice(broken: Option<Rule>, seed: u64) -> Option<String> {
    let faults = if seed.is_multiple_of(2) { Faults::All } else { Faults::Network };
    let scenario = Scenario { broken, ..Scenario::new(seed, faults) };
    match std::panic::catch_unwind(|| run(&scenario, None)) {
        Ok(Ok(summary)) => {
            let exempt: u64 = summary.exempt.values().sum();
            (faults == Faults::Network && exempt > 0)
                .then(|| format!("seed {seed}: {:?} without machine faults", summary.exempt))
        }
        Ok(Err(failure)) => Some(failure.to_string()),
        Err(_) => Some(format!("seed {seed}: an assertion of the engine")),
    }
}
