//! Bisection: the rate below which nothing was lost, and the one above which something was.

/// A search under way.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct RateSearch {
    passed: f64,
    failed: f64,
    asked: f64,
    precision: f64,
    trials: u32,
    /// The rate asked for is to be asked for again.
    again: bool,
    /// It has failed once already.
    doubted: bool,
    /// Trials that said nothing.
    wasted: u32,
}

impl RateSearch {
    /// Trials at the most.
    pub(super) const TRIALS_MAX: u32 = 16;

    /// From what came back when as much as possible was sent: more is not to be expected.
    pub(super) fn new(most: f64, precision: f64) -> RateSearch {
        let failed = most * (1.0 + 2.0 * precision);
        RateSearch {
            passed: 0.0,
            failed,
            asked: 0.0,
            precision,
            trials: 0,
            again: false,
            doubted: false,
            wasted: 0,
        }
    }

    /// The next rate to try; `None` when the answer is known well enough.
    pub(super) fn next(&mut self) -> Option<f64> {
        let known = self.failed - self.passed <= self.precision * self.failed;
        if self.failed < 1.0 || known || self.trials >= RateSearch::TRIALS_MAX {
            return None;
        }
        if !self.again {
            // The first guess is high: most devices lose little before they lose much.
            self.asked =
                if self.asked == 0.0 { self.failed * 0.95 } else { f64::midpoint(self.passed, self.failed) };
        }
        self.trials += 1;
        Some(self.asked)
    }

    /// How the rate did. It has failed when it did so twice: the machine disturbs single trials.
    pub(super) fn tell(&mut self, passes: bool) {
        if passes {
            self.passed = self.asked;
        } else if self.doubted {
            self.failed = self.asked;
        }
        self.doubted = !passes && !self.doubted;
        self.again = self.doubted;
    }

    /// The machine was not there for the trial: it says nothing and is repeated.
    pub(super) fn tell_nothing(&mut self) {
        self.again = true;
        self.wasted += 1;
    }

    /// The highest rate that passed, 0 when none did; `None` when the machine let too few trials count.
    pub(super) fn best(&self) -> Option<f64> {
        (self.wasted * 2 < RateSearch::TRIALS_MAX).then_some(self.passed)
    }

    /// Trials that said nothing.
    pub(super) fn wasted(&self) -> u32 {
        self.wasted
    }

    /// Trials so far.
    pub(super) fn trials(&self) -> u32 {
        self.trials
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bisection_finds_the_edge() {
        for edge in [0.0, 13.0, 5e6, 7.77e6, 9.9e6] {
            let mut search = RateSearch::new(9.8e6, 0.02);
            while let Some(rate) = search.next() {
                search.tell(rate <= edge);
            }
            let best = search.best().expect("all trials counted");
            assert!(best <= edge, "{best} passed although {edge} is the edge");
            assert!(search.trials() <= RateSearch::TRIALS_MAX);
            if edge > 1e6 && edge < 9.8e6 {
                assert!(best >= edge * 0.96, "{best} of {edge} after {}", search.trials());
            }
        }
        assert_eq!(RateSearch::new(0.0, 0.01).next(), None);
    }

    #[test]
    fn one_bad_trial_is_repeated() {
        let mut search = RateSearch::new(1e6, 0.01);
        let first = search.next();
        search.tell(false);
        assert_eq!(search.next(), first);
        search.tell(true);
        assert_eq!(search.best(), first);
    }

    #[test]
    fn trials_that_say_nothing_are_repeated_up_to_a_point() {
        let mut search = RateSearch::new(1e6, 0.01);
        let first = search.next();
        search.tell_nothing();
        assert_eq!(search.next(), first);
        search.tell(false);
        assert_eq!(search.next(), first);
        search.tell_nothing();
        assert_eq!(search.next(), first);
        search.tell(true);
        assert_eq!(search.best(), first);
        let mut search = RateSearch::new(1e6, 0.01);
        while search.next().is_some() {
            search.tell_nothing();
        }
        assert_eq!((search.best(), search.trials()), (None, RateSearch::TRIALS_MAX));
    }
}
