//! `[dpdk]`.

use super::kind::{List, Text};
use super::port::device_name;
use super::read::{Reader, Span, open, shown};
use super::table::table;
use crate::config::Port;
use toml::Spanned;

table! {
    /// DPDK.
    pub struct Dpdk(DpdkRaw, DpdkFound) {
        /// EAL arguments put before our own.
        eal_args: List<Text, 0, 64> = Vec::new(),
            help "one string for each argument, like [\"--no-pci\", \"--huge-dir\", \"/dev/hugepages\"]"
            => Restart;
    }
}

/// EAL arguments that we write ourselves, and where to say it instead.
const OWNED: [(&str, &str); 12] = [
    ("--lcores", "workers.cpus and workers.management_cpus say which CPUs are used"),
    ("-l", "workers.cpus and workers.management_cpus say which CPUs are used"),
    ("-c", "workers.cpus and workers.management_cpus say which CPUs are used"),
    ("-s", "workers.cpus and workers.management_cpus say which CPUs are used"),
    ("-S", "workers.cpus and workers.management_cpus say which CPUs are used"),
    ("--main-lcore", "the management core is EAL's main lcore"),
    ("--master-lcore", "the management core is EAL's main lcore"),
    ("--file-prefix", "it is guideway-<machine.name>: change machine.name"),
    ("--proc-type", "guidewayd is always the primary process"),
    ("-h", "it would print EAL's help and exit"),
    ("--help", "it would print EAL's help and exit"),
    ("--", "it would end EAL's arguments before ours"),
];

pub(super) fn dpdk(r: &mut Reader<'_, '_>, raw: Option<Spanned<DpdkRaw>>, ports: &[Port]) -> Dpdk {
    let (scope, raw) = open("dpdk", raw);
    let found = DpdkFound::read(r, &scope, raw);
    let args = found.eal_args.get().map_or(&[][..], Vec::as_slice);
    for (i, (arg, span)) in args.iter().enumerate() {
        argument(r, arg, args.get(i + 1).map(|(next, _)| next.as_str()), span, ports);
    }
    found.finish()
}

/// Reports an argument that is ours to write, or weakens what runs.
fn argument(r: &mut Reader<'_, '_>, arg: &str, next: Option<&str>, span: &Span, ports: &[Port]) {
    let (flag, value) = match arg.split_once('=') {
        Some((flag, value)) => (flag, Some(value)),
        None => (arg, next),
    };
    if let Some((owned, remedy)) = OWNED.iter().find(|(owned, _)| is_flag(arg, flag, owned)) {
        let message = format!("dpdk: `eal_args` has {}, which guidewayd writes itself", shown(owned));
        r.error(span, message, format!("remove it: {remedy}"));
        return;
    }
    // The value of a short option may be glued to it: -a0000:3b:00.0
    let device = match flag {
        "--vdev" | "--allow" | "--block" | "-a" | "-b" => value,
        _ => arg.strip_prefix("-a").or_else(|| arg.strip_prefix("-b")).filter(|_| !arg.starts_with("--")),
    };
    let same =
        |p: &&Port| device.is_some_and(|d| device_name(d) == device_name(&p.device) && !p.device.is_empty());
    if let Some(port) = ports.iter().find(same) {
        let device = device_name(&port.device);
        let message = format!("dpdk: `eal_args` names {device}, the device of port \"{}\"", port.name);
        r.error(span, message, "remove it: the device of a [[port]] is passed to EAL by guidewayd");
    }
    if flag == "--in-memory" {
        let message = "dpdk: with --in-memory dpdk-telemetry, dpdk-proc-info and dpdk-dumpcap cannot attach";
        r.warning(span, message, "remove it unless that is meant");
    }
    if flag == "--no-huge" {
        let message = "dpdk: without huge pages the flow tables are some four times slower at random access";
        r.warning(span, message, "remove --no-huge outside of tests");
    }
}

/// Whether `arg` is the option `owned`: getopt takes glued values of short ones and unambiguous beginnings of
/// long ones.
fn is_flag(arg: &str, flag: &str, owned: &str) -> bool {
    if owned.len() == 2 && owned != "--" {
        return !arg.starts_with("--") && arg.starts_with(owned);
    }
    flag == owned || (owned != "--" && flag.len() >= 5 && owned.starts_with(flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags() {
        let owned = |arg: &str| {
            let flag = arg.split_once('=').map_or(arg, |(f, _)| f);
            OWNED.iter().any(|(owned, _)| is_flag(arg, flag, owned))
        };
        for arg in [
            "-l",
            "-l0-3",
            "-c=f",
            "--lcores",
            "--lcore=0",
            "--file-prefix=x",
            "--file-p",
            "--",
            "--main-lcore=1",
        ] {
            assert!(owned(arg), "{arg}");
        }
        for arg in [
            "--log-level",
            "--legacy-mem",
            "--no-pci",
            "-m",
            "-n",
            "--huge-dir",
            "--socket-mem",
            "-a",
            "--single-file-segments",
        ] {
            assert!(!owned(arg), "{arg}");
        }
    }
}
