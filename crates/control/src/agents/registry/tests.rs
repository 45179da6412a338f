//! The registry alone: every refusal, the life of a backend step by step, and invariants under whatever is said.

use super::*;
use crate::agents::hello::Greeting;
use crate::agents::hello::tests::{NOW_UNIX_MS, TOKEN, greeting as hello_for};
use model::agent::digest;
use proptest::prelude::*;
use std::net::SocketAddr;

fn config(more: &str) -> model::Config {
    let text = format!(
        r#"[machine]
name = "lb1"
address = "10.0.2.11"
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
agents = {{ token_file = "/t", register = {{ addresses = ["10.1.0.0/16"], limit = 4 }} }}
health = {{ kind = "tcp", via = "eth0", fall = 2{more} }}
backend = [{{ name = "fix", address = "10.1.9.9" }}]
[[service]]
name = "db"
vip = "203.0.113.11"
port = 80
agents = {{ token_file = "/t", lease_ms = 5000 }}
health = {{ kind = "tcp", via = "eth0" }}
"#
    );
    model::load("t", &text).map_err(|report| report.to_plain()).unwrap().config
}

fn facts(config: &model::Config) -> Facts {
    let tokens = ["web", "db"].map(|name| (name.to_owned(), TOKEN.to_vec()));
    Facts::of(config, &tokens.into_iter().collect())
}

fn registry() -> AgentRegistry {
    let mut registry = AgentRegistry::default();
    registry.configure(facts(&config("")), 0);
    registry
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 1, 0, last])
}

/// What the listener does with a hello, and what the registry hears of it.
fn greet(registry: &mut AgentRegistry, greeting: Greeting, now_ms: u64) {
    match greeting.verify(registry.tokens()) {
        Ok((hello, _)) => registry.hello(hello, now_ms),
        Err(unproved) => registry.unproved(&unproved, now_ms),
    }
}

fn hello(id: u64, agent: &str, incarnation: u64, addresses: &[u8]) -> Greeting {
    let addresses: Vec<IpAddr> = addresses.iter().map(|last| ip(*last)).collect();
    hello_for(id, agent, incarnation, &addresses, &["web"])
}

fn register(backend: &str, address: u8, incarnation: u64) -> ToMachine {
    ToMachine::Register {
        service: "web".to_owned(),
        backend: backend.to_owned(),
        address: ip(address),
        incarnation,
        weight: 1,
        port: None,
        capacity: None,
    }
}

fn result(backend: &str, address: u8, up: bool) -> BackendReport {
    let (service, backend, reason) = ("web".to_owned(), backend.to_owned(), "r".to_owned());
    BackendReport { service, backend, address: ip(address), up, reason }
}

fn report(sequence: u64, backend: &str, address: u8, up: bool) -> ToMachine {
    ToMachine::Report { sequence, full: false, results: vec![result(backend, address, up)] }
}

fn key(backend: &str) -> BackendKey {
    ("web".to_owned(), backend.to_owned())
}

/// Codes of refusals among what is to be done.
fn refusals(acts: &[Act]) -> Vec<RefusalCode> {
    let code = |act: &Act| match act {
        Act::Tell(_, ToAgent::Refused { code, reason, help, .. }) => {
            assert!(!reason.is_empty() && !help.is_empty());
            Some(*code)
        }
        _ => None,
    };
    acts.iter().filter_map(code).collect()
}

/// An agent that is connected, with a backend that is up and in force.
fn with_w1() -> AgentRegistry {
    let mut registry = registry();
    greet(&mut registry, hello(1, "h1", 1, &[1, 2]), 0);
    registry.message(SessionId(1), register("w1", 1, 5), 1);
    registry.poll(2);
    registry.message(SessionId(1), report(1, "w1", 1, true), 3);
    let alive = registry.received().alive;
    assert_eq!(alive.len(), 1);
    registry.agreed(&alive, 4);
    registry.take_acts();
    registry
}

