//! Registrations in a configuration: what fits, what does not, and what never depends on their order.

use super::*;
use proptest::prelude::*;

const TEXT: &str = r#"[machine]
name = "lb1"
address = "10.0.2.11"
outer_source_prefix4 = "10.1.9.0/24"
next_hop_mac = "02:00:00:00:00:01"
cluster_key = "7d0c3a9be1d24776a8b9c0d1e2f30415"
[agents]
listen = "10.0.2.11:7481"
[[port]]
name = "data0"
device = "net_null0"
[[service]]
name = "web"
vip = "203.0.113.10"
port = 80
maglev_size = 251
capacity = 500
weight = "load"
[service.agents]
token_file = "/token"
[service.agents.register]
addresses = ["10.1.0.0/16", "10.0.2.0/24", "203.0.113.0/24", "127.0.0.0/8", "fd00::/64"]
names = "w*"
ports = ["8000-8001"]
limit = 3
weight_max = 10
[service.health]
kind = "tcp"
via = "eth0"
port = 81
[[service.backend]]
name = "wfix"
address = "10.1.0.1"
[[service]]
name = "closed"
vip = "203.0.113.11"
port = 80
[[service.backend]]
name = "b"
address = "10.1.0.1"
"#;

fn config() -> Config {
    crate::load("t", TEXT).map_err(|report| report.to_plain()).unwrap().config
}

fn of(backend: &str, address: &str) -> Registered {
    Registered {
        service: "web".to_owned(),
        backend: backend.to_owned(),
        address: address.parse().unwrap(),
        incarnation: 7,
        agent: "host1".to_owned(),
        weight: 1,
        port: None,
        capacity: None,
    }
}

#[test]
fn behind_the_configured_ones_in_order() {
    let one = Registered { weight: 9, port: Some(8001), capacity: Some(77), ..of("w2", "10.1.0.2") };
    let two = of("w1", "10.1.0.3");
    let (merged, skipped) = config().with_registered(&[one.clone(), two.clone()]);
    assert_eq!(skipped, []);
    let web = &merged.services[0];
    let names: Vec<_> = web.backends.iter().map(|backend| backend.name.as_str()).collect();
    assert_eq!(names, ["wfix", "w1", "w2"]);
    assert_eq!((web.backends[1].capacity, web.backends[2].capacity, web.backends[2].weight), (500, 77, 9));
    assert_eq!((web.check_port(&web.backends[1]), web.check_port(&web.backends[2])), (81, 8001));
    assert_eq!(merged.registered(), [two.clone(), one]);
    assert_eq!(merged.services[1], config().services[1]);
    assert_eq!(merged.with_registered(&[]).0, config());
    assert_eq!(merged.with_registered(std::slice::from_ref(&two)), config().with_registered(&[two]));
}

#[test]
fn what_does_not_fit_is_said() {
    let cases = [
        (Registered { service: "none".into(), ..of("w1", "10.1.0.2") }, RefusalCode::Service),
        (Registered { service: "closed".into(), ..of("w1", "10.1.0.2") }, RefusalCode::Service),
        (of("x1", "10.1.0.2"), RefusalCode::Template),
        (of("w 1", "10.1.0.2"), RefusalCode::Template),
        (Registered { agent: String::new(), ..of("w1", "10.1.0.2") }, RefusalCode::Template),
        (of("w1", "10.2.0.2"), RefusalCode::Template),
        (of("w1", "fd00::1"), RefusalCode::Template),
        (of("w1", "127.0.0.1"), RefusalCode::Template),
        (of("w1", "10.0.2.11"), RefusalCode::Template),
        (of("w1", "203.0.113.11"), RefusalCode::Template),
        (of("w1", "10.1.9.2"), RefusalCode::Template),
        (Registered { port: Some(8002), ..of("w1", "10.1.0.2") }, RefusalCode::Template),
        (Registered { port: Some(0), ..of("w1", "10.1.0.2") }, RefusalCode::Template),
        (Registered { weight: 0, ..of("w1", "10.1.0.2") }, RefusalCode::Template),
        (Registered { weight: 11, ..of("w1", "10.1.0.2") }, RefusalCode::Template),
        (Registered { capacity: Some(0), ..of("w1", "10.1.0.2") }, RefusalCode::Template),
        (Registered { capacity: Some(CAPACITY_MAX + 1), ..of("w1", "10.1.0.2") }, RefusalCode::Template),
        (of("wfix", "10.1.0.2"), RefusalCode::Claimed),
        (of("w1", "10.1.0.1"), RefusalCode::Claimed),
    ];
    for (registered, code) in cases {
        let (merged, skipped) = config().with_registered(std::slice::from_ref(&registered));
        assert_eq!(merged, config(), "{registered:?}");
        assert_eq!(skipped.len(), 1, "{registered:?}");
        assert_eq!(skipped[0].why.code, code, "{registered:?}: {:?}", skipped[0].why);
        assert!(!skipped[0].why.reason.is_empty() && !skipped[0].why.help.is_empty());
    }
    for port in [80, 81, 8000] {
        let registered = Registered { port: Some(port), ..of("w1", "10.1.0.2") };
        assert_eq!(config().with_registered(&[registered]).1, []);
    }
}

