//! One rule of the protocol broken: whether the checker notices, which shows that it looks.

use super::{Faults, Property, Scenario, run};
use statesync::Rule;
use std::ops::Range;

/// Seeds that showed a broken rule when it was last looked for; they save the search. Another one does as well: what the seeds are made
/// into changes with every change of the scenarios.
const KNOWN: &[(Rule, u64)] = &[(Rule::RecordStands, 29), (Rule::RemovedStays, 19), (Rule::Ready, 10)];
/// Shown by so few seeds that only the soak looks for one.
pub const RARE: &[Rule] = &[Rule::CheckEntries, Rule::Ready, Rule::RecordFirst];

/// The first of the seeds that shows that the rule is broken (`None`: no rule is), and by which property.
pub fn first_notice(broken: Option<Rule>, mut seeds: Range<u64>) -> Option<(u64, Property)> {
    seeds.find_map(|seed| Some((seed, notice(broken, seed)?)))
}

/// One of the seeds that shows that the rule is broken, beginning with the one that showed it last.
pub fn any_notice(broken: Rule, seeds: Range<u64>) -> Option<(u64, Property)> {
    let known = KNOWN.iter().filter(|(rule, _)| *rule == broken).map(|(_, seed)| *seed);
    known.chain(seeds).find_map(|seed| Some((seed, notice(Some(broken), seed)?)))
}

/// Every tenth rule that the checker must notice when it is broken, but for rare ones: ten numbers in a row have all of them.
pub fn tenth(number: u64) -> impl Iterator<Item = Rule> {
    let noticed = Rule::ALL.iter().copied().filter(|rule| rule.excuse().is_none() && !RARE.contains(rule));
    (0..).zip(noticed).filter(move |(at, _)| at % 10 == number % 10).map(|(_, rule)| rule)
}

/// What the checker has against a seed. Even seeds are with all faults, odd ones without those of machines.
fn notice(broken: Option<Rule>, seed: u64) -> Option<Property> {
    let faults = if seed.is_multiple_of(2) { Faults::All } else { Faults::Network };
    let scenario = Scenario { broken, ..Scenario::new(seed, faults) };
    match std::panic::catch_unwind(|| run(&scenario, None)) {
        Ok(outcome) => outcome.err().map(|failure| failure.property),
        Err(_) => Some(Property::Engine),
    }
}
