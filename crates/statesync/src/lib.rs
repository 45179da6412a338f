//! What cores and machines tell each other, so that a flow keeps its backend whatever changes.
//!
//! Rule of this crate: state machines without a clock, a lock, a log or a socket. They are called with the time, and give what is to
//! be sent. **A queue and a table have a fixed size**: sending and receiving never wait, and say at once when there is no room, so
//! that the caller can count it by name. What workers hold ([`records`], [`retransmit`], [`asks`], [`suspicion`], [`reassembly`])
//! allocates nothing after start; [`plan`] is for management cores.
//!
//! From the bottom up:
//! * [`spsc`]: the one seam for queues, as `flow::sync` is for atomics; [`ring`]: a mesh of them, one per ordered pair of
//!   workers.
//! * [`members`], [`owners`]: who takes part, and who answers for a slot; [`number`]: as whom a machine starts.
//! * [`note`]: what is said; [`datagram`]: how it is written; [`reassembly`]: frames in several datagrams.
//! * [`records`]: what owners know; [`retransmit`]: what is not acknowledged yet; [`asks`]: what is not answered yet;
//!   [`suspicion`]: who is not heard; [`window`]: what was heard already; [`seen`]: what a pass has attended to.
//! * [`plan`]: what all machines agree on, in steps; with the leader that makes the steps and the follower that carries them
//!   out.
#![deny(unsafe_code)]

pub mod asks;
pub mod datagram;
pub mod members;
pub mod note;
pub mod number;
pub mod owners;
pub mod plan;
pub mod reassembly;
pub mod records;
pub mod retransmit;
pub mod ring;
pub mod rules;
pub mod seen;
pub mod spsc;
pub mod suspicion;
pub mod window;

pub use members::{MACHINES_MAX, MachineId, MachineSet, Member, Members};
pub use note::{Answer, Lasting, Note, Origin, Question, Sequence, Statement, Why};
pub use owners::{EpochPhase, OwnerPair, Owners};
pub use ring::{Ports, mesh};
pub use rules::{Rule, Rules};
