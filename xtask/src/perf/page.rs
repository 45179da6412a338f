//! The page: method first, then the machine, then the numbers.

use super::gates;
use serde_json::Value;
use std::fmt::Write;

const METHOD: &str = "\
# Performance

Written by `cargo xtask perf` from [results.json](results.json); every number is from the machine described below.

## Method

* One process a measurement, pinned to the last CPU. What is compared runs in **interleaved rounds**: calibrate, every
  contestant once, calibrate. Windows are timed with the time-stamp counter between fences; the cost of reading it is taken off.
* **Calibration**: four independent chains of adds (adds a TSC cycle: what the core gives, less when another tenant runs on the
  sibling thread) and random lines of 128 MiB with 32 in flight (ns a line: what the memory gives). A round is discarded when
  either differs by more than 5 % between its two ends or is more than 8 % off the best of the session. With less than 30 % of the
  rounds kept there is no number.
* **Figures** are medians of all windows kept (p5 in the JSON). **Ratios** are medians of the per-round ratios with a
  bootstrap 95 % interval. Machines differ, and one machine differs from minute to minute: ratios within one run are what is judged.
* **One-line bound**: one random cache line of as much memory as the table takes, on the same kind of pages, 32 prefetched at a time.
  Nothing that must look into memory once is faster.
* The same work for all tables: 8-byte keys, 4-byte values, values summed and the sum compared with what it must be; huge pages
  for all (through DPDK, through mmap, through the C library's tunable); rte_hash asked in bursts of 32 like ours, the maps of Rust key by key.
  Seeds are fixed. Keys are chosen before the window is timed.
* **Engine**: the real turn on frames in memory, parse to encapsulation. Flows are in the table with a backend that the
  Maglev table knows nothing of; each packet must hit and leave for that backend; every 1000th output is taken apart by an independent parser
  and compared bit by bit.
* **Null device**: net_null gives frames of zeros, so a stage behind receive writes headers of real flows; that stage is measured alone in
  every round and taken off. testpmd is kept running with the same burst, buffers and cache, and forwards for 100 ms in each round; its cost
  is the CPU time of its forwarding thread.
";

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
    page.push_str(
        "\n## Targets\n\n| what | target | figure, ratio [95 %] | rounds kept | verdict |\n|---|---|---|---|---|\n",
    );
    for row in gates::rows(results) {
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} |",
            row.what, row.target, row.figure, row.rounds, row.verdict
        );
    }
    page.push_str("\n## Cost against flows\n\n![engine](engine.svg)\n\n");
    page.push_str("![positive look-ups](table-positive.svg)\n\n![negative look-ups](table-negative.svg)\n\n");
    page.push_str("![mixed look-ups](table-mixed.svg)\n");
    engines(&mut page, results);
    tables(&mut page, results);
    failures(&mut page, results);
    page
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

fn engines(page: &mut String, results: &Value) {
    page.push_str(
        "\n## Engine, all runs\n\n| run | flows | ns a packet, p5 / median | bound, median | hot, median | bytes a flow | pages | line, ns | adds a cycle | rounds |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (name, result) in runs(results, &["engine-", "exceptions-"]) {
        let of = |at: &str| number(result, at);
        let _ = writeln!(
            page,
            "| {name} | {} | {} / {} | {} | {} | {} | {} | {} | {} | {} of {} |",
            of("/flows"),
            of("/ns_per_packet/p5"),
            of("/ns_per_packet"),
            of("/bound_ns"),
            of("/detail/hot_ns"),
            of("/detail/bytes_per_flow"),
            of("/pages"),
            of("/calibration/line_ns"),
            of("/calibration/adds_per_tsc"),
            of("/rounds_kept"),
            of("/rounds_total"),
        );
    }
}

fn tables(page: &mut String, results: &Value) {
    const NAMES: [&str; 6] = ["ours", "bound", "rte_hash", "hashbrown", "std", "dashmap"];
    for kind in ["positive", "negative", "mixed"] {
        let _ = write!(
            page,
            "\n## Look-ups, {kind}, median ns\n\n| run | flows | load | {} | rounds |\n|---|---|---|{}---|\n",
            NAMES.join(" | "),
            "---|".repeat(NAMES.len()),
        );
        for (name, result) in runs(results, &["table-"]) {
            let of = |at: &str| number(result, at);
            let cells = NAMES.map(|table| of(&format!("/ns_per_lookup/{kind}/{table}")));
            let _ = writeln!(
                page,
                "| {name} | {} | {} | {} | {} of {} |",
                of("/flows"),
                of("/load_reached"),
                cells.join(" | "),
                of("/rounds_kept"),
                of("/rounds_total"),
            );
        }
    }
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
            },
        });
        let page = write(&results);
        let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("no {text} in the page"));
        assert!(at("## Method") < at("A CPU") && at("A CPU") < at("## Targets"));
        assert!(page.contains("| engine, 1 K flows, a packet | ≤ 9 ns | 8 ns | 9 of 10 | met |"));
        assert!(page.contains("| engine-1K | 1000 | 7.5 / 8.0 |"));
        assert!(page.contains("* flood: no memory"));
    }
}
