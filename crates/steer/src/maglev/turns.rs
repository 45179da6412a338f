//! Whose turn it is to take a slot, and how many turns each backend has.

use super::slot::NONE;
use alloc::vec::Vec;

/// The backends in the order of their turns, from which a table is filled.
pub(super) struct Turns {
    /// Equal weights: one round, repeated for ever. Otherwise every turn once.
    order: Vec<u16>,
    /// Backends that have at least one turn, ascending.
    pub(super) members: Vec<u16>,
    /// Whether the turns that one call of `next` gives are of ascending backends.
    pub(super) ascend: bool,
    at: usize,
}

impl Turns {
    /// The turns by which `size` slots are shared out by weight.
    ///
    /// Equal weights need no order of their own: all have a turn in every round, so the members in sequence are the
    /// order. Their quotas follow from it, because equal remainders favour the lower index, as a round cut short does.
    pub(super) fn new(weights: &[u32], size: u32) -> Turns {
        let weighted = || (0..NONE).zip(weights).filter(|&(_, &weight)| weight > 0);
        let first = weighted().next().map_or(0, |(_, &weight)| weight);
        if weighted().all(|(_, &weight)| weight == first) {
            let members: Vec<u16> = weighted().map(|(index, _)| index).collect();
            return Turns { order: members.clone(), members, ascend: true, at: 0 };
        }
        let quotas = quotas(weights, size);
        let members = (0..NONE).zip(&quotas).filter(|&(_, &quota)| quota > 0).map(|(i, _)| i).collect();
        Turns { order: order(weights, &quotas), members, ascend: false, at: 0 }
    }

    /// The next turns, at least one and at most `limit`; none if there are no members. The backends of one call mostly
    /// differ: calls do not cross the end of a round of equal weights, nor are they longer than the members.
    pub(super) fn next(&mut self, limit: usize) -> &[u16] {
        if self.at == self.order.len() {
            self.at = 0;
        }
        let from = self.at;
        self.at = (from + limit.clamp(1, self.members.len().max(1))).min(self.order.len());
        &self.order[from..self.at]
    }
}

/// Each backend's number of slots: `size * w / Σw` rounded down, and one more for the largest remainders until the
/// sum is `size`; among equal remainders the lower index is served first. Needs at least one weight.
#[expect(clippy::cast_possible_truncation, reason = "a share of size is at most size")]
fn quotas(weights: &[u32], size: u32) -> Vec<u32> {
    let sum = weights.iter().map(|&weight| u64::from(weight)).sum::<u64>().max(1);
    let shares = weights.iter().map(|&weight| u64::from(size) * u64::from(weight));
    let mut quotas: Vec<u32> = shares.clone().map(|share| (share / sum) as u32).collect();
    let left = (size - quotas.iter().sum::<u32>()) as usize;
    let mut by_remainder: Vec<(u64, u32)> = shares.zip(0..).map(|(share, i)| (share % sum, i)).collect();
    if left > 0 && left < by_remainder.len() {
        by_remainder
            .select_nth_unstable_by_key(left - 1, |&(remainder, i)| (core::cmp::Reverse(remainder), i));
    }
    for &(_, i) in by_remainder.iter().take(left) {
        quotas[i as usize] += 1;
    }
    quotas
}

/// The rounds in which a backend has its turns: `floor(k * w_max / w)` for k from 0, by addition only.
struct Rounds {
    round: usize,
    whole: usize,
    /// Fraction of a round, in units of `1 / weight`.
    fraction: u64,
    part: u64,
    weight: u64,
}

impl Rounds {
    fn new(weight: u32, weight_max: u32) -> Rounds {
        Rounds {
            round: 0,
            whole: (weight_max / weight) as usize,
            fraction: 0,
            part: u64::from(weight_max % weight),
            weight: u64::from(weight),
        }
    }

    /// This turn's round; then goes on to the next turn.
    #[inline]
    fn next(&mut self) -> usize {
        let round = self.round;
        self.fraction += self.part;
        let carry = self.fraction >= self.weight;
        self.fraction -= if carry { self.weight } else { 0 };
        self.round += self.whole + usize::from(carry);
        round
    }
}

/// All turns, sorted by (round, index) by counting: two passes over the slots.
fn order(weights: &[u32], quotas: &[u32]) -> Vec<u16> {
    let weight_max = weights.iter().copied().max().unwrap_or(0);
    let backends = || (0..NONE).zip(weights.iter().zip(quotas)).filter(|&(_, (_, &quota))| quota > 0);
    // The last round of any backend. Bounded by some 3 * size: who has more than one turn has a share of at least
    // one slot, so `w_max / w` is at most about `size / quota`.
    let last = |weight: u32, quota: u32| u64::from(quota - 1) * u64::from(weight_max) / u64::from(weight);
    let rounds = backends().map(|(_, (&weight, &quota))| last(weight, quota) as usize + 1).max().unwrap_or(0);
    // First how many turns a round has, then where its next turn stands.
    let mut places = alloc::vec![0_u32; rounds];
    for (_, (&weight, &quota)) in backends() {
        let mut turn = Rounds::new(weight, weight_max);
        (0..quota).for_each(|_| places[turn.next()] += 1);
    }
    let mut turns = 0;
    for place in &mut places {
        turns += core::mem::replace(place, turns);
    }
    let mut order = alloc::vec![NONE; turns as usize];
    for (index, (&weight, &quota)) in backends() {
        let mut turn = Rounds::new(weight, weight_max);
        for _ in 0..quota {
            let place = &mut places[turn.next()];
            order[*place as usize] = index;
            *place += 1;
        }
    }
    order
}
