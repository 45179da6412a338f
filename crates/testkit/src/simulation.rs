//! The cluster simulator: several machines with several workers of the real engine, in one thread, under a seeded scheduler with
//! virtual time.
//!
//! Everything random comes from the seed, so a failure is replayed by its number. The engine is used as it is
//! ([`worker::Worker`] over frames in memory, [`statesync::plan::Leader`] and [`Follower`](statesync::plan::Follower)); what is made here
//! is the world around it: clients and backends with the shapes of TCP and UDP, an ECMP router, a network that loses, delays and
//! doubles, a store that is slow or away, and machines that die and return ([`scenario`]).
//!
//! The judge is the [`checker`]: a flow may not change its backend while the backend lives and the flow is not idle for too
//! long. Only the checker knows what is exempt (windows W1 to W5 of the protocol), counts it and prints it.

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
mod wiped;
mod world;

pub use allowance::Allowance;
pub use checker::{Exempt, Property, RunSummary};
pub use client::Habits;
pub use scenario::{Faults, Scenario, ScenarioShape};
pub use world::{Violation, run};
