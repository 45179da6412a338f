//! Why targets are missed: how far off they are, how the core compares with the one the figures were set on, and what is known.

use super::{Target, Wanted};
use serde_json::Value;

/// The calibration of the machine on which the absolute figures were set: adds a TSC cycle (of 0.385 ns), and nanoseconds
/// of a random line.
const SET_ON: (f64, f64) = (5.0, 10.0);

/// What is known of some targets. Shown where one is missed; when it is met the entry has to go.
pub(super) const ALL: &[(&str, &str)] = &[];

/// How far a value is from its limit.
pub(super) fn distance(wanted: &Wanted<'_>, value: f64) -> String {
    let share = value / wanted.limit;
    match share.is_finite() {
        true if wanted.at_most => format!("{share:.2} times what is allowed"),
        true => format!("{share:.2} of what is asked for"),
        false => format!("{value} and not {}", wanted.limit),
    }
}

/// All that can be said.
pub(super) fn why(target: &Target<'_>, distance: String, result: &Value) -> String {
    let mut why = distance;
    let of = |name: &str| result.pointer(&format!("/calibration/{name}")).and_then(Value::as_f64);
    if let (Some(_), Some(adds), Some(line)) = (target.figure, of("adds_per_tsc"), of("line_ns")) {
        why += &format!(
            "; this core does {adds} adds a cycle of its counter and waits {line} ns for a random line, the one that the figure \
             was set on {} and {}",
            SET_ON.0, SET_ON.1
        );
    }
    if let Some((_, known)) = ALL.iter().find(|(what, _)| *what == target.what) {
        why += "; ";
        why += known;
    }
    why
}
