//! Which slots are taken, by places on the circle.
//!
//! A byte each where all of them stay in the second-level cache with the table itself: the place of one is found with the
//! fewest instructions. A bit each in larger tables, whose bytes would not.

use crate::maglev::circle::{FLAGS_LARGE, FLAGS_MIDDLE, FLAGS_SMALL};

/// One flag for each slot, see [`Walk`](crate::maglev::circle::Walk).
pub(super) trait Flags {
    /// Their number, a power of two.
    const COUNT: usize;

    /// 1 if the slot at this place is taken, else 0.
    fn taken(&self, at: u64) -> u32;

    /// Takes the slot at this place.
    fn take(&mut self, at: u64);
}

/// The flag of a place, of `count`.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "below count")]
pub(super) const fn flag(at: u64, count: usize) -> usize {
    (at >> (64 - count.trailing_zeros())) as usize
}

/// A byte for each flag: all of a small table.
pub(super) type Small = [u8; FLAGS_SMALL];
/// Bits in words: all of a table of up to a million slots.
pub(super) type Middle = [u64; FLAGS_MIDDLE / 64];
/// Bits in words: all of any table.
pub(super) type Large = [u64; FLAGS_LARGE / 64];

impl<const COUNT: usize> Flags for [u8; COUNT] {
    const COUNT: usize = COUNT;

    #[inline(always)]
    fn taken(&self, at: u64) -> u32 {
        u32::from(self[flag(at, COUNT)])
    }

    #[inline(always)]
    fn take(&mut self, at: u64) {
        self[flag(at, COUNT)] = 1;
    }
}

impl<const WORDS: usize> Flags for [u64; WORDS] {
    const COUNT: usize = WORDS * 64;

    #[inline(always)]
    fn taken(&self, at: u64) -> u32 {
        let flag = flag(at, Self::COUNT);
        u32::from(self[flag / 64] >> (flag % 64) & 1 == 1)
    }

    #[inline(always)]
    fn take(&mut self, at: u64) {
        let flag = flag(at, Self::COUNT);
        self[flag / 64] |= 1 << (flag % 64);
    }
}
