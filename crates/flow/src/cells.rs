//! The buckets of one kind of key, as the writer and the readers share them, and the readers' look-up.
//!
//! **Readers never miss a live key.** An entry that moves is written to its new bucket before its old slot is
//! overwritten. A reader that looked into the new one before and into the old one after would miss it; so it looks at
//! the version of its first bucket again when it found nothing, and starts over if that has changed. Readers do not use
//! the filters, so nothing orders those against the keys.

use crate::bucket::Line;
use crate::hash::{Hasher, primary, secondary, tag};
use crate::memory::Memory;
use crate::state::{Place, Word};
use crate::sync::{Ordering, relax};
use std::sync::Arc;

/// How often a reader tries again before it reports that the writer is in its way.
#[cfg(not(loom))]
const TRIES_MAX: usize = 4096;
#[cfg(loom)]
const TRIES_MAX: usize = 2;

/// The writer was in the way all the time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Busy;

/// The two buckets of a key, primary first; always different.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair(pub(crate) u32, pub(crate) u32);

/// The entries of a bucket, by slot; a bucket with fewer slots leaves the rest empty.
pub(crate) type Entries<K> = [Option<(K, Word)>; 5];

/// What both sides share: memory and hash.
#[derive(Debug)]
pub(crate) struct Cells<B: 'static> {
    memory: Memory<B>,
    /// What stands for a bucket beyond the last, so that no access can fail.
    beyond: Arc<B>,
    hasher: Hasher,
}

impl<B> Clone for Cells<B> {
    fn clone(&self) -> Cells<B> {
        Cells { memory: self.memory.clone(), beyond: Arc::clone(&self.beyond), hasher: self.hasher.clone() }
    }
}

impl<B: Line> Cells<B> {
    /// Of this memory.
    pub(crate) fn new(memory: Memory<B>, hasher: Hasher) -> Cells<B> {
        Cells { memory, beyond: Arc::default(), hasher }
    }

    pub(crate) fn len(&self) -> usize {
        self.memory.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    #[inline]
    pub(crate) fn lines(&self) -> &[B] {
        &self.memory
    }

    #[inline]
    pub(crate) const fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    /// A bucket by an index made with [`pair`](Cells::pair), or counted.
    #[inline]
    pub(crate) fn bucket(&self, index: u32) -> &B {
        debug_assert!((index as usize) < self.memory.len());
        self.memory.get(index as usize).unwrap_or(&self.beyond)
    }

    #[inline]
    pub(crate) fn hash(&self, key: B::Key) -> u64 {
        B::hash(key, &self.hasher)
    }

    /// The buckets of a key with this hash.
    #[inline]
    pub(crate) fn pair(&self, hash: u64) -> Pair {
        let len = self.memory.len() as u64;
        let first = primary(hash, len);
        Pair(first, secondary(hash, len, first))
    }

    /// Anyone's look-up.
    ///
    /// # Errors
    /// [`Busy`] after many tries: the writer was stopped in the middle of a change, or makes nothing but changes here.
    pub(crate) fn read(&self, key: B::Key) -> Result<Option<(Place, Word)>, Busy> {
        self.read_in(key, self.pair(self.hash(key)))
    }

    pub(crate) fn read_in(&self, key: B::Key, pair: Pair) -> Result<Option<(Place, Word)>, Busy> {
        let (first, second) = (self.bucket(pair.0), self.bucket(pair.1));
        let look = |bucket: u32, line: &B| {
            line.read(|| line.position(key).map(|slot| (place(bucket, slot), line.word(slot))))
        };
        for _ in 0..TRIES_MAX {
            if let Some((in_first, version)) = look(pair.0, first) {
                if in_first.is_some() {
                    return Ok(in_first);
                }
                if let Some((in_second, _)) = look(pair.1, second)
                    && (in_second.is_some() || first.meta().load(Ordering::Relaxed) == version)
                // R-again
                {
                    return Ok(in_second);
                }
            }
            relax();
        }
        Err(Busy)
    }

    /// A consistent copy of a bucket's entries, for anyone; `None` when the writer was in the way all the time.
    pub(crate) fn copy(&self, index: u32) -> Option<Entries<B::Key>> {
        let line = self.bucket(index);
        for _ in 0..TRIES_MAX {
            let copy = line.read(|| {
                core::array::from_fn(|slot| {
                    if slot < B::SLOTS { line.key(slot).map(|key| (key, line.word(slot))) } else { None }
                })
            });
            if let Some((entries, _)) = copy {
                return Some(entries);
            }
            relax();
        }
        None
    }

    /// Moves an entry to a slot whose entry is no longer wanted. Its old slot still holds it, until it is overwritten.
    pub(crate) fn duplicate(&self, from: Place, to: Place) {
        let source = self.bucket(from.bucket);
        let Some(key) = source.key(usize::from(from.slot)) else { return };
        self.bucket(to.bucket).fill(usize::from(to.slot), key, source.word(usize::from(from.slot)));
        let hash = self.hash(key);
        let home = self.pair(hash).0;
        if home == to.bucket {
            self.bucket(home).returned();
        } else {
            self.bucket(home).overflowed(tag(hash));
        }
    }

    /// The primary bucket of the entry in this slot, if the slot is in its secondary.
    pub(crate) fn home_elsewhere(&self, at: Place) -> Option<u32> {
        let key = self.bucket(at.bucket).key(usize::from(at.slot))?;
        let home = primary(self.hash(key), self.len() as u64);
        (home != at.bucket).then_some(home)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "at most five slots")]
#[inline]
pub(crate) const fn place(bucket: u32, slot: usize) -> Place {
    Place { bucket, slot: slot as u8 }
}
