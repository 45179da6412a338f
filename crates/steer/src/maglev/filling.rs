//! Filling a table: every backend in its turn takes the next free slot of its own permutation.
//!
//! The result is defined by taking turns one by one, each walking `position, position + skip, …` modulo the size until
//! a slot is free. Done so, a build costs M ln M probes, each of some ten instructions and a division or comparison, and
//! the processor mispredicts the end of nearly every walk. Three things make it fast:
//!
//! 1. A walk's place is a fraction of 2^64, the whole circle of slots, so that a step is one addition, and the flag that
//!    says whether a slot is free is found by a shift: see [`Walk`].
//! 2. Several places ahead are probed without a branch, as many as make it likely that one of them is free.
//! 3. The last √(2M) slots are not walked to, which would cost half of all probes: where a free slot `s` stands in a
//!    permutation can be computed, `(s - position) / skip` modulo the size, so the free slots are searched for the one
//!    that comes first: see [`Tail`].

use super::NONE;
use super::turns::Turns;
use alloc::vec::Vec;

/// Numbers of flags, see [`Walk`]. The smallest that is larger than the table is used.
const FLAGS_SMALL: usize = 1 << 17;
const FLAGS_MIDDLE: usize = 1 << 20;
const FLAGS_LARGE: usize = 1 << 24;
/// Slots looked over at once for a free one.
const SCAN: usize = 64;

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
    at: u64,
    /// `skip * 2^64 / M`, too little by less than 1.
    stride: u64,
}

/// The circle of `M` slots.
#[derive(Clone, Copy)]
pub(super) struct Circle {
    size: u32,
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
    fn extent(&self, slots: u32) -> u64 {
        let (whole, part) = self.slot;
        u64::from(slots) * whole + ((u128::from(slots) * u128::from(part)) >> 64) as u64
    }

    /// The place of a slot.
    #[inline(always)]
    fn place(&self, slot: u32) -> u64 {
        self.extent(slot) + self.zero
    }

    /// The slot at a place.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the high half of a product of 64 and 32 bits")]
    fn slot(&self, at: u64) -> u32 {
        ((u128::from(at) * u128::from(self.size)) >> 64) as u32
    }

    /// How many slots a part of the circle is, to the nearest.
    fn count(&self, part: u64) -> u64 {
        ((u128::from(part) * u128::from(self.size) + (1 << 63)) >> 64) as u64
    }
}

/// How many flags a table of this size has.
const fn flags(size: u32) -> usize {
    if size as usize >= FLAGS_MIDDLE {
        FLAGS_LARGE
    } else if size as usize >= FLAGS_SMALL {
        FLAGS_MIDDLE
    } else {
        FLAGS_SMALL
    }
}

/// A table under construction.
pub(super) struct Filling {
    slots: Vec<u16>,
    /// Free slots.
    left: u32,
    circle: Circle,
    walks: Vec<Walk>,
}

impl Filling {
    /// An empty table, and the backends' walks at their beginning.
    pub(super) fn new(circle: Circle, walks: Vec<Walk>) -> Filling {
        Filling { slots: alloc::vec![NONE; circle.size as usize], left: circle.size, circle, walks }
    }

    /// Takes all turns; the slots.
    pub(super) fn fill(mut self, turns: &mut Turns) -> Vec<u16> {
        if turns.members.is_empty() {
            return self.slots;
        }
        match flags(self.circle.size) {
            FLAGS_SMALL => self.walk::<FLAGS_SMALL>(turns),
            FLAGS_MIDDLE => self.walk::<FLAGS_MIDDLE>(turns),
            _ => self.walk::<FLAGS_LARGE>(turns),
        }
        Tail::new(&self, turns).fill(&mut self);
        self.slots
    }

