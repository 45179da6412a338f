//! Backends that pass their checks and serve no client: they are found by what their clients do, which is all that the balancer sees.

use guideway_lab::api::rows;
use guideway_lab::backend::Ailment;
use guideway_lab::balancer::Balancer;
use guideway_lab::config::{Member, Mode, Service};
use guideway_lab::load::short::ShortLoad;
use guideway_lab::scenario::{check_conservation, wait_up};
use guideway_lab::topology::{ECHO_PORT, VIP};
use guideway_lab::{Lab, Shape};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const BACKENDS: u8 = 8;
/// Those that fall ill.
const ILL: [(u8, Ailment); 3] = [(2, Ailment::Resets), (4, Ailment::Ignores), (6, Ailment::Refuses)];
/// New connections a second, to all backends together.
const RATE: u64 = 50;
/// Time within which each must be found.
const FOUND: Duration = Duration::from_secs(10);
/// Time within which they must be trusted again.
const TRUSTED: Duration = Duration::from_secs(20);

fn names(of: impl IntoIterator<Item = u8>) -> Vec<String> {
    of.into_iter().map(|index| format!("b{index}")).collect()
}

/// Those that are suspect, and why.
fn suspects(balancer: &Balancer) -> BTreeMap<String, String> {
    let backends = balancer.api().get("/v1/backends").unwrap();
    let all = rows(&backends);
    assert!(all.iter().all(|row| row["state"] == "up"), "a suspicion takes no traffic away: {backends}");
    let suspect = all.iter().filter(|row| row["suspect_since_unix_ms"].is_u64());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    suspect.map(|row| (text(&row["name"]), text(&row["reason"]))).collect()
}

/// Looks until as many are suspect as are wanted, and prints when each came or went. None but those that are ill may ever be.
fn watch(balancer: &Balancer, wanted: usize, limit: Duration, what: &str) {
    let ill = names(ILL.map(|(index, _)| index));
    let begun = Instant::now();
    let mut before = suspects(balancer);
    while before.len() != wanted {
        let now = suspects(balancer);
        let at = begun.elapsed();
        for name in now.keys().chain(before.keys()) {
            match (before.get(name), now.get(name)) {
                (None, Some(reason)) => println!("{what}: {name} suspect after {at:.1?}: {reason}"),
                (Some(_), None) => println!("{what}: {name} trusted after {at:.1?}"),
                _ => {}
            }
        }
        assert!(now.keys().all(|name| ill.contains(name)), "{what}: {now:?} are suspect");
        if at > limit && now.len() != wanted {
            panic!(
                "{what}: {now:?} are suspect after {at:.1?}: {:#}",
                balancer.api().get("/v1/backends").unwrap()
            );
        }
        before = now;
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn found(name: &str, mode: Mode, policy: &str) {
    let lab = Lab::with(name, &Shape { backends: BACKENDS, ..Shape::default() }).unwrap();
    let members = (1..=BACKENDS).map(|index| Member::v4(index, mode)).collect();
    let service = Service { extra: policy.into(), ..Service::echo(mode, members) };
    let balancer = lab.start_balancer(1, &lab.config(1).with(service)).unwrap();
    let all = names(1..=BACKENDS);
    wait_up(&balancer, "echo", &all.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let target = SocketAddr::new(VIP.parse().unwrap(), ECHO_PORT);
    let load = ShortLoad { target, sources: lab.sources(target.ip()), rate: RATE, limit_ms: 1_000 };
    let run = lab.short(load).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(suspects(&balancer), BTreeMap::new(), "all are well");

    for (index, ailment) in ILL {
        lab.backend(index).unwrap().fall_ill(ailment).unwrap();
    }
    watch(&balancer, ILL.len(), FOUND, name);
    for (index, _) in ILL {
        lab.backend(index).unwrap().recover().unwrap();
    }
    watch(&balancer, 0, TRUSTED, name);

    let report = run.stop().unwrap();
    println!("{name}: {} connections served, {} failed", report.ok, report.failed);
    let events = balancer.api().get("/v1/events").unwrap();
    let of_kind = |kind: &str| {
        let of = rows(&events["events"]).iter().filter(|event| event["kind"] == kind);
        let mut of: Vec<String> = of.map(|event| event["backend"].as_str().unwrap().to_owned()).collect();
        of.sort_unstable();
        of
    };
    let ill = names(ILL.map(|(index, _)| index));
    assert_eq!(of_kind("backend_suspect"), ill, "once each: {events}");
    assert_eq!(of_kind("backend_trusted"), ill, "once each: {events}");
    check_conservation(&balancer).unwrap();
    balancer.stop().unwrap();
}

#[test]
fn a_backend_that_serves_no_client_is_found() {
    found("passive", Mode::Ipip, "");
}

/// With direct server return to the backends' own MACs, and by load: a backend that answers nobody keeps its connections, and is given few.
#[test]
fn a_backend_that_serves_no_client_is_found_by_load() {
    found("passive-load", Mode::L2, "policy = \"least-load\"");
}
