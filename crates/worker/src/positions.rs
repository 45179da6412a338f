//! Sets of positions of a burst: a bit each.

use crate::BURST;

/// The positions whose bits are set, ascending.
#[inline(always)]
pub(crate) fn bits(mut mask: u32) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let position = (mask != 0).then(|| mask.trailing_zeros() as usize)?;
        mask &= mask - 1;
        Some(position)
    })
}

/// The first so many positions.
#[inline(always)]
pub(crate) const fn everything(count: usize) -> u32 {
    if count < BURST { (1 << count) - 1 } else { u32::MAX }
}
