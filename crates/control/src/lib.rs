//! The management core: configuration, health, next hops, API and metrics; publishes [`worker::View`]s.
//!
//! Rule of this crate: one thread owns the truth, and everything else (checks, netlink, API requests) sends it
//! messages. It never touches a frame on a worker's path and shares no lock with a worker: views go out through
//! mailboxes and come home the same way, counters and flow tables are read.
//!
//! The pure part ([`compile`], [`ids`], [`plan`]) turns a configuration into a view without any of the rest.
#![forbid(unsafe_code)]

pub mod compile;
pub mod ids;
pub mod plan;

mod announce;
mod api;
mod apply;
mod event;
mod flows;
mod health;
mod metrics;
mod neighbour;
mod openapi;
mod plane;
mod publisher;
mod run;
mod state;
mod status;
mod telemetry;
mod truth;
mod tunnel;
mod view;

#[cfg(test)]
mod test_network;

pub use plane::{DeviceStats, Notice, Options, Plane, PortHandle, Telemetry, WorkerHandle};
pub use run::{RunError, run};
