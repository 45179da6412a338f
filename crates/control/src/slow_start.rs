//! Slow start: a backend that comes up takes its share little by little.
//!
//! Rule of this module: pure; it is told who takes new flows, and the time. Nobody ramps because the daemon starts: all have begun to be seen
//! then, and which of them were up before is not known.

use std::collections::HashMap;
use wire::BackendId;

/// Steps in which a share grows: the first is one of so many parts.
pub(crate) const STEPS: u64 = 10;

/// Whether a backend takes new flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Takes {
    /// Yes.
    Yes,
    /// No: it is down, drained, or without weight.
    No,
    /// Not known yet: no check has ended.
    Unknown,
}

/// How far a backend has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ramp {
    /// It was there when the daemon started, and nothing is known of it.
    AtStart,
    /// It takes no new flows.
    Away,
    /// It has taken flows since, milliseconds; for so long it ramps.
    Joining { since_ms: u64, lasts_ms: u64 },
    /// It has its whole share.
    Joined,
}

/// All backends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ramps {
    courses: HashMap<BackendId, Ramp>,
    has_begun: bool,
}

impl Ramps {
    /// Looks at all backends: whether each takes new flows, and for how long it ramps when it comes up (0: not at all). True: some share
    /// has changed since it was told last. Backends that are not named are forgotten.
    pub(crate) fn observe(
        &mut self,
        backends: impl IntoIterator<Item = (BackendId, Takes, u64)>,
        now_ms: u64,
    ) -> bool {
        let mut courses = HashMap::with_capacity(self.courses.len());
        let mut changed = false;
        for (id, takes, lasts_ms) in backends {
            let before = self.courses.get(&id).copied();
            let begins =
                if lasts_ms > 0 { Ramp::Joining { since_ms: now_ms, lasts_ms } } else { Ramp::Joined };
            let now = match (before, takes) {
                (None, Takes::Unknown) if !self.has_begun => Ramp::AtStart,
                (None, Takes::Yes) if !self.has_begun => Ramp::Joined,
                (Some(Ramp::AtStart), Takes::Unknown) => Ramp::AtStart,
                (Some(Ramp::AtStart), Takes::Yes) => Ramp::Joined,
                (_, Takes::No | Takes::Unknown) => Ramp::Away,
                (None | Some(Ramp::Away), Takes::Yes) => begins,
                // The key may have been changed meanwhile.
                (Some(Ramp::Joining { since_ms, .. }), Takes::Yes)
                    if now_ms.saturating_sub(since_ms) < lasts_ms =>
                {
                    Ramp::Joining { since_ms, lasts_ms }
                }
                (Some(Ramp::Joining { .. } | Ramp::Joined), Takes::Yes) => Ramp::Joined,
            };
            let ramps = |of: Option<Ramp>| matches!(of, Some(Ramp::Joining { .. }));
            changed |= ramps(before) != ramps(Some(now));
            courses.insert(id, now);
        }
        changed |= self
            .courses
            .iter()
            .any(|(id, of)| matches!(of, Ramp::Joining { .. }) && !courses.contains_key(id));
        self.courses = courses;
        self.has_begun = true;
        changed
    }

    /// Whether any backend ramps.
    pub(crate) fn is_any(&self) -> bool {
        self.courses.values().any(|of| matches!(of, Ramp::Joining { .. }))
    }

    /// How far a backend has come in its ramp, millionths; `None`: it does not ramp.
    pub(crate) fn progress_ppm(&self, id: BackendId, now_ms: u64) -> Option<u32> {
        match self.courses.get(&id)? {
            Ramp::Joining { since_ms, lasts_ms } => {
                let passed = now_ms.saturating_sub(*since_ms).min(*lasts_ms);
                u32::try_from(passed * 1_000_000 / (*lasts_ms).max(1)).ok()
            }
            _ => None,
        }
    }

    /// The share of its weight that a backend has, in parts of [`STEPS`]. Steps are taken when the clock comes to a multiple of their
    /// length, so those of many backends are taken at once; the first one lasts for up to two.
    pub(crate) fn parts(&self, id: BackendId, now_ms: u64) -> u64 {
        match self.courses.get(&id) {
            Some(Ramp::Joining { since_ms, lasts_ms }) => {
                let step_ms = (lasts_ms / STEPS).max(1);
                (1 + (now_ms / step_ms).saturating_sub(since_ms.div_ceil(step_ms))).min(STEPS)
            }
            _ => STEPS,
        }
    }

    /// [`parts`](Self::parts) of a backend that will take flows next, if it does not yet.
    pub(crate) fn parts_to_be(&self, id: BackendId, lasts_ms: u64, now_ms: u64) -> u64 {
        match self.courses.get(&id) {
            Some(Ramp::Away) | None if lasts_ms > 0 && self.has_begun => 1,
            _ => self.parts(id, now_ms),
        }
    }
}