    /// Takes all turns but the last, which are the tail's.
    fn walk<const FLAGS: usize>(&mut self, turns: &mut Turns) {
        let mut free = alloc::vec![1_u8; FLAGS];
        let Ok(free) = <&mut [u8; FLAGS]>::try_from(free.as_mut_slice()) else { return };
        let until = (2 * self.circle.size).isqrt();
        let share = |part: u32| (self.circle.size / part).max(until);
        let (half, quarter, eighth) = (share(2), share(4), share(8));
        // Too few probes and the processor mispredicts how many times it goes round; too many are wasted.
        self.take::<FLAGS, 2>(free, turns, half.max(self.circle.size - quarter));
        self.take::<FLAGS, 4>(free, turns, half);
        self.take::<FLAGS, 8>(free, turns, quarter);
        self.take::<FLAGS, 12>(free, turns, eighth);
        self.take::<FLAGS, 16>(free, turns, until);
    }

    /// Takes turns until only `until` slots are free, with this many probes at once.
    fn take<const FLAGS: usize, const PROBES: usize>(
        &mut self,
        free: &mut [u8; FLAGS],
        turns: &mut Turns,
        until: u32,
    ) {
        while self.left > until {
            let batch = turns.next((self.left - until) as usize);
            for &index in batch {
                let walk = &mut self.walks[usize::from(index)];
                let (at, slot) = next_free::<FLAGS, PROBES>(free, *walk, &self.circle);
                free[flag::<FLAGS>(at)] = 0;
                self.slots[slot as usize] = index;
                let at = if FLAGS > FLAGS_MIDDLE { self.circle.place(slot) } else { at };
                walk.at = at.wrapping_add(walk.stride);
            }
            self.left -= batch.len() as u32;
        }
    }
}

/// The flag of a place.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "below FLAGS")]
const fn flag<const FLAGS: usize>(at: u64) -> usize {
    (at >> (64 - FLAGS.trailing_zeros())) as usize
}

/// The first free slot of a walk and its place. There must be one.
#[inline(always)]
fn next_free<const FLAGS: usize, const PROBES: usize>(
    free: &[u8; FLAGS],
    walk: Walk,
    circle: &Circle,
) -> (u64, u32) {
    let Walk { mut at, stride } = walk;
    loop {
        // From the last to the first, whose bit so comes to be the lowest.
        let end = at.wrapping_add(stride.wrapping_mul(PROBES as u64));
        let mut probe = end;
        let mut found = 0_u32;
        for _ in 0..PROBES {
            probe = probe.wrapping_sub(stride);
            found = found * 2 + u32::from(free[flag::<FLAGS>(probe)]);
        }
        if found != 0 {
            at = at.wrapping_add(stride.wrapping_mul(u64::from(found.trailing_zeros())));
            return (at, circle.slot(at));
        }
        at = if FLAGS > FLAGS_MIDDLE { circle.place(circle.slot(end)) } else { end };
    }
}

/// The last free slots and turns.
struct Tail {
    /// The free slots, in no order. While a slot is free, its entry in the table is its place in here.
    free: Vec<u32>,
    /// The turns left.
    turns: Vec<u16>,
    /// For each backend that has one of those turns: `2^64 / skip` modulo the size, see [`factors`].
    factors: Vec<u64>,
}

impl Tail {
    fn new(filling: &Filling, turns: &mut Turns) -> Tail {
        let mut free = Vec::with_capacity(filling.left as usize);
        for (slots, from) in filling.slots.chunks(SCAN).zip((0_u32..).step_by(SCAN)) {
            // Without a branch, so that eight slots are compared by one instruction.
            if slots.iter().fold(false, |any, &index| any | (index == NONE)) {
                let all = (from..).zip(slots);
                free.extend(all.filter(|&(_, &index)| index == NONE).map(|(slot, _)| slot));
            }
        }
        let mut order = Vec::with_capacity(free.len());
        while order.len() < free.len() {
            order.extend_from_slice(turns.next(free.len() - order.len()));
        }
        let factors = factors(&filling.walks, &order, &filling.circle);
        Tail { free, turns: order, factors }
    }

