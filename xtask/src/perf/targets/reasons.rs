//! Why targets are missed: how far off they are, how the core compares with the one the figures were set on, and what is known.

use super::{PerfTarget, Wanted};
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
        "macswap reads and writes 12 bytes a packet; ours is the work of a balancer, and its time is its \
         instructions",
    ),
    (
        "50 % SYN flood: share of throughput that established flows lose",
        "the faster a known flow, the more a new one costs beside it: some 280 instructions, a line to read \
         and to write",
    ),
    (
        "steady churn",
        "one insertion in six finds both its buckets full of live entries, and moves one of them to a third",
    ),
    (
        "state = exceptions, 64 M flows; over hot cost",
        "a hash and a look into the slot table (1.3 MB for 1000 backends) take 40 instructions more than the \
         look-up of a hot flow",
    ),
    ("null device, engine, null device, hot; over testpmd macswap", NULL),
    ("null device, engine, null device, 16 M flows; over testpmd macswap", NULL),
    ("engine, 64 M flows; above bound and hot cost", FAR),
    ("look-up, 16 M, positive; over the bound", FAR),
    ("look-up, 64 M, positive; over the bound", FAR),
    ("look-up, 64 M, negative; over the bound", FAR),
    ("hashbrown over ours, 64 M", "memory itself takes most of either's time there"),
    (
        "Maglev build, 65537 slots, 1000 backends; naive over ours",
        "its tables are read entry by entry: safe code has no gather",
    ),
    (
        "two processes over vhost-user, 64 bytes, without loss; over testpmd macswap",
        "30 ns a packet more, of which the engine alone takes 17 to 18; and frames grow by 20 bytes, which \
         the device copies",
    ),
    ("residence at 80 % load, median", RESIDENCE),
    ("residence at 80 % load, 99 %", RESIDENCE),
    ("residence at 80 % load, 99.9 %", RESIDENCE),
    ("echo over vhost-user at 50 %, median, over testpmd macswap", ECHO),
    ("echo over vhost-user at 50 %, 99 %, over testpmd macswap", ECHO),
    ("echo over vhost-user at 80 %, median, over testpmd macswap", ECHO),
    ("echo over vhost-user at 80 %, 99 %, over testpmd macswap", ECHO),
    ("echo over vhost-user at 80 %, 99.9 %, over testpmd macswap", ECHO),
    (
        "memory, IPv6, load 0.8",
        "a slot has 32 bytes, because any-port and prefix services need all of them; a bucket for exact ones \
         would have five in two lines",
    ),
];

/// Why a packet of a hot flow takes as long as it does.
const HOT: &str = "about 230 instructions a packet (29 to read the headers, 14 to 29 to judge them, 36 to \
                   look up, 78 to encapsulate, 16 to \
     count, the rest of a turn), at four a cycle";

/// Null device.
const NULL: &str =
    "the devices alone take 7 ns, which is nearly all that macswap takes; the rest is the engine";

/// Tables that are larger than what the translation caches reach.
const FAR: &str = "the bound itself, one random line of as much memory, takes longer than the figure allows";

/// Residence.
const RESIDENCE: &str = "80 % of what full bursts reach is all that bursts of 22 reach, because a turn has a \
                         cost of its own: the engine is busy \
     all the time, and packets queue";

/// Echo.
const ECHO: &str = "the rate is a share of the balancer's own highest, of which macswap has 1.4 times as \
                    much: packets queue before the one and not before the other";

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
pub(super) fn why(target: &PerfTarget<'_>, distance: String, result: &Value) -> String {
    let mut why = distance;
    let of = |name: &str| result.pointer(&format!("/calibration/{name}")).and_then(Value::as_f64);
    if let (Some(_), Some(adds), Some(line)) = (target.figure, of("adds_per_tsc"), of("line_ns")) {
        why += &format!(
            "; this core does {adds} adds a cycle of its counter and waits {line} ns for a random line, the \
             one that the figure \
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
