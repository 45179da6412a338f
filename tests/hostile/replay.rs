//! Who can read the link between machines says again what they said, whenever he likes: nobody believes it, and no backend receives
//! anything for it.

use crate::wiped_store::{config, members, pause, wait_agreed};
use guideway_lab::api::rows;
use guideway_lab::command::until;
use guideway_lab::config::Member;
use guideway_lab::load::hold::{HoldLoad, HoldReport};
use guideway_lab::machines::Machines;
use guideway_lab::scenario::{check_conservation, wait_up};
use guideway_lab::topology::{ECHO_PORT, VIP};
use guideway_lab::{Lab, LoadRun, Shape};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

const MACHINES: u8 = 3;
/// Held connections.
const CONNECTIONS: usize = 100;
/// How often everything is said again, each time.
const TIMES: u32 = 20;
/// Datagrams a second, by machine.
const RATE: u32 = 20_000;
const PATIENCE: Duration = Duration::from_secs(20);
/// Where the payload of a datagram over Ethernet and IPv4 begins.
const PAYLOAD: usize = 14 + 20 + 8;

fn drops(machines: &Machines<'_>, index: u8, of: &str) -> u64 {
    let drops = machines.get(index).unwrap().api().drops().unwrap();
    drops.get(of).copied().unwrap_or(0)
}

/// Packets that each backend was sent, by all machines.
fn sent_to_backends(machines: &Machines<'_>) -> BTreeMap<String, u64> {
    let mut sent = BTreeMap::new();
    for (_, balancer) in machines.all() {
        for row in rows(&balancer.api().get("/v1/backends").unwrap()) {
            let name = row["name"].as_str().unwrap().to_owned();
            *sent.entry(name).or_default() += row["packets"].as_u64().unwrap();
        }
    }
    sent
}

/// Says everything again to those to whom it was said, from other source ports each time: those choose the receiver's queue.
fn replay(lab: &Lab, machines: &Machines<'_>, heard: &BTreeMap<u8, Vec<Vec<u8>>>, what: &str) {
    for (index, frames) in heard {
        let names = ["peer_replayed", "peer_refused"];
        let before = names.map(|of| drops(machines, *index, of));
        let mut sent = 0;
        for round in 0..TIMES {
            let mut again = frames.clone();
            for frame in &mut again {
                frame[35] ^= u8::try_from(round).unwrap();
            }
            sent += lab.inject(&format!("lb{index}"), &again, 1, RATE).unwrap();
        }
        pause(300);
        let after = names.map(|of| drops(machines, *index, of));
        let (replayed, refused) = (after[0] - before[0], after[1] - before[1]);
        println!("{what}: {sent} datagrams again to machine {index}: {replayed} replayed, {refused} refused");
        // Some are lost where a processor is not free in time.
        assert!((replayed + refused) * 10 >= sent * 9, "{what}: machine {index} took some of them");
    }
}

fn unbroken(run: &LoadRun<HoldReport>, what: &str) {
    assert_eq!(run.progress().failed, 0, "{what}");
}

#[test]
fn what_machines_said_is_not_believed_again() {
    let shape = Shape { balancers: MACHINES, backends: 4, huge_pages: 768, management: true };
    let lab = Lab::with("replay", &shape).unwrap();
    let _store = lab.start_store().unwrap();
    let recipe = Box::new(|index, members: &[Member]| config(&lab, index, members));
    let mut machines = Machines::start(&lab, MACHINES, members(&[], &[1, 2, 3]), recipe).unwrap();
    for (_, balancer) in machines.all() {
        wait_up(balancer, "echo", &["b1", "b2", "b3"]).unwrap();
    }
    wait_agreed(&machines, "three machines");
    let target = SocketAddr::new(VIP.parse().unwrap(), ECHO_PORT);
    let load = HoldLoad::new(target, lab.sources(target.ip()), CONNECTIONS, 0);
    let run = lab.hold(HoldLoad { interval_ms: 200, ..load }).unwrap();
    until("all connections", PATIENCE, || {
        let progress = run.progress();
        if progress.done >= CONNECTIONS as u64 { Ok(()) } else { Err(format!("{progress:?}")) }
    })
    .unwrap();

    // Slots change hands, then routes: flows are asked about, and frames relayed.
    let captures: BTreeMap<u8, _> = (1..=MACHINES)
        .map(|index| {
            let to = guideway_lab::topology::balancer_address(index);
            (index, lab.capture(&format!("lb{index}"), &format!("udp port 7480 and dst host {to}")).unwrap())
        })
        .collect();
    machines.apply_to_cluster(1, members(&[1], &[2, 3, 4])).unwrap();
    pause(500);
    for routes in [&[1_u8][..], &[2], &[3], &[1, 2, 3]] {
        lab.route_vips(routes).unwrap();
        pause(500);
    }
    let heard: BTreeMap<u8, Vec<Vec<u8>>> =
        captures.into_iter().map(|(index, capture)| (index, capture.frames().unwrap())).collect();
    let all: Vec<&Vec<u8>> = heard.values().flatten().collect();
    let of_kind = |kind: u8| all.iter().filter(|frame| frame.get(PAYLOAD + 3) == Some(&kind)).count();
    let (notes, pieces) = (of_kind(1), of_kind(2));
    println!("{notes} datagrams of notes, {pieces} pieces of frames");
    assert!(notes > 100 && pieces > 20, "little was said: {notes} datagrams of notes, {pieces} pieces");

    unbroken(&run, "before");
    replay(&lab, &machines, &heard, "at once");
    unbroken(&run, "again at once");
    pause(2_000);
    let report = run.stop().unwrap();
    assert!(report.broken().is_empty(), "{:#?}", report.broken().first());
    assert_eq!(report.connections.len(), CONNECTIONS);

    // Nobody speaks to the VIP any more: whatever a backend is sent now is a copy.
    pause(1_000);
    let before = sent_to_backends(&machines);
    assert!(before.values().sum::<u64>() > 1_000, "{before:?}");
    replay(&lab, &machines, &heard, "in silence");
    assert_eq!(sent_to_backends(&machines), before, "a copy left");

    // A machine that has started anew knows no number any more.
    machines.kill(3).unwrap();
    machines.spawn(3).unwrap();
    machines.wait_ready(3).unwrap();
    wait_agreed(&machines, "one was restarted");
    let before = sent_to_backends(&machines);
    replay(&lab, &machines, &heard, "after a restart");
    assert_eq!(sent_to_backends(&machines), before, "a copy left");
    wait_agreed(&machines, "at the end");
    for (_, balancer) in machines.all() {
        check_conservation(balancer).unwrap();
    }
    machines.stop().unwrap();
}
