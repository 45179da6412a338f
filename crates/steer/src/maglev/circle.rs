//! The circle of slots and the walks over it, in fixed point.

/// Numbers of flags, see [`Walk`]. The smallest that is larger than the table is used.
pub(super) const FLAGS_SMALL: usize = 1 << 17;
pub(super) const FLAGS_MIDDLE: usize = 1 << 20;
pub(super) const FLAGS_LARGE: usize = 1 << 24;

/// A backend's walk over the slots, in fixed point: 2^64 stands for the whole circle, so arithmetic wraps round where the
/// slots do.
///
/// Slot `s` of `M` lies at `s * 2^64 / M + c`. Its flag is the one of `F > M`, a power of two, in whose share of the
/// circle, `W = 2^64 / F`, that place falls. No two slots have the same flag, because they are more than `W` apart. And
/// a place need not be exact: `s * 2^64 / M` modulo `W` is a multiple of `W / M`, so with `c = W / 2M` no place is nearer
/// than `W / 2M` to the end of its flag's share. A stride is exact to 1, so up to `M` steps err by `M + 1`, which is less
/// than `W / 2M` while `F` is at most 2^20; with more flags the place is made exact again after each few steps.
#[derive(Clone, Copy)]
pub(super) struct Walk {
    /// The place of the slot to be probed next.
    pub(super) at: u64,
    /// `skip * 2^64 / M`, too little by less than 1.
    pub(super) stride: u64,
}

/// The circle of `M` slots.
#[derive(Clone, Copy)]
pub(super) struct Circle {
    pub(super) size: u32,
    /// `2^64 / M` rounded down, and what is missing in units of 2^-64.
    slot: (u64, u64),
    /// `c`, the place of slot 0.
    zero: u64,
}

impl Circle {
    /// A circle of `size` slots, a prime below 2^24.
    #[expect(clippy::cast_possible_truncation, reason = "halves; a quotient of 64 bits")]
    pub(super) fn new(size: u32) -> Circle {
        let slot = u128::MAX / u128::from(size);
        let zero = (1_u128 << 63) / (flags(size) as u128 * u128::from(size));
        Circle { size, slot: ((slot >> 64) as u64, slot as u64), zero: zero as u64 }
    }

    /// A walk from slot `position` by `skip`; both are below the size, and `skip` is not 0.
    pub(super) fn walk(&self, position: u32, skip: u32) -> Walk {
        Walk { at: self.place(position), stride: self.extent(skip) }
    }

    /// How much of the circle so many slots are, too little by less than 1.
    #[inline(always)]
    pub(super) fn extent(&self, slots: u32) -> u64 {
        let (whole, part) = self.slot;
        u64::from(slots) * whole + ((u128::from(slots) * u128::from(part)) >> 64) as u64
    }

    /// The place of a slot.
    #[inline(always)]
    pub(super) fn place(&self, slot: u32) -> u64 {
        self.extent(slot) + self.zero
    }

    /// The slot at a place.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the high half of a product of 64 and 32 bits")]
    pub(super) fn slot(&self, at: u64) -> u32 {
        ((u128::from(at) * u128::from(self.size)) >> 64) as u32
    }

    /// How many slots a part of the circle is, to the nearest.
    pub(super) fn count(&self, part: u64) -> u64 {
        ((u128::from(part) * u128::from(self.size) + (1 << 63)) >> 64) as u64
    }
}

/// How many flags a table of this size has.
pub(super) const fn flags(size: u32) -> usize {
    if size as usize >= FLAGS_MIDDLE {
        FLAGS_LARGE
    } else if size as usize >= FLAGS_SMALL {
        FLAGS_MIDDLE
    } else {
        FLAGS_SMALL
    }
}
