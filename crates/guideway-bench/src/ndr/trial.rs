//! What a trial gave, with and without the time in which the machine did something else.

use crate::failure::Failure;
use crate::gaps::Gaps;
use crate::quantiles::{Quantiles, histogram};
use hdrhistogram::Histogram;
use std::time::Duration;

/// Losses and latencies are kept by windows of this length, so that disturbed ones can be left out.
const WINDOW_US: f64 = 100.0;
/// After a gap, queues drain for so many times its length at the most.
const DRAIN: f64 = 4.0;
/// Below this share of the schedule a trial did not offer what it should.
const OFFERED_MIN: f64 = 0.99;
/// With less of its time left without gaps a trial says nothing.
const WORKING_MIN: f64 = 0.8;
/// Latencies kept of a trial at the most.
pub(super) const SAMPLES: usize = 1 << 21;

/// A trial's windows, while it runs. Times are cycles from its begin.
#[derive(Debug)]
pub(super) struct TrialWindows {
    cycles_per_us: f64,
    /// Windows a cycle.
    scale: f64,
    /// Sent less received.
    missing: Vec<i32>,
    disturbed: Vec<bool>,
    /// Window and nanoseconds.
    samples: Vec<(u32, u32)>,
    /// One packet in so many is a sample.
    stride: u64,
}

impl TrialWindows {
    /// For a trial of `length` with some `packets`; keeps as many latencies as `samples`, which is emptied, has room for.
    pub(super) fn new(
        length: Duration,
        packets: f64,
        mut samples: Vec<(u32, u32)>,
        cycles_per_ns: f64,
    ) -> TrialWindows {
        samples.clear();
        let cycles_per_us = cycles_per_ns * 1000.0;
        // Packets may be due a little after the end.
        let count = (length.as_micros() as f64 / WINDOW_US) as usize + 2;
        let stride = (packets / samples.capacity().max(1) as f64).ceil().max(1.0) as u64;
        TrialWindows {
            cycles_per_us,
            scale: 1.0 / (cycles_per_us * WINDOW_US),
            missing: vec![0; count],
            disturbed: vec![false; count],
            samples,
            stride,
        }
    }

    #[inline]
    fn index(&self, at: u64) -> usize {
        ((at as f64 * self.scale) as usize).min(self.missing.len() - 1)
    }

    /// `count` packets were sent that were due at about `due`.
    #[inline]
    pub(super) fn sent(&mut self, due: u64, count: usize) {
        let index = self.index(due);
        self.missing[index] += count as i32;
    }

    /// The packet due at `due` came back at `now`; it is the `number`th.
    #[inline]
    pub(super) fn received(&mut self, due: u64, now: u64, number: u64) {
        let index = self.index(due);
        self.missing[index] -= 1;
        if self.samples.len() < self.samples.capacity() && number.is_multiple_of(self.stride) {
            let ns = now.saturating_sub(due) as f64 * 1000.0 / self.cycles_per_us;
            self.samples.push((index as u32, ns as u32));
        }
    }

    /// Nothing happened from `begin` to `end`, although something should have.
    pub(super) fn disturb(&mut self, begin: u64, end: u64) {
        let after = end + (end.saturating_sub(begin) as f64 * DRAIN) as u64;
        let (first, last) = (self.index(begin), self.index(after));
        self.disturbed[first..=last].fill(true);
    }

    /// Packets lost of windows that were not disturbed.
    pub(super) fn lost(&self) -> u64 {
        let clean = self.missing.iter().zip(&self.disturbed).filter(|(_, disturbed)| !**disturbed);
        // One window's count may be off by a packet at its edge, which the next one's makes up for.
        u64::try_from(clean.map(|(missing, _)| i64::from(*missing)).sum::<i64>()).unwrap_or(0)
    }

    /// Memory for the next trial's.
    pub(super) fn into_samples(self) -> Vec<(u32, u32)> {
        self.samples
    }

    /// The latencies, all and without the disturbed windows.
    pub(super) fn latencies(&self) -> Result<Latencies, Failure> {
        let mut latencies = Latencies::new()?;
        for &(window, ns) in &self.samples {
            let ns = u64::from(ns.max(1));
            latencies.raw.saturating_record(ns);
            if !self.disturbed[window as usize] {
                latencies.corrected.saturating_record(ns);
            }
        }
        latencies.windows = self.disturbed.len() as u64;
        latencies.removed = self.disturbed.iter().filter(|disturbed| **disturbed).count() as u64;
        Ok(latencies)
    }
}

/// Latencies of trials, nanoseconds.
#[derive(Clone, Debug)]
pub(super) struct Latencies {
    pub(super) raw: Histogram<u64>,
    /// Without windows that overlap a gap.
    pub(super) corrected: Histogram<u64>,
    /// Windows in all.
    pub(super) windows: u64,
    /// Windows left out.
    pub(super) removed: u64,
}

impl Latencies {
    pub(super) fn new() -> Result<Latencies, Failure> {
        Ok(Latencies { raw: histogram()?, corrected: histogram()?, windows: 0, removed: 0 })
    }

    /// Quantiles without the windows left out; `None` when these are most.
    pub(super) fn corrected_quantiles(&self) -> Option<Quantiles> {
        let enough = self.removed * 2 < self.windows && !self.corrected.is_empty();
        enough.then(|| Quantiles::of(&self.corrected))
    }

