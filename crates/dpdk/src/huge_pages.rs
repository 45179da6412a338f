//! How many huge pages the kernel has, and the remedy when there are not enough.

use crate::hugetlbfs;
use std::fs;

/// Huge pages of one size, as the kernel reports them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HugePages {
    /// Bytes a page.
    pub page_bytes: u64,
    /// Pages reserved.
    pub total: u64,
    /// Pages not in use.
    pub free: u64,
}

impl HugePages {
    /// All sizes this kernel knows, smallest first; empty where it has none.
    pub fn all() -> Vec<HugePages> {
        let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
        let mut sizes: Vec<HugePages> = entries
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let kib: u64 = path
                    .file_name()?
                    .to_str()?
                    .strip_prefix("hugepages-")?
                    .strip_suffix("kB")?
                    .parse()
                    .ok()?;
                let read = |name: &str| fs::read_to_string(path.join(name)).ok()?.trim().parse().ok();
                Some(HugePages {
                    page_bytes: kib * 1024,
                    total: read("nr_hugepages")?,
                    free: read("free_hugepages")?,
                })
            })
            .collect();
        sizes.sort_by_key(|size| size.page_bytes);
        sizes
    }
}

/// What to do about missing huge pages: how many are needed, how many are free, and the command.
pub fn remedy(need_bytes: u64) -> String {
    let sizes = HugePages::all();
    let Some(size) = sizes.iter().find(|size| size.page_bytes == 2 << 20).or(sizes.first()) else {
        return "this kernel has no huge pages; use one built with CONFIG_HUGETLBFS, or try `eal_args = \
                [\"--no-huge\", \"-m\", \
                \"1024\"]` without expecting speed"
            .to_owned();
    };
    let free_bytes: u64 = sizes.iter().map(|size| size.free * size.page_bytes).sum();
    let state = format!(
        "{} MiB of huge pages are wanted and {} MiB are free ({} of {} pages of {} kB)",
        need_bytes.div_ceil(1 << 20),
        free_bytes >> 20,
        size.free,
        size.total,
        size.page_bytes / 1024,
    );
    if free_bytes < need_bytes {
        let wanted = size.total + (need_bytes - free_bytes).div_ceil(size.page_bytes);
        return format!(
            "{state}: sysctl -w vm.nr_hugepages={wanted} (and dpdk-setup/hugepages to keep it over a \
             reboot), or lower \
             workers.flows"
        );
    }
    if hugetlbfs::mounts().is_empty() {
        return format!(
            "{state}, but hugetlbfs is not mounted: mkdir -p /dev/hugepages && mount -t hugetlbfs hugetlbfs \
             /dev/hugepages"
        );
    }
    format!(
        "{state}: is one of the hugetlbfs mounts writable for this user, do the free pages belong to the \
         right NUMA node \
         (dpdk-hugepages.py -s), and does a cgroup limit them?"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedy_names_a_number_that_suffices() {
        let text = remedy(u64::MAX / 2);
        // What is missing depends on the machine: pages, a mount, rights, or support.
        let remedies = ["vm.nr_hugepages=", "mount -t hugetlbfs", "writable for this user", "no huge pages"];
        assert!(remedies.iter().any(|remedy| text.contains(remedy)), "{text}");
        let text = remedy(0);
        assert!(!text.contains("nr_hugepages"), "there are enough: {text}");
    }
}
