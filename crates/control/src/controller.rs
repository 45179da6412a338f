//! The one owner of everything the management core knows, and the messages by which others reach it.
//!
//! Rule of this module: only the thread of [`run()`](crate::run()) touches a [`Controller`], between two messages, and every
//! change goes through [`Controller::settle`], which compiles and publishes at most one view for all of them.

use crate::agents::candidate::Candidate;
use crate::agents::gate::Gate;
use crate::agents::registry::Registry;
use crate::agents::session::Key;
use crate::backends::{Departed, Member};
use crate::balance::Balance;
use crate::cluster::membership::Part;
use crate::effect::Effect;
use crate::event_log::EventLog;
use crate::gauges::{self, DataPort, Figures, Rates, WorkerGauges};
use crate::health::{Subject, Unsent};
use crate::ids::Ids;
use crate::neighbour::next_hop::{self, NextHops};
use crate::now::Now;
use crate::passive::STEP_MS;
use crate::passive::pools::Passive;
use crate::reconcile::{self, OnLoopback, Renewals, Ways};
use crate::scan::Scanner;
use crate::state::{Saved, SavedBackend};
use model::api::ServiceState;
use model::config::{Backend, Config, Service};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use wire::BackendId;
use worker::View;
use worker::counters::Count;
use worker::counters::PerBackendFlows;

/// See the module.
pub(crate) struct Controller {
    pub(crate) config_path: PathBuf,
    pub(crate) version: String,
    /// The time of the event that is being handled.
    pub(crate) now: Now,
    /// What is to be done outside.
    pub(crate) effects: Vec<Effect>,
    pub(crate) started_unix_ms: u64,
    pub(crate) stopping: bool,
    /// Since when it wants to leave its cluster.
    pub(crate) leaving: Option<Duration>,
    /// In which routers turn to other machines.
    pub(crate) grace: Duration,

    pub(crate) workers: Vec<WorkerGauges>,
    pub(crate) ports: Vec<DataPort>,
    pub(crate) memory_bytes: Vec<(String, u64)>,
    pub(crate) figures: Box<dyn Fn() -> Figures>,
    pub(crate) rates: Rates,

    /// What is in force: the file's, or the cluster's, and what registered.
    pub(crate) config: Arc<Config>,
    /// The same without what registered.
    pub(crate) base: Config,
    pub(crate) text: String,
    pub(crate) file_text: String,
    pub(crate) applied_unix_ms: u64,
    pub(crate) ids: Ids,
    pub(crate) members: BTreeMap<BackendId, Member>,
    pub(crate) departed: Vec<Departed>,
    pub(crate) drains: BTreeSet<(String, String)>,
    pub(crate) service_states: HashMap<String, ServiceState>,
    pub(crate) next_hops: NextHops,
    pub(crate) probe_ports: crate::tunnel::ProbePorts,
    pub(crate) view: Arc<View>,
    pub(crate) generation: u64,
    /// Slot tables are being made elsewhere; nothing is published before they are there.
    pub(crate) making_tables: bool,
    /// `None`: the machine is alone.
    pub(crate) cluster: Option<Part>,
    /// What goes by load.
    pub(crate) balance: Balance,
    /// What clients make of backends.
    pub(crate) passive: Passive,
    /// Checks that could not leave.
    pub(crate) unsent: Unsent,
    pub(crate) remembered: Vec<SavedBackend>,
    pub(crate) scanner: Scanner,
    pub(crate) dirty: bool,
    pub(crate) unsaved: bool,
    /// What checks say was not told to the cluster yet.
    pub(crate) health_changed: bool,
    pub(crate) registry: Registry,
    /// Registrations that the machine itself checks before they are in force.
    pub(crate) candidates: BTreeMap<Key, Candidate>,
    /// What agents have registered differs from what is in force; in a cluster: was not told to it yet.
    pub(crate) heard_changed: bool,
    /// Something is to be published, and may wait until `publish_from`.
    pub(crate) lazy: bool,
    /// When what may wait is published next.
    pub(crate) publish_from: Duration,

    pub(crate) log: EventLog,
    /// States that were to be saved.
    pub(crate) saves: u64,
    /// The last state could not be written.
    pub(crate) is_unwritten: bool,
    /// Smallest generation that every worker uses.
    pub(crate) acknowledged: u64,
    pub(crate) wanted_neighbours: next_hop::Wanted,
    pub(crate) wanted_of_kernel: reconcile::Wanted,
    pub(crate) on_loopback: OnLoopback,
    /// Links, and the kernel's side of ports.
    pub(crate) ways: Ways,
    pub(crate) renewals: Renewals,
}

