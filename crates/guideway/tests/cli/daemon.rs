//! Commands that talk to a daemon: what they make of its answers.

use crate::{code, stderr, stdout};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A daemon of fixed answers, one a connection, in order; a connection beyond them waits for ever.
pub(crate) struct Daemon {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
}

/// A request as far as it says that it goes.
fn request(stream: &mut UnixStream) -> String {
    let mut text = Vec::new();
    let mut piece = [0; 65_536];
    loop {
        let count = stream.read(&mut piece).unwrap_or(0);
        text.extend_from_slice(&piece[..count]);
        let whole = String::from_utf8_lossy(&text).into_owned();
        let length = |head: &str| -> usize {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            length.map_or(0, |length| length.parse().unwrap())
        };
        if count == 0 || whole.split_once("\r\n\r\n").is_some_and(|(head, body)| body.len() >= length(head)) {
            return whole;
        }
    }
}

impl Daemon {
    pub(crate) fn answering(answers: &[(&str, &str)]) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("lb1.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let answers: Vec<String> = answers
            .iter()
            .map(|(status, body)| {
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            })
            .collect();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for (at, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                heard.lock().unwrap().push(request(&mut stream));
                match answers.get(at) {
                    Some(answer) => stream.write_all(answer.as_bytes()).unwrap(),
                    None => open.push(stream),
                }
            }
        });
        Daemon { _dir: dir, socket, asked }
    }

    /// What it was asked, connection by connection.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_guideway"));
        command.args(arguments).arg("--socket").arg(&self.socket).env("NO_COLOR", "1");
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

fn drained(drained: bool, backends_up: u64) -> String {
    format!(
        r#"{{"service":"web","backend":"b1","drained":{drained},"changed":true,"generation":7,"flows":3,"backends_up":{backends_up}}}"#
    )
}

#[test]
fn draining_the_last_backend_warns() {
    for (verb, is_drained, backends_up, warns) in
        [("drain", true, 0, true), ("drain", true, 1, false), ("undrain", false, 0, false)]
    {
        let body = drained(is_drained, backends_up);
        let daemon = Daemon::answering(&[("200 OK", &body), ("200 OK", &body)]);
        for more in [&[][..], &["--json"]] {
            let output = daemon.run(&[&[verb, "web/b1"], more].concat());
            assert_eq!(code(&output), 0);
            assert!(stdout(&output).contains("b1"));
            let told = stderr(&output);
            assert_eq!(told.starts_with("warning: web has no other backend"), warns, "{verb}: {told}");
            assert!(warns || told.is_empty(), "{told}");
        }
    }
}

#[test]
fn a_follower_ends_with_its_reader() {
    let event = r#"{"id":1,"unix_ms":0,"kind":"start","message":"started"}"#;
    let events = format!(r#"{{"events":[{event}],"last_id":1,"missed":false}}"#);
    for (arguments, answer) in
        [(&["events", "--follow"][..], events.as_str()), (&["show", "workers", "--watch=3600"], "[]")]
    {
        let daemon = Daemon::answering(&[("200 OK", answer)]);
        let mut child = daemon.command(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        reader.read_line(&mut line).unwrap();
        assert!(!line.is_empty());
        drop(reader);
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > Duration::from_secs(8) {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("{arguments:?} goes on without a reader");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(status.code(), Some(0), "{arguments:?}");
    }
}

/// What a machine says of its cluster that has reached the store, or not.
fn cluster(problem: Option<&str>) -> String {
    let problem_field = problem.map_or(String::new(), |text| format!(r#""store_problem":"{text}","#));
    format!(
        r#"{{"machine":"m1","joined":false,"store_reached":{},"store_since_unix_ms":0,{problem_field}
        "step":0,"step_done":0,"epoch":0,"generation":0,"phase":"idle","settled":false,"waiting_for":[],
        "tainted_slots":0,"masked":[],"relays_a_second":1,"relays_at_once":1,"members":[],"counters":[]}}"#,
        problem.is_none()
    )
}

#[test]
fn doctor_and_show_cluster_say_that_the_store_is_not_reached() {
    let ready = r#"{"ready":false,"reason":"no member of the cluster yet"}"#;
    let empty = tempfile::tempdir().unwrap();
    let lost = "http://127.0.0.1:1: connection refused";
    for (status, body, expected) in [
        (
            "200 OK",
            cluster(Some(lost)),
            Some(("warn", "not reached: http://127.0.0.1:1: connection refused")),
        ),
        ("200 OK", cluster(None), Some(("pass", "reached"))),
        ("409 Conflict", r#"{"error":"this machine is in no cluster","help":"x"}"#.to_owned(), None),
    ] {
        let daemon = Daemon::answering(&[("503 Service Unavailable", ready), (status, &body)]);
        let output = daemon.run(&["doctor", "--json", "--root", empty.path().to_str().unwrap()]);
        let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        let checks = report["checks"].as_array().unwrap();
        let find = |name: &str| checks.iter().find(|check| check["check"] == name);
        assert_eq!(find("daemon").unwrap()["grade"], "warn");
        let told =
            find("cluster store").map(|of| (of["grade"].as_str().unwrap(), of["reason"].as_str().unwrap()));
        assert_eq!(told, expected);
    }
    let body = cluster(Some(lost));
    let shown = stdout(&Daemon::answering(&[("200 OK", &body)]).run(&["show", "cluster"]));
    assert!(shown.starts_with("store: not reached for ") && shown.contains(lost), "{shown}");
}
