//! etcd loses its data under machines that forward.

use guideway_lab::api::rows;
use guideway_lab::command::until;
use guideway_lab::config::{Config, Member, Mode, Service};
use guideway_lab::load::hold::{HoldLoad, HoldReport};
use guideway_lab::machines::Machines;
use guideway_lab::scenario::{check_conservation, wait_up};
use guideway_lab::topology::{ECHO_PORT, VIP};
use guideway_lab::{Lab, LoadRun, Shape, Store};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const MACHINES: u8 = 3;
/// Machines that return to a store wait for one another for 6 s at most; a process that is not optimized may be slow.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether the test is to be as long and as large as it should be: `GUIDEWAY_LAB_FULL` is set (`cargo xtask soak` does).
fn is_full() -> bool {
    std::env::var_os("GUIDEWAY_LAB_FULL").is_some_and(|value| !value.is_empty())
}

/// Held connections.
fn connections() -> usize {
    if is_full() { 600 } else { 150 }
}

pub(crate) fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

pub(crate) fn members(drained: &[u8], taking: &[u8]) -> Vec<Member> {
    let all =
        drained.iter().map(|index| (index, Some("drain"))).chain(taking.iter().map(|index| (index, None)));
    all.map(|(index, state)| Member { state, ..Member::v4(*index, Mode::Ipip) }).collect()
}

pub(crate) fn config(lab: &Lab, index: u8, members: &[Member]) -> Config {
    let extra = "maglev_size = 4099\n".to_owned();
    let mut config = lab.config(index).with(Service { extra, ..Service::echo(Mode::Ipip, members.to_vec()) });
    config.extra = format!("[cluster]\nstore = \"etcd\"\nendpoints = [\"{}\"]\n", Store::endpoint());
    config
}

/// By name, the number and incarnation of each member, where all machines say the same, have all that was asked for in force, and none speaks
/// of a misfit.
fn agreed(machines: &Machines<'_>) -> Result<BTreeMap<String, (u64, u64)>, String> {
    let mut all: Option<BTreeMap<String, (u64, u64)>> = None;
    for (index, balancer) in machines.all() {
        let status = machines.cluster(index).map_err(|error| error.to_string())?;
        let is_well = ["joined", "store_reached", "settled"].iter().all(|key| status[*key] == true);
        let ready = balancer.api().request("GET", "/v1/ready", "").map_err(|error| error.to_string())?;
        if !is_well || status["misfit"] != Value::Null || ready.status != 200 || status["phase"] != "idle" {
            return Err(format!("machine {index}: {}: {status}", ready.body));
        }
        let mut of = BTreeMap::new();
        for row in
            rows(&status["members"]).iter().filter(|row| row["state"] == "member" && row["suspect"] == false)
        {
            let number = |key: &str| row[key].as_u64().unwrap();
            of.insert(row["name"].as_str().unwrap().to_owned(), (number("machine"), number("incarnation")));
        }
        if all.as_ref().is_some_and(|known| *known != of) || of.len() != usize::from(MACHINES) {
            return Err(format!("machine {index} says {of:?}, another one {all:?}"));
        }
        all = Some(of);
    }
    let all = all.unwrap_or_default();
    let numbers: BTreeSet<u64> = all.values().map(|(number, _)| *number).collect();
    if numbers.len() == all.len() { Ok(all) } else { Err(format!("two have one number: {all:?}")) }
}

pub(crate) fn wait_agreed(machines: &Machines<'_>, what: &str) -> BTreeMap<String, (u64, u64)> {
    let begun = Instant::now();
    let all = until(what, PATIENCE, || agreed(machines)).unwrap();
    println!("{what}: {:?} later, {all:?}", begun.elapsed());
    all
}

fn unbroken(run: &LoadRun<HoldReport>, what: &str) {
    let progress = run.progress();
    println!("{what}: {} of {} connections broken", progress.failed, connections());
    assert_eq!(progress.failed, 0, "{what}");
}

#[test]
fn machines_forward_and_agree_after_the_store_has_lost_everything() {
    let shape = Shape { balancers: MACHINES, backends: 4, huge_pages: 768, management: true };
    let lab = Lab::with("wiped store", &shape).unwrap();
    let mut store = lab.start_store().unwrap();
    let recipe = Box::new(|index, members: &[Member]| config(&lab, index, members));
    let mut machines = Machines::start(&lab, MACHINES, members(&[], &[1, 2, 3]), recipe).unwrap();
    // What is in force is not what the files say.
    machines.apply_to_cluster(1, members(&[1], &[2, 3, 4])).unwrap();
    for (_, balancer) in machines.all() {
        wait_up(balancer, "echo", &["b2", "b3", "b4"]).unwrap();
    }
    let before = wait_agreed(&machines, "three machines");
    let target = SocketAddr::new(VIP.parse().unwrap(), ECHO_PORT);
    let run = lab.hold(HoldLoad::new(target, lab.sources(target.ip()), connections(), 0)).unwrap();
    until("all connections", PATIENCE, || {
        let progress = run.progress();
        if progress.done >= connections() as u64 { Ok(()) } else { Err(format!("{progress:?}")) }
    })
    .unwrap();

    store.wipe().unwrap();
    let after = wait_agreed(&machines, "the store has lost its data");
    assert_eq!(after, before, "nobody was given up or has another number");
    unbroken(&run, "after the loss");

    // One that starts anew, while the others have routes.
    machines.kill(3).unwrap();
    lab.route_vips(&[1, 2]).unwrap();
    machines.spawn(3).unwrap();
    machines.wait_ready(3).unwrap();
    lab.route_vips(&[1, 2, 3]).unwrap();
    let restarted = wait_agreed(&machines, "one was restarted");
    for (name, (number, incarnation)) in &restarted {
        assert_eq!(*number, before[name].0, "{restarted:?}");
        assert_eq!(*incarnation > before[name].1, name.ends_with("lb3"), "{restarted:?}");
    }
    unbroken(&run, "after the restart");

    // The same at once: the store is empty when it starts.
    if is_full() {
        machines.kill(1).unwrap();
        lab.route_vips(&[2, 3]).unwrap();
        store.wipe().unwrap();
        machines.spawn(1).unwrap();
        machines.wait_ready(1).unwrap();
        lab.route_vips(&[1, 2, 3]).unwrap();
        let last = wait_agreed(&machines, "one was restarted with an empty store");
        for (name, (number, _)) in &last {
            assert_eq!(*number, before[name].0, "{last:?}");
        }
    }
    for (_, balancer) in machines.all() {
        wait_up(balancer, "echo", &["b2", "b3", "b4"]).unwrap();
        let drained = balancer.api().find("/v1/backends", &[("service", "echo"), ("name", "b1")]).unwrap();
        assert_eq!(drained["state"], "drain", "what was asked for is in force still: {drained}");
    }
    lab.route_vips(&[1]).unwrap();
    pause(2000);
    let report = run.stop().unwrap();
    println!(
        "{} of {} connections broken, {} exchanges",
        report.broken().len(),
        connections(),
        report.exchanges()
    );
    assert!(report.broken().is_empty(), "{:#?}", report.broken().first());
    assert_eq!(report.connections.len(), connections());
    for (_, balancer) in machines.all() {
        check_conservation(balancer).unwrap();
    }
    machines.stop().unwrap();
}
