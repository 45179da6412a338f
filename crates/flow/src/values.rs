//! What the values of a burst point to, fetched before it is needed.

use crate::burst::{BURST, Hits};
use crate::simd::prefetch;
use crate::state::Word;

impl Hits {
    /// Starts to fetch the item of every backend found: `items` is indexed by the backends' numbers. Of an item of several
    /// cache lines the first is fetched.
    #[inline]
    pub fn prefetch<T>(&self, items: &[T]) {
        let Some(nothing) = items.first() else { return };
        let count = (u32::BITS - self.found.leading_zeros()) as usize;
        for &word in self.words.iter().take(count.min(BURST)) {
            // A value that was not found names no backend, or any: no branch, for a fetch in vain is cheaper.
            prefetch(items.get(Word(word).backend().index()).unwrap_or(nothing));
        }
    }
}