#[test]
fn a_name_is_that_of_who_has_its_token() {
    let other = |id, incarnation| {
        let mut hello = hello_for(id, "h1", incarnation, &[ip(9)], &["db"]);
        hello.peer = SocketAddr::from(([10, 1, 0, 9], 999));
        hello
    };
    let mut registry = with_w1();
    // With the token of another service, and an incarnation as new as can be: nothing happens to the agent that has the name.
    greet(&mut registry, other(2, NOW_UNIX_MS), 10);
    let acts = registry.take_acts();
    assert_eq!(refusals(&acts), [RefusalCode::Claimed], "{acts:?}");
    assert!(
        acts.contains(&Act::Close(SessionId(2))) && !acts.contains(&Act::Close(SessionId(1))),
        "{acts:?}"
    );
    assert!(registry.sessions().contains_key(&SessionId(1)));
    // It is not shut out by what the other said, and both tokens together are enough.
    greet(&mut registry, hello(3, "h1", 2, &[1, 2]), 11);
    assert!(registry.sessions().contains_key(&SessionId(3)), "{:?}", registry.take_acts());
    greet(&mut registry, hello_for(4, "h1", 3, &[ip(1), ip(2)], &["db", "web"]), 12);
    assert!(registry.sessions().contains_key(&SessionId(4)), "{:?}", registry.take_acts());
    // A name that nobody uses any more is free.
    let mut idle = self::registry();
    greet(&mut idle, hello(1, "h1", 1, &[1]), 0);
    idle.closed(SessionId(1), 1);
    greet(&mut idle, other(2, 2), 2);
    assert!(idle.sessions().contains_key(&SessionId(2)), "{:?}", idle.take_acts());
}

#[test]
fn hellos_that_are_refused() {
    // What proves nothing is counted, and told as an event.
    let mut registry = registry();
    greet(&mut registry, Greeting { incarnation: 6, ..hello(9, "h1", 5, &[1]) }, 0);
    assert!(matches!(&registry.take_acts()[..], [Act::Event(EventKind::RegistrationRefused, ..)]));
    assert!(registry.counts.refusals().all(|(code, count)| count == u64::from(code == "proof")));
    assert!(registry.sessions().is_empty());
    // Proved with a token that is another one by now.
    let (before, _) = hello(9, "h1", 5, &[1]).verify(registry.tokens()).unwrap();
    let tokens = [("web".to_owned(), b"another token of tests".to_vec())];
    registry.configure(Facts::of(&config(""), &tokens.into_iter().collect()), 1);
    registry.hello(before, 2);
    let acts = registry.take_acts();
    assert_eq!(refusals(&acts), [RefusalCode::Proof]);
    assert!(acts.contains(&Act::Close(SessionId(9))) && registry.sessions().is_empty(), "{acts:?}");
    // One of two services is not proved: the connection stays.
    let mut registry = self::registry();
    greet(&mut registry, hello_for(1, "h1", 5, &[ip(1)], &["web", "none"]), 0);
    let acts = registry.take_acts();
    assert_eq!(refusals(&acts), [RefusalCode::Service]);
    assert!(!acts.contains(&Act::Close(SessionId(1))));
    // The same start, or an older one, while it lives; the same one afterwards is welcome, an older one never.
    for (incarnation, expected) in [(5, vec![RefusalCode::Stale]), (4, vec![RefusalCode::Stale])] {
        greet(&mut registry, hello(2, "h1", incarnation, &[1]), 1);
        assert_eq!(refusals(&registry.take_acts()), expected);
    }
    registry.closed(SessionId(1), 2);
    greet(&mut registry, hello(3, "h1", 4, &[1]), 3);
    assert_eq!(refusals(&registry.take_acts()), [RefusalCode::Stale]);
    greet(&mut registry, hello(4, "h1", 5, &[1]), 4);
    assert_eq!(refusals(&registry.take_acts()), []);
    assert_eq!(registry.sessions().len(), 1);
}

