//! What the machine and its store say to each other. The connection itself is [`etcd`]'s; a build without the feature of
//! this name has none, and refuses `[cluster]` (see [`crate::refused_by_build`]).

#[cfg(feature = "etcd")]
pub(crate) mod etcd;
#[cfg(feature = "etcd")]
mod pieces;

use super::desire::Desire;
use super::keys::Key;
use super::picture::Change;
use super::seat::Order;
use statesync::Member;
use tokio::sync::oneshot;

/// What came of an order, or happened by itself.
#[derive(Debug)]
pub(crate) enum StoreEvent {
    /// Who this machine is.
    Identified(Member),
    /// There is no number for this machine, and will be none while it waits.
    Unfit(String),
    /// The store is reached, and this is all that is in it.
    Connected(Vec<Change>),
    /// Keys have changed.
    Changed(Vec<Change>),
    /// The store is not reached any more, and why.
    Disconnected(String),
    /// A plan was written, as this revision, or not.
    PlanWritten(Option<i64>),
    /// A value was not put, because the plan was another one.
    NotPut(Key),
    /// Too much waits for the store: an order did not reach it.
    NotOrdered(Order),
    /// Nor did other services.
    NotDesired,
}

/// What the owner asks for.
#[derive(Debug)]
pub(crate) enum Asked {
    /// See [`Order`].
    Order(Order),
    /// Other services. Answered with their own revision, `None` if those that there are are others.
    Desire {
        /// What.
        desire: Desire,
        /// Takes the answer.
        reply: oneshot::Sender<Result<Option<i64>, String>>,
    },
}
