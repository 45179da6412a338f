//! Health checks: one task per backend that probes and reports, and the verdict that the owner of the truth forms
//! of the reports.
//!
//! Rule of this module: a task only probes; what a result means is decided in [`Verdict::observe`], which reads no
//! clock and does no I/O.

use crate::truth::Note;
use model::api::{CheckResult, HealthStatus};
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use wire::BackendId;

mod probe;
#[cfg(test)]
mod tests;

pub(crate) use probe::{Check, SourcePorts};

/// Time over which going down counts as flapping.
pub(crate) const FLAP_WINDOW_MS: u64 = 300_000;
/// Longest hold-down.
pub(crate) const HOLD_MAX_MS: u64 = 60_000;
/// Longest delay of a backend's first check. Short, because until then the backend takes no flow.
const START_SPREAD_MAX_MS: u64 = 500;

/// What turns results into a verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rules {
    /// Time between two checks.
    pub(crate) interval_ms: u32,
    /// Failures in a row that make an up backend down.
    pub(crate) fall: u32,
    /// Passes in a row that make a down backend up.
    pub(crate) rise: u32,
}

/// A change of verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// Takes new flows.
    Up,
    /// Takes none, and for at least so many milliseconds (0: as soon as checks pass).
    Down {
        /// Hold-down.
        hold_ms: u64,
    },
}

/// What the checks of one backend say.
///
/// Unknown until the first pass (up at once) or until `fall` failures in a row (down). Then `fall` failures make it
/// down and `rise` passes make it up again. **Flap hold-down**: the first time within [`FLAP_WINDOW_MS`] that a
/// backend goes down costs nothing extra; the n-th time (n ≥ 2) it stays down for at least
/// `max(interval, 1 s) × 2^(n-1)`, at most [`HOLD_MAX_MS`], however its checks pass meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    up: Option<bool>,
    passes_in_row: u32,
    failures_in_row: u32,
    /// When it went down, newest last; at most [`DOWNS_KEPT`].
    downs_ms: VecDeque<u64>,
    hold_until_ms: u64,
    passed: u64,
    failed: u64,
    transitions: u64,
    last: Option<CheckResult>,
}

/// More than enough to reach [`HOLD_MAX_MS`].
const DOWNS_KEPT: usize = 16;

impl Verdict {
    /// A verdict remembered from before a restart.
    pub(crate) fn remembered(up: bool) -> Verdict {
        Verdict { up: Some(up), ..Verdict::default() }
    }

    /// Up, down, or not known yet.
    pub(crate) fn up(&self) -> Option<bool> {
        self.up
    }

    /// Takes a result in. `now_ms` never goes backwards.
    pub(crate) fn observe(&mut self, result: CheckResult, rules: Rules, now_ms: u64) -> Option<Change> {
        if result.passed {
            self.passed += 1;
            self.passes_in_row = self.passes_in_row.saturating_add(1);
            self.failures_in_row = 0;
        } else {
            self.failed += 1;
            self.failures_in_row = self.failures_in_row.saturating_add(1);
            self.passes_in_row = 0;
        }
        let passed = result.passed;
        self.last = Some(result);
        match (self.up, passed) {
            (None, true) => Some(self.rise()),
            (Some(false), true) if self.passes_in_row >= rules.rise && now_ms >= self.hold_until_ms => {
                Some(self.rise())
            }
            (None | Some(true), false) if self.failures_in_row >= rules.fall => {
                Some(self.fall(rules, now_ms))
            }
            _ => None,
        }
    }

    fn rise(&mut self) -> Change {
        self.up = Some(true);
        self.transitions += 1;
        Change::Up
    }

    fn fall(&mut self, rules: Rules, now_ms: u64) -> Change {
        self.up = Some(false);
        self.transitions += 1;
        while self.downs_ms.front().is_some_and(|at| now_ms.saturating_sub(*at) > FLAP_WINDOW_MS)
            || self.downs_ms.len() == DOWNS_KEPT
        {
            self.downs_ms.pop_front();
        }
        self.downs_ms.push_back(now_ms);
        let times = self.downs_ms.len();
        let hold_ms = if times < 2 {
            0
        } else {
            let base = u64::from(rules.interval_ms).max(1000);
            base.saturating_mul(1 << (times - 1)).min(HOLD_MAX_MS)
        };
        self.hold_until_ms = now_ms + hold_ms;
        Change::Down { hold_ms }
    }

    /// As the API shows it.
    pub(crate) fn status(&self, now_ms: u64) -> HealthStatus {
        HealthStatus {
            up: self.up,
            last: self.last.clone(),
            passed: self.passed,
            failed: self.failed,
            consecutive: self.passes_in_row.max(self.failures_in_row),
            transitions: self.transitions,
            held_down_ms: if self.up == Some(false) { self.hold_until_ms.saturating_sub(now_ms) } else { 0 },
        }
    }

    /// Why the last check failed.
    pub(crate) fn reason(&self) -> &str {
        self.last.as_ref().map_or("not checked yet", |last| &last.reason)
    }
}

/// A running check; dropping it ends the task.
#[derive(Debug)]
pub(crate) struct Checker {
    /// What it does.
    pub(crate) check: Arc<Check>,
    task: AbortHandle,
}

impl Checker {
    /// Starts checking. Results go to `notes`.
    pub(crate) fn start(backend: BackendId, check: Check, notes: mpsc::Sender<Note>) -> Checker {
        let check = Arc::new(check);
        let task = tokio::spawn(check_forever(backend, check.clone(), notes)).abort_handle();
        Checker { check, task }
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn check_forever(backend: BackendId, check: Arc<Check>, notes: mpsc::Sender<Note>) {
    let interval = Duration::from_millis(u64::from(check.interval_ms));
    // The first check comes soon; the second at a random point of the interval, so that checks stay spread.
    let spread = START_SPREAD_MAX_MS.min(u64::from(check.interval_ms));
    tokio::time::sleep(Duration::from_millis(random_below(spread))).await;
    let mut turn = 0u32;
    let mut next = tokio::time::Instant::now();
    loop {
        let begun = Instant::now();
        let outcome = check.run(turn).await;
        turn = turn.wrapping_add(1);
        let result = CheckResult {
            passed: outcome.is_ok(),
            reason: outcome.map_or_else(|failure| failure.to_string(), |()| "ok".to_owned()),
            duration_us: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
            unix_ms: unix_ms(),
        };
        if notes.send(Note::Checked(backend, check.clone(), result)).await.is_err() {
            return;
        }
        next += if turn == 1 {
            interval / 2 + Duration::from_millis(random_below(u64::from(check.interval_ms) / 2))
        } else {
            interval
        };
        // A check that took longer than its interval (a stalled machine) is not made up for.
        next = next.max(tokio::time::Instant::now());
        tokio::time::sleep_until(next).await;
    }
}

/// A random number below `n` (0 when `n` is 0); not for secrets.
fn random_below(n: u64) -> u64 {
    if n == 0 { 0 } else { RandomState::new().hash_one(Instant::now()) % n }
}

/// Unix time, milliseconds.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
