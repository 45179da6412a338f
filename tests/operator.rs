//! The command line against a running balancer, as an operator uses it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use guideway_lab::command::{LabError, Result, run_with};
use guideway_lab::config::Mode;
use guideway_lab::scenario::{Variant, even_load, wait_up};
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
    guideway_lab::command::until("the new weight", Duration::from_secs(5), || {
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
