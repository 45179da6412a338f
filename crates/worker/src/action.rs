//! What is done with a frame: the one decision that every position of a burst comes to.

use crate::DropReason;
use statesync::{MachineId, Question};
use wire::{BackendId, CoreId, PortId};

/// What is done with a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// To this backend, behind its tunnel's header; in mode `l2` with its MAC address.
    Encapsulate(BackendId),
    /// A frame of the kernel: out on this port, as it is.
    Pass(PortId),
    /// Answered by the balancer; the frame itself ends here.
    Reply(Reply),
    /// To whoever decides for its flow or datagram.
    Relay(Route),
    /// Kept until its datagram's first fragment comes.
    Hold,
    /// To the kernel.
    Punt,
    /// Ends here.
    Drop(DropReason),
}

impl Action {
    /// The name in `guideway explain`, `guideway replay --per-frame` and captures.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Encapsulate(_) => "encapsulate",
            Action::Pass(_) => "pass",
            Action::Reply(_) => "reply",
            Action::Relay(_) => "relay",
            Action::Hold => "hold",
            Action::Punt => "punt",
            Action::Drop(_) => "drop",
        }
    }
}

/// What the balancer answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// An echo reply (RFC 792, RFC 4443 section 4.2).
    Echo,
    /// A TCP reset (RFC 9293 section 3.10.7.1), or port unreachable for UDP (RFC 1122 section 4.1.3.1), for this reason.
    Refusal(DropReason),
    /// "Packet too big", or "fragmentation needed" (RFC 8201, RFC 1191).
    TooBig,
}

/// Where a frame goes to be decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// To whom.
    pub to: Hop,
    /// The question that it is; `None` for a fragment, which the owner of its datagram takes as received.
    pub question: Option<Question>,
}

/// The next one to see a relayed frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hop {
    /// Another worker of this machine.
    Core(CoreId),
    /// Another machine.
    Machine(MachineId),
}
