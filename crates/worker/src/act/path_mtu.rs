//! What routers on the way to a backend say of our own packets: learnt as the path's MTU ([`crate::view::path_mtu`]).

use crate::token_bucket::TokenBucket;
use crate::view::View;
use wire::parse::Parsed;
use wire::{Tick, tunnel_error};

/// Errors looked at against the backends they may be about, a second and at once.
const RATE: (u64, u64) = (1_000, 1_000);

/// Errors that may be looked at.
#[derive(Debug)]
pub(crate) struct PathErrors(TokenBucket);

impl PathErrors {
    pub(crate) const fn new() -> PathErrors {
        PathErrors(TokenBucket::new(RATE))
    }

    /// An ICMP error for this machine: whether a router says that packets to a backend are too big for it.
    #[cold]
    pub(crate) fn hear(&mut self, view: &View, bytes: &[u8], parsed: &Parsed, now: Tick) {
        let Some(error) = tunnel_error::too_big(bytes, parsed) else { return };
        let mut backends = view.tunnels.to(error.destination).peekable();
        // Many services may have a backend on one host, and anybody can send such errors.
        if backends.peek().is_none() || !self.0.take(now) {
            return;
        }
        for id in backends {
            if let Some(backend) = view.backend(id)
                && error.is_about(&backend.header, |inner| view.services.is_vip(inner))
            {
                backend.learn(error.mtu, now);
            }
        }
    }
}
