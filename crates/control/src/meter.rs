//! How long the management thread is busy with one thing, by what it is.
//!
//! Rule of this module: whatever runs on the management thread runs under a [`ThreadJob`]. What a turn took is the wall clock less
//! the time in which the thread was runnable and had no CPU (`/proc/thread-self/schedstat`, second figure): a call that blocks
//! counts, being pre-empted does not.

use model::api::ManagementTurns;
use std::fs::File;
use std::future::Future;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A turn from which on it is counted as long: what else is waiting is noticeably late.
const LONG: Duration = Duration::from_millis(20);
/// A turn from which on it is told in the log, at most once in [`TELL_EVERY`].
const TELL: Duration = Duration::from_millis(100);
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What the management thread does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ThreadJob {
    /// The file was read again, or a configuration is put in force.
    Configure,
    /// Twice a second: removed backends, passive health, rates.
    Sweep,
    /// Every second: weights by load.
    Weigh,
    /// What checks, netlink and the store say.
    Events,
    /// What the API asks.
    Question,
    /// What agents say.
    Agents,
    /// Views, acknowledgements, the cluster's steps.
    Housekeeping,
    /// Connections of the API and of `/metrics`.
    Conversation,
    /// Netlink: next hops.
    Neighbours,
    /// Netlink: interfaces, addresses, routes, VIPs.
    Reconcile,
    /// The cluster's store.
    Store,
    /// Answers for DPDK's telemetry.
    Telemetry,
}

impl ThreadJob {
    const ALL: [(ThreadJob, &'static str); 12] = [
        (ThreadJob::Configure, "configure"),
        (ThreadJob::Sweep, "sweep"),
        (ThreadJob::Weigh, "weigh"),
        (ThreadJob::Events, "notes"),
        (ThreadJob::Question, "question"),
        (ThreadJob::Agents, "agents"),
        (ThreadJob::Housekeeping, "housekeeping"),
        (ThreadJob::Conversation, "conversation"),
        (ThreadJob::Neighbours, "neighbours"),
        (ThreadJob::Reconcile, "reconcile"),
        (ThreadJob::Store, "store"),
        (ThreadJob::Telemetry, "telemetry"),
    ];
}

#[derive(Debug, Default)]
struct JobCounters {
    turns: AtomicU64,
    long: AtomicU64,
    longest_us: AtomicU64,
    longest_wall_us: AtomicU64,
}

#[derive(Debug)]
struct MeterState {
    cells: [JobCounters; ThreadJob::ALL.len()],
    /// `None`: the kernel keeps no such figures.
    schedstat: Option<File>,
    begun: Instant,
    /// When a long turn was told last, microseconds after `begun`.
    told_us: AtomicU64,
}

/// Measures; clones share their figures. Made, and used, on the management thread.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    inner: Arc<MeterState>,
}

impl Meter {
    /// Of the calling thread.
    #[expect(clippy::disallowed_methods, reason = "the file is the kernel's memory")]
    pub(crate) fn of_this_thread() -> Meter {
        let schedstat = File::open("/proc/thread-self/schedstat").ok();
        let inner = MeterState {
            cells: Default::default(),
            schedstat,
            begun: Instant::now(),
            told_us: AtomicU64::new(0),
        };
        Meter { inner: Arc::new(inner) }
    }

    /// Runs `work`, and measures it.
    pub(crate) fn time<T>(&self, job: ThreadJob, work: impl FnOnce() -> T) -> T {
        let (begun, waited) = (Instant::now(), self.waited());
        let result = work();
        self.count(job, begun.elapsed(), self.waited().saturating_sub(waited));
        result
    }

    /// A future each poll of which is measured.
    pub(crate) fn watch<F: Future>(&self, job: ThreadJob, future: F) -> Watched<F> {
        Watched { future: Box::pin(future), meter: self.clone(), job }
    }

    /// The figures, of what was done at all.
    pub(crate) fn turns(&self) -> Vec<ManagementTurns> {
        let all = ThreadJob::ALL.iter().zip(&self.inner.cells);
        all.filter(|(_, cell)| cell.turns.load(Relaxed) > 0)
            .map(|((_, name), cell)| ManagementTurns {
                job: (*name).to_owned(),
                turns: cell.turns.load(Relaxed),
                long_turns: cell.long.load(Relaxed),
                longest_us: cell.longest_us.load(Relaxed),
                longest_wall_us: cell.longest_wall_us.load(Relaxed),
            })
            .collect()
    }

