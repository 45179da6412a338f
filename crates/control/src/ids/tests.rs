//! Ids against their promises, and a random life against a model.

use super::*;
use proptest::prelude::*;

/// Names and addresses.
type Backends<'a> = &'a [(&'a str, &'a str)];

fn config(services: &[(&str, &str, Backends<'_>)]) -> Config {
    let mut text = "[machine]\nname = \"m\"\naddress = \"10.9.9.9\"\nnext_hop_mac = \"02:00:00:00:00:01\"\n\
        [timeouts]\ntcp_established_s = 100\n[[port]]\nname = \"p\"\ndevice = \"net_null0\"\n"
        .to_owned();
    for (name, vip, backends) in services {
        text += &format!("[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nport = 80\n");
        for (name, address) in *backends {
            text += &format!("[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n");
        }
    }
    model::load("t", &text).map_err(|r| r.to_plain()).unwrap().config
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const NO_FLOWS: &dyn Fn(BackendId) -> u64 = &|_| 0;
const REST_US: u64 = 150_000_000;

#[test]
fn stable_while_identity_stays() {
    let mut ids = Ids::default();
    let one = config(&[
        ("a", "203.0.113.1", &[("x", "10.0.0.1"), ("y", "10.0.0.2")]),
        ("b", "203.0.113.2", &[("x", "10.0.0.1")]),
    ]);
    ids.assign(&one, Tick(0), NO_FLOWS).unwrap();
    let (a, b) = (ids.service("a").unwrap(), ids.service("b").unwrap());
    assert_eq!((a, b), (ServiceId(1), ServiceId(2)));
    let ax = ids.backend("a", "x", address("10.0.0.1")).unwrap();
    let bx = ids.backend("b", "x", address("10.0.0.1")).unwrap();
    assert_ne!(ax, bx, "a backend belongs to one service");
    assert_eq!(ids.backend("a", "x", address("10.0.0.2")), None);

    // Order does not matter; a new address is a new backend; a new VIP is a new service with new backends.
    let two = config(&[
        ("b", "203.0.113.9", &[("x", "10.0.0.1")]),
        ("a", "203.0.113.1", &[("y", "10.0.0.2"), ("x", "10.0.0.3")]),
    ]);
    ids.assign(&two, Tick(1), NO_FLOWS).unwrap();
    assert_eq!(ids.service("a"), Some(a));
    assert_ne!(ids.service("b"), Some(b));
    let moved = ids.backend("a", "x", address("10.0.0.3")).unwrap();
    assert_ne!(moved, ax);
    assert_eq!(ids.backend("a", "x", address("10.0.0.1")), Some(ax), "remembered");
    assert_ne!(ids.backend("b", "x", address("10.0.0.1")), Some(bx));
    assert_eq!(ids.remembered(), 2);

    ids.assign(&one, Tick(2), NO_FLOWS).unwrap();
    assert_eq!(
        (ids.service("b"), ids.backend("a", "x", address("10.0.0.1"))),
        (Some(b), Some(ax)),
        "it is itself again"
    );
}

#[test]
fn rest_before_reuse() {
    let with = config(&[("a", "203.0.113.1", &[("x", "10.0.0.1")])]);
    let without = config(&[("a", "203.0.113.1", &[])]);
    assert_eq!(forget_after_us(&with.timeouts), REST_US);
    let mut ids = Ids::default();
    ids.assign(&with, Tick(0), NO_FLOWS).unwrap();
    let x = ids.backend("a", "x", address("10.0.0.1")).unwrap();
    let known = |ids: &Ids| ids.backend("a", "x", address("10.0.0.1")) == Some(x);
    ids.forget(x);
    ids.assign(&with, Tick(5), NO_FLOWS).unwrap();
    assert_eq!(ids.remembered(), 0, "a configured backend is not forgotten");

    // Not forgotten: in the views, however long that takes.
    ids.assign(&without, Tick(10), NO_FLOWS).unwrap();
    ids.assign(&without, Tick(10 + 9 * REST_US), NO_FLOWS).unwrap();
    assert!(known(&ids));
    // Forgotten: the rest counts from the next assignment on.
    ids.forget(x);
    let start = 20 * REST_US;
    ids.assign(&without, Tick(start), NO_FLOWS).unwrap();
    ids.assign(&without, Tick(start + REST_US - 1), NO_FLOWS).unwrap();
    assert!(known(&ids));
    let flows = |id: BackendId| u64::from(id == x);
    ids.assign(&without, Tick(start + REST_US), &flows).unwrap();
    assert!(known(&ids), "a flow still names it");
    ids.assign(&without, Tick(start + REST_US), NO_FLOWS).unwrap();
    assert!(!known(&ids) && ids.remembered() == 0);
}

#[test]
fn services_rest_with_their_backends() {
    let with = config(&[("a", "203.0.113.1", &[("x", "10.0.0.1")]), ("b", "203.0.113.2", &[])]);
    let without = config(&[]);
    let mut ids = Ids::default();
    ids.assign(&with, Tick(0), NO_FLOWS).unwrap();
    let service = with.services[0].clone();
    let a = ids.service("a");
    let x = ids.backend("a", "x", address("10.0.0.1")).unwrap();
    ids.assign(&without, Tick(1), NO_FLOWS).unwrap();
    assert_eq!((ids.service("a"), ids.identified(&service)), (None, a));
    assert_eq!(
        ids.identified(&with.services[1]),
        None,
        "no flow can name a service that never had a backend"
    );
    ids.forget(x);
    ids.assign(&without, Tick(2), NO_FLOWS).unwrap();
    ids.assign(&without, Tick(2 + REST_US), NO_FLOWS).unwrap();
    assert_eq!(ids.identified(&service), None);
}

#[test]
fn full_house() {
    // Made from one backend: reading so many would be most of the test's time.
    let base =
        config(&[("a", "203.0.113.1", &[("x", "10.0.0.1")]), ("b", "203.0.113.2", &[("x", "10.0.0.1")])]);
    let filled = |services: &[&str], range: std::ops::Range<u32>| {
        let mut config = base.clone();
        config.services.retain(|service| services.contains(&service.name.as_str()));
        for service in &mut config.services {
            let backend = service.backends[0].clone();
            let backends = range.clone().map(|i| model::config::Backend {
                name: format!("b{i}"),
                address: IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0000 + i)),
                ..backend.clone()
            });
            service.backends = backends.collect();
        }
        config
    };
    let (one, two) = (filled(&["a", "b"], 0..15_000), filled(&["a", "b"], 15_000..30_000));
    let three = filled(&["a"], 30_000..40_000);
    let mut ids = Ids::default();
    ids.assign(&one, Tick(0), NO_FLOWS).unwrap();
    ids.assign(&two, Tick(1), NO_FLOWS).unwrap();
    let error = ids.clone().assign(&three, Tick(2), NO_FLOWS).unwrap_err();
    assert!(matches!(error, NoId::Backend { remembered: 60_000.. }), "{error}");
    for backend in &one.services[0].backends {
        ids.forget(ids.backend("a", &backend.name, backend.address).unwrap());
    }
    assert_eq!(ids.remembered(), 30_000);
    ids.assign(&two, Tick(3), NO_FLOWS).unwrap();
    let rest_us = forget_after_us(&two.timeouts);
    assert!(ids.clone().assign(&three, Tick(2 + rest_us), NO_FLOWS).is_err(), "they rest");
    ids.assign(&three, Tick(3 + rest_us), NO_FLOWS).unwrap();
    let known: std::collections::HashSet<BackendId> =
        ids.backends.values().flatten().map(|entry| entry.id).collect();
    assert_eq!(known.len(), 15_000 + 30_000 + 10_000);
    assert_eq!(known, ids.places.keys().copied().collect());
}

#[test]
fn what_is_gone_is_let_go_when_there_is_no_other_id() {
    let base = config(&[("a", "203.0.113.1", &[("x", "10.0.0.1")])]);
    let with = |range: std::ops::Range<u32>| {
        let mut config = base.clone();
        let backend = config.services[0].backends.remove(0);
        config.services[0].backends.extend(range.map(|i| model::config::Backend {
            name: format!("b{i}"),
            address: IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0000 + i)),
            ..backend.clone()
        }));
        config
    };
    let most = u32::try_from(BACKENDS_MAX).unwrap();
    let mut ids = Ids::default();
    ids.assign(&with(0..most), Tick(0), NO_FLOWS).unwrap();
    let before = Ids::restored(&ids.saved(), Tick(5)).unwrap();
    // Half stays, half is new: all ids are remembered, and those of half of them are needed.
    let now = with(most / 2..most / 2 + most);
    let mut ids = before.clone();
    ids.assign(&now, Tick(5), NO_FLOWS).unwrap();
    let mut given = HashSet::new();
    for of in &now.services[0].backends {
        let (had, has) = (before.backend_of(&now, of), ids.backend_of(&now, of).unwrap());
        assert!(has.index() < BACKENDS_MAX && given.insert(has) && had.is_none_or(|had| had == has));
    }
    assert_eq!((given.len(), ids.remembered()), (BACKENDS_MAX, 0));
    // Not while flows name it: they may be put back into the flow tables after the restart.
    let busy = before.backend_of(&base, &with(0..1).services[0].backends[0]).unwrap();
    let refused = before.clone().assign(&now, Tick(5), &|id| u64::from(id == busy));
    assert!(matches!(refused, Err(NoId::Backend { remembered: 1 })), "{refused:?}");
}

