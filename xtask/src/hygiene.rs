//! What a run must leave as it found it: namespaces, processes, interfaces, huge pages, files of huge pages.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// The machine's state, as far as a run could change it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Snapshot {
    namespaces: BTreeSet<String>,
    interfaces: BTreeSet<String>,
    hugepages: BTreeSet<String>,
    hugepage_files: BTreeSet<String>,
    processes: BTreeSet<(u32, String)>,
}

/// Programs that only this project's tests start under these names.
const PROGRAMS: &[&str] =
    &["guidewayd", "guideway", "guideway-agent", "nginx", "iperf3", "wrk", "dpdk-dumpcap", "dpdk-proc-info"];

impl Snapshot {
    /// The state now.
    pub(crate) fn take() -> Snapshot {
        Snapshot {
            namespaces: listed(Path::new("/var/run/netns")),
            interfaces: listed(Path::new("/sys/class/net")),
            hugepages: hugepages(),
            hugepage_files: hugepage_files(),
            processes: processes(|pid, name| PROGRAMS.contains(&name).then_some((pid, name.to_owned()))),
        }
    }

    /// What is there now and was not at `self`, or the other way round; processes that carry `mark` count as ours.
    ///
    /// # Errors
    /// The list of differences, one sentence each.
    pub(crate) fn compare(&self, mark: &str) -> Result<(), String> {
        let mut last = Err(String::new());
        // A daemon that was told to stop may need a moment for its last file.
        for _ in 0..20 {
            last = self.compare_once(mark);
            if last.is_ok() {
                return last;
            }
            std::thread::sleep(std::time::Duration::from_millis(250));
        }
        last
    }

    fn compare_once(&self, mark: &str) -> Result<(), String> {
        let now = Snapshot::take();
        let mut faults = Vec::new();
        let mut sets = |what: &str, before: &BTreeSet<String>, after: &BTreeSet<String>| {
            for left in after.difference(before) {
                faults.push(format!("{what} left behind or changed: {left}"));
            }
            for gone in before.difference(after) {
                faults.push(format!("{what} gone or changed: {gone}"));
            }
        };
        sets("namespace", &self.namespaces, &now.namespaces);
        sets("interface", &self.interfaces, &now.interfaces);
        sets("huge pages", &self.hugepages, &now.hugepages);
        sets("huge page file", &self.hugepage_files, &now.hugepage_files);
        for (pid, name) in now.processes.difference(&self.processes) {
            faults.push(format!("process left behind: {name} ({pid})"));
        }
        for (pid, name) in marked(mark) {
            faults.push(format!("process left behind: {name} ({pid})"));
        }
        if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
    }
}

/// Processes, other than this one, started by the run `mark`.
fn marked(mark: &str) -> BTreeSet<(u32, String)> {
    let wanted = format!("GUIDEWAY_RUN={mark}");
    processes(|pid, name| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let ours = environment.split(|b| *b == 0).any(|v| v == wanted.as_bytes());
        ours.then(|| (pid, name.to_owned()))
    })
}

fn processes(keep: impl Fn(u32, &str) -> Option<(u32, String)>) -> BTreeSet<(u32, String)> {
    let mut all = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Ok(name) = std::fs::read_to_string(format!("/proc/{pid}/comm")) else { continue };
        if pid != std::process::id() {
            all.extend(keep(pid, name.trim_end()));
        }
    }
    all
}

fn listed(directory: &Path) -> BTreeSet<String> {
    std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn hugepages() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let root = Path::new("/sys/kernel/mm/hugepages");
    for size in listed(root) {
        for knob in ["nr_hugepages", "nr_overcommit_hugepages"] {
            if let Ok(n) = std::fs::read_to_string(root.join(&size).join(knob)) {
                all.insert(format!("{size}/{knob} = {}", n.trim()));
            }
        }
    }
    all
}

fn hugepage_files() -> BTreeSet<String> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mut all = BTreeSet::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        if let (Some(at), Some("hugetlbfs")) = (fields.next(), fields.next()) {
            all.insert(format!("mount {at}"));
            all.extend(listed(Path::new(at)).into_iter().map(|f| format!("{at}/{f}")));
        }
    }
    all
}

/// Prints what this machine is, so that a log says where its numbers come from.
pub(crate) fn describe() {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().next().map(str::to_owned)
    };
    println!(
        "{cpus} CPUs, kernel {}, {}, DPDK {}",
        kernel.trim(),
        version("cargo", "--version").unwrap_or_else(|| "no cargo".to_owned()),
        Command::new("pkg-config")
            .args(["--modversion", "libdpdk"])
            .output()
            .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
            .unwrap_or_else(|_| "not found".to_owned())
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_machine_is_clean_and_a_marked_process_is_found() {
        let before = Snapshot::take();
        let mark = format!("test-{}", std::process::id());
        let mut child =
            Command::new("sleep").arg("20").env("GUIDEWAY_RUN", &mark).spawn().expect("sleep starts");
        // The environment is visible once the program is executed.
        std::thread::sleep(std::time::Duration::from_millis(200));
        let fault = before.compare_once(&mark).expect_err("the sleeper is ours");
        assert!(fault.contains("sleep"), "{fault}");
        child.kill().expect("sleep dies");
        child.wait().expect("sleep is reaped");
        assert!(marked(&mark).is_empty());
    }
}
