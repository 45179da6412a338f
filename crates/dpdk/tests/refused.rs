//! A start that EAL refuses: its own words, a remedy, and nothing on standard output. One test: EAL starts once per process.
use dpdk::{Eal, EalError};

#[test]
fn a_cpu_that_does_not_exist_is_explained() {
    let prefix = format!("t{}", std::process::id());
    let arguments = [
        "test",
        "--no-huge",
        "-m",
        "64",
        "--no-pci",
        "--no-shconf",
        "--no-telemetry",
        "--lcores",
        "0@0,1@9999",
        "--file-prefix",
        &prefix,
    ]
    .map(str::to_owned);
    let error = Eal::start(&arguments, 64 << 20, |_, _| ()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, EalError::Refused { .. }), "{text}");
    assert!(text.contains("--lcores 0@0,1@9999"), "{text}");
    assert!(text.contains("workers.cpus"), "{text}");
    assert!(text.lines().count() < 20, "{text}");
}