#[test]
fn registrations_that_are_refused() {
    let mut registry = with_w1();
    greet(&mut registry, hello(2, "h2", 1, &[1, 3, 4, 5, 6]), 5);
    registry.take_acts();
    let of = |service: &str, address: IpAddr, weight: u32, port: Option<u16>| ToMachine::Register {
        service: service.to_owned(),
        backend: "x".to_owned(),
        address,
        incarnation: 1,
        weight,
        port,
        capacity: None,
    };
    let mut refused = |id: u64, message: ToMachine| {
        registry.message(SessionId(id), message, 6);
        refusals(&registry.take_acts())
    };
    assert_eq!(refused(2, of("db", ip(3), 1, None)), [RefusalCode::Service], "not proved");
    assert_eq!(refused(2, of("web", ip(2), 1, None)), [RefusalCode::Template], "another host's address");
    assert_eq!(refused(2, of("web", ip(3), 101, None)), [RefusalCode::Template]);
    assert_eq!(refused(2, of("web", ip(3), 1, Some(81))), [RefusalCode::Template]);
    assert_eq!(refused(2, register("w1", 3, 9)), [RefusalCode::Claimed], "the name is another agent's");
    assert_eq!(refused(2, register("w9", 1, 9)), [RefusalCode::Claimed], "so is the address");
    assert_eq!(refused(2, register("fix", 3, 9)), [RefusalCode::Claimed], "the configuration's");
    assert_eq!(refused(1, register("w1", 1, 4)), [RefusalCode::Stale]);
    assert_eq!(refused(1, register("w1", 2, 5)), [RefusalCode::Stale], "the same start elsewhere");
    assert_eq!(refused(1, register("w2", 1, 5)), [RefusalCode::Claimed], "the same start under another name");
    for address in 3..6 {
        assert_eq!(refused(2, register(&format!("n{address}"), address, 1)), []);
    }
    assert_eq!(refused(2, register("n6", 6, 1)), [RefusalCode::Limit]);
    let deregister = |backend: &str, address| ToMachine::Deregister {
        service: "web".to_owned(),
        backend: backend.to_owned(),
        address: ip(address),
    };
    assert_eq!(refused(2, deregister("w1", 1)), [RefusalCode::Claimed]);
    assert_eq!(registry.received().alive.len(), 1);
    // Suspects are still nobody else's.
    registry.closed(SessionId(1), 7);
    registry.message(SessionId(2), register("w1", 3, 99), 8);
    assert_eq!(refusals(&registry.take_acts()), [RefusalCode::Claimed]);
    let told = registry.counts.refusals().find(|(word, _)| *word == "claimed");
    assert_eq!(told, Some(("claimed", 6)));
}

#[test]
fn messages_that_end_the_connection() {
    let long = BackendReport { reason: "x".repeat(REASON_MAX + 1), ..result("w1", 1, true) };
    let load = Load {
        service: "web".to_owned(),
        backend: "w1".to_owned(),
        cpu_permille: Some(PERMILLE_MAX + 1),
        connections: None,
        custom_permille: None,
    };
    let many = (0..=4096).map(|at| result(&format!("b{at}"), 1, true)).collect();
    for message in [
        ToMachine::Hello {
            version: 1,
            agent: "h1".to_owned(),
            nonce: String::new(),
            incarnation: 9,
            addresses: vec![],
            proofs: vec![],
        },
        ToMachine::Report { sequence: 2, full: false, results: vec![long] },
        ToMachine::Report { sequence: 2, full: false, results: many },
        ToMachine::Heartbeat { sequence: 1, digest: String::new(), loads: vec![load] },
    ] {
        let mut registry = with_w1();
        registry.message(SessionId(1), message, 5);
        let acts = registry.take_acts();
        assert_eq!(refusals(&acts), [RefusalCode::Malformed]);
        assert!(acts.contains(&Act::Close(SessionId(1))));
        assert_eq!(registry.held()[&key("w1")].phase, Phase::Suspect);
    }
}

#[test]
fn repeating_changes_nothing_and_figures_do() {
    let mut registry = with_w1();
    let before = registry.received();
    registry.message(SessionId(1), register("w1", 1, 5), 9);
    assert!(!registry.take_acts().contains(&Act::Received));
    assert_eq!(registry.received(), before);
    let ToMachine::Register { service, backend, address, incarnation, .. } = register("w1", 1, 5) else {
        panic!()
    };
    let other = ToMachine::Register {
        service,
        backend,
        address,
        incarnation,
        weight: 9,
        port: None,
        capacity: Some(4),
    };
    registry.message(SessionId(1), other, 10);
    assert!(registry.take_acts().contains(&Act::Received));
    let alive = registry.received().alive;
    assert_eq!((alive.len(), alive[0].weight, alive[0].capacity), (1, 9, Some(4)));
}

