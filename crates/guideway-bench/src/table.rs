//! `guideway bench table`: look-ups and insertions, ours beside the bound and the peers.

mod keys;
mod look_up;
mod maps;
mod ours;
mod peers;
mod updates;

use crate::bound::Lines;
use crate::calibration::Calibrator;
use crate::failure::{Failure, wrong};
use crate::footprint::Footprint;
use crate::options::Options;
use crate::random::Spread;
use crate::report::{self, Conditions, Maybe, rounded};
use crate::rounds::{CellSet, Measured};
use crate::statistics::{Figure, Interval};
use crate::tsc::Tsc;
use clap::Args;
use dpdk::clock::stamp;
use keys::{KeyKind, KeyWindow};
use look_up::LookUp;
use peers::OtherTable;
use serde::Serialize;
use std::collections::BTreeMap;

/// Look-ups of a window.
const WINDOW: usize = 4096;
/// Windows of a cell in a round.
const WINDOWS: usize = 8;
/// Ours, asked burst by burst.
const ONE_BY_ONE: &str = "ours_one_by_one";
/// Most flows: key and miss must be different numbers, and both fit the numbering of flows.
const FLOWS_MAX: u64 = crate::flows::FLOWS_MAX / 2;

/// Time look-ups: ours, the one-line bound, DPDK's rte_hash and hash maps of Rust, in one run
///
/// The same 8-byte keys and 4-byte values for all, values consumed and checked, on the same kind of pages. Ours is asked in bursts of
/// 32, each begun before the one ahead of it is finished, and a second time one by one. rte_hash is asked in bursts of
/// 32; the maps have no such call, but hashbrown is asked in stages with prefetches too.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Flows in each table
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u64).range(32..=FLOWS_MAX),
    )]
    flows: u64,
    /// Share of our table's slots in use
    #[arg(long, value_name = "SHARE", default_value_t = 0.8, value_parser = load)]
    load: f64,
    /// How look-ups are spread over the flows
    #[arg(long, value_enum, default_value_t = Spread::Uniform)]
    keys: Spread,
    /// Tables beside ours and the bound
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = OtherTable::ALL)]
    peers: Vec<OtherTable>,
    /// Time insertions and churn too; takes seconds a million flows
    #[arg(long)]
    updates: bool,
    #[command(flatten)]
    options: Options,
}

/// A load from 0.01 to 0.98.
fn load(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.01..=0.98).contains(&share) => Ok(share),
        _ => Err("a share from 0.01 to 0.98".into()),
    }
}

impl Arguments {
    /// Huge pages for all tables.
    pub fn huge_bytes(&self) -> u64 {
        let places = (self.flows as f64 / self.load) as u64;
        let ours = places * 64 / 5;
        let peers: u64 = self.peers.iter().map(|peer| peer.bytes(self.flows, places)).sum();
        2 * ours + peers + (288 << 20)
    }
}

/// What is printed.
#[derive(Clone, Debug, Serialize)]
struct TableReport {
    flows: u64,
    load: f64,
    /// Where our table was full before.
    load_reached: f64,
    keys: Spread,
    /// By kind of look-up, then by table.
    ns_per_lookup: BTreeMap<&'static str, BTreeMap<String, Maybe<Figure>>>,
    /// By kind of look-up: ours over the bound, and each peer over ours.
    ratios: BTreeMap<&'static str, BTreeMap<String, Maybe<Interval>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updates: Option<updates::UpdatesReport>,
    bytes_per_flow: BTreeMap<String, f64>,
    pages: BTreeMap<String, &'static str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    not_run: BTreeMap<String, String>,
    #[serde(flatten)]
    conditions: Conditions,
    verified: bool,
}

