//! Huge-page memory for tables, and the remedy when there is not enough of it.

use crate::eal::{self, Eal};
use std::fs;
use std::ptr::NonNull;

/// A huge-page allocation failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no {bytes} bytes of contiguous huge-page memory for {what}; {help}")]
pub struct NoMemory {
    /// What it was for.
    pub what: String,
    /// Bytes asked for.
    pub bytes: u64,
    /// What to do.
    pub help: String,
}

/// `count` default values of `T` in huge-page memory of the given NUMA socket (of any, where that one has none).
///
/// The memory stays for the life of the process and the values are never dropped, so `T` should own nothing.
///
/// # Errors
/// [`NoMemory`].
pub fn slice<T: Default + Send + Sync + 'static>(
    _eal: &Eal,
    what: &str,
    count: usize,
    socket: Option<u16>,
) -> Result<&'static [T], NoMemory> {
    let no_memory =
        |bytes: usize| NoMemory { what: what.to_owned(), bytes: bytes as u64, help: remedy(bytes as u64) };
    let bytes = count.checked_mul(size_of::<T>()).ok_or_else(|| no_memory(usize::MAX))?;
    if bytes == 0 {
        return Ok(&[]);
    }
    // A cache line at least, so that a table of lines does not straddle them.
    let align = u32::try_from(align_of::<T>().max(64)).map_err(|_| no_memory(bytes))?;
    let sockets = [socket.map_or(dpdk_sys::SOCKET_ID_ANY, i32::from), dpdk_sys::SOCKET_ID_ANY];
    let start = sockets.into_iter().find_map(|socket| {
        // SAFETY: EAL is started; a null type name is allowed; the alignment is a power of two.
        let start = unsafe { dpdk_sys::rte_malloc_socket(std::ptr::null(), bytes, align, socket) };
        NonNull::new(start.cast::<T>())
    });
    let start = start.ok_or_else(|| no_memory(bytes))?;
    eal::pin_memory(); // the slice is 'static
    // SAFETY: room for `count` aligned values, owned by nobody else and never freed nor unmapped (pinned above).
    Ok(unsafe { defaults(start, count) })
}

/// Writes `count` default values and gives them for ever.
///
/// # Safety
/// `start` is aligned and begins room for `count` values, which nobody else refers to and which stays mapped.
pub(crate) unsafe fn defaults<T: Default>(start: NonNull<T>, count: usize) -> &'static [T] {
    for index in 0..count {
        // SAFETY: `start` is the beginning of `count` values, so the address is inside the allocation.
        let place = unsafe { start.add(index) };
        // SAFETY: inside the allocation, aligned, and owned by nobody else.
        unsafe { place.write(T::default()) };
    }
    // SAFETY: `count` initialized values, never freed; only shared references exist.
    unsafe { std::slice::from_raw_parts(start.as_ptr(), count) }
}

/// Asks for the line of `place`, without waiting for it.
#[inline(always)]
pub fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch never faults, and the address is that of a live value.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(place).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

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
        return "this kernel has no huge pages; use one built with CONFIG_HUGETLBFS, or try `eal_args = [\"--no-huge\", \"-m\", \
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
            "{state}: sysctl -w vm.nr_hugepages={wanted} (and dpdk-setup/hugepages to keep it over a reboot), or lower \
             workers.flows"
        );
    }
    if eal::hugetlbfs_mounts().is_empty() {
        return format!(
            "{state}, but hugetlbfs is not mounted: mkdir -p /dev/hugepages && mount -t hugetlbfs hugetlbfs /dev/hugepages"
        );
    }
    format!(
        "{state}: is one of the hugetlbfs mounts writable for this user, do the free pages belong to the right NUMA node \
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