#[test]
fn files_that_mix_bearers_up_are_refused() {
    let mut ids = Ids::default();
    let two = config(&[
        ("a", "203.0.113.1", &[("x", "10.0.0.1"), ("y", "10.0.0.2")]),
        ("b", "203.0.113.0/24", &[("x", "10.0.0.1")]),
    ]);
    ids.assign(&two, Tick(0), NO_FLOWS).unwrap();
    let good = serde_json::to_string(&ids.saved()).unwrap();
    let read = |text: &str| Ids::restored(&serde_json::from_str(text).unwrap(), Tick(0));
    assert_eq!(read(&good).unwrap().saved(), ids.saved());
    for (from, to, reason) in [
        ("\"id\":2,\"name\":\"b\"", "\"id\":1,\"name\":\"b\"", "two services have one id"),
        ("\"id\":2,\"name\":\"b\"", "\"id\":0,\"name\":\"b\"", "has the id 0"),
        ("\"id\":2,\"name\":\"b\"", "\"id\":4097,\"name\":\"b\"", "has the id 4097"),
        (
            "\"name\":\"b\",\"vip\":\"203.0.113.0/24\"",
            "\"name\":\"a\",\"vip\":\"203.0.113.1\"",
            "has two ids",
        ),
        ("203.0.113.0/24", "203.0.113.0/33", "the VIP"),
        ("\"id\":1,\"service\"", "\"id\":0,\"service\"", "or 0 two bearers"),
        ("\"id\":1,\"service\"", "\"id\":65536,\"service\"", "has the id 65536"),
        ("\"service\":2", "\"service\":3", "in service 3"),
        ("\"name\":\"y\",\"address\":\"10.0.0.2\"", "\"name\":\"x\",\"address\":\"10.0.0.1\"", "has two ids"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        let refused = read(&bad).unwrap_err();
        assert!(refused.contains(reason), "{to}: {refused}");
    }
}

impl Ids {
    /// Id of a backend of a configuration's first service.
    fn backend_of(&self, config: &Config, of: &model::config::Backend) -> Option<BackendId> {
        self.of(self.identified(&config.services[0])?, &of.name, of.address)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Backends come and go at random. At any time no two identities that are known share an id, and an id does not
    /// change its bearer before its rest is over.
    #[test]
    fn one_bearer_at_a_time(steps in prop::collection::vec((any::<u8>(), any::<u8>(), 0..200u64), 1..30)) {
        let pool: Vec<(String, String)> = (0..8).map(|i| (format!("b{}", i % 5), format!("10.0.0.{}", i + 1))).collect();
        let mut ids = Ids::default();
        let mut now = 0;
        let mut bearers: HashMap<BackendId, (String, String)> = HashMap::new();
        for (mask, forgotten, seconds) in steps {
            now += seconds * 1_000_000;
            let mut chosen: Vec<(&str, &str)> = Vec::new();
            for (bit, (name, at)) in pool.iter().enumerate() {
                if mask >> bit & 1 == 1 && chosen.iter().all(|(n, _)| n != name) {
                    chosen.push((name, at));
                }
            }
            ids.assign(&config(&[("a", "203.0.113.1", &chosen)]), Tick(now), NO_FLOWS).unwrap();
            let mut known = HashMap::new();
            for (name, at) in &pool {
                if let Some(id) = ids.backend("a", name, address(at)) {
                    prop_assert_eq!(known.insert(id, (name.clone(), at.clone())), None);
                }
            }
            for (name, at) in &chosen {
                prop_assert!(known.values().any(|(n, a)| n == name && a == at));
            }
            for (id, bearer) in &known {
                // Ids are plenty here, so that none needs to be given twice at all.
                let before = bearers.insert(*id, bearer.clone());
                prop_assert!(before.is_none_or(|before| before == *bearer));
            }
            for (bit, id) in known.keys().enumerate() {
                if forgotten >> (bit % 8) & 1 == 1 {
                    ids.forget(*id);
                }
            }
        }
    }

    /// Restarts among changes, against a book of who bears what: whoever is in the book and in the configuration has the id that it had, and
    /// nobody gets one that is in the book.
    #[test]
    fn a_restart_keeps_ids_and_gives_none_twice(
        steps in prop::collection::vec((any::<u16>(), any::<bool>(), any::<bool>(), 0..200u64), 1..20),
    ) {
        let mut ids = Ids::default();
        let mut now = 0;
        let mut book: HashMap<(String, String), BackendId> = HashMap::new();
        for (mask, restarts, disowns, seconds) in steps {
            now += seconds * 1_000_000;
            if restarts {
                // The workers' clock begins anew.
                now = seconds;
                ids = Ids::restored(&ids.saved(), Tick(now)).unwrap();
                // What was let go before is in nobody's book.
                book.retain(|_, id| ids.places.contains_key(id));
            }
            let named = |service: &str, bits: u16| -> Vec<(String, String)> {
                let bits = (0..8).filter(|bit| bits >> bit & 1 == 1);
                bits.map(|bit| (format!("{service}{bit}"), format!("10.0.0.{}", bit + 1))).collect()
            };
            let [low, high] = mask.to_le_bytes();
            let (a, b) = (named("a", low.into()), named("b", high.into()));
            let (of_a, of_b): (Vec<_>, Vec<_>) = (
                a.iter().map(|(n, at)| (n.as_str(), at.as_str())).collect(),
                b.iter().map(|(n, at)| (n.as_str(), at.as_str())).collect(),
            );
            let config = config(&[("a", "203.0.113.1", &of_a), ("b", "203.0.113.2", &of_b)]);
            ids.assign(&config, Tick(now), NO_FLOWS).unwrap();
            let remembered: HashSet<BackendId> = book.values().copied().collect();
            for (service, name, at) in
                of_a.iter().map(|(n, at)| ("a", n, at)).chain(of_b.iter().map(|(n, at)| ("b", n, at)))
            {
                let id = ids.backend(service, name, address(at)).unwrap();
                prop_assert!(id.index() < BACKENDS_MAX);
                let bearer = (service.to_owned(), (*name).to_owned());
                match book.get(&bearer) {
                    Some(had) => prop_assert_eq!(*had, id),
                    None => prop_assert!(!remembered.contains(&id)),
                }
                book.insert(bearer, id);
            }
            let distinct: HashSet<BackendId> = book.values().copied().collect();
            prop_assert_eq!(distinct.len(), book.len());
            if disowns && let Some(bearer) = book.keys().min().cloned() {
                ids.disown(book[&bearer]);
                // Nobody's, and nobody else's before its time is over.
                let id = book.remove(&bearer).unwrap_or_default();
                book.insert(("nobody".to_owned(), id.0.to_string()), id);
            }
            book.retain(|_, id| ids.places.contains_key(id));
        }
    }
}
