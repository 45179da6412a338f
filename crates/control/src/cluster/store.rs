//! What the machine and its store say to each other. The connection itself is [`etcd`]'s; a build without the feature of
//! this name has none, and refuses `[cluster]` (see [`crate::refused_by_build`]).

#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "etcd")]
mod pieces;

#[cfg(feature = "etcd")]
pub(crate) use etcd::keep;

use super::keys::Key;
use super::picture::Change;
use super::seat::Order;
use statesync::Member;
use tokio::sync::oneshot;

/// What came of an order, or happened by itself.
#[derive(Debug)]
pub(crate) enum Event {
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
}

/// What the owner asks for.
#[derive(Debug)]
pub(crate) enum Asked {
    /// See [`Order`].
    Order(Order),
    /// The wish, if the one there is of this revision (0: there is none). Answered with its own revision, `None` if it is another one.
    Wish {
        /// The value.
        value: Vec<u8>,
        /// Revision of the one before.
        after: i64,
        /// Takes the answer.
        reply: oneshot::Sender<Result<Option<i64>, String>>,
    },
}