#[test]
fn limits_are_exact() {
    let all: Vec<_> = (1..=4).map(|at| of(&format!("w{at}"), &format!("10.1.1.{at}"))).collect();
    assert_eq!(config().with_registered(&all[..3]).1, []);
    let (merged, skipped) = config().with_registered(&all);
    assert_eq!(merged.registered(), all[..3]);
    assert_eq!(
        (skipped.len(), skipped[0].why.code, &skipped[0].registered),
        (1, RefusalCode::Limit, &all[3])
    );
    let mut config = config();
    config.services[0].agents.as_mut().unwrap().register.as_mut().unwrap().limit = 60_000;
    assert_eq!(
        RegistrationRules::of(&config).limit("web"),
        249,
        "the table has 251 slots and one configured backend"
    );
    assert_eq!(RegistrationRules::of(&config).limit_of_all(), 65_534);
    assert_eq!(RegistrationRules::of(&config).limit("closed"), 0);
}

fn any_registered() -> impl Strategy<Value = Registered> {
    let name = prop_oneof![Just("wfix".to_owned()), "w[1-5]", "x"];
    let address = prop_oneof![
        (0..6_u8).prop_map(|at| IpAddr::from([10, 1, 0, at])),
        Just(IpAddr::from([10, 0, 2, 11])),
        Just("fd00::1".parse().unwrap())
    ];
    let service = prop_oneof![4 => Just("web"), 1 => Just("closed"), 1 => Just("none")];
    (
        service,
        name,
        address,
        0..3_u64,
        "h[1-2]",
        0..12_u32,
        prop_oneof![Just(None), (79..82_u16).prop_map(Some)],
    )
        .prop_map(|(service, backend, address, incarnation, agent, weight, port)| Registered {
            service: service.to_owned(),
            backend,
            address,
            incarnation,
            agent,
            weight,
            port,
            capacity: (weight == 3).then_some(9),
        })
}

proptest! {
    /// Whatever registers: the order does not matter, nothing is lost or doubled, the configured backends
    /// stay, and what comes out would pass the checks of a written configuration.
    #[test]
    fn merged_configurations_hold(mut all in proptest::collection::vec(any_registered(), 0..12), seed in any::<usize>()) {
        let (merged, skipped) = config().with_registered(&all);
        let registered = merged.registered();
        let mut accounted: Vec<_> = registered.iter().chain(skipped.iter().map(|of| &of.registered)).cloned().collect();
        accounted.sort();
        let mut given = all.clone();
        given.sort();
        prop_assert_eq!(&accounted, &given);
        let length = all.len().max(1);
        all.rotate_left(seed % length);
        prop_assert_eq!(config().with_registered(&all), (merged.clone(), skipped));
        prop_assert_eq!(config().with_registered(&registered), (merged.clone(), vec![]));
        for (before, after) in config().services.iter().zip(&merged.services) {
            prop_assert_eq!(&after.backends[..before.backends.len()], &before.backends[..]);
            let names: HashSet<_> = after.backends.iter().map(|backend| &backend.name).collect();
            let addresses: HashSet<_> = after.backends.iter().map(|backend| backend.address).collect();
            prop_assert_eq!((names.len(), addresses.len()), (after.backends.len(), after.backends.len()));
            let template = after.agents.as_ref().and_then(|agents| agents.register.as_ref());
            prop_assert!(registered.iter().filter(|of| of.service == after.name).count() <= template.map_or(0, |of| of.limit as usize));
        }
        let rest = Config { services: config().services, ..merged.clone() };
        prop_assert_eq!(rest, config());
    }

    /// Taking one away changes nothing of the others unless something was left out before.
    #[test]
    fn removals_are_local(all in proptest::collection::vec(any_registered(), 1..8)) {
        let (merged, _) = config().with_registered(&all);
        let mut registered = merged.registered();
        if registered.pop().is_some() {
            let (less, skipped) = config().with_registered(&registered);
            prop_assert_eq!(skipped, vec![]);
            prop_assert_eq!(less.registered(), registered);
        }
    }
}