    #[inline(never)]
    fn fill(mut self, filling: &mut Filling) {
        let circle = filling.circle;
        for (&slot, place) in self.free.iter().zip(0_u16..) {
            filling.slots[slot as usize] = place;
        }
        for &index in &self.turns {
            let walk = &mut filling.walks[usize::from(index)];
            let factor = self.factors[usize::from(index)];
            let steps = circle.count(least_product(&self.free, circle.slot(walk.at), factor));
            let at = walk.at.wrapping_add(walk.stride.wrapping_mul(steps));
            let slot = circle.slot(at);
            walk.at = circle.place(slot).wrapping_add(walk.stride);
            let place = core::mem::replace(&mut filling.slots[slot as usize], index);
            self.free.swap_remove(usize::from(place));
            if let Some(&moved) = self.free.get(usize::from(place)) {
                filling.slots[moved as usize] = place;
            }
        }
        filling.left = 0;
    }
}

/// The least of `(slot - position) * factor` modulo 2^64: it belongs to the slot that comes first in the permutation.
///
/// With `factor = 2^64 * (1/skip mod M) / M`, too little by less than 2, the product is `2^64 * j / M` for the slot j steps
/// ahead, but for an error below 2^25 (a distance times that), while two slots' values differ by at least
/// `2^64 / M`, which is 2^40 or more: the order is exact, and j is recovered by rounding.
#[inline]
fn least_product(slots: &[u32], position: u32, factor: u64) -> u64 {
    let product = |slot: u32| (u64::from(slot).wrapping_sub(u64::from(position))).wrapping_mul(factor);
    // Four minima, or each comparison would wait for the one before.
    let (chunks, rest) = slots.as_chunks::<4>();
    let mut least = [u64::MAX; 4];
    for chunk in chunks {
        for (least, &slot) in least.iter_mut().zip(chunk) {
            *least = (*least).min(product(slot));
        }
    }
    rest.iter().map(|&slot| product(slot)).chain(least).fold(u64::MAX, u64::min)
}

/// For each backend in `turns` the inverse of its skip modulo the size as a fraction of 2^64; 0 for others.
///
/// One inversion for all (Montgomery's trick): the inverse of a product gives each factor's by multiplication.
#[expect(clippy::cast_possible_truncation, reason = "remainders of a u32")]
#[inline(never)]
fn factors(walks: &[Walk], turns: &[u16], circle: &Circle) -> Vec<u64> {
    let modulus = u64::from(circle.size);
    let skip = |index: u16| circle.count(walks[usize::from(index)].stride);
    let mut factors = alloc::vec![0; walks.len()];
    let mut distinct = Vec::with_capacity(turns.len().min(walks.len()));
    // Before each backend the product of the skips of those before it.
    let mut product = 1;
    for &index in turns {
        let factor = &mut factors[usize::from(index)];
        if *factor == 0 {
            *factor = product;
            distinct.push(index);
            product = product * skip(index) % modulus;
        }
    }
    let mut inverse = inverse(product as u32, circle.size);
    for &index in distinct.iter().rev() {
        let factor = &mut factors[usize::from(index)];
        let own = *factor * inverse % modulus;
        inverse = inverse * skip(index) % modulus;
        *factor = circle.extent(own as u32);
    }
    factors
}

/// The inverse of `n`, not 0, modulo the prime `size`: n^(size-2), after Fermat.
fn inverse(n: u32, size: u32) -> u64 {
    let modulus = u64::from(size);
    let (mut base, mut exponent, mut power) = (u64::from(n), size - 2, 1);
    while exponent > 0 {
        if exponent % 2 == 1 {
            power = power * base % modulus;
        }
        base = base * base % modulus;
        exponent /= 2;
    }
    power % modulus
}

#[cfg(test)]
mod tests;
