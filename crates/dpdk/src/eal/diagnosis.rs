//! From EAL's log to a reason and a remedy.

use super::{EalError, quote};
use crate::errno::Errno;
use crate::huge_pages;
use crate::log::Level;

/// Lines of EAL's log that an error quotes.
const LINES_QUOTED_MAX: usize = 12;

/// Texts in EAL's log (22.11) and what they mean; the first that is found explains the failure.
const KNOWN: &[(&[&str], Meaning)] = &[
    (&["Is another primary process running"], Meaning::OtherInstance),
    (&["Permission denied", "Cannot create directory", "failed to open"], Meaning::Rights),
    (
        &[
            "Cannot get hugepage information",
            "No free 2048 kB",
            "No free 1048576 kB",
            "No available 2048 kB",
            "No available 1048576 kB",
            "Not enough memory available",
            "Cannot init memory",
            "no mounted hugetlbfs",
            "Cannot allocate memory",
        ],
        Meaning::HugePages,
    ),
    (&["lcore", "core list", "cpu"], Meaning::Cores),
    (&["probe", "attach", "initialize net_", "device", "vdev", "driver"], Meaning::Device),
];

#[derive(Clone, Copy)]
enum Meaning {
    OtherInstance,
    Rights,
    HugePages,
    Cores,
    Device,
}

pub(super) fn refused(
    errno: Errno,
    arguments: &[String],
    log: &[(Level, String)],
    memory_bytes: u64,
) -> EalError {
    let grave: Vec<&str> =
        log.iter().filter(|(level, _)| *level <= Level::Warning).map(|(_, line)| line.as_str()).collect();
    let found = KNOWN.iter().find_map(|(texts, meaning)| {
        let line = grave.iter().find(|line| texts.iter().any(|text| contains(line, text)))?;
        Some((*line, *meaning))
    });
    let (reason, help) = match found {
        Some((line, meaning)) => (line.to_owned(), help(meaning, memory_bytes)),
        None => (
            grave.last().map_or_else(|| "EAL gave no reason".to_owned(), |line| (*line).to_owned()),
            "try the same arguments with dpdk-testpmd, and add --log-level=8 to see more".to_owned(),
        ),
    };
    let first = grave.len().saturating_sub(LINES_QUOTED_MAX);
    let lines = grave.iter().skip(first).map(|line| format!("\n  {line}")).collect();
    EalError::Refused { reason, errno, arguments: quote(arguments), lines, help }
}

fn contains(line: &str, text: &str) -> bool {
    line.to_ascii_lowercase().contains(&text.to_ascii_lowercase())
}

fn help(meaning: Meaning, memory_bytes: u64) -> String {
    match meaning {
        Meaning::OtherInstance => "another guidewayd with the same machine.name is running on this host: \
                                   stop it, or give \
                                   this one another machine.name"
            .to_owned(),
        Meaning::Rights => "run as root, or give the unit CAP_IPC_LOCK, CAP_NET_ADMIN and CAP_SYS_ADMIN and \
                            access to \
                            /dev/hugepages and /var/run/dpdk"
            .to_owned(),
        Meaning::HugePages => huge_pages::remedy(memory_bytes),
        Meaning::Cores => "check workers.cpus and workers.management_cpus against the CPUs of this machine \
                           (lscpu)"
            .to_owned(),
        Meaning::Device => "check the port's `device` against the drivers' guides \
                            (doc.dpdk.org/guides/nics): does the \
                            interface or file it names exist, and is a PCI device bound to vfio-pci \
                            (dpdk-devbind.py --status)?"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_failures_have_their_remedy() {
        let log = |line: &str| {
            vec![(Level::Info, "EAL: Detected CPU lcores: 2".to_owned()), (Level::Error, line.to_owned())]
        };
        let arguments = ["guidewayd".to_owned()];
        for (line, remedy) in [
            (
                "EAL: Cannot create lock on '/var/run/dpdk/x/config'. Is another primary process running?",
                "machine.name",
            ),
            // What has to be done depends on the machine: reserve them, or mount them.
            ("EAL: FATAL: Cannot get hugepage information.", "huge pages"),
            ("vdev_probe(): failed to initialize net_af_xdp0 device", "`device`"),
            ("EAL: invalid core list, please check specified cores are part of 0-1", "workers.cpus"),
            ("EAL: something new", "--log-level=8"),
        ] {
            let text = refused(Errno::INVAL, &arguments, &log(line), 64 << 20).to_string();
            assert!(text.contains(line) && text.contains(remedy), "{text}");
            assert!(!text.contains("Detected"), "{text}");
        }
    }
}
