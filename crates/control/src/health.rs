//! Health checks as the controller knows them. What is probed and what results mean is in the crate `health`, which agents use
//! too; [`crate::task::check`] probes.

use wire::BackendId;

pub(crate) use ::health::{Change, Check, Rules, SourcePorts, Verdict};

/// What is checked.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_that_could_not_leave_are_told_once_a_minute() {
        let mut unsent = Unsent::default();
        assert_eq!(unsent.add(5), Some(1));
        let later = (1..=700).filter_map(|at| unsent.add(5 + at * 100));
        assert_eq!(later.collect::<Vec<_>>(), [600]);
    }
}
