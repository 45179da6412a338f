//! Entries that need no write: the common case of a busy flow, told by one comparison.

use crate::burst::Hits;
use crate::state::Word;
use wire::BackendId;

/// A state and a moment, as an entry holds them: all of a [`Word`] but the backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp(u32);

/// The bits of a word below the backend.
const BELOW_BACKEND: u32 = 0xfff;

impl Stamp {
    /// One that no entry has.
    pub const NEVER: Stamp = Stamp(u32::MAX);

    pub(crate) const fn of(word: Word) -> Stamp {
        Stamp(word.0 & BELOW_BACKEND)
    }
}

impl Hits {
    /// The backend of the entry at a position, if there is one and it has this very stamp: a packet that leaves the flow
    /// in this state then has nothing to write.
    #[inline]
    pub fn current(&self, position: usize, stamp: Stamp) -> Option<BackendId> {
        let word = *self.words.get(position)?;
        let is_found = self.found >> position & 1 == 1;
        (is_found && word & BELOW_BACKEND == stamp.0).then_some(BackendId(word >> 12))
    }
}
