//! Backends: members of services, and those that are not configured any more.

pub(crate) mod check;
pub(crate) mod judge;
pub(crate) mod members;

use crate::health::{Check, Verdict};
use model::api::{BackendState, Word};
use model::config::Service;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use wire::BackendId;

/// A configured backend.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    /// `None`: not checked.
    pub(crate) verdict: Option<Verdict>,
    /// What its machine checks; `None`: nothing.
    pub(crate) check: Option<Arc<Check>>,
    pub(crate) state: BackendState,
    pub(crate) word: Word,
    pub(crate) since_unix_ms: u64,
}

/// A backend that is no longer configured, while its flows live on.
#[derive(Debug)]
pub(crate) struct Departed {
    pub(crate) id: BackendId,
    /// Its service as it was, with this backend alone.
    pub(crate) service: Service,
    pub(crate) since_unix_ms: u64,
    /// Not before: workers must have had the chance to count.
    pub(crate) settled: Duration,
    pub(crate) deadline: Duration,
    /// Since when none of its flows is open.
    pub(crate) closed: Option<Duration>,
}
