//! When backends change their state on each machine: `/v1/backends`, asked for every 5 ms.

use guideway_lab::api::rows;
use guideway_lab::load::unix_ms;
use guideway_lab::machines::Machines;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time between two questions.
const PERIOD: Duration = Duration::from_millis(5);

/// A backend's new state on a machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    pub(crate) machine: u8,
    pub(crate) unix_ms: u64,
    pub(crate) service: String,
    pub(crate) backend: String,
    /// Takes new flows.
    pub(crate) up: bool,
}

/// A watch that runs.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Change>>>,
}

impl Watch {
    /// Begins with every machine that runs. What the states are at the beginning are changes too.
    pub(crate) fn begin(machines: &Machines<'_>) -> Watch {
        let stop: Arc<AtomicBool> = Arc::default();
        let watch = |(machine, balancer): (u8, &guideway_lab::Balancer)| {
            let (stop, api) = (Arc::clone(&stop), balancer.api().clone());
            std::thread::spawn(move || {
                let mut known: BTreeMap<(String, String), bool> = BTreeMap::new();
                let mut changes = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let Ok(answer) = api.get("/v1/backends") else { continue };
                    let now_ms = unix_ms();
                    let mut now: BTreeMap<(String, String), bool> = rows(&answer)
                        .iter()
                        .filter_map(|row| {
                            let name = |key: &str| row[key].as_str().map(str::to_owned);
                            Some(((name("service")?, name("name")?), row["state"] == "up"))
                        })
                        .collect();
                    // What is there no more takes no new flows.
                    for gone in known.keys() {
                        now.entry(gone.clone()).or_insert(false);
                    }
                    for ((service, backend), up) in &now {
                        if known.get(&(service.clone(), backend.clone())) != Some(up) {
                            let (service, backend) = (service.clone(), backend.clone());
                            changes.push(Change { machine, unix_ms: now_ms, service, backend, up: *up });
                        }
                    }
                    known = now;
                    std::thread::sleep(PERIOD.saturating_sub(begun.elapsed()));
                }
                changes
            })
        };
        let threads = machines.all().map(watch).collect();
        Watch { stop, threads }
    }

    /// Ends it.
    pub(crate) fn end(self) -> Changes {
        self.stop.store(true, Ordering::Relaxed);
        Changes(self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect())
    }
}

/// What a watch has seen.
pub(crate) struct Changes(Vec<Change>);

impl Changes {
    /// When each machine first said so of a backend at or after a time, by machine; milliseconds after that time.
    pub(crate) fn first(
        &self,
        machines: &[u8],
        service: &str,
        backend: &str,
        up: bool,
        from: u64,
    ) -> Vec<u64> {
        let of = |machine: &u8| {
            let is_it = |change: &&Change| {
                change.machine == *machine
                    && (change.service.as_str(), change.backend.as_str(), change.up) == (service, backend, up)
                    && change.unix_ms >= from
            };
            let found = self.0.iter().find(is_it);
            found.unwrap_or_else(|| {
                panic!("{service}/{backend} was never up = {up} on machine {machine}: {:?}", self.0)
            })
        };
        machines.iter().map(|machine| of(machine).unix_ms - from).collect()
    }

    /// What changed of a backend at or after a time.
    pub(crate) fn of(&self, service: &str, backend: &str, from: u64) -> Vec<&Change> {
        let is_it = |change: &&Change| {
            (change.service.as_str(), change.backend.as_str()) == (service, backend) && change.unix_ms >= from
        };
        self.0.iter().filter(is_it).collect()
    }
}

/// Between the first and the last of some times.
pub(crate) fn spread(times: &[u64]) -> u64 {
    times.iter().max().unwrap_or(&0) - times.iter().min().unwrap_or(&0)
}
