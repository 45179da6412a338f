use crate::{code, config_in, frames, guideway, stderr, stdout};
use serde_json::Value;

fn explain(arguments: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let config = config_in(dir.path());
    let output = guideway(&[&["explain", "--config", &config], arguments].concat());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    stdout(&output)
}

#[test]
fn a_syn_step_by_step() {
    insta::assert_snapshot!(explain(&[
        "--src",
        "192.0.2.7",
        "--dst",
        "203.0.113.10",
        "--dport",
        "80",
        "--flags",
        "syn"
    ]));
}

#[test]
fn a_packet_that_does_not_fit() {
    let text = explain(&[
        "--src",
        "192.0.2.7",
        "--dst",
        "203.0.113.10",
        "--dport",
        "80",
        "--length",
        "1500",
        "--flags",
        "ack",
    ]);
    assert!(
        text.contains(
            "1500 + 20 = 1520 bytes; at most 1480 fit inside: answered with \"fragmentation needed\""
        ),
        "{text}"
    );
    assert!(text.contains("dropped as too_big"), "{text}");
    let text = explain(&[
        "--src",
        "192.0.2.7",
        "--dst",
        "203.0.113.10",
        "--dport",
        "53",
        "--protocol",
        "udp",
        "--length",
        "1500",
        "--may-fragment",
    ]);
    assert!(text.contains("cut into fragments"), "{text}");
}

#[test]
fn what_is_not_for_a_service() {
    for (arguments, part) in [
        (&["--src", "192.0.2.7", "--dst", "192.0.2.9", "--dport", "80"][..], "verdict    punted"),
        (&["--src", "192.0.2.7", "--dst", "203.0.113.10", "--dport", "81"], "dropped as no_service"),
        (&["--src", "192.0.2.7", "--dst", "203.0.113.10", "--protocol", "icmp"], "dropped as answered"),
        (&["--src", "127.0.0.1", "--dst", "203.0.113.10", "--dport", "80"], "dropped as bad_source"),
        (&["--src", "192.0.2.7", "--dst", "203.0.113.30", "--dport", "80"], "on_empty = \"reset\""),
        (&["--src", "2001:db8::7", "--dst", "2001:db8::10", "--dport", "80"], "sent to six"),
    ] {
        let text = explain(arguments);
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
}

#[test]
fn a_packet_of_a_capture_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.pcap");
    frames::write(&path, &[frames::arp(), frames::tcp(frames::LOCAL_VIP, 4000, 80, 0)]);
    let path = path.to_str().unwrap();
    let answer: Value = serde_json::from_str(&explain(&["--pcap", path, "--index", "1", "--json"])).unwrap();
    assert_eq!(answer["verdict"]["verdict"], "sent");
    assert_eq!(answer["verdict"]["service"], "local");
    assert_eq!(answer["member"], "near");
    assert!(answer["slot"].is_u64() && answer["hash"].as_str().unwrap().len() == 16);
    assert!(explain(&["--pcap", path]).contains("neither IPv4 nor IPv6"));

    let config = config_in(dir.path());
    let output = guideway(&["explain", "--config", &config, "--pcap", path, "--index", "2"]);
    assert_eq!((code(&output), stderr(&output).contains("the capture has 2")), (2, true));
}

#[test]
fn descriptions_that_make_no_sense() {
    let dir = tempfile::tempdir().unwrap();
    let config = config_in(dir.path());
    for (arguments, part) in [
        (&["--src", "192.0.2.7"][..], "--dst"),
        (&["--src", "192.0.2.7", "--dst", "2001:db8::1", "--dport", "80"], "different families"),
        (&["--src", "192.0.2.7", "--dst", "203.0.113.10"], "--dport is needed"),
        (
            &["--src", "192.0.2.7", "--dst", "203.0.113.10", "--dport", "80", "--length", "39"],
            "shorter than the headers",
        ),
        (
            &[
                "--src",
                "192.0.2.7",
                "--dst",
                "203.0.113.10",
                "--dport",
                "80",
                "--protocol",
                "udp",
                "--flags",
                "syn",
            ],
            "TCP's",
        ),
        (&["--src", "::1", "--dst", "::2", "--dport", "80", "--may-fragment"], "IPv4's"),
        (
            &["--src", "192.0.2.7", "--dst", "203.0.113.10", "--protocol", "icmp", "--dport", "1"],
            "no --dport",
        ),
    ] {
        let output = guideway(&[&["explain", "--config", &config], arguments].concat());
        assert_eq!(code(&output), 2, "{arguments:?}");
        assert!(stderr(&output).contains(part), "{arguments:?}: {}", stderr(&output));
    }
}

/// An ACK to the first service, where the configuration says `to` instead of `from`.
fn explain_edited(from: &str, to: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let config = config_in(dir.path());
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::write(&config, text.replacen(from, to, 1)).unwrap();
    let packet = ["--src", "192.0.2.7", "--dst", "203.0.113.10", "--dport", "80", "--flags", "ack"];
    let output = guideway(&[&["explain", "--config", &config][..], &packet].concat());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    stdout(&output)
}

#[test]
fn a_slot_that_needs_no_flow_table() {
    let port = "port = 80\n";
    assert!(!explain_edited(port, port).contains("without the flow table"));
    let stateless = explain_edited(port, "port = 80\nstate = \"exceptions\"\n");
    assert!(stateless.contains("untainted: steered without the flow table"), "{stateless}");
}

#[test]
fn headers_of_every_mode() {
    for (keys, words) in [
        ("mode = \"ipip\"", "ipip: outer IPv4 header to 10.0.2.22; 20 bytes added"),
        ("mode = \"gre\"", "gre: outer IPv4 and GRE header to 10.0.2.22; 24 bytes added"),
        (
            "mode = \"gue\"\ngue_port = 7",
            "gue: outer IPv4, UDP (port 7) and GUE header to 10.0.2.22; 32 bytes added",
        ),
        (
            "mode = \"vxlan\"\nvni = 9",
            "vxlan: outer IPv4, UDP (port 4789), VXLAN (VNI 9) and inner Ethernet header to 10.0.2.22; 50 bytes added",
        ),
        (
            "mode = \"geneve\"\nvni = 16777215",
            "geneve: outer IPv4, UDP (port 6081), Geneve (VNI 16777215) and inner Ethernet header to 10.0.2.22; 50 bytes added",
        ),
        ("mode = \"l2\"", "l2: only the MAC addresses change, to those of 10.0.2.22; 0 bytes added"),
    ] {
        let text = explain_edited("mode = \"ipip\"", keys);
        assert!(text.contains(&format!("headers    {words}, the inner packet is untouched")), "{text}");
    }
}
