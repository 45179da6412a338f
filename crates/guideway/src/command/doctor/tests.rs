use super::finding::{Finding, Grade};
use super::host::{Host, cpu_list};
use super::{config_checks, machine_checks};
use model::Config;
use std::path::Path;

/// A machine's files in a directory.
struct Files(tempfile::TempDir);

impl Files {
    /// What a well set-up machine with two nodes of four CPUs has.
    fn good() -> Files {
        let files = Files(tempfile::tempdir().unwrap());
        let node = "sys/devices/system/node/node";
        for (path, text) in [
            ("usr/lib/x86_64-linux-gnu/librte_eal.so.23", ""),
            ("usr/lib/x86_64-linux-gnu/librte_pdump.so.23", ""),
            ("usr/lib/x86_64-linux-gnu/dpdk/pmds-23.0/librte_mempool_ring.so.23", ""),
            ("usr/lib/x86_64-linux-gnu/dpdk/pmds-23.0/librte_net_af_packet.so.23", ""),
            ("usr/lib/x86_64-linux-gnu/pkgconfig/libdpdk.pc", "Name: DPDK\nVersion: 22.11.11\n"),
            ("proc/cpuinfo", "processor : 0\nflags\t\t: fpu avx2 bmi2 avx512f avx512bw\n"),
            ("proc/mounts", "hugetlbfs /dev/hugepages hugetlbfs rw 0 0\n"),
            (
                "proc/self/limits",
                "Max locked memory         unlimited            unlimited            bytes\n",
            ),
            ("proc/cmdline", "BOOT_IMAGE=x isolcpus=2-3 rcu_nocbs=2-3 quiet\n"),
            ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
            ("sys/devices/system/cpu/online", "0-7\n"),
            ("sys/devices/system/cpu/isolated", "2-3\n"),
            ("sys/devices/system/cpu/nohz_full", "2-3\n"),
            ("sys/kernel/iommu_groups/1/type", "DMA\n"),
            ("dev/vfio/vfio", ""),
            ("dev/net/tun", ""),
        ] {
            files.write(path, text);
        }
        for (n, cpus) in [(0, "0-3"), (1, "4-7")] {
            files.write(&format!("{node}{n}/cpulist"), cpus);
            let pages = format!("{node}{n}/hugepages/hugepages-2048kB");
            files.write(&format!("{pages}/nr_hugepages"), "1024");
            files.write(&format!("{pages}/free_hugepages"), "1000");
        }
        for cpu in 0..8 {
            let cpu_dir = format!("sys/devices/system/cpu/cpu{cpu}");
            files.write(&format!("{cpu_dir}/cpufreq/scaling_governor"), "performance");
            files.write(&format!("{cpu_dir}/topology/thread_siblings_list"), &cpu.to_string());
        }
        files.pci("0000:3b:00.0", "vfio-pci", "0");
        files
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn remove(&self, path: &str) {
        let path = self.0.path().join(path);
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
    }

    fn pci(&self, address: &str, driver: &str, node: &str) {
        let dir = format!("sys/bus/pci/devices/{address}");
        self.write(&format!("{dir}/numa_node"), node);
        let link = self.0.path().join(dir).join("driver");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(Path::new("../../../bus/pci/drivers").join(driver), link).unwrap();
    }

    fn findings(&self, config: &Config) -> Vec<Finding> {
        let host = Host::new(self.0.path());
        let mut all = machine_checks::all(&host, Some(config));
        all.extend(config_checks::all(&host, config));
        all
    }

    /// The one finding that is not a pass.
    fn complaint(&self, config: &Config) -> Finding {
        let mut bad: Vec<Finding> =
            self.findings(config).into_iter().filter(|f| f.grade != Grade::Pass).collect();
        assert_eq!(bad.len(), 1, "{bad:#?}");
        bad.remove(0)
    }
}

fn config(device: &str, cpus: &str) -> Config {
    let text = format!(
        "[machine]\nname = \"lb1\"\naddress = \"10.0.2.11\"\nnext_hop_mac = \"02:00:00:00:00:01\"\n\
         cluster_key = \"101112131415161718191a1b1c1d1e1f\"\n[workers]\ncpus = [{cpus}]\n\
         [[port]]\nname = \"data0\"\ndevice = \"{device}\"\nexception = \"gw0\"\n"
    );
    match model::load("lb1.toml", &text) {
        Ok(loaded) => loaded.config,
        Err(report) => panic!("{}", report.to_plain()),
    }
}

#[test]
fn a_well_set_up_machine_passes_everything() {
    let bad: Vec<Finding> = Files::good()
        .findings(&config("0000:3b:00.0", "2, 3"))
        .into_iter()
        .filter(|f| f.grade != Grade::Pass)
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn each_defect_is_found_alone() {
    type Break = fn(&Files);
    let breaks: [(Break, Grade, &str, &str); 17] = [
        (
            |f| {
                let memory = "Max locked memory unlimited unlimited bytes";
                f.write("proc/self/limits", &format!("{memory}\nMax open files  100  700  files\n"));
            },
            Grade::Warn,
            "open files",
            "LimitNOFILE=768",
        ),
        (|f| f.remove("usr/lib"), Grade::Fail, "dpdk", "packages.sh --runtime"),
        (
            |f| f.remove("usr/lib/x86_64-linux-gnu/librte_pdump.so.23"),
            Grade::Fail,
            "dpdk",
            "apt-get install librte-pdump23",
        ),
        (
            |f| f.remove("usr/lib/x86_64-linux-gnu/dpdk"),
            Grade::Fail,
            "dpdk",
            "apt-get install librte-meta-mempool librte-meta-net",
        ),
        (|f| f.remove("sys/kernel/iommu_groups"), Grade::Warn, "iommu", "uio_pci_generic"),
        (|f| f.write("proc/cpuinfo", "flags : fpu sse2 bmi2\n"), Grade::Warn, "cpu features", "x86-64-v3"),
        (
            |f| f.write("sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages", "0"),
            Grade::Fail,
            "hugepages",
            "nr_hugepages",
        ),
        (
            |f| f.write("proc/mounts", "proc /proc proc rw 0 0\n"),
            Grade::Fail,
            "hugepages",
            "mount -t hugetlbfs",
        ),
        (
            |f| f.write("proc/self/limits", "Max locked memory  65536 65536 bytes\n"),
            Grade::Warn,
            "locked memory",
            "ulimit",
        ),
        (|f| f.remove("sys/kernel/iommu_groups"), Grade::Warn, "iommu", "intel_iommu=on"),
        (
            |f| f.write("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet"),
            Grade::Warn,
            "clock",
            "tsc",
        ),
        (
            |f| f.write("sys/devices/system/cpu/nohz_full", "(null)"),
            Grade::Warn,
            "isolation",
            "nohz_full=2,3",
        ),
        (
            |f| f.write("sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "powersave"),
            Grade::Warn,
            "cpu frequency",
            "cpupower",
        ),
        (
            |f| f.write("sys/devices/system/cpu/cpu3/topology/thread_siblings_list", "2-3"),
            Grade::Warn,
            "hyper-threads",
            "core of its own",
        ),
        (|f| f.pci("0000:3b:00.0", "ixgbe", "0"), Grade::Fail, "driver", "--bind=vfio-pci"),
        (|f| f.pci("0000:3b:00.0", "vfio-pci", "1"), Grade::Warn, "numa", "4-7"),
        (|f| f.remove("dev/net"), Grade::Fail, "exception port", "modprobe tun"),
    ];
    for (break_it, grade, check, remedy) in breaks {
        let files = Files::good();
        break_it(&files);
        let found = files.complaint(&config("0000:3b:00.0", "2, 3"));
        assert_eq!((found.grade, found.check), (grade, check), "{found:?}");
        assert!(found.remedy.as_ref().unwrap().contains(remedy), "{found:?}");
    }
}

#[test]
fn cpus_that_are_not_there_and_none_left_over() {
    let files = Files::good();
    let found = files.findings(&config("0000:3b:00.0", "2, 9"));
    assert!(
        found
            .iter()
            .any(|f| f.check == "worker cpus" && f.grade == Grade::Fail && f.reason.contains("CPU 9"))
    );
    let found = files.findings(&config("0000:3b:00.0", "0, 1, 2, 3, 4, 5, 6, 7"));
    assert!(found.iter().any(|f| f.check == "worker cpus" && f.grade == Grade::Warn));
}

#[test]
fn interfaces_must_exist_and_be_large_enough() {
    let files = Files::good();
    let config = config("net_af_xdp0,iface=p0", "2, 3");
    let found = files.complaint(&config);
    assert_eq!((found.grade, found.check), (Grade::Fail, "interface"));
    files.write("sys/class/net/p0/mtu", "1400");
    let found = files.findings(&config);
    assert!(found.iter().any(|f| f.grade == Grade::Fail && f.reason.contains("larger than p0's 1400")));
    files.write("sys/class/net/p0/mtu", "1500");
    let found = files.complaint(&config);
    assert_eq!((found.grade, found.check), (Grade::Warn, "offloads"), "a directory has no ethtool");
}

#[test]
fn an_outer_source_prefix_asks_something_of_backends() {
    let with = |mode: &str, backend: &str| {
        let mut config = config("0000:3b:00.0", "2, 3");
        let text = format!(
            "[machine]\nname = \"lb1\"\naddress = \"10.0.2.11\"\naddress6 = \"fd00:2::11\"\n\
             next_hop_mac = \"02:00:00:00:00:01\"\nouter_source_prefix4 = \"10.9.0.0/16\"\n\
             cluster_key = \"101112131415161718191a1b1c1d1e1f\"\n\
             [[port]]\nname = \"data0\"\ndevice = \"0000:3b:00.0\"\n[[service]]\nname = \"web\"\n\
             vip = \"203.0.113.10\"\nport = 80\nmode = \"{mode}\"\n[[service.backend]]\nname = \"b\"\n\
             address = \"{backend}\"\n"
        );
        match model::load("lb1.toml", &text) {
            Ok(loaded) => {
                config.machine = loaded.config.machine;
                config.services = loaded.config.services;
            }
            Err(report) => panic!("{}", report.to_plain()),
        }
        let all = Files::good().findings(&config);
        let found: Vec<Finding> = all.into_iter().filter(|f| f.check == "outer sources").collect();
        let [finding] = &found[..] else { panic!("{found:?}") };
        finding.clone()
    };
    let finding = with("gre", "10.0.2.21");
    assert_eq!(finding.grade, Grade::Pass);
    for part in ["10.9.0.0/16", "remote any", "rp_filter", "local route"] {
        assert!(finding.reason.contains(part), "{part}: {finding:?}");
    }
    for (mode, backend) in [("gue", "10.0.2.21"), ("ipip", "fd00:2::21")] {
        let finding = with(mode, backend);
        assert_eq!(finding.grade, Grade::Warn, "{mode}");
        assert!(finding.reason.starts_with("10.9.0.0/16 is of no use"), "{finding:?}");
    }
}

#[test]
fn an_empty_directory_breaks_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::new(dir.path());
    assert!(machine_checks::all(&host, None).iter().any(|f| f.grade == Grade::Fail));
}

#[test]
fn cpu_lists() {
    assert_eq!(cpu_list("0-2,7"), [0, 1, 2, 7].into());
    assert_eq!(cpu_list("managed_irq,domain,4-5"), [4, 5].into());
    assert_eq!(cpu_list("(null)"), [].into());
    assert_eq!(cpu_list(""), [].into());
}
