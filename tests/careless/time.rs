//! The clock is set, and the machine sleeps.

use super::{config, full_or, hold};
use guideway_lab::Lab;
use guideway_lab::api::rows;
use guideway_lab::config::Config;
use guideway_lab::load::hold::HoldLoad;
use guideway_lab::scenario::wait_up;
use guideway_lab::topology::{ECHO_PORT, VIP};
use rustix::process::Signal;
use std::net::SocketAddr;
use std::time::Duration;

/// Sets the wall clock of one process (Debian's libfaketime): monotonic time goes on as it does.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

#[test]
fn a_clock_that_is_set_changes_nothing_but_time_stamps() {
    assert!(
        std::path::Path::new(FAKETIME).exists(),
        "libfaketime is not installed: dpdk-setup/packages.sh --development"
    );
    let lab = Lab::new("clock").unwrap();
    let offset = lab.dir().join("offset");
    std::fs::write(&offset, "+0\n").unwrap();
    let env = [
        format!("LD_PRELOAD={FAKETIME}"),
        format!("FAKETIME_TIMESTAMP_FILE={}", offset.display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
    ];
    let balancer = lab.start_balancer(1, &Config { env: env.to_vec(), ..config(&lab) }).unwrap();
    wait_up(&balancer, "echo", &["b1", "b2", "b3"]).unwrap();
    let count = full_or(600, 100);
    let held = hold(&lab, false, count);
    let api = balancer.api();
    let uptime = || api.get("/v1/status").unwrap()["uptime_ms"].as_u64().unwrap();
    for jump in ["+2h", "-2h", "+400d", "+0"] {
        let before = uptime();
        std::fs::write(&offset, format!("{jump}\n")).unwrap();
        std::thread::sleep(Duration::from_millis(full_or(5_000, 1_200)));
        let passed = uptime() - before;
        assert!((1_000..60_000).contains(&passed), "{jump}: {passed} ms");
        assert_eq!(api.request("GET", "/v1/ready", "").unwrap().status, 200, "{jump}");
        api.json("POST", "/v1/reload?wait=true", "").unwrap();
        api.json("POST", "/v1/services/echo/backends/b3/drain", "").unwrap();
        api.json("POST", "/v1/services/echo/backends/b3/undrain", "").unwrap();
    }
    let events = api.get("/v1/events?limit=10000").unwrap();
    let times: Vec<u64> = rows(&events).iter().filter_map(|event| event["unix_ms"].as_u64()).collect();
    assert!(times.windows(2).any(|pair| pair[1] < pair[0]), "the clock was not set back: {times:?}");
    assert!(rows(&events).iter().all(|event| event["kind"] != "backend_down"), "{events}");
    let report = held.stop().unwrap();
    assert_eq!((report.connections.len(), report.broken().len()), (count, 0), "{:?}", report.broken());
    balancer.stop().unwrap();
}

#[test]
fn a_daemon_that_slept_goes_on_where_it_was() {
    let lab = Lab::new("asleep").unwrap();
    let balancer = lab.start_balancer(1, &config(&lab)).unwrap();
    wait_up(&balancer, "echo", &["b1", "b2", "b3"]).unwrap();
    let count = full_or(600, 100);
    let target = SocketAddr::new(VIP.parse().unwrap(), ECHO_PORT);
    let load = HoldLoad::new(target, lab.sources(target.ip()), count, 0);
    let held = lab.hold(HoldLoad { limit_ms: 60_000, ..load }).unwrap();
    std::thread::sleep(Duration::from_millis(1_500));
    balancer.signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(full_or(30, 5)));
    balancer.signal(Signal::CONT);
    std::thread::sleep(Duration::from_secs(2));
    let api = balancer.api();
    assert_eq!(api.request("GET", "/v1/ready", "").unwrap().status, 200);
    // What it could not hear says nothing of those who spoke.
    let events = api.request("GET", "/v1/events?limit=10000", "").unwrap().body;
    assert!(!events.contains("backend_down"), "{events}");
    let report = held.stop().unwrap();
    assert_eq!((report.connections.len(), report.broken().len()), (count, 0), "{:?}", report.broken());
    balancer.stop().unwrap();
}
