use super::super::ledger::ChangeOrigin;
use super::super::overrides::ServiceChange;
use super::*;
use std::cell::Cell;

const MACHINE: &str = r#"[machine]
name = "test"
address = "10.9.0.1"
next_hop_mac = "02:00:00:00:00:01"
[workers]
cpus = [1]
[[port]]
name = "data0"
device = "net_null0"
"#;

fn service(name: &str, last: u16, more: &str) -> String {
    let vip = format!("203.0.{}.{}", last / 256, last % 256);
    format!(
        "[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nport = 80\nprotocol = \"tcp\"\nmode = \"ipip\"\nmaglev_size = 251\n{more}\
         [[service.backend]]\nname = \"b1\"\naddress = \"10.9.0.11\"\n"
    )
}

fn loaded(text: &str) -> Loaded {
    model::load("guideway.toml", text).unwrap()
}

fn names(loaded: &Loaded) -> Vec<&str> {
    loaded.config.services.iter().map(|of| of.name.as_str()).collect()
}

/// A ledger in which the API has set these services over a file.
fn ledger(file: &str, set: &[(&str, String)]) -> Ledger {
    let overrides = set.iter().fold(Overrides::default(), |all, (name, text)| {
        all.after(name, ServiceChange::Set(text.clone()), false).unwrap()
    });
    let mut ledger = Ledger::default();
    ledger.begin(Content { base: Arc::from(file), overrides: Arc::new(overrides) }, ChangeOrigin::default());
    ledger
}

fn anything(_: &Loaded) -> Result<(), String> {
    Ok(())
}

/// As on a machine that lacks what a service needs.
fn without(name: &'static str) -> impl Fn(&Loaded) -> Result<(), String> {
    move |wanted| if names(wanted).contains(&name) { Err("a file is gone".to_owned()) } else { Ok(()) }
}

#[test]
fn what_does_not_fit_is_given_up_and_what_was_said_of_others_holds() {
    let text = format!("{MACHINE}{}", service("web", 1, ""));
    let all: Vec<_> = ["api", "dns", "mail"].into_iter().zip(2..).collect();
    let all: Vec<_> = all.into_iter().map(|(name, last)| (name, service(name, last, ""))).collect();
    let ledger = ledger(&text, &all);
    let started = start(&loaded(&text), &ledger, &anything);
    assert_eq!(names(&started.loaded), ["web", "api", "dns", "mail"]);
    let started = start(&loaded(&text), &ledger, &without("dns"));
    assert_eq!(names(&started.loaded), ["web", "api", "mail"]);
    assert!(started.told[0].contains("given up (dns): a file is gone"), "{:?}", started.told);
    let held: Vec<_> = started.content.overrides.held().map(|(name, ..)| name).collect();
    assert_eq!(held, ["api", "mail"]);
    // What is wrong with the file itself is nobody's to mend here.
    let started = start(&loaded(&text), &ledger, &without("web"));
    assert_eq!(names(&started.loaded), ["web"]);
    assert!(started.content.overrides.is_empty());
}

#[test]
fn a_start_takes_what_a_reload_would_refuse() {
    let of = |hash| format!("state = \"exceptions\"\nhash = \"{hash}\"\n");
    let text = format!("{MACHINE}{}", service("web", 1, &of("tuple")));
    let ledger = ledger(&text, &[("web", service("web", 1, &of("source")))]);
    let started = start(&loaded(&text), &ledger, &anything);
    assert!(!loaded(&text).config.restart_keys(&started.loaded.config).is_empty());
    assert!(!started.content.overrides.is_empty(), "{:?}", started.told);
}

#[test]
fn however_much_does_not_fit_few_configurations_are_looked_at() {
    let text = format!("{MACHINE}{}", service("web", 1, ""));
    let all: Vec<String> = (0..300).map(|of| format!("s{of:03}")).collect();
    let all: Vec<_> =
        all.iter().zip(2..).map(|(name, last)| (name.as_str(), service(name, last, ""))).collect();
    let looks = Cell::new(0);
    let fits = |wanted: &Loaded| {
        looks.set(looks.get() + 1);
        let is_odd = |of: &&str| of.ends_with(['1', '3', '5', '7', '9']);
        if names(wanted).iter().any(is_odd) { Err("odd".to_owned()) } else { Ok(()) }
    };
    let started = start(&loaded(&text), &ledger(&text, &all), &fits);
    assert!((2..=TRIES_MAX).contains(&looks.get()), "{}", looks.get());
    assert!(names(&started.loaded).contains(&"web"));
}

#[test]
fn what_was_on_trial_is_not_begun_with_and_no_trial_outlives_a_start() {
    let (old, new) = (service("old", 1, ""), service("new", 2, ""));
    let (old, new) = (format!("{MACHINE}{old}"), format!("{MACHINE}{new}"));
    let mut ledger = ledger(&old, &[]);
    let on_trial = Content { base: Arc::from(new.as_str()), overrides: Arc::default() };
    ledger.doubt(&new).unwrap();
    ledger.record_on_trial(on_trial, ChangeOrigin::default(), 1_000);
    let ledger = Ledger::parse(&ledger.saved().bytes().unwrap()).unwrap();
    let started = start(&loaded(&new), &ledger, &anything);
    assert_eq!(names(&started.loaded), ["old"]);
    // Where that cannot be used, the file is, and for good: nobody watches a trial from before.
    let started = start(&loaded(&new), &ledger, &without("old"));
    assert_eq!(names(&started.loaded), ["new"]);
    assert!(started.told[0].contains("nobody has confirmed it"), "{:?}", started.told);
    let mut ledger = ledger;
    ledger.begin(started.content, ChangeOrigin::default());
    assert_eq!(ledger.trial(), None);
    assert!(ledger.may_change().is_ok());
}
