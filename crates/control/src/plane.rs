//! What the management core is given by the program that started workers and ports: plain data and closures, so
//! that a test can make one without DPDK.

use crate::claims::Claims;
use crate::gauges::{DeviceStats, LostWords};
use crate::listeners::Listeners;
use flow::Reader;
use statesync::plan::Report;
use statesync::spsc::Receiver;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use wire::{CoreId, PortId, Tick};
use worker::commands::Commander;
use worker::view::mailbox::Publisher;
use worker::{Counters, View};

/// How to run.
pub struct RunOptions {
    /// File the configuration came from; read again on SIGHUP and `POST /v1/reload`.
    pub config_path: PathBuf,
    /// Time between "no longer ready, announcements withdrawn" and the return of [`run()`](crate::run()), in which
    /// routers turn to other machines. Default 200 ms.
    pub grace: Duration,
    /// Told what a service manager wants to know. Default none.
    pub notify: Option<Box<dyn FnMut(Notice)>>,
    /// Set when a reload was asked for before [`run()`](crate::run()) could hear of it. Default none.
    pub hangup: Option<Arc<AtomicBool>>,
    /// What the program could not tell others. Default nothing.
    pub lost_words: Box<dyn Fn() -> LostWords>,
    /// Version of the program. Default: this crate's.
    pub version: String,
    /// What this process has claimed. Default nothing: what comes later is claimed all the same.
    pub claims: Claims,
    /// Listeners that were bound before; default `None`: [`run()`](crate::run()) binds them.
    pub listeners: Option<Listeners>,
}

impl RunOptions {
    /// Defaults for everything but the file.
    pub fn new(config_path: impl Into<PathBuf>) -> RunOptions {
        RunOptions {
            config_path: config_path.into(),
            grace: Duration::from_millis(200),
            notify: None,
            hangup: None,
            lost_words: Box::new(LostWords::default),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            claims: Claims::default(),
            listeners: None,
        }
    }
}

/// What a service manager (systemd) wants to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// The API answers and every worker uses a view. Once.
    Started,
    /// Every worker has taken a turn since the last such notice. About twice a second, else silence.
    Alive,
    /// The configuration is being read again.
    Reloading,
    /// The reload is over.
    Reloaded,
    /// On the way out.
    Stopping,
}

/// The packet path, seen from the management core.
pub struct Plane {
    /// Workers by core, core 0 first.
    pub workers: Vec<WorkerHandle>,
    /// What their flow tables are keyed with, in the same order: kept over a restart, see [`flow_secrets`](crate::flow_secrets()).
    pub flow_secrets: Vec<u64>,
    /// Data ports in the order of the configuration.
    pub ports: Vec<PortHandle>,
    /// The workers' clock.
    pub now: Box<dyn Fn() -> Tick>,
    /// Memory by use, bytes: flow tables, buffers.
    pub memory_bytes: Vec<(String, u64)>,
    /// Makes exception devices anew; `None`: it cannot be done.
    pub renew: Option<Renew>,
    /// Takes the latest JSON of each DPDK telemetry command (`/guideway/summary` …) twice a second.
    pub telemetry: Option<Telemetry>,
}

/// Makes the exception device of a data port anew, whose kernel interface is gone, and exchanges it for the old one in every worker, none of which
/// uses it any more. Blocks; called on a thread that may. Says why not.
pub type Renew = Arc<dyn Fn(PortId) -> Result<(), String> + Send + Sync>;

/// Takes a DPDK telemetry command and the JSON that answers it.
pub type Telemetry = Box<dyn FnMut(&str, String)>;

/// A worker, seen from the management core.
pub struct WorkerHandle {
    /// Its core.
    pub core: CoreId,
    /// The CPU it runs on.
    pub cpu: u16,
    /// The way of views to it and home.
    pub publisher: Publisher<View>,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// Its flow table.
    pub flows: Reader,
    /// What it reports as a member of a cluster.
    pub reports: Option<Receiver<Report>>,
    /// The way of commands to it and of answers home; `None`: it takes none.
    pub commands: Option<Commander>,
}

/// A data port, seen from the management core.
pub struct PortHandle {
    /// Its number on the packet path.
    pub id: PortId,
    /// Its name in the configuration.
    pub name: String,
    /// DPDK device.
    pub device: String,
    /// MAC.
    pub mac: [u8; 6],
    /// Largest IP datagram, bytes.
    pub mtu: u16,
    /// Driver.
    pub driver: String,
    /// Its exception port: number on the packet path and kernel interface.
    pub exception: Option<(PortId, String)>,
    /// The kernel interface under the device, whose link is looked at: its driver always says up.
    pub kernel: Option<String>,
    /// Reads the device's statistics.
    pub stats: Box<dyn Fn() -> DeviceStats>,
    /// Reads the link state.
    pub link_up: Box<dyn Fn() -> bool>,
}
