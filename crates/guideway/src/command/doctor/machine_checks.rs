//! Checks of the machine: memory, CPUs, kernel, DPDK.

use super::devices::{Device, device};
use super::finding::Finding;
use super::host::{Host, cpu_list, listed};
use model::Config;
use std::collections::BTreeSet;

/// Every check of the machine, in the order in which one would set it up.
pub(super) fn all(host: &Host, config: Option<&Config>) -> Vec<Finding> {
    let workers: BTreeSet<u16> = config.map(|c| c.workers.cpus.iter().copied().collect()).unwrap_or_default();
    let mut findings = vec![dpdk(host), cpu_features(host)];
    findings.extend(hugepages(host, config, &workers));
    findings.extend([memlock(host), descriptors(host, config), iommu(host, config), clock(host)]);
    findings.extend(cpus_online(host, &workers));
    findings.extend([isolation(host, &workers), governor(host, &workers)]);
    findings.extend(siblings(host, &workers));
    findings
}

/// Where the loader of Debian, of others and of a build by hand look for libraries.
const LIB_DIRS: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib/x86_64-linux-gnu",
    "/usr/local/lib",
];

/// What guidewayd links or EAL loads, with the Debian package that it comes in: `dpdk` itself depends on none of them.
const LIBRARIES: &[(&str, &str)] = &[
    ("librte_eal.so.", "librte-eal23"),
    ("librte_pdump.so.", "librte-pdump23"),
    ("librte_mempool_ring.so.", "librte-meta-mempool"),
    ("librte_net_af_packet.so.", "librte-meta-net"),
];

fn dpdk(host: &Host) -> Finding {
    const CHECK: &str = "dpdk";
    let installed = LIB_DIRS.iter().find_map(|dir| {
        let eal = host.names(dir).into_iter().find(|n| n.starts_with("librte_eal.so."))?;
        Some((*dir, eal))
    });
    let Some((dir, eal)) = installed else {
        return Finding::fail(
            CHECK,
            "DPDK's libraries are not installed",
            "dpdk-setup/packages.sh --runtime, or apt-get install dpdk librte-meta-net librte-meta-mempool \
             librte-pdump23 \
             python3-pyelftools (to build: libdpdk-dev)",
        );
    };
    // Debian keeps drivers in a directory of their own (dpdk/pmds-23.0), and has links to them beside the libraries.
    let mut names = host.names(dir);
    for drivers in host.names(&format!("{dir}/dpdk")) {
        names.extend(host.names(&format!("{dir}/dpdk/{drivers}")));
    }
    let missing = LIBRARIES.iter().filter(|(library, _)| !names.iter().any(|name| name.starts_with(library)));
    let (libraries, packages): (Vec<&str>, Vec<&str>) = missing.copied().unzip();
    if !libraries.is_empty() {
        return Finding::fail(
            CHECK,
            format!("DPDK is installed, but not {}", libraries.join(", ").replace(".so.", ".so")),
            format!("dpdk-setup/packages.sh --runtime, or apt-get install {}", packages.join(" ")),
        );
    }
    let pc = host.text(&format!("{dir}/pkgconfig/libdpdk.pc"));
    let version = pc.as_deref().and_then(|t| t.lines().find_map(|l| l.strip_prefix("Version:")));
    let version = version.map_or(String::new(), |v| format!(" version {}", v.trim()));
    Finding::pass(CHECK, format!("DPDK{version} is installed ({dir}/{eal})"))
}

fn cpu_features(host: &Host) -> Finding {
    const CHECK: &str = "cpu features";
    let info = host.text("/proc/cpuinfo").unwrap_or_default();
    let Some(flags) = info.lines().find_map(|l| l.strip_prefix("flags")) else {
        return Finding::warn(
            CHECK,
            "/proc/cpuinfo lists no CPU flags",
            "this is not x86-64: see the documentation",
        );
    };
    let has = |flag: &str| flags.split_whitespace().any(|f| f == flag);
    let missing: Vec<&str> = ["avx2", "bmi2"].into_iter().filter(|&f| !has(f)).collect();
    if !missing.is_empty() {
        return Finding::warn(
            CHECK,
            format!("the CPU lacks {}: drivers and look-ups take their slow paths", missing.join(" and ")),
            "in a virtual machine choose a CPU model that has them (x86-64-v3); else use a CPU of 2013 or \
             later",
        );
    }
    let wider = if has("avx512f") { ", and avx512f" } else { "; no avx512f" };
    Finding::pass(CHECK, format!("avx2 and bmi2{wider}"))
}

