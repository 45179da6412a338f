//! Memory of a known page size without EAL: measurements must compare tables on the same pages, and without root.

use crate::memory;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
use std::ffi::c_void;
use std::fs;
use std::ptr::NonNull;

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;
/// `MAP_HUGE_2MB` (`21 << MAP_HUGE_SHIFT`, include/uapi/asm-generic/hugetlb_encode.h), which rustix does not name.
const HUGE_2M: MapFlags = MapFlags::from_bits_retain(21 << 26);

/// What kind of pages memory consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageKind {
    /// Reserved huge pages of 2 MiB (hugetlb).
    Huge,
    /// Huge pages that the kernel made of ordinary ones on advice.
    Transparent,
    /// Pages of 4 KiB.
    Small,
}

impl PageKind {
    /// As results name it: `2M`, `thp`, `4K`.
    pub fn name(self) -> &'static str {
        match self {
            PageKind::Huge => "2M",
            PageKind::Transparent => "thp",
            PageKind::Small => "4K",
        }
    }
}

/// Values in memory that is never given back.
#[derive(Clone, Copy, Debug)]
pub struct Mapped<T: 'static> {
    /// The values.
    pub values: &'static [T],
    /// The pages they are in.
    pub pages: PageKind,
}

/// No memory at all.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the kernel gives no {bytes} bytes of memory [{errno}]")]
pub struct MapError {
    /// Bytes asked for.
    pub bytes: usize,
    /// The kernel's reason.
    pub errno: rustix::io::Errno,
}

/// `count` default values in reserved huge pages, else in transparent ones, else in small ones.
///
/// The memory stays for the life of the process and the values are never dropped, so `T` should own nothing.
///
/// # Errors
/// [`MapError`].
pub fn map<T: Default + Send + Sync + 'static>(count: usize) -> Result<Mapped<T>, MapError> {
    const { assert!(align_of::<T>() <= HUGE) };
    let error = |bytes, errno| MapError { bytes, errno };
    let bytes = (count.checked_mul(size_of::<T>()))
        .and_then(|bytes| bytes.checked_next_multiple_of(HUGE))
        .filter(|bytes| bytes.checked_add(HUGE).is_some())
        .ok_or_else(|| error(usize::MAX, rustix::io::Errno::NOMEM))?;
    if bytes == 0 {
        return Ok(Mapped { values: &[], pages: PageKind::Small });
    }
    let none = || error(bytes, rustix::io::Errno::NOMEM);
    if let Ok(start) = anonymous(bytes, MapFlags::HUGETLB.union(HUGE_2M)) {
        let start = NonNull::new(start.cast::<T>()).ok_or_else(none)?;
        // SAFETY: a fresh mapping, large enough, aligned to its page, never unmapped.
        let values = unsafe { memory::defaults(start, count) };
        return Ok(Mapped { values, pages: PageKind::Huge });
    }
    // A page more, so that the values can start at a multiple of a huge page.
    let start = anonymous(bytes + HUGE, MapFlags::empty()).map_err(|errno| error(bytes + HUGE, errno))?;
    let skipped = start.cast::<u8>().align_offset(HUGE);
    // SAFETY: less than HUGE, which was mapped in addition.
    let start = unsafe { start.cast::<u8>().add(skipped) };
    // SAFETY: inside our own mapping, and this advice changes no content.
    let advised = unsafe { madvise(start.cast::<c_void>(), bytes, Advice::LinuxHugepage) };
    let before = transparent_bytes();
    let start = NonNull::new(start.cast::<T>()).ok_or_else(none)?;
    // SAFETY: a fresh mapping with `bytes` behind the aligned start, never unmapped.
    let values = unsafe { memory::defaults(start, count) };
    let got = transparent_bytes().saturating_sub(before);
    // A piece of a huge page at the end may be small pages.
    let enough = advised.is_ok() && got >= bytes as u64 / 10 * 9;
    Ok(Mapped { values, pages: if enough { PageKind::Transparent } else { PageKind::Small } })
}

fn anonymous(bytes: usize, flags: MapFlags) -> rustix::io::Result<*mut c_void> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: the kernel chooses the place, so nothing that exists is replaced.
    unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, protection, MapFlags::PRIVATE | flags) }
}

/// Bytes of this process in transparent huge pages.
pub fn transparent_bytes() -> u64 {
    rollup("AnonHugePages:")
}

/// Bytes of this process in reserved huge pages.
pub fn huge_bytes() -> u64 {
    rollup("Private_Hugetlb:") + rollup("Shared_Hugetlb:")
}

/// Bytes of this process in all other pages.
pub fn resident_bytes() -> u64 {
    rollup("Rss:")
}

fn rollup(field: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let kib: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    #[test]
    fn memory_is_zeroed_aligned_and_writable() {
        let before = resident_bytes() + huge_bytes();
        let mapped = map::<AtomicU64>(1 << 20).unwrap();
        assert_eq!(mapped.values.len(), 1 << 20);
        assert!(mapped.values.iter().all(|value| value.load(Relaxed) == 0));
        assert_eq!(mapped.values.as_ptr().align_offset(HUGE), 0);
        mapped.values[77].store(7, Relaxed);
        assert_eq!(mapped.values[77].load(Relaxed), 7);
        assert!(resident_bytes() + huge_bytes() >= before + (8 << 20), "it is really there");
        assert!(map::<AtomicU64>(0).unwrap().values.is_empty());
        assert!(map::<AtomicU64>(usize::MAX / 4).is_err());
    }
}
