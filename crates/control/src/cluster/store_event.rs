//! What the store tells a machine.

use super::keys::Key;
use super::participant::StoreOrder;
use super::snapshot::KeyChange;
use statesync::Member;

/// What came of an order, or happened by itself.
#[derive(Debug)]
pub(crate) enum StoreEvent {
    /// Who this machine is.
    Identified {
        /// Its number and incarnation.
        member: Member,
        /// It has taken them where there was a plan: it joins a cluster, and founds none.
        joins: bool,
    },
    /// There is no number for this machine, and will be none while it waits.
    Unfit(String),
    /// The store is reached, and this is all that is in it.
    Connected(Vec<KeyChange>),
    /// Keys have changed.
    Changed(Vec<KeyChange>),
    /// The store is not reached any more, and why.
    Disconnected(String),
    /// A plan was written, as this revision, or not.
    PlanWritten(Option<i64>),
    /// A value was not put, because the plan was another one.
    NotPut(Key),
    /// Too much waits for the store: an order did not reach it.
    NotOrdered(StoreOrder),
    /// Nor did other services.
    NotDesired,
}
