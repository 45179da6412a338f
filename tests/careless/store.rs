//! A store that is away when a machine starts, that answers late, and that takes nothing more.

use super::management::{counted, under};
use super::{full_or, hold};
use guideway_lab::command::until;
use guideway_lab::config::{Config, Member, Mode, Service};
use guideway_lab::{Balancer, Lab, Shape, Store};
use rustix::process::{Pid, Signal, kill_process};
use std::time::{Duration, Instant};

fn config(lab: &Lab, drained: bool) -> Config {
    let member =
        |index| Member { state: (drained && index == 1).then_some("drain"), ..Member::v4(index, Mode::Ipip) };
    let echo = Service { health: String::new(), ..Service::echo(Mode::Ipip, (1..=3).map(member).collect()) };
    let mut config =
        lab.config(1).with(counted()).with(Service { extra: "maglev_size = 4099\n".into(), ..echo });
    config.extra = format!("[cluster]\nstore = \"etcd\"\nendpoints = [\"{}\"]\n", Store::endpoint());
    config
}

/// Asks the cluster for a configuration: the answer's status and body.
fn apply(balancer: &Balancer, config: &Config) -> (u16, String) {
    let path = "/v1/apply?wait=true&timeout_ms=10000";
    let answer = balancer.api().request("POST", path, &config.render()).unwrap();
    (answer.status, answer.body)
}

fn wait_cluster(balancer: &Balancer, what: &str, holds: impl Fn(&serde_json::Value) -> bool) -> Duration {
    let begun = Instant::now();
    until(what, Duration::from_secs(30), || {
        let status = balancer.api().get("/v1/cluster").map_err(|error| error.to_string())?;
        if holds(&status) { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap();
    begun.elapsed()
}

#[test]
fn a_store_that_is_away_late_or_full_holds_nobody_up() {
    let shape = Shape { balancers: 1, backends: 3, huge_pages: 256, management: true };
    let lab = Lab::with("careless store", &shape).unwrap();
    // Away at the start: it says so, and is not ready.
    let mut balancer = Balancer::spawn(&lab, 1, &config(&lab, false)).unwrap();
    until("it to say that the store is away", Duration::from_secs(20), || {
        let ready = balancer.api().request("GET", "/v1/ready", "").map_err(|error| error.to_string())?;
        let events = balancer.api().request("GET", "/v1/events", "").map_err(|error| error.to_string())?.body;
        let says =
            ready.status == 503 && events.contains("store_lost") && events.contains(&Store::endpoint());
        if says { Ok(()) } else { Err(format!("{} {events}", ready.status)) }
    })
    .unwrap();
    let mut store = lab.start_store().unwrap();
    balancer.wait_ready(Duration::from_secs(30)).unwrap();

    let count = full_or(600, 100);
    let held = hold(&lab, false, count);
    // Late: what it is asked is answered after a while.
    let asleep = Duration::from_secs(full_or(10, 3));
    let etcd = Pid::from_raw(i32::try_from(store.id().unwrap()).unwrap()).unwrap();
    kill_process(etcd, Signal::STOP).unwrap();
    let (answer, took) = under("a store that sleeps", &lab, &balancer, || {
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                let begun = Instant::now();
                (apply(&balancer, &config(&lab, true)), begun.elapsed())
            });
            std::thread::sleep(asleep);
            kill_process(etcd, Signal::CONT).unwrap();
            asked.join().unwrap()
        })
    });
    println!("the store slept for {asleep:?}; an apply was answered with {} after {took:?}", answer.0);
    assert!([200, 503].contains(&answer.0), "{answer:?}");
    wait_cluster(&balancer, "the store to be reached again", |of| {
        of["store_reached"] == true && of["phase"] == "idle"
    });

    // Full: it takes nothing more. What is asked for is refused in words, and packets are forwarded as before.
    store.limit_to(16 << 20).unwrap();
    balancer.wait_ready(Duration::from_secs(30)).unwrap();
    store.fill().unwrap();
    let (code, body) = apply(&balancer, &config(&lab, false));
    println!("the store is full: {code} {body}");
    assert_eq!(code, 503, "{body}");
    assert!(body.contains("store") && body.contains("space"), "{body}");
    // Room again: the operator's remedy, as etcd's documents have it.
    store.make_room().unwrap();
    let took = {
        let begun = Instant::now();
        until("the store to take it", Duration::from_secs(20), || {
            let answer = apply(&balancer, &config(&lab, false));
            if answer.0 == 200 { Ok(()) } else { Err(answer.1) }
        })
        .unwrap();
        begun.elapsed()
    };
    println!("taken {took:?} after there was room");
    let report = held.stop().unwrap();
    assert_eq!((report.connections.len(), report.broken().len()), (count, 0), "{:?}", report.broken());
    balancer.stop().unwrap();
}
