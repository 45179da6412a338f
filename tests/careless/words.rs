//! Whoever should hear what the daemon says does not: its log is closed, full or not read, the service manager sleeps.

use super::management::{counted, under};
use guideway_lab::Lab;
use guideway_lab::config::{Config, Member, Mode, Service};
use guideway_lab::load::hold::HoldLoad;
use guideway_lab::topology::{ECHO_PORT, VIP};
use rustix::process::Signal;
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 100;
/// As many as fill a pipe with their lines, and a socket's queue.
const DRAINS: usize = 550;

fn config(lab: &Lab) -> Config {
    let members = vec![Member::v4(1, Mode::Ipip), Member::v4(2, Mode::Ipip)];
    lab.config(1)
        .with(counted())
        .with(Service { health: String::new(), ..Service::echo(Mode::Ipip, members) })
}

/// Says a lot, under held connections, and checks that nobody is held up and none breaks; then stops the daemon.
fn talk(lab: &Lab, config: &Config) -> serde_json::Value {
    let balancer = lab.start_balancer(1, config).unwrap();
    let target = SocketAddr::new(VIP.parse().unwrap(), ECHO_PORT);
    let run = lab.hold(HoldLoad::new(target, lab.sources(target.ip()), CONNECTIONS, 0)).unwrap();
    let api = balancer.api();
    under("550 drains, and who should hear of them does not", lab, &balancer, || {
        for at in 0..DRAINS {
            let verb = if at % 2 == 0 { "drain" } else { "undrain" };
            api.json("POST", &format!("/v1/services/echo/backends/b2/{verb}"), "").unwrap();
        }
        api.json("POST", "/v1/reload?wait=true", "").unwrap();
    });
    let status = api.get("/v1/status").unwrap();
    let report = run.stop().unwrap();
    assert_eq!((report.connections.len(), report.broken().len()), (CONNECTIONS, 0), "{:?}", report.broken());
    let begun = Instant::now();
    balancer.stop().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "it stops although nobody hears of it");
    status
}

#[test]
fn a_log_that_is_closed_or_full_ends_nothing() {
    let lab = Lab::new("closed log").unwrap();
    for target in ["&-", "/dev/full"] {
        let config = Config { stderr: Some(target.to_owned()), ..config(&lab) };
        let status = talk(&lab, &config);
        // Closed before the start, standard error is /dev/null.
        assert_eq!(
            status["log_lines_lost"].as_u64().unwrap() > 0,
            target == "/dev/full",
            "{target}: {status}"
        );
    }
}

#[test]
fn a_log_whose_reader_is_gone_ends_nothing() {
    let lab = Lab::new("log without reader").unwrap();
    let pipe = lab.dir().join("log.pipe");
    guideway_lab::command::run(&["mkfifo", &pipe.to_string_lossy()]).unwrap();
    // Both ends, so that nobody waits in his open.
    let reader = OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let config = Config { stderr: Some(pipe.display().to_string()), ..config(&lab) };
    let mut balancer = lab.start_balancer(1, &config).unwrap();
    drop(reader);
    balancer.api().json("POST", "/v1/reload?wait=true", "").unwrap();
    balancer.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(300));
    assert!(balancer.is_running());
    let status = balancer.api().get("/v1/status").unwrap();
    assert!(status["log_lines_lost"].as_u64().unwrap() > 0, "{status}");
    balancer.stop().unwrap();
}

#[test]
fn a_log_and_a_service_manager_that_nobody_reads_hold_nobody_up() {
    let lab = Lab::new("unread").unwrap();
    let pipe = lab.dir().join("log.pipe");
    guideway_lab::command::run(&["mkfifo", &pipe.to_string_lossy()]).unwrap();
    let _unread = OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let manager = lab.dir().join("notify.sock");
    let _asleep = UnixDatagram::bind(&manager).unwrap();
    // What others have said to it fills its queue, however long that is.
    let others = UnixDatagram::unbound().unwrap();
    others.set_nonblocking(true).unwrap();
    while others.send_to(b"STATUS=x", &manager).is_ok() {}
    let stderr = Some(pipe.display().to_string());
    let config = Config { stderr, notify: Some(manager), ..config(&lab) };
    let status = talk(&lab, &config);
    let lost = |key: &str| status[key].as_u64().unwrap();
    assert!(lost("notices_lost") > 0, "{status}");
}
