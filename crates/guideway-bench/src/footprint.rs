//! What memory this process has taken, by kind of page.

use dpdk::pages::{self, PageKind};

/// Memory of this process at a moment, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Footprint {
    /// In reserved huge pages.
    pub huge: u64,
    /// In transparent huge pages; part of `resident`.
    pub transparent: u64,
    /// In ordinary pages and transparent huge pages.
    pub resident: u64,
}

impl Footprint {
    /// Now.
    pub fn now() -> Footprint {
        Footprint {
            huge: pages::huge_bytes(),
            transparent: pages::transparent_bytes(),
            resident: pages::resident_bytes(),
        }
    }

    /// What has come since.
    pub fn growth(self) -> Footprint {
        let now = Footprint::now();
        Footprint {
            huge: now.huge.saturating_sub(self.huge),
            transparent: now.transparent.saturating_sub(self.transparent),
            resident: now.resident.saturating_sub(self.resident),
        }
    }

    /// All of it.
    pub fn bytes(self) -> u64 {
        self.huge + self.resident
    }

    /// The pages most of it is in.
    pub fn pages(self) -> PageKind {
        if self.huge * 2 > self.bytes() {
            PageKind::Huge
        } else if self.transparent * 2 > self.bytes() {
            PageKind::Transparent
        } else {
            PageKind::Small
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_part_names_the_pages() {
        let of = |huge, transparent, resident| Footprint { huge, transparent, resident }.pages();
        assert_eq!(of(10, 0, 5), PageKind::Huge);
        assert_eq!(of(0, 9, 10), PageKind::Transparent);
        assert_eq!(of(0, 1, 10), PageKind::Small);
    }

    #[test]
    fn growth_is_seen() {
        let before = Footprint::now();
        let memory = vec![1_u8; 32 << 20];
        assert!(before.growth().bytes() >= 31 << 20);
        assert_eq!(memory[77], 1);
    }
}