fn hugepages(host: &Host, config: Option<&Config>, workers: &BTreeSet<u16>) -> Vec<Finding> {
    const CHECK: &str = "hugepages";
    if config.is_some_and(|c| c.dpdk.eal_args.iter().any(|a| a == "--no-huge")) {
        return vec![Finding::warn(
            CHECK,
            "dpdk.eal_args has --no-huge: tables are in small pages",
            "fine for a trial; for traffic remove it and reserve hugepages",
        )];
    }
    let remedy = "sysctl -w vm.nr_hugepages=1024 (2 GiB; dpdk-setup/ has a script that makes it permanent)";
    let nodes: Vec<i64> = host
        .names("/sys/devices/system/node")
        .iter()
        .filter_map(|n| n.strip_prefix("node")?.parse().ok())
        .collect();
    let used_nodes: BTreeSet<i64> = workers.iter().filter_map(|&cpu| host.node_of(cpu)).collect();
    let dirs = match &nodes[..] {
        [] => vec![(None, "/sys/kernel/mm/hugepages".to_owned())],
        nodes => {
            nodes.iter().map(|&n| (Some(n), format!("/sys/devices/system/node/node{n}/hugepages"))).collect()
        }
    };
    let mut findings = Vec::new();
    let mut anywhere = 0;
    for (node, dir) in dirs {
        let place = node.map_or(String::new(), |n| format!("NUMA node {n}: "));
        let (mut total_bytes, mut parts) = (0, Vec::new());
        for size in host.names(&dir) {
            let Some(kib) =
                size.strip_prefix("hugepages-").and_then(|s| s.strip_suffix("kB")?.parse::<i64>().ok())
            else {
                continue;
            };
            let total = host.number(&format!("{dir}/{size}/nr_hugepages")).unwrap_or(0);
            let free = host.number(&format!("{dir}/{size}/free_hugepages")).unwrap_or(0);
            if total > 0 {
                total_bytes += total * kib * 1024;
                let size =
                    if kib >= 1 << 20 { format!("{} GiB", kib >> 20) } else { format!("{} MiB", kib >> 10) };
                parts.push(format!("{total} of {size}, {free} free"));
            }
        }
        anywhere += total_bytes;
        if total_bytes > 0 {
            findings.push(Finding::pass(CHECK, format!("{place}{}", parts.join("; "))));
        } else if node.is_some_and(|n| used_nodes.contains(&n)) {
            findings.push(Finding::fail(CHECK, format!("{place}none, but workers run there"), remedy));
        } else if nodes.len() > 1 {
            findings.push(Finding::pass(CHECK, format!("{place}none, and no worker runs there")));
        }
    }
    if anywhere == 0 && findings.iter().all(|f| f.grade == super::Grade::Pass) {
        findings = vec![Finding::fail(CHECK, "none are reserved", remedy)];
    }
    let mounted = host.text("/proc/mounts").unwrap_or_default();
    if anywhere > 0 && !mounted.lines().any(|l| l.split_whitespace().nth(2) == Some("hugetlbfs")) {
        findings.push(Finding::fail(
            CHECK,
            "no hugetlbfs is mounted",
            "mount -t hugetlbfs hugetlbfs /dev/hugepages (systemd does it by itself)",
        ));
    }
    findings
}