/// What the owner is made of.
pub(crate) struct Parts {
    pub(crate) config_path: PathBuf,
    pub(crate) version: String,
    pub(crate) workers: Vec<WorkerGauges>,
    pub(crate) ports: Vec<DataPort>,
    pub(crate) memory_bytes: Vec<(String, u64)>,
    pub(crate) figures: Box<dyn Fn() -> Figures>,
    pub(crate) saved: Saved,
    pub(crate) cluster: Option<Part>,
    pub(crate) grace: Duration,
}

impl Controller {
    /// Milliseconds since the start; never goes backwards.
    pub(crate) fn uptime_ms(&self) -> u64 {
        self.now.uptime_ms()
    }

    /// Ends the check of a backend in force, if there is one.
    pub(crate) fn stop_check(&mut self, id: BackendId, member: &mut Member) {
        if member.check.take().is_some() {
            self.effects.push(Effect::StopCheck(Subject::Backend(id)));
        }
    }

    /// Live flows of a backend, all workers.
    pub(crate) fn live_flows(&self, id: BackendId) -> u64 {
        self.workers.iter().filter_map(|w| w.counters.flows_of(id)).map(|c| c.flows.get()).sum()
    }

    /// Flows of a backend that are half-closed or reset and have not been forgotten yet, all workers.
    pub(crate) fn ending_flows(&self, id: BackendId) -> u64 {
        self.workers.iter().filter_map(|worker| worker.counters.ending(id)).map(Count::get).sum()
    }

    /// The generation in which everything that was asked for until now is in force.
    pub(crate) fn next_generation(&self) -> u64 {
        self.generation + u64::from(self.making_tables || self.dirty)
    }

    /// Whether a view is to be made in the next turn.
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty && !self.making_tables
    }

    /// Whether an operator drains a backend. As a rule nobody does, and this is asked for each of thousands.
    pub(crate) fn is_drained(&self, service: &Service, backend: &Backend) -> bool {
        !self.drains.is_empty() && self.drains.contains(&(service.name.clone(), backend.name.clone()))
    }

    /// Whether something is under way in the cluster that should not wait.
    pub(crate) fn is_cluster_busy(&self) -> bool {
        self.cluster.as_ref().is_some_and(|part| part.seat.is_busy())
    }

    /// Every worker uses the newest view.
    pub(crate) fn is_acknowledged(&self) -> bool {
        !self.making_tables && gauges::acknowledged(&self.workers) >= self.generation
    }

    /// What checks say of a backend; `None` before the first verdict.
    pub(crate) fn verdict(&self, id: BackendId) -> Option<bool> {
        self.members.get(&id)?.verdict.as_ref()?.up()
    }

    /// Time until the next step of any service is over. Looked at twice a second only, steps would be longer by half whenever a timer is a
    /// millisecond late.
    pub(crate) fn compares_in(&self) -> Duration {
        let due_in = |due_ms: u64| due_ms.saturating_sub(self.uptime_ms());
        Duration::from_millis(self.passive.due_ms.map_or(STEP_MS, due_in))
    }

    /// Flows that a SYN began, all workers.
    pub(crate) fn syns(&self, id: BackendId) -> u64 {
        self.workers.iter().filter_map(|of| of.counters.flows_of(id)).map(PerBackendFlows::syns).sum()
    }

    /// Whom the listener lets in, of a configuration that the registry knows.
    pub(crate) fn open_gate(&mut self, connections: u32) {
        let tokens = self.registry.tokens().clone();
        self.effects.push(Effect::AgentGate(Gate { connections, tokens }));
    }

    /// How long what may wait has to wait.
    pub(crate) fn publishes_in(&self) -> Option<Duration> {
        let waits = self.lazy || (self.heard_changed && self.cluster.is_none());
        if waits {
            return Some(self.publish_from.saturating_sub(self.now.monotonic));
        }
        self.registry.is_busy().then_some(Duration::from_millis(10))
    }

    /// Unix time of a moment since the start.
    pub(crate) fn unix_of(&self, ms: u64) -> u64 {
        self.now.unix_ms.saturating_sub(self.uptime_ms()).saturating_add(ms)
    }

    /// Why this machine cannot go on.
    pub(crate) fn fatal(&self) -> Option<String> {
        self.cluster.as_ref()?.fatal.clone()
    }

    /// Whether the machine wanted to leave, and the others go on without it.
    pub(crate) fn has_left(&self) -> bool {
        self.leaving.is_some() && self.cluster.as_ref().is_some_and(|part| part.seat.has_left())
    }
}
