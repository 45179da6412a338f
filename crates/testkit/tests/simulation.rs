//! The cluster simulator over a few seeds; `cargo xtask sim` runs more, `cargo xtask soak` many.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use statesync::Rule;
use testkit::simulation::{Exempt, Faults, RunSummary, Scenario, mutation, run};

fn runs(scenarios: impl Iterator<Item = Scenario>) -> RunSummary {
    let mut total = RunSummary::default();
    for scenario in scenarios {
        match run(&scenario, None) {
            Ok(summary) => total.add(&summary),
            Err(failure) => panic!("{failure}"),
        }
    }
    total
}

#[test]
fn two_machines_keep_their_flows_through_changes_and_reshuffles() {
    let total = runs((0..10).map(Scenario::plain));
    assert!(total.flows > 300 && total.changes > 20 && total.delivered > 3_000, "{total:?}");
    assert!(total.exempt.is_empty(), "{total:?}");
    assert!(total.answers_cached > 0 && total.statements[1] > 0, "the mechanism did it: {total:?}");
}

#[test]
fn without_machine_faults_nothing_is_exempt() {
    let total = runs((0..12).map(|seed| Scenario::new(seed, Faults::Network)));
    assert!(total.flows > 500 && total.core_relays > 0 && total.relays > 0, "{total:?}");
    // Seed 11 has no room for all flows; that is the one window left.
    assert!(total.refused > 0 && total.exempt.keys().all(|window| *window == Exempt::W5), "{total:?}");
}

#[test]
fn machines_die_and_return_and_flows_stay() {
    let total = runs((0..12).map(|seed| Scenario::new(seed, Faults::All)));
    assert!(total.crashes > 3 && total.statements[3] > 0, "{total:?}");
    assert!(total.rare() <= 1, "{total:?}");
}

/// No slot says where a flow is, so whoever forgets one moves it.
#[test]
fn flows_stay_where_load_decides() {
    let scenario = |seed, faults| Scenario { by_load: true, ..Scenario::new(seed, faults) };
    let total = runs((0..8).map(|seed| scenario(seed, Faults::Network)));
    assert!(total.flows > 300 && total.relays > 0 && total.statements[0] > 500, "{total:?}");
    let total = runs((0..12).map(|seed| scenario(seed, Faults::All)));
    assert!(total.crashes > 3 && total.rare() <= 1, "{total:?}");
}

#[test]
fn a_seed_is_a_run() {
    let scenario = Scenario::new(5, Faults::All);
    let mut traces = [Vec::new(), Vec::new()];
    let [first, second] = traces.each_mut().map(|trace| {
        let mut keep = |line: String| trace.push(line);
        run(&scenario, Some(&mut keep)).unwrap()
    });
    assert_eq!(first, second);
    assert!(!traces[0].is_empty());
    assert_eq!(traces[0], traces[1]);
}

/// A tenth of them, another one with every commit (`cargo xtask ci` says its number); the simulator's `--mutations` tries all.
#[test]
fn a_broken_rule_is_noticed() {
    let number = std::env::var("GUIDEWAY_COMMIT_NUMBER").ok().and_then(|number| number.parse().ok());
    for rule in mutation::tenth(number.unwrap_or(0)) {
        let noticed = mutation::any_notice(rule, 0..400);
        println!("{}: {noticed:?}", rule.name());
        assert!(noticed.is_some(), "{}: {}", rule.name(), rule.help());
    }
}

#[test]
fn ten_commits_in_a_row_break_every_rule() {
    let mut broken: Vec<Rule> = (57..67).flat_map(mutation::tenth).collect();
    broken.sort_by_key(|rule| *rule as u8);
    let is_tried = |rule: &Rule| rule.excuse().is_none() && !mutation::RARE.contains(rule);
    let all: Vec<Rule> = Rule::ALL.iter().copied().filter(is_tried).collect();
    assert_eq!(broken, all);
    assert_eq!(all.len() + 8, Rule::ALL.len(), "five are excused, three are rare");
}
