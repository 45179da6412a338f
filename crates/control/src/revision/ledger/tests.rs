//! Any order of changes ends in what a simple model says.

use super::super::overrides::{Overrides, ServiceChange, is_in_file};
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
    /// A file is applied, and is to be confirmed within so long.
    Trial(BTreeMap<String, i64>, u64),
    /// The daemon dies between what is written before a trial and the trial itself.
    DoubtAndDie(BTreeMap<String, i64>),
    Confirm,
    /// Time passes; what is overdue goes back.
    Wait(u64),
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
        (weights_of_files(), 1..100_u64).prop_map(|(of, ms)| Step::Trial(of, ms)),
        weights_of_files().prop_map(Step::DoubtAndDie),
        Just(Step::Confirm),
        (1..150_u64).prop_map(Step::Wait),
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

fn content(base: &str, overrides: Overrides) -> Content {
    Content { base: Arc::from(base), overrides: Arc::new(overrides) }
}

fn touched(before: &BTreeMap<String, i64>, after: &BTreeMap<String, i64>) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names.into_iter().filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

/// What an operator sees of the daemon, and what he would expect of it.
struct Played {
    ledger: Ledger,
    model: Model,
    /// The file on the disk, which a start reads.
    file: BTreeMap<String, i64>,
    /// What a trial goes back to, its number, and when.
    trial: Option<(Model, u64, u64)>,
    /// The file that nobody has confirmed.
    doubted: Option<BTreeMap<String, i64>>,
    /// What each number stood for.
    numbered: BTreeMap<u64, Model>,
    /// When each service changed last.
    changed: BTreeMap<String, u64>,
    now: u64,
}

impl Played {
    fn new() -> Played {
        let mut ledger = Ledger::default();
        ledger.record(content("", Overrides::default()), ChangeOrigin::default());
        Played {
            ledger,
            model: Model::default(),
            file: BTreeMap::new(),
            trial: None,
            doubted: None,
            numbered: BTreeMap::from([(1, Model::default())]),
            changed: BTreeMap::new(),
            now: 0,
        }
    }

    /// Something is in force, for good or on trial: the ledger is told, and compared with what is expected.
    fn in_force(&mut self, next: Content, model: Model, until: Option<u64>) {
        let number = self.ledger.number();
        let services = touched(&self.model.in_force(), &model.in_force());
        let change = ChangeOrigin { services: Some(services.clone()), ..ChangeOrigin::default() };
        let got = match until {
            None => self.ledger.record(next, change),
            Some(until) => self.ledger.record_on_trial(next, change, until),
        };
        // Only what differs has a number of its own.
        assert_eq!(got, number + u64::from(model != self.model), "{model:?}");
        if got != number {
            self.trial = until.map(|until| (self.model.clone(), number, until));
            match until {
                Some(_) => self.doubted = Some(model.file.clone()),
                None => drop(self.doubted.take_if(|doubted| *doubted == model.file)),
            }
            self.changed.extend(services.into_iter().map(|name| (name, got)));
        }
        self.model = model;
        self.numbered.insert(got, self.model.clone());
    }

    fn change(&mut self, service: &str, change: ServiceChange, said: impl FnOnce(&mut Said, bool)) {
        if self.ledger.may_change().is_err() {
            return assert!(self.trial.is_some());
        }
        let Content { base, overrides } = self.ledger.content().unwrap().clone();
        let overrides = overrides.after(service, change, is_in_file(&base, service)).unwrap();
        let mut model = self.model.clone();
        let is_in_file = model.file.contains_key(service);
        model.change(service, |of| said(of, is_in_file));
        self.in_force(content(&base, overrides), model, None);
    }

