//! The page: method first, then the machine, then the numbers.

use super::targets;
use serde_json::Value;
use std::fmt::Write;

/// Tables of others beside ours and the bound, in the order of their columns.
pub(super) const TABLES: [&str; 8] =
    ["ours", "ours_one_by_one", "bound", "rte_hash", "hashbrown", "hashbrown_prefetch", "std", "dashmap"];

const METHOD: &str = include_str!("method.md");

/// The whole page.
pub(super) fn write(results: &Value) -> String {
    let mut page = METHOD.to_owned();
    page.push_str("\n## Machine\n\n");
    let of = |name: &str| match results.pointer(&format!("/machine/{name}")) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "unknown".to_owned(),
        Some(other) => other.to_string(),
    };
    // Writing to a string does not fail.
    let _ = writeln!(
        page,
        "{} (family {}, model {}, AVX-512: {}), {} CPUs{}, {} GiB, last-level cache {}; Linux {}; DPDK {}.",
        of("cpu"),
        of("family"),
        of("model"),
        if of("avx512") == "true" { "yes" } else { "no" },
        of("cpus"),
        if of("hypervisor") == "true" { " of a virtual machine" } else { "" },
        of("memory_gib"),
        of("cache"),
        of("kernel"),
        of("dpdk"),
    );
    targets(&mut page, results);
    page.push_str("\n## Cost against flows\n\n![engine](engine.svg)\n\n");
    page.push_str("![positive look-ups](table-positive.svg)\n\n![negative look-ups](table-negative.svg)\n\n");
    page.push_str("![mixed look-ups](table-mixed.svg)\n");
    engines(&mut page, results);
    tables(&mut page, results);
    rates(&mut page, results);
    echoes(&mut page, results);
    times(&mut page, results);
    failures(&mut page, results);
    page
}

/// The targets, and below their table why some are missed: sentences, which no cell has room for.
fn targets(page: &mut String, results: &Value) {
    let (mut rows, mut reasons) = (Vec::new(), String::new());
    for row in targets::rows(results) {
        if !row.why.is_empty() {
            // Writing to a string does not fail.
            let _ = writeln!(reasons, "* **{}**: {}", row.what, row.why);
        }
        rows.push([row.what, row.target, row.reached, row.interval, row.rounds, row.verdict.to_owned()]);
    }
    let columns = ["what", "target", "reached", "interval", "rounds kept", "verdict"];
    table(page, "Targets", &columns, rows.into_iter());
    if !reasons.is_empty() {
        let _ = write!(page, "\nWhy targets are missed:\n\n{reasons}");
    }
}

fn table<const N: usize>(
    page: &mut String,
    title: &str,
    columns: &[&str; N],
    rows: impl Iterator<Item = [String; N]>,
) {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return;
    }
    // Writing to a string does not fail.
    let _ = write!(page, "\n## {title}\n\n| {} |\n|{}\n", columns.join(" | "), "---|".repeat(N));
    for row in rows {
        let _ = writeln!(page, "| {} |", row.join(" | "));
    }
}

fn runs<'a>(results: &'a Value, prefixes: &'a [&str]) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let all = results.get("runs").and_then(Value::as_object);
    all.into_iter().flatten().filter_map(move |(name, run)| {
        let ours = prefixes.iter().any(|prefix| name.starts_with(prefix));
        Some((name, run.get("result")?)).filter(|_| ours)
    })
}

fn number(result: &Value, at: &str) -> String {
    match result.pointer(at) {
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Object(of)) => of.get("median").map_or("–".into(), Value::to_string),
        _ => "–".into(),
    }
}

fn kept(result: &Value) -> String {
    let is_disturbed = result.get("disturbed") == Some(&Value::Bool(true));
    let note = if is_disturbed { ", disturbed" } else { "" };
    format!("{} of {}{note}", number(result, "/rounds_kept"), number(result, "/rounds_total"))
}

fn engines(page: &mut String, results: &Value) {
    let rows = runs(results, &["engine", "exceptions"]).map(|(name, result)| {
        let of = |at: &str| number(result, at);
        [
            name.clone(),
            of("/flows"),
            format!("{} / {}", of("/ns_per_packet/p5"), of("/ns_per_packet")),
            of("/bound_ns"),
            of("/detail/hot_ns"),
            of("/detail/bytes_per_flow"),
            of("/pages"),
            of("/calibration/line_ns"),
            of("/calibration/adds_per_tsc"),
            kept(result),
        ]
    });
    let columns = [
        "run",
        "flows",
        "ns a packet, p5 / median",
        "bound, median",
        "hot, median",
        "bytes a flow",
        "pages",
        "line, ns",
        "adds a cycle",
        "rounds",
    ];
    table(page, "Engine, all runs", &columns, rows);
}

fn tables(page: &mut String, results: &Value) {
    let [a, b, c, d, e, f, g, h] = TABLES;
    for kind in ["positive", "negative", "mixed"] {
        let rows = runs(results, &["table-"]).map(|(name, result)| {
            let of = |at: &str| number(result, at);
            let [a, b, c, d, e, f, g, h] = TABLES.map(|table| of(&format!("/ns_per_lookup/{kind}/{table}")));
            [
                name.clone(),
                of("/flows"),
                of("/keys"),
                of("/load_reached"),
                a,
                b,
                c,
                d,
                e,
                f,
                g,
                h,
                kept(result),
            ]
        });
        let columns = ["run", "flows", "keys", "load", a, b, c, d, e, f, g, h, "rounds"];
        table(page, &format!("Look-ups, {kind}, median ns"), &columns, rows);
    }
}

/// The elements of a list.
fn each<'a>(result: &'a Value, at: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    result.pointer(at).and_then(Value::as_array).into_iter().flatten()
}

