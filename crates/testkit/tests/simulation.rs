//! The cluster simulator over a few seeds; `cargo xtask sim` runs more, `cargo xtask soak` many.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use statesync::Rule;
use testkit::simulation::{Exempt, Faults, Scenario, Summary, run};

fn runs(scenarios: impl Iterator<Item = Scenario>) -> Summary {
    let mut total = Summary::default();
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

/// Broken rules that show within few seeds; the simulator's `--mutations` tries all of them.
#[test]
fn a_broken_rule_is_noticed() {
    for rule in [Rule::Export, Rule::BothTold, Rule::OwnerCore, Rule::MaskAnnounced, Rule::RetireFirst] {
        let noticed = (0..40).any(|seed| {
            let faults = if seed % 2 == 0 { Faults::All } else { Faults::Network };
            let outcome = run(&Scenario { broken: Some(rule), ..Scenario::new(seed, faults) }, None);
            outcome.is_err()
        });
        assert!(noticed, "{}: {}", rule.name(), rule.help());
    }
}
