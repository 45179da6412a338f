//! The lab by itself, without a balancer: its network, its servers, its load tools and its clean-up.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use guideway_lab::cleanup;
use guideway_lab::load::bulk::{BulkLoad, Direction};
use guideway_lab::load::echo::EchoLoad;
use guideway_lab::load::flood::{FloodLoad, FloodOf};
use guideway_lab::load::hold::{HoldLoad, HoldReport, How};
use guideway_lab::load::http::HttpLoad;
use guideway_lab::load::short::{Short, ShortLoad};
use guideway_lab::load::site::Health;
use guideway_lab::load::unix_ms;
use guideway_lab::topology::{ECHO_PORT, STORE, VIP, VIP6, management_address_of_backend};
use guideway_lab::{Lab, Shape, Site, Store};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::Duration;

fn lab(name: &str) -> Lab {
    Lab::with(name, &Shape { balancers: 1, backends: 2, huge_pages: 0, ..Shape::default() }).unwrap()
}

#[test]
fn clients_reach_a_backend_that_is_routed_directly() {
    let lab = lab("direct");
    for (vip, via) in [(VIP, lab.backend(1).unwrap().address()), (VIP6, lab.backend(1).unwrap().address6())] {
        lab.route_direct(vip, &via).unwrap();
        let vip: IpAddr = vip.parse().unwrap();
        let sources = lab.sources(vip);
        assert_eq!(sources.len(), 101);
        let run = lab.http(HttpLoad::new(SocketAddr::new(vip, 80), sources.clone(), 1000)).unwrap();
        let report = run.finish(Duration::from_secs(30)).unwrap();
        assert_eq!(
            (report.ok, report.failed, report.of("b1")),
            (1000, 0, 1000),
            "{:?}",
            report.failures.first()
        );
        assert_eq!(report.sources, 101);

        let target = SocketAddr::new(vip, ECHO_PORT);
        let load = EchoLoad {
            target,
            sources: sources.clone(),
            connections: 50,
            interval_ms: 100,
            duration_ms: 1000,
        };
        let echo = lab.echo(load).unwrap().finish(Duration::from_secs(20)).unwrap();
        assert_eq!((echo.connected, echo.broken.len()), (50, 0), "{:?}", echo.broken.first());
        assert!(echo.echoes >= 400, "{} echoes", echo.echoes);

        for direction in [Direction::Down, Direction::Up] {
            let load = BulkLoad { target, source: sources[0], direction, bytes: 10_000_000 };
            let bulk = lab.bulk(load).unwrap().finish(Duration::from_secs(30)).unwrap();
            assert_eq!((bulk.bytes, bulk.backend.as_str()), (10_000_000, "b1"));
        }
    }
}

/// Held connections to whoever has the VIP; after `change` the silent ones are woken.
fn hold(lab: &Lab, udp: bool, change: impl FnOnce()) -> HoldReport {
    let vip: IpAddr = VIP.parse().unwrap();
    let load = HoldLoad::new(SocketAddr::new(vip, ECHO_PORT), lab.sources(vip), 40, 20);
    let load = HoldLoad { opening_ms: 200, interval_ms: 100, limit_ms: 2000, udp, ..load };
    let mut run = lab.hold(load).unwrap();
    std::thread::sleep(Duration::from_millis(1000));
    change();
    std::thread::sleep(Duration::from_millis(500));
    run.wake().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let report = run.stop().unwrap();
    assert_eq!(report.connections.len(), 40);
    assert_eq!(report.connections.iter().filter(|held| held.silent).count(), 20);
    report
}

