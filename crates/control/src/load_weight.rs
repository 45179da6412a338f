//! Weights that follow load (`weight = "load"`): a busier backend gets a smaller share of the slots, little by little.
//!
//! Rule of this module: pure; it is told loads and the time, and asks how many slots a table would move. What is known of load is late and rough, and
//! a share that changes moves slots, so nothing is done in a hurry: loads are smoothed over [`PERIOD_MS`], one adjustment is made in
//! so long, no weight changes by more than a tenth of what is configured, differences of a few percent are let be, and all
//! adjustments of a minute together move no more slots than the service allows.

use std::collections::{HashMap, VecDeque};
use wire::BackendId;

/// Time between two adjustments, and over which loads are smoothed, milliseconds.
pub(crate) const PERIOD_MS: u64 = 10_000;
/// Slots moved are counted for so long, milliseconds.
const BUDGET_MS: u64 = 60_000;
/// The configured weight, as a factor.
pub(crate) const WHOLE: u32 = 1000;
/// The most that a factor changes at once.
const STEP: u32 = WHOLE / 10;
/// The smallest and the largest factor.
const RANGE: (u32, u32) = (WHOLE / 10, WHOLE * 2);
/// A load is let be that differs from the mean by less than one of so many parts.
const NEAR: u64 = 20;

/// A service whose weights follow load.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoadFollower {
    backends: HashMap<BackendId, Followed>,
    heard_ms: Option<u64>,
    adjusted_ms: Option<u64>,
    /// When how many slots were moved, within [`BUDGET_MS`].
    moved: VecDeque<(u64, u32)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Followed {
    /// Smoothed load, millionths; `None`: nothing is known.
    load_ppm: Option<u64>,
    factor: u32,
}

impl LoadFollower {
    /// What is known of the load of each backend of the service now, millionths; `None`: nothing. Backends that are not named are
    /// forgotten. Of one whose load is not known any more the last one goes on to count for nothing, and its weight returns.
    pub(crate) fn hear(&mut self, loads: &[(BackendId, Option<u32>)], now_ms: u64) {
        let passed = self.heard_ms.map_or(0, |heard| now_ms.saturating_sub(heard)).min(100 * PERIOD_MS);
        self.heard_ms = Some(now_ms);
        let before = std::mem::take(&mut self.backends);
        for &(id, load) in loads {
            let known = before.get(&id).copied();
            let smoothed = known.and_then(|of| of.load_ppm);
            let load_ppm = load.map(|load| {
                let load = u64::from(load);
                // A first-order filter, by the backward Euler method: stable for any distance between two figures.
                smoothed
                    .map_or(load, |smoothed| (smoothed * PERIOD_MS + load * passed) / (PERIOD_MS + passed))
            });
            self.backends.insert(id, Followed { load_ppm, factor: known.map_or(WHOLE, |of| of.factor) });
        }
    }

    /// The factor of a backend's weight, in thousandths.
    pub(crate) fn factor(&self, id: BackendId) -> u32 {
        self.backends.get(&id).map_or(WHOLE, |of| of.factor)
    }

    /// Adjusts the factors, if it is time and there is a reason. `slots` is the size of the table, of which adjustments may move
    /// `churn_percent` a minute; `moved` tells how many slots given factors would move, `None` if there can be no such table. What moves too
    /// many is tried by halves. True: the factors are others now.
    pub(crate) fn adjust(
        &mut self,
        slots: u32,
        churn_percent: u8,
        now_ms: u64,
        mut moved: impl FnMut(&HashMap<BackendId, u32>) -> Option<u32>,
    ) -> bool {
        if self.adjusted_ms.is_some_and(|at| now_ms.saturating_sub(at) < PERIOD_MS) {
            return false;
        }
        while self.moved.front().is_some_and(|(at, _)| now_ms.saturating_sub(*at) >= BUDGET_MS) {
            self.moved.pop_front();
        }
        let allowed = u64::from(slots) * u64::from(churn_percent) / 100;
        let spent: u64 = self.moved.iter().map(|(_, slots)| u64::from(*slots)).sum();
        let left = allowed.saturating_sub(spent);
        let steps = self.steps();
        if left == 0 || steps.iter().all(|(_, _, step)| *step == 0) {
            return false;
        }
        self.adjusted_ms = Some(now_ms);
        for part in [1, 2, 4, 8] {
            let factors: HashMap<BackendId, u32> = steps
                .iter()
                .map(|&(id, factor, step)| (id, factor.saturating_add_signed(step / part)))
                .collect();
            let Some(slots) = moved(&factors) else { return false };
            if u64::from(slots) > left {
                continue;
            }
            if slots > 0 {
                self.moved.push_back((now_ms, slots));
            }
            let mut changed = false;
            for (id, of) in &mut self.backends {
                let factor = factors.get(id).copied().unwrap_or(of.factor);
                changed |= factor != of.factor;
                of.factor = factor;
            }
            return changed;
        }
        false
    }

