//! The kernel's files below a root directory, read without ever failing: what is not there is `None`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Longest file read, bytes; /proc/cpuinfo of a large machine is below it.
const FILE_MAX: u64 = 4 << 20;

/// A machine, seen through its files.
pub(super) struct Host {
    root: PathBuf,
}

impl Host {
    pub(super) fn new(root: &Path) -> Host {
        Host { root: root.to_owned() }
    }

    /// Whether this is the running machine, so that programs may be asked too.
    pub(super) fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// A file's text without blanks at the ends.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        use std::io::Read;
        let mut bytes = Vec::new();
        std::fs::File::open(self.path(path)).ok()?.take(FILE_MAX).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    pub(super) fn number(&self, path: &str) -> Option<i64> {
        self.text(path)?.parse().ok()
    }

    /// Names in a directory, sorted.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Last part of where a link points.
    pub(super) fn link(&self, path: &str) -> Option<String> {
        let to = std::fs::read_link(self.path(path)).ok()?;
        Some(to.file_name()?.to_string_lossy().into_owned())
    }

    /// A CPU list such as `0-3,8` (none for an empty file).
    pub(super) fn cpus(&self, path: &str) -> BTreeSet<u16> {
        cpu_list(&self.text(path).unwrap_or_default())
    }

    /// The value of a kernel command line parameter.
    pub(super) fn kernel_parameter(&self, name: &str) -> Option<String> {
        let line = self.text("/proc/cmdline")?;
        let mut words = line.split_whitespace().filter_map(|w| w.split_once('='));
        words.find(|(n, _)| *n == name).map(|(_, v)| v.to_owned())
    }

    /// The NUMA node of a CPU.
    pub(super) fn node_of(&self, cpu: u16) -> Option<i64> {
        let nodes = self.names("/sys/devices/system/node");
        let nodes = nodes.iter().filter_map(|n| n.strip_prefix("node")?.parse::<i64>().ok());
        nodes
            .into_iter()
            .find(|n| self.cpus(&format!("/sys/devices/system/node/node{n}/cpulist")).contains(&cpu))
    }
}

/// Reads the kernel's list form; flags such as `nohz,` in front of isolcpus are passed over.
pub(super) fn cpu_list(text: &str) -> BTreeSet<u16> {
    let mut cpus = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
            cpus.extend(first..=last);
        }
    }
    cpus
}

/// The reverse, for people.
pub(super) fn listed(cpus: impl IntoIterator<Item = u16>) -> String {
    cpus.into_iter().map(|c| c.to_string()).collect::<Vec<_>>().join(",")
}
