//! Who asks: the process at the other end of the unix socket, or the address of a client that has the token.

use super::answer::ApiFailure;
use super::endpoint::Reads;
use crate::caller::Caller;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use std::net::SocketAddr;
use tokio::net::UnixStream;

/// Who has opened the connection; the kernel says it (`SO_PEERCRED`), not he.
pub(super) fn of_stream(stream: &UnixStream) -> Caller {
    let Ok(peer) = stream.peer_cred() else { return Caller::named("unix socket") };
    let uid = peer.uid();
    match peer.pid() {
        Some(pid) => Caller::named(&format!("uid {uid}, pid {pid}")),
        None => Caller::named(&format!("uid {uid}")),
    }
}

/// Who comes over TCP; what he asks he gets with the token alone.
pub(super) fn of_address(address: SocketAddr) -> Caller {
    Caller::named(&format!("token, {address}"))
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiFailure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Caller, ApiFailure> {
        // Every connection has one.
        Ok(parts.extensions.get().cloned().unwrap_or_else(|| Caller::named("unknown")))
    }
}

impl Reads for Caller {}