    fn restart(&mut self) {
        let again = Ledger::parse(&self.ledger.saved().bytes().unwrap()).unwrap();
        let all = |of: &Ledger| of.newest_first().cloned().collect::<Vec<_>>();
        assert_eq!(all(&again), all(&self.ledger));
        self.ledger = again;
        let mut model = self.trial.take().map_or_else(|| self.model.clone(), |(before, ..)| before);
        if self.doubted.as_ref() != Some(&self.file) {
            model.file = self.file.clone();
        }
        let next = self.ledger.at_start(&file(&self.file));
        self.in_force(next, model, None);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Apply(of) if self.ledger.may_change().is_ok() => {
                let overrides = Arc::clone(&self.ledger.content().unwrap().overrides);
                let model = Model { file: of.clone(), ..self.model.clone() };
                self.in_force(Content { base: Arc::from(file(&of)), overrides }, model, None);
            }
            Step::Trial(of, _) | Step::DoubtAndDie(of) | Step::Apply(of) if self.trial.is_some() => {
                let refused = self.ledger.doubt(&file(&of));
                assert_eq!(refused, Err(RevisionRefusal::OnTrial(self.ledger.number())));
            }
            Step::Trial(of, within) => {
                self.file = of.clone();
                self.ledger.doubt(&file(&of)).unwrap();
                let overrides = Arc::clone(&self.ledger.content().unwrap().overrides);
                let model = Model { file: of.clone(), ..self.model.clone() };
                self.in_force(
                    Content { base: Arc::from(file(&of)), overrides },
                    model,
                    Some(self.now + within),
                );
            }
            Step::DoubtAndDie(of) => {
                self.file = of.clone();
                self.ledger.doubt(&file(&of)).unwrap();
                if of != self.model.file {
                    self.doubted = Some(of);
                }
                self.restart();
            }
            Step::Apply(_) => unreachable!("a trial is on, or it is not"),
            Step::Confirm => match self.trial.take() {
                Some(_) => {
                    assert!(self.ledger.confirm(Some(0)).is_err());
                    assert_eq!(self.ledger.confirm(None), Ok(self.ledger.number()));
                    self.doubted = None;
                }
                None => assert_eq!(self.ledger.confirm(None), Err(RevisionRefusal::NoTrial)),
            },
            Step::Wait(ms) => {
                self.now += ms;
                let overdue = self.trial.clone().filter(|(_, _, until)| self.now >= *until);
                assert_eq!(self.ledger.overdue(self.now), overdue.as_ref().map(|(_, number, _)| *number));
                if let Some((before, number, _)) = overdue {
                    let next = self.ledger.get(number).unwrap().content.clone();
                    self.in_force(next, before, None);
                }
            }
            Step::Set(name, weight) => {
                let part = file(&BTreeMap::from([(name.clone(), weight)]));
                self.change(&name, ServiceChange::Set(part), |said, _| {
                    *said = Said { whole: Some(Some(weight)), patch: None };
                });
            }
            Step::Delete(name) => self.change(&name, ServiceChange::Delete, |said, is_in_file| {
                *said = Said { whole: is_in_file.then_some(None), patch: None };
            }),
            Step::Patch(name, weight) if self.model.in_force().contains_key(&name) => {
                let patch = BackendPatch { weight: Some(weight), state: None };
                let change = ServiceChange::Patch { backend: "b".to_owned(), patch };
                self.change(&name, change, |said, _| said.patch = Some(weight.into()));
            }
            Step::Patch(..) => {}
            Step::Release(name) => {
                self.change(&name, ServiceChange::Release, |said, _| *said = Said::default());
            }
            Step::Rollback(back) => {
                let number = self.ledger.number().saturating_sub(back).max(1);
                let next = self.ledger.get(number).unwrap().content.clone();
                self.in_force(next, self.numbered[&number].clone(), None);
            }
            Step::Restart(of) => {
                self.file = of.unwrap_or_else(|| self.file.clone());
                self.restart();
            }
        }
    }

    fn compare(&self) {
        let Content { base, overrides } = self.ledger.content().unwrap();
        assert_eq!(weights(&overrides.over(base).unwrap()), self.model.in_force());
        assert_eq!(self.ledger.trial().is_some(), self.trial.is_some());
        let number = self.ledger.number();
        for (name, by) in &self.changed {
            for read_at in 1..=number {
                assert_eq!(self.ledger.unchanged_since(name, read_at).is_ok(), read_at >= *by);
            }
        }
        assert!(self.ledger.unchanged_since("a", number + 1).is_err());
    }
}

proptest! {
    #[test]
    fn any_order_of_changes_ends_in_what_the_model_says(steps in prop::collection::vec(step(), 1..40)) {
        let mut played = Played::new();
        for step in steps {
            played.step(step);
            played.compare();
        }
    }
}

#[test]
fn what_is_kept_is_bounded_and_the_last_two_are_kept() {
    let mut ledger = Ledger::default();
    for at in 0..3 * KEPT_MAX {
        ledger.record(content(&format!("# {at}"), Overrides::default()), ChangeOrigin::default());
    }
    assert_eq!((ledger.newest_first().count(), ledger.number()), (KEPT_MAX, 3 * KEPT_MAX as u64));
    assert!(matches!(ledger.get(1), Err(RevisionRefusal::Unknown { number: 1, oldest: 201, newest: 300 })));
    assert!(ledger.unchanged_since("web", 200).is_err(), "nobody knows any more");
    for letter in ["a", "b", "c"] {
        let what = "é".repeat(CHANGE_MAX);
        ledger.record(
            content(&letter.repeat(BYTES_MAX), Overrides::default()),
            ChangeOrigin { what, ..ChangeOrigin::default() },
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
        ledger.record(content(&format!("# {at}"), Overrides::default()), ChangeOrigin::default());
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
