//! All that the management core knows, and what is asked of it everywhere.
//!
//! Rule of this module, and of all that it uses: it is pure. [`step`](crate::step) takes events in, with their time; what is to be done
//! outside is an [`Effect`]. Rooms ([`backends`](crate::backends), [`agents`](crate::agents), [`cluster`](crate::cluster) …) are
//! functions that are given the controller, and never call up.

use crate::agents::candidate::Agents;
use crate::agents::gate::Gate;
use crate::backends::Backends;
use crate::backends::ConfiguredBackend;
use crate::balance::Balance;
use crate::cluster::membership::Membership;
use crate::effect::Effect;
use crate::event_log::EventLog;
use crate::gauges::{self, DataPort, Figures, Rates, WorkerGauges};
use crate::health::Subject;
use crate::ids::saved::SavedIds;
use crate::now::Now;
use crate::passive::STEP_MS;
use crate::passive::pools::Passive;
use crate::publication::Publication;
use crate::reconcile::ways::KernelSide;
use crate::revision::Ledger;
use crate::revision::ledger::Content;
use crate::scan::Scanner;
use crate::state::Saved;
use model::config::{Backend, Config, Service};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use wire::BackendId;
use worker::counters::Count;
use worker::counters::PerBackendFlows;

/// See the module.
pub(crate) struct Controller {
    /// The time of the event that is being handled.
    pub(crate) now: Now,
    /// What is to be done outside.
    pub(crate) effects: Vec<Effect>,
    pub(crate) log: EventLog,
    pub(crate) program: ThisProgram,
    pub(crate) workers: Vec<WorkerGauges>,
    pub(crate) ports: Vec<DataPort>,
    pub(crate) rates: Rates,
    /// Smallest generation that every worker uses.
    pub(crate) acknowledged: u64,

    /// What is in force: the file's, or the cluster's, and what registered.
    pub(crate) config: Arc<Config>,
    /// The configuration in force without what registered.
    pub(crate) base: Config,
    pub(crate) text: String,
    pub(crate) file_text: String,
    /// What was in force, and is. Empty in a cluster.
    pub(crate) revisions: Ledger,
    pub(crate) applied_unix_ms: u64,

    pub(crate) backends: Backends,
    pub(crate) publication: Publication,
    /// `None`: the machine is alone.
    pub(crate) cluster: Option<Membership>,
    pub(crate) agents: Agents,
    /// What goes by load.
    pub(crate) balance: Balance,
    /// What clients make of backends.
    pub(crate) passive: Passive,
    pub(crate) scanner: Scanner,
    pub(crate) kernel: KernelSide,
    pub(crate) saving: Saving,
}

/// The program that it runs in, and whether that ends.
pub(crate) struct ThisProgram {
    pub(crate) config_path: PathBuf,
    pub(crate) version: String,
    pub(crate) started_unix_ms: u64,
    pub(crate) memory_bytes: Vec<(String, u64)>,
    pub(crate) figures: Box<dyn Fn() -> Figures>,
    /// In which routers turn to other machines.
    pub(crate) grace: Duration,
    pub(crate) stopping: bool,
    /// Since when it wants to leave its cluster.
    pub(crate) leaving: Option<Duration>,
}

/// States on the disk.
#[derive(Debug, Default)]
pub(crate) struct Saving {
    /// There is something that is to be saved.
    pub(crate) unsaved: bool,
    /// States that were to be saved.
    pub(crate) saves: u64,
    /// The last one could not be written.
    pub(crate) is_unwritten: bool,
    /// What flow tables are keyed with, by worker.
    pub(crate) flow_secrets: Vec<u64>,
    /// Ids as they are saved, of this version.
    pub(crate) ids: Option<(u64, Arc<SavedIds>)>,
}

/// What the controller is made of.
pub(crate) struct ControllerParts {
    pub(crate) program: ThisProgram,
    pub(crate) workers: Vec<WorkerGauges>,
    pub(crate) ports: Vec<DataPort>,
    /// What flow tables are keyed with, by worker.
    pub(crate) flow_secrets: Vec<u64>,
    pub(crate) history: BeforeStart,
    pub(crate) cluster: Option<Membership>,
}

/// What is known of the time before the start.
pub(crate) struct BeforeStart {
    pub(crate) saved: Saved,
    /// What was in force.
    pub(crate) revisions: Ledger,
    /// What the configuration to start with is made of.
    pub(crate) content: Content,
    /// The file itself.
    pub(crate) file_text: String,
}

impl Controller {
    /// Milliseconds since the start; never goes backwards.
    pub(crate) fn uptime_ms(&self) -> u64 {
        self.now.uptime_ms()
    }

    /// Ends the check of a backend in force, if there is one.
    pub(crate) fn stop_check(&mut self, id: BackendId, member: &mut ConfiguredBackend) {
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

    /// Whether an operator drains a backend. As a rule nobody does, and this is asked for each of thousands.
    pub(crate) fn is_drained(&self, service: &Service, backend: &Backend) -> bool {
        !self.backends.drains.is_empty()
            && self.backends.drains.contains(&(service.name.clone(), backend.name.clone()))
    }

    /// Whether something is under way in the cluster that should not wait.
    pub(crate) fn is_cluster_busy(&self) -> bool {
        self.cluster.as_ref().is_some_and(|part| part.participant.is_busy())
    }

    /// Every worker uses the newest view.
    pub(crate) fn is_acknowledged(&self) -> bool {
        !self.publication.making_tables && gauges::acknowledged(&self.workers) >= self.publication.generation
    }

    /// What checks say of a backend; `None` before the first verdict.
    pub(crate) fn verdict(&self, id: BackendId) -> Option<bool> {
        self.backends.members.get(&id)?.verdict.as_ref()?.up()
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
        let tokens = self.agents.registry.tokens().clone();
        self.effects.push(Effect::AgentGate(Gate { connections, tokens }));
    }

    /// How long what may wait has to wait.
    pub(crate) fn publishes_in(&self) -> Option<Duration> {
        let waits = self.publication.lazy || (self.agents.received_changed && self.cluster.is_none());
        if waits {
            return Some(self.publication.publish_from.saturating_sub(self.now.monotonic));
        }
        self.agents.registry.is_busy().then_some(Duration::from_millis(10))
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
        self.program.leaving.is_some()
            && self.cluster.as_ref().is_some_and(|part| part.participant.has_left())
    }
}
