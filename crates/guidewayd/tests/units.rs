//! The systemd units that are installed (dpdk-setup/install.sh).

#![allow(clippy::panic, reason = "a test that panics has failed, and that is how it says so")]

use std::collections::HashMap;

const UNITS: [(&str, &str); 2] = [
    ("guideway.service", include_str!("../../../dpdk-setup/guideway.service")),
    ("guideway-agent.service", include_str!("../../../dpdk-setup/guideway-agent.service")),
];

/// The settings by section and name, as systemd reads them: the last of a name counts.
fn settings(unit: &str) -> HashMap<(&str, &str), &str> {
    let mut section = "";
    let mut settings = HashMap::new();
    for line in unit.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
        } else if let Some((name, value)) = line.split_once('=') {
            settings.insert((section, name), value);
        } else {
            panic!("neither a section nor a setting: {line}");
        }
    }
    settings
}

#[test]
fn a_start_that_fails_is_tried_again_for_ever_but_not_with_a_configuration_that_is_refused() {
    for (name, unit) in UNITS {
        let settings = settings(unit);
        for (section, setting, value) in [
            ("Service", "Restart", "on-failure"),
            // In this section or not at all: in [Service] systemd only warns of it.
            ("Unit", "StartLimitIntervalSec", "0"),
            // Both programs end with it when the configuration or the usage is wrong.
            ("Service", "RestartPreventExitStatus", "2"),
        ] {
            assert_eq!(settings.get(&(section, setting)), Some(&value), "{name}: {setting}");
        }
    }
}
