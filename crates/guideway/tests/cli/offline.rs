//! check, plan --old and doctor, which need no daemon.

use crate::{CONFIG, code, config_in, guideway, stderr, stdout};
use serde_json::Value;

#[test]
fn check_tells_good_from_bad() {
    let dir = tempfile::tempdir().unwrap();
    let config = config_in(dir.path());
    let output = guideway(&["check", &config]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(
        stdout(&output).ends_with("lb1.toml: good: 5 services, 7 backends, 1 port, 1 worker\n"),
        "{}",
        stdout(&output)
    );

    let bad = dir.path().join("bad.toml");
    std::fs::write(&bad, CONFIG.replacen("maglev_size = 251", "maglev_size = 252", 1)).unwrap();
    let output = guideway(&["check", bad.to_str().unwrap()]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("bad.toml:26:") && output.stdout.is_empty(), "{}", stderr(&output));
    let output = guideway(&["check", "--json", bad.to_str().unwrap()]);
    assert_eq!(code(&output), 2);
    let answer: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((answer["ok"].as_bool(), answer["diagnostics"][0]["line"].as_u64()), (Some(false), Some(26)));

    assert_eq!(code(&guideway(&["check", dir.path().join("none.toml").to_str().unwrap()])), 2);
    let output = guideway(&["check", "--schema"]);
    assert_eq!(code(&output), 0);
    assert!(serde_json::from_str::<Value>(&stdout(&output)).unwrap().is_object());
}

#[test]
fn plan_says_what_changes() {
    let dir = tempfile::tempdir().unwrap();
    let old = config_in(dir.path());
    let new = dir.path().join("new.toml");
    let third =
        "[[service.backend]]\nname = \"b3\"\naddress = \"10.0.2.23\"\n\n[[service]]\nname = \"local\"";
    std::fs::write(&new, CONFIG.replace("[[service]]\nname = \"local\"", third)).unwrap();
    let new = new.to_str().unwrap();
    let output = guideway(&["plan", new, "--old", &old]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains("b3"), "{}", stdout(&output));
    let output = guideway(&["plan", new, "--old", &old, "--json"]);
    assert!(serde_json::from_str::<Value>(&stdout(&output)).unwrap().is_object());
    let output = guideway(&["plan", &old, "--old", &old]);
    assert_eq!(code(&output), 0);
    assert!(!stdout(&output).contains("b3"), "{}", stdout(&output));
}

#[test]
fn doctor_answers_in_json_with_a_reason_for_each_check() {
    let dir = tempfile::tempdir().unwrap();
    let config = config_in(dir.path());
    let output = guideway(&["doctor", "--json", "--config", &config, "--root", dir.path().to_str().unwrap()]);
    let answer: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let checks = answer["checks"].as_array().unwrap();
    assert!(checks.len() >= 8);
    for check in checks {
        assert!(!check["reason"].as_str().unwrap().is_empty());
        assert_eq!(check["grade"] == "pass", check.get("remedy").is_none(), "{check}");
    }
    let failed = checks.iter().filter(|c| c["grade"] == "fail").count();
    assert_eq!(answer["fail"].as_u64(), Some(failed as u64));
    assert!(failed > 0, "an empty directory has no DPDK");
    assert_eq!(code(&output), 1);
}
