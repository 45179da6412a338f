//! The command line against a running balancer, as an operator uses it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use guideway_lab::command::{LabError, Process, Result, run_with, until};
use guideway_lab::config::Mode;
use guideway_lab::load::http::HttpLoad;
use guideway_lab::scenario::{Variant, check_conservation, even_load, wait_up};
use guideway_lab::{Balancer, Binaries, Lab};
use serde_json::Value;
use std::time::Duration;

struct Operator<'a> {
    lab: &'a Lab,
    socket: String,
}

impl Operator<'_> {
    fn guideway(&self, arguments: &[&str]) -> Result<String> {
        let program = Binaries::existing(&self.lab.binaries().guideway)?;
        let argv: Vec<&str> = [program]
            .into_iter()
            .chain(arguments.iter().copied())
            .chain(["--socket", &self.socket])
            .collect();
        run_with(&argv, "", Duration::from_secs(20))
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.guideway(&[arguments, &["--json"]].concat()).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }
}

fn state(balancer: &Balancer, backend: &str) -> String {
    balancer.api().backend_state("web", backend).unwrap()
}

#[test]
fn an_operator_sees_and_changes_a_running_balancer() {
    let lab = Lab::new("operator").unwrap();
    let variant = Variant::v4(Mode::Ipip);
    let config = variant.config(&lab, 1, &[(1, 1), (2, 1)]);
    let balancer = lab.start_balancer(1, &config).unwrap();
    wait_up(&balancer, "web", &["b1", "b2"]).unwrap();
    even_load(&lab, variant, &[("b1", 1), ("b2", 1)], 1000, |_| {}).unwrap();
    let operator = Operator { lab: &lab, socket: config.socket().to_string_lossy().into_owned() };

    for what in ["services", "backends", "workers", "ports", "flows", "drops"] {
        let text = operator.guideway(&["show", what]).unwrap();
        assert!(!text.trim().is_empty(), "show {what}");
        let json = operator.json(&["show", what]);
        assert!(json.is_array() || json.is_object(), "show {what}: {json}");
    }
    let services = operator.guideway(&["show", "services"]).unwrap();
    assert!(services.contains("web") && services.contains("203.0.113.10"), "{services}");

    // A flow of the load: described, dumped, forgotten, and restored.
    let known = operator.json(&["show", "flows", "--limit", "1"])["flows"][0].clone();
    let client = format!("{}:{}", known["client"].as_str().unwrap(), known["client_port"]);
    let of_client = ["web", "--client", &client];
    let described = operator.json(&[&["flows", "describe"], &of_client[..]].concat());
    assert_eq!(described["entries"][0]["backend"], known["backend"], "{described}");
    let dumped = lab.dir().join("flows.jsonl").to_string_lossy().into_owned();
    operator.guideway(&["flows", "dump", "-w", &dumped]).unwrap();
    let line = std::fs::read_to_string(&dumped).unwrap();
    let line = line.lines().find(|line| line.contains(&format!("\"{client}\""))).unwrap().to_owned();
    std::fs::write(&dumped, line).unwrap();
    let forgotten = operator.json(&[&["flows", "forget"], &of_client[..]].concat());
    assert_eq!(forgotten["forgotten"][0]["backend"], known["backend"], "{forgotten}");
    assert_eq!(operator.json(&["flows", "restore", &dumped])["restored"], 1);
    let described = operator.json(&[&["flows", "describe"], &of_client[..]].concat());
    assert_eq!(described["entries"][0]["backend"], known["backend"], "{described}");

    operator.guideway(&["drain", "web/b2"]).unwrap();
    assert_eq!(state(&balancer, "b2"), "drain");
    operator.guideway(&["undrain", "web/b2"]).unwrap();
    wait_up(&balancer, "web", &["b2"]).unwrap();

    // A third backend, through a file and --wait; and the file again by reload.
    let more = variant.config(&lab, 1, &[(1, 1), (2, 1), (3, 1)]).render();
    let file = balancer.config_path().to_string_lossy().into_owned();
    std::fs::write(&file, &more).unwrap();
    operator.guideway(&["apply", "--wait", &file]).unwrap();
    wait_up(&balancer, "web", &["b3"]).unwrap();
    operator.guideway(&["reload"]).unwrap();

    // SIGHUP reads the file as well.
    std::fs::write(&file, more.replacen("weight = 1", "weight = 7", 1)).unwrap();
    balancer.signal(rustix::process::Signal::HUP);
    until("the new weight", Duration::from_secs(5), || {
        let row =
            balancer.api().find("/v1/backends", &[("name", "b1")]).map_err(|error| error.to_string())?;
        if row["weight"] == 7 { Ok(()) } else { Err(row.to_string()) }
    })
    .unwrap();

    // A bad file, and a key that needs a restart, are refused; nothing changes.
    for (bad, named) in [
        (more.replace("mode = \"ipip\"", "mode = \"ipop\""), "ipop"),
        (more.replace("flows = 65536", "flows = 131072"), "workers.flows"),
    ] {
        let path = lab.dir().join("bad.toml").to_string_lossy().into_owned();
        std::fs::write(&path, bad).unwrap();
        match operator.guideway(&["apply", "--wait", &path]) {
            Err(LabError::Command { output, .. }) => assert!(output.contains(named), "{output}"),
            other => panic!("a bad configuration was applied: {other:?}"),
        }
    }
    let row = balancer.api().find("/v1/backends", &[("name", "b1")]).unwrap();
    assert_eq!(row["weight"], 7);

    let events = operator.guideway(&["events"]).unwrap();
    for word in ["b2", "b3"] {
        assert!(events.contains(word), "no {word} in {events}");
    }
    balancer.stop().unwrap();
}

