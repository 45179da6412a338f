//! What the controller has done outside: it only says so.

use crate::agents::gate::Gate;
use crate::agents::session::SessionId;
use crate::cluster::desire::{Desire, Progress};
use crate::cluster::participant::StoreOrder;
use crate::cluster::stock::Missing;
use crate::compile::Recipe;
use crate::health::{Check, First, Subject};
use crate::neighbour::next_hop;
use crate::reconcile;
use crate::state::Saved;
use model::agent::ToAgent;
use std::sync::Arc;
use wire::PortId;
use worker::View;

/// See the module.
#[derive(Debug)]
pub(crate) enum Effect {
    /// All workers are to use a view.
    Publish(Arc<View>),
    /// All workers use a view of this generation, or a later one.
    Acknowledged(u64),
    /// Next hops that are to be found.
    WantNeighbours(next_hop::WantedNextHops),
    /// What the kernel is to have.
    WantOfKernel(reconcile::WantedOfKernel),
    /// A check takes the place of the one there may be.
    StartCheck(Subject, First, Arc<Check>),
    /// A check ends.
    StopCheck(Subject),
    /// An agent is told something.
    Tell(SessionId, ToAgent),
    /// Nothing more is told to an agent.
    Close(SessionId),
    /// Whom the agents' listener lets in.
    AgentGate(Gate),
    /// The store is asked for something.
    Order(StoreOrder),
    /// The store is asked for other services; nobody waits for its answer.
    Desire(Desire),
    /// What became of services that were asked for.
    Progress(Progress),
    /// Slot tables are made on another thread.
    MakeTables(Vec<Arc<Recipe>>),
    /// What the membership in the cluster lacks is made on another thread.
    MakeMissing(Missing),
    /// The state is written, under this number.
    Save(u64, Saved),
    /// The device of an exception interface is made anew.
    Renew(PortId),
    /// Something is logged, and told to those who follow events.
    Log(model::api::LoggedEvent),
    /// Every worker has taken a turn since the last sweep.
    Alive,
}
