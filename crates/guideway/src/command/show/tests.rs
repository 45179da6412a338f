use super::*;
use serde_json::json;

#[test]
fn backends_say_by_whose_word() {
    let list: Vec<BackendStatus> = serde_json::from_value(json!([
        {"service": "web", "name": "b1", "id": 1, "address": "10.0.2.21", "weight": 1, "state": "up", "word": "health",
         "since_unix_ms": 1000, "next_hop": "02:00:00:00:00:21", "port": "data0", "packets": 12345, "bytes": 1,
         "flows_new": 7, "flows": 3, "path_mtu": 1400, "health": {"up": true, "last": {"passed": true, "reason": "ok", "duration_us": 1,
         "unix_ms": 1}, "passed": 1, "failed": 0, "consecutive": 1, "transitions": 0, "held_down_ms": 0}},
        {"service": "web", "name": "b2", "id": 2, "address": "fd00:2::22", "weight": 0, "state": "drain", "word": "drain",
         "since_unix_ms": 61_000, "packets": 0, "bytes": 0, "flows_new": 0, "flows": 0}
    ]))
    .unwrap();
    insta::assert_snapshot!(backends_at(&list, 91_000));
}

#[test]
fn services_name_any_port() {
    let list: Vec<ServiceStatus> = serde_json::from_value(json!([
        {"name": "all", "id": 1, "vip": "203.0.113.0/28", "port": 0, "protocol": "udp", "mode": "gue", "state": "panic",
         "health": "udp", "announced": false, "backends_up": 1, "backends_total": 4, "maglev_size": 65537,
         "packets": 1_000_000, "bytes": 1, "flows_new": 10, "flows": 5, "no_backend": 0}
    ]))
    .unwrap();
    insta::assert_snapshot!(services(&list));
    let mut stateless = list;
    stateless[0].tracking = "exceptions".into();
    stateless[0].tainted_slots = 1234;
    assert!(services(&stateless).contains("1,234"), "{}", services(&stateless));
}

#[test]
fn drops_that_never_occurred_are_left_out_unless_asked_for() {
    let drop = |reason: &str, count| DropCount { reason: reason.into(), help: "Why.".into(), count };
    let list = [drop("bad_ipv4", 0), drop("no_service", 1234)];
    assert_eq!(drops(&list, false), "REASON      FRAMES  MEANING\nno_service   1,234  Why.\n");
    assert!(drops(&list, true).contains("bad_ipv4"));
    assert_eq!(sources(&[]), "", "nobody, nothing");
    let busiest = [SourceRate { source: "192.0.2.7".into(), per_second: 30_000 }];
    let named = sources(&busiest);
    assert!(named.ends_with("FROM       ABOUT PER S\n192.0.2.7       30,000\n"), "{named}");
}

#[test]
fn flows_say_when_there_are_more() {
    let answer: Flows = serde_json::from_value(json!({"truncated": true, "flows": [
        {"core": 0, "service": "web6", "protocol": "tcp", "client": "2001:db8::7", "client_port": 4000, "vip": "2001:db8::10",
         "port": 80, "backend": "b1", "state": "tcp_established", "idle_ms": 1500}]}))
    .unwrap();
    let text = flows(&answer);
    assert!(text.contains("[2001:db8::7]:4000") && text.contains("there are more"), "{text}");
}

#[test]
fn a_cluster_says_who_is_there_and_who_is_waited_for() {
    let mut status: ClusterStatus = serde_json::from_value(json!({
        "machine": "lb1", "joined": true, "store_reached": true, "store_since_unix_ms": 1000, "leader": "lb2", "step": 21,
        "step_done": 21, "epoch": 3, "generation": 7, "phase": "prepare", "settled": false, "waiting_for": ["lb3"],
        "tainted_slots": 1234, "masked": ["web/b2"], "relays_a_second": 1, "relays_at_once": 1,
        "counters": [], "members": [
            {"name": "lb1", "machine": 0, "incarnation": 1, "address": "10.0.2.11", "state": "member", "step_done": 21,
             "suspect": false},
            {"name": "lb2", "machine": 1, "incarnation": 4, "address": "10.0.2.12", "state": "member", "step_done": 21,
             "suspect": false, "next_hop": "02:00:00:00:00:12"},
            {"name": "lb3", "machine": 2, "incarnation": 2, "state": "lost", "suspect": true}
        ]
    }))
    .unwrap();
    insta::assert_snapshot!("cluster", cluster_at(&status, 91_000));
    status.misfit = Some("machine number 0 is used by \"x\"".into());
    let text = cluster_at(&status, 91_000);
    assert!(text.contains("\nnot ready: machine number 0 is used by \"x\"; until then packets"), "{text}");
    status.misfit = None;
    status.store_problem = Some("tcp connect error".into());
    (status.settled, status.joined) = (true, false);
    let text = cluster_at(&status, 91_000);
    for words in ["not reached for 1m 30s: tcp connect error; packets are forwarded", "has not joined"] {
        assert!(text.contains(words), "{words} in {text}");
    }
}