#[test]
fn a_newer_start_is_checked_before_it_replaces() {
    let mut registry = with_w1();
    registry.message(SessionId(1), register("w1", 1, 6), 9);
    let acts = registry.take_acts();
    assert!(acts.iter().any(|act| matches!(act, Act::Verdict { up: false, .. })), "{acts:?}");
    assert_eq!(registry.received().alive[0].incarnation, 5, "the old one holds its place");
    assert_eq!(registry.verdict("web", "w1", ip(1)).map(|(up, _)| up), Some(false));
    registry.message(SessionId(1), report(2, "w1", 1, true), 10);
    assert_eq!(registry.received().alive[0].incarnation, 6);
    // Elsewhere: the old one is over, the new one begins.
    registry.message(SessionId(1), register("w1", 2, 7), 11);
    let heard = registry.received();
    assert_eq!((heard.alive.len(), heard.over.len(), heard.over[0].why), (0, 1, EndReason::Deregistered));
    assert_eq!(heard.over[0].registered.address, ip(1));
    registry.agreed(&[], 12);
    assert_eq!(registry.received(), Received::default());
    assert_eq!(registry.held()[&key("w1")].phase, Phase::Registered);
}

#[test]
fn a_suspect_that_passes_stays_and_one_that_fails_goes() {
    let mut registry = with_w1();
    registry.poll(3002);
    assert!(registry.take_acts().iter().all(|act| !matches!(act, Act::Close(_))));
    registry.poll(3003);
    let acts = registry.take_acts();
    assert!(
        acts.contains(&Act::Close(SessionId(1))) && acts.contains(&Act::HealthSource(key("w1"))),
        "{acts:?}"
    );
    assert_eq!(registry.checker("web", "w1", ip(1)), CheckedBy::Suspect { from_ms: 3003 });
    for (passed, gone) in
        [(false, false), (true, false), (false, false), (true, false), (false, false), (false, true)]
    {
        registry.observed(&key("w1"), ip(1), passed, "refused");
        assert_eq!(registry.held().is_empty(), gone);
    }
    let heard = registry.received();
    assert_eq!((heard.alive.len(), heard.over[0].why), (0, EndReason::Dead));
    // It is told until it is not in force any more.
    let over = heard.over[0].registered.clone();
    registry.agreed(&[over], 3100);
    assert_eq!(registry.received().over.len(), 1);
    registry.agreed(&[], 3200);
    assert_eq!(registry.received(), Received::default());
}

#[test]
fn an_agent_that_is_back_is_heeded_from_its_first_report_on() {
    let mut registry = with_w1();
    registry.closed(SessionId(1), 100);
    greet(&mut registry, hello(2, "h1", 1, &[1]), 200);
    registry.message(SessionId(2), register("w1", 1, 5), 201);
    registry.poll(202);
    assert!(matches!(registry.checker("web", "w1", ip(1)), CheckedBy::Suspect { .. }));
    // Meanwhile own checks fail: down, perhaps, and not gone, for its agent is there.
    for _ in 0..5 {
        registry.observed(&key("w1"), ip(1), false, "refused");
    }
    registry.take_acts();
    registry.message(SessionId(2), report(1, "w1", 1, true), 203);
    assert_eq!(registry.checker("web", "w1", ip(1)), CheckedBy::Agent);
    let acts = registry.take_acts();
    assert!(acts.iter().any(|act| matches!(act, Act::Verdict { up: true, .. })), "{acts:?}");
    assert_eq!(registry.held()[&key("w1")].phase, Phase::Up);
}

#[test]
fn what_others_agreed_on_is_checked_here_too() {
    let mut registry = registry();
    let of = |backend: &str, address: u8| Registered {
        service: "web".to_owned(),
        backend: backend.to_owned(),
        address: ip(address),
        incarnation: 1,
        agent: "h7".to_owned(),
        weight: 1,
        port: None,
        capacity: None,
    };
    registry.agreed(&[of("w7", 7), of("w8", 8)], 10);
    assert_eq!(registry.checker("web", "w7", ip(7)), CheckedBy::Suspect { from_ms: 10 });
    assert_eq!(registry.received().alive.len(), 2);
    registry.agreed(&[of("w8", 8)], 20);
    assert_eq!(registry.held().len(), 1);
    // Another machine's taking of what is suspect here and of what this one has never heard alive.
    greet(&mut registry, hello(1, "h7", 1, &[8]), 30);
    registry.message(SessionId(1), register("w8", 8, 1), 31);
    assert_eq!(refusals(&registry.take_acts()), []);
}

