//! Where huge pages are files.

use std::fs;
use std::path::PathBuf;

/// Where hugetlbfs is mounted.
pub(crate) fn mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (_, directory, kind) = (words.next()?, words.next()?, words.next()?);
            (kind == "hugetlbfs").then(|| PathBuf::from(directory.replace("\\040", " ")))
        })
        .collect()
}
