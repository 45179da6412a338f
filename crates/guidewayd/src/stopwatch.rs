//! How long a worker's turns are, in CPU time of its thread, at next to no cost.
//!
//! Rule of this module: a turn that is short by the clock is short. Only after one that is not the thread's CPU time is read, because a
//! thread that was taken off its CPU for a while has not worked meanwhile. To have something to compare with, a worker that shares its
//! CPU reads it now and then, too. One that has a CPU of its own does not, so its loop makes no system call: the clock says the same.

use wire::Tick;
use worker::counters::Totals;

/// A turn that took less by the clock is not looked at more closely, microseconds.
const SHORT_US: u64 = 1_000;
/// The CPU time of a thread that shares its CPU is read at least this often while turns follow each other, microseconds: so much more
/// than its own may be put down to a turn.
const READ_EVERY_US: u64 = 250;
/// A turn of more CPU time is counted as long, microseconds: what arrives meanwhile still fits into a card's queue.
pub(crate) const LONG_US: u64 = 2_000;

/// Measures one worker's turns.
#[derive(Debug)]
pub(crate) struct Stopwatch<Cpu> {
    /// CPU time of the thread, microseconds.
    cpu: Cpu,
    /// The thread shares its CPU with others.
    is_shared: bool,
    /// When the turn under way began.
    begun: Tick,
    /// CPU time when it was last read, and when that was.
    read: (u64, Tick),
}

impl<Cpu: Fn() -> u64> Stopwatch<Cpu> {
    /// Begins with a turn.
    pub(crate) fn start(cpu: Cpu, is_shared: bool, now: Tick) -> Stopwatch<Cpu> {
        let read = (cpu(), now);
        Stopwatch { cpu, is_shared, begun: now, read }
    }

    /// A turn has ended.
    #[inline]
    pub(crate) fn end(&mut self, now: Tick, totals: &Totals) {
        let took_us = now.since_us(self.begun);
        if took_us >= SHORT_US {
            let (before_us, _) = self.read;
            self.read(now);
            self.count(took_us.min(self.read.0.saturating_sub(before_us)), totals);
        } else {
            self.count(took_us, totals);
            if self.is_shared && now.since_us(self.read.1) >= READ_EVERY_US {
                self.read(now);
            }
        }
    }

    /// The next turn begins, at once or after a sleep.
    #[inline]
    pub(crate) fn begin(&mut self, now: Tick) {
        self.begun = now;
    }

    #[cold]
    fn read(&mut self, now: Tick) {
        self.read = ((self.cpu)(), now);
    }

    #[inline]
    fn count(&self, used_us: u64, totals: &Totals) {
        if used_us > totals.longest_turn_us.get() {
            totals.longest_turn_us.set(used_us);
        }
        if used_us > LONG_US {
            totals.long_turns.add(1);
        }
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
        let mut watch = Stopwatch::start(|| cpu.get(), true, Tick(0));
        // Short by the clock.
        cpu.set(900);
        watch.end(Tick(900), &totals);
        assert_eq!((totals.longest_turn_us.get(), totals.long_turns.get()), (900, 0));
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
    fn cpu_time_is_read_seldom_and_on_a_cpu_of_its_own_after_long_turns_alone() {
        let totals = Totals::default();
        for (is_shared, expected) in [(true, 10_000 / READ_EVERY_US), (false, 0)] {
            let reads = Cell::new(0);
            let cpu = || {
                reads.set(reads.get() + 1);
                0
            };
            let mut watch = Stopwatch::start(cpu, is_shared, Tick(0));
            for now in 1..=10_000 {
                watch.end(Tick(now), &totals);
                watch.begin(Tick(now));
            }
            assert_eq!(reads.get(), 1 + expected);
            watch.end(Tick(10_000 + SHORT_US), &totals);
            assert_eq!(reads.get(), 2 + expected);
        }
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