#[test]
fn configured_backends_are_asked_of_the_agents_of_their_hosts() {
    let mut registry = registry();
    let host = IpAddr::from([10, 1, 9, 9]);
    greet(&mut registry, hello_for(1, "h1", 1, &[host], &["web"]), 0);
    registry.poll(1);
    let asked = registry.take_acts().into_iter().find_map(|act| match act {
        Act::Tell(_, ToAgent::Checks { backends, revision, check, .. }) => {
            Some((backends, revision, check.fall))
        }
        _ => None,
    });
    let target = Target { backend: "fix".to_owned(), address: host, port: 80 };
    assert_eq!(asked, Some((vec![target], 1, 2)));
    assert_eq!(registry.checker("web", "fix", host), CheckedBy::Machine, "it has said nothing yet");
    let of = |up| BackendReport { address: host, ..result("fix", 1, up) };
    registry.message(
        SessionId(1),
        ToMachine::Report { sequence: 1, full: true, results: vec![of(false)] },
        2,
    );
    assert_eq!(registry.checker("web", "fix", host), CheckedBy::Agent);
    // Another one of the same address is not heeded while this one is there.
    greet(&mut registry, hello_for(2, "h2", 1, &[host], &["web"]), 3);
    registry.poll(4);
    registry.message(SessionId(2), ToMachine::Report { sequence: 1, full: true, results: vec![of(true)] }, 5);
    assert_eq!((registry.held()[&key("fix")].up, registry.counts.stale), (Some(false), 1));
    let not_local = ToMachine::NotLocal { service: "web".to_owned(), revision: 1, addresses: vec![host] };
    registry.message(SessionId(1), not_local, 6);
    assert!(matches!(registry.checker("web", "fix", host), CheckedBy::Suspect { .. }));
    registry.poll(200);
    let cleared = registry.take_acts().into_iter().any(|act| {
        matches!(act, Act::Tell(SessionId(1), ToAgent::Checks { backends, revision: 2, .. }) if backends.is_empty())
    });
    assert!(cleared, "it is not asked any more");
    // A configured one is never gone.
    for _ in 0..9 {
        registry.observed(&key("fix"), host, false, "refused");
    }
    assert!(registry.received().over.is_empty() && registry.held().contains_key(&key("fix")));
    // The other agent's word is heard now.
    registry.message(
        SessionId(2),
        ToMachine::Report { sequence: 2, full: true, results: vec![of(true)] },
        300,
    );
    assert_eq!(registry.held()[&key("fix")].agent, "h2");
}

#[test]
fn a_storm_is_few_requests_to_check() {
    let mut registry = registry();
    greet(&mut registry, hello(1, "h1", 1, &[1, 2, 3, 4]), 0);
    let mut asked = 0;
    for at in 1..=4_u8 {
        registry.message(SessionId(1), register(&format!("w{at}"), at, 1), u64::from(at));
        registry.poll(u64::from(at));
        let of = registry.take_acts();
        asked += of.iter().filter(|act| matches!(act, Act::Tell(_, ToAgent::Checks { .. }))).count();
    }
    assert_eq!((asked, registry.is_busy()), (1, true));
    registry.poll(60);
    let last = registry.take_acts().into_iter().find_map(|act| match act {
        Act::Tell(_, ToAgent::Checks { backends, .. }) => Some(backends.len()),
        _ => None,
    });
    assert_eq!((last, registry.is_busy()), (Some(4), false));
}

#[test]
fn another_token_another_proof_and_another_template_other_registrations() {
    let mut registry = with_w1();
    let config = config("");
    let tokens = [("web".to_owned(), b"another token of tests".to_vec())];
    registry.configure(Facts::of(&config, &tokens.into_iter().collect()), 10);
    let acts = registry.take_acts();
    assert_eq!(refusals(&acts), [RefusalCode::Proof]);
    assert!(registry.sessions().is_empty() && registry.received().alive.len() == 1);

    let mut registry = with_w1();
    let mut narrow = config.clone();
    narrow.services[0].agents.as_mut().unwrap().register.as_mut().unwrap().names = "n*".to_owned();
    registry.configure(facts(&narrow), 10);
    assert_eq!(refusals(&registry.take_acts()), [RefusalCode::Template]);
    assert_eq!((registry.received().alive.len(), registry.received().over.len()), (0, 1));
}

