//! Any order of changes ends in what a simple model says.

use super::super::words::{ServiceChange, Words};
use super::*;
use model::api::BackendPatch;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A file of services; each has the weight of its one backend.
fn file(weights: &BTreeMap<String, i64>) -> String {
    let service = |(name, weight): (&String, &i64)| {
        format!("[[service]]\nname = \"{name}\"\n[[service.backend]]\nname = \"b\"\nweight = {weight}\n")
    };
    weights.iter().map(service).collect()
}

/// What a text says, read back.
fn weights(text: &str) -> BTreeMap<String, i64> {
    let table: toml::Table = text.parse().unwrap();
    let services = table.get("service").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    let weight = |of: &toml::Value| of["backend"][0].get("weight").and_then(toml::Value::as_integer);
    services.iter().map(|of| (of["name"].as_str().unwrap().to_owned(), weight(of).unwrap())).collect()
}

#[derive(Clone, Debug)]
enum Step {
    /// A file is applied, for good.
    Apply(BTreeMap<String, i64>),
    Set(String, i64),
    Delete(String),
    Patch(String, u32),
    Release(String),
    /// So many revisions back.
    Rollback(u64),
    /// The daemon starts again, on this file if there is one, else on the one before.
    Restart(Option<BTreeMap<String, i64>>),
}

fn name() -> impl Strategy<Value = String> {
    "[abc]".prop_map(|name| name)
}

fn weights_of_files() -> impl Strategy<Value = BTreeMap<String, i64>> {
    prop::collection::btree_map(name(), 1..9_i64, 0..4)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        weights_of_files().prop_map(Step::Apply),
        (name(), 1..9_i64).prop_map(|(name, weight)| Step::Set(name, weight)),
        name().prop_map(Step::Delete),
        (name(), 1..9_u32).prop_map(|(name, weight)| Step::Patch(name, weight)),
        name().prop_map(Step::Release),
        (0..5_u64).prop_map(Step::Rollback),
        prop::option::of(weights_of_files()).prop_map(Step::Restart),
    ]
}

/// What the API says of a service, in the model.
#[derive(Clone, PartialEq, Debug, Default)]
struct Said {
    /// `Some(None)`: deleted.
    whole: Option<Option<i64>>,
    patch: Option<i64>,
}

/// Everything that is in force, without texts.
#[derive(Clone, PartialEq, Debug, Default)]
struct Model {
    file: BTreeMap<String, i64>,
    said: BTreeMap<String, Said>,
}

impl Model {
    fn in_force(&self) -> BTreeMap<String, i64> {
        let mut all = self.file.clone();
        for (name, said) in &self.said {
            match said.whole {
                Some(Some(weight)) => drop(all.insert(name.clone(), weight)),
                Some(None) => drop(all.remove(name)),
                None => {}
            }
            if let (Some(weight), Some(of)) = (said.patch, all.get_mut(name)) {
                *of = weight;
            }
        }
        all
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Said)) {
        let mut said = self.said.remove(name).unwrap_or_default();
        change(&mut said);
        if said != Said::default() {
            self.said.insert(name.to_owned(), said);
        }
    }
}

fn content(base: &str, words: Words) -> Content {
    Content { base: Arc::from(base), words: Arc::new(words) }
}

fn touched(before: &BTreeMap<String, i64>, after: &BTreeMap<String, i64>) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names.into_iter().filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

/// The text that a ledger says is in force, read back.
fn in_force(ledger: &Ledger) -> BTreeMap<String, i64> {
    let Content { base, words } = ledger.content().unwrap();
    weights(&words.over(base).unwrap())
}

