use crate::{code, config_in, guideway, stderr, stdout};

const COMMANDS: [&str; 23] = [
    "check",
    "plan",
    "apply",
    "reload",
    "history",
    "rollback",
    "confirm",
    "service",
    "backend",
    "show",
    "top",
    "events",
    "drain",
    "undrain",
    "flows",
    "capture",
    "explain",
    "replay",
    "maglev",
    "bench",
    "doctor",
    "completions",
    "man",
];

#[test]
fn help_is_a_success_and_names_the_exit_codes() {
    let output = guideway(&["--help"]);
    assert_eq!(code(&output), 0);
    let text = stdout(&output);
    for command in COMMANDS {
        assert!(text.contains(&format!("\n  {command} ")), "{command} is not in the help");
        for flag in ["-h", "--help"] {
            let output = guideway(&[command, flag]);
            assert_eq!(code(&output), 0, "{command}");
            let text = stdout(&output);
            assert!(text.contains("Usage: guideway") && text.contains("Exit codes:"), "{command}: {text}");
        }
    }
}

#[test]
fn the_helps_text() {
    insta::assert_snapshot!(stdout(&guideway(&["--help"])));
}

#[test]
fn wrong_usage_ends_with_two() {
    for arguments in [
        &[][..],
        &["balance"],
        &["show"],
        &["show", "everything"],
        &["drain", "web"],
        &["flows"],
        &["flows", "describe", "web"],
        &["flows", "describe", "web", "--client", "198.51.100.7"],
        &["flows", "describe", "web", "--client", "2001:db8::7:4000"],
        &["flows", "dump"],
        &["flows", "restore"],
        &["capture"],
        &["apply"],
        &["apply", "lb1.toml", "--confirm", "60"],
        &["apply", "lb1.toml", "--confirm", "2h"],
        &["rollback"],
        &["service", "set", "web"],
        &["backend", "set", "web/b1"],
        &["backend", "set", "web/b1", "--state", "gone"],
        &["--wait"],
    ] {
        let output = guideway(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn without_a_daemon_the_others_end_with_one() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock");
    let socket = socket.to_str().unwrap();
    let config = config_in(dir.path());
    for arguments in [
        &["show", "services", "--json"][..],
        &["show", "flows", "--limit", "5"],
        &["events"],
        &["reload"],
        &["drain", "web/b1"],
        &["undrain", "web/b1"],
        &["flows", "describe", "web", "--client", "[2001:db8::7]:4000"],
        &["flows", "forget", "web", "--client", "198.51.100.7:4000", "--to", "203.0.113.10:80"],
        &["flows", "dump", "-w", "-"],
        &["flows", "restore", &config],
        &["capture", "-w", "-", "--count", "1"],
        &["apply", &config, "--wait"],
        &["plan", &config],
    ] {
        let output = guideway(&[arguments, &["--socket", socket]].concat());
        assert_eq!(code(&output), 1, "{arguments:?}");
        let text = stderr(&output);
        assert!(text.contains("cannot reach the daemon") && text.contains("help:"), "{text}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn the_socket_comes_from_the_configuration_or_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let config = config_in(dir.path());
    let output = guideway(&["show", "services", "--config", &config]);
    assert!(stderr(&output).contains("/run/guideway/lb1.sock"), "{}", stderr(&output));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_guideway"));
    let output = command.args(["show", "services"]).env("GUIDEWAY_SOCKET", "/nowhere.sock").output().unwrap();
    assert!(stderr(&output).contains("/nowhere.sock"));
}

#[test]
fn completions_and_manual_pages() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = guideway(&["completions", shell]);
        assert_eq!(code(&output), 0);
        assert!(stdout(&output).contains("undrain"), "{shell}");
    }
    let output = guideway(&["man"]);
    assert_eq!(code(&output), 0);
    assert!(stdout(&output).starts_with(".ie") || stdout(&output).contains(".TH"));
    let dir = tempfile::tempdir().unwrap();
    let output = guideway(&["man", "--dir", dir.path().join("man1").to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    for page in ["guideway.1", "guideway-replay.1", "guideway-capture.1", "guideway-show-flows.1"] {
        let text = std::fs::read_to_string(dir.path().join("man1").join(page)).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let command = format!("{} completions bash | head -c 1", env!("CARGO_BIN_EXE_guideway"));
    let output =
        std::process::Command::new("bash").args(["-c", &format!("set -o pipefail; {command}")]).output();
    let output = output.unwrap();
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
}
