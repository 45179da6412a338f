//! Several machines that serve the same addresses, behind a router that spreads flows over them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

#[path = "cluster/oracle.rs"]
mod oracle;

use guideway_lab::command::until;
use guideway_lab::config::{Config, Member, Mode, Service};
use guideway_lab::load::hold::{Held, HoldLoad, HoldReport, How};
use guideway_lab::load_run::LoadRun;
use guideway_lab::machines::Machines;
use guideway_lab::scenario::{check_conservation, wait_up};
use guideway_lab::topology::{ECHO_PORT, VIP};
use guideway_lab::{Lab, Shape, Usage};
use oracle::Table;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Machines.
const MACHINES: u8 = 3;
/// Held connections.
const CONNECTIONS: usize = 600;
/// Client addresses.
const SOURCES: usize = 59;
const TCP: u8 = 6;

fn lab(name: &str, management: bool) -> Lab {
    Lab::with(name, &Shape { balancers: MACHINES, backends: 4, huge_pages: 768, management }).unwrap()
}

fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

fn target() -> SocketAddr {
    SocketAddr::new(VIP.parse().unwrap(), ECHO_PORT)
}

fn sources(lab: &Lab) -> Vec<IpAddr> {
    lab.sources(target().ip()).into_iter().take(SOURCES).collect()
}

fn up(indices: &[u8]) -> Vec<Member> {
    indices.iter().map(|&index| Member::v4(index, Mode::Ipip)).collect()
}

fn drained(index: u8) -> Member {
    Member { state: Some("drain"), ..Member::v4(index, Mode::Ipip) }
}

/// The echo service on these backends.
fn config(lab: &Lab, index: u8, members: &[Member]) -> Config {
    let config = lab.config(index).with(Service::echo(Mode::Ipip, members.to_vec()));
    oracle::check(&config);
    config
}

/// Opens the 600 connections, and waits until all have had their first exchange.
fn hold(lab: &Lab, silent: usize) -> LoadRun<HoldReport> {
    let run = lab.hold(HoldLoad::new(target(), sources(lab), CONNECTIONS, silent)).unwrap();
    pause(5 * CONNECTIONS as u64);
    until("all connections", Duration::from_secs(10), || {
        let progress = run.progress();
        if progress.done >= CONNECTIONS as u64 { Ok(()) } else { Err(format!("{progress:?}")) }
    })
    .unwrap();
    pause(500);
    run
}

fn clients<'a>(held: impl IntoIterator<Item = &'a Held>) -> BTreeSet<SocketAddr> {
    held.into_iter().map(|held| held.source).collect()
}

/// Machines that know nothing of one another: what a change of routes breaks is exactly what the tables say. This is what
/// the tests of the cluster are measured against.
#[test]
fn machines_on_their_own_break_what_their_tables_say() {
    let lab = lab("machines on their own", false);
    let before = up(&[1, 2, 3]);
    let recipe = Box::new(|index, members: &[Member]| config(&lab, index, members));
    let mut machines = Machines::start(&lab, MACHINES, before.clone(), recipe).unwrap();
    for (_, balancer) in machines.all() {
        wait_up(balancer, "echo", &["b1", "b2", "b3"]).unwrap();
    }
    let mut run = hold(&lab, CONNECTIONS / 2);
    let ids = machines.ids();
    let measured: Vec<(&str, u32)> =
        ids.iter().map(|(name, id)| (name.as_str(), *id)).chain([("load", run.id())]).collect();
    let usage = Usage::begin(&measured).unwrap();

    // Routes move while all tables are alike: nothing breaks.
    for routes in [&[2_u8, 3][..], &[1, 2, 3]] {
        lab.route_vips(routes).unwrap();
        pause(1500);
    }
    assert_eq!(run.progress().failed, 0);

    // Tables change while no route moves: nothing breaks.
    let after = [vec![drained(1)], up(&[2, 3, 4])].concat();
    machines.apply_to_each(after.clone()).unwrap();
    for (_, balancer) in machines.all() {
        wait_up(balancer, "echo", &["b2", "b3", "b4"]).unwrap();
    }
    pause(1500);
    assert_eq!(run.progress().failed, 0);

    // Both: what the first machine does not know goes where its table says now.
    let known: BTreeSet<SocketAddr> = machines.flows(1, "echo").unwrap().into_keys().collect();
    lab.route_vips(&[1]).unwrap();
    pause(3000);
    lab.route_vips(&[1, 2, 3]).unwrap();
    pause(1000);
    run.wake().unwrap();
    pause(2000);
    println!("{}", usage.end().unwrap());
    let report = run.stop().unwrap();

    assert_eq!(report.connections.len(), CONNECTIONS);
    let (old, new) = (Table::of(&before), Table::of(&after));
    let moved = |held: &&Held| old.backend(held.source, TCP) != new.backend(held.source, TCP);
    for held in &report.connections {
        assert_eq!(held.backend.as_deref(), Some(old.backend(held.source, TCP)), "{held:?}");
    }
    let changed: Vec<&Held> = report.connections.iter().filter(moved).collect();
    let talking: Vec<&Held> = changed.iter().copied().filter(|held| !held.silent).collect();
    let expected = clients(talking.iter().copied().filter(|held| !known.contains(&held.source)));
    let broken = report.broken();
    println!(
        "{} of {} connections are in slots that changed, {} of these talk, {} of these are unknown to the first \
         machine; {} broke; slowest exchange {} us",
        changed.len(),
        report.connections.len(),
        talking.len(),
        expected.len(),
        broken.len(),
        report.slowest_us()
    );
    let share = old.changed(&new) as f64 / f64::from(oracle::SLOTS);
    let seen = changed.len() as f64 / CONNECTIONS as f64;
    assert!((share - seen).abs() < 0.08, "{share} of the slots changed, those of {seen} of the connections");
    assert!(expected.len() > 30, "the test needs something to break");
    assert_eq!(clients(broken.iter().copied()), expected);
    for held in broken {
        assert_eq!(held.broken.as_ref().unwrap().how, How::Reset, "{held:?}");
    }
    for (_, balancer) in machines.all() {
        check_conservation(balancer).unwrap();
    }
    machines.stop().unwrap();
}
