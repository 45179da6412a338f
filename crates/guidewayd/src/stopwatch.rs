//! How long a worker's turns are, in CPU time of its thread, without a system call while there is work.
//!
//! Rule of this module: a turn that is short by the clock is short. Only after one that is not the thread's CPU time is read, because a
//! thread that was taken off its CPU for a while has not worked meanwhile. To compare with, it is read after each sleep too, which is a
//! system call anyway. A worker that never sleeps has a CPU of its own: of its turns the clock says the same.

use wire::Tick;
use worker::counters::Totals;

/// A turn that took less by the clock is not looked at more closely, microseconds.
const SHORT_US: u64 = 1_000;
/// A turn of more CPU time is counted as long, microseconds: what arrives meanwhile still fits into a card's queue.
pub(crate) const LONG_US: u64 = 2_000;

/// Measures one worker's turns.
#[derive(Debug)]
pub(crate) struct Stopwatch<Cpu> {
    /// CPU time of the thread, microseconds.
    cpu: Cpu,
    /// When the turn under way began.
    begun: Tick,
    /// CPU time when it was last read: what the thread worked since may be put down to a turn, but never more than the turn took.
    read: u64,
}

impl<Cpu: Fn() -> u64> Stopwatch<Cpu> {
    /// Begins with a turn.
    pub(crate) fn start(cpu: Cpu, now: Tick) -> Stopwatch<Cpu> {
        let read = cpu();
        Stopwatch { cpu, begun: now, read }
    }

    /// A turn has ended.
    #[inline]
    pub(crate) fn end(&mut self, now: Tick, totals: &Totals) {
        let took_us = now.since_us(self.begun);
        let used_us = if took_us < SHORT_US { took_us } else { took_us.min(self.used()) };
        if used_us > totals.longest_turn_us.get() {
            totals.longest_turn_us.set(used_us);
        }
        if used_us > LONG_US {
            totals.long_turns.add(1);
        }
    }

    /// The next turn begins.
    #[inline]
    pub(crate) fn begin(&mut self, now: Tick) {
        self.begun = now;
    }

    /// The thread has slept.
    pub(crate) fn slept(&mut self) {
        self.used();
    }

    /// CPU time since it was last read, microseconds.
    #[cold]
    fn used(&mut self) -> u64 {
        let before = std::mem::replace(&mut self.read, (self.cpu)());
        self.read.saturating_sub(before)
    }
}

/// CPU time of this thread, microseconds.
pub(crate) fn thread_cpu_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let part = |value: i64, scale: u64| u64::try_from(value).unwrap_or(0).saturating_mul(scale);
    part(now.tv_sec, 1_000_000) + part(now.tv_nsec, 1) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn only_time_on_the_cpu_counts() {
        let cpu = Cell::new(0);
        let totals = Totals::default();
        let mut watch = Stopwatch::start(|| cpu.get(), Tick(0));
        // Short by the clock.
        cpu.set(900);
        watch.end(Tick(900), &totals);
        assert_eq!((totals.longest_turn_us.get(), totals.long_turns.get()), (900, 0));
        watch.slept();
        // Ten milliseconds by the clock, of which the thread worked for one and a half.
        cpu.set(2_400);
        watch.begin(Tick(900));
        watch.end(Tick(10_900), &totals);
        assert_eq!((totals.longest_turn_us.get(), totals.long_turns.get()), (1_500, 0));
        // Three, all of them at work.
        cpu.set(5_400);
        watch.begin(Tick(10_900));
        watch.end(Tick(13_900), &totals);
        assert_eq!((totals.longest_turn_us.get(), totals.long_turns.get()), (3_000, 1));
    }

    #[test]
    fn cpu_time_is_not_read_while_there_is_work() {
        let reads = Cell::new(0);
        let totals = Totals::default();
        let mut watch = Stopwatch::start(
            || {
                reads.set(reads.get() + 1);
                0
            },
            Tick(0),
        );
        for now in 1..=10_000 {
            watch.end(Tick(now), &totals);
            watch.begin(Tick(now));
        }
        assert_eq!(reads.get(), 1, "short turns in a row");
        watch.slept();
        watch.end(Tick(20_000), &totals);
        assert_eq!(reads.get(), 3, "after a sleep, and after a turn that is not short");
    }

    #[test]
    fn the_threads_own_time_grows_with_its_work() {
        let before = thread_cpu_us();
        let begun = std::time::Instant::now();
        while begun.elapsed() < std::time::Duration::from_millis(20) {
            core::hint::spin_loop();
        }
        let worked = thread_cpu_us() - before;
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!((1..=40_000).contains(&worked), "{worked}");
        assert!(thread_cpu_us() - before < worked + 10_000, "sleep is no work");
    }
}