/// Measures and prints.
///
/// # Errors
/// [`Failure`]; a look-up with a wrong answer is one.
pub fn run(arguments: &Arguments, cpu: usize) -> Result<(), Failure> {
    let tsc = Tsc::measure();
    let mut bytes_per_flow = BTreeMap::new();
    let mut pages = BTreeMap::new();
    let mut account = |name: &str, before: Footprint, flows: u64| {
        let growth = before.growth();
        bytes_per_flow.insert(name.to_owned(), rounded(growth.bytes() as f64 / flows as f64, 2));
        pages.insert(name.to_owned(), growth.pages().name());
    };
    let before = Footprint::now();
    let (mut ours, flows) = ours::Ours::fill(arguments.flows, arguments.load)?;
    account("ours", before, flows);
    let before = Footprint::now();
    let lines = Lines::new(ours.bytes())?;
    account("bound", before, flows);
    let mut not_run = BTreeMap::new();
    let mut others = peers::Peers::default();
    for &peer in &arguments.peers {
        let before = Footprint::now();
        match others.fill(peer, flows, arguments.load, cpu) {
            Ok(()) => account(peer.name(), before, flows),
            // The rest is worth measuring all the same.
            Err(failure @ (Failure::Eal(_) | Failure::Hash(_))) => {
                eprintln!("note: {} is left out: {failure}", peer.name());
                not_run.insert(peer.name().to_owned(), failure.to_string());
            }
            Err(failure) => return Err(failure),
        }
    }
    let mut calibrator = Calibrator::new(tsc)?;
    let measured = {
        let one_by_one = ours::OneByOne(&ours);
        let mut cells = cells(arguments, flows, tsc, &lines, (&ours, &one_by_one), &others);
        arguments.options.measure(&mut calibrator, &mut cells)?
    };
    if let Some(table) = others.rte_hash() {
        pages.insert("rte_hash".to_owned(), table.pages().name());
    }
    let names: Vec<&'static str> = others.all().map(|(name, _)| name).collect();
    let updates = match arguments.updates {
        true => {
            others.keep_only(OtherTable::RteHash);
            let options = &arguments.options;
            Some(updates::run(&mut calibrator, &mut ours, others.rte_hash(), flows, options, tsc)?)
        }
        false => None,
    };
    let outcome = TableReport {
        flows,
        load: arguments.load,
        load_reached: rounded(arguments.load * flows as f64 / arguments.flows as f64, 3),
        keys: arguments.keys,
        ns_per_lookup: KeyKind::ALL
            .iter()
            .map(|kind| (kind.name(), figures(&measured, *kind, &names)))
            .collect(),
        ratios: KeyKind::ALL.iter().map(|kind| (kind.name(), ratios(&measured, *kind, &names))).collect(),
        updates,
        bytes_per_flow,
        pages,
        not_run,
        conditions: Conditions::from(&measured),
        verified: true,
    };
    report::print(arguments.options.json, &outcome, for_people)
}

/// All that is measured in turn: the bound, ours burst by burst and one by one, and the others.
fn cells<'t>(
    arguments: &Arguments,
    flows: u64,
    tsc: Tsc,
    lines: &'t Lines,
    (ours, one_by_one): (&'t ours::Ours, &'t ours::OneByOne<'t>),
    others: &'t peers::Peers,
) -> CellSet<'t> {
    let mut cells = CellSet::default();
    cells.add("bound", lines.cell(tsc, WINDOW, WINDOWS));
    for kind in KeyKind::ALL {
        cells.add(format!("{}/ours", kind.name()), cell(ours, kind, arguments.keys, flows, tsc));
        cells
            .add(format!("{}/{ONE_BY_ONE}", kind.name()), cell(one_by_one, kind, arguments.keys, flows, tsc));
        for (name, table) in others.all() {
            cells.add(format!("{}/{name}", kind.name()), cell(table, kind, arguments.keys, flows, tsc));
        }
    }
    cells
}

