//! What is said at the local socket: one line of JSON in, one line of JSON out.

use crate::backend::{Origin, RegisteredBackend};
use model::agent::{Phase, RefusalCode};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// Longest line that is read, bytes.
pub(crate) const LINE_MAX: usize = 65_536;

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// Register a backend.
    Register {
        service: String,
        name: String,
        address: IpAddr,
        #[serde(default = "one")]
        weight: u32,
        #[serde(default)]
        port: Option<u16>,
        #[serde(default)]
        capacity: Option<u32>,
        #[serde(default)]
        incarnation: Option<u64>,
        #[serde(default)]
        load_file: Option<PathBuf>,
    },
    /// Take it out.
    Deregister { service: String, name: String },
    /// How it stands.
    Status {},
}

const fn one() -> u32 {
    1
}

/// What is answered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Reply {
    /// It is done.
    pub(crate) ok: bool,
    /// Of `register` and `deregister`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) outcome: Option<Outcome>,
    /// Of `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<HostStatus>,
    /// What is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) help: Option<String>,
}

/// What has become of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// It was not there before.
    Registered,
    /// It is the same server with other figures.
    Updated,
    /// It is another server under the same name.
    Replaced,
    /// Nothing is new.
    Unchanged,
    /// It is taken out.
    Deregistered,
}

/// Why a request is refused, in words: problem and remedy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Unfit {
    pub(crate) error: String,
    pub(crate) help: String,
}

impl Unfit {
    pub(crate) fn new(error: impl Into<String>, help: impl Into<String>) -> Unfit {
        Unfit { error: error.into(), help: help.into() }
    }
}

impl From<Result<Outcome, Unfit>> for Reply {
    fn from(result: Result<Outcome, Unfit>) -> Reply {
        let (outcome, error, help) = match result {
            Ok(outcome) => (Some(outcome), None, None),
            Err(Unfit { error, help }) => (None, Some(error), Some(help)),
        };
        Reply { ok: outcome.is_some(), outcome, status: None, error, help }
    }
}

impl From<HostStatus> for Reply {
    fn from(status: HostStatus) -> Reply {
        Reply { ok: true, outcome: None, status: Some(status), error: None, help: None }
    }
}

/// How the agent stands.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct HostStatus {
    pub(crate) agent: String,
    pub(crate) incarnation: u64,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) machines: Vec<MachineStatus>,
    pub(crate) backends: Vec<RegisteredStatus>,
    pub(crate) checks: Vec<CheckStatus>,
}

/// A machine.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct MachineStatus {
    /// Where it is connected to.
    pub(crate) address: String,
    /// Its name, once it has told.
    pub(crate) machine: Option<String>,
    /// Whether it is welcome there.
    pub(crate) connected: bool,
    /// Whether it leads, as the last list says.
    pub(crate) leads: bool,
    /// The lease that it told, milliseconds.
    pub(crate) lease_ms: Option<u32>,
    /// Why there is no connection, or services that it refused.
    pub(crate) problem: Option<String>,
}

/// A backend that the agent registers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct RegisteredStatus {
    #[serde(flatten)]
    pub(crate) registration: RegisteredBackend,
    /// Who registered it.
    pub(crate) origin: Origin,
    /// What connected machines say.
    pub(crate) machines: Vec<BackendAtMachine>,
}

/// What a machine says of a backend.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct BackendAtMachine {
    /// Its name.
    pub(crate) machine: String,
    /// What has become of it there.
    pub(crate) state: Option<Phase>,
    /// It is refused.
    pub(crate) refused: Option<RefusalCode>,
    /// Why, in words.
    pub(crate) reason: String,
}

/// A check that is made.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct CheckStatus {
    pub(crate) service: String,
    pub(crate) backend: String,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// Absent: no verdict yet.
    pub(crate) up: Option<bool>,
    /// `ok`, or why the last one failed.
    pub(crate) reason: String,
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// It stays down at least so long, however its checks pass, milliseconds.
    pub(crate) held_down_ms: u64,
    /// Machines that want it.
    pub(crate) machines: Vec<String>,
}
