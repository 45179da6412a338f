//! EAL's command line for measurements.

use dpdk::huge_pages::HugePages;

const PAGE: u64 = 2 << 20;

/// EAL on one CPU, without hardware and without a trace in the file system.
pub fn words(cpu: usize, need: u64) -> Vec<String> {
    let mut words = vec!["guideway-bench".to_owned()];
    words.extend(["--no-pci", "--no-telemetry", "--no-shconf"].map(str::to_owned));
    words.extend(["--lcores".to_owned(), format!("0@{cpu}")]);
    words.extend(["--file-prefix".to_owned(), format!("guideway-bench-{}", std::process::id())]);
    words.extend(memory_words(need));
    words
}

/// In huge pages where enough are free, else in ordinary memory.
pub fn memory_words(need: u64) -> Vec<String> {
    let free =
        HugePages::all().iter().find(|size| size.page_bytes == PAGE).map_or(0, |size| size.free * PAGE);
    if free >= need {
        vec!["--in-memory".to_owned()]
    } else {
        vec!["--no-huge".to_owned(), "-m".to_owned(), (need >> 20).max(64).to_string()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_memory_is_ordinary_memory() {
        assert_eq!(memory_words(u64::MAX)[0], "--no-huge");
        assert!(words(3, u64::MAX).contains(&"0@3".to_owned()));
    }
}
