//! The checked configuration. [`crate::load()`] is the only way to make one from text. Its tables are defined in `keys`.

mod memory;
pub(crate) mod names;
mod payload;
mod sync_key;
mod template;

pub use crate::keys::agents::{Agents, ServiceAgents, Template};
pub use crate::keys::api::{Api, Metrics, Tls};
pub use crate::keys::backend::{AdminState, Backend, Registration};
pub use crate::keys::balance::{Join, Overload, Policy, Select, WeightBy};
pub use crate::keys::cluster::{Cluster, LeftOut, StoreTls, StoreUser};
pub use crate::keys::dpdk::Dpdk;
pub use crate::keys::health::{CheckFiles, Checks, Health, HealthKind, HttpCheck, Route};
pub use crate::keys::machine::{Machine, OnClosedPort};
pub use crate::keys::port::Port;
pub use crate::keys::service::{Announce, Hash, OnDown, OnEmpty, Protocol, Service, Tracking};
pub use crate::keys::table::{Change, Key};
pub use crate::keys::timeouts::Timeouts;
pub use crate::keys::workers::{Idle, Workers};
pub use payload::Payload;
use serde::Serialize;
use std::net::IpAddr;
pub use wire::encap::Mode;

/// Slots of all services of a cluster: as many services as there can be, with `maglev_size` as it is by default.
pub const CLUSTER_SLOTS_MAX: u64 = crate::keys::SERVICES_MAX as u64 * 65_537;

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

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mac(pub [u8; 6]);

/// An address with a prefix length; host bits allowed for interface addresses, refused for VIP prefixes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Net {
    /// Address.
    pub addr: IpAddr,
    /// Prefix length.
    pub len: u8,
}