    /// How long the thread has waited for a CPU, since it began.
    fn waited(&self) -> Duration {
        let mut bytes = [0; 64];
        let read = self.inner.schedstat.as_ref().and_then(|file| file.read_at(&mut bytes, 0).ok());
        let text = bytes.get(..read.unwrap_or(0)).and_then(|bytes| std::str::from_utf8(bytes).ok());
        let waited = text.and_then(|text| text.split(' ').nth(1)?.parse().ok());
        Duration::from_nanos(waited.unwrap_or(0))
    }

    fn count(&self, job: ThreadJob, wall: Duration, waited: Duration) {
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let took = wall.saturating_sub(waited);
        let Some((cell, (_, name))) =
            self.inner.cells.get(job as usize).zip(ThreadJob::ALL.get(job as usize))
        else {
            return;
        };
        cell.turns.fetch_add(1, Relaxed);
        cell.longest_us.fetch_max(us(took), Relaxed);
        cell.longest_wall_us.fetch_max(us(wall), Relaxed);
        if took >= LONG {
            cell.long.fetch_add(1, Relaxed);
        }
        if took >= TELL {
            let now = us(self.inner.begun.elapsed()).max(1);
            let told = self.inner.told_us.load(Relaxed);
            if told == 0 || now - told >= us(TELL_EVERY) {
                self.inner.told_us.store(now, Relaxed);
                tracing::warn!(
                    job = name,
                    took_ms = us(took) / 1000,
                    "the management thread was busy for long"
                );
            }
        }
    }
}

/// See [`Meter::watch`].
#[derive(Debug)]
pub(crate) struct Watched<F> {
    future: Pin<Box<F>>,
    meter: Meter,
    job: ThreadJob,
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let (meter, job) = (self.meter.clone(), self.job);
        meter.time(job, || self.future.as_mut().poll(context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(meter: &Meter, job: &str) -> ManagementTurns {
        meter.turns().into_iter().find(|turns| turns.job == job).unwrap()
    }

    #[test]
    fn jobs_are_in_the_order_of_their_names() {
        for (at, (job, _)) in ThreadJob::ALL.iter().enumerate() {
            assert_eq!(*job as usize, at);
        }
    }

    #[test]
    fn a_call_that_blocks_counts() {
        let meter = Meter::of_this_thread();
        meter.time(ThreadJob::Events, || std::thread::sleep(Duration::from_millis(30)));
        meter.time(ThreadJob::Events, || ());
        let notes = of(&meter, "notes");
        assert_eq!((notes.turns, notes.long_turns), (2, 1));
        assert!(notes.longest_us >= 25_000 && notes.longest_wall_us >= notes.longest_us, "{notes:?}");
        assert_eq!(meter.turns().len(), 1);
    }

    #[test]
    fn waiting_for_a_cpu_does_not_count() {
        // More threads than CPUs, so that this one has to wait.
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let count = 4 * std::thread::available_parallelism().map_or(2, usize::from);
        let others: Vec<_> = (0..count)
            .map(|_| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || while !stop.load(Relaxed) {})
            })
            .collect();
        let meter = Meter::of_this_thread();
        // Some work, as much as takes a while if it has a CPU for itself a quarter of the time.
        meter.time(ThreadJob::Sweep, || {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(400) {
                std::hint::spin_loop();
            }
        });
        stop.store(true, Relaxed);
        others.into_iter().for_each(|other| other.join().unwrap());
        let sweep = of(&meter, "sweep");
        assert!(sweep.longest_wall_us >= 400_000, "{sweep:?}");
        assert!(sweep.longest_us < sweep.longest_wall_us * 3 / 4, "{sweep:?}");
    }

    #[tokio::test]
    async fn each_poll_of_a_task_is_a_turn() {
        let meter = Meter::of_this_thread();
        let task = async {
            std::thread::sleep(Duration::from_millis(5));
            tokio::task::yield_now().await;
            std::thread::sleep(Duration::from_millis(25));
        };
        meter.watch(ThreadJob::Store, task).await;
        let store = of(&meter, "store");
        assert_eq!((store.turns, store.long_turns), (2, 1));
    }
}
