//! The targets, what the results say of them, and why some are missed.

mod reasons;

use serde_json::Value;

/// A line each: what, the measurement, a figure (absolute: judged on the machine at hand) and a ratio (within one run: what
/// decides), each a place in the measurement's JSON, a limit and a unit. A dash is none.
const TARGETS: &str = "
engine, 1 K flows, a packet | engine-1K | /ns_per_packet <= 9 ns | -
engine, 100 K flows, a packet | engine-100K | /ns_per_packet <= 9 ns | -
engine, hot, over testpmd macswap | null-1K | - | /engine_hot_to_macswap <= 0.8 ×
engine, 1 M flows; above bound and hot cost | engine-1M | /ns_per_packet <= 18 ns | /detail/excess_ns <= 2 ns
engine, 16 M flows; above bound and hot cost | engine-16M | /ns_per_packet <= 22 ns | /detail/excess_ns <= 2 \
ns
engine, 64 M flows; above bound and hot cost | engine-64M | /ns_per_packet <= 22 ns | /detail/excess_ns <= 2 \
ns
null device, engine, null device, hot; over testpmd macswap | null-1K | /mpps >= 45 Mpps | /rate_to_macswap \
>= 0.6 ×
null device, engine, null device, 16 M flows; over testpmd macswap | null-16M | /mpps >= 28 Mpps | \
/rate_to_macswap >= 0.37 ×
state = exceptions, 64 M flows; over hot cost | exceptions-64M | - | /detail/ratio_to_hot <= 1.15 ×
look-up, in the cache (10 K) | table-10K | /ns_per_lookup/positive/ours <= 3 ns | -
look-up, 4 M, positive; over the bound | table-4M | /ns_per_lookup/positive/ours <= 14 ns | \
/ratios/positive/ours~1bound <= 1.25 ×
look-up, 16 M, positive; over the bound | table-16M | /ns_per_lookup/positive/ours <= 14 ns | \
/ratios/positive/ours~1bound <= 1.25 ×
look-up, 64 M, positive; over the bound | table-64M | /ns_per_lookup/positive/ours <= 14 ns | \
/ratios/positive/ours~1bound <= 1.25 ×
rte_hash bulk over ours, 4 M | table-4M | - | /ratios/positive/rte_hash~1ours >= 3.5 ×
rte_hash bulk over ours, 64 M | table-64M | - | /ratios/positive/rte_hash~1ours >= 3.5 ×
hashbrown over ours, 4 M | table-4M | - | /ratios/positive/hashbrown~1ours >= 2.5 ×
hashbrown over ours, 64 M | table-64M | - | /ratios/positive/hashbrown~1ours >= 2.5 ×
look-up, 4 M, negative; over the bound | table-4M | /ns_per_lookup/negative/ours <= 13 ns | \
/ratios/negative/ours~1bound <= 1.15 ×
look-up, 64 M, negative; over the bound | table-64M | /ns_per_lookup/negative/ours <= 13 ns | \
/ratios/negative/ours~1bound <= 1.15 ×
new flows; rte_hash add over ours | table-4M | /updates/inserts_m_per_s >= 20 M/s | /updates/insert_ratio >= \
6 ×
steady churn | table-4M | /updates/churn_m_per_s >= 12 M/s | -
memory, IPv4, load 0.8 | memory | /ipv4/bytes_per_flow <= 16 bytes a flow | -
memory, IPv4, 64 M flows | memory | /ipv4/gib <= 1.05 GiB | -
memory, IPv6, load 0.8 | memory | /ipv6/bytes_per_flow <= 32 bytes a flow | -
Maglev build, 65537 slots, 1000 backends; naive over ours | maglev-65537 | /build_ms <= 0.5 ms | \
/naive_to_ours >= 4 ×
Maglev build, 655373 slots, 1000 backends; naive over ours | maglev-655373 | /build_ms <= 8 ms | \
/naive_to_ours >= 3.5 ×
two processes over vhost-user, 64 bytes, without loss; over testpmd macswap | ndr | /sizes/0/of/0/ndr_mpps \
>= 8 Mpps | /sizes/0/ndr_ratio >= 0.9 ×
residence at 80 % load, median | residence | /corrected_ns/p50 <= 800 ns | -
residence at 80 % load, 99 % | residence | /corrected_ns/p99 <= 2000 ns | -
residence at 80 % load, 99.9 % | residence | /corrected_ns/p99_9 <= 5000 ns | -
echo over vhost-user at 50 %, median, over testpmd macswap | ndr | - | /echo/loads/1/ratios/p50 <= 1.1 ×
echo over vhost-user at 50 %, 99 %, over testpmd macswap | ndr | - | /echo/loads/1/ratios/p99 <= 1.25 ×
echo over vhost-user at 50 %, 99.9 %, over testpmd macswap | ndr | - | /echo/loads/1/ratios/p99_9 <= 1.5 ×
echo over vhost-user at 80 %, median, over testpmd macswap | ndr | - | /echo/loads/2/ratios/p50 <= 1.1 ×
echo over vhost-user at 80 %, 99 %, over testpmd macswap | ndr | - | /echo/loads/2/ratios/p99 <= 1.25 ×
echo over vhost-user at 80 %, 99.9 %, over testpmd macswap | ndr | - | /echo/loads/2/ratios/p99_9 <= 1.5 ×
50 % SYN flood: share of throughput that established flows lose | flood | - | /mixes/1/established_loss <= \
0.25
50 % SYN flood: established entries lost | flood | /entries_lost <= 0 entries | -
half load beside 1 Mpps for the kernel: share of it that leaves | punt | - | /sent_share >= 0.95
two workers over the sum of each alone | scale | - | /efficiency >= 0.97 ×
ring hand-off at burst 32; over rte_ring SP/SC | ring | /ours_ns <= 3 ns | /ours_to_rte_ring <= 0.8 ×
";