#[test]
fn who_was_refused_a_service_that_is_one_now_says_hello_again() {
    let mut registry = registry();
    greet(&mut registry, hello_for(1, "h1", 1, &[ip(1)], &["web", "new"]), 0);
    assert_eq!(refusals(&registry.take_acts()), [RefusalCode::Service]);
    let mut wider = config("");
    wider.services[1].name = "new".to_owned();
    let tokens = ["web", "new"].map(|name| (name.to_owned(), TOKEN.to_vec()));
    let facts = || Facts::of(&wider, &tokens.clone().into_iter().collect());
    registry.configure(facts(), 10);
    assert!(registry.take_acts().contains(&Act::Close(SessionId(1))));
    assert!(registry.sessions().is_empty());
    greet(&mut registry, hello_for(2, "h1", 1, &[ip(1)], &["web", "new"]), 11);
    assert_eq!(refusals(&registry.take_acts()), []);
    // Without a reason nobody is sent away.
    registry.configure(facts(), 20);
    assert_eq!(registry.sessions().len(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Hello(u8, u64),
    Close(u8),
    Register(u8, u8, u8, u64),
    Deregister(u8, u8, u8),
    Report(u8, u8, u8, bool),
    Observe(u8, u8, bool),
    Wait(u64),
    Agree,
    Narrow(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let (agent, name, address) = (0..3_u8, 0..4_u8, 0..5_u8);
    prop_oneof![
        3 => (agent.clone(), 1..4_u64).prop_map(|(agent, start)| Step::Hello(agent, start)),
        1 => agent.clone().prop_map(Step::Close),
        6 => (agent.clone(), name.clone(), address.clone(), 1..3_u64).prop_map(|(a, n, at, i)| Step::Register(a, n, at, i)),
        2 => (agent.clone(), name.clone(), address.clone()).prop_map(|(a, n, at)| Step::Deregister(a, n, at)),
        6 => (agent, name.clone(), address.clone(), any::<bool>()).prop_map(|(a, n, at, up)| Step::Report(a, n, at, up)),
        3 => (name, address, any::<bool>()).prop_map(|(n, at, up)| Step::Observe(n, at, up)),
        3 => (0..4000_u64).prop_map(Step::Wait),
        3 => Just(Step::Agree),
        1 => any::<bool>().prop_map(Step::Narrow),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever is said and done, in any order.
    #[test]
    fn invariants_hold(steps in proptest::collection::vec(step(), 0..60)) {
        let mut registry = registry();
        let wide = config("");
        let mut narrow = wide.clone();
        narrow.services[0].agents.as_mut().unwrap().register.as_mut().unwrap().limit = 2;
        let mut base = &wide;
        let (mut now, mut last_id) = (0, 0);
        // The newest connection of each agent, and how many reports it has sent.
        let mut current: [Option<(u64, u64)>; 3] = [None; 3];
        for step in steps {
            now += 1;
            match step.clone() {
                Step::Hello(agent, start) => {
                    last_id += 1;
                    greet(&mut registry, hello(last_id, &format!("h{agent}"), start, &[0, 1, 2, 3, 4]), now);
                    if registry.sessions().contains_key(&SessionId(last_id)) {
                        // Fenced: the old one's words have no effect from now on.
                        if let Some((old, _)) = current[usize::from(agent)].replace((last_id, 0)) {
                            let before = registry.received();
                            registry.message(SessionId(old), register("n0", 0, 9), now);
                            registry.message(SessionId(old), report(999, "n0", 0, true), now);
                            prop_assert_eq!(registry.received(), before);
                        }
                    }
                }
                Step::Close(agent) => {
                    if let Some((id, _)) = current[usize::from(agent)].take() {
                        registry.closed(SessionId(id), now);
                    }
                }
                Step::Register(agent, name, address, start) => {
                    if let Some((id, _)) = current[usize::from(agent)] {
                        let message = register(&format!("n{name}"), address, start);
                        registry.message(SessionId(id), message.clone(), now);
                        let once = (registry.received(), registry.held().len());
                        registry.message(SessionId(id), message, now);
                        prop_assert_eq!(once, (registry.received(), registry.held().len()), "idempotent");
                    }
                }
                Step::Deregister(agent, name, address) => {
                    if let Some((id, _)) = current[usize::from(agent)] {
                        let (service, backend) = key(&format!("n{name}"));
                        registry.message(SessionId(id), ToMachine::Deregister { service, backend, address: ip(address) }, now);
                    }
                }
                Step::Report(agent, name, address, up) => {
                    if let Some((id, said)) = &mut current[usize::from(agent)] {
                        *said += 1;
                        registry.message(SessionId(*id), report(*said, &format!("n{name}"), address, up), now);
                    }
                }
                Step::Observe(name, address, up) => {
                    let key = key(&format!("n{name}"));
                    let before = registry.held().get(&key).map(|held| held.suspicion.is_some());
                    registry.observed(&key, ip(address), up, "own");
                    if up {
                        let after = registry.held().get(&key).map(|held| held.suspicion.is_some());
                        prop_assert_eq!(before, after, "a suspect that passes stays");
                    }
                }
                Step::Wait(ms) => now += ms,
                Step::Agree => {
                    let (config, skipped) = base.with_registered(&registry.received().alive);
                    registry.skipped(&skipped);
                    registry.agreed(&config.registered(), now);
                    let heard = registry.received();
                    prop_assert_eq!(&heard.alive, &config.registered(), "in force is what is wanted");
                    prop_assert!(heard.over.is_empty());
                }
                Step::Narrow(is_narrow) => {
                    base = if is_narrow { &narrow } else { &wide };
                    registry.configure(facts(base), now);
                }
            }
            registry.poll(now);
            for (agent, of) in current.iter_mut().enumerate() {
                let lives = of.is_some_and(|(id, _)| registry.sessions().contains_key(&SessionId(id)));
                if !lives {
                    *of = None;
                }
                prop_assert_eq!(registry.agents.contains_key(&format!("h{agent}")), lives);
            }
            check(&registry, &step)?;
        }
    }
}

fn check(registry: &AgentRegistry, step: &Step) -> Result<(), TestCaseError> {
    let heard = registry.received();
    let (mut names, mut addresses) = (HashSet::new(), HashSet::new());
    for of in &heard.alive {
        prop_assert!(names.insert(&of.backend), "{step:?}: two of one name: {heard:?}");
        prop_assert!(addresses.insert(of.address), "{step:?}: two of one address: {heard:?}");
    }
    let mut counted = 0;
    for (key, held) in registry.held() {
        let Some(of) = &held.registered else { continue };
        counted += 1;
        prop_assert_eq!(&of.agent, &held.agent);
        prop_assert_eq!(registry.by_address.get(&(key.0.clone(), of.address)), Some(&key.1));
        if let Some(id) = held.session {
            let session = &registry.sessions[&id];
            prop_assert_eq!(&session.agent, &held.agent, "one agent speaks for it");
            prop_assert!(session.registered.contains(key));
        } else {
            prop_assert!(
                held.suspicion.is_some(),
                "{step:?}: nobody holds it and nobody checks it: {held:?}"
            );
            prop_assert!(!held.speaks);
        }
        prop_assert_eq!(held.phase, held.phase_now(), "{:?}", step);
    }
    prop_assert_eq!(registry.by_address.len(), counted);
    prop_assert_eq!(registry.registered.values().sum::<usize>(), counted);
    for session in registry.sessions().values() {
        for key in &session.registered {
            prop_assert_eq!(registry.held().get(key).map(|held| &held.agent), Some(&session.agent));
        }
    }
    Ok(())
}

#[test]
fn digests_of_what_was_said() {
    let mut registry = with_w1();
    let known = digest(&[result("w1", 1, true)]);
    let beat = |sequence, digest: u64| ToMachine::Heartbeat {
        sequence,
        digest: format!("{digest:016x}"),
        loads: vec![],
    };
    let resyncs =
        |acts: &[Act]| acts.iter().filter(|act| matches!(act, Act::Tell(_, ToAgent::Resync {}))).count();
    registry.message(SessionId(1), beat(1, known), 5);
    assert_eq!(resyncs(&registry.take_acts()), 0);
    registry.message(SessionId(1), beat(1, 0), 6);
    assert_eq!((resyncs(&registry.take_acts()), registry.counts.stale), (0, 1), "an old one");
    registry.message(SessionId(1), beat(2, 0), 7);
    assert_eq!((resyncs(&registry.take_acts()), registry.counts.resyncs), (1, 1));
    let other = result("w2", 2, false);
    registry.message(
        SessionId(1),
        ToMachine::Report { sequence: 2, full: true, results: vec![other.clone()] },
        8,
    );
    registry.message(SessionId(1), beat(3, digest(&[other])), 9);
    assert_eq!(resyncs(&registry.take_acts()), 0);
}
