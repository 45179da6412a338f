//! What the store tells a machine.

use super::keys::Key;
use super::picture::Change;
use super::seat::Order;
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
