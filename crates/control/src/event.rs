//! What happens outside the controller, as it is told of it.

use crate::agents::event::AgentEvent;
use crate::announce::Vip;
use crate::cluster::stock::Lot;
use crate::cluster::store_event::StoreEvent;
use crate::compile::Recipe;
use crate::health::{Check, Subject};
use crate::neighbour::next_hop::NextHops;
use crate::reconcile::{OnLoopback, RepairKind, Surroundings};
use model::api::CheckResult;
use statesync::plan::Report;
use std::sync::Arc;
use steer::Maglev;
use wire::{CoreId, PortId};

/// See the module.
#[derive(Debug)]
pub(crate) enum Event {
    /// A check ended.
    Checked(Subject, Arc<Check>, CheckResult),
    /// Next hops changed.
    NextHops(NextHops),
    /// A VIP was put on the loopback or taken off it.
    Announced {
        /// Its address.
        vip: Vip,
        /// It is there now.
        there: bool,
    },
    /// All that is on the loopback.
    OnLoopback(OnLoopback),
    /// What the kernel has differs in another way from what is wanted.
    Surroundings(Surroundings),
    /// Links of data ports, as their drivers say.
    Links(Vec<(PortId, bool)>),
    /// Something in the kernel was put right.
    Repaired {
        /// What it was about.
        kind: RepairKind,
        /// What was done.
        text: String,
    },
    /// Something in the kernel could not be put right.
    RepairFailed {
        /// What it was about.
        kind: RepairKind,
        /// In words, if it is news.
        text: Option<String>,
    },
    /// The device of an exception interface was made anew, or not.
    Renewed {
        /// Its data port.
        port: PortId,
        /// Why not.
        result: Result<(), String>,
    },
    /// Something an operator should know.
    Warning(String),
    /// The store of the cluster.
    Store(StoreEvent),
    /// Slot tables that were asked for.
    Tables(Vec<(Arc<Recipe>, Arc<Maglev>)>),
    /// What the membership in the cluster lacked.
    ClusterLot(Lot),
    /// An agent.
    Agent(AgentEvent),
    /// The last state that was to be saved was, or why not.
    Saved(Result<(), String>),
    /// Time for housekeeping, with what workers report as members of a cluster.
    Tick(Vec<(CoreId, Report)>),
    /// Time to look through some buckets of the flow tables, if a [scan](crate::scan) is under way.
    Scan,
    /// Twice a second.
    Sweep,
    /// Every [`PERIOD`](crate::balance::PERIOD).
    Weigh,
    /// A step of passive health is over.
    Compare,
    /// What came at once has been told: time to publish what follows from it.
    Settle,
    /// The program is to end.
    Stop,
}
