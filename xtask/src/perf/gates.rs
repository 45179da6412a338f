//! The targets, and what the results say of them.

use serde_json::Value;

/// A limit.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    fn met(self, value: f64) -> bool {
        match self {
            Target::AtMost(limit) => value <= limit,
            Target::AtLeast(limit) => value >= limit,
        }
    }

    fn words(self, unit: &str) -> String {
        match self {
            Target::AtMost(limit) => format!("≤ {limit} {unit}"),
            Target::AtLeast(limit) => format!("≥ {limit} {unit}"),
        }
    }
}

/// A number in a run's result: absolute, judged for what it is, or a ratio of the same run.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    /// JSON pointer to a number, or to an object with `median`, and `low` and `high` for an interval.
    at: &'static str,
    target: Target,
    unit: &'static str,
}

/// One target.
#[derive(Clone, Copy, Debug)]
struct Gate {
    what: &'static str,
    run: &'static str,
    figure: Option<Wanted>,
    ratio: Option<Wanted>,
}

/// How a target stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub(super) what: String,
    pub(super) target: String,
    pub(super) figure: String,
    pub(super) rounds: String,
    pub(super) verdict: String,
}

const fn most(at: &'static str, limit: f64, unit: &'static str) -> Option<Wanted> {
    Some(Wanted { at, target: Target::AtMost(limit), unit })
}

const fn least(at: &'static str, limit: f64, unit: &'static str) -> Option<Wanted> {
    Some(Wanted { at, target: Target::AtLeast(limit), unit })
}

const fn gate(what: &'static str, run: &'static str, figure: Option<Wanted>, ratio: Option<Wanted>) -> Gate {
    Gate { what, run, figure, ratio }
}

const COST: &str = "/ns_per_packet/median";
const EXCESS: &str = "/detail/excess_ns";
const POSITIVE: &str = "/ns_per_lookup/positive/ours/median";
const NEGATIVE: &str = "/ns_per_lookup/negative/ours/median";
const TO_BOUND: &str = "/ratios/positive/ours~1bound";
const NEGATIVE_TO_BOUND: &str = "/ratios/negative/ours~1bound";
const RTE_HASH: &str = "/ratios/positive/rte_hash~1ours";
const HASHBROWN: &str = "/ratios/positive/hashbrown~1ours";

