//! What the machine and its store say to each other. The connection itself is [`etcd`]'s; a build without the feature of
//! this name has none, and refuses `[cluster]` (see [`crate::refused_by_build`]).

#[cfg(feature = "etcd")]
pub(crate) mod etcd;
#[cfg(feature = "etcd")]
mod pieces;

use super::desire::Desire;
use super::participant::StoreOrder;
use tokio::sync::oneshot;

/// What the owner asks for.
#[derive(Debug)]
pub(crate) enum StoreRequest {
    /// See [`StoreOrder`].
    Order(StoreOrder),
    /// Other services. Answered with their own revision, `None` if those that there are are others.
    Desire {
        /// The services.
        desire: Desire,
        /// Takes the answer.
        reply: oneshot::Sender<Result<Option<i64>, String>>,
    },
}
