//! Buckets: one cache line each, under a sequence lock.
//!
//! | | keys | values | rest |
//! |---|---|---|---|
//! | [`NarrowBucket`] | 5 × 8 bytes | 5 × 4 | version 4 |
//! | [`WideBucket`] | 2 × 24 bytes + two ports in 4 | 2 × 4 | version 4 |
//!
//! **The lock.** Only one thread writes. It makes the version odd, changes a key and its value, makes the version even
//! again. A reader notes the version, reads, and throws away what it read if the version was odd or is another by
//! then. Four orderings carry it, named in the code and proven necessary by loom:
//! * W-odd and W-fence: the version is odd before any change can be seen.
//! * W-even (release) and R-begin (acquire): who sees the even version sees the whole change.
//! * R-fence (acquire): who sees part of a change sees that the version is not the old one.
//!
//! A value alone (state, epoch, backend of the same key) is one word and changes without the lock: a reader gets the
//! old or the new one, both of which belong to the key. If it sees a value of a later key of this slot, the fences show
//! it the version of the change in between.

use crate::state::Word;
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence, load_own};
use ahash::RandomState;
use core::hash::{BuildHasher as _, Hasher as _};
use wire::key::WideKey;

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::NarrowBucket {}
    impl Sealed for super::WideBucket {}
}

/// A line of slots, each a key with a value. Writing is for the one writer only: calls from two threads corrupt
/// entries (though nothing worse).
pub trait Bucket: sealed::Sealed + Default + Send + Sync + 'static {
    /// The keys it holds.
    type Key: Copy + PartialEq + core::fmt::Debug;
    /// How many.
    const SLOTS: usize;
    /// Fewest of them in a table: in smaller ones chance decides whether load 0.8 is reached.
    const BUCKETS_MIN: usize;

    /// The version word.
    fn version(&self) -> &AtomicU32;
    /// The values.
    fn words(&self) -> &[AtomicU32];
    /// A slot's key; `None` for an empty one.
    fn key(&self, slot: usize) -> Option<Self::Key>;
    /// Writes a slot's key, `None` to empty it. Only within [`Bucket::edit`].
    fn store_key(&self, slot: usize, key: Option<Self::Key>);
    /// Whether this key can be stored: not the one that stands for an empty slot.
    fn is_key(key: Self::Key) -> bool;
    /// Hash of a key, for placement.
    fn hash(key: Self::Key, hasher: &RandomState) -> u64;

    /// Which slot holds the key.
    #[inline]
    fn position(&self, key: Self::Key) -> Option<usize> {
        (0..Self::SLOTS).find(|&slot| self.key(slot) == Some(key))
    }

    /// A slot's value.
    #[inline]
    fn word(&self, slot: usize) -> Word {
        Word(self.words()[slot].load(Ordering::Relaxed))
    }

    /// Changes a slot's value and not its key.
    #[inline]
    fn store_word(&self, slot: usize, word: Word) {
        self.words()[slot].store(word.0, Ordering::Relaxed);
    }

    /// Changes keys under the lock.
    #[inline]
    fn edit(&self, change: impl FnOnce()) {
        let version = load_own(self.version());
        self.version().store(version.wrapping_add(1), Ordering::Relaxed); // W-odd
        fence(Ordering::Release); // W-fence
        change();
        self.version().store(version.wrapping_add(2), Ordering::Release); // W-even
    }

    /// Fills a slot, whatever was in it.
    #[inline]
    fn fill(&self, slot: usize, key: Self::Key, word: Word) {
        self.edit(|| {
            self.store_key(slot, Some(key));
            self.store_word(slot, word);
        });
    }

    /// Empties a slot.
    #[inline]
    fn empty(&self, slot: usize) {
        self.edit(|| self.store_key(slot, None));
    }

    /// Reads without the writer's knowledge. `None`: the writer was at work, try again. Else what was read, and
    /// the version it was read at.
    #[inline]
    fn read<R>(&self, reading: impl FnOnce() -> R) -> Option<(R, u32)> {
        let version = self.version().load(Ordering::Acquire); // R-begin
        if version & 1 == 1 {
            return None; // R-odd
        }
        let result = reading();
        fence(Ordering::Acquire); // R-fence
        (self.version().load(Ordering::Relaxed) == version).then_some((result, version)) // R-end
    }
}

