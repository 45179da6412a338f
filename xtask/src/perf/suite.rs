//! What is measured.

/// One measurement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Run {
    /// Names it in the results.
    pub(super) name: String,
    /// Arguments of `guideway-bench`.
    pub(super) arguments: Vec<String>,
    /// Seconds after which it is given up.
    pub(super) limit_s: u32,
}

/// Sizes of the curves.
const FLOWS: [u64; 7] = [1_000, 10_000, 100_000, 1_000_000, 4_000_000, 16_000_000, 64_000_000];
/// Sizes of the tables of a quick run: those that the targets name, but for the largest.
const TABLE_FLOWS_QUICK: [u64; 3] = [10_000, 1_000_000, 4_000_000];
/// Sizes at which keys by Zipf's law and like a trace are looked up too.
const SPREAD_FLOWS: u64 = 4_000_000;
/// The largest of them.
const FLOWS_MAX: u64 = FLOWS[FLOWS.len() - 1];
/// Size at which insertions and churn are timed too.
const UPDATES_FLOWS: u64 = 4_000_000;
/// Above this, only the two fastest peers have room beside ours.
const ALL_PEERS_FLOWS_MAX: u64 = 16_000_000;

/// 1000 as 1K, 4000000 as 4M.
pub(super) fn short(flows: u64) -> String {
    match flows {
        0..1_000 => flows.to_string(),
        1_000..1_000_000 => format!("{}K", flows / 1_000),
        _ => format!("{}M", flows / 1_000_000),
    }
}

/// All measurements, in order.
pub(super) fn runs(quick: bool) -> Vec<Run> {
    let table_sizes: &[u64] = if quick { &TABLE_FLOWS_QUICK } else { &FLOWS };
    let rounds = if quick { "20" } else { "60" };
    let mut runs = Vec::new();
    let mut run = |name: String, words: &[&str]| {
        let arguments = words.iter().map(|&word| word.to_owned()).collect();
        runs.push(Run { name, arguments, limit_s: 900 });
    };
    for flows in FLOWS {
        let n = flows.to_string();
        run(
            format!("engine-{}", short(flows)),
            &["engine", "--flows", &n, "--rounds", rounds, "--json", "--detail"],
        );
    }
    for flows in [1_000, FLOWS_MAX] {
        let n = flows.to_string();
        run(
            format!("exceptions-{}", short(flows)),
            &["engine", "--flows", &n, "--state", "exceptions", "--rounds", rounds, "--json", "--detail"],
        );
    }
    for mode in ["gre", "gue", "vxlan", "l2"] {
        run(
            format!("engine-{mode}"),
            &["engine", "--flows", "100000", "--mode", mode, "--rounds", "20", "--json", "--detail"],
        );
    }
    for &flows in table_sizes {
        let n = flows.to_string();
        let peers =
            if flows > ALL_PEERS_FLOWS_MAX { "rte_hash,hashbrown" } else { "rte_hash,hashbrown,std,dashmap" };
        let mut words = vec!["table", "--flows", &n, "--rounds", rounds, "--peers", peers, "--json"];
        if flows == UPDATES_FLOWS {
            words.push("--updates");
        }
        run(format!("table-{}", short(flows)), &words);
    }
    let n = SPREAD_FLOWS.to_string();
    for load in ["0.5", "0.95"] {
        run(
            format!("table-load-{load}"),
            &[
                "table",
                "--flows",
                &n,
                "--load",
                load,
                "--rounds",
                rounds,
                "--peers",
                "rte_hash,hashbrown",
                "--json",
            ],
        );
    }
    for keys in ["zipf", "trace"] {
        run(
            format!("table-{keys}"),
            &[
                "table",
                "--flows",
                &n,
                "--keys",
                keys,
                "--rounds",
                rounds,
                "--peers",
                "rte_hash,hashbrown",
                "--json",
            ],
        );
    }
    for flows in [1_000, 16_000_000] {
        let n = flows.to_string();
        run(format!("null-{}", short(flows)), &["null", "--flows", &n, "--rounds", "30", "--json"]);
    }
    let [peer_sizes, our_sizes, trial_ms] = match quick {
        true => ["64", "64", "200"],
        // A tunnel has no room for the largest within an MTU of 1500.
        false => ["64,128,256,512,1024,1280,1518,imix", "64,128,256,512,1024,1280", "1000"],
    };
    for (name, words) in [
        ("maglev-65537", &["maglev", "--size", "65537", "--json"][..]),
        ("maglev-655373", &["maglev", "--size", "655373", "--json"]),
        ("memory", &["memory", "--flows", "64000000", "--json"]),
        ("flood", &["flood", "--json"]),
        ("residence", &["residence", "--json"]),
        ("ring", &["ring", "--json"]),
        ("scale", &["scale", "--json"]),
        (
            "ndr-macswap",
            &["ndr", "--dut", "macswap", "--sizes", peer_sizes, "--trial-ms", trial_ms, "--json"],
        ),
        (
            "ndr-guidewayd",
            &["ndr", "--dut", "guidewayd", "--sizes", our_sizes, "--trial-ms", trial_ms, "--json"],
        ),
    ] {
        run(name.to_owned(), words);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        for quick in [true, false] {
            let runs = runs(quick);
            let names: BTreeSet<&str> = runs.iter().map(|run| run.name.as_str()).collect();
            assert_eq!(names.len(), runs.len());
        }
        assert_eq!((short(1_000), short(64_000_000), short(77)), ("1K".into(), "64M".into(), "77".into()));
    }
}
