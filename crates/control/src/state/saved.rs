//! What survives a restart.

use crate::ids::saved::SavedIds;
use crate::revision::saved::SavedRevisions;
use model::config::Net;
use model::registered::Registered;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;

/// The file's content.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Saved {
    /// Layout; 1.
    pub(crate) version: u32,
    /// When it was written, Unix time, milliseconds.
    pub(crate) saved_unix_ms: u64,
    /// Text of the last configuration applied.
    pub(crate) config: Option<String>,
    /// Backends drained by an operator.
    #[serde(default)]
    pub(crate) drains: Vec<SavedDrain>,
    /// What health said last.
    #[serde(default)]
    pub(crate) backends: Vec<SavedBackend>,
    /// Backends that registered and were in force.
    #[serde(default)]
    pub(crate) registrations: Vec<SavedRegistration>,
    /// Addresses that were put on the loopback.
    #[serde(default)]
    pub(crate) announced: Vec<SavedAddress>,
    /// Ids of services and backends. Empty in a cluster, whose plan has them.
    #[serde(default)]
    pub(crate) ids: Arc<SavedIds>,
    /// What each worker's flow table is keyed with, by index of the worker.
    #[serde(default)]
    pub(crate) flow_secrets: Vec<u64>,
    /// What was in force: a file of its own. `None`: there is none, or it stays as it is.
    #[serde(skip)]
    pub(crate) revisions: Option<Arc<SavedRevisions>>,
}

/// A drain.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct SavedDrain {
    /// Service name.
    pub(crate) service: String,
    /// Backend name.
    pub(crate) backend: String,
}

/// A backend's health.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SavedBackend {
    /// Service name.
    pub(crate) service: String,
    /// Backend name.
    pub(crate) backend: String,
    /// Its address: another address is another backend.
    pub(crate) address: IpAddr,
    /// Verdict of its checks.
    pub(crate) up: bool,
    /// Since when.
    pub(crate) since_unix_ms: u64,
}

/// A backend that registered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SavedRegistration {
    /// As it was in force.
    pub(crate) registered: Registered,
    /// Verdict of its checks.
    pub(crate) up: bool,
}

/// An address on the loopback.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SavedAddress {
    /// Address.
    pub(crate) address: IpAddr,
    /// Prefix length.
    pub(crate) length: u8,
}

impl From<Net> for SavedAddress {
    fn from(net: Net) -> SavedAddress {
        SavedAddress { address: net.addr, length: net.len }
    }
}
