use super::*;
use serde_json::json;

#[test]
fn a_description_says_where_the_flow_is_and_where_it_would_go() {
    let mut of: DescribedFlow = serde_json::from_value(json!({
        "service": "web", "protocol": "tcp", "client": "[2001:db8::7]:4000", "to": "[2001:db8::10]:80", "slot": 17,
        "slot_backend": "b1", "tracked": true, "tainted": true, "base": "b2",
        "entries": [{"core": 3, "backend": "b2", "backend_address": "10.0.2.22", "state": "tcp_established", "idle_ms": 61_000}],
        "records": [{"core": 0, "backend": "b2", "guess": true, "idle_ms": 1000}]
    }))
    .unwrap();
    let text = described_text(&of);
    assert!(
        text.starts_with("web (tcp): [2001:db8::7]:4000 to [2001:db8::10]:80\nslot 17: new flows go to b1\n")
    );
    for words in ["flows without an entry belong to b2", "10.0.2.22", "tcp_established", "1m", "not seen"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    (of.slot_backend, of.tracked, of.tainted, of.base) = (None, false, false, None);
    (of.entries, of.records) = (Vec::new(), Vec::new());
    let text = described_text(&of);
    assert!(text.ends_with(
        "slot 17: nobody takes new flows\nthe slot decides alone: its packets need no entry\nno worker has an entry\n"
    ));
}

#[test]
fn what_is_typed_becomes_a_target() {
    let of = OneFlow {
        service: "a b".to_owned(),
        client: "[2001:db8::7]:4000".parse().unwrap(),
        to: Some("203.0.113.10:80".parse().unwrap()),
        connection: Connection::default(),
        json: false,
    };
    assert_eq!(
        of.target("describe"),
        "/v1/flows/describe?service=a%20b&client=%5B2001%3Adb8%3A%3A7%5D%3A4000&to=203.0.113.10%3A80"
    );
    let without = OneFlow { to: None, ..of };
    assert!(without.target("forget").ends_with("%3A4000"));
}
