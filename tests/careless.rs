//! What a careless operator, a stalled neighbour or a full disk may do to a machine, and what must hold meanwhile.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

#[path = "careless/disk.rs"]
mod disk;
#[path = "careless/faults.rs"]
mod faults;
#[path = "careless/links.rs"]
mod links;
#[path = "careless/management.rs"]
mod management;
#[path = "careless/passive_health.rs"]
mod passive_health;
#[path = "careless/second_daemon.rs"]
mod second_daemon;
#[path = "careless/store.rs"]
mod store;
#[path = "careless/time.rs"]
mod time;
#[path = "careless/words.rs"]
mod words;

use guideway_lab::Lab;
use guideway_lab::command::until;
use guideway_lab::config::{Config, Member, Mode, Service};
use guideway_lab::load::hold::{HoldLoad, HoldReport};
use guideway_lab::load_run::LoadRun;
use guideway_lab::topology::{ECHO_PORT, VIP};
use std::time::Duration;

/// Whether tests are to be as long and as large as they should be: `GUIDEWAY_LAB_FULL` is set (`cargo xtask soak` does).
fn full_or<T>(full: T, short: T) -> T {
    let is_full = std::env::var_os("GUIDEWAY_LAB_FULL").is_some_and(|value| !value.is_empty());
    if is_full { full } else { short }
}

/// The echo service on three backends, by IPIP.
fn config(lab: &Lab) -> Config {
    let member = |index| Member::v4(index, Mode::Ipip);
    lab.config(1).with(Service::echo(Mode::Ipip, (1..=3).map(member).collect()))
}

/// Opens connections to the echo service, each of which exchanges something about five times a second, and waits until all have done so twice.
fn hold(lab: &Lab, udp: bool, count: usize) -> LoadRun<HoldReport> {
    let target = std::net::SocketAddr::new(VIP.parse().unwrap(), ECHO_PORT);
    let load = HoldLoad::new(target, lab.sources(target.ip()), count, 0);
    let run = lab.hold(HoldLoad { udp, interval_ms: 200, ..load }).unwrap();
    until("two exchanges of all", Duration::from_secs(20), || {
        let progress = run.progress();
        if progress.done >= 2 * count as u64 { Ok(()) } else { Err(format!("{progress:?}")) }
    })
    .unwrap();
    run
}
