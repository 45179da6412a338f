//! The verdict: what a row of results means.
//!
//! Rule of this module: it reads no clock and does no I/O.

use model::api::{CheckResult, HealthStatus};
use std::collections::VecDeque;

/// Time over which going down counts as flapping, milliseconds.
pub const FLAP_WINDOW_MS: u64 = 300_000;
/// Longest hold-down, milliseconds.
pub const HOLD_MAX_MS: u64 = 60_000;

/// What turns results into a verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Time between two checks, milliseconds.
    pub interval_ms: u32,
    /// Failures in a row that make an up backend down.
    pub fall: u32,
    /// Passes in a row that make a down backend up.
    pub rise: u32,
}

/// A change of verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Takes new flows.
    Up,
    /// Takes none, and for at least so many milliseconds (0: as soon as checks pass).
    Down {
        /// Hold-down, milliseconds.
        hold_ms: u64,
    },
}

/// What the checks of one backend say.
///
/// Unknown until the first pass (up at once) or until `fall` failures in a row (down). Then `fall` failures make it
/// down and `rise` passes make it up again. **Flap hold-down**: the first time within [`FLAP_WINDOW_MS`] that a
/// backend goes down costs nothing extra; the n-th time (n ≥ 2) it stays down for at least
/// `max(interval, 1 s) × 2^(n-1)`, at most [`HOLD_MAX_MS`], however its checks pass meanwhile.
#[derive(Debug, Default)]
pub struct Verdict {
    up: Option<bool>,
    passes_in_row: u32,
    failures_in_row: u32,
    /// When it went down, newest last; at most [`DOWNS_KEPT`].
    downs_ms: VecDeque<u64>,
    hold_until_ms: u64,
    passed: u64,
    failed: u64,
    transitions: u64,
    last: Option<CheckResult>,
}

/// More than enough to reach [`HOLD_MAX_MS`].
const DOWNS_KEPT: usize = 16;

impl Verdict {
    /// A verdict remembered from before a restart.
    pub fn remembered(up: bool) -> Verdict {
        Verdict { up: Some(up), ..Verdict::default() }
    }

    /// Up, down, or not known yet.
    pub fn up(&self) -> Option<bool> {
        self.up
    }

    /// Takes a result in; of a check that could not leave, only what it says. `now_ms` never goes backwards.
    pub fn observe(&mut self, result: CheckResult, rules: Rules, now_ms: u64) -> Option<Change> {
        if result.unsent {
            // What is in force stays, and what is in a row is not broken.
            self.last = Some(result);
            return None;
        }
        if result.passed {
            self.passed += 1;
            self.passes_in_row = self.passes_in_row.saturating_add(1);
            self.failures_in_row = 0;
        } else {
            self.failed += 1;
            self.failures_in_row = self.failures_in_row.saturating_add(1);
            self.passes_in_row = 0;
        }
        let passed = result.passed;
        self.last = Some(result);
        match (self.up, passed) {
            (None, true) => Some(self.rise()),
            (Some(false), true) if self.passes_in_row >= rules.rise && now_ms >= self.hold_until_ms => {
                Some(self.rise())
            }
            (None | Some(true), false) if self.failures_in_row >= rules.fall => {
                Some(self.fall(rules, now_ms))
            }
            _ => None,
        }
    }

    /// Takes the word of somebody who has checked, and applied rise and fall, elsewhere. It is in force at once, and own
    /// checks begin to count anew.
    pub fn told(&mut self, up: bool, result: CheckResult) -> Option<Change> {
        self.last = Some(result);
        (self.passes_in_row, self.failures_in_row) = (0, 0);
        if self.up == Some(up) {
            return None;
        }
        self.up = Some(up);
        self.transitions += 1;
        Some(if up { Change::Up } else { Change::Down { hold_ms: 0 } })
    }

    fn rise(&mut self) -> Change {
        self.up = Some(true);
        self.transitions += 1;
        Change::Up
    }

    fn fall(&mut self, rules: Rules, now_ms: u64) -> Change {
        self.up = Some(false);
        self.transitions += 1;
        while self.downs_ms.front().is_some_and(|at| now_ms.saturating_sub(*at) > FLAP_WINDOW_MS)
            || self.downs_ms.len() == DOWNS_KEPT
        {
            self.downs_ms.pop_front();
        }
        self.downs_ms.push_back(now_ms);
        let times = self.downs_ms.len();
        let hold_ms = if times < 2 {
            0
        } else {
            let base = u64::from(rules.interval_ms).max(1000);
            base.saturating_mul(1 << (times - 1)).min(HOLD_MAX_MS)
        };
        self.hold_until_ms = now_ms + hold_ms;
        Change::Down { hold_ms }
    }

    /// As the API shows it.
    pub fn status(&self, now_ms: u64) -> HealthStatus {
        HealthStatus {
            up: self.up,
            last: self.last.clone(),
            passed: self.passed,
            failed: self.failed,
            consecutive: self.passes_in_row.max(self.failures_in_row),
            transitions: self.transitions,
            held_down_ms: if self.up == Some(false) { self.hold_until_ms.saturating_sub(now_ms) } else { 0 },
        }
    }

    /// Why the last check failed.
    pub fn reason(&self) -> &str {
        self.last.as_ref().map_or("not checked yet", |last| &last.reason)
    }
}
