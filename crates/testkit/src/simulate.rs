//! Runs the cluster simulator over a range of seeds.

use clap::Parser;
use statesync::Rule;
use std::io::Write;
use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;
use testkit::simulation::mutation::first_notice;
use testkit::simulation::{Allowance, Exempt, Faults, HEARTBEAT_BYTES, RunSummary, Scenario, run};

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
    /// No machine dies, no partition: then nothing is exempt but for want of room
    #[arg(long)]
    network_only: bool,
    /// Two machines of one worker, and nothing is lost
    #[arg(long, conflicts_with = "network_only")]
    plain: bool,
    /// All services have policy least-load
    #[arg(long, conflicts_with = "mutations")]
    least_load: bool,
    /// Break a rule (E1 to E20, M1 ...), by the beginning of its name, and expect to be caught; with --mutations several, by commas
    #[arg(long = "break")]
    broken: Option<String>,
    /// Break each rule in turn, and tell after how many seeds it is noticed, and by which property
    #[arg(long)]
    mutations: bool,
    /// 468 backends, many flows and updates: how many flows move, and how many bytes are told
    #[arg(long, conflicts_with_all = ["mutations", "seeds"])]
    experiment: bool,
    /// Of the experiment: flows at once
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000])]
    flows: Vec<usize>,
    /// Of the experiment: updates of the table a minute
    #[arg(long, value_delimiter = ',', default_values_t = [10, 40, 80])]
    updates: Vec<u64>,
    /// Of the experiment: virtual time, seconds
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Go on after a failure
    #[arg(long)]
    keep_going: bool,
}

