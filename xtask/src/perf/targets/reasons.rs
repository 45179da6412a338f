//! Why targets are missed: how far off they are, how the core compares with the one the figures were set on, and what is known.

use super::{Target, Wanted};
use serde_json::Value;

/// The calibration of the machine on which the absolute figures were set: adds a TSC cycle (of 0.385 ns), and nanoseconds
/// of a random line.
const SET_ON: (f64, f64) = (5.0, 10.0);

/// What is known of some targets. Shown where one is missed; when it is met the entry has to go.
pub(super) const ALL: &[(&str, &str)] = &[
    ("engine, 1 K flows, a packet", HOT),
    (
        "engine, 100 K flows, a packet",
        "as above, and one line of a table that no longer fits the nearest cache",
    ),
    (
        "engine, hot, over testpmd macswap",
        "macswap reads and writes 12 bytes a packet; ours is the work of a balancer, and its time is its instructions",
    ),
    (
        "50 % SYN flood: share of throughput that established flows lose",
        "the faster a known flow, the more a new one costs beside it: some 280 instructions, a line to read and to write",
    ),
    (
        "steady churn",
        "one insertion in six finds both its buckets full of live entries, and moves one of them to a third",
    ),
    (
        "state = exceptions, 64 M flows; over hot cost",
        "a hash and a look into the slot table (1.3 MB for 1000 backends) take 40 instructions more than the look-up of a hot flow",
    ),
    (
        "memory, IPv6, load 0.8",
        "a slot has 32 bytes, because any-port and prefix services need all of them; a bucket for exact ones would have five in two lines",
    ),
];

/// Why a packet of a hot flow takes as long as it does.
const HOT: &str = "about 230 instructions a packet (29 to read the headers, 14 to 29 to judge them, 36 to look up, 78 to encapsulate, 16 to \
     count, the rest of a turn), at four a cycle";

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
