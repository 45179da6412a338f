//! docs/packet-path.md and docs/glossary.md against the code. What stands between `<!-- generated: … -->` and
//! `<!-- end -->` is made of it: `cargo xtask docs` writes it anew.
#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::HashSet;
use worker::action::{Hop, Reply, Route};
use worker::counters::{PerBackend, PerBackendEnds, PerBackendFlows, PerPort, PerService, PerSync, Totals};
use worker::{Action, DropReason};

const PACKET_PATH: &str = include_str!("../../../docs/packet-path.md");
const GLOSSARY: &str = include_str!("../../../docs/glossary.md");
const TURN: &str = include_str!("../src/turn.rs");

/// The cells of the table whose header is `header`, row by row.
fn table<'a>(document: &'a str, header: &str) -> Vec<Vec<&'a str>> {
    let (_, rows) = document.split_once(header).unwrap_or_else(|| panic!("no table {header}"));
    let rows = rows.trim_start().lines().skip(1).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect())
        .collect()
}

/// A name and what it means.
type Row = (&'static str, &'static str);

/// A counter's, without its value.
fn row((name, help, _): (&'static str, &'static str, u64)) -> Row {
    (name, help)
}

/// The generated tables by the names in their marks.
fn generated() -> Vec<(&'static str, String)> {
    let reasons = DropReason::ALL.iter().map(|reason| (reason.name(), reason.help()));
    // Apart in memory only.
    let backend = PerBackend::default().each().map(row).collect::<Vec<_>>();
    let flows = PerBackendFlows::default().each().map(row).collect::<Vec<_>>();
    let ends = PerBackendEnds::default().each().map(row).collect::<Vec<_>>();
    vec![
        ("drop reasons", rows("reason", reasons)),
        ("worker totals", rows("counter", Totals::default().each().map(row))),
        ("per service", rows("counter", PerService::default().each().map(row))),
        ("per backend", rows("counter", backend.into_iter().chain(flows).chain(ends))),
        ("per port", rows("counter", PerPort::default().each().map(row))),
        ("state synchronisation", rows("counter", PerSync::default().each().map(row))),
    ]
}

fn rows(first: &str, rows: impl Iterator<Item = Row>) -> String {
    let mut text = format!("| {first} | meaning |\n|---|---|\n");
    for (name, help) in rows {
        // No links into the code, and nothing that ends a cell.
        let help = help.replace("[`", "`").replace("`]", "`").replace('|', "\\|");
        text += &format!("| `{name}` | {help} |\n");
    }
    text
}

/// A document with every table between its marks made anew; or what is wrong with the marks.
fn made_anew(document: &str, tables: &[(&'static str, String)]) -> Result<String, String> {
    let mut pieces = document.split("<!-- generated: ");
    let mut made = pieces.next().unwrap_or_default().to_owned();
    let mut seen = Vec::new();
    for piece in pieces {
        let (name, rest) = piece.split_once(" -->\n").ok_or("a mark does not end")?;
        let (_, rest) = rest.split_once("<!-- end -->").ok_or(format!("{name} does not end"))?;
        let table = tables.iter().find(|(known, _)| *known == name);
        let (known, table) = table.ok_or(format!("nobody makes {name}"))?;
        seen.push(*known);
        made += &format!("<!-- generated: {name} -->\n{table}<!-- end -->{rest}");
    }
    let expected: Vec<&str> = tables.iter().map(|(name, _)| *name).collect();
    if seen == expected { Ok(made) } else { Err(format!("{expected:?} were expected, not {seen:?}")) }
}

/// `cargo xtask docs` sets `UPDATE_DOCS`: then the file is written.
#[test]
fn generated_tables_are_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/packet-path.md");
    let text = made_anew(&std::fs::read_to_string(path).unwrap(), &generated()).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), text, "run cargo xtask docs");
}

#[test]
fn a_generated_table_is_made_anew_and_what_is_around_it_stays() {
    let tables = [("a", rows("word", [("x", "one | [`X`]")].into_iter())), ("b", "B\n".to_owned())];
    let table = "| word | meaning |\n|---|---|\n| `x` | one \\| `X` |\n";
    let with = |a: &str, b: &str| {
        format!("1\n<!-- generated: a -->\n{a}<!-- end -->\n2\n<!-- generated: b -->\n{b}<!-- end -->\n3\n")
    };
    let current = with(table, "B\n");
    assert_eq!(made_anew(&with("", "old\n"), &tables), Ok(current.clone()));
    assert_eq!(made_anew(&current, &tables), Ok(current.clone()));
    assert!(made_anew(&current, &tables[..1]).is_err(), "a table that nobody makes");
    assert!(made_anew("1\n<!-- generated: a -->\n<!-- end -->\n", &tables).is_err(), "one that is missing");
    assert!(made_anew(&current.replace("<!-- end -->\n3", ""), &tables).is_err(), "one without an end");
}

#[test]
fn the_picture_shows_where_each_drop_reason_belongs() {
    let (_, picture) = PACKET_PATH.split_once("```mermaid").unwrap();
    let (picture, _) = picture.split_once("```").unwrap();
    let drops =
        picture.split("drop ").skip(1).filter_map(|rest| rest.split_once("/]")).map(|(names, _)| names);
    let shown: HashSet<&str> = drops
        .flat_map(|names| names.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
        .filter(|name| !matches!(*name, "" | "br"))
        .collect();
    let known: HashSet<&str> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(shown, known);
}

#[test]
fn the_steps_of_a_turn_stand_in_their_order() {
    let (_, body) = TURN.split_once("pub fn turn(&mut self, now: Tick) -> Turn {").unwrap();
    let (body, _) = body.split_once("\n    }\n").unwrap();
    let code: String = body.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let is_name = |c: char| c.is_ascii_alphabetic() || c == '_';
    let calls: Vec<&str> = code
        .match_indices('(')
        .map(|(at, _)| &code[..at])
        .map(|before| &before[before.rfind(|c| !is_name(c)).map_or(0, |at| at + 1)..])
        .filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
        .filter(|name| !matches!(*name, "as_deref" | "iter" | "enumerate" | "try_from" | "unwrap_or"))
        .collect();
    let written: Vec<&str> =
        table(PACKET_PATH, "| step | what |").iter().filter_map(|row| row.first().copied()).collect();
    assert_eq!(written, calls);
}

#[test]
fn every_action_is_explained() {
    let written: Vec<&str> = table(PACKET_PATH, "| action | what is done | ends as |")
        .iter()
        .filter_map(|row| row.first().copied())
        .collect();
    let route = Route { to: Hop::Core(wire::CoreId(0)), question: None };
    let all = [
        Action::Encapsulate(wire::BackendId(0)),
        Action::Pass(wire::PortId(0)),
        Action::Reply(Reply::Echo),
        Action::Relay(route),
        Action::Hold,
        Action::Punt,
        Action::Drop(DropReason::NoService),
    ];
    assert_eq!(written, all.map(Action::name));
}

#[test]
fn the_glossary_defines_every_word_once() {
    let rows = table(GLOSSARY, "| word | meaning |");
    assert!(rows.len() > 30);
    let mut words = HashSet::new();
    for word in rows.iter().filter_map(|row| row.first()) {
        assert!(words.insert(*word), "{word} is defined twice");
    }
}
