//! What happens to the agent.

use crate::host::{DetectorId, Link};
use crate::load::Sampler;
use crate::request::{Reply, Request};
use model::agent::{Load, ToAgent};
use model::api::CheckResult;
use std::net::IpAddr;
use tokio::sync::oneshot;

/// Something that has happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// A machine said something.
    Heard(Link, Box<ToAgent>),
    /// A connection ended, or did not come about.
    Closed(Link, String),
    /// A check was made.
    Checked(DetectorId, CheckResult),
    /// Somebody asks at the local socket.
    Asked(Box<Request>, oneshot::Sender<Reply>),
    /// Somebody asks at the local socket, and the host's addresses were looked at for it.
    Looked(Box<Request>, Result<Vec<IpAddr>, String>, oneshot::Sender<Reply>),
    /// The load was looked at.
    Loaded(Box<Sampler>, Vec<Load>),
    /// The host's addresses were looked at.
    Interfaces(Result<Vec<IpAddr>, String>),
}