/// Requests, 300 a second, while something is done to the balancer: none fails.
fn load_while(lab: &Lab, variant: Variant, done: impl FnOnce()) {
    let load = HttpLoad::steady(variant.target().unwrap(), variant.sources(), 300);
    let run = lab.http(load).unwrap();
    let until_done = |requests: u64| {
        until("requests", Duration::from_secs(30), || match run.progress() {
            progress if progress.done >= requests => Ok(progress.done),
            progress => Err(format!("{progress:?}")),
        })
        .unwrap()
    };
    until_done(300);
    done();
    until_done(run.progress().done + 300);
    let report = run.stop().unwrap();
    assert!(report.failed == 0 && report.ok >= 600, "{report:?}");
}

#[test]
fn one_backend_is_changed_by_itself_and_what_nobody_confirms_goes_back() {
    let lab = Lab::new("revisions").unwrap();
    let variant = Variant::v4(Mode::Ipip);
    let config = variant.config(&lab, 1, &[(1, 1), (2, 1)]);
    let balancer = lab.start_balancer(1, &config).unwrap();
    wait_up(&balancer, "web", &["b1", "b2"]).unwrap();
    let operator = Operator { lab: &lab, socket: config.socket().to_string_lossy().into_owned() };
    let even = |weights: &[(&str, u32)]| drop(even_load(&lab, variant, weights, 1000, |_| {}).unwrap());

    // To weight 0 and back, with traffic.
    load_while(&lab, variant, || {
        operator.guideway(&["backend", "set", "web/b2", "--weight", "0", "--wait"]).unwrap();
    });
    even(&[("b1", 1)]);
    load_while(&lab, variant, || {
        operator.guideway(&["backend", "set", "web/b2", "--weight", "1", "--wait"]).unwrap();
    });
    even(&[("b1", 1), ("b2", 1)]);
    operator.guideway(&["service", "release", "web", "--wait"]).unwrap();

    // On trial b1 has three times the weight; nobody confirms, and shares are as before.
    let file = lab.dir().join("trial.toml").to_string_lossy().into_owned();
    std::fs::write(&file, config.render().replacen("weight = 1", "weight = 3", 1)).unwrap();
    load_while(&lab, variant, || match operator.guideway(&["apply", "--confirm", "2s", &file]) {
        Err(LabError::Command { output, .. }) => assert!(output.contains("was not confirmed"), "{output}"),
        other => panic!("nobody confirmed it: {other:?}"),
    });
    even(&[("b1", 1), ("b2", 1)]);

    // For good, and back by its number.
    let before = operator.json(&["history"])["revisions"][0]["number"].to_string();
    operator.guideway(&["apply", "--wait", &file]).unwrap();
    even(&[("b1", 3), ("b2", 1)]);
    load_while(&lab, variant, || {
        operator.guideway(&["rollback", &before, "--wait"]).unwrap();
    });
    even(&[("b1", 1), ("b2", 1)]);
    let events = operator.guideway(&["events"]).unwrap();
    assert!(events.contains("(by uid 0, pid ") && events.contains("nobody confirmed revision"), "{events}");
    balancer.stop().unwrap();
}

