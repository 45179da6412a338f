//! What is counted of agents.

use model::agent::RefusalCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// All refusals, in a fixed order.
pub(crate) const REFUSALS: [(RefusalCode, &str); 9] = [
    (RefusalCode::Version, "version"),
    (RefusalCode::Malformed, "malformed"),
    (RefusalCode::Service, "service"),
    (RefusalCode::Proof, "proof"),
    (RefusalCode::Template, "template"),
    (RefusalCode::Claimed, "claimed"),
    (RefusalCode::Stale, "stale"),
    (RefusalCode::Limit, "limit"),
    (RefusalCode::Seal, "seal"),
];

/// Counted by the registry.
#[derive(Clone, Debug, Default)]
pub(crate) struct RegistryCounts {
    refusals: [u64; REFUSALS.len()],
    /// Hellos that were accepted.
    pub(crate) hellos: u64,
    /// Registrations that were taken, repeated ones not among them.
    pub(crate) registrations: u64,
    /// Results of reports that were heeded.
    pub(crate) results: u64,
    /// Frames of fenced sessions, and results that were not asked for or are older than what is known.
    pub(crate) stale: u64,
    /// Full reports that were asked for, because a digest differed.
    pub(crate) resyncs: u64,
    /// Backends that became suspect.
    pub(crate) suspicions: u64,
    /// Leases that ran out on an open connection.
    pub(crate) lapses: u64,
}

impl RegistryCounts {
    pub(crate) fn refuse(&mut self, code: RefusalCode) {
        let counts = REFUSALS.iter().zip(&mut self.refusals);
        if let Some((_, count)) = counts.into_iter().find(|((of, _), _)| *of == code) {
            *count += 1;
        }
    }

    /// Refusals by their word.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        REFUSALS.iter().zip(&self.refusals).map(|((_, word), count)| (*word, *count))
    }
}

/// Why a connection was closed by the listener, or never taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Closed {
    /// `agents.connections` are open.
    Full,
    /// Too many from its address have not said hello.
    Address,
    /// Too many in all have not said hello.
    Unknown,
    /// No hello in time.
    Silent,
    /// TLS failed.
    Tls,
    /// What it sent is no message.
    Malformed,
    /// It does not read what is sent to it.
    Slow,
}

/// All of them, in a fixed order.
pub(crate) const CLOSED: [(Closed, &str); 7] = [
    (Closed::Full, "full"),
    (Closed::Address, "address"),
    (Closed::Unknown, "unknown"),
    (Closed::Silent, "silent"),
    (Closed::Tls, "tls"),
    (Closed::Malformed, "malformed"),
    (Closed::Slow, "slow"),
];

/// Counted by the listener and its connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListenerCounts {
    closed: Arc<[AtomicU64; CLOSED.len()]>,
    open: Arc<AtomicU64>,
    paused: Arc<AtomicU64>,
}

impl ListenerCounts {
    pub(crate) fn count(&self, why: Closed) {
        let counts = CLOSED.iter().zip(self.closed.iter());
        if let Some((_, count)) = counts.into_iter().find(|((of, _), _)| *of == why) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Connections closed, by reason.
    pub(crate) fn closed(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        CLOSED.iter().zip(self.closed.iter()).map(|((_, word), count)| (*word, count.load(Ordering::Relaxed)))
    }

    pub(crate) fn set_open(&self, open: u64) {
        self.open.store(open, Ordering::Relaxed);
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn pause(&self) {
        self.paused.fetch_add(1, Ordering::Relaxed);
    }

    /// How often a connection was not read from for a while, because it said too much.
    pub(crate) fn paused(&self) -> u64 {
        self.paused.load(Ordering::Relaxed)
    }
}
