//! A backend that this agent registers.

use crate::name;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// Largest weight.
pub(crate) const WEIGHT_MAX: u32 = 65_535;
/// Largest capacity, flows.
pub(crate) const CAPACITY_MAX: u32 = 16_777_216;

/// What it asks for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Backend {
    /// The service.
    pub(crate) service: String,
    /// Its name, unique in the service.
    pub(crate) name: String,
    /// One of this host's addresses.
    pub(crate) address: IpAddr,
    /// Share of new flows, 1 to [`WEIGHT_MAX`].
    pub(crate) weight: u32,
    /// Port that is checked; absent: as the service says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<u16>,
    /// Flows that it is meant to carry, 1 to [`CAPACITY_MAX`]; absent: as the service says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) capacity: Option<u32>,
    /// File that holds its own figure of its load, 0 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) load_file: Option<PathBuf>,
}

impl Backend {
    /// What is wrong with its figures, in words: problem and remedy.
    pub(crate) fn problem(&self) -> Option<(String, String)> {
        let wrong = |what: String, help: &str| Some((what, help.to_owned()));
        if !name::is_name(&self.name) {
            return wrong(format!("backend name {:?} is no name", self.name), name::RULE);
        }
        if !(1..=WEIGHT_MAX).contains(&self.weight) {
            return wrong(format!("weight {} is out of range", self.weight), "give 1 to 65535");
        }
        if self.port == Some(0) {
            return wrong("port 0 cannot be checked".to_owned(), "give 1 to 65535, or leave it out");
        }
        if self.capacity.is_some_and(|capacity| !(1..=CAPACITY_MAX).contains(&capacity)) {
            return wrong("capacity is out of range".to_owned(), "give 1 to 16777216, or leave it out");
        }
        if self.load_file.as_ref().is_some_and(|file| !file.is_absolute()) {
            return wrong("load_file is not an absolute path".to_owned(), "begin it with /");
        }
        None
    }
}

/// A backend and which life of it this is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct RegisteredBackend {
    /// What it asks for.
    #[serde(flatten)]
    pub(crate) backend: Backend,
    /// Larger at each start of its server.
    pub(crate) incarnation: u64,
}

/// Who registered it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Origin {
    /// The agent's file.
    File,
    /// Somebody at the local socket.
    Socket,
}