    /// Takes in another trial's.
    pub(super) fn add(&mut self, other: &Latencies) -> Result<(), Failure> {
        let failed = |e: hdrhistogram::AdditionError| Failure::Machine(e.to_string());
        self.raw.add(&other.raw).map_err(failed)?;
        self.corrected.add(&other.corrected).map_err(failed)?;
        self.windows += other.windows;
        self.removed += other.removed;
        Ok(())
    }
}

/// What a trial gave.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Packets of the schedule.
    pub(super) scheduled: u64,
    /// Packets lost of windows that were not disturbed.
    pub(super) lost_undisturbed: u64,
    /// Length, gaps included.
    pub(super) seconds: f64,
    /// Time in which this program did not run.
    pub(super) own_gaps: Gaps,
    /// Time in which nothing came back although packets were under way.
    pub(super) silences: Gaps,
    pub(super) latencies: Latencies,
}

impl Trial {
    /// Packets lost.
    pub(super) fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    /// Time in which both sides worked.
    fn working_seconds(&self) -> f64 {
        (self.seconds - (self.own_gaps.sum_us + self.silences.sum_us) / 1e6).max(self.seconds / 100.0)
    }

    /// What came back, packets a second of the time in which both sides worked.
    pub(super) fn received_pps(&self) -> f64 {
        self.received as f64 / self.working_seconds()
    }

    /// Packets sent a second, without the time in which the schedule stood still.
    pub(super) fn sent_pps(&self) -> f64 {
        self.sent as f64 / self.working_seconds()
    }

    /// Share of the trial's time in which both sides worked.
    pub(super) fn working_share(&self) -> f64 {
        self.working_seconds() / self.seconds
    }

    /// Whether the machine was there for enough of it.
    pub(super) fn counts(&self) -> bool {
        self.working_share() >= WORKING_MIN
    }

    /// Whether the rate was offered, and no more lost than allowed, in the time in which both sides worked.
    pub(super) fn passes(&self, loss_ppm: u64) -> bool {
        let offered = self.sent as f64 >= self.scheduled as f64 * OFFERED_MIN;
        offered && self.sent > 0 && self.lost_undisturbed * 1_000_000 <= self.sent * loss_ppm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(sent: u64, received: u64, lost_undisturbed: u64) -> Trial {
        Trial {
            sent,
            received,
            scheduled: 1000,
            lost_undisturbed,
            seconds: 0.5,
            own_gaps: Gaps::default(),
            silences: Gaps { count: 1, sum_us: 250_000.0, longest_us: 250_000.0, watched_us: 500_000.0 },
            latencies: Latencies::new().expect("histograms"),
        }
    }

    #[test]
    fn a_trial_passes_when_all_was_offered_and_came_back() {
        assert!(trial(1000, 1000, 0).passes(0));
        assert!(!trial(1000, 999, 1).passes(0));
        assert!(trial(1000, 999, 1).passes(1000));
        assert!(trial(1000, 990, 0).passes(0), "what a gap cost is not the device's loss");
        assert!(!trial(900, 900, 0).passes(0), "the generator was too slow");
        assert_eq!(trial(1000, 900, 100).lost(), 100);
        assert_eq!(trial(1000, 900, 100).received_pps(), 3600.0);
        assert_eq!(trial(1000, 900, 100).working_share(), 0.5);
        assert!(!trial(1000, 1000, 0).counts(), "half of the time is too little");
    }

    #[test]
    fn disturbed_windows_are_left_out() {
        // A cycle a nanosecond: windows of 100 000 cycles.
        let mut windows = TrialWindows::new(Duration::from_millis(1), 1000.0, Vec::with_capacity(1000), 1.0);
        for number in 0..10_u64 {
            windows.sent(number * 100_000, 2);
            windows.received(number * 100_000, number * 100_000 + 5_000, 2 * number);
            // Around the gap one packet is lost and others are late; in window 9 one is lost.
            match number {
                3 => {}
                4 => windows.received(number * 100_000, number * 100_000 + 90_000, 2 * number + 1),
                9 => {}
                _ => windows.received(number * 100_000, number * 100_000 + 5_000, 2 * number + 1),
            }
        }
        assert_eq!(windows.lost(), 2);
        windows.disturb(310_000, 340_000);
        assert_eq!(windows.lost(), 1);
        let latencies = windows.latencies().expect("histograms");
        assert_eq!((latencies.raw.len(), latencies.corrected.len()), (18, 15));
        assert!(latencies.raw.max() > 80_000 && latencies.corrected.max() < 6_000);
        assert_eq!((latencies.windows, latencies.removed), (12, 2));
        assert!(latencies.corrected_quantiles().is_some_and(|of| of.max < 6_000));
        windows.disturb(0, 600_000);
        assert_eq!(windows.latencies().expect("histograms").corrected_quantiles(), None);
        let mut sum = Latencies::new().expect("histograms");
        sum.add(&latencies).expect("the same bounds");
        sum.add(&latencies).expect("the same bounds");
        assert_eq!((sum.raw.len(), sum.removed), (36, 4));
    }

    #[test]
    fn many_packets_are_sampled() {
        let samples = Vec::with_capacity(1000);
        let mut windows = TrialWindows::new(Duration::from_secs(1), 4500.0, samples, 1.0);
        (0..4500).for_each(|number| windows.received(number * 100, number * 100 + 77, number));
        assert_eq!(windows.latencies().expect("histograms").raw.len(), 900);
        assert_eq!(windows.into_samples().capacity(), 1000);
    }
}
