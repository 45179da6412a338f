//! How a balancer ends, and how it comes back.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use guideway_lab::Lab;
use guideway_lab::command::until;
use guideway_lab::config::{Config, Member, Mode, Service};
use guideway_lab::load::echo::EchoLoad;
use guideway_lab::load::http::HttpLoad;
use guideway_lab::scenario::{Variant, wait_up};
use guideway_lab::topology::{ECHO_PORT, VIP};
use rustix::process::Signal;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

fn files(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn sigterm_under_load_is_a_clean_end() {
    let lab = Lab::new("SIGTERM").unwrap();
    let variant = Variant::v4(Mode::Ipip);
    let mut balancer = lab.start_balancer(1, &variant.config(&lab, 1, &[(1, 1), (2, 1)])).unwrap();
    wait_up(&balancer, "web", &["b1", "b2"]).unwrap();
    assert!(!files(lab.huge_dir().unwrap()).is_empty(), "it runs on our huge pages");
    let load = HttpLoad::steady(variant.target().unwrap(), variant.sources(), 300);
    let load = lab.http(HttpLoad { timeout_ms: 1000, ..load }).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(load.progress().failed, 0);

    let api = balancer.api().clone();
    balancer.signal(Signal::TERM);
    let mut unready = false;
    until("end of guidewayd", Duration::from_secs(20), || {
        if let Ok(answer) = api.request("GET", "/v1/ready", "") {
            unready |= answer.status == 503;
            // Once it has said 503 it never says 200 again.
            assert!(answer.status == 503 || !unready, "ready again: {answer:?}");
        }
        if balancer.is_running() { Err("running".to_owned()) } else { Ok(()) }
    })
    .unwrap();
    assert!(unready, "ready never turned 503");
    let status = balancer.wait(Duration::from_secs(1)).unwrap();
    assert!(status.success(), "{status}\n{}", balancer.log_tail(20));
    assert_eq!(files(lab.huge_dir().unwrap()), Vec::<String>::new(), "huge page files stayed behind");
    drop(load);
    // And it starts again.
    balancer = lab.start_balancer(1, &variant.config(&lab, 1, &[(1, 1), (2, 1)])).unwrap();
    balancer.stop().unwrap();
}

#[test]
fn a_killed_balancer_serves_again_and_flows_live_on() {
    let lab = Lab::new("kill -9").unwrap();
    let members: Vec<Member> = (1..=3).map(|index| Member::v4(index, Mode::Ipip)).collect();
    let config: Config = lab.config(1).with(Service::echo(Mode::Ipip, members));
    let mut balancer = lab.start_balancer(1, &config).unwrap();
    wait_up(&balancer, "echo", &["b1", "b2", "b3"]).unwrap();
    let vip: IpAddr = VIP.parse().unwrap();
    let load = EchoLoad {
        target: SocketAddr::new(vip, ECHO_PORT),
        sources: lab.sources(vip),
        connections: 100,
        interval_ms: 500,
        duration_ms: 0,
    };
    let run = lab.echo(load).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let echoes_before = run.progress().done;
    assert!(echoes_before >= 100, "{echoes_before} echoes");

    balancer.signal(Signal::KILL);
    balancer.wait(Duration::from_secs(5)).unwrap();
    let killed = Instant::now();
    let mut balancer = guideway_lab::Balancer::spawn(&lab, 1, &config).unwrap();
    balancer.wait_ready(Duration::from_secs(20)).unwrap();
    let ready = killed.elapsed();
    assert!(ready <= Duration::from_secs(3), "ready {ready:?} after the start");
    wait_up(&balancer, "echo", &["b1", "b2", "b3"]).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    let echoes_after = run.progress().done;
    let report = run.stop().unwrap();
    assert_eq!(report.connected, 100);
    assert!(report.broken.is_empty(), "{} broken, the first: {:?}", report.broken.len(), report.broken[0]);
    assert!(echoes_after >= echoes_before + 300, "{echoes_before} echoes before, {echoes_after} after");
    balancer.stop().unwrap();
}