/// Interfaces and comments of a capture, as Wireshark reads them.
fn read_capture(file: &str) -> Vec<(String, String)> {
    let fields = ["-T", "fields", "-e", "frame.interface_name", "-e", "frame.comment"];
    let text = run_with(&[&["tshark", "-n", "-r", file], &fields[..]].concat(), "", Duration::from_secs(60));
    let text = text.unwrap();
    let line = |line: &str| {
        let (interface, comment) = line.split_once('\t').unwrap_or_else(|| panic!("{line:?}"));
        (interface.to_owned(), comment.to_owned())
    };
    text.lines().map(line).collect()
}

#[test]
fn frames_are_captured_as_received_and_as_sent() {
    let lab = Lab::new("capture").unwrap();
    let variant = Variant::v4(Mode::Ipip);
    let config = variant.config(&lab, 1, &[(1, 1), (2, 1)]);
    let balancer = lab.start_balancer(1, &config).unwrap();
    wait_up(&balancer, "web", &["b1", "b2"]).unwrap();
    let operator = Operator { lab: &lab, socket: config.socket().to_string_lossy().into_owned() };
    let path = |name: &str| lab.dir().join(name).to_string_lossy().into_owned();

    // While clients come: as many as asked for, and each twice.
    let load = HttpLoad::steady(variant.target().unwrap(), variant.sources(), 200);
    let load = lab.http(load).unwrap();
    let file = path("web.pcapng");
    operator.guideway(&["capture", "--service", "web", "--count", "300", "-w", &file]).unwrap();
    let report = load.stop().unwrap();
    assert_eq!(report.failed, 0, "capturing disturbed traffic: {:?}", report.failures.first());
    let captured = read_capture(&file);
    let (received, sent) = captured.iter().partition::<Vec<_>, _>(|(interface, _)| interface == "data0:rx");
    assert_eq!((received.len(), sent.len()), (300, 300), "{:?}", captured.first());
    for pair in captured.chunks(2) {
        assert_eq!((pair[0].0.as_str(), pair[1].0.as_str()), ("data0:rx", "data0:tx"));
        assert_eq!(pair[0].1, pair[1].1, "they stand together");
    }
    for backend in ["b1", "b2"] {
        let comment = format!("action=encapsulate service=web backend={backend}");
        assert!(received.iter().any(|(_, found)| *found == comment), "no {comment}: {:?}", received.first());
    }
    let outer = ["tshark", "-n", "-r", &file, "-Y", "ip.proto == 4"];
    let outer = run_with(&outer, "", Duration::from_secs(60)).unwrap();
    assert_eq!(outer.lines().count(), 300, "each is sent through the tunnel");

    // What is dropped, by its reason: a packet to a closed port.
    let file = path("closed.pcapng");
    let program = Binaries::existing(&lab.binaries().guideway).unwrap();
    let argv = [program, "capture", "--reason", "no_service", "--count", "1", "-w", &file];
    let argv = [&argv[..], &["--socket", &operator.socket]].concat();
    let mut capture = Process::start("capture", &argv, &lab.dir().join("capture.log")).unwrap();
    until("the capture's begin", Duration::from_secs(10), || {
        let events = operator.guideway(&["events"]).map_err(|error| error.to_string())?;
        if events.contains("that end with no_service") { Ok(()) } else { Err(events) }
    })
    .unwrap();
    let closed = format!("http://{}:81/", variant.vip());
    let refused = lab.client().run(&["curl", "-s", "--max-time", "5", &closed]);
    assert!(refused.is_err(), "{refused:?}");
    let status = capture.wait(Duration::from_secs(20)).unwrap();
    assert!(status.success(), "{}", capture.log_tail(5));
    assert!(capture.log_tail(5).contains("1 frames captured"), "{}", capture.log_tail(5));
    let captured = read_capture(&file);
    assert_eq!(captured[0].0, "data0:rx");
    assert!(captured.iter().all(|(_, comment)| comment.contains("reason=no_service")), "{captured:?}");
    check_conservation(&balancer).unwrap();
    balancer.stop().unwrap();
}
