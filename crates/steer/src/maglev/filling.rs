//! Filling a table: every backend in its turn takes the next free slot of its own permutation.
//!
//! The result is defined by taking turns one by one, each walking `position, position + skip, …` modulo the size until
//! a slot is free. Done so, a build costs M ln M probes, each of some ten instructions and a division or comparison, and
//! the processor mispredicts the end of nearly every walk. Four things make it fast:
//!
//! 1. A walk's place is a fraction of 2^64, the whole circle of slots, so that a step is one addition, and the flag that
//!    says whether a slot is taken is found by a shift: see [`Walk`].
//! 2. Many turns are looked at together before any of them is taken. Who finds nothing free in the next few places is
//!    noted without a branch and looked at again. Then the turns are taken in order; where an earlier one has taken what
//!    a later one found, the later one walks on from there. That is its turn as if nobody had looked ahead: slots never
//!    become free, so what was passed over is still taken.
//! 3. Several places ahead are probed without a branch, about as many as make it likely that one of them is free.
//! 4. The last √(2M) slots are not walked to, which would cost half of all probes: where a free slot `s` stands in a
//!    permutation can be computed, `(s - position) / skip` modulo the size, so the free slots are searched for the one
//!    that comes first: see [`Tail`].

mod flags;
mod tail;

use super::circle::{Circle, FLAGS_LARGE, FLAGS_MIDDLE, FLAGS_SMALL, Walk, flags};
use super::slot::NONE;
use super::turns::Turns;
use alloc::vec::Vec;
use core::ops::Range;
use flags::{Flags, Large, Middle, Small};
use tail::Tail;

/// Most turns looked at together, whose positions so are 8 bits. Of more, too many would find what another takes first.
const BATCH: usize = 256;

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
            FLAGS_SMALL => self.walk::<Small, _>(alloc::vec![0; FLAGS_SMALL], turns),
            FLAGS_MIDDLE => self.walk::<Middle, _>(alloc::vec![0; FLAGS_MIDDLE / 64], turns),
            _ => self.walk::<Large, _>(alloc::vec![0; FLAGS_LARGE / 64], turns),
        }
        Tail::new(&self, turns).fill(&mut self);
        self.slots
    }

    /// Takes all turns but the last, which are the tail's. There must be as many zeros as flags.
    fn walk<F: Flags, T>(&mut self, mut zeros: Vec<T>, turns: &mut Turns)
    where
        for<'a> &'a mut F: TryFrom<&'a mut [T]>,
    {
        let Ok(flags) = <&mut F>::try_from(zeros.as_mut_slice()) else { return };
        let size = self.circle.size;
        let until = (2 * size).isqrt();
        let share = |part: u32| (size / part).max(until);
        // Too few probes and a walk is looked at too often; too many are wasted.
        self.take::<F, 2>(flags, turns, share(2));
        self.take::<F, 4>(flags, turns, share(8));
        self.take::<F, 8>(flags, turns, share(32));
        self.take::<F, 16>(flags, turns, until);
    }

    /// Takes turns until only `until` slots are free, with this many probes at once.
    fn take<F: Flags, const PROBES: usize>(&mut self, flags: &mut F, turns: &mut Turns, until: u32) {
        let mut copies = Vec::with_capacity(BATCH);
        let ascend = turns.ascend;
        while self.left > until {
            let order = turns.next(((self.left - until) as usize).min(BATCH));
            let range = if ascend { range(order) } else { None };
            if let Some(walks) = range.and_then(|range| self.walks.get_mut(range)) {
                look::<F, PROBES>(flags, &self.circle, walks);
                commit::<F, PROBES>(flags, &self.circle, walks, order, &mut self.slots);
            } else {
                // Of a backend that has several turns here, all but the first find its own slot taken and walk on.
                copies.clear();
                copies.extend(order.iter().map(|&index| self.walks[usize::from(index)]));
                look::<F, PROBES>(flags, &self.circle, &mut copies);
                commit::<F, PROBES>(flags, &self.circle, &mut copies, order, &mut self.slots);
                for (&index, &walk) in order.iter().zip(&copies) {
                    self.walks[usize::from(index)] = walk;
                }
            }
            self.left -= order.len() as u32;
        }
    }
}

/// The backends of ascending turns as a range, if none is left out.
fn range(ascending: &[u16]) -> Option<Range<usize>> {
    let (first, last) = (usize::from(*ascending.first()?), usize::from(*ascending.last()?));
    (last - first == ascending.len() - 1).then_some(first..last + 1)
}

/// Moves each walk, of at most [`BATCH`], on to the first slot that is free now.
#[inline(never)]
fn look<F: Flags, const PROBES: usize>(flags: &F, circle: &Circle, walks: &mut [Walk]) {
    // Positions of those whose place is taken, and all places before it.
    let mut pending = [0_u8; BATCH];
    let mut count = 0;
    for (walk, position) in walks.iter().zip(0_u32..) {
        pending[count % BATCH] = position as u8;
        count += flags.taken(walk.at) as usize;
    }
    while count > 0 {
        let looking = count;
        count = 0;
        for i in 0..looking {
            let position = pending[i % BATCH];
            let walk = &mut walks[usize::from(position)];
            let (at, taken) = go_on::<F, PROBES>(flags, circle, *walk);
            walk.at = at;
            pending[count % BATCH] = position;
            count += taken as usize;
        }
    }
}

/// Takes for each walk in order its slot or, if that has been taken meanwhile, the next that is free, and leaves the walk
/// behind it.
#[inline(never)]
fn commit<F: Flags, const PROBES: usize>(
    flags: &mut F,
    circle: &Circle,
    walks: &mut [Walk],
    order: &[u16],
    slots: &mut [u16],
) {
    for (walk, &index) in walks.iter_mut().zip(order) {
        if flags.taken(walk.at) == 1 {
            walk.at = next_free::<F, PROBES>(flags, circle, *walk);
        }
        let slot = circle.slot(walk.at);
        flags.take(walk.at);
        slots[slot as usize] = index;
        let at = if F::COUNT > FLAGS_MIDDLE { circle.place(slot) } else { walk.at };
        walk.at = at.wrapping_add(walk.stride);
    }
}

/// The next free place of a walk whose place is taken. There must be one.
#[cold]
#[inline(never)]
fn next_free<F: Flags, const PROBES: usize>(flags: &F, circle: &Circle, mut walk: Walk) -> u64 {
    loop {
        let (at, taken) = go_on::<F, PROBES>(flags, circle, walk);
        if taken == 0 {
            return at;
        }
        walk.at = at;
    }
}

/// The first free one of the `PROBES` places after a walk's own, or the last of them, and whether that is taken (1 or 0).
/// `PROBES` is a power of two up to 16.
#[inline(always)]
fn go_on<F: Flags, const PROBES: usize>(flags: &F, circle: &Circle, walk: Walk) -> (u64, u32) {
    const {
        assert!(PROBES.is_power_of_two() && PROBES <= 16, "a bit for each probe, and a shift to divide");
    }
    let ahead = |steps: u64| walk.at.wrapping_add(walk.stride.wrapping_mul(steps));
    // From the last to the first, whose bit so comes to be the lowest.
    let bits = (1..=PROBES as u64).rev().fold(0, |bits, steps| bits * 2 + flags.taken(ahead(steps)));
    let passed = bits.trailing_ones();
    let taken = passed / PROBES as u32;
    let at = ahead(u64::from(passed + 1 - taken));
    let at = if F::COUNT > FLAGS_MIDDLE { circle.place(circle.slot(at)) } else { at };
    (at, taken)
}

#[cfg(test)]
mod tests;
