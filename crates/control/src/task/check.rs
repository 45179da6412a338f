//! Health checks of this machine's own: one task per backend that probes and reports. What is probed and what results
//! mean is in the crate `health`, which agents use too.
//!
//! Rule of this module: a task only probes; the controller asks [`Verdict`](crate::health::Verdict) what a result means.

use crate::event::Event;
use crate::health::{Check, First, Subject};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

#[cfg(test)]
mod tests;

/// Longest delay of a backend's first check. Short, because until then the backend takes no flow.
const START_SPREAD_MAX_MS: u64 = 500;

/// Checks that run, by what they are of; dropping it ends them all.
#[derive(Debug)]
pub(crate) struct Checks {
    running: HashMap<Subject, Running>,
    events: mpsc::Sender<Event>,
}

/// A running check; dropping it ends the task.
#[derive(Debug)]
struct Running(AbortHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Checks {
    /// None runs yet. Results go to `events`.
    pub(crate) fn new(events: mpsc::Sender<Event>) -> Checks {
        Checks { running: HashMap::new(), events }
    }

    /// Starts a check in place of the one of the same subject.
    pub(crate) fn start(&mut self, of: Subject, first: First, check: Arc<Check>) {
        let task = tokio::spawn(check_forever(of.clone(), first, check, self.events.clone()));
        self.running.insert(of, Running(task.abort_handle()));
    }

    /// Ends a check.
    pub(crate) fn stop(&mut self, of: &Subject) {
        self.running.remove(of);
    }
}

async fn check_forever(of: Subject, first: First, check: Arc<Check>, events: mpsc::Sender<Event>) {
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
        if events.send(Event::Checked(of.clone(), check.clone(), result)).await.is_err() {
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
