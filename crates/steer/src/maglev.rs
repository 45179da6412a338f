//! Maglev hashing: which backend a slot belongs to (Eisenbud et al., "Maglev: A Fast and Reliable Software Network
//! Load Balancer", NSDI 2016, section 3.4), with weights.
//!
//! Each backend walks its own permutation of the slots, `offset + j * skip mod M`, and takes the next free slot
//! whenever it is its turn. The paper gives everyone one turn a round. Here a backend of weight `w` has its k-th turn
//! (from 0) in round `floor(k * w_max / w)`, and as many turns as its share of the slots, rounded by the largest
//! remainder. Equal weights are the paper's algorithm exactly.

mod circle;
mod divisor;
mod filling;
mod slot;
mod turns;

use crate::{hash, is_prime, next_prime};
use alloc::vec::Vec;
use circle::{Circle, Walk};
use divisor::Divisor;
use filling::Filling;
use slot::NONE;
use turns::Turns;

/// A backend's name and weight. The name decides which slots it prefers; a weight of 0 gets none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Weighted<'a> {
    /// Unique among the backends of a table.
    pub name: &'a str,
    /// Relative weight.
    pub weight: u32,
}

/// Why a table was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MaglevError {
    /// The size must be prime, or a permutation would not reach every slot.
    #[error("table size {size} is not prime; use {next}")]
    NotPrime {
        /// The size asked for.
        size: u32,
        /// The next larger prime.
        next: u32,
    },
    /// Fewer slots than backends with a weight.
    #[error(
        "table size {size} is too small for {backends} backends; use a prime of at least {want}",
        want = next_prime(100_u32.saturating_mul(*backends))
    )]
    TooSmall {
        /// The size asked for.
        size: u32,
        /// Backends with a weight.
        backends: u32,
    },
    /// The size is above [`Maglev::SIZE_MAX`].
    #[error("table size {size} is too large; use a prime up to {max}", max = Maglev::SIZE_MAX)]
    TooLarge {
        /// The size asked for.
        size: u32,
    },
    /// More backends than a slot can name.
    #[error("{backends} backends in one service, but at most {max} are possible", max = Maglev::BACKENDS_MAX)]
    TooMany {
        /// Their number.
        backends: usize,
    },
}

/// Most further slots that [`Maglev::pick`] tries before it goes through the members one by one.
const ATTEMPTS_MAX: u32 = 64;

/// A slot table.
#[derive(Clone, PartialEq, Eq)]
pub struct Maglev {
    slots: Vec<u16>,
    /// Backends that have at least one slot, ascending.
    members: Vec<u16>,
    key: [u8; 16],
}

impl core::fmt::Debug for Maglev {
    /// Without the slots and without the key, which is a secret.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Maglev")
            .field("size", &self.slots.len())
            .field("members", &self.members.len())
            .finish_non_exhaustive()
    }
}

impl Maglev {
    /// Largest table, slots: 32 MiB. The largest prime below it is 16,777,213.
    pub const SIZE_MAX: u32 = 1 << 24;
    /// Most backends of one table.
    pub const BACKENDS_MAX: usize = NONE as usize;

