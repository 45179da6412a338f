//! When an action that was tried is tried again.

use super::KernelAction;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Pause after the first try; each further one is twice as long …
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// … up to this, so that what can be repaired is, within 3 s of that.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// An action that was not needed for so long begins anew. Longer than any pause.
const FORGET: Duration = Duration::from_secs(3);

/// Tries by action.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    tried: BTreeMap<KernelAction, Tried>,
}

#[derive(Clone, Copy, Debug)]
struct Tried {
    last: Instant,
    count: u32,
    /// Its failure was told.
    told: bool,
}

impl Backoff {
    /// Whether it is to be tried now.
    pub(super) fn is_due(&self, action: &KernelAction, now: Instant) -> bool {
        self.tried.get(action).is_none_or(|tried| now >= tried.last + pause(tried.count))
    }

    /// It was tried. True if this is a failure that is to be told: the first one in a row.
    pub(super) fn tried(&mut self, action: &KernelAction, failed: bool, now: Instant) -> bool {
        let tried = self.tried.entry(action.clone()).or_insert(Tried { last: now, count: 0, told: false });
        tried.last = now;
        tried.count = tried.count.saturating_add(1);
        let tell = failed && !tried.told;
        tried.told = failed;
        tell
    }

    /// Forgets what was not needed for a while.
    pub(super) fn forget(&mut self, now: Instant) {
        self.tried.retain(|_, tried| now < tried.last + FORGET);
    }

    /// Forgets the actions that are so: what they act upon is another.
    pub(super) fn forget_those(&mut self, is: impl Fn(&KernelAction) -> bool) {
        self.tried.retain(|action, _| !is(action));
    }

    /// Until the first of these actions is due.
    pub(super) fn next_due<'a>(
        &self,
        actions: impl Iterator<Item = &'a KernelAction>,
        now: Instant,
    ) -> Option<Duration> {
        let due = actions.filter_map(|action| {
            let tried = self.tried.get(action)?;
            Some((tried.last + pause(tried.count)).saturating_duration_since(now))
        });
        due.min()
    }
}

/// After so many tries, at least one.
fn pause(count: u32) -> Duration {
    PAUSE_MIN.saturating_mul(1 << count.saturating_sub(1).min(8)).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_a_failure_is_told_once() {
        let (mut backoff, action) = (Backoff::default(), KernelAction::Raise("gw0".to_owned()));
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for number in 0..7 {
            assert!(backoff.is_due(&action, now));
            assert_eq!(backoff.tried(&action, true, now), number == 0);
            let wait = backoff.next_due([&action].into_iter(), now).unwrap();
            pauses.push(wait.as_millis());
            assert!(!backoff.is_due(&action, now + wait - Duration::from_millis(1)));
            now += wait;
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 2000, 2000]);
        // It helped at last; the next failure is news.
        assert!(!backoff.tried(&action, false, now));
        assert!(backoff.tried(&action, true, now));
        // Another interface of its name, or long not needed: at once again.
        assert!(!backoff.is_due(&action, now));
        backoff.forget_those(|of| *of == action);
        assert!(backoff.is_due(&action, now));
        backoff.tried(&action, false, now);
        now += FORGET;
        backoff.forget(now);
        assert!(backoff.is_due(&action, now));
        assert_eq!(backoff.next_due([&action].into_iter(), now), None);
    }
}
