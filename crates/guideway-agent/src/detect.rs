//! A running check: probes at once and then once an interval, and tells each result. What results mean is not known here.

use crate::event::Event;
use crate::host::{Act, DetectorId, Job};
use crate::random::Random;
use health::CheckFailure;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Checks for ever.
pub(crate) async fn run(id: DetectorId, job: Job, mut random: Random, events: mpsc::Sender<Event>) {
    let interval = Duration::from_millis(u64::from(job.interval_ms));
    let mut next = tokio::time::Instant::now();
    let mut turn = 0_u32;
    loop {
        let begun = Instant::now();
        let outcome = match &job.act {
            Act::Probe(check) => check.run(turn).await,
            Act::Run(exec) => exec.run().await,
            Act::Fail(reason) => Err(CheckFailure::Local(reason.clone())),
        };
        if events.send(Event::Checked(id, health::result(begun, outcome))).await.is_err() {
            return;
        }
        // The second probe comes at a random point of the interval's second half, so that checks that began together spread.
        next += if turn == 0 {
            let half = u64::from(job.interval_ms) / 2;
            Duration::from_millis(half + random.up_to(half))
        } else {
            interval
        };
        turn = turn.wrapping_add(1);
        // A probe that took longer than the interval is not made up for.
        next = next.max(tokio::time::Instant::now());
        tokio::time::sleep_until(next).await;
    }
}