#[test]
fn held_connections_tell_how_each_of_them_fared() {
    let lab = lab("held");
    let route = |index| lab.route_direct(VIP, &lab.backend(index).unwrap().address()).unwrap();
    for udp in [false, true] {
        route(1);
        let report = hold(&lab, udp, || {});
        assert!(report.broken().is_empty(), "{:?}", report.broken());
        assert_eq!(report.per_backend(), [("b1".to_owned(), 40)].into());
        for held in &report.connections {
            // One at first, and four or five after it was woken, or some eighteen.
            let expected = if held.silent { 3..=7 } else { 10..=24 };
            assert!(expected.contains(&held.exchanges), "{held:?}");
        }

        // Another host answers in the place of the first: every connection notices, the silent ones when they are woken.
        let report = hold(&lab, udp, || route(2));
        let how = if udp { How::OtherBackend } else { How::Reset };
        for held in &report.connections {
            assert_eq!(held.broken.as_ref().map(|broken| broken.how), Some(how), "{held:?}");
            assert_eq!(held.backend.as_deref(), Some("b1"));
        }

        route(1);
        let report = hold(&lab, udp, || lab.backend(1).unwrap().unplug().unwrap());
        lab.backend(1).unwrap().plug().unwrap();
        for held in &report.connections {
            assert_eq!(held.broken.as_ref().map(|broken| broken.how), Some(How::Timeout), "{held:?}");
        }
    }
}

#[test]
fn a_capture_has_every_frame() {
    let lab = lab("capture");
    lab.route_direct(VIP, &lab.backend(1).unwrap().address()).unwrap();
    let capture = lab.capture("b1", "tcp dst port 7000").unwrap();
    let report = hold(&lab, false, || {});
    let frames = capture.frames().unwrap();
    // Each exchange is a segment of ours and an acknowledgement; each connection SYN, ACK, greeting, FIN.
    let exchanges = report.exchanges() as usize;
    let packets = 2 * exchanges + 4 * 40;
    assert!(
        frames.len() >= exchanges + 4 * 40 && frames.len() <= packets + 2 * 40,
        "{} {packets}",
        frames.len()
    );
    assert!(frames.iter().all(|frame| frame[12..14] == [8, 0] && frame[23] == 6));
}

#[test]
fn short_connections_come_at_their_rate() {
    let lab = lab("short");
    lab.route_direct(VIP, &lab.backend(1).unwrap().address()).unwrap();
    let vip: IpAddr = VIP.parse().unwrap();
    let target = SocketAddr::new(vip, ECHO_PORT);
    let load = || ShortLoad { target, sources: lab.sources(vip), rate: 50, limit_ms: 1500 };
    let run = lab.short(load()).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let report = run.stop().unwrap();
    assert_eq!((report.failed, report.slow.len()), (0, 0), "{:?} {:?}", report.failures, report.slow);
    assert!((90..=105).contains(&report.ok), "{report:?}");
    assert_eq!(report.per_backend, [("b1".to_owned(), report.ok)].into());

    // A SYN that is lost is sent again after a second.
    let run = lab.short(load()).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    lab.backend(1).unwrap().unplug().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    lab.backend(1).unwrap().plug().unwrap();
    std::thread::sleep(Duration::from_millis(1300));
    let report = run.stop().unwrap();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    assert!((5..=25).contains(&report.slow.len()), "{:?}", report.slow);
    let late = |short: &Short| short.ended_unix_ms - short.started_unix_ms;
    assert!(report.slow.iter().all(|short| late(short) >= 1000), "{:?}", report.slow);
}

#[test]
fn a_flood_keeps_to_its_rate_and_its_end() {
    let lab = lab("flood");
    let backend = lab.backend(1).unwrap();
    lab.route_direct(VIP, &backend.address()).unwrap();
    let resets = || {
        let text = backend.namespace().run(&["nstat", "-asz", "TcpOutRsts"]).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix("TcpOutRsts"));
        value.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap()
    };
    let vip = VIP.parse().unwrap();
    let sources = lab.sources(IpAddr::V4(vip)).into_iter();
    let load = FloodLoad {
        of: FloodOf::Acks,
        target: SocketAddrV4::new(vip, ECHO_PORT),
        sources: sources
            .filter_map(|source| if let IpAddr::V4(v4) = source { Some(v4) } else { None })
            .collect(),
        rate: 5000,
        duration_ms: 1000,
        seed: 1,
    };
    let before = resets();
    let report = lab.flood(load.clone()).unwrap().finish(Duration::from_secs(10)).unwrap();
    assert_eq!((report.sent, report.refused), (5000, 0));
    assert!((990..=1500).contains(&report.elapsed_ms), "{report:?}");
    // Every packet was whole and reached a port where nobody knew its connection.
    assert_eq!(resets() - before, 5000);
    for wrong in [FloodLoad { rate: 1_000_000, ..load.clone() }, FloodLoad { duration_ms: 3_600_000, ..load }]
    {
        let refused = lab.flood(wrong).unwrap().finish(Duration::from_secs(10));
        assert!(refused.unwrap_err().to_string().contains("a flood needs"));
    }
}

