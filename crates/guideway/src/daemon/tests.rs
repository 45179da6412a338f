use super::{Daemon, only_socket};
use hyper::Method;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::time::Duration;

/// A daemon that gives one fixed answer, and hands back what it was asked.
fn answering(answer: &'static str) -> (tempfile::TempDir, Daemon, std::thread::JoinHandle<String>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lb1.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = vec![0; 4096];
        let n = stream.read(&mut asked).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&asked[..n]).into_owned()
    });
    (dir, Daemon::at(path).unwrap(), thread)
}

fn reply(status: &str, body: &str) -> &'static str {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).leak()
}

#[test]
fn a_good_answer_is_read() {
    let (_dir, daemon, asked) = answering(reply("200 OK", r#"{"ready":true,"reason":"ok","news":1}"#));
    let ready: model::api::Ready = daemon.get("/v1/ready").unwrap();
    assert!(ready.ready);
    assert!(asked.join().unwrap().starts_with("GET /v1/ready HTTP/1.1\r\n"));
}

#[test]
fn a_refusal_gives_the_reason_and_the_places() {
    let body = r#"{"error":"bad configuration","help":"fix it","diagnostics":[{"severity":"error","message":"unknown key","line":3,"column":5,"help":"remove it"}]}"#;
    let (_dir, daemon, asked) = answering(reply("422 Unprocessable Entity", body));
    let failure = daemon.post::<serde_json::Value>("/v1/apply", b"x".to_vec(), Duration::ZERO).unwrap_err();
    assert_eq!(failure.to_string(), "bad configuration\n  3:5: unknown key (remove it)");
    assert!(matches!(failure, crate::failure::Failure::Usage { .. }));
    asked.join().unwrap();
}

#[test]
fn an_answer_that_breaks_off_or_is_not_json_fails() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{",
        "",
        reply("200 OK", "<html>"),
        reply("500 Oops", "x"),
    ] {
        let (_dir, daemon, asked) = answering(answer);
        let failure = daemon.get::<serde_json::Value>("/v1/status").unwrap_err();
        assert!(matches!(failure, crate::failure::Failure::Failed { .. }), "{failure}");
        asked.join().unwrap();
    }
}

#[test]
fn nobody_listening_is_told_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::at(dir.path().join("none.sock")).unwrap();
    let Err(failure) = daemon.ask(Method::GET, "/v1/ready", Vec::new(), Duration::ZERO) else {
        panic!("reached")
    };
    assert!(failure.to_string().contains("cannot reach the daemon"));
    assert!(format!("{failure:?}").contains("systemctl start guideway"));
}

#[test]
fn the_only_socket_is_taken_and_two_are_ambiguous() {
    let dir = tempfile::tempdir().unwrap();
    assert!(only_socket(dir.path()).unwrap_err().to_string().contains("no daemon's socket"));
    std::fs::write(dir.path().join("a.sock"), "").unwrap();
    std::fs::write(dir.path().join("a.pid"), "").unwrap();
    assert!(only_socket(dir.path()).unwrap().ends_with("a.sock"));
    std::fs::write(dir.path().join("b.sock"), "").unwrap();
    assert!(only_socket(dir.path()).unwrap_err().to_string().contains("b.sock"));
}
