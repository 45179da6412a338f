//! DPDK's own tools attach to a running balancer, and Prometheus understands its metrics.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use guideway_lab::command::run_with;
use guideway_lab::config::Mode;
use guideway_lab::load::http::HttpLoad;
use guideway_lab::scenario::{Variant, wait_up};
use guideway_lab::{Balancer, Lab};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

fn with_balancer(name: &str, test: impl FnOnce(&Lab, &Balancer, Variant)) {
    let lab = Lab::new(name).unwrap();
    let variant = Variant::v4(Mode::Ipip);
    let balancer = lab.start_balancer(1, &variant.config(&lab, 1, &[(1, 1), (2, 1)])).unwrap();
    wait_up(&balancer, "web", &["b1", "b2"]).unwrap();
    test(&lab, &balancer, variant);
    balancer.stop().unwrap();
}

#[test]
fn telemetry_and_proc_info_show_ports_and_our_commands() {
    with_balancer("telemetry", |_, balancer, _| {
        let telemetry = |commands: &str| {
            let argv = ["dpdk-telemetry.py", "-f", balancer.file_prefix()];
            run_with(&argv, &format!("{commands}\nquit\n"), LIMIT).unwrap()
        };
        let list = telemetry("/");
        assert!(list.contains("/ethdev/list"), "{list}");
        let ours: Vec<&str> = list.split('"').filter(|word| word.starts_with("/guideway/")).collect();
        assert!(!ours.is_empty(), "no command of ours: {list}");
        assert!(
            telemetry("/ethdev/list").contains("\"/ethdev/list\": [0, 1]"),
            "data port and exception port"
        );
        for command in ours {
            let answer = telemetry(command);
            assert!(!answer.contains(&format!("\"{command}\": null")), "{command}: {answer}");
        }
        let argv = ["dpdk-proc-info", "--file-prefix", balancer.file_prefix(), "--no-pci", "--", "--stats"];
        let info = run_with(&argv, "", LIMIT).unwrap();
        assert!(info.contains("NIC statistics for port 0"), "{info}");
        assert!(info.contains("NIC statistics for port 1"), "{info}");
    });
}

#[test]
fn dumpcap_captures_what_tcpdump_reads() {
    with_balancer("dumpcap", |lab, balancer, variant| {
        let load = HttpLoad::steady(variant.target().unwrap(), variant.sources(), 200);
        let load = lab.http(load).unwrap();
        let file = lab.dir().join("capture.pcapng").to_string_lossy().into_owned();
        let prefix = format!("--file-prefix={}", balancer.file_prefix());
        run_with(
            &["dpdk-dumpcap", &prefix, "-i", "0", "-c", "100", "-a", "duration:20", "-w", &file],
            "",
            LIMIT,
        )
        .unwrap();
        let report = load.stop().unwrap();
        assert_eq!(report.failed, 0, "capturing disturbed traffic: {:?}", report.failures.first());
        let frames = run_with(&["tcpdump", "-n", "-r", &file], "", LIMIT).unwrap();
        assert!(frames.lines().count() >= 100, "{} frames", frames.lines().count());
        assert!(frames.contains("203.0.113.10.80"), "{}", frames.lines().next().unwrap_or_default());
    });
}

#[test]
fn promtool_accepts_the_metrics() {
    with_balancer("promtool", |_, balancer, _| {
        let answer = balancer.api().request("GET", "/metrics", "").unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.body.contains("guideway_"), "{}", answer.body);
        run_with(&["promtool", "check", "metrics"], &answer.body, LIMIT).unwrap();
    });
}