/// Five IPv4 flows. Key 0 is an empty slot.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct NarrowBucket {
    keys: [AtomicU64; 5],
    words: [AtomicU32; 5],
    version: AtomicU32,
}

/// Two flows of any kind. A middle of 0 is an empty slot.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct WideBucket {
    keys: [[AtomicU64; 3]; 2],
    /// The destination port of slot 0 in the low half, of slot 1 in the high.
    dports: AtomicU32,
    words: [AtomicU32; 2],
    version: AtomicU32,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<NarrowBucket>() == 64 && size_of::<WideBucket>() == 64);

impl Default for NarrowBucket {
    fn default() -> NarrowBucket {
        NarrowBucket {
            keys: core::array::from_fn(|_| AtomicU64::new(0)),
            words: core::array::from_fn(|_| AtomicU32::new(0)),
            version: AtomicU32::new(0),
        }
    }
}

impl Default for WideBucket {
    fn default() -> WideBucket {
        WideBucket {
            keys: core::array::from_fn(|_| core::array::from_fn(|_| AtomicU64::new(0))),
            dports: AtomicU32::new(0),
            words: core::array::from_fn(|_| AtomicU32::new(0)),
            version: AtomicU32::new(0),
        }
    }
}

impl Bucket for NarrowBucket {
    type Key = u64;
    const SLOTS: usize = 5;
    const BUCKETS_MIN: usize = 64;

    #[inline]
    fn version(&self) -> &AtomicU32 {
        &self.version
    }

    #[inline]
    fn words(&self) -> &[AtomicU32] {
        &self.words
    }

    #[inline]
    fn key(&self, slot: usize) -> Option<u64> {
        match self.keys[slot].load(Ordering::Relaxed) {
            0 => None,
            key => Some(key),
        }
    }

    #[inline]
    fn store_key(&self, slot: usize, key: Option<u64>) {
        self.keys[slot].store(key.unwrap_or(0), Ordering::Relaxed);
    }

    #[inline]
    fn is_key(key: u64) -> bool {
        key != 0
    }

    #[inline]
    fn hash(key: u64, hasher: &RandomState) -> u64 {
        let mut hasher = hasher.build_hasher();
        hasher.write_u64(key);
        hasher.finish()
    }
}

impl WideBucket {
    /// Two relaxed accesses, of which only the lock makes one: fine for the writer, and for readers inside `read`.
    #[expect(clippy::cast_possible_truncation, reason = "the half that is asked for")]
    #[inline]
    fn dport(&self, slot: usize) -> u16 {
        (self.dports.load(Ordering::Relaxed) >> (16 * slot)) as u16
    }
}

impl Bucket for WideBucket {
    type Key = WideKey;
    const SLOTS: usize = 2;
    const BUCKETS_MIN: usize = 512;

    #[inline]
    fn version(&self) -> &AtomicU32 {
        &self.version
    }

    #[inline]
    fn words(&self) -> &[AtomicU32] {
        &self.words
    }

    #[inline]
    fn key(&self, slot: usize) -> Option<WideKey> {
        let [high, low, middle] = &self.keys[slot];
        match middle.load(Ordering::Relaxed) {
            0 => None,
            middle => Some(WideKey {
                src: [high.load(Ordering::Relaxed), low.load(Ordering::Relaxed)],
                middle,
                dport: self.dport(slot),
            }),
        }
    }

    #[inline]
    fn store_key(&self, slot: usize, key: Option<WideKey>) {
        let [high, low, middle] = &self.keys[slot];
        let key = key.unwrap_or_default();
        let shift = 16 * slot;
        let others = load_own(&self.dports) & !(0xffff << shift);
        high.store(key.src[0], Ordering::Relaxed);
        low.store(key.src[1], Ordering::Relaxed);
        middle.store(key.middle, Ordering::Relaxed);
        self.dports.store(others | u32::from(key.dport) << shift, Ordering::Relaxed);
    }

    #[inline]
    fn is_key(key: WideKey) -> bool {
        key.middle != 0
    }

    #[inline]
    fn hash(key: WideKey, hasher: &RandomState) -> u64 {
        let mut hasher = hasher.build_hasher();
        hasher.write_u64(key.src[0]);
        hasher.write_u64(key.src[1]);
        hasher.write_u64(key.middle);
        hasher.write_u64(u64::from(key.dport));
        hasher.finish()
    }
}
