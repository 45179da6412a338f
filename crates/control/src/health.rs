//! Health checks of this machine's own: one task per backend that probes and reports. What is probed and what results
//! mean is in the crate `health`, which agents use too.
//!
//! Rule of this module: a task only probes; the controller asks [`Verdict`] what a result means.

use crate::controller::Note;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use wire::BackendId;

#[cfg(test)]
mod tests;

pub(crate) use ::health::{Change, Check, Rules, SourcePorts, Verdict, unix_ms};

/// Longest delay of a backend's first check. Short, because until then the backend takes no flow.
const START_SPREAD_MAX_MS: u64 = 500;

/// A running check; dropping it ends the task.
#[derive(Debug)]
pub(crate) struct Checker {
    /// What it does.
    pub(crate) check: Arc<Check>,
    task: AbortHandle,
}

impl Checker {
    /// Starts checking. Results go to `notes`.
    pub(crate) fn start(of: Subject, first: First, check: Check, notes: mpsc::Sender<Note>) -> Checker {
        let check = Arc::new(check);
        let task = tokio::spawn(check_forever(of, first, check.clone(), notes)).abort_handle();
        Checker { check, task }
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Subject {
    /// A backend in force.
    Backend(BackendId),
    /// A registration that is not in force yet: service and name of the backend, and its start.
    Candidate(String, String, u64),
}

/// When the first check is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum First {
    /// Soon, at a random time; the second one after part of an interval: checks of many are to be spread.
    Spread,
    /// After so many milliseconds, and then every interval: there is a doubt.
    After(u64),
}

/// Checks that could not leave, told at once and then once a minute.
#[derive(Debug, Default)]
pub(crate) struct Unsent {
    told_ms: Option<u64>,
    untold: u64,
}

impl Unsent {
    const AGAIN_MS: u64 = 60_000;

    /// One more. How many they are since they were told last, if it is time to tell.
    pub(crate) fn add(&mut self, now_ms: u64) -> Option<u64> {
        self.untold += 1;
        if self.told_ms.is_some_and(|told_ms| now_ms.saturating_sub(told_ms) < Self::AGAIN_MS) {
            return None;
        }
        self.told_ms = Some(now_ms);
        Some(std::mem::take(&mut self.untold))
    }
}

async fn check_forever(of: Subject, first: First, check: Arc<Check>, notes: mpsc::Sender<Note>) {
    let interval = Duration::from_millis(u64::from(check.interval_ms));
    // The first check comes soon; the second at a random point of the interval, so that checks stay spread.
    let spread = START_SPREAD_MAX_MS.min(u64::from(check.interval_ms));
    let wait_ms = match first {
        First::Spread => random_below(spread),
        First::After(ms) => ms,
    };
    tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    let mut turn = 0u32;
    let mut next = tokio::time::Instant::now();
    loop {
        let begun = Instant::now();
        let outcome = check.run(turn).await;
        turn = turn.wrapping_add(1);
        let result = ::health::result(begun, outcome);
        if notes.send(Note::Checked(of.clone(), check.clone(), result)).await.is_err() {
            return;
        }
        next += if turn == 1 && first == First::Spread {
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
