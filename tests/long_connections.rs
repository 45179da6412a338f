//! Long connections survive whatever is done to the configuration.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use guideway_lab::api::rows;
use guideway_lab::config::{Member, Mode, Service};
use guideway_lab::load::echo::EchoLoad;
use guideway_lab::scenario::{check_conservation, wait_up};
use guideway_lab::topology::{ECHO_PORT, VIP};
use guideway_lab::{Balancer, Lab, Shape};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 200;

#[test]
fn no_connection_breaks_while_20_configurations_are_applied() {
    let lab = Lab::with("long connections", &Shape { backends: 4, ..Shape::default() }).unwrap();
    let balancer = survive(&lab, "all", "");
    balancer.stop().unwrap();
}

/// The same where only exceptions are tracked; and once every flow can be found by its slot again, nothing is tracked.
#[test]
fn no_untracked_connection_breaks_either() {
    let timeouts = "[timeouts]\ntcp_established_s = 4\ntcp_closing_s = 4\nsyn_s = 4\nudp_s = 4\n";
    let lab = Lab::with("untracked connections", &Shape { backends: 4, ..Shape::default() }).unwrap();
    let balancer = survive(&lab, "exceptions", timeouts);
    let service = || balancer.api().find("/v1/services", &[("name", "echo")]).unwrap();
    let tainted = |service: &Value| service["tainted_slots"].as_u64().unwrap();
    let deadline = Instant::now() + Duration::from_secs(40);
    let mut last = service();
    while tainted(&last) > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(250));
        last = service();
    }
    assert_eq!(tainted(&last), 0, "nobody is left who needs the taints: {last}");
    let workers = balancer.api().get("/v1/workers").unwrap();
    let stateless: u64 = rows(&workers).iter().map(|worker| worker["flow_stateless"].as_u64().unwrap()).sum();
    assert!(stateless > CONNECTIONS as u64, "{stateless} packets needed no flow table: {workers}");
    balancer.stop().unwrap();
}

/// Applies 20 configurations under long connections of a service with this `state`, of which none may break.
fn survive(lab: &Lab, state: &str, extra: &str) -> Balancer {
    let member = |index: u8| Member::v4(index, Mode::Ipip);
    let config = |members: Vec<Member>| {
        let mut service = Service::echo(Mode::Ipip, members);
        service.extra = format!("state = \"{state}\"\n");
        let mut config = lab.config(1).with(service);
        config.extra = extra.to_owned();
        config
    };
    let with = |members: Vec<Member>| config(members).render();
    let balancer = lab.start_balancer(1, &config((1..=3).map(member).collect())).unwrap();
    wait_up(&balancer, "echo", &["b1", "b2", "b3"]).unwrap();

    let vip: IpAddr = VIP.parse().unwrap();
    let load = EchoLoad {
        target: SocketAddr::new(vip, ECHO_PORT),
        sources: lab.sources(vip),
        connections: CONNECTIONS,
        interval_ms: 500,
        duration_ms: 0,
    };
    let run = lab.echo(load).unwrap();
    std::thread::sleep(Duration::from_millis(1500));

    let drained = |mut member: Member| {
        member.state = Some("drain");
        member
    };
    // Each round adds b4, re-weights, drains b2, removes b1, and goes back to the start.
    let mut most_tainted = 0;
    let rounds = [
        with(vec![member(1), member(2), member(3), member(4)]),
        with(vec![member(1).weighing(5), member(2), member(3).weighing(2), member(4)]),
        with(vec![member(1), drained(member(2)), member(3), member(4)]),
        with(vec![drained(member(2)), member(3), member(4).weighing(3)]),
        with(vec![member(1), member(2), member(3)]),
    ];
    for round in 0..4 {
        for (step, config) in rounds.iter().enumerate() {
            let answer = balancer.api().apply(config).unwrap();
            assert_eq!(answer["acknowledged"], true, "round {round}, step {step}: {answer}");
            std::thread::sleep(Duration::from_millis(400));
            let service = balancer.api().find("/v1/services", &[("name", "echo")]).unwrap();
            most_tainted = most_tainted.max(service["tainted_slots"].as_u64().unwrap());
        }
    }
    assert_eq!(most_tainted > 0, state == "exceptions", "{most_tainted} slots were tainted at once");
    std::thread::sleep(Duration::from_millis(1500));
    let report = run.stop().unwrap();
    assert_eq!(report.connected, CONNECTIONS as u64);
    assert!(report.broken.is_empty(), "{} broken, the first: {:?}", report.broken.len(), report.broken[0]);
    // 11 s of two echoes a second each, with room for a slow machine.
    assert!(report.echoes >= CONNECTIONS as u64 * 15, "{} echoes", report.echoes);
    assert_eq!(report.per_backend.len(), 3, "{:?}", report.per_backend);
    check_conservation(&balancer).unwrap();
    balancer
}
