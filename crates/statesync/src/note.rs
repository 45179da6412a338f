//! Notes: what members tell each other beside frames. Plain data; [`datagram`](crate::datagram) makes bytes of them.

use crate::members::{MachineId, Member};
use wire::{BackendId, CoreId, FlowKey};

/// Why a record is stated. The receiver treats them alike; they are counted apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Why {
    /// Somebody decided a flow.
    Decide = 1,
    /// The flow's slot is about to change.
    Export = 2,
    /// The flow was used.
    Refresh = 3,
    /// The slot's owners are about to change.
    Migrate = 4,
}

impl Why {
    /// All reasons.
    pub const ALL: [Why; 4] = [Why::Decide, Why::Export, Why::Refresh, Why::Migrate];

    /// Of its number.
    pub fn from_number(number: u8) -> Option<Why> {
        Why::ALL.into_iter().find(|why| *why as u8 == number)
    }
}

/// What a flow's record is said to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statement {
    /// The flow.
    pub key: FlowKey,
    /// Its backend.
    pub backend: BackendId,
    /// Nobody saw it begin: the backend was concluded from the slot's base.
    pub guess: bool,
    /// How long ago it was last used, microseconds: a duration, because no two machines share a clock.
    pub age_us: u64,
    /// Why it is said.
    pub why: Why,
}

/// A note that is sent again until it is acknowledged, or its receiver has left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lasting {
    /// To an owner: keep this record.
    State(Statement),
    /// To every member: who has an entry of this flow overwrites it and stamps it as used now.
    Push {
        /// The flow.
        key: FlowKey,
        /// Its backend.
        backend: BackendId,
    },
}

impl Lasting {
    /// The flow it speaks of.
    pub const fn key(&self) -> FlowKey {
        match self {
            Lasting::State(statement) => statement.key,
            Lasting::Push { key, .. } => *key,
        }
    }
}

/// The number of a lasting note at its sender (a core of a machine): rises with each new note, and is kept when it is sent
/// again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Sequence(pub u64);

/// Who sent a note.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Origin {
    /// The machine, since which start.
    pub member: Member,
    /// Its core.
    pub core: CoreId,
}

/// What an owner answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The flow.
    pub key: FlowKey,
    /// Its backend.
    pub backend: BackendId,
    /// Whether the record is a guess.
    pub guess: bool,
    /// The asker's own tick, as the question had it.
    pub asked_us: u64,
    /// The asker's core.
    pub core: CoreId,
}

/// A note.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Note {
    /// The sender lives.
    Heartbeat,
    /// Sent again until acknowledged.
    Lasting(Sequence, Lasting),
    /// To the sender of a lasting note: done.
    Acknowledge {
        /// Its number.
        sequence: Sequence,
        /// Which core of the receiver sent it.
        core: CoreId,
    },
    /// Best effort.
    Answer(Answer),
}

/// Who asks about a frame that was relayed, and how far it has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    /// The machine that wants the answer.
    pub machine: MachineId,
    /// Its core.
    pub core: CoreId,
    /// Its tick, echoed in the answer.
    pub asked_us: u64,
    /// Machines passed so far.
    pub hops: u8,
}

/// Most machines that a relayed frame passes after the one that received it.
pub const HOPS_MAX: u8 = 2;
/// An answer older than this is ignored, microseconds: the flow may have begun anew meanwhile.
pub const ANSWER_AGE_MAX_US: u64 = 100_000;
