//! The management core: configuration, health, next hops, API and metrics; publishes [`worker::View`]s.
//!
//! Rule of this crate: one thread owns the controller, and everything else (checks, netlink, API requests) sends it
//! messages. It never touches a frame on a worker's path and shares no lock with a worker: views go out through
//! mailboxes and come home the same way, counters and flow tables are read.
//!
//! The pure part ([`compile`], [`ids`], [`slots`], [`plan`]) turns a configuration into a view without any of the rest.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may wait"))]
// Without its client, nobody says what only the store says.
#![cfg_attr(not(feature = "etcd"), allow(dead_code))]

pub mod compile;
pub mod ids;
pub mod plan;
pub mod slots;

#[cfg(any(feature = "daemon", feature = "rehearsal"))]
mod agents;
#[cfg(feature = "daemon")]
mod announce;
#[cfg(feature = "daemon")]
mod api;
#[cfg(feature = "daemon")]
mod apply;
#[cfg(feature = "daemon")]
mod backends;
#[cfg(feature = "daemon")]
mod balance;
#[cfg(feature = "daemon")]
mod caller;
#[cfg(feature = "daemon")]
mod capture;
#[cfg(feature = "daemon")]
mod claims;
#[cfg(any(feature = "daemon", feature = "rehearsal"))]
mod cluster;
#[cfg(feature = "daemon")]
mod commands;
#[cfg(feature = "daemon")]
mod configure;
#[cfg(feature = "daemon")]
mod controller;
#[cfg(feature = "daemon")]
mod draft;
#[cfg(feature = "daemon")]
mod drain;
#[cfg(feature = "daemon")]
mod effect;
#[cfg(feature = "daemon")]
mod event;
#[cfg(feature = "daemon")]
mod event_log;
#[cfg(feature = "daemon")]
mod flows;
#[cfg(feature = "daemon")]
mod gauges;
#[cfg(feature = "daemon")]
mod handle;
#[cfg(feature = "daemon")]
mod health;
#[cfg(feature = "daemon")]
mod listeners;
#[cfg(feature = "daemon")]
mod load;
#[cfg(feature = "daemon")]
mod load_weight;
#[cfg(feature = "daemon")]
mod meter;
#[cfg(feature = "daemon")]
mod metrics;
#[cfg(any(feature = "daemon", feature = "rehearsal"))]
mod neighbour;
#[cfg(feature = "daemon")]
mod now;
#[cfg(feature = "daemon")]
mod pages;
#[cfg(feature = "daemon")]
mod passive;
#[cfg(feature = "daemon")]
mod plane;
#[cfg(feature = "daemon")]
mod publication;
#[cfg(feature = "daemon")]
mod publisher;
#[cfg(feature = "daemon")]
mod reconcile;
#[cfg(feature = "daemon")]
mod refusal;
#[cfg(any(feature = "daemon", feature = "rehearsal"))]
mod revision;
#[cfg(feature = "daemon")]
mod run;
#[cfg(feature = "daemon")]
mod run_error;
#[cfg(feature = "daemon")]
mod scan;
#[cfg(feature = "daemon")]
mod shell;
#[cfg(feature = "simulation")]
pub mod simulation;
#[cfg(feature = "daemon")]
mod slow_start;
#[cfg(any(feature = "daemon", feature = "rehearsal"))]
mod state;
#[cfg(feature = "daemon")]
mod status;
#[cfg(feature = "daemon")]
mod step;
#[cfg(feature = "daemon")]
mod task;
#[cfg(feature = "daemon")]
mod telemetry;
#[cfg(feature = "daemon")]
mod tunnel;
#[cfg(feature = "daemon")]
mod view;
#[cfg(feature = "daemon")]
mod wanted;

#[cfg(feature = "daemon")]
#[cfg(test)]
mod test_network;

#[cfg(feature = "rehearsal")]
pub use agents::rehearsal::{agent_seeds, rehearse_agents};
#[cfg(feature = "daemon")]
pub use claims::{ClaimError, Claims, interface_exists};
#[cfg(feature = "rehearsal")]
pub use cluster::rehearsal::{rehearse_store, store_seeds};
#[cfg(feature = "daemon")]
pub use gauges::{DeviceStats, LostWords};
#[cfg(feature = "daemon")]
pub use listeners::Listeners;
#[cfg(feature = "rehearsal")]
pub use neighbour::rehearsal::{netlink_seeds, rehearse_netlink};
#[cfg(feature = "daemon")]
pub use plane::{Notice, Plane, PortHandle, Renew, RunOptions, Telemetry, WorkerHandle};
#[cfg(feature = "daemon")]
pub use reconcile::kernel::{ExceptionError, configure as configure_exceptions};
#[cfg(feature = "daemon")]
pub use run::run;
#[cfg(feature = "daemon")]
pub use run_error::RunError;
#[cfg(feature = "daemon")]
pub use state::flow_secrets;
#[cfg(feature = "rehearsal")]
pub use state::rehearsal::{rehearse_state, state_seeds};

/// Why this build cannot run a configuration that is good in itself; `None` if it can.
#[cfg(feature = "daemon")]
pub fn refused_by_build(config: &model::Config) -> Option<&'static str> {
    (config.cluster.is_some() && !cfg!(feature = "etcd"))
        .then_some("[cluster] needs a build with the cargo feature `etcd`, which is there by default")
}
