//! Floods of new flows from spoofed addresses, then honest flows, then a drain: nobody who has exchanged a few packets is moved by it.

use guideway_lab::api::rows;
use guideway_lab::command::until;
use guideway_lab::config::{Config, Member, Mode, Service};
use guideway_lab::load::flood::{FloodLoad, FloodOf};
use guideway_lab::load::hold::{HoldLoad, HoldReport};
use guideway_lab::load_run::LoadRun;
use guideway_lab::scenario::{check_conservation, wait_up};
use guideway_lab::topology::{ECHO_PORT, VIP, VIP_OTHER};
use guideway_lab::{Balancer, Lab};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::Duration;

/// Whether tests are to be as long as they should be: `GUIDEWAY_LAB_FULL` is set (`cargo xtask soak` does).
fn full_or(full: u64, short: u64) -> u64 {
    let is_full = std::env::var_os("GUIDEWAY_LAB_FULL").is_some_and(|value| !value.is_empty());
    if is_full { full } else { short }
}

/// TCP and UDP by Maglev on one VIP, UDP by load on the other. The first backend takes new flows, or not.
fn config(lab: &Lab, drains: bool) -> Config {
    let member =
        |index| Member { state: (drains && index == 1).then_some("drain"), ..Member::v4(index, Mode::Ipip) };
    let members: Vec<Member> = (1..=3).map(member).collect();
    let unchecked = Service { health: String::new(), ..Service::echo(Mode::Ipip, members) };
    let udp = Service { name: "udp".into(), protocol: "udp", ..unchecked.clone() };
    let by_load = Service {
        name: "udp-by-load".into(),
        vip: VIP_OTHER.into(),
        extra: "policy = \"least-load\"\n".into(),
        ..udp.clone()
    };
    lab.config(1).with(unchecked).with(udp).with(by_load)
}

fn target(vip: &str) -> SocketAddr {
    SocketAddr::new(vip.parse().unwrap(), ECHO_PORT)
}

/// Opens connections, each of which exchanges something twice a second, and waits until all have done so three times.
fn hold(lab: &Lab, vip: &str, udp: bool, count: usize) -> LoadRun<HoldReport> {
    let target = target(vip);
    let load = HoldLoad::new(target, lab.sources(target.ip()), count, 0);
    let run = lab.hold(HoldLoad { udp, interval_ms: 300, ..load }).unwrap();
    until("three exchanges of all", Duration::from_secs(20), || {
        let progress = run.progress();
        if progress.done >= 4 * count as u64 { Ok(()) } else { Err(format!("{progress:?}")) }
    })
    .unwrap();
    run
}

fn sum(balancer: &Balancer, name: &str) -> u64 {
    rows(&balancer.api().get("/v1/workers").unwrap()).iter().filter_map(|worker| worker[name].as_u64()).sum()
}

#[test]
fn honest_flows_stay_after_floods_of_new_ones() {
    let lab = Lab::new("floods").unwrap();
    let balancer = lab.start_balancer(1, &config(&lab, false)).unwrap();
    wait_up(&balancer, "udp-by-load", &["b1", "b2", "b3"]).unwrap();
    let count = usize::try_from(full_or(500, 100)).unwrap();
    for (of, vip) in [
        (FloodOf::Syns, VIP),
        (FloodOf::Pairs, VIP),
        (FloodOf::Datagrams, VIP),
        (FloodOf::Datagrams, VIP_OTHER),
    ] {
        let SocketAddr::V4(target) = target(vip) else { panic!("the VIP is not IPv4") };
        let v4 = |address| if let IpAddr::V4(v4) = address { Some(v4) } else { None };
        let duration_ms = full_or(12_000, 2_000);
        let load = FloodLoad {
            of,
            target: SocketAddrV4::new(*target.ip(), target.port()),
            sources: lab.sources(IpAddr::V4(*target.ip())).into_iter().filter_map(v4).collect(),
            rate: 30_000,
            duration_ms,
            seed: 4,
        };
        let before = sum(&balancer, "flow_inserts");
        let flood = lab.flood(load).unwrap().finish(Duration::from_millis(4 * duration_ms)).unwrap();
        let entered = sum(&balancer, "flow_inserts") - before;
        println!(
            "{of:?}: {flood:?}, {entered} flows entered, {} displaced so far, {} refused",
            sum(&balancer, "flow_displaced"),
            sum(&balancer, "flow_refused")
        );
        assert!(entered > 10_000, "the flood was none");

        let held = [(VIP, false), (VIP, true), (VIP_OTHER, true)]
            .map(|(vip, udp)| (vip, udp, hold(&lab, vip, udp, count)));
        let answer = balancer.api().apply(&config(&lab, true).render()).unwrap();
        assert_eq!(answer["acknowledged"], true, "{answer}");
        std::thread::sleep(Duration::from_millis(1000));
        for (vip, udp, run) in held {
            let report = run.stop().unwrap();
            let broken = report.broken();
            println!("{of:?}, {vip}, UDP {udp}: {} of {count} broke", broken.len());
            assert_eq!(report.connections.len(), count);
            assert!(broken.len() * 100 <= count, "{of:?}, {vip}, UDP {udp}: {broken:?}");
        }
        let answer = balancer.api().apply(&config(&lab, false).render()).unwrap();
        assert_eq!(answer["acknowledged"], true, "{answer}");
    }
    assert!(sum(&balancer, "flow_displaced") > 0, "the table was full");
    check_conservation(&balancer).unwrap();
    balancer.stop().unwrap();
}