fn range(text: &str) -> Option<Range<u64>> {
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
    let passed = if arguments.experiment {
        experiment(&arguments)
    } else if arguments.mutations {
        mutations(&arguments, seeds)
    } else {
        seeds_of(&arguments, seeds)
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The rules whose names begin so; `None` in the list: no such rule.
fn named(names: &str) -> impl Iterator<Item = Option<Rule>> {
    let first = |rule: &Rule| rule.name().split(' ').next();
    names.split(',').map(move |name| Rule::ALL.iter().copied().find(|rule| first(rule) == Some(name)))
}

/// Runs seeds; true if every property held.
fn seeds_of(arguments: &Arguments, seeds: Range<u64>) -> bool {
    let broken = match &arguments.broken {
        None => None,
        Some(name) => match named(name).next().flatten() {
            Some(rule) => Some(rule),
            None => {
                eprintln!("simulate: no rule {name}");
                return false;
            }
        },
    };
    let begun = Instant::now();
    let (mut total, mut failures, mut count) = (RunSummary::default(), 0, 0_u64);
    for seed in seeds {
        count += 1;
        let faults = if arguments.network_only { Faults::Network } else { Faults::All };
        let mut scenario = if arguments.plain { Scenario::plain(seed) } else { Scenario::new(seed, faults) };
        scenario.broken = broken;
        scenario.by_load = arguments.least_load;
        let mut out = std::io::stdout().lock();
        let mut print = |line: String| {
            let _ = writeln!(out, "{line}");
        };
        match run(&scenario, if arguments.trace { Some(&mut print) } else { None }) {
            Ok(summary) => {
                if summary.rare() > 0 && !arguments.trace {
                    println!("seed {seed}: {}", exempt(&summary));
                }
                total.add(&summary);
            }
            Err(failure) => {
                failures += 1;
                println!("FAILED {failure}");
                println!("  replay: {}", replay(arguments, seed));
                if !arguments.keep_going {
                    break;
                }
            }
        }
    }
    print(count, begun.elapsed().as_secs_f64(), &total);
    let allowance = Allowance::of(total.flows);
    println!("W1 + W3 + W4: {} of {} flows; {allowance}", total.rare(), total.flows);
    if total.rare() > allowance.flows {
        println!("FAILED W1 + W3 + W4 are above that");
        failures += 1;
    }
    println!("{failures} failures");
    failures == 0
}

fn replay(arguments: &Arguments, seed: u64) -> String {
    let mut text = format!("cargo xtask sim --seed {seed} --trace");
    let mut more = Vec::new();
    if arguments.network_only {
        more.push("--network-only".to_owned());
    }
    if arguments.plain {
        more.push("--plain".to_owned());
    }
    if arguments.least_load {
        more.push("--least-load".to_owned());
    }
    more.extend(arguments.broken.iter().map(|name| format!("--break {name}")));
    if !more.is_empty() {
        text = format!("{text} -- {}", more.join(" "));
    }
    text
}

fn exempt(summary: &RunSummary) -> String {
    let count = |window| summary.exempt.get(&window).copied().unwrap_or(0);
    let windows: Vec<String> =
        Exempt::ALL.into_iter().map(|window| format!("{window:?} {}", count(window))).collect();
    windows.join(", ")
}

fn print(count: u64, seconds: f64, total: &RunSummary) {
    println!(
        "{count} seeds in {seconds:.1} s: {} flows, and {} at rest; {} packets, {} changes of {} slots, \
         {} crashes, {} leaders deposed, {} times two leaders, {} stores wiped, {} leases ended of machines \
         that lived, {} forged, {} replayed, {} turns",
        total.flows,
        total.steady_flows,
        total.delivered,
        total.changes,
        total.slots,
        total.crashes,
        total.leaders,
        total.rivals,
        total.wipes,
        total.exiles,
        total.forged,
        total.replayed,
        total.turns
    );
    println!(
        "relays {} (between cores {}; of one flow by one machine at most {}), answers cached {}, told {:?} \
         (decided, exported, refreshed, migrated), pushes {}, guesses {}",
        total.relays,
        total.core_relays,
        total.relays_of_flow,
        total.answers_cached,
        total.statements,
        total.pushes,
        total.guesses,
    );
    println!(
        "bytes: notes {}, relayed frames {}; flows whose answer changed {}; no room {} times",
        total.note_bytes, total.relay_bytes, total.touched, total.refused
    );
    println!("exempt: {}; released (idle or backend removed): {}", exempt(total), total.released);
}

/// Breaks each rule (or those named) and looks for the first seed that shows it. Before, the same seeds must pass with all rules in
/// force. Seeds are with machine faults and without in turn.
fn mutations(arguments: &Arguments, seeds: Range<u64>) -> bool {
    let chosen: Vec<Rule> = match &arguments.broken {
        None => Rule::ALL.to_vec(),
        Some(names) => named(names).flatten().collect(),
    };
    // An assertion of the engine is noticed too, and need not be told at length.
    std::panic::set_hook(Box::new(|_| {}));
    println!("| rule | what is broken | seeds until noticed | property | seconds |");
    println!("|---|---|---|---|---|");
    let mut failures = 0;
    for rule in std::iter::once(None).chain(chosen.into_iter().map(Some)) {
        let begun = Instant::now();
        let noticed = first_notice(rule, seeds.clone());
        let (name, help) = rule.map_or(("none", "nothing"), |rule| (rule.name(), rule.help()));
        let excuse = rule.and_then(Rule::excuse);
        let (count, property) = match noticed {
            Some((seed, property)) => ((seed - seeds.start + 1).to_string(), property.name()),
            None => (format!("not in {}", seeds.end.saturating_sub(seeds.start)), excuse.unwrap_or_default()),
        };
        println!("| {name} | {help} | {count} | {property} | {:.1} |", begun.elapsed().as_secs_f64());
        let is_as_it_should = noticed.is_some() != rule.is_none() || excuse.is_some();
        failures += u32::from(!is_as_it_should);
    }
    println!("{failures} not as they should be");
    failures == 0
}

/// Bytes that IPVS sends of a new IPv4 connection at the least (`struct ip_vs_sync_v4`), once, to all machines together.
const IPVS_BYTES: u64 = 36;

/// Many backends, many flows, many updates: how many flows move, and what is told for that.
fn experiment(arguments: &Arguments) -> bool {
    println!(
        "468 backends, 65,537 slots, 4 machines of 2 workers; {} s of virtual time each; one machine dies \
         and returns about every 90 s",
        arguments.seconds
    );
    println!(
        "| flows at once | updates a minute | flows | packets | changes | slots told a change | deaths | \
         stayed against the table | moved | exempt | bytes of notes | a share of IPVS-style | with relayed \
         frames | seconds |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut passed = true;
    for &flows in &arguments.flows {
        for &updates in &arguments.updates {
            let begun = Instant::now();
            let seed = arguments.seed.unwrap_or(1);
            let scenario = Scenario::experiment(seed, flows, updates, arguments.seconds);
            let summary = match run(&scenario, None) {
                Ok(summary) => summary,
                Err(failure) => {
                    println!("FAILED {failure}");
                    passed = false;
                    continue;
                }
            };
            let notes = summary.note_bytes.saturating_sub(summary.heartbeats * HEARTBEAT_BYTES);
            let ipvs = (summary.flows + summary.steady_flows) * IPVS_BYTES;
            let share = |bytes: u64| 100.0 * bytes as f64 / ipvs.max(1) as f64;
            let moved: u64 = summary.exempt.values().sum();
            println!(
                "| {flows} | {updates} | {} | {} | {} | {} | {} | {} | {moved} | {} | {notes} | {:.2} % | \
                 {:.2} % | {:.0} |",
                summary.flows + summary.steady_flows,
                summary.delivered,
                summary.changes,
                summary.slots / summary.changes.max(1),
                summary.crashes,
                summary.kept,
                if moved == 0 { "none".to_owned() } else { exempt(&summary) },
                share(notes),
                share(notes + summary.relay_bytes),
                begun.elapsed().as_secs_f64()
            );
            if arguments.keep_going {
                print(1, begun.elapsed().as_secs_f64(), &summary);
            }
            passed &= moved == 0;
        }
    }
    passed
}
