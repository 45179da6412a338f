//! What connections of agents tell the controller.

use super::hello::{Hello, Unproved};
use super::session::SessionId;
use model::agent::{RefusalCode, ToMachine};

/// What comes of a connection.
#[derive(Debug)]
pub(crate) enum AgentEvent {
    /// Its first words, which prove a token.
    Hello(Hello),
    /// First words that prove nothing. They are answered.
    Unproved(Unproved),
    /// Others.
    Message(SessionId, ToMachine),
    /// Something that is no message, or none of this session.
    Broken(SessionId, RefusalCode, String),
    /// It has ended.
    Closed(SessionId),
}
