//! What is measured.

/// One measurement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Run {
    /// Names it in the results.
    pub(super) name: String,
    /// Arguments of `guideway-bench`.
    pub(super) arguments: Vec<String>,
    /// Seconds after which it is given up.
    pub(super) limit_s: u64,
}

/// All measurements, and the time they may take together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Suite {
    pub(super) runs: Vec<Run>,
    /// No measurement begins later than so many seconds after the first, and none runs on for longer than a little more.
    pub(super) budget_s: u64,
}

/// Sizes of the curves.
const FLOWS: [u64; 7] = [1_000, 10_000, 100_000, 1_000_000, 4_000_000, 16_000_000, 64_000_000];
/// Sizes that the targets name.
const ENGINE_FLOWS_QUICK: [u64; 5] = [1_000, 100_000, 1_000_000, 16_000_000, 64_000_000];
/// Likewise, but for the largest, which take minutes to fill.
const TABLE_FLOWS_QUICK: [u64; 2] = [10_000, 4_000_000];
/// Sizes of the engine with IPv6.
const FLOWS_V6: [u64; 4] = [1_000, 100_000, 1_000_000, 16_000_000];
/// Size at which insertions and churn are timed too, and other keys and loads looked up.
const UPDATES_FLOWS: u64 = 4_000_000;
/// Above this, only the two fastest peers have room beside ours.
const ALL_PEERS_FLOWS_MAX: u64 = 4_000_000;
/// A measurement that takes longer hangs.
const LIMIT_S: u64 = 300;

/// 1000 as 1K, 4000000 as 4M.
pub(super) fn short(flows: u64) -> String {
    match flows {
        0..1_000 => flows.to_string(),
        1_000..1_000_000 => format!("{}K", flows / 1_000),
        _ => format!("{}M", flows / 1_000_000),
    }
}

impl Suite {
    /// The whole suite, or a quick one: fewer sizes and rounds. What the targets need comes first.
    pub(super) fn new(quick: bool) -> Suite {
        let mut suite = Suite { runs: Vec::new(), budget_s: if quick { 330 } else { 1380 } };
        let (engine_flows, table_flows): (&[u64], &[u64]) =
            if quick { (&ENGINE_FLOWS_QUICK, &TABLE_FLOWS_QUICK) } else { (&FLOWS, &FLOWS) };
        let [engine_s, table_s, device_s, other_s] = if quick { [4, 5, 10, 6] } else { [10, 15, 25, 15] };
        for &flows in engine_flows {
            suite.rounds(
                &format!("engine-{}", short(flows)),
                engine_s,
                &format!("engine --flows {flows} --detail"),
            );
        }
        for flows in [1_000, 16_000_000] {
            suite.rounds(&format!("null-{}", short(flows)), device_s, &format!("null --flows {flows}"));
        }
        let exceptions: &[u64] = if quick { &[64_000_000] } else { &[1_000, 64_000_000] };
        for &flows in exceptions {
            let words = format!("engine --flows {flows} --state exceptions --detail");
            suite.rounds(&format!("exceptions-{}", short(flows)), engine_s, &words);
        }
        for &flows in table_flows {
            suite.rounds(&format!("table-{}", short(flows)), table_s, &table_words(flows));
        }
        suite.add("maglev-65537", "maglev --size 65537 --rounds 30");
        suite.add("maglev-655373", "maglev --size 655373 --rounds 30");
        suite.add("memory", "memory --flows 64000000");
        suite.rounds("flood", other_s, "flood");
        suite.rounds("punt", other_s, "punt");
        suite.rounds("residence", other_s, "residence");
        suite.add("ring", "ring --rounds 40");
        suite.rounds("scale", other_s, "scale");
        let sizes = if quick { "64" } else { "64,128,256,512,1024,1280,1518,imix" };
        let repeats = if quick { 2 } else { 3 };
        let trial_ms = if quick { 100 } else { 200 };
        let words = format!(
            "ndr --dut guidewayd,macswap --sizes {sizes} --repeats {repeats} --trial-ms {trial_ms} --limit-s \
             {}",
            device_s * 10
        );
        suite.rounds("ndr", device_s, &words);
        let v6: &[u64] = if quick { &[1_000_000] } else { &FLOWS_V6 };
        for &flows in v6 {
            let words = format!("engine --family v6 --flows {flows} --detail");
            suite.rounds(&format!("engine6-{}", short(flows)), engine_s, &words);
        }
        if quick {
            return suite;
        }
        for mode in ["gre", "gue", "vxlan", "l2"] {
            suite.rounds(
                &format!("engine-{mode}"),
                5,
                &format!("engine --flows 100000 --mode {mode} --detail"),
            );
        }
        for keys in ["zipf", "trace"] {
            let words = format!("engine --flows 16000000 --keys {keys} --detail");
            suite.rounds(&format!("engine-{keys}"), 5, &words);
            suite.few_peers(&format!("table-{keys}"), &format!("--keys {keys}"));
        }
        for load in ["0.5", "0.95"] {
            suite.few_peers(&format!("table-load-{load}"), &format!("--load {load}"));
        }
        suite
    }

    fn add(&mut self, name: &str, words: &str) {
        let arguments = words.split_whitespace().map(str::to_owned).chain(["--json".to_owned()]).collect();
        self.runs.push(Run { name: name.to_owned(), arguments, limit_s: LIMIT_S });
    }

    /// With rounds for so many seconds.
    fn rounds(&mut self, name: &str, seconds: u64, words: &str) {
        self.add(name, &format!("{words} --rounds 100 --seconds {seconds}"));
    }

    /// Look-ups beside the peers of which the targets speak.
    fn few_peers(&mut self, name: &str, words: &str) {
        let words =
            format!("table --flows {UPDATES_FLOWS} --peers rte_hash,hashbrown,hashbrown_prefetch {words}");
        self.rounds(name, 8, &words);
    }
}

fn table_words(flows: u64) -> String {
    let peers = match flows {
        ..=ALL_PEERS_FLOWS_MAX => "rte_hash,hashbrown,hashbrown_prefetch,std,dashmap",
        _ => "rte_hash,hashbrown",
    };
    let updates = if flows == UPDATES_FLOWS { " --updates" } else { "" };
    format!("table --flows {flows} --peers {peers}{updates}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_every_target_has_its_run() {
        for quick in [true, false] {
            let suite = Suite::new(quick);
            let names: BTreeSet<&str> = suite.runs.iter().map(|run| run.name.as_str()).collect();
            assert_eq!(names.len(), suite.runs.len());
            let missing: Vec<String> =
                super::super::targets::runs().filter(|run| !names.contains(run.as_str())).collect();
            let tables = ["table-16M", "table-64M"];
            assert!(missing.iter().all(|run| quick && tables.contains(&run.as_str())), "{missing:?}");
        }
        assert_eq!((short(1_000), short(64_000_000), short(77)), ("1K".into(), "64M".into(), "77".into()));
    }
}