#[test]
fn owners_and_exceptions_are_tables() {
    let list: Vec<OwnerStatus> = serde_json::from_value(json!([
        {"service": "web", "machine": "lb1", "primary": 134, "backup": 117, "primary_tainted": 3}
    ]))
    .unwrap();
    assert_eq!(
        owners(&list),
        "SERVICE  MACHINE  SLOTS  AS BACKUP  TAINTED\nweb      lb1        134        117        3\n"
    );
    let list: Vec<ExceptionStatus> = serde_json::from_value(json!([
        {"service": "web", "slots": 251, "tainted": 9, "base": "web/b1", "of_base": 9, "flows": 1000},
        {"service": "dns", "slots": 251, "tainted": 0, "of_base": 0, "flows": 0}
    ]))
    .unwrap();
    let text = exceptions(&list);
    assert!(text.contains("web/b1") && text.contains("1,000") && text.lines().count() == 3, "{text}");
}

#[test]
fn registrations_say_whose_they_are_and_why() {
    let list: Vec<RegistrationStatus> = serde_json::from_value(json!([
        {"service": "web", "backend": "w1", "address": "10.1.0.1", "registered": true, "agent": "host1", "incarnation": 5,
         "weight": 2, "state": "up", "since_unix_ms": 1000, "up": true, "reason": "ok", "in_force": true, "own_failures": 0},
        {"service": "web", "backend": "w2", "address": "10.1.0.2", "registered": true, "agent": "host2", "incarnation": 5,
         "weight": 1, "state": "suspect", "since_unix_ms": 89_000, "up": true, "reason": "refused", "in_force": true,
         "suspected": "nothing was heard of the agent for 3000 ms", "own_failures": 2},
        {"service": "web", "backend": "b1", "address": "10.1.0.3", "registered": false, "agent": "host3", "state": "down",
         "since_unix_ms": 61_000, "up": false, "reason": "timeout", "in_force": true, "own_failures": 0}
    ]))
    .unwrap();
    let text = registrations_at(&list, 91_000);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1], ["web", "w1", "10.1.0.1", "host1", "2", "up", "1m", "30s", "yes", "ok"]);
    assert_eq!(lines[2][..8], ["web", "w2", "10.1.0.2", "host2", "1", "suspect", "2s", "yes"]);
    assert!(
        text.contains("nothing was heard of the agent for 3000 ms; 2 own checks failed: refused"),
        "{text}"
    );
    assert_eq!(lines[3], ["web", "b1", "10.1.0.3", "host3", "config", "down", "30s", "yes", "timeout"]);
}

#[test]
fn agents_say_how_long_they_are_silent() {
    let list: Vec<AgentStatus> = serde_json::from_value(json!([
        {"name": "host1", "incarnation": 7, "peer": "10.1.0.1:40000", "addresses": ["10.1.0.1"], "services": ["db", "web"],
         "since_unix_ms": 1000, "silent_ms": 2100, "lease_ms": 3000, "registered": 1, "checks": 2}
    ]))
    .unwrap();
    let text = agents_at(&list, 91_000);
    let line: Vec<&str> = text.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!(line, ["host1", "10.1.0.1:40000", "db,web", "1", "2", "1m", "30s", "2s"]);
}

#[test]
fn backends_name_the_agent_whose_word_it_is() {
    let mut list: Vec<BackendStatus> = serde_json::from_value(json!([
        {"service": "web", "name": "w1", "id": 1, "address": "10.1.0.1", "weight": 1, "state": "up", "word": "agent",
         "since_unix_ms": 1000, "agent": "host1", "registered": true, "packets": 1, "bytes": 1, "flows_new": 7, "flows": 3}
    ]))
    .unwrap();
    assert!(backends_at(&list, 91_000).contains("agent host1"));
    list[0].word = Word::Lease;
    assert!(backends_at(&list, 91_000).contains("lease host1"));
    list[0].suspect_since_unix_ms = Some(79_000);
    list[0].reason = Some("suspect, its clients' handshakes fail: 12 % where the pool has 97 %".to_owned());
    assert!(backends_at(&list, 91_000).contains("12 % where the pool has 97 %; suspect for 12s"));
}
