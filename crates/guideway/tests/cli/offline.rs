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

    let output = guideway(&["check", "--schema"]);
    assert_eq!(code(&output), 0);
    assert!(serde_json::from_str::<Value>(&stdout(&output)).unwrap().is_object());
}

/// 1: a file cannot be read. 2: it was read, and is refused. Asked for JSON, `check` answers in JSON.
#[test]
fn an_exit_code_has_one_meaning() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let good = config_in(dir.path());
    std::fs::write(path("bad.toml"), CONFIG.replacen("maglev_size = 251", "maglev_size = 252", 1)).unwrap();
    let utf16: Vec<u8> =
        [0xff, 0xfe].into_iter().chain(CONFIG.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    std::fs::write(path("utf16.toml"), utf16).unwrap();
    std::fs::write(path("latin1.toml"), [CONFIG.as_bytes(), b"# caf\xe9\n"].concat()).unwrap();
    std::fs::write(path("long.toml"), "#".repeat(model::TEXT_MAX + 1)).unwrap();
    for (file, expected) in
        [("none.toml", 1), ("", 1), ("bad.toml", 2), ("utf16.toml", 2), ("latin1.toml", 2), ("long.toml", 2)]
    {
        let file = path(file);
        for arguments in [
            &["check", &file][..],
            &["check", "--json", &file],
            &["plan", &file],
            &["plan", &good, "--old", &file],
            &["apply", &file],
            &["show", "services", "--config", &file],
        ] {
            let output = guideway(arguments);
            assert_eq!(code(&output), expected, "{arguments:?}: {}", stderr(&output));
            assert!(!stderr(&output).is_empty(), "{arguments:?}");
        }
        let output = guideway(&["check", "--json", &file]);
        let answer: Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(answer["ok"], false, "{file}");
        let said = answer["diagnostics"][0]["help"].as_str().or(answer["help"].as_str());
        assert!(said.is_some_and(|help| !help.is_empty()), "{answer}");
    }
    let latin1 = guideway(&["check", "--json", &path("latin1.toml")]);
    let answer: Value = serde_json::from_str(&stdout(&latin1)).unwrap();
    let place = &answer["diagnostics"][0];
    assert_eq!(place["line"].as_u64(), Some(CONFIG.lines().count() as u64 + 1));
    assert_eq!(place["column"], 6);
    assert!(stderr(&guideway(&["check", &path("utf16.toml")])).contains("save it as UTF-8"));
}

#[test]
fn of_a_long_line_the_part_around_the_mistake_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("long.toml");
    let long = format!("name = \"lb1\"\nstate_dir = \"{}\" ", "x".repeat(5_000_000));
    std::fs::write(&file, CONFIG.replacen("name = \"lb1\"", &long, 1)).unwrap();
    let output = guideway(&["check", file.to_str().unwrap()]);
    assert_eq!(code(&output), 2);
    assert!(output.stderr.len() < 4000, "{} bytes", output.stderr.len());
    assert!(stderr(&output).contains("long.toml:3:13]"), "{}", stderr(&output));
}

#[test]
fn secrets_that_everyone_may_read_are_told() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "secret\n").unwrap();
    let config = dir.path().join("lb1.toml");
    let api = format!("[api]\nlisten = \"127.0.0.1:8080\"\ntoken_file = {token:?}\n[workers]");
    std::fs::write(&config, CONFIG.replacen("[workers]", &api, 1)).unwrap();
    let chmod = |path: &std::path::Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let checked = || {
        let output = guideway(&["check", "--json", config.to_str().unwrap()]);
        assert_eq!(code(&output), 0);
        let answer: Value = serde_json::from_str(&stdout(&output)).unwrap();
        let of_files = |of: &&Value| of["message"].as_str().unwrap().contains("every user");
        answer["diagnostics"].as_array().unwrap().iter().filter(of_files).cloned().collect::<Vec<_>>()
    };
    let doctor = || {
        let output = guideway(&["doctor", "--json", "--config", config.to_str().unwrap()]);
        let answer: Value = serde_json::from_str(&stdout(&output)).unwrap();
        let of_config = |check: &&Value| {
            check["reason"].as_str().unwrap().contains("every user") && check["grade"] == "warn"
        };
        answer["checks"].as_array().unwrap().iter().filter(of_config).cloned().collect::<Vec<_>>()
    };
    chmod(&config, 0o640);
    chmod(&token, 0o644);
    let told = checked();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0]["message"].as_str().unwrap().starts_with("api.token_file: every user"), "{told:?}");
    let line = std::fs::read_to_string(&config)
        .unwrap()
        .lines()
        .position(|line| line.starts_with("token_file"))
        .unwrap();
    assert_eq!(told[0]["line"].as_u64(), Some(line as u64 + 1));
    assert!(doctor().iter().any(|of| of["reason"].as_str().unwrap().contains("api.token_file")));
    chmod(&token, 0o640);
    assert!(checked().is_empty() && doctor().is_empty());
    // The configuration has the cluster's key.
    chmod(&config, 0o644);
    let told = doctor();
    assert!(told.len() == 1 && told[0]["reason"].as_str().unwrap().contains("the cluster's key"), "{told:?}");
    chmod(&token, 0o604);
    let output = guideway(&["check", config.to_str().unwrap()]);
    assert!(stderr(&output).contains("chmod o= "), "{}", stderr(&output));
}

#[test]
fn a_replay_needs_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    crate::frames::write(&dir.path().join("in.pcap"), &[]);
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/replay.toml");
    let output =
        guideway(&["replay", "--config", config, "--in", &path("in.pcap"), "--out", &path("out.pcap")]);
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
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
