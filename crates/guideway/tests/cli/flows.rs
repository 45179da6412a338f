//! `guideway flows` against a daemon of fixed answers.

use crate::daemon::Daemon;
use crate::{code, stderr, stdout};
use std::io::Write;
use std::process::Stdio;

const DESCRIBED: &str = r#"{"service":"web6","protocol":"tcp","client":"[2001:db8::7]:4000","to":"[2001:db8::10]:80","slot":17,
    "slot_backend":"b1","tracked":true,"tainted":false,"base":null,"records":[],
    "entries":[{"core":1,"backend":"b1","backend_address":"10.0.2.21","state":"tcp_established","idle_ms":1500}]}"#;

fn flow(port: u16) -> String {
    format!(
        r#"{{"core":0,"service":"web","client":"198.51.100.7:{port}","to":"203.0.113.10:80","backend":"b1","state":"udp","idle_us":7}}"#
    )
}

/// The first line of a request, and its body.
fn parts(request: &str) -> (&str, &str) {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap(), body)
}

#[test]
fn a_flow_is_described_and_forgotten() {
    let gone = r#"{"service":"web","client":"198.51.100.7:4000","to":"203.0.113.10:80","forgotten":[]}"#;
    let daemon = Daemon::answering(&[("200 OK", DESCRIBED), ("200 OK", DESCRIBED), ("200 OK", gone)]);
    let output = daemon.run(&["flows", "describe", "web6", "--client", "[2001:db8::7]:4000"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.contains("slot 17: new flows go to b1") && text.contains("tcp_established"), "{text}");
    let to = ["--to", "[2001:db8::10]:80", "--json"];
    let output =
        daemon.run(&[&["flows", "describe", "web6", "--client", "[2001:db8::7]:4000"], &to[..]].concat());
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(json["entries"][0]["backend"], "b1");
    let output = daemon.run(&["flows", "forget", "web", "--client", "198.51.100.7:4000"]);
    assert!(stdout(&output).contains("no worker had an entry"), "{}", stdout(&output));
    let asked = daemon.asked();
    let client = "client=%5B2001%3Adb8%3A%3A7%5D%3A4000";
    assert_eq!(parts(&asked[0]).0, format!("GET /v1/flows/describe?service=web6&{client} HTTP/1.1"));
    assert!(parts(&asked[1]).0.contains("&to=%5B2001%3Adb8%3A%3A10%5D%3A80 "), "{}", asked[1]);
    assert!(parts(&asked[2]).0.starts_with("POST /v1/flows/forget?service=web&client=198.51.100.7%3A4000 "));

    let refusal = r#"{"error":"worker 1 did not answer within 1 s","help":"see guideway show workers"}"#;
    let daemon = Daemon::answering(&[("503 Service Unavailable", refusal)]);
    let output = daemon.run(&["flows", "describe", "web", "--client", "198.51.100.7:4000"]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("worker 1 did not answer within 1 s"), "{}", stderr(&output));
}

#[test]
fn a_dump_is_written_piece_by_piece() {
    let first = format!(r#"{{"flows":[{},{}],"next":"0.2048"}}"#, flow(1), flow(2));
    let last = format!(r#"{{"flows":[{}],"next":null}}"#, flow(3));
    let expected = format!("{}\n{}\n{}\n", flow(1), flow(2), flow(3));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("flows.jsonl");
    let file = file.to_str().unwrap();
    for (target, service) in [("-", None), (file, Some("web"))] {
        let daemon = Daemon::answering(&[("200 OK", &first), ("200 OK", &last)]);
        let mut arguments = vec!["flows", "dump", "-w", target];
        arguments.extend(service.iter().flat_map(|service| ["--service", service]));
        let output = daemon.run(&arguments);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        if target == "-" {
            assert_eq!(stdout(&output), expected);
        } else {
            assert_eq!(std::fs::read_to_string(file).unwrap(), expected);
            assert!(stdout(&output).contains("3 flows"), "{}", stdout(&output));
        }
        let asked = daemon.asked();
        let of = service.map_or(String::new(), |service| format!("&service={service}"));
        assert_eq!(parts(&asked[0]).0, format!("GET /v1/flows/dump?cursor={of} HTTP/1.1"));
        assert_eq!(parts(&asked[1]).0, format!("GET /v1/flows/dump?cursor=0.2048{of} HTTP/1.1"));
    }
    // Nobody answers as it should: the file from before is not lost.
    let daemon = Daemon::answering(&[("503 Service Unavailable", r#"{"error":"stopping","help":""}"#)]);
    assert_eq!(code(&daemon.run(&["flows", "dump", "-w", file])), 1);
    assert_eq!(std::fs::read_to_string(file).unwrap(), expected);
}

#[test]
fn lines_that_are_refused_have_their_numbers_of_the_file() {
    let answer = |restored: u64, lines: &[u64]| {
        let refusals = lines.iter().map(|line| format!(r#"{{"line":{line},"reason":"no backend"}}"#));
        let refusals = refusals.collect::<Vec<_>>().join(",");
        format!(r#"{{"restored":{restored},"refused":{},"refusals":[{refusals}]}}"#, lines.len())
    };
    // A batch has 4096 lines.
    let answers = [answer(4094, &[7]), answer(3, &[2])];
    let daemon = Daemon::answering(&[("200 OK", &answers[0]), ("200 OK", &answers[1])]);
    let mut lines: Vec<String> = (0..4100).map(flow).collect();
    lines[2] = "x".repeat(5000);
    let mut child = daemon
        .command(&["flows", "restore", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.join("\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 1, "not all of them fit");
    assert_eq!(stdout(&output), "4,097 flows restored, 3 lines refused\n", "{}", stderr(&output));
    assert_eq!(
        stderr(&output),
        "warning: line 3: longer than 1024 bytes\nwarning: line 7: no backend\nwarning: line 4098: no backend\n"
    );
    let asked = daemon.asked();
    let (line, body) = parts(&asked[0]);
    assert_eq!(line, "POST /v1/flows/restore HTTP/1.1");
    assert!(asked[0].contains("content-type: application/x-ndjson"), "{line}");
    let sent: Vec<&str> = body.lines().collect();
    assert_eq!((sent.len(), sent[2], sent[3]), (4096, "", lines[3].as_str()));
    assert_eq!(parts(&asked[1]).1.lines().count(), 4);

    let daemon = Daemon::answering(&[("200 OK", &answer(1, &[]))]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("flows.jsonl");
    std::fs::write(&file, flow(1)).unwrap();
    let output = daemon.run(&["flows", "restore", file.to_str().unwrap(), "--json"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains("\"restored\": 1"), "{}", stdout(&output));
    let output = daemon.run(&["flows", "restore", "/nonexistent/flows.jsonl"]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("cannot read /nonexistent/flows.jsonl"), "{}", stderr(&output));
}
