//! Ending taints: the flow tables are looked through for flows that need theirs.
//!
//! Rule of this module: it takes its turns on the management core, so a turn is bounded in time by whoever asks for piece after
//! piece; it only reads. What a scan means is for [`crate::slots`] to say.

use std::collections::HashMap;
use std::time::Duration;
use wire::{Addr, ServiceId, Tick};

pub(crate) mod pieces;

/// Longest time that pieces take which come one after the other, but for the last one.
pub(crate) const TURN: Duration = Duration::from_millis(2);
/// Buckets of a piece: some ten microseconds.
const BUCKETS: usize = 256;
/// Shortest pause between two scans.
const PAUSE_MIN_US: u64 = 1_000_000;

/// How far scanning is.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    /// When the scan under way began.
    began: Option<Tick>,
    /// Worker and bucket that come next.
    at: (usize, usize),
    /// When the last whole scan began.
    last: Option<Tick>,
    /// When the last one ended.
    ended: Option<Tick>,
    /// Services that are looked for in this turn.
    services: Option<HashMap<ServiceId, Tainted>>,
    /// Entries refused so far, and when that was last seen to grow.
    refused: (u64, Option<Tick>),
}

impl Scanner {
    /// Whether a scan is under way: it wants its next turn soon.
    pub(crate) fn is_busy(&self) -> bool {
        self.began.is_some()
    }
}

/// A service some of whose slots are tainted.
#[derive(Debug)]
struct Tainted {
    /// Its index in the view.
    index: usize,
    vip: (Addr, u16, u8),
}
