//! A connection on which an agent has proved who it is.

use model::agent::{BackendReport, Target, digest};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

/// Number of a connection; never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct SessionId(pub(crate) u64);

/// Service and name of a backend.
pub(crate) type BackendKey = (String, String);

/// Most results that are kept of one connection.
pub(crate) const RESULTS_MAX: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) agent: String,
    pub(crate) incarnation: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Services whose tokens it has.
    pub(crate) services: BTreeSet<String>,
    /// Services of its hello that were none that agents may speak for.
    pub(crate) unknown: BTreeSet<String>,
    /// The shortest of these services' leases.
    pub(crate) lease_ms: u64,
    pub(crate) since_ms: u64,
    /// When something was heard last.
    pub(crate) heard_ms: u64,
    /// Backends it registered.
    pub(crate) registered: BTreeSet<BackendKey>,
    /// What it was asked to check, by service, and the number of the last request.
    pub(crate) asked: HashMap<String, RequestedChecks>,
    /// Addresses that are not on its host, it says, by service.
    pub(crate) not_local: HashSet<(String, IpAddr)>,
    /// When it was last asked to check something.
    pub(crate) asked_ms: Option<u64>,
    pub(crate) last_report: u64,
    pub(crate) last_heartbeat: u64,
    results: BTreeMap<(String, String, IpAddr), BackendReport>,
}

/// A request to check.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct RequestedChecks {
    pub(crate) revision: u64,
    pub(crate) check: Option<model::agent::CheckSpec>,
    pub(crate) targets: Vec<Target>,
}

impl Session {
    pub(crate) fn new(agent: String, incarnation: u64, peer: SocketAddr, now_ms: u64) -> Session {
        Session {
            agent,
            incarnation,
            peer,
            addresses: BTreeSet::new(),
            services: BTreeSet::new(),
            unknown: BTreeSet::new(),
            lease_ms: u64::MAX,
            since_ms: now_ms,
            heard_ms: now_ms,
            registered: BTreeSet::new(),
            asked: HashMap::new(),
            not_local: HashSet::new(),
            asked_ms: None,
            last_report: 0,
            last_heartbeat: 0,
            results: BTreeMap::new(),
        }
    }

    /// Whether it was asked to check this.
    pub(crate) fn is_asked(&self, service: &str, backend: &str, address: IpAddr) -> bool {
        self.asked.get(service).is_some_and(|asked| {
            asked.targets.iter().any(|target| target.backend == backend && target.address == address)
        })
    }

    /// Keeps what a report says, for the digest; false when there is no room.
    pub(crate) fn keep(&mut self, full: bool, results: &[BackendReport]) -> bool {
        if full {
            self.results.clear();
        }
        for result in results {
            let key = (result.service.clone(), result.backend.clone(), result.address);
            self.results.insert(key, result.clone());
        }
        self.results.len() <= RESULTS_MAX
    }

    /// The digest of all that its reports have said, as it is written.
    pub(crate) fn digest(&self) -> String {
        format!("{:016x}", digest(self.results.values()))
    }
}