const GATES: &[Gate] = &[
    gate("engine, 1 K flows, a packet", "engine-1K", most(COST, 9.0, "ns"), None),
    gate("engine, 100 K flows, a packet", "engine-100K", most(COST, 9.0, "ns"), None),
    gate("engine, hot, over testpmd macswap", "null-1K", None, most("/engine_hot_to_macswap", 0.8, "×")),
    gate(
        "engine, 1 M flows; above bound and hot cost",
        "engine-1M",
        most(COST, 18.0, "ns"),
        most(EXCESS, 2.0, "ns"),
    ),
    gate(
        "engine, 16 M flows; above bound and hot cost",
        "engine-16M",
        most(COST, 22.0, "ns"),
        most(EXCESS, 2.0, "ns"),
    ),
    gate(
        "engine, 64 M flows; above bound and hot cost",
        "engine-64M",
        most(COST, 22.0, "ns"),
        most(EXCESS, 2.0, "ns"),
    ),
    gate(
        "null device, engine, null device, hot; over testpmd macswap",
        "null-1K",
        least("/mpps", 45.0, "Mpps"),
        least("/rate_to_macswap", 0.6, "×"),
    ),
    gate(
        "the same, 16 M flows",
        "null-16M",
        least("/mpps", 28.0, "Mpps"),
        least("/rate_to_macswap", 0.37, "×"),
    ),
    gate(
        "state = \"exceptions\", 64 M flows; over hot cost",
        "exceptions-64M",
        None,
        most("/detail/ratio_to_hot", 1.15, "×"),
    ),
    gate("look-up, in the cache (10 K)", "table-10K", most(POSITIVE, 3.0, "ns"), None),
    gate(
        "look-up, 4 M, positive; over the bound",
        "table-4M",
        most(POSITIVE, 14.0, "ns"),
        most(TO_BOUND, 1.25, "×"),
    ),
    gate(
        "look-up, 16 M, positive; over the bound",
        "table-16M",
        most(POSITIVE, 14.0, "ns"),
        most(TO_BOUND, 1.25, "×"),
    ),
    gate(
        "look-up, 64 M, positive; over the bound",
        "table-64M",
        most(POSITIVE, 14.0, "ns"),
        most(TO_BOUND, 1.25, "×"),
    ),
    gate("rte_hash bulk over ours, 4 M", "table-4M", None, least(RTE_HASH, 3.5, "×")),
    gate("rte_hash bulk over ours, 64 M", "table-64M", None, least(RTE_HASH, 3.5, "×")),
    gate("hashbrown over ours, 4 M", "table-4M", None, least(HASHBROWN, 2.5, "×")),
    gate("hashbrown over ours, 64 M", "table-64M", None, least(HASHBROWN, 2.5, "×")),
    gate(
        "look-up, 4 M, negative; over the bound",
        "table-4M",
        most(NEGATIVE, 13.0, "ns"),
        most(NEGATIVE_TO_BOUND, 1.15, "×"),
    ),
    gate(
        "look-up, 64 M, negative; over the bound",
        "table-64M",
        most(NEGATIVE, 13.0, "ns"),
        most(NEGATIVE_TO_BOUND, 1.15, "×"),
    ),
    gate(
        "new flows; rte_hash add over ours",
        "table-4M",
        least("/updates/inserts_m_per_s", 20.0, "M/s"),
        least("/updates/insert_ratio", 6.0, "×"),
    ),
    gate("steady churn", "table-4M", least("/updates/churn_m_per_s", 12.0, "M/s"), None),
    gate("memory, IPv4, load 0.8", "memory", most("/ipv4/bytes_per_flow", 16.0, "bytes a flow"), None),
    gate("memory, IPv4, 64 M flows", "memory", most("/ipv4/gib", 1.05, "GiB"), None),
    gate("memory, IPv6, load 0.8", "memory", most("/ipv6/bytes_per_flow", 32.0, "bytes a flow"), None),
    gate(
        "Maglev build, 65537 slots, 1000 backends; naive over ours",
        "maglev-65537",
        most("/build_ms/median", 0.5, "ms"),
        least("/naive_to_ours", 4.0, "×"),
    ),
    gate(
        "Maglev build, 655373 slots, 1000 backends; naive over ours",
        "maglev-655373",
        most("/build_ms/median", 8.0, "ms"),
        least("/naive_to_ours", 3.5, "×"),
    ),
    gate("residence at 80 % load, median", "residence", most("/corrected_ns/p50", 800.0, "ns"), None),
    gate("residence at 80 % load, 99 %", "residence", most("/corrected_ns/p99", 2000.0, "ns"), None),
    gate("residence at 80 % load, 99.9 %", "residence", most("/corrected_ns/p99_9", 5000.0, "ns"), None),
    gate(
        "50 % SYN flood: throughput lost by established flows",
        "flood",
        None,
        most("/established_loss", 0.25, ""),
    ),
    gate("50 % SYN flood: established entries lost", "flood", most("/entries_lost", 0.0, "entries"), None),
    gate("two workers over twice one", "scale", None, least("/efficiency", 0.97, "×")),
    gate(
        "two processes over vhost-user, 64 bytes",
        "ndr-guidewayd",
        least("/sizes/0/mrr_mpps", 8.0, "Mpps"),
        None,
    ),
    gate(
        "ring hand-off at burst 32; over rte_ring SP/SC",
        "ring",
        most("/ours_ns/median", 3.0, "ns"),
        most("/ours_to_rte_ring", 0.8, "×"),
    ),
];

/// All targets.
pub(super) fn rows(results: &Value) -> Vec<Row> {
    GATES.iter().map(|gate| row(gate, results.pointer(&format!("/runs/{}", gate.run)))).collect()
}