fn memlock(host: &Host) -> Finding {
    const CHECK: &str = "locked memory";
    let limits = host.text("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|l| l.strip_prefix("Max locked memory")).unwrap_or_default();
    let soft = line.split_whitespace().next().unwrap_or("unknown");
    match soft.parse::<u64>() {
        Err(_) if soft == "unlimited" => Finding::pass(CHECK, "no limit"),
        Ok(bytes) if bytes >= 64 << 20 => Finding::pass(CHECK, format!("limit {} MiB", bytes >> 20)),
        _ => Finding::warn(
            CHECK,
            format!("limit of this shell: {soft} bytes; AF_XDP and VFIO lock their buffers"),
            "ulimit -l unlimited, or LimitMEMLOCK=infinity as in the systemd unit",
        ),
    }
}

/// The hard limit counts: the daemon raises its soft one.
fn descriptors(host: &Host, config: Option<&Config>) -> Finding {
    const CHECK: &str = "open files";
    let limits = host.text("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|l| l.strip_prefix("Max open files")).unwrap_or_default();
    let hard = line.split_whitespace().nth(1).unwrap_or("unknown");
    let Some(needed) = config.map(Config::descriptors) else {
        return Finding::pass(CHECK, format!("limit {hard}"));
    };
    match hard.parse::<u64>() {
        Ok(limit) if limit < needed => Finding::warn(
            CHECK,
            format!("limit of this shell: {limit}; checks, API clients and agents may need {needed}"),
            format!("LimitNOFILE={needed} or more in the systemd unit; by hand: ulimit -Hn"),
        ),
        _ => Finding::pass(CHECK, format!("limit {hard}, {needed} may be needed")),
    }
}

fn has_pci(config: Option<&Config>) -> Option<bool> {
    config.map(|c| c.ports.iter().any(|p| matches!(device(&p.device), Device::Pci(_))))
}

fn iommu(host: &Host, config: Option<&Config>) -> Finding {
    const CHECK: &str = "iommu";
    let groups = host.names("/sys/kernel/iommu_groups").len();
    match (groups, has_pci(config)) {
        (1.., _) => Finding::pass(CHECK, format!("on, {groups} groups")),
        (0, Some(false)) => Finding::pass(CHECK, "off, and no port of the configuration needs it"),
        (0, _) => Finding::warn(
            CHECK,
            "off: vfio-pci does not work without it",
            "switch it on in the firmware and boot with intel_iommu=on (or amd_iommu=on) iommu=pt; where \
             there is none, bind \
             the card to uio_pci_generic (dpdk-setup/bind.sh PCI uio_pci_generic), which protects no memory \
             from the card",
        ),
    }
}

fn clock(host: &Host) -> Finding {
    const CHECK: &str = "clock";
    let source = host.text("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    match source.as_deref() {
        Some("tsc" | "arch_sys_counter") => Finding::pass(CHECK, "the kernel trusts the CPU's counter"),
        Some(other) => Finding::warn(
            CHECK,
            format!("the kernel uses {other}: it does not trust the TSC, or a hypervisor hides it"),
            "boot with tsc=reliable if the CPU has constant_tsc and nonstop_tsc",
        ),
        None => Finding::warn(CHECK, "the kernel names no clock source", "mount /sys"),
    }
}

fn cpus_online(host: &Host, workers: &BTreeSet<u16>) -> Option<Finding> {
    const CHECK: &str = "worker cpus";
    if workers.is_empty() {
        return None;
    }
    let online = host.cpus("/sys/devices/system/cpu/online");
    let missing: Vec<u16> = workers.difference(&online).copied().collect();
    Some(if !missing.is_empty() {
        let text =
            format!("CPU {} of workers.cpus is not online (online: {})", listed(missing), listed(online));
        Finding::fail(CHECK, text, "name online CPUs in workers.cpus")
    } else if online.len() <= workers.len() {
        Finding::warn(
            CHECK,
            "every CPU has a worker: nothing is left for the management core and the kernel",
            "leave at least one CPU out of workers.cpus, or set workers.idle = \"adaptive\"",
        )
    } else {
        Finding::pass(CHECK, format!("CPU {} online", listed(workers.iter().copied())))
    })
}

fn isolation(host: &Host, workers: &BTreeSet<u16>) -> Finding {
    const CHECK: &str = "isolation";
    let sets = [
        ("isolcpus", host.cpus("/sys/devices/system/cpu/isolated")),
        ("nohz_full", host.cpus("/sys/devices/system/cpu/nohz_full")),
        ("rcu_nocbs", cpu_list(&host.kernel_parameter("rcu_nocbs").unwrap_or_default())),
    ];
    let list = if workers.is_empty() { "LIST".to_owned() } else { listed(workers.iter().copied()) };
    let remedy =
        format!("boot with isolcpus={list} nohz_full={list} rcu_nocbs={list} (not needed for a trial)");
    let lacking: Vec<&str> = sets
        .iter()
        .filter(|(_, cpus)| if workers.is_empty() { cpus.is_empty() } else { !workers.is_subset(cpus) })
        .map(|(name, _)| *name)
        .collect();
    if lacking.is_empty() {
        Finding::pass(
            CHECK,
            format!("CPU {} isolated, without tick and RCU callbacks", listed(sets[0].1.iter().copied())),
        )
    } else {
        let who =
            if workers.is_empty() { "no CPU".to_owned() } else { format!("not every worker's CPU ({list})") };
        Finding::warn(
            CHECK,
            format!("{who} in {}: the kernel interrupts workers", lacking.join(", ")),
            remedy,
        )
    }
}

fn governor(host: &Host, workers: &BTreeSet<u16>) -> Finding {
    const CHECK: &str = "cpu frequency";
    let online = host.cpus("/sys/devices/system/cpu/online");
    let cpus = if workers.is_empty() { &online } else { workers };
    let mut others = BTreeSet::new();
    let mut managed = false;
    for cpu in cpus {
        if let Some(g) = host.text(&format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor")) {
            managed = true;
            if g != "performance" {
                others.insert(g);
            }
        }
    }
    match (managed, others.is_empty()) {
        (false, _) => Finding::pass(CHECK, "not managed by this kernel (a virtual machine, or fixed)"),
        (true, true) => Finding::pass(CHECK, "governor performance"),
        (true, false) => {
            let names: Vec<String> = others.into_iter().collect();
            let remedy = "cpupower frequency-set -g performance";
            Finding::warn(
                CHECK,
                format!("governor {}: the clock follows load it cannot see", names.join(", ")),
                remedy,
            )
        }
    }
}

/// Two workers on one core share its execution units.
fn siblings(host: &Host, workers: &BTreeSet<u16>) -> Option<Finding> {
    const CHECK: &str = "hyper-threads";
    if workers.is_empty() {
        return None;
    }
    let shared = workers.iter().find_map(|&cpu| {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        let of_core = host.cpus(&path);
        let both: Vec<u16> = workers.intersection(&of_core).copied().collect();
        (both.len() > 1).then_some(both)
    });
    Some(match shared {
        None => Finding::pass(CHECK, "every worker has a core of its own"),
        Some(both) => Finding::warn(
            CHECK,
            format!("workers on CPU {} share one core", listed(both)),
            "give each worker a core of its own, and leave the second thread idle",
        ),
    })
}