proptest! {
    #[test]
    fn any_order_of_changes_ends_in_what_the_model_says(steps in prop::collection::vec(step(), 1..40)) {
        let mut ledger = Ledger::default();
        ledger.record(content("", Words::default()), Change::default());
        let mut model = Model::default();
        // What each number stood for, and when each service changed last.
        let mut numbered = BTreeMap::from([(1, model.clone())]);
        let mut changed: BTreeMap<String, u64> = BTreeMap::new();
        for step in steps {
            let before = (ledger.number(), model.clone());
            let Content { base, words } = ledger.content().unwrap().clone();
            let change = |service: &str, change| words.after(service, change, super::super::words::is_in_file(&base, service)).unwrap();
            let next = match step {
                Step::Apply(of) => {
                    let next = Content { base: Arc::from(file(&of)), words };
                    model.file = of;
                    next
                }
                Step::Set(name, weight) => {
                    let part = file(&BTreeMap::from([(name.clone(), weight)]));
                    let next = content(&base, change(&name, ServiceChange::Set(part)));
                    model.change(&name, |said| *said = Said { whole: Some(Some(weight)), patch: None });
                    next
                }
                Step::Delete(name) => {
                    let next = content(&base, change(&name, ServiceChange::Delete));
                    let is_in_file = model.file.contains_key(&name);
                    model.change(&name, |said| *said = Said { whole: is_in_file.then_some(None), patch: None });
                    next
                }
                Step::Patch(name, weight) => {
                    if !model.in_force().contains_key(&name) {
                        continue;
                    }
                    let patch = BackendPatch { weight: Some(weight), state: None };
                    let next = content(&base, change(&name, ServiceChange::Patch { backend: "b".to_owned(), patch }));
                    model.change(&name, |said| said.patch = Some(weight.into()));
                    next
                }
                Step::Release(name) => {
                    let next = content(&base, change(&name, ServiceChange::Release));
                    model.said.remove(&name);
                    next
                }
                Step::Rollback(back) => {
                    let number = ledger.number().saturating_sub(back).max(1);
                    model = numbered[&number].clone();
                    ledger.get(number).unwrap().content.clone()
                }
                Step::Restart(of) => {
                    let bytes = ledger.saved().bytes().unwrap();
                    let again = Ledger::parse(&bytes).unwrap();
                    prop_assert_eq!(again.newest_first().collect::<Vec<_>>(), ledger.newest_first().collect::<Vec<_>>());
                    ledger = again;
                    if let Some(of) = of {
                        model.file = of;
                    }
                    Content { base: Arc::from(file(&model.file)), words }
                }
            };
            let services = touched(&before.1.in_force(), &model.in_force());
            let number = ledger.record(next, Change { services: Some(services.clone()), ..Change::default() });
            // Only what differs has a number of its own.
            prop_assert_eq!(number, before.0 + u64::from(before.1 != model), "{:?}", model);
            numbered.insert(number, model.clone());
            if number != before.0 {
                changed.extend(services.into_iter().map(|name| (name, number)));
            }
            prop_assert_eq!(in_force(&ledger), model.in_force());
            for (name, by) in &changed {
                for read_at in 1..=number {
                    prop_assert_eq!(ledger.unchanged_since(name, read_at).is_ok(), read_at >= *by);
                }
            }
            prop_assert!(ledger.unchanged_since("a", number + 1).is_err());
        }
    }
}

#[test]
fn what_is_kept_is_bounded_and_the_last_two_are_kept() {
    let mut ledger = Ledger::default();
    for at in 0..3 * KEPT_MAX {
        ledger.record(content(&format!("# {at}"), Words::default()), Change::default());
    }
    assert_eq!((ledger.newest_first().count(), ledger.number()), (KEPT_MAX, 3 * KEPT_MAX as u64));
    assert!(matches!(ledger.get(1), Err(RevisionRefusal::Unknown { number: 1, oldest: 201, newest: 300 })));
    assert!(ledger.unchanged_since("web", 200).is_err(), "nobody knows any more");
    for letter in ["a", "b", "c"] {
        let what = "é".repeat(CHANGE_MAX);
        ledger.record(
            content(&letter.repeat(BYTES_MAX), Words::default()),
            Change { what, ..Change::default() },
        );
    }
    assert_eq!(ledger.newest_first().count(), 2);
    let what = &ledger.get(303).unwrap().change.what;
    assert!(what.len() <= CHANGE_MAX && what.ends_with("é…"), "{what}");
}

#[test]
fn a_file_that_is_no_ledger_is_refused() {
    let mut ledger = Ledger::default();
    for at in 0..2 {
        ledger.record(content(&format!("# {at}"), Words::default()), Change::default());
    }
    let good = String::from_utf8(ledger.saved().bytes().unwrap()).unwrap();
    assert_eq!(Ledger::parse(good.as_bytes()).unwrap().number(), 2);
    for (from, to) in [
        ("\"version\":1", "\"version\":2"),
        ("\"base\":1", "\"base\":2"),
        ("\"number\":2", "\"number\":1"),
        ("\"number\":2", "\"number\":18446744073709551615"),
        ("{", ""),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        assert!(Ledger::parse(bad.as_bytes()).is_err(), "{bad}");
    }
}