    /// By backend its factor, and the step that its load asks for; in the order of the ids.
    fn steps(&self) -> Vec<(BackendId, u32, i32)> {
        let known: Vec<u64> = self.backends.values().filter_map(|of| of.load_ppm).collect();
        let mean = known.iter().sum::<u64>() / (known.len() as u64).max(1);
        let mut steps: Vec<_> = self
            .backends
            .iter()
            .map(|(&id, of)| {
                let wanted = match of.load_ppm {
                    // Nothing to compare with.
                    None => WHOLE,
                    Some(_) if known.len() < 2 => WHOLE,
                    Some(load) if load.abs_diff(mean) * NEAR <= mean => of.factor,
                    Some(load) => {
                        let wanted = u64::from(of.factor) * mean / load.max(1);
                        u32::try_from(wanted).unwrap_or(RANGE.1).clamp(RANGE.0, RANGE.1)
                    }
                };
                let step = i64::from(wanted) - i64::from(of.factor);
                let step = step.clamp(-i64::from(STEP), i64::from(STEP));
                (id, of.factor, i32::try_from(step).unwrap_or(0))
            })
            .collect();
        steps.sort_unstable();
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::{LoadFollower, PERIOD_MS, RANGE, STEP, WHOLE};
    use proptest::prelude::{any, prop, prop_assert, proptest};
    use std::collections::HashMap;
    use wire::BackendId;

    const A: BackendId = BackendId(1);
    const B: BackendId = BackendId(2);
    const SLOTS: u32 = 10_000;

    /// As if each thousandth of a weight that changes moved a slot.
    fn a_slot_each(before: &LoadFollower) -> impl Fn(&HashMap<BackendId, u32>) -> Option<u32> + use<> {
        let before = before.clone();
        move |factors| Some(factors.iter().map(|(id, factor)| factor.abs_diff(before.factor(*id))).sum())
    }

    fn adjust(of: &mut LoadFollower, percent: u8, now_ms: u64) -> bool {
        let count = a_slot_each(of);
        of.adjust(SLOTS, percent, now_ms, count)
    }

    #[test]
    fn a_busy_backend_loses_a_tenth_at_a_time() {
        let mut of = LoadFollower::default();
        of.hear(&[(A, Some(900_000)), (B, Some(300_000))], 0);
        assert!(adjust(&mut of, 100, 0));
        assert_eq!((of.factor(A), of.factor(B)), (WHOLE - STEP, WHOLE + STEP));
        of.hear(&[(A, Some(900_000)), (B, Some(300_000))], 250);
        assert!(!adjust(&mut of, 100, PERIOD_MS - 1), "not so soon");
        assert!(adjust(&mut of, 100, PERIOD_MS));
        assert_eq!((of.factor(A), of.factor(B)), (WHOLE - 2 * STEP, WHOLE + 2 * STEP));
        for round in 2..60 {
            of.hear(&[(A, Some(900_000)), (B, Some(300_000))], round * PERIOD_MS);
            adjust(&mut of, 100, round * PERIOD_MS);
        }
        assert_eq!((of.factor(A), of.factor(B)), RANGE);
    }

    #[test]
    fn equal_loads_and_small_differences_change_nothing() {
        let mut of = LoadFollower::default();
        of.hear(&[(A, Some(500_000)), (B, Some(540_000))], 0);
        assert!(!adjust(&mut of, 100, 0));
        of.hear(&[(A, Some(0)), (B, Some(0))], 1_000_000_000);
        assert!(!adjust(&mut of, 100, 1_000_000_000));
        of.hear(&[(A, Some(500_000)), (B, None)], 2_000_000_000);
        assert!(!adjust(&mut of, 100, 2_000_000_000), "nothing to compare with");
        assert_eq!((of.factor(A), of.factor(B)), (WHOLE, WHOLE));
    }

    #[test]
    fn loads_are_smoothed() {
        let mut of = LoadFollower::default();
        of.hear(&[(A, Some(500_000)), (B, Some(500_000))], 0);
        of.hear(&[(A, Some(1_000_000)), (B, Some(500_000))], 250);
        assert!(!adjust(&mut of, 100, 250), "a peak of a quarter of a second is none");
        for tick in 2..40 {
            of.hear(&[(A, Some(1_000_000)), (B, Some(500_000))], 250 * tick);
        }
        assert!(adjust(&mut of, 100, PERIOD_MS));
    }

    #[test]
    fn weights_return_when_nothing_is_known_any_more() {
        let mut of = LoadFollower::default();
        of.hear(&[(A, Some(900_000)), (B, Some(300_000))], 0);
        adjust(&mut of, 100, 0);
        of.hear(&[(A, None), (B, None)], PERIOD_MS);
        assert!(adjust(&mut of, 100, PERIOD_MS));
        assert_eq!((of.factor(A), of.factor(B)), (WHOLE, WHOLE));
        of.hear(&[(A, None)], 2 * PERIOD_MS);
        assert_eq!(of.factor(B), WHOLE, "forgotten");
    }

    #[test]
    fn no_more_is_moved_than_allowed() {
        let mut of = LoadFollower::default();
        of.hear(&[(A, Some(900_000)), (B, Some(300_000))], 0);
        // 1 % of 10,000 slots are 100 a minute; a whole step would move 200.
        assert!(adjust(&mut of, 1, 0));
        assert_eq!((of.factor(A), of.factor(B)), (WHOLE - STEP / 2, WHOLE + STEP / 2));
        for at in [PERIOD_MS, 3 * PERIOD_MS, 59_999] {
            assert!(!adjust(&mut of, 1, at), "the minute's budget is spent");
        }
        assert!(adjust(&mut of, 1, 60_000));
        assert!(!of.adjust(SLOTS, 100, 200_000, |_| None), "no such table");
        assert!(!of.adjust(SLOTS, 1, 300_000, |_| Some(101)), "not even an eighth fits");
    }

    proptest! {
        #[test]
        fn the_budget_and_the_step_hold_whatever_is_reported(
            rounds in prop::collection::vec(prop::collection::vec(any::<Option<u32>>(), 4), 1..100),
            percent in 1_u8..=100,
            pause_ms in 100_u64..30_000,
        ) {
            let mut of = LoadFollower::default();
            let mut moved: Vec<(u64, u64)> = Vec::new();
            for (round, loads) in (0..).zip(rounds) {
                let now = round * pause_ms;
                let loads: Vec<_> = (0..).map(BackendId).zip(loads).collect();
                of.hear(&loads, now);
                let before = of.clone();
                if adjust(&mut of, percent, now) {
                    let mut slots = 0;
                    for (id, _) in &loads {
                        let step = of.factor(*id).abs_diff(before.factor(*id));
                        prop_assert!(step <= STEP);
                        prop_assert!((RANGE.0..=RANGE.1).contains(&of.factor(*id)));
                        slots += u64::from(step);
                    }
                    moved.push((now, slots));
                }
                let within: u64 = moved.iter().filter(|(at, _)| now - at < 60_000).map(|(_, slots)| slots).sum();
                prop_assert!(within <= u64::from(SLOTS) * u64::from(percent) / 100);
            }
        }
    }
}
