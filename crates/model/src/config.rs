//! The checked configuration. [`crate::load()`] is the only way to make one from text. Its tables are defined
//! in `keys`.

mod memory;
mod names;
mod payload;
mod sync_key;
mod template;

pub use crate::keys::agents::{Agents, ServiceAgents, Template};
pub use crate::keys::api::{Api, Metrics, Tls};
pub use crate::keys::backend::{AdminState, Backend, Registration};
pub use crate::keys::cluster::{CLUSTER_SLOTS_MAX, Cluster, LeftOut, StoreTls, StoreUser};
pub use crate::keys::dpdk::Dpdk;
pub use crate::keys::health::{CheckFiles, Checks, Health, HealthKind, HttpCheck, Route};
pub use crate::keys::key::{ConfigKey, RestartRule};
pub use crate::keys::machine::{Machine, OnClosedPort};
pub use crate::keys::port::Port;
pub use crate::keys::service::{
    Announce, Hash, Join, OnDown, OnEmpty, Overload, Policy, Protocol, Select, Service, Tracking, WeightBy,
};
pub use crate::keys::timeouts::Timeouts;
pub use crate::keys::workers::{Idle, Workers};
pub use crate::mac::Mac;
pub use crate::net::Net;
pub use payload::Payload;
use serde::Serialize;
pub use wire::encap::Mode;

/// A checked configuration: every value in range, every reference resolved, every default filled in.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Config {
    /// `[machine]`
    pub machine: Machine,
    /// `[api]`
    pub api: Api,
    /// `[metrics]`
    pub metrics: Metrics,
    /// `[timeouts]`
    pub timeouts: Timeouts,
    /// `[dpdk]`
    pub dpdk: Dpdk,
    /// `[workers]`
    pub workers: Workers,
    /// `[cluster]` with a `store`; `None`: the machine is alone
    pub cluster: Option<Cluster>,
    /// `[agents]`; `None`: nothing listens for agents
    pub agents: Option<Agents>,
    /// `[[port]]`, at least one
    pub ports: Vec<Port>,
    /// `[[service]]`, possibly none
    pub services: Vec<Service>,
}
