//! Who asks: the process at the other end of the unix socket, or the address of a client that has the token.

use super::Failure;
use super::endpoint::Reads;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::UnixStream;

/// A caller in words, as events name him.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Caller(Arc<str>);

impl Caller {
    /// Who has opened the connection; the kernel says it (`SO_PEERCRED`), not he.
    pub(super) fn on(stream: &UnixStream) -> Caller {
        let Ok(peer) = stream.peer_cred() else { return Caller::named("unix socket") };
        let uid = peer.uid();
        match peer.pid() {
            Some(pid) => Caller::named(&format!("uid {uid}, pid {pid}")),
            None => Caller::named(&format!("uid {uid}")),
        }
    }

    /// Who comes over TCP; what he asks he gets with the token alone.
    pub(super) fn from(address: SocketAddr) -> Caller {
        Caller::named(&format!("token, {address}"))
    }

    /// Somebody who is no client.
    pub(crate) fn named(name: &str) -> Caller {
        Caller(Arc::from(name))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Caller, Failure> {
        // Every connection has one.
        Ok(parts.extensions.get().cloned().unwrap_or_else(|| Caller::named("unknown")))
    }
}

impl Reads for Caller {}