fn rates(page: &mut String, results: &Value) {
    let sizes = runs(results, &["ndr"]).flat_map(|(_, result)| each(result, "/sizes"));
    let rows = sizes.flat_map(|size| {
        each(size, "/of").map(move |program| {
            let of = |at: &str| number(program, at);
            let latency = |load: &Value| {
                let of = |at: &str| number(load, &format!("/corrected_ns/{at}"));
                format!("{} / {} / {}", of("p50"), of("p99"), of("p99_9"))
            };
            let latency: Vec<String> = each(program, "/latency").map(latency).collect();
            [
                number(size, "/size"),
                of("/name"),
                of("/offered_mpps"),
                of("/mrr_mpps"),
                of("/ndr_mpps"),
                of("/ndr_raw_mpps"),
                of("/ndr_gbps"),
                latency.join("; "),
            ]
        })
    });
    let columns = [
        "bytes",
        "program",
        "most offered, Mpps",
        "of it back, Mpps",
        "without loss, Mpps",
        "with gaps, Mpps",
        "Gbit/s",
        "p50 / p99 / p99.9, corrected, ns, at 10; 50; 90 %",
    ];
    table(page, "Two processes over vhost-user", &columns, rows);
}

fn echoes(page: &mut String, results: &Value) {
    let loads = runs(results, &["ndr"]).flat_map(|(_, result)| each(result, "/echo/loads"));
    let rows = loads.flat_map(|load| {
        each(load, "/of").map(move |program| {
            let quantiles = |of: &str| {
                ["p50", "p99", "p99_9"].map(|q| number(program, &format!("/{of}/{q}"))).join(" / ")
            };
            [
                format!("{} ({} %)", number(load, "/mpps"), number(load, "/load_percent")),
                number(program, "/name"),
                quantiles("corrected_ns"),
                quantiles("raw_ns"),
                number(program, "/removed"),
                number(program, "/lost"),
            ]
        })
    });
    let columns = [
        "Mpps (of the lowest rate without loss)",
        "program",
        "p50 / p99 / p99.9, corrected, ns",
        "raw, ns",
        "windows left out",
        "lost",
    ];
    table(page, "Echo at the same rates", &columns, rows);
}

fn times(page: &mut String, results: &Value) {
    let rows = runs(results, &["residence"]).flat_map(|(_, result)| {
        ["corrected_ns", "raw_ns"].map(|which| {
            let of = |at: &str| number(result, &format!("/{which}/{at}"));
            let name = if which == "raw_ns" { "as measured" } else { "without gaps" };
            [name.to_owned(), of("p50"), of("p90"), of("p99"), of("p99_9"), of("max"), kept(result)]
        })
    });
    let columns = ["", "p50, ns", "p90, ns", "p99, ns", "p99.9, ns", "longest, ns", "rounds"];
    table(page, "Residence in the engine at 80 % load", &columns, rows);
    let mixes = runs(results, &["flood"]).flat_map(|(_, result)| each(result, "/mixes"));
    let rows = mixes.map(|mix| {
        [number(mix, "/syn_percent"), number(mix, "/ns_per_packet"), number(mix, "/established_loss")]
    });
    let columns = ["SYNs, %", "ns a packet of either kind", "throughput established flows lose"];
    table(page, "SYN flood", &columns, rows);
}

fn failures(page: &mut String, results: &Value) {
    let all = results.get("runs").and_then(Value::as_object);
    let failed: Vec<(&String, &str)> = all
        .into_iter()
        .flatten()
        .filter_map(|(name, run)| Some((name, run.get("failure")?.as_str()?)))
        .collect();
    if !failed.is_empty() {
        page.push_str("\n## Without a result\n\n");
        for (name, why) in failed {
            let _ = writeln!(page, "* {name}: {}", why.replace('\n', " "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn method_comes_before_numbers() {
        let results = json!({
            "machine": { "cpu": "A CPU", "cpus": 2 },
            "runs": {
                "engine-1K": { "result": {
                    "flows": 1000, "ns_per_packet": { "p5": 7.5, "median": 8.0 }, "rounds_kept": 9, "rounds_total": 10,
                } },
                "flood": { "failure": "no\nmemory" },
                "ndr": { "result": { "sizes": [{ "size": "64", "of": [{ "name": "macswap", "ndr_mpps": 7.0 }] }] } },
            },
        });
        let page = write(&results);
        let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("no {text} in the page"));
        assert!(at("## Method") < at("A CPU") && at("A CPU") < at("## Targets"));
        assert!(page.contains("| engine, 1 K flows, a packet | ≤ 9 ns | 8 ns | p5 7.5 | 9 of 10 | met |\n"));
        assert!(!page.contains("Why targets are missed"), "none is");
        assert!(page.contains("| engine-1K | 1000 | 7.5 / 8.0 |"));
        assert!(page.contains("* flood: no memory"));
        assert!(page.contains("| 64 | macswap | – | – | 7.0 |"));
        assert!(!page.contains("## Echo"), "a table without rows is left out");
    }

    #[test]
    fn why_a_target_is_missed_stands_below_the_table() {
        let run = |median: f64| {
            let figures = json!({ "p5": 11.0, "median": median });
            json!({ "result": { "flows": 1000, "ns_per_packet": figures, "rounds_kept": 9, "rounds_total": 10 } })
        };
        let page = write(&json!({ "runs": { "engine-1K": run(12.0) } }));
        let row = "| engine, 1 K flows, a packet | ≤ 9 ns | 12 ns | p5 11 | 9 of 10 | missed |\n";
        let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("no {text} in {page}"));
        assert!(at(row) < at("* **engine, 1 K flows, a packet**: 1.33 times what is allowed"));
    }
}
