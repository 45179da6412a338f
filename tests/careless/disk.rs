//! A disk that is full or read-only, a configuration file that an editor is at, and no descriptors left.

use super::{config, full_or, hold};
use guideway_lab::command::{run, until};
use guideway_lab::scenario::wait_up;
use guideway_lab::{Balancer, Lab};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A small file system of memory, unmounted when dropped.
pub(crate) struct SmallDisk {
    pub(crate) path: PathBuf,
}

impl SmallDisk {
    pub(crate) fn mount(path: &Path) -> SmallDisk {
        std::fs::create_dir_all(path).unwrap();
        run(&["mount", "-t", "tmpfs", "-o", "size=512k", "guideway-lab", &path.to_string_lossy()]).unwrap();
        SmallDisk { path: path.to_owned() }
    }

    pub(crate) fn fill(&self) {
        let big = vec![0; 1 << 20];
        // What fits is written before it fails.
        let _ = std::fs::write(self.path.join("fill"), &big);
    }

    pub(crate) fn free(&self) {
        std::fs::remove_file(self.path.join("fill")).unwrap();
    }

    fn remount(&self, how: &str) {
        run(&["mount", "-o", &format!("remount,{how}"), &self.path.to_string_lossy()]).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = run(&["umount", "-l", &self.path.to_string_lossy()]);
    }
}

fn drain(balancer: &Balancer, verb: &str) -> serde_json::Value {
    balancer.api().json("POST", &format!("/v1/services/echo/backends/b3/{verb}"), "").unwrap()
}

fn wait_event(balancer: &Balancer, kind: &str, count: usize) {
    until(kind, Duration::from_secs(10), || {
        let events = balancer.api().request("GET", "/v1/events?limit=10000", "").unwrap().body;
        let word = format!("\"kind\":\"{kind}\"");
        if events.matches(&word).count() >= count { Ok(()) } else { Err(events) }
    })
    .unwrap();
}

#[test]
fn a_drain_outlives_a_disk_that_was_full_or_read_only() {
    let lab = Lab::new("full disk").unwrap();
    let config = config(&lab);
    let disk = SmallDisk::mount(&config.dir.join("state"));
    let balancer = lab.start_balancer(1, &config).unwrap();
    wait_up(&balancer, "echo", &["b1", "b2", "b3"]).unwrap();
    let count = full_or(600, 100);
    let held = hold(&lab, false, count);
    for (round, reason) in [(1, "No space left"), (2, "Read-only")] {
        if round == 1 {
            disk.fill();
        } else {
            disk.remount("ro");
        }
        let answer = drain(&balancer, "drain");
        assert_eq!((&answer["drained"], &answer["saved"]), (&true.into(), &false.into()), "{answer}");
        assert!(answer["unsaved_because"].as_str().unwrap().contains(reason), "{answer}");
        wait_event(&balancer, "state_unsaved", round);
        if round == 1 {
            disk.free();
        } else {
            disk.remount("rw");
        }
        wait_event(&balancer, "state_saved", round);
        let state = std::fs::read_to_string(disk.path.join("state.json")).unwrap();
        assert!(state.contains("\"drains\": [\n    {"), "{state}");
        if round == 1 {
            let answer = drain(&balancer, "undrain");
            assert_eq!(answer["saved"], true, "{answer}");
        }
    }
    let report = held.stop().unwrap();
    assert_eq!((report.connections.len(), report.broken().len()), (count, 0), "{:?}", report.broken());
    balancer.stop().unwrap();
    let balancer = lab.start_balancer(1, &config).unwrap();
    assert_eq!(balancer.api().backend_state("echo", "b3").unwrap(), "drain");
    balancer.stop().unwrap();
}

#[test]
fn an_editor_at_the_file_loses_nothing() {
    let lab = Lab::new("editor").unwrap();
    let config = config(&lab);
    let balancer = lab.start_balancer(1, &config).unwrap();
    wait_up(&balancer, "echo", &["b1", "b2", "b3"]).unwrap();
    let count = full_or(600, 100);
    let held = hold(&lab, false, count);
    let path = balancer.config_path().to_owned();
    let (new, old) = (path.with_extension("new"), path.with_extension("toml~"));
    let changed = config.render().replacen("weight = 1", "weight = 2", 1);
    let reload = || balancer.api().request("POST", "/v1/reload?wait=true", "").unwrap();
    let generation = || balancer.api().get("/v1/status").unwrap()["generation"].as_u64().unwrap();
    let before = generation();

    // It moves the old one away, and takes a while.
    std::fs::rename(&path, &old).unwrap();
    let answer = reload();
    assert_eq!(answer.status, 500, "{}", answer.body);
    assert!(answer.body.contains("No such file"), "{}", answer.body);
    // Half of the new one is there.
    std::fs::write(&path, &changed[..changed.len() / 2]).unwrap();
    let answer = reload();
    assert_eq!(answer.status, 422, "{}", answer.body);
    assert_eq!(generation(), before, "nothing has changed");
    // Another editor: beside it, and renamed over it.
    std::fs::write(&new, &changed).unwrap();
    std::fs::rename(&new, &path).unwrap();
    let answer = reload();
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(generation() > before);
    let weight = balancer.api().find("/v1/backends", &[("service", "echo"), ("name", "b1")]).unwrap();
    assert_eq!(weight["weight"], 2);
    let report = held.stop().unwrap();
    assert_eq!((report.connections.len(), report.broken().len()), (count, 0), "{:?}", report.broken());
    balancer.stop().unwrap();
}

#[test]
fn without_descriptors_backends_stay_up_and_the_api_comes_back() {
    let lab = Lab::new("descriptors").unwrap();
    let balancer = lab.start_balancer(1, &config(&lab)).unwrap();
    wait_up(&balancer, "echo", &["b1", "b2", "b3"]).unwrap();
    let count = full_or(600, 100);
    let held = hold(&lab, false, count);
    let pid = balancer.id().to_string();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let limit = |files: usize| run(&["prlimit", "--pid", &pid, &format!("--nofile={files}:")]).unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let before = line.split_whitespace().next().unwrap().parse().unwrap();
    // Fewer than are open: not one more can be made.
    limit(open.saturating_sub(4));
    // Some checks, all of which fail to leave.
    std::thread::sleep(Duration::from_secs(full_or(30, 3)));
    limit(before);
    until("an answer", Duration::from_secs(5), || {
        balancer.api().request("GET", "/v1/ready", "").map_err(|error| error.to_string())
    })
    .unwrap();
    for backend in ["b1", "b2", "b3"] {
        assert_eq!(balancer.api().backend_state("echo", backend).unwrap(), "up");
    }
    let events = balancer.api().request("GET", "/v1/events?limit=10000", "").unwrap().body;
    assert!(!events.contains("backend_down"), "{events}");
    let log = balancer.log_tail(200);
    assert!(log.matches("API cannot accept").count() <= 1 + full_or(3, 1), "{log}");
    let report = held.stop().unwrap();
    assert_eq!((report.connections.len(), report.broken().len()), (count, 0), "{:?}", report.broken());
    balancer.stop().unwrap();
}
