//! Where new flows go: `least-load`, and how a newcomer gets its share.

use crate::stage::{
    cluster, echo, echo_other, echo_target, hold, lab, members, other_target, pause, pause_until, wait_held,
    wait_up,
};
use guideway_lab::agent::{AgentConfig, Registered};
use guideway_lab::config::{Mode, Service};
use guideway_lab::load::hold::{Held, HoldReport};
use guideway_lab::load::unix_ms;
use guideway_lab::topology::backend_address;
use guideway_lab::{Agent, Lab};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Services: one whose newcomers get what they can carry, one whose newcomers start slowly.
const SERVICES: [&str; 2] = ["echo", "slow"];
/// Flows on the three old backends of each service. Two machines place 40 flows a second, each for a while without the other's latest, and
/// are off by as many as ten: of as many flows as these, that is half of what may be.
const OLD: usize = 360;
/// Flows of `echo` after the newcomer has come: three times as many as it takes to have what the others have, within ten seconds.
const NEW: usize = 400;
/// New flows a second, in each service.
const RATE: u64 = 40;
/// How long the slow one takes: less than a newcomer needs to have as many flows as the others.
const SLOW_MS: u64 = 4000;

fn load_file(lab: &Lab, index: u8) -> PathBuf {
    lab.dir().join(format!("b{index}.load"))
}

/// The agent of a host: it registers our own server for both services, with a file in which that tells its load.
fn agent(lab: &Lab, index: u8) -> Agent {
    let file = load_file(lab, index);
    std::fs::write(&file, "0\n").unwrap();
    let registered = |service: &&str| Registered {
        service: (*service).to_owned(),
        name: format!("b{index}"),
        address: backend_address(index),
        extra: format!("load_file = \"{}\"", file.display()),
    };
    let backends = SERVICES.iter().map(registered).collect();
    Agent::on(lab, index, &AgentConfig { backends, ..AgentConfig::of(lab, index, &SERVICES).unwrap() })
        .unwrap()
}

fn per_backend<'a>(flows: impl IntoIterator<Item = &'a Held>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for backend in flows.into_iter().filter_map(|held| held.backend.as_deref()) {
        *counts.entry(backend).or_insert(0) += 1;
    }
    counts
}

fn of(counts: &BTreeMap<&str, usize>, backend: &str) -> usize {
    counts.get(backend).copied().unwrap_or(0)
}

/// Point 5.
#[test]
fn a_newcomer_gets_new_flows_at_once_or_slowly_and_a_slow_one_gets_few() {
    let lab = lab("least-load", 2);
    let _store = lab.start_store().unwrap();
    let head = echo(
        &lab,
        Vec::new(),
        "policy = \"least-load\"\nselect = \"min\"\njoin = \"head\"\ncapacity = 1000\n",
    );
    let slow = format!(
        "policy = \"least-load\"\nselect = \"min\"\njoin = \"slow-start\"\nslow_start_ms = {SLOW_MS}\ncapacity = 1000\n"
    );
    let slow = echo_other(&lab, "slow", &slow);
    // A machine is ready when some service is, and the others wait for agents.
    let filed = Service::web(Mode::Ipip, members(1));
    let machines = cluster(&lab, 2, vec![head, slow, filed]);
    let mut agents: Vec<Agent> = (1..=3).map(|index| agent(&lab, index)).collect();
    for service in SERVICES {
        wait_up(&machines, service, &[1, 2, 3]);
    }
    // What slowly started then is done with it.
    pause(SLOW_MS);
    let old = [echo_target(), other_target()].map(|target| hold(&lab, target, OLD, 2000));
    old.iter().for_each(|run| wait_held(run, OLD as u64));
    pause(500);

    agents.push(agent(&lab, 4));
    for service in SERVICES {
        wait_up(&machines, service, &[1, 2, 3, 4]);
    }
    let begun = unix_ms();
    let opening_ms = 1000 * NEW as u64 / RATE;
    let new = hold(&lab, echo_target(), NEW, opening_ms);
    let slow_flows = usize::try_from(RATE * (SLOW_MS + 1000) / 1000).unwrap();
    let slow_new = hold(&lab, other_target(), slow_flows, SLOW_MS + 1000);
    pause_until(begun + opening_ms + 500);
    // Routes change: what the one machine decided the other must know.
    for routes in [&[1_u8][..], &[2], &[1, 2]] {
        lab.route_vips(routes).unwrap();
        pause(1000);
    }
    pause_until(begun + SLOW_MS + 2000);

    // One of them says that it has much to do.
    std::fs::write(load_file(&lab, 1), "900\n").unwrap();
    let told = unix_ms();
    let busy_flows = usize::try_from(RATE * 5).unwrap();
    let busy = hold(&lab, echo_target(), busy_flows, 5000);
    pause_until(told + 1000);
    lab.route_vips(&[2]).unwrap();
    pause_until(told + 3000);
    lab.route_vips(&[1, 2]).unwrap();
    pause_until(told + 6500);

    let [old_head, old_slow] = old.map(|run| run.stop().unwrap());
    let [new, slow_new, busy] = [new, slow_new, busy].map(|run| run.stop().unwrap());
    let all = [&old_head, &old_slow, &new, &slow_new, &busy];
    let broken: Vec<&Held> = all.iter().flat_map(|report| report.broken()).collect();
    println!(
        "point 5: {} flows held through changes of routes: {} broke or changed their backend",
        all.iter().map(|report| report.connections.len()).sum::<usize>(),
        broken.len()
    );

    let first = per_backend(&new.connections[..50]);
    let live = per_backend(old_head.connections.iter().chain(&new.connections));
    println!("point 5, head: of the first 50 new flows {first:?}; live flows when all were made {live:?}");
    let seconds = seconds(&slow_new, begun);
    println!("point 5, slow-start: new flows by second {seconds:?}");
    let late: Vec<&Held> =
        busy.connections.iter().filter(|held| held.started_unix_ms >= told + 2000).collect();
    let shares = per_backend(late.iter().copied());
    println!("point 5, a load of 90 % reported: of {} new flows later than 2 s {shares:?}", late.len());

    assert!(broken.is_empty(), "{broken:?}");
    assert!(of(&first, "b4") >= 45, "{first:?}");
    let mean = (OLD + NEW) as f64 / 4.0;
    for backend in ["b1", "b2", "b3", "b4"] {
        assert!((of(&live, backend) as f64 - mean).abs() <= 0.1 * mean, "{live:?}, {mean} would be even");
    }
    for counts in seconds.values() {
        let all: usize = counts.values().sum();
        assert!(of(counts, "b4") as f64 <= 0.6 * all as f64, "{seconds:?}");
    }
    assert!(seconds.values().any(|counts| of(counts, "b4") > 0), "the newcomer gets some: {seconds:?}");
    assert!((of(&shares, "b1") as f64) < 0.2 * late.len() as f64, "{shares:?}");
    drop(agents);
    crate::stage::stop(machines);
}

/// New flows by backend, for each whole second after a time.
fn seconds(report: &HoldReport, from: u64) -> BTreeMap<u64, BTreeMap<&str, usize>> {
    let mut seconds: BTreeMap<u64, Vec<&Held>> = BTreeMap::new();
    for held in &report.connections {
        seconds.entry(held.started_unix_ms.saturating_sub(from) / 1000).or_default().push(held);
    }
    // A piece of a second at the end says nothing.
    seconds.retain(|_, flows| flows.len() as u64 >= RATE / 2);
    seconds.into_iter().map(|(second, flows)| (second, per_backend(flows))).collect()
}
