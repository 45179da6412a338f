//! Backends: members of services, and those that are not configured any more.

pub(crate) mod check;
pub(crate) mod judge;
pub(crate) mod members;

use crate::health::Unsent;
use crate::health::{Check, Verdict};
use crate::ids::Ids;
use crate::neighbour::next_hop::NextHops;
use crate::state::{SavedBackend, SavedDrain};
use crate::tunnel::ProbePorts;
use model::api::ServiceState;
use model::api::{BackendState, Word};
use model::config::Service;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use wire::BackendId;

/// A configured backend.
#[derive(Debug)]
pub(crate) struct ConfiguredBackend {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    /// `None`: not checked.
    pub(crate) verdict: Option<Verdict>,
    /// What its machine checks; `None`: nothing.
    pub(crate) check: Option<Arc<Check>>,
    pub(crate) state: BackendState,
    pub(crate) health_source: Word,
    pub(crate) since_unix_ms: u64,
}

impl ConfiguredBackend {
    /// What its check said last, to be remembered.
    pub(crate) fn saved(&self) -> Option<SavedBackend> {
        Some(SavedBackend {
            service: self.service.clone(),
            backend: self.name.clone(),
            address: self.address,
            up: self.verdict.as_ref()?.up()?,
            since_unix_ms: self.since_unix_ms,
        })
    }
}

/// A backend that is no longer configured, while its flows live on.
#[derive(Debug)]
pub(crate) struct DepartedBackend {
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

/// All of them, and what is known of them.
#[derive(Debug, Default)]
pub(crate) struct Backends {
    pub(crate) ids: Ids,
    pub(crate) members: BTreeMap<BackendId, ConfiguredBackend>,
    pub(crate) departed: Vec<DepartedBackend>,
    pub(crate) drains: BTreeSet<(String, String)>,
    pub(crate) service_states: HashMap<String, ServiceState>,
    pub(crate) next_hops: NextHops,
    pub(crate) probe_ports: ProbePorts,
    /// Checks that could not leave.
    pub(crate) unsent: Unsent,
    /// What checks said before the restart.
    pub(crate) remembered: Vec<SavedBackend>,
    /// What checks say was not told to the cluster yet.
    pub(crate) health_changed: bool,
}

impl Backends {
    /// None yet; what was remembered is in force again when they come.
    pub(crate) fn new(remembered: Vec<SavedBackend>, drains: Vec<SavedDrain>) -> Backends {
        let drains = drains.into_iter().map(|drain| (drain.service, drain.backend)).collect();
        Backends { remembered, drains, health_changed: true, ..Backends::default() }
    }
}
