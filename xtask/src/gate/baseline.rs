//! The committed counts, and how new ones compare.

use crate::project;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;

/// Where the baseline is, from the root.
pub(super) const PATH: &str = "benches/instructions.json";
/// Tolerance with the compiler the baseline was made with.
const TOLERANCE_PERCENT: f64 = 2.0;
/// Another compiler chooses other instructions; then only gross changes can be seen.
const OTHER_COMPILER_PERCENT: f64 = 20.0;

/// The file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Baseline {
    /// `rustc --version` of the one that built what was counted.
    compiler: String,
    /// Instructions for each frame (for `maglev`: each table) by case.
    instructions: BTreeMap<String, f64>,
    /// Functions that may lock or panic, by a part of their name, with the reason.
    pub(super) exempt: BTreeMap<String, String>,
}

/// How a count compares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Judgement {
    /// Within the tolerance.
    Same,
    /// Below it: good, and worth a new baseline.
    Fewer,
    /// Above it.
    More,
    /// Counted, but not in the baseline.
    New,
    /// In the baseline, but not counted.
    Gone,
}

/// One case.
#[derive(Clone, Debug)]
pub(super) struct CaseLine {
    case: String,
    before: Option<f64>,
    now: Option<f64>,
    pub(super) judgement: Judgement,
}

impl fmt::Display for CaseLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<f64>| n.map_or_else(|| "-".to_owned(), |n| format!("{n:.1}"));
        write!(f, "{:<8} {:>12} -> {:>12}", self.case, number(self.before), number(self.now))?;
        if let (Some(before), Some(now)) = (self.before, self.now) {
            write!(f, " {:>+7.2} %", (now / before - 1.0) * 100.0)?;
        }
        match self.judgement {
            Judgement::Same => Ok(()),
            Judgement::Fewer => write!(f, "  fewer: cargo xtask gate --accept keeps it so"),
            Judgement::More => write!(f, "  MORE"),
            Judgement::New => write!(f, "  NOT IN THE BASELINE"),
            Judgement::Gone => write!(f, "  NOT COUNTED"),
        }
    }
}

impl Baseline {
    pub(super) fn read() -> Result<Baseline, String> {
        let text = std::fs::read_to_string(project::root().join(PATH)).map_err(|e| format!("{PATH}: {e}"))?;
        Baseline::parse(&text).map_err(|e| format!("{PATH}: {e}"))
    }

    fn parse(text: &str) -> Result<Baseline, String> {
        let value: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let object = |name: &str| value[name].as_object().cloned().unwrap_or_default();
        let number = |(case, count): (String, Value)| {
            count
                .as_f64()
                .filter(|n| *n > 0.0)
                .map(|n| (case.clone(), n))
                .ok_or(format!("{case}: not a count"))
        };
        let text_of = |(name, why): (String, Value)| {
            why.as_str().map(|why| (name.clone(), why.to_owned())).ok_or(format!("{name}: no reason given"))
        };
        Ok(Baseline {
            compiler: value["compiler"].as_str().unwrap_or_default().to_owned(),
            instructions: object("instructions").into_iter().map(number).collect::<Result<_, _>>()?,
            exempt: object("exempt").into_iter().map(text_of).collect::<Result<_, _>>()?,
        })
    }

    /// What was counted becomes the baseline; exemptions stay.
    pub(super) fn accepted(
        before: Option<Baseline>,
        counted: &BTreeMap<String, f64>,
        compiler: &str,
    ) -> Baseline {
        Baseline {
            compiler: compiler.to_owned(),
            instructions: counted.clone(),
            exempt: before.map(|b| b.exempt).unwrap_or_default(),
        }
    }

    fn text(&self) -> String {
        let instructions: Map<String, Value> =
            self.instructions.iter().map(|(case, n)| (case.clone(), json!(n))).collect();
        let value = json!({
            "compiler": self.compiler,
            "exempt": self.exempt,
            "instructions": instructions,
        });
        format!("{value:#}\n")
    }

    pub(super) fn write(&self) -> Result<(), String> {
        std::fs::write(project::root().join(PATH), self.text()).map_err(|e| format!("{PATH}: {e}"))
    }

    /// How much more or less is no change.
    pub(super) fn tolerance_percent(&self, compiler: &str) -> f64 {
        if self.compiler == compiler { TOLERANCE_PERCENT } else { OTHER_COMPILER_PERCENT }
    }

    /// Every case of the baseline and of what was counted.
    pub(super) fn judge(&self, counted: &BTreeMap<String, f64>, tolerance_percent: f64) -> Vec<CaseLine> {
        let cases: std::collections::BTreeSet<&String> =
            self.instructions.keys().chain(counted.keys()).collect();
        let line = |case: &String| {
            let (before, now) = (self.instructions.get(case).copied(), counted.get(case).copied());
            let judgement = match (before, now) {
                (None, _) => Judgement::New,
                (_, None) => Judgement::Gone,
                (Some(before), Some(now)) if now > before * (1.0 + tolerance_percent / 100.0) => {
                    Judgement::More
                }
                (Some(before), Some(now)) if now < before * (1.0 - tolerance_percent / 100.0) => {
                    Judgement::Fewer
                }
                _ => Judgement::Same,
            };
            CaseLine { case: case.clone(), before, now, judgement }
        };
        cases.into_iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: &[(&str, f64)]) -> BTreeMap<String, f64> {
        of.iter().map(|&(case, n)| (case.to_owned(), n)).collect()
    }

    #[test]
    fn written_is_read_again() {
        let text = r#"{"compiler":"rustc 1","instructions":{"hot":100.5},"exempt":{"adopt_view":"rare"}}"#;
        let baseline = Baseline::parse(text).unwrap();
        assert_eq!(baseline.exempt["adopt_view"], "rare");
        assert_eq!(Baseline::parse(&baseline.text()).unwrap(), baseline);
        let accepted = Baseline::accepted(Some(baseline), &counts(&[("hot", 90.0)]), "rustc 2");
        assert_eq!((accepted.instructions["hot"], accepted.exempt.len()), (90.0, 1));
        assert!(Baseline::parse("{").is_err());
        assert!(Baseline::parse(r#"{"instructions":{"hot":"many"}}"#).is_err());
        assert!(Baseline::parse(r#"{"exempt":{"f":1}}"#).is_err());
    }

    #[test]
    fn changes_beyond_the_tolerance_are_named() {
        let baseline = Baseline {
            compiler: "rustc 1".into(),
            instructions: counts(&[("a", 100.0), ("b", 100.0), ("c", 100.0), ("d", 100.0)]),
            exempt: BTreeMap::new(),
        };
        let now = counts(&[("a", 101.9), ("b", 102.1), ("c", 97.9), ("e", 1.0)]);
        let judged: Vec<Judgement> =
            baseline.judge(&now, TOLERANCE_PERCENT).iter().map(|line| line.judgement).collect();
        let expected = [Judgement::Same, Judgement::More, Judgement::Fewer, Judgement::Gone, Judgement::New];
        assert_eq!(judged, expected);
        assert!(baseline.tolerance_percent("rustc 1") < baseline.tolerance_percent("rustc 2"));
        let shown = baseline.judge(&now, TOLERANCE_PERCENT)[1].to_string();
        assert!(shown.contains("+2.10 %") && shown.contains("MORE"), "{shown}");
    }
}
