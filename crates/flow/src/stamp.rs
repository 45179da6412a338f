//! Entries that need no write: the common case of a busy flow, told by one comparison.

use crate::burst::{BURST, Hits};
use crate::simd::Lanes;
use crate::state::Word;
use wire::BackendId;

/// A state and a moment, as an entry holds them: all of a [`Word`] but the backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp(u32);

/// The bits of a word below the backend.
const BELOW_BACKEND: u32 = 0xfff;

impl Stamp {
    pub(crate) const fn of(word: Word) -> Stamp {
        Stamp(word.0 & BELOW_BACKEND)
    }
}

impl Hits {
    /// The positions of the entries that have this very stamp, a bit each: a packet that leaves its flow in this state has
    /// nothing to write.
    #[inline(always)]
    pub fn stamped(&self, lanes: Lanes, stamp: Stamp) -> u32 {
        lanes.equal_in(&self.words, BELOW_BACKEND, stamp.0) & self.found
    }

    /// The backend of the entry at a position that was [found](Hits::found); any number at another.
    #[inline(always)]
    pub const fn backend(&self, position: usize) -> BackendId {
        BackendId(self.words[position % BURST] >> 12)
    }
}