    /// Builds the table of `size` slots, which must be prime. Slot values are indices into `backends`. Without any
    /// weight the table is empty: every slot has no backend.
    ///
    /// Expected time is O(M log M): bounded by the walks' collisions, not by the number of backends. Memory beside
    /// the table: up to two bytes per slot, and two bytes per slot while weights differ.
    ///
    /// # Errors
    /// See [`MaglevError`].
    pub fn build(backends: &[Weighted<'_>], size: u32, key: &[u8; 16]) -> Result<Maglev, MaglevError> {
        let weights: Vec<u32> = backends.iter().map(|backend| backend.weight).collect();
        Self::check(&weights, size)?;
        let circle = Circle::new(size);
        let divisors = (Divisor::new(size), Divisor::new(size - 1));
        let walks = backends.iter().map(|backend| walk(backend, &circle, divisors, key)).collect();
        let mut turns = Turns::new(&weights, size);
        let slots = Filling::new(circle, walks).fill(&mut turns);
        Ok(Maglev { slots, members: turns.members, key: *key })
    }

    /// Whether [`build`](Self::build) can make a table of `size` slots for backends with these weights. O(√size + backends).
    ///
    /// # Errors
    /// See [`MaglevError`].
    pub fn check(weights: &[u32], size: u32) -> Result<(), MaglevError> {
        if size > Self::SIZE_MAX {
            return Err(MaglevError::TooLarge { size });
        }
        if !is_prime(size) {
            return Err(MaglevError::NotPrime { size, next: next_prime(size) });
        }
        if weights.len() > Self::BACKENDS_MAX {
            return Err(MaglevError::TooMany { backends: weights.len() });
        }
        let weighted =
            u32::try_from(weights.iter().filter(|&&weight| weight > 0).count()).unwrap_or(u32::MAX);
        if weighted > size { Err(MaglevError::TooSmall { size, backends: weighted }) } else { Ok(()) }
    }

    /// Number of slots.
    #[expect(clippy::cast_possible_truncation, reason = "built from a u32")]
    pub fn size(&self) -> u32 {
        self.slots.len() as u32
    }

    /// The slot of a hash: its high 32 bits, reduced to `0..size` by multiplication.
    #[inline]
    pub fn slot(&self, hash: u64) -> u32 {
        Maglev::slot_of(hash, self.size())
    }

    /// The slot of a hash in any table of `size`: for a caller that asks for many.
    #[inline(always)]
    pub const fn slot_of(hash: u64, size: u32) -> u32 {
        (((hash >> 32) * size as u64) >> 32) as u32
    }

    /// The backend of a slot; `None` in an empty table or for a slot outside.
    #[inline]
    pub fn at(&self, slot: u32) -> Option<u16> {
        self.slots.get(slot as usize).copied().filter(|&index| index != NONE)
    }

    /// The slot's backend, or, when `usable` says no, the next in the slot's preference list. The list is a
    /// function of the table, the key and the slot, so all machines walk it alike, and flows of a masked backend
    /// spread over the others by weight. Finds a backend whenever a member of the table is usable.
    ///
    /// At most 65 hashes and one call of `usable` per member, when nothing is usable.
    #[inline]
    pub fn pick(&self, slot: u32, usable: impl Fn(u16) -> bool) -> Option<u16> {
        let first = self.at(slot)?;
        if usable(first) {
            return Some(first);
        }
        self.next_preferred(slot, usable)
    }

    #[cold]
    fn next_preferred(&self, slot: u32, usable: impl Fn(u16) -> bool) -> Option<u16> {
        let members = self.members.len();
        // With few members, a few attempts have met them all; and nothing usable must not cost much.
        let attempts = u32::try_from(members).unwrap_or(u32::MAX).saturating_mul(4).min(ATTEMPTS_MAX);
        let mut hash = 0;
        for attempt in 1..=attempts {
            hash = hash::maglev_preference(&self.key, slot, attempt);
            if let Some(index) = self.at(self.slot(hash)).filter(|&index| usable(index)) {
                return Some(index);
            }
        }
        // From a place that differs by slot, or the first usable member would get everything.
        let start = (hash & u64::from(u32::MAX)) as usize % members.max(1);
        let (before, after) = self.members.split_at_checked(start)?;
        after.iter().chain(before).copied().find(|&index| usable(index))
    }

    /// All slots; `u16::MAX` stands for no backend.
    pub fn slots(&self) -> &[u16] {
        &self.slots
    }
}

/// The beginning of a backend's walk; none is needed without a weight. The divisors are the size and one less.
fn walk(backend: &Weighted<'_>, circle: &Circle, divisors: (Divisor, Divisor), key: &[u8; 16]) -> Walk {
    if backend.weight == 0 {
        return circle.walk(0, 1);
    }
    let (offset, skip) = hash::maglev_offset_and_skip(key, backend.name);
    circle.walk(divisors.0.remainder(offset), divisors.1.remainder(skip) + 1)
}

#[cfg(test)]
mod tests;