fn row(gate: &Gate, run: Option<&Value>) -> Row {
    let wanted = || gate.figure.iter().chain(&gate.ratio);
    let target = wanted().map(|w| w.target.words(w.unit)).collect::<Vec<_>>().join("; ");
    let mut row = Row {
        what: gate.what.to_owned(),
        target,
        figure: "–".to_owned(),
        rounds: "–".to_owned(),
        verdict: "not measured".to_owned(),
    };
    let Some(run) = run else { return row };
    let Some(result) = run.get("result") else {
        row.verdict = "failed".to_owned();
        return row;
    };
    let of = |name: &str| result.get(name).and_then(Value::as_u64);
    if let (Some(kept), Some(total)) = (of("rounds_kept"), of("rounds_total")) {
        row.rounds = format!("{kept} of {total}");
    }
    let values: Vec<Option<(f64, String)>> = wanted().map(|w| value(result, w)).collect();
    let words =
        values.iter().map(|v| v.as_ref().map_or("not measured".to_owned(), |(_, words)| words.clone()));
    row.figure = words.collect::<Vec<_>>().join("; ");
    let met: Option<Vec<bool>> =
        wanted().zip(&values).map(|(w, v)| v.as_ref().map(|(value, _)| w.target.met(*value))).collect();
    row.verdict = match met.as_deref() {
        None => "not measured",
        // A count of nothing says nothing.
        Some(_) if of("rounds_kept") == Some(0) => "not measured",
        Some(met) if met.iter().all(|&met| met) => "met",
        Some([false, true]) => "ratio met, figure missed",
        Some([true, false]) => "figure met, ratio missed",
        Some(_) => "missed",
    }
    .to_owned();
    row
}

/// The number, and how it is printed.
fn value(result: &Value, wanted: &Wanted) -> Option<(f64, String)> {
    let at = result.pointer(wanted.at)?;
    let unit = wanted.unit;
    if let Some(number) = at.as_f64() {
        return Some((number, format!("{number} {unit}")));
    }
    let of = |name: &str| at.get(name).and_then(Value::as_f64);
    let (median, low, high) = (of("median")?, of("low")?, of("high")?);
    Some((median, format!("{median} {unit} [{low}, {high}]")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn verdict(name: &str, run: &Value) -> (String, String) {
        let gate = GATES.iter().find(|gate| gate.run == name).expect("a gate");
        let row = row(gate, Some(run));
        (row.figure, row.verdict)
    }

    #[test]
    fn targets_are_judged() {
        let run = |cost: f64, excess: f64| {
            json!({ "result": {
                "ns_per_packet": { "p5": 1.0, "median": cost },
                "detail": { "excess_ns": { "median": excess, "low": 0.5, "high": 3.0 } },
                "rounds_kept": 20, "rounds_total": 30,
            } })
        };
        assert_eq!(verdict("engine-1M", &run(17.0, 1.5)), ("17 ns; 1.5 ns [0.5, 3]".into(), "met".into()));
        assert_eq!(verdict("engine-1M", &run(19.0, 1.5)).1, "ratio met, figure missed");
        assert_eq!(verdict("engine-1M", &run(17.0, 2.5)).1, "figure met, ratio missed");
        assert_eq!(verdict("engine-1M", &run(19.0, 2.5)).1, "missed");
        let not =
            json!({ "result": { "ns_per_packet": "not measured", "rounds_kept": 2, "rounds_total": 30 } });
        assert_eq!(verdict("engine-1M", &not).1, "not measured");
        let none = json!({ "result": { "entries_lost": 0, "rounds_kept": 0, "rounds_total": 30 } });
        let lost = GATES.iter().find(|gate| gate.what.contains("entries lost")).expect("a gate");
        assert_eq!(row(lost, Some(&none)).verdict, "not measured");
        assert_eq!(verdict("engine-1M", &json!({ "failure": "no memory" })).1, "failed");
        assert_eq!(rows(&json!({})).len(), GATES.len());
    }
}
