//! Revisions, trials, and single services: what is asked of the daemon, and what its answers become.

use crate::daemon::Daemon;
use crate::{CONFIG, code, stderr, stdout};

/// An answer to a change, of revision 7.
fn applied(more: &str) -> String {
    format!(
        r#"{{"generation":9,"revision":7,"acknowledged":true,"duration_ms":3,"warnings":[],"plan":{{}},"saved":true{more}}}"#
    )
}

fn history(first: u64, more: &str) -> String {
    format!(
        r#"{{"revisions":[{{"number":{first},"unix_ms":0,"caller":"uid 0, pid 7","change":"web changed (backend)"}},
        {{"number":1,"unix_ms":0,"caller":"start","change":"the file as it was at the start"}}]{more}}}"#
    )
}

#[test]
fn the_history_is_a_line_for_each_revision() {
    let body = history(2, r#","confirm_within_ms":4200"#);
    let output = Daemon::answering(&[("200 OK", &body)]).run(&["history"]);
    assert_eq!(
        stdout(&output),
        "1970-01-01 00:00:00.000      2  web changed (backend) (by uid 0, pid 7)\n\
         1970-01-01 00:00:00.000      1  the file as it was at the start (by start)\n"
    );
    assert!(stderr(&output).contains("goes back by itself in 5 s"), "{}", stderr(&output));
}

#[test]
fn each_change_is_one_request() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("web.toml");
    std::fs::write(&file, "[[service]]\nname = \"web\"\n").unwrap();
    let file = file.to_str().unwrap();
    for (arguments, begins, body) in [
        (&["rollback", "3"][..], "POST /v1/rollback?revision=3&wait=false&timeout_ms=10000 ", ""),
        (
            &["service", "set", "web", file, "--read-at", "6"],
            "PUT /v1/services/web?wait=false&timeout_ms=10000&revision=6 ",
            "[[service]]\nname = \"web\"\n",
        ),
        (
            &["service", "delete", "a/b", "--wait"],
            "DELETE /v1/services/a%2Fb?wait=true&timeout_ms=10000 ",
            "",
        ),
        (&["service", "release", "web"], "POST /v1/services/web/release?wait=false&timeout_ms=10000 ", ""),
        (
            &["backend", "set", "web/b1", "--weight", "0", "--state", "drain"],
            "PATCH /v1/services/web/backends/b1?wait=false&timeout_ms=10000 ",
            r#"{"weight":0,"state":"drain"}"#,
        ),
        (
            &["backend", "set", "web/b1", "--state", "up"],
            "PATCH /v1/services/web/backends/b1?wait=false&timeout_ms=10000 ",
            r#"{"state":"up"}"#,
        ),
    ] {
        let daemon = Daemon::answering(&[("200 OK", &applied(""))]);
        let output = daemon.run(arguments);
        assert_eq!(code(&output), 0, "{arguments:?}: {}", stderr(&output));
        assert_eq!(
            stdout(&output),
            "applied: revision 7, generation 9 in use by every worker after 3 ms\n",
            "{arguments:?}"
        );
        let asked = daemon.asked();
        assert!(asked[0].starts_with(begins), "{arguments:?}: {}", asked[0]);
        assert_eq!(asked[0].split_once("\r\n\r\n").unwrap().1, body, "{arguments:?}");
    }
    let refused = r#"{"error":"service `web` was changed by revision 8","help":"look again"}"#;
    let output = Daemon::answering(&[("409 Conflict", refused)]).run(&["service", "delete", "web"]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("changed by revision 8") && stderr(&output).contains("look again"));
}

#[test]
fn a_service_that_is_shown_can_be_set() {
    let body = r#"{"name":"web","revision":7,"changed_by":5,"whole":"set","backends":["b1"],"config":"[[service]]\nname = \"web\"\n"}"#;
    let output = Daemon::answering(&[("200 OK", body)]).run(&["service", "show", "web"]);
    let text = stdout(&output);
    assert!(
        text.starts_with("# web, in revision 7: as the API has set it; weight or state by the API: b1\n"),
        "{text}"
    );
    assert!(text.ends_with("\n[[service]]\nname = \"web\"\n"), "{text}");
}

#[test]
fn a_trial_ends_as_somebody_says_or_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("lb1.toml");
    std::fs::write(&config, CONFIG).unwrap();
    let apply = ["apply", config.to_str().unwrap(), "--confirm", "60s"];
    let waits = applied(r#","confirm_within_ms":60000"#);
    let waiting = history(7, r#","confirm_within_ms":59000"#);
    for (then, expected, told) in
        [(history(7, ""), 0, "revision 7 is confirmed"), (history(8, ""), 1, "revision 7 was not confirmed")]
    {
        let daemon = Daemon::answering(&[("200 OK", &waits), ("200 OK", &waiting), ("200 OK", &then)]);
        let output = daemon.run(&apply);
        assert_eq!(code(&output), expected, "{}", stderr(&output));
        assert!(stderr(&output).contains("revision 7 goes back by itself in 60 s"), "{}", stderr(&output));
        assert!(format!("{}{}", stdout(&output), stderr(&output)).contains(told), "{}", stderr(&output));
        let asked = daemon.asked();
        assert!(asked[0].contains("&confirm_ms=60000 "), "{}", asked[0]);
        assert_eq!(asked.len(), 3);
    }
    // What is in force already needs nobody.
    let output = Daemon::answering(&[("200 OK", &applied(""))]).run(&apply);
    assert_eq!(code(&output), 0);
    assert!(stderr(&output).contains("nothing to confirm"), "{}", stderr(&output));

    let body = r#"{"revision":7,"saved":true}"#;
    let daemon = Daemon::answering(&[("200 OK", body), ("200 OK", body)]);
    assert_eq!(stdout(&daemon.run(&["confirm"])), "revision 7 is confirmed\n");
    assert_eq!(code(&daemon.run(&["confirm", "7"])), 0);
    let asked = daemon.asked();
    assert!(asked[0].starts_with("POST /v1/confirm "), "{}", asked[0]);
    assert!(asked[1].starts_with("POST /v1/confirm?revision=7 "), "{}", asked[1]);
}

#[test]
fn a_plan_says_what_of_the_file_is_held_back() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("lb1.toml");
    std::fs::write(&config, CONFIG).unwrap();
    let body = r#"{"warnings":[],"plan":{"services":[],"restart_keys":[],"changed_keys":[],"memory_bytes":0,"memory_before_bytes":0,
        "held":[{"name":"api","whole":"deleted"},{"name":"web","backends":["b1","b2"]}]}}"#;
    let output = Daemon::answering(&[("200 OK", body)]).run(&["plan", config.to_str().unwrap()]);
    let text = stdout(&output);
    assert!(text.contains("service api stays deleted by the API, whatever the file says; back to the file: guideway service release api\n"), "{text}");
    assert!(
        text.contains("service web stays as the file says, but for what the API says of backends (b1, b2); "),
        "{text}"
    );
    assert!(text.ends_with("nothing would change\n"), "{text}");
}
