//! The last turns of a filling, of which each takes the free slot that comes first in its permutation.

use super::Filling;
use crate::maglev::circle::{Circle, Walk};
use crate::maglev::divisor::Divisor;
use crate::maglev::slot::NONE;
use crate::maglev::turns::Turns;
use alloc::vec::Vec;

/// Slots looked over at once for a free one.
const SCAN: usize = 16;

/// The last free slots and turns.
pub(super) struct Tail {
    /// The free slots, in no order. While a slot is free, its entry in the table is its place in here.
    free: Vec<u32>,
    /// The turns left.
    turns: Vec<u16>,
    /// For each backend that has one of those turns: `2^64 / skip` modulo the size, see [`factors`].
    factors: Vec<u64>,
}

impl Tail {
    pub(super) fn new(filling: &Filling, turns: &mut Turns) -> Tail {
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
    pub(super) fn fill(mut self, filling: &mut Filling) {
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
#[inline(never)]
fn factors(walks: &[Walk], turns: &[u16], circle: &Circle) -> Vec<u64> {
    let modulus = Divisor::new(circle.size);
    let product_of = |a: u64, b: u64| u64::from(modulus.remainder(a * b));
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
            product = product_of(product, skip(index));
        }
    }
    let mut inverse = inverse(product, circle.size);
    for &index in distinct.iter().rev() {
        let factor = &mut factors[usize::from(index)];
        let own = modulus.remainder(*factor * inverse);
        inverse = product_of(inverse, skip(index));
        *factor = circle.extent(own);
    }
    factors
}

/// The inverse of `n`, not 0, modulo the prime `size`: n^(size-2), after Fermat.
fn inverse(n: u64, size: u32) -> u64 {
    let modulus = Divisor::new(size);
    let product_of = |a: u64, b: u64| u64::from(modulus.remainder(a * b));
    let (mut base, mut exponent, mut power) = (n, size - 2, 1);
    while exponent > 0 {
        if exponent % 2 == 1 {
            power = product_of(power, base);
        }
        base = product_of(base, base);
        exponent /= 2;
    }
    product_of(power, 1)
}

#[cfg(test)]
mod tests;
