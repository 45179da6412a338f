//! What workers of one machine give to each other.

use crate::BURST;
use statesync::{Answer, Lasting, Member, Origin, Question, Sequence};
use wire::{BackendId, FlowKey};

/// Frames taken from other workers' rings in one turn at the most, so that they cannot starve receive.
pub(crate) const RING_BUDGET: usize = 2 * BURST;

/// What one worker gives to another: a frame for the worker that owns what it needs, or a note.
#[derive(Debug)]
pub enum Relay<F> {
    /// A fragment, as received.
    Fragment(F),
    /// A frame of a flow that the receiver owns, as received.
    Question(F, Question),
    /// What another machine or worker says.
    Note(CoreNote),
}

impl<F> Relay<F> {
    /// The frame in it.
    pub(crate) const fn frame(&self) -> Option<&F> {
        match self {
            Relay::Fragment(frame) | Relay::Question(frame, _) => Some(frame),
            Relay::Note(_) => None,
        }
    }

    /// Number of frames in it: what conservation counts.
    pub(crate) const fn frames(&self) -> u64 {
        match self {
            Relay::Fragment(_) | Relay::Question(..) => 1,
            Relay::Note(_) => 0,
        }
    }
}

/// What one worker tells another, beside frames.
#[derive(Clone, Copy, Debug)]
pub enum CoreNote {
    /// A lasting note for the receiver; `Some` where it wants an acknowledgement from it.
    Lasting(Origin, Sequence, Lasting),
    /// A push that is acknowledged by the worker that received it.
    Push(FlowKey, BackendId),
    /// An acknowledgement of a note of the receiver's.
    Acknowledge(Member, Sequence),
    /// An answer to a question of the receiver's.
    Answer(Answer),
    /// Another machine lives.
    Heard(Member),
}
