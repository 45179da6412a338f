//! Long connections survive whatever is done to the configuration.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use guideway_lab::Lab;
use guideway_lab::Shape;
use guideway_lab::config::{Member, Mode, Service};
use guideway_lab::load::echo::EchoLoad;
use guideway_lab::scenario::{check_conservation, wait_up};
use guideway_lab::topology::{ECHO_PORT, VIP};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const CONNECTIONS: usize = 200;

#[test]
fn no_connection_breaks_while_20_configurations_are_applied() {
    let lab = Lab::with("long connections", &Shape { backends: 4, ..Shape::default() }).unwrap();
    let member = |index: u8| Member::v4(index, Mode::Ipip);
    let with = |members: Vec<Member>| lab.config(1).with(Service::echo(Mode::Ipip, members)).render();
    let start = lab.config(1).with(Service::echo(Mode::Ipip, (1..=3).map(member).collect()));
    let balancer = lab.start_balancer(1, &start).unwrap();
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
        }
    }
    std::thread::sleep(Duration::from_millis(1500));
    let report = run.stop().unwrap();
    assert_eq!(report.connected, CONNECTIONS as u64);
    assert!(report.broken.is_empty(), "{} broken, the first: {:?}", report.broken.len(), report.broken[0]);
    // 11 s of two echoes a second each, with room for a slow machine.
    assert!(report.echoes >= CONNECTIONS as u64 * 15, "{} echoes", report.echoes);
    assert_eq!(report.per_backend.len(), 3, "{:?}", report.per_backend);
    check_conservation(&balancer).unwrap();
    balancer.stop().unwrap();
}
