//! How insertions end.

use crate::state::{Hit, State};
use wire::BackendId;

/// Why an insertion was refused. The packet is steered all the same, by the service's slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InsertRefusal {
    /// Untrusted flows have used up their share.
    QuotaFull,
    /// No room in reach (or a key without a service, which no flow has).
    TableFull,
}

/// How an insertion ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Insert {
    /// A new entry.
    Done,
    /// The flow had an entry, not expired, which is overwritten: this was it.
    Replaced(Hit),
    /// Nothing was stored.
    Refused(InsertRefusal),
}

/// How an insertion ended, and whose entry had to go for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inserted {
    /// How it ended.
    pub outcome: Insert,
    /// An entry that was removed: expired, or untrusted.
    pub evicted: Option<(BackendId, State)>,
    /// The removed one was not expired: its flow may still be in use.
    pub displaced: bool,
}

impl Inserted {
    /// This outcome, and nobody had to go.
    pub const fn without_victim(outcome: Insert) -> Inserted {
        Inserted { outcome, evicted: None, displaced: false }
    }
}
