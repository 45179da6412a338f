//! The steps of a burst look-up, each for eight keys, and the safe code for them that any CPU runs.

use crate::ageing::Clock;
use crate::bucket::{Bucket as _, Line, MARK, NarrowBucket};
use crate::burst::{LANES, LINE_BYTES};
use crate::hash::{Hasher, primary, secondary, tag};
use crate::state::Word;

/// The steps of a burst look-up that instruction sets do differently, each for eight keys.
pub(super) trait Engine: Copy {
    /// The lanes that have a key.
    #[inline(always)]
    fn present(self, keys: &[u64; LANES]) -> u32 {
        keys.iter().enumerate().fold(0, |mask, (lane, &key)| mask | u32::from(key != 0) << lane)
    }
    /// Hashes, and where both lines begin in a table of `len`.
    #[inline(always)]
    fn place(
        self,
        hasher: &Hasher,
        len: u64,
        keys: &[u64; LANES],
        hashes: &mut [u64; LANES],
        firsts: &mut [u64; LANES],
        seconds: &mut [u64; LANES],
    ) {
        for lane in 0..LANES {
            let hash = hasher.narrow(keys[lane]);
            let first = primary(hash, len);
            hashes[lane] = hash;
            firsts[lane] = u64::from(first) * LINE_BYTES;
            seconds[lane] = u64::from(secondary(hash, len, first)) * LINE_BYTES;
        }
    }
    /// Stores the words that the lines said, values or meta words, and judges them.
    #[inline(always)]
    fn judge(
        self,
        said: [u32; LANES],
        words: &mut [u32; LANES],
        hashes: &[u64; LANES],
        clock: &Clock,
    ) -> Judged {
        *words = said;
        let mut judged = Judged { live: 0, needed: 0 };
        for lane in 0..LANES {
            judged.needed |= u32::from(needs_second(said[lane], hashes[lane])) << lane;
            judged.live |= u32::from(clock.is_live(Word(said[lane]))) << lane;
        }
        judged
    }
    /// Which of these words are values that are not expired.
    #[inline(always)]
    fn live(self, words: &[u32; LANES], clock: &Clock) -> u32 {
        words
            .iter()
            .enumerate()
            .fold(0, |mask, (lane, &word)| mask | u32::from(clock.is_live(Word(word))) << lane)
    }
    /// The lowest slot that holds the key, or the one beyond the last.
    fn slot(self, line: &NarrowBucket, key: u64) -> u32;
    /// As [`Search::expired`](crate::search::Search::expired).
    #[inline(always)]
    fn expired(self, line: &NarrowBucket, clock: &Clock) -> u32 {
        slots_with(line, |word| !clock.is_live(word))
    }
}

/// What eight words say, a bit for each lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Judged {
    /// Values that are not expired.
    pub(super) live: u32,
    /// Meta words whose filter has the key's bit.
    pub(super) needed: u32,
}

/// Whether what the primary line said is that the key may be in the secondary.
#[inline(always)]
pub(super) const fn needs_second(word: u32, hash: u64) -> bool {
    (word & MARK == MARK) & (word >> tag(hash) & 1 == 1)
}

/// The lowest of these slots, or the one beyond the last.
#[inline(always)]
pub(super) fn first_slot<L: Line>(slots: u32) -> u32 {
    (slots | 1 << L::SLOTS).trailing_zeros()
}

/// Safe code that any CPU runs.
#[derive(Clone, Copy)]
pub(super) struct Baseline;

impl Engine for Baseline {
    #[inline(always)]
    fn slot(self, line: &NarrowBucket, key: u64) -> u32 {
        first_slot::<NarrowBucket>(line.matches(key))
    }
}

/// The slots with such a value, without a branch.
#[inline(always)]
pub(super) fn slots_with(line: &NarrowBucket, is_such: impl Fn(Word) -> bool) -> u32 {
    let mut mask = 0;
    for slot in 0..NarrowBucket::SLOTS {
        mask |= u32::from(is_such(line.word(slot))) << slot;
    }
    mask
}