/// A number in a measurement's result, and its limit.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Wanted<'a> {
    /// JSON pointer to a number, or to an object with `median`, and `p5` or `low` and `high`.
    at: &'a str,
    at_most: bool,
    limit: f64,
    unit: &'a str,
}

/// One target.
#[derive(Clone, Copy, PartialEq, Debug)]
struct PerfTarget<'a> {
    what: &'a str,
    run: &'a str,
    figure: Option<Wanted<'a>>,
    ratio: Option<Wanted<'a>>,
}

/// How a target stands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct TargetRow {
    pub(super) what: String,
    pub(super) target: String,
    pub(super) reached: String,
    pub(super) interval: String,
    pub(super) rounds: String,
    pub(super) verdict: &'static str,
    /// Of a missed one.
    pub(super) why: String,
}

impl TargetRow {
    /// Whether there is a number that is not good enough.
    pub(super) fn is_missed(&self) -> bool {
        self.verdict.contains("missed")
    }
}

/// What was measured.
#[derive(Clone, PartialEq, Debug)]
struct Reached {
    value: f64,
    interval: String,
}

impl<'a> Wanted<'a> {
    /// `/place <= 3 ns`.
    fn parse(text: &'a str) -> Option<Wanted<'a>> {
        let (at, rest) = text.split_once(' ')?;
        let (sign, rest) = rest.split_once(' ')?;
        let (limit, unit) = rest.split_once(' ').unwrap_or((rest, ""));
        Some(Wanted { at, at_most: sign == "<=", limit: limit.parse().ok()?, unit })
    }

    fn is_met(&self, value: f64) -> bool {
        if self.at_most { value <= self.limit } else { value >= self.limit }
    }

    fn words(&self) -> String {
        let sign = if self.at_most { "≤" } else { "≥" };
        format!("{sign} {} {}", self.limit, self.unit).trim_end().to_owned()
    }

    fn of(&self, result: &Value) -> Option<Reached> {
        let at = result.pointer(self.at)?;
        if let Some(value) = at.as_f64() {
            return Some(Reached { value, interval: "–".into() });
        }
        let of = |name: &str| at.get(name).and_then(Value::as_f64);
        let interval = match (of("low"), of("high"), of("p5")) {
            (Some(low), Some(high), _) => format!("[{low}, {high}]"),
            (_, _, Some(p5)) => format!("p5 {p5}"),
            _ => "–".into(),
        };
        Some(Reached { value: of("median")?, interval })
    }
}

fn targets() -> impl Iterator<Item = PerfTarget<'static>> {
    TARGETS.lines().filter_map(|line| {
        let mut parts = line.split(" | ");
        let (what, run) = (parts.next()?, parts.next()?);
        let (figure, ratio) = (Wanted::parse(parts.next()?), Wanted::parse(parts.next()?));
        Some(PerfTarget { what, run, figure, ratio })
    })
}