/// Weights of a service's backends, each with the parts of it that are in force (at least 1): those given, where all have the same
/// share; else the smallest numbers that stand in the right proportion. A weight is never rounded, and never becomes 0.
pub(crate) fn weights(of: &[(u32, u64)]) -> Vec<u32> {
    if of.windows(2).all(|two| matches!(two, [a, b] if a.1 == b.1)) {
        return of.iter().map(|(weight, _)| *weight).collect();
    }
    let scaled: Vec<u64> = of.iter().map(|(weight, parts)| u64::from(*weight) * (*parts).max(1)).collect();
    let divisor = scaled.iter().fold(0, |a, b| greatest_common_divisor(a, *b)).max(1);
    scaled.iter().map(|weight| u32::try_from(weight / divisor).unwrap_or(u32::MAX)).collect()
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::{Ramps, Takes, weights};
    use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};
    use wire::BackendId;

    const A: BackendId = BackendId(1);
    const B: BackendId = BackendId(2);
    const T: u64 = 10_000;

    #[test]
    fn a_backend_that_comes_up_has_a_tenth_more_every_tenth_of_its_time() {
        let mut ramps = Ramps::default();
        ramps.observe([(A, Takes::Yes, T), (B, Takes::No, T)], 0);
        assert_eq!((ramps.parts(A, 0), ramps.parts(B, 0)), (10, 10));
        assert!(ramps.observe([(A, Takes::Yes, T), (B, Takes::Yes, T)], 500));
        for (at, parts) in
            [(500, 1), (1_999, 1), (2_000, 2), (6_000, 6), (9_999, 9), (10_000, 10), (99_000, 10)]
        {
            assert_eq!(ramps.parts(B, at), parts, "{at}");
        }
        assert_eq!(ramps.parts(A, 600), 10);
        assert_eq!((ramps.progress_ppm(A, 600), ramps.progress_ppm(B, 3_000)), (None, Some(250_000)));
        assert!(!ramps.observe([(A, Takes::Yes, T), (B, Takes::Yes, T)], 9_000));
        assert!(ramps.is_any());
        assert!(ramps.observe([(A, Takes::Yes, T), (B, Takes::Yes, T)], 10_500), "it ends");
        assert!(!ramps.is_any());
    }

    #[test]
    fn nobody_ramps_because_the_daemon_starts() {
        let mut ramps = Ramps::default();
        assert!(!ramps.observe([(A, Takes::Unknown, T), (B, Takes::Yes, T)], 0));
        assert!(!ramps.observe([(A, Takes::Unknown, T), (B, Takes::Yes, T)], 100));
        assert!(!ramps.observe([(A, Takes::Yes, T), (B, Takes::Yes, T)], 700));
        assert!(!ramps.is_any());
    }

    #[test]
    fn whoever_was_away_or_is_new_ramps() {
        for takes in [Takes::No, Takes::Unknown] {
            let mut ramps = Ramps::default();
            ramps.observe([(A, Takes::Yes, T)], 0);
            ramps.observe([(A, Takes::Yes, T), (B, takes, T)], 100);
            assert!(ramps.observe([(A, Takes::Yes, T), (B, Takes::Yes, T)], 200), "new");
            ramps.observe([(A, Takes::Yes, T), (B, Takes::No, T)], 300);
            assert!(ramps.observe([(A, Takes::Yes, T), (B, Takes::Yes, T)], 400), "anew, from its beginning");
            assert_eq!(ramps.parts(B, 400), 1);
            assert!(ramps.observe([(A, Takes::Yes, T)], 500), "gone");
            assert!(!ramps.observe([(A, Takes::Yes, T), (B, Takes::Yes, 0)], 600), "with join = \"head\"");
            assert!(!ramps.is_any());
        }
    }

    #[test]
    fn the_time_may_change_under_way() {
        let mut ramps = Ramps::default();
        ramps.observe([(A, Takes::No, T)], 0);
        ramps.observe([(A, Takes::Yes, T)], 0);
        assert_eq!(ramps.parts(A, 1_000), 2);
        assert!(!ramps.observe([(A, Takes::Yes, 2 * T)], 1_000));
        assert_eq!(ramps.parts(A, 2_000), 2);
        assert_eq!(ramps.parts_to_be(B, T, 2_000), 1);
        assert_eq!(ramps.parts_to_be(B, 0, 2_000), 10);
        assert!(ramps.observe([(A, Takes::Yes, 0)], 2_000), "no slow start any more");
    }

    #[test]
    fn weights_as_given_unless_somebody_ramps() {
        assert_eq!(weights(&[(4, 10), (2, 10)]), [4, 2]);
        assert_eq!(weights(&[(4, 3), (2, 3)]), [4, 2], "all begin at once");
        assert_eq!(weights(&[(1, 10), (1, 1)]), [10, 1]);
        assert_eq!(weights(&[(1, 10), (1, 5)]), [2, 1]);
        assert_eq!(weights(&[(65_535, 10), (1, 1)]), [655_350, 1]);
        assert_eq!(weights(&[(0, 10), (3, 1)]), [0, 1]);
        assert_eq!(weights(&[]), [0_u32; 0]);
    }

    proptest! {
        #[test]
        fn weights_stand_in_proportion(of in prop::collection::vec((1_u32..=65_535, 1_u64..=10), 1..12)) {
            let made = weights(&of);
            for ((a, b), (x, y)) in made.iter().zip(made.iter().skip(1)).zip(of.iter().zip(of.iter().skip(1))) {
                prop_assert!(*a > 0);
                let (left, right) = (u64::from(x.0) * x.1, u64::from(y.0) * y.1);
                prop_assert_eq!(u64::from(*a) * right, u64::from(*b) * left);
            }
        }
    }
}
