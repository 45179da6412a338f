//! A state file with anything in it, and what a machine makes of it when it starts. Fuzz targets and their seeds are made of it; no daemon
//! is built with it.
#![cfg_attr(not(feature = "rehearsal"), allow(unreachable_pub))]
#![allow(clippy::panic, reason = "a rehearsal that goes wrong has no other way to say so")]

use super::{Saved, SavedAddress, SavedBackend, SavedDrain, SavedRegistration, VERSION, parse, text};
use crate::agents::registry::AgentRegistry;
use crate::agents::rehearsal::{CONFIG, TOKEN, check_heard, config, facts};
use crate::ids::Ids;
use crate::ids::saved::SavedIds;
use model::config::{Backend, Config};
use model::registered::Registered;
use std::net::IpAddr;
use wire::Tick;

/// A file is refused with a reason, or read; then it is written as it was read, what it remembers of registrations is in force as
/// far as the configuration lets them in, and its ids are refused with a reason, or stay with those who bear them.
///
/// # Panics
/// It does not hold.
pub fn rehearse_state(file: &[u8]) {
    let saved = match parse(file) {
        Ok(saved) => saved,
        Err(reason) => return assert!(!reason.is_empty()),
    };
    let again = text(&saved).unwrap_or_else(|error| panic!("cannot be written: {error}"));
    assert_eq!(parse(&again).as_ref(), Ok(&saved), "what it writes it reads");
    let config = config(false);
    let mut registry = AgentRegistry::default();
    registry.configure(facts(&config, TOKEN), 0);
    registry.restore(saved.registrations.into_iter().map(|of| (of.registered, of.up)), 0);
    check_heard(&registry);
    let (config, _) = config.with_registered(&registry.received().alive);
    check_ids(&saved.ids, &config);
    if let Err(error) = crate::compile::offline(&config) {
        panic!("what was restored does not compile: {error}");
    }
    // Nobody speaks for them any more: all leases end.
    for second in 1..100 {
        registry.poll(second * 1_000);
        check_heard(&registry);
    }
}

/// Whoever of a configuration bore an id bears it again, and the others get ids that nobody bore.
fn check_ids(saved: &SavedIds, config: &Config) {
    let before = match Ids::restored(saved, Tick(0)) {
        Ok(ids) => ids,
        Err(reason) => return assert!(!reason.is_empty()),
    };
    let again = Ids::restored(&before.saved(), Tick(0)).map(|ids| ids.saved());
    assert_eq!(again, Ok(before.saved()), "what it saves it restores");
    let mut ids = before.clone();
    if let Err(error) = ids.assign(config, Tick(0), &|_| 0) {
        panic!("there are ids for these: {error}");
    }
    for service in &config.services {
        let (had, has) = (before.identified(service), ids.identified(service));
        assert!(has.is_some() && (had.is_none() || had == has), "{:?}", service.name);
        for of in &service.backends {
            let id = |ids: &Ids| ids.of(ids.identified(service)?, &of.name, of.address);
            let (had, has) = (id(&before), id(&ids));
            assert!(has.is_some() && (had.is_none() || had == has), "{:?}", of.name);
        }
    }
}

/// Ids of the configuration's services and backends, and of a backend that it has not.
pub(super) fn ids() -> SavedIds {
    let (mut ids, mut config) = (Ids::default(), config(false));
    for service in &mut config.services {
        let gone = service.backends.first().cloned();
        service.backends.extend(gone.map(|of| Backend { name: "gone".to_owned(), ..of }));
    }
    let assigned = ids.assign(&config, Tick(0), &|_| 0);
    assert!(assigned.is_ok(), "there are ids for so few");
    ids.saved()
}

fn registration(service: &str, backend: &str, address: [u8; 4]) -> SavedRegistration {
    let registered = Registered {
        service: service.to_owned(),
        backend: backend.to_owned(),
        address: IpAddr::from(address),
        incarnation: 5,
        agent: "h1".to_owned(),
        weight: 1,
        port: Some(80),
        capacity: None,
    };
    SavedRegistration { registered, up: true }
}

/// Inputs to begin with, named for what they are.
pub fn state_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let with = |registrations: Vec<SavedRegistration>| Saved {
        version: VERSION,
        saved_unix_ms: 5,
        config: Some(CONFIG.to_owned()),
        drains: vec![SavedDrain { service: "web".to_owned(), backend: "fix".to_owned() }],
        backends: vec![SavedBackend {
            service: "web".to_owned(),
            backend: "fix".to_owned(),
            address: IpAddr::from([10, 1, 9, 9]),
            up: true,
            since_unix_ms: 4,
        }],
        registrations,
        announced: vec![SavedAddress { address: IpAddr::from([203, 0, 113, 10]), length: 32 }],
        ids: ids().into(),
        flow_secrets: vec![7, 8],
        revisions: None,
    };
    let web = |n: u8| registration("web", &format!("w{n}"), [10, 1, 0, n]);
    let seed = |saved: &Saved| text(saved).unwrap_or_default();
    let good = with(vec![web(1), registration("db", "d1", [10, 1, 0, 9])]);
    let written = String::from_utf8(seed(&good)).unwrap_or_default();
    vec![
        ("good", seed(&good)),
        ("more_than_may_register", seed(&with((1..9).map(web).collect()))),
        ("two_of_one_address", seed(&with(vec![web(1), registration("web", "w2", [10, 1, 0, 1])]))),
        ("address_of_the_configuration", seed(&with(vec![registration("web", "w1", [10, 1, 9, 9])]))),
        ("unknown_service", seed(&with(vec![registration("gone", "w1", [10, 1, 0, 1])]))),
        ("address_not_allowed", seed(&with(vec![registration("web", "w1", [192, 0, 2, 1])]))),
        ("id_too_large", written.replace("\"id\": 0", "\"id\": 65536").into()),
        ("id_of_no_service", written.replace("\"service\": 1", "\"service\": 9").into()),
        ("service_id_zero", written.replace("\"id\": 1", "\"id\": 0").into()),
        ("vip_that_is_none", written.replace("\"vip\": \"", "\"vip\": \"x").into()),
        ("secret_too_long", written.replace("    7,", "    18446744073709551616,").into()),
        ("no_prefix", written.replace("\"length\": 32", "\"length\": 200").into()),
        ("other_version", written.replace("\"version\": 1", "\"version\": 2").into()),
        ("cut", written.as_bytes().iter().copied().take(written.len() / 2).collect()),
        ("empty", Vec::new()),
    ]
}

#[cfg(test)]
mod tests {
    use super::{rehearse_state, state_seeds};

    #[test]
    fn seeds_play() {
        let seeds = state_seeds();
        for (at, (name, seed)) in seeds.iter().enumerate() {
            println!("{name}");
            assert!(seeds[..at].iter().all(|(_, other)| other != seed), "{name} is what another is");
            rehearse_state(seed);
        }
    }
}
