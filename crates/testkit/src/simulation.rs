//! The cluster simulator: several machines with several workers of the real engine, in one thread, under a seeded scheduler with
//! virtual time.
//!
//! Everything random comes from the seed, so a failure is replayed by its number. Machines are what a daemon is made of
//! ([`worker::Worker`] over frames in memory, and the controller, [`control::simulation::SimulatedMachine`]); what is made here is the world around
//! them: clients and backends with the shapes of TCP and UDP, an ECMP router, a network that loses, delays and doubles, a store that is
//! slow, away or loses its data, operators, agents, checks that fail, and machines that die and return ([`scenario`]).
//!
//! The judge is the [`checker`]: a flow may not change its backend while the backend lives and the flow is not idle for too
//! long. Only the checker knows what is exempt (windows W1 to W5 of the protocol), counts it and prints it.

mod agent;
mod allowance;
pub mod checker;
mod client;
mod eavesdropper;
mod machine;
pub mod mutation;
mod packets;
mod random;
mod router;
pub mod scenario;
mod services;
mod world;

pub use allowance::Allowance;
pub use checker::{Exempt, Property, RunSummary};
pub use client::Habits;
pub use scenario::{Faults, Scenario, ScenarioShape};
pub use world::{HEARTBEAT_BYTES, Violation, run};
