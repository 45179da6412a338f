//! A machine's part in a cluster: what the machines agree on, and how they come to it by way of a store.
//!
//! Rule of this module: the store only carries. Decisions are made by [`statesync::plan`]; [`participant`] is what a machine knows of the store
//! and what it wants to put there, and has no clock and no connection; [`store`] is the connection and decides nothing. What is in the
//! store is described in docs/adr/0017.
//!
//! ```text
//! store ── what is there ──▶ snapshot ─▶ participant ─▶ document (plan, ids, services) ─▶ adopt ─▶ view ─▶ workers
//!   ▲                                    │ leading: wishes, health ─▶ next document             │
//!   └──────────── orders ◀───────────────┴───────────── acknowledgements ◀───── reports ◀───────┘
//! ```

// Without a daemon there is no connection, and whoever rehearses needs little of the rest.
#![cfg_attr(not(feature = "daemon"), allow(dead_code))]

#[cfg(feature = "daemon")]
pub(crate) mod adopt;
#[cfg(feature = "daemon")]
pub(crate) mod desire;
#[cfg(feature = "daemon")]
pub(crate) mod desired;
#[cfg(feature = "daemon")]
pub(crate) mod desires;
pub(crate) mod document;
#[cfg(feature = "daemon")]
pub(crate) mod forecast;
#[cfg(feature = "daemon")]
pub(crate) mod joined;
pub(crate) mod keys;
pub(crate) mod leading;
#[cfg(feature = "daemon")]
pub(crate) mod membership;
#[cfg(any(test, feature = "simulation"))]
pub(crate) mod memory;
pub(crate) mod participant;
pub(crate) mod readings;
pub(crate) mod registrations;
#[cfg(any(test, feature = "rehearsal"))]
pub(crate) mod rehearsal;
#[cfg(feature = "daemon")]
pub(crate) mod show;
pub(crate) mod slot_text;
pub(crate) mod snapshot;
pub(crate) mod stock;
#[cfg(feature = "daemon")]
pub(crate) mod store;
#[cfg(feature = "daemon")]
pub(crate) mod store_event;
pub(crate) mod tables;
pub(crate) mod text;

#[cfg(test)]
mod tests;
