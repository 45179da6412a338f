//! A datagram is taken once, and not long after its sender has said something newer: who repeats what he has heard on the
//! network tells nobody anything.
//!
//! The window of RFC 4303 section 3.4.3, one for each core of each machine, over [`Header::number`](crate::datagram::Header): a number
//! is refused when it was taken already, or when one at least [`WINDOW`] above it was. Each number has a place that holds
//! the highest number taken there, so "never seen, and taken now" is one atomic maximum. All workers of a machine share the
//! windows: what a network card hashes is not under the tag, so who repeats a datagram chooses which worker gets it.
//!
//! A window alone lets through, at any later time, what its receiver never got, if its sender's core has kept silent since; the
//! network may have lost it, and a listener need not have. So the sender's clock is in the datagram as well, and what is older by
//! [`LATE_US`] than the newest that any core of that machine has said is refused. No clock of one machine is compared with another's.
//!
//! A new incarnation of a machine numbers anew. It counts as above everything that a former one said, and from its first
//! datagram on the former ones are refused.

use crate::members::MACHINES_MAX;
use crate::note::Origin;
use crate::suspicion::SILENCE_US;
#[cfg(not(loom))]
use core::sync::atomic::{AtomicU64, Ordering};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
use wire::Tick;

/// Cores of a machine, at most; see `workers.cpus`.
pub const CORES_MAX: usize = 64;
/// A number is refused when one so far above it was taken. RFC 4303 asks for 32 at least; a core counts its datagrams to all
/// machines together, so of 64 machines each sees one number in 63.
pub const WINDOW: u64 = 256;
/// What is so much older than its sender's newest, microseconds, is refused: by then its sender would be suspect.
pub const LATE_US: u64 = SILENCE_US;

/// Bits beside an incarnation, which is Unix time in seconds. Of a number they say which of those of its place it is, so an incarnation has
/// 2⁴⁰ numbers a core: at 10,000 datagrams a second for three years and a half.
const VALUE_BITS: u32 = 32;
/// The sender's clock is kept in units of 2¹⁶ us, which are as many as fit for nine years.
const TIME_SHIFT: u32 = 16;

/// Why a datagram with the right tag is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a datagram of state synchronisation that was taken before, or is too late")]
pub struct Replayed;

/// What was taken, by machine and core of the sender.
pub struct Windows {
    cores: usize,
    /// By machine: incarnation and clock of the newest.
    newest: Box<[AtomicU64]>,
    /// By machine, core and number modulo [`WINDOW`]: the highest that was taken.
    places: Box<[AtomicU64]>,
}

impl core::fmt::Debug for Windows {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Windows").finish_non_exhaustive()
    }
}

impl Default for Windows {
    fn default() -> Windows {
        Windows::new()
    }
}

/// A value of an incarnation, above those of all former ones. Of a value that does not fit nothing is taken.
fn ranked(incarnation: u32, value: u64) -> Option<u64> {
    let value = u32::try_from(value).ok()?;
    Some(u64::from(incarnation) << VALUE_BITS | u64::from(value))
}

impl Windows {
    /// Bytes of [`new`](Windows::new).
    pub const BYTES: u64 = ((MACHINES_MAX * CORES_MAX) as u64 * WINDOW + MACHINES_MAX as u64) * 8;

    /// For every machine and core that there can be: 8 MB.
    pub fn new() -> Windows {
        Windows::of(MACHINES_MAX, CORES_MAX)
    }

    /// For machines and cores below these numbers; what others send is refused.
    pub fn of(machines: usize, cores: usize) -> Windows {
        let zeros = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        Windows { cores, newest: zeros(machines), places: zeros(machines * cores * WINDOW_PLACES) }
    }

    fn place(&self, from: Origin, number: u64) -> Option<&AtomicU64> {
        let (machine, core) = (from.member.machine.index(), usize::from(from.core.0));
        if core >= self.cores {
            return None;
        }
        let at = usize::try_from(number % WINDOW).ok()?;
        self.places.get((machine * self.cores + core) * WINDOW_PLACES + at)
    }

    /// Whether a datagram would be refused, as far as is known: for who has not proved it yet.
    pub fn is_over(&self, from: Origin, number: u64, sent: Tick) -> bool {
        self.check(from, number, sent).is_none()
    }

    /// Place, rank of the number, the machine's newest, and rank of the clock.
    fn check(&self, from: Origin, number: u64, sent: Tick) -> Option<(&AtomicU64, u64, &AtomicU64, u64)> {
        let incarnation = from.member.incarnation;
        let number_rank = ranked(incarnation, number / WINDOW)?;
        let clock = ranked(incarnation, sent.0 >> TIME_SHIFT)?;
        let (place, newest) = (self.place(from, number)?, self.newest.get(from.member.machine.index())?);
        let last = newest.load(Ordering::Relaxed);
        let is_current = clock >> VALUE_BITS > last >> VALUE_BITS
            || clock >> VALUE_BITS == last >> VALUE_BITS && clock + LATE_US.div_ceil(1 << TIME_SHIFT) >= last;
        (is_current && place.load(Ordering::Relaxed) < number_rank).then_some((
            place,
            number_rank,
            newest,
            clock,
        ))
    }

    /// Takes a datagram whose tag is right. Of several that are the same one is taken, whichever workers they reach.
    ///
    /// # Errors
    /// It was taken before, or is too late.
    pub fn take(&self, from: Origin, number: u64, sent: Tick) -> Result<(), Replayed> {
        let (place, rank, newest, clock) = self.check(from, number, sent).ok_or(Replayed)?;
        // Nothing else depends on either word, so no order is needed; a word by itself has one order for all.
        if place.fetch_max(rank, Ordering::Relaxed) >= rank {
            return Err(Replayed);
        }
        newest.fetch_max(clock, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the number of a datagram good for nothing, without taking its clock: its header is right, and what came behind it is not.
    pub fn burn(&self, from: Origin, number: u64) {
        if let (Some(place), Some(rank)) =
            (self.place(from, number), ranked(from.member.incarnation, number / WINDOW))
        {
            place.fetch_max(rank, Ordering::Relaxed);
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a small number")]
const WINDOW_PLACES: usize = WINDOW as usize;

#[cfg(test)]
mod tests;
