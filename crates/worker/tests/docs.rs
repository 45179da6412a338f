//! docs/packet-path.md and docs/glossary.md against the code.
#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::HashSet;
use worker::DropReason;

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

#[test]
fn every_drop_reason_is_explained_in_the_order_of_the_counters() {
    let written = table(PACKET_PATH, "| reason | meaning |");
    let known: Vec<Vec<&str>> =
        DropReason::ALL.iter().map(|reason| vec![reason.name(), reason.help()]).collect();
    assert_eq!(written, known);
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
    let calls: Vec<&str> = code
        .split("self.")
        .skip(1)
        .filter_map(|rest| rest.split_once('('))
        .map(|(name, _)| name)
        .filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .collect();
    let written: Vec<&str> =
        table(PACKET_PATH, "| step | what |").iter().filter_map(|row| row.first().copied()).collect();
    assert_eq!(written, calls);
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
