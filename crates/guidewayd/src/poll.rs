//! A worker's loop on its lcore, and what it does when there is nothing to do.

use crate::stopwatch::{Stopwatch, thread_cpu_us};
use dpdk::TscClock;
use model::config::Idle;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use worker::{Counters, PacketIo, Worker};

/// Empty turns before the first sleep.
const PATIENCE: u32 = 64;
/// First sleep; each further one is twice as long …
const SLEEP_MIN_US: u64 = 50;
/// … up to this, which bounds what sleeping adds to a packet's latency.
const SLEEP_MAX_US: u64 = 1_000;

/// Turns until `stop` is set, then gives back what the worker holds. `between` is given the worker's queues before each turn.
pub(crate) fn run<Io: PacketIo>(
    mut worker: Worker<Io>,
    counters: &Counters,
    clock: TscClock,
    idle: Idle,
    stop: &AtomicBool,
    mut between: impl FnMut(&mut Io),
) {
    let mut pause = Pause::default();
    let mut now = clock.now();
    let mut watch = Stopwatch::start(thread_cpu_us, idle == Idle::Adaptive, now);
    while !stop.load(Relaxed) {
        between(worker.io());
        let turn = worker.turn(now);
        match (idle, pause.after(turn.received)) {
            // A job of the cluster is done in many turns, and nobody waits longer for it than he must.
            (Idle::Adaptive, Some(sleep)) if worker.next_due().is_none_or(|due| due > now) => {
                watch.end(clock.now(), &counters.totals);
                std::thread::sleep(sleep);
                now = clock.now();
            }
            _ => {
                if turn.received == 0 {
                    core::hint::spin_loop();
                }
                now = clock.now();
                watch.end(now, &counters.totals);
            }
        }
        watch.begin(now);
    }
    worker.finish();
}

/// How long to sleep after empty turns.
#[derive(Debug, Default)]
struct Pause {
    empty: u32,
}

impl Pause {
    /// Told what a turn received.
    fn after(&mut self, received: usize) -> Option<Duration> {
        if received > 0 {
            self.empty = 0;
            return None;
        }
        self.empty = self.empty.saturating_add(1);
        let doublings = self.empty.checked_sub(PATIENCE)?;
        let sleep_us = SLEEP_MIN_US.checked_shl(doublings).filter(|us| *us <= SLEEP_MAX_US && doublings < 16);
        Some(Duration::from_micros(sleep_us.unwrap_or(SLEEP_MAX_US)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_grow_and_end_with_a_frame() {
        let mut pause = Pause::default();
        for _ in 0..PATIENCE - 1 {
            assert_eq!(pause.after(0), None);
        }
        let sleeps: Vec<u128> = (0..7).map(|_| pause.after(0).unwrap().as_micros()).collect();
        assert_eq!(sleeps, [50, 100, 200, 400, 800, 1000, 1000]);
        pause.empty = u32::MAX - 1;
        assert_eq!(pause.after(0), Some(Duration::from_micros(SLEEP_MAX_US)));
        assert_eq!(pause.after(0), Some(Duration::from_micros(SLEEP_MAX_US)));
        assert_eq!(pause.after(3), None);
        assert_eq!(pause.after(0), None);
    }
}