#[test]
fn a_store_keeps_its_data_over_a_kill() {
    let shape = Shape { balancers: 2, backends: 1, huge_pages: 0, management: true };
    let lab = Lab::with("store", &shape).unwrap();
    let mut store = lab.start_store().unwrap();
    let ask = |path: &str, body: &str| {
        let url = format!("{}/v3/kv/{path}", Store::endpoint());
        lab.balancer(2).unwrap().run(&["curl", "-sS", "-m", "3", "-d", body, &url])
    };
    // "key" = "value"
    ask("put", r#"{"key": "a2V5", "value": "dmFsdWU="}"#).unwrap();
    store.kill();
    assert!(ask("range", r#"{"key": "a2V5"}"#).is_err());
    store.start().unwrap();
    assert!(ask("range", r#"{"key": "a2V5"}"#).unwrap().contains("dmFsdWU="));
}

#[test]
fn a_killed_backend_refuses_and_an_unplugged_one_is_silent() {
    let lab = lab("failures");
    let backend = lab.backend(1).unwrap();
    lab.route_direct(VIP, &backend.address()).unwrap();
    let vip: IpAddr = VIP.parse().unwrap();
    let load = || {
        let load = HttpLoad::new(SocketAddr::new(vip, 80), lab.sources(vip), 10);
        lab.http(HttpLoad { timeout_ms: 300, ..load }).unwrap().finish(Duration::from_secs(10)).unwrap()
    };
    assert_eq!(load().failed, 0);
    backend.kill();
    let refused = load();
    assert_eq!(refused.failed, 10);
    assert!(refused.failures[0].reason.contains("refused"), "{:?}", refused.failures[0]);
    backend.start().unwrap();
    assert_eq!(load().failed, 0);
    backend.unplug().unwrap();
    let silent = load();
    assert_eq!(silent.failed, 10);
    assert!(silent.failures[0].reason.contains("timeout"), "{:?}", silent.failures[0]);
    backend.plug().unwrap();
    assert_eq!(load().failed, 0);
}

/// A site says of its health what it is told to, and writes down who asked; hosts reach machines on the management network until
/// that is cut, and the data network is not touched by it.
#[test]
fn a_site_tells_who_asked_it_and_the_management_network_can_be_cut() {
    let shape = Shape { balancers: 1, backends: 1, huge_pages: 0, management: true };
    let lab = Lab::with("sites", &shape).unwrap();
    let site = Site::start(&lab, 1).unwrap();
    let ask = |address: &str, limit: &str| {
        let url = format!("http://{address}:{}/health", guideway_lab::site::PORT);
        lab.management().unwrap().run(&[
            "curl",
            "-sS",
            "-m",
            limit,
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            &url,
        ])
    };
    let (begun, address) = (unix_ms(), management_address_of_backend(1));
    assert_eq!(ask(&address, "2").unwrap(), "200");
    site.tell(Health { status: 503, delay_ms: 0 }).unwrap();
    assert_eq!(ask(&address, "2").unwrap(), "503");
    site.tell(Health { status: 200, delay_ms: 700 }).unwrap();
    assert!(ask(&address, "0.3").is_err(), "it takes its time");
    site.tell(Health::GOOD).unwrap();
    assert_eq!(site.count("/health", begun, u64::MAX).unwrap(), 3);
    assert!(
        site.accesses().unwrap().iter().all(|of| of.client.to_string() == STORE),
        "{:?}",
        site.accesses()
    );

    lab.cut_management(1).unwrap();
    assert!(ask(&address, "0.5").is_err(), "the network is cut");
    let near = format!("http://{}:{}/", lab.backend(1).unwrap().address(), guideway_lab::site::PORT);
    assert_eq!(lab.near().run(&["curl", "-sS", "-m", "2", &near]).unwrap(), "b1\n");
    lab.mend_management(1).unwrap();
    assert_eq!(ask(&address, "3").unwrap(), "200");
    lab.cut(1).unwrap();
    assert!(lab.near().run(&["curl", "-sS", "-m", "0.5", &near]).is_err(), "all cables are pulled");
    lab.mend(1).unwrap();
    assert_eq!(lab.near().run(&["curl", "-sS", "-m", "3", &near]).unwrap(), "b1\n");
}

#[test]
fn nothing_is_left_behind() {
    let before = {
        let lab =
            Lab::with("clean-up", &Shape { balancers: 2, backends: 1, huge_pages: 16, ..Shape::default() })
                .unwrap();
        assert!(cleanup::huge_pages_reserved().unwrap() >= 16);
        std::fs::write(lab.huge_dir().unwrap().join("guidewaymap_0"), b"").unwrap();
        assert!(!cleanup::traces(std::process::id()).is_empty());
        // What the lab noted is what it has to restore; other processes may have labs before and after this one.
        let noted = std::fs::read_to_string(lab.dir().join("nr_hugepages")).unwrap();
        noted.trim().parse::<u64>().unwrap()
    };
    let _lock = cleanup::lock().unwrap();
    assert_eq!(cleanup::traces(std::process::id()), Vec::<String>::new());
    assert_eq!(cleanup::huge_pages_reserved().unwrap(), before);
}

/// Set in a process whose lab waits to be ended in a rude way.
const WAITS: &str = "GUIDEWAY_LAB_WAITS";

/// Starts the test `name` once more, as a process of its own whose lab waits; returns it when the lab is up. In that
/// process it does not return.
fn waiting_lab(name: &str) -> std::process::Child {
    use std::io::BufRead;
    if std::env::var_os(WAITS).is_some() {
        let _lab = lab("waiting");
        println!("lab is up");
        std::thread::sleep(Duration::from_secs(120));
        panic!("nobody ended it");
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(WAITS, "1")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("lab is up")), "the lab did not start");
    // Nobody reads on; the test harness prints nothing more before it is killed.
    child
}

#[test]
fn a_lab_that_is_terminated_cleans_up() {
    let mut child = waiting_lab("a_lab_that_is_terminated_cleans_up");
    assert!(cleanup::traces(child.id()).len() >= 2);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    assert_eq!(cleanup::traces(child.id()), Vec::<String>::new());
}

#[test]
fn the_next_lab_cleans_up_after_one_that_was_killed() {
    let mut child = waiting_lab("the_next_lab_cleans_up_after_one_that_was_killed");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(cleanup::traces(child.id()).len() >= 2);
    drop(lab("after a killed one"));
    assert_eq!(cleanup::traces(child.id()), Vec::<String>::new());
}

#[test]
fn the_traces_of_a_dead_process_are_removed() {
    let _lock = cleanup::lock().unwrap();
    // A process that has ended: its id is not used again for a while.
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let id = child.id();
    child.wait().unwrap();
    let name = format!("{}{id}-b1", cleanup::PREFIX);
    assert!(std::process::Command::new("ip").args(["netns", "add", &name]).status().unwrap().success());
    let enter = format!("--net=/run/netns/{name}");
    let mut sleeper =
        std::process::Command::new("nsenter").args([&enter, "--", "sleep", "60"]).spawn().unwrap();
    std::fs::create_dir_all(cleanup::run_dir(id).join("b1")).unwrap();
    assert_eq!(cleanup::traces(id).len(), 2);
    // The sleeper may not be in its namespace yet.
    std::thread::sleep(Duration::from_millis(200));
    assert!(cleanup::sweep_stale().contains(&id));
    assert_eq!(cleanup::traces(id), Vec::<String>::new());
    assert!(!sleeper.wait().unwrap().success(), "the process in the namespace was killed");
}