/// The measurements that the targets need.
#[cfg(test)]
pub(super) fn runs() -> impl Iterator<Item = String> {
    targets().map(|target| target.run.to_owned())
}

/// All targets.
pub(super) fn rows(results: &Value) -> Vec<TargetRow> {
    targets().map(|target| row(&target, results.pointer(&format!("/runs/{}", target.run)))).collect()
}

/// Reasons that stand in the code for rows that are not missed any more: to be removed.
pub(super) fn stale_reasons(rows: &[TargetRow]) -> Vec<&'static str> {
    let met = |what: &str| rows.iter().any(|row| row.what == what && row.verdict == "met");
    reasons::ALL.iter().map(|(what, _)| *what).filter(|what| met(what)).collect()
}

fn row(target: &PerfTarget<'_>, run: Option<&Value>) -> TargetRow {
    let wanted: Vec<Wanted<'_>> = target.figure.into_iter().chain(target.ratio).collect();
    let join = |words: Vec<String>| words.join("; ");
    let mut row = TargetRow {
        what: target.what.to_owned(),
        target: join(wanted.iter().map(Wanted::words).collect()),
        reached: "–".to_owned(),
        interval: "–".to_owned(),
        rounds: "–".to_owned(),
        verdict: "not measured",
        why: String::new(),
    };
    let Some(run) = run else { return row };
    let Some(result) = run.get("result") else {
        row.verdict = "failed";
        return row;
    };
    // Those of an echo stand beside it, those of most others at the top.
    let conditions = if target.what.starts_with("echo") { result.get("echo") } else { Some(result) };
    let of = |name: &str| conditions.and_then(|of| of.get(name)).and_then(Value::as_u64);
    if let (Some(kept), Some(total)) = (of("rounds_kept"), of("rounds_total")) {
        let is_disturbed = conditions.and_then(|of| of.get("disturbed")) == Some(&Value::Bool(true));
        row.rounds = format!("{kept} of {total}{}", if is_disturbed { ", disturbed" } else { "" });
    }
    let reached: Vec<Option<Reached>> = wanted.iter().map(|wanted| wanted.of(result)).collect();
    let shown = wanted.iter().zip(&reached).map(|(wanted, reached)| match reached {
        Some(reached) => format!("{} {}", reached.value, wanted.unit).trim_end().to_owned(),
        None => "not measured".to_owned(),
    });
    row.reached = join(shown.collect());
    let intervals = reached.iter().map(|of| of.as_ref().map_or("–".to_owned(), |of| of.interval.clone()));
    row.interval = join(intervals.collect());
    let met: Vec<Option<bool>> = wanted
        .iter()
        .zip(&reached)
        .map(|(wanted, reached)| reached.as_ref().map(|reached| wanted.is_met(reached.value)))
        .collect();
    row.verdict = match met.as_slice() {
        // A count of nothing says nothing.
        _ if of("rounds_kept") == Some(0) => "not measured",
        met if met.contains(&None) => "not measured",
        met if met.iter().all(|&met| met == Some(true)) => "met",
        [Some(false), Some(true)] => "ratio met, figure missed",
        [Some(true), Some(false)] => "figure met, ratio missed",
        _ => "missed",
    };
    if row.is_missed() {
        let missed = wanted.iter().zip(&reached).filter_map(|(wanted, reached)| {
            Some((wanted, reached.as_ref().map(|of| of.value)?))
                .filter(|(wanted, value)| !wanted.is_met(*value))
        });
        let distances = missed.map(|(wanted, value)| reasons::distance(wanted, value)).collect();
        row.why = reasons::why(target, join(distances), result);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(what: &str, run: &Value) -> TargetRow {
        let target = targets().find(|target| target.what.starts_with(what)).expect("a target");
        row(&target, Some(run))
    }

    #[test]
    fn every_line_is_a_target() {
        let lines = TARGETS.lines().filter(|line| !line.is_empty()).count();
        assert_eq!(targets().count(), lines);
        for target in targets() {
            assert!(target.figure.is_some() || target.ratio.is_some(), "{}", target.what);
            let words = TARGETS.lines().find(|line| line.starts_with(target.what)).expect("its line");
            let limits = words.matches("<=").count() + words.matches(">=").count();
            assert_eq!(limits, target.figure.into_iter().chain(target.ratio).count(), "{words}");
        }
    }

    #[test]
    fn targets_are_judged() {
        let run = |cost: f64, excess: f64| {
            json!({ "result": {
                "ns_per_packet": { "p5": 1.0, "median": cost },
                "detail": { "excess_ns": { "median": excess, "low": 0.5, "high": 3.0 } },
                "calibration": { "adds_per_tsc": 4.0, "line_ns": 12.0 },
                "rounds_kept": 20, "rounds_total": 30,
            } })
        };
        let engine = |cost, excess| of("engine, 1 M", &run(cost, excess));
        let met = engine(17.0, 1.5);
        assert_eq!((met.reached.as_str(), met.verdict, met.why.as_str()), ("17 ns; 1.5 ns", "met", ""));
        assert_eq!((met.interval.as_str(), met.rounds.as_str()), ("p5 1; [0.5, 3]", "20 of 30"));
        assert_eq!(engine(17.0, 2.5).verdict, "figure met, ratio missed");
        assert_eq!(engine(19.0, 2.5).verdict, "missed");
        let mut unquiet = run(17.0, 1.5);
        unquiet["result"]["disturbed"] = json!(true);
        assert_eq!(of("engine, 1 M", &unquiet).rounds, "20 of 30, disturbed");
        let slow = engine(36.0, 1.5);
        assert_eq!(slow.verdict, "ratio met, figure missed");
        assert!(slow.why.contains("2.00 times") && slow.why.contains("4 adds"), "{}", slow.why);
        let not =
            json!({ "result": { "ns_per_packet": "not measured", "rounds_kept": 2, "rounds_total": 30 } });
        assert_eq!(of("engine, 1 M", &not).verdict, "not measured");
        let none = json!({ "result": { "entries_lost": 0, "rounds_kept": 0, "rounds_total": 30 } });
        assert_eq!(of("50 % SYN flood: established", &none).verdict, "not measured");
        assert_eq!(of("engine, 1 M", &json!({ "failure": "no memory" })).verdict, "failed");
        let echo = json!({ "result": { "echo": {
            "loads": [{}, { "ratios": { "p50": { "median": 1.0, "low": 0.9, "high": 1.1 } } }],
            "rounds_kept": 3, "rounds_total": 4,
        } } });
        let echo = of("echo over vhost-user at 50 %, median", &echo);
        assert_eq!((echo.verdict, echo.rounds.as_str()), ("met", "3 of 4"));
    }

    #[test]
    fn reasons_name_targets_and_only_missed_ones_are_shown() {
        for (what, _) in reasons::ALL {
            assert!(targets().any(|target| target.what == *what), "{what} is no target");
        }
        let met: Vec<TargetRow> = targets()
            .map(|of| TargetRow { what: of.what.into(), verdict: "met", ..TargetRow::default() })
            .collect();
        assert_eq!(stale_reasons(&met).len(), reasons::ALL.len());
        assert!(stale_reasons(&rows(&json!({}))).is_empty());
    }
}