/// One table and one kind of look-up.
fn cell<'a>(
    table: &'a (impl LookUp + ?Sized),
    kind: KeyKind,
    spread: Spread,
    flows: u64,
    tsc: Tsc,
) -> impl FnMut(&mut Vec<f64>) -> Result<(), Failure> + 'a {
    let mut window = KeyWindow::new(kind, spread, flows, WINDOW);
    move |windows| {
        for _ in 0..WINDOWS {
            window.next_keys();
            let begin = stamp();
            let found = table.look_up(&window.keys);
            let end = stamp();
            if found != window.expected {
                return Err(wrong(format!(
                    "{} look-ups gave {found:?} and not {:?}",
                    kind.name(),
                    window.expected
                )));
            }
            windows.push(tsc.nanoseconds(begin, end) / WINDOW as f64);
        }
        Ok(())
    }
}

fn figures(measured: &Measured, kind: KeyKind, names: &[&str]) -> BTreeMap<String, Maybe<Figure>> {
    let mut all = BTreeMap::from([("bound".to_owned(), measured.cost("bound"))]);
    for name in ["ours", ONE_BY_ONE].iter().chain(names) {
        all.insert((*name).to_owned(), measured.cost(&format!("{}/{name}", kind.name())));
    }
    all
}

fn ratios(measured: &Measured, kind: KeyKind, names: &[&str]) -> BTreeMap<String, Maybe<Interval>> {
    let ours = format!("{}/ours", kind.name());
    let mut all = BTreeMap::new();
    all.insert("ours/bound".to_owned(), measured.compared(&ours, "bound"));
    let one_by_one = format!("{}/{ONE_BY_ONE}", kind.name());
    all.insert(format!("{ONE_BY_ONE}/bound"), measured.compared(&one_by_one, "bound"));
    for name in names {
        let peer = format!("{}/{name}", kind.name());
        all.insert(format!("{name}/ours"), measured.compared(&peer, &ours));
    }
    all
}

fn for_people(outcome: &TableReport) -> String {
    use std::fmt::Write;
    let mut text = format!("{} flows, load {}\n", outcome.flows, outcome.load_reached);
    // Writing to a string does not fail.
    for (kind, figures) in &outcome.ns_per_lookup {
        let _ = writeln!(text, "{kind}");
        for (name, figure) in figures {
            let pages = outcome.pages.get(name).copied().unwrap_or_default();
            let _ = writeln!(text, "  {name:<18} {:<28} {pages}", figure.words());
        }
        for (pair, ratio) in outcome.ratios.get(kind).into_iter().flatten() {
            let _ = writeln!(text, "  {pair:<22} {}", ratio.words());
        }
    }
    if let Some(updates) = &outcome.updates {
        text.push_str(&updates.for_people());
    }
    let bytes = outcome.bytes_per_flow.get("ours").copied().unwrap_or_default();
    let _ = writeln!(text, "a flow takes {bytes} bytes\n{}", outcome.conditions.words());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_gives_every_answer() {
        let flows = 20_000;
        let (ours, placed) = ours::Ours::fill(flows, 0.8).expect("a table");
        assert_eq!(placed, flows);
        let mut others = peers::Peers::default();
        for peer in
            [OtherTable::Hashbrown, OtherTable::HashbrownPrefetch, OtherTable::Std, OtherTable::Dashmap]
        {
            others.fill(peer, flows, 0.8, 0).expect("memory");
        }
        for kind in KeyKind::ALL {
            for spread in [Spread::Uniform, Spread::Zipf, Spread::Trace] {
                let mut window = KeyWindow::new(kind, spread, flows, 1000);
                window.next_keys();
                assert_eq!(ours.look_up(&window.keys), window.expected, "{kind:?}");
                assert_eq!(ours::OneByOne(&ours).look_up(&window.keys), window.expected, "{kind:?}");
                assert!(others.all().count() == 4);
                for (name, table) in others.all() {
                    assert_eq!(table.look_up(&window.keys), window.expected, "{kind:?} {name}");
                }
            }
        }
        assert!(ours.bytes() as u64 >= flows * 64 / 5);
    }

    #[test]
    fn loads_have_limits() {
        assert_eq!(load("0.95"), Ok(0.95));
        assert!(load("1").is_err() && load("x").is_err() && load("NaN").is_err());
    }
}
