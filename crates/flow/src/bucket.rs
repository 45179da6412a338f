//! Buckets: one cache line each, under a sequence lock.
//!
//! | | keys | values | rest |
//! |---|---|---|---|
//! | [`NarrowBucket`] | 5 × 8 bytes | 5 × 4 | meta 4 |
//! | [`WideBucket`] | 2 × 24 bytes + two ports in 4 | 2 × 4 | meta 4 |
//!
//! **The meta word** is the version of the lock (bits 31 to 15) and what is known of keys that have this bucket as
//! their primary but live in their secondary: how many (bits 14 to 11, 15 stands for more and stays), and a Bloom filter of
//! them, one bit a key (bits 7 to 0). Only a look-up that finds its bit set need go on to the secondary bucket, so that
//! nearly all negative look-ups end after one line (Cuckoo++, arXiv 1712.09624). The filter is emptied when the count
//! comes down to zero; a bit that stays until then costs a line now and then, never an answer.
//!
//! Where a value has its state (bits 10 to 8) the meta word has one that no flow is in ([`NO_STATE`]) and that every clock
//! takes to be expired. So a burst look-up keeps one word a key, a value or a meta word, and what was found, what is live and who
//! must look further are each one comparison of eight such words.
//!
//! **The lock.** Only one thread writes. It makes the version odd, changes a key and its value, makes the version even
//! again. A reader notes the version, reads, and throws away what it read if the version was odd or is another by
//! then. The orderings that carry it, named in the code and proven necessary by loom:
//! * W-odd and W-fence: the version is odd before any change can be seen.
//! * W-even (release) and R-begin (acquire): who sees the even version sees the whole change.
//! * W-overflow (release): the same for who sees the version together with a newer filter.
//! * R-fence (acquire): who sees part of a change sees that the version is not the old one.
//!
//! A value alone (state, epoch, backend of the same key) is one word and changes without the lock: a reader gets the
//! old or the new one, both of which belong to the key. If it sees a value of a later key of this slot, the fences show
//! it the version of the change in between.
//!
//! **The version wraps** after 2^16 changes of one bucket. A reader is deceived if exactly so many, or a multiple, happen
//! between its two looks, some ten nanoseconds apart unless it is stopped there. The smallest table with all of twelve
//! million changes a second needs a third of a second for so many in one bucket, one of a million flows twenty minutes.

use crate::bits::bits;
use crate::hash::Hasher;
use crate::state::{NO_STATE, Word};
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence, load_own};
use wire::key::WideKey;

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::NarrowBucket {}
    impl Sealed for super::WideBucket {}
}

/// A line of slots, each a key with a value. A default one is empty, as is zeroed memory.
pub trait Bucket: sealed::Sealed + Default + Send + Sync + 'static {
    /// How many.
    const SLOTS: usize;
    /// Fewest of them in a table: in smaller ones chance decides whether load 0.8 is reached.
    const BUCKETS_MIN: usize;
}

/// One of the version, in the meta word.
const VERSION: u32 = 1 << 15;
/// One of the count of overflowed keys.
const OVERFLOW: u32 = 1 << 11;
/// The count's bits; all of them set is for good.
const OVERFLOW_MASK: u32 = 15 << 11;
/// Filter and count.
const OVERFLOW_ALL: u32 = OVERFLOW_MASK | 0xff;
/// In every meta word of a table, where values have their state.
pub(crate) const MARK: u32 = NO_STATE << 8;

/// What the writer sees of a bucket at one look: slots, or the one beyond the last for none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Probe {
    /// Holds the key.
    pub(crate) slot: u32,
    /// Is empty.
    pub(crate) empty: u32,
}

/// What a bucket can do. Writing is for the one writer only: calls from two threads corrupt entries.
pub(crate) trait Line: Bucket {
    /// The keys it holds.
    type Key: Copy + PartialEq + core::fmt::Debug;

    /// The values, and then the meta word.
    fn tail(&self) -> &[AtomicU32];
    /// A slot's key; `None` for an empty one, and for one that does not exist.
    fn key(&self, slot: usize) -> Option<Self::Key>;
    /// Writes a slot's key, `None` to empty it. Only within [`Line::edit`].
    fn store_key(&self, slot: usize, key: Option<Self::Key>);
    /// Whether this key can be stored: not the one that stands for an empty slot.
    fn is_key(key: Self::Key) -> bool;
    /// Hash of a key, for placement.
    fn hash(key: Self::Key, hasher: &Hasher) -> u64;
    /// The slots that hold the key, a bit each, without a branch. An empty slot holds the key that is none.
    fn matches(&self, key: Self::Key) -> u32;
    /// The slots in use, a bit each, without a branch.
    fn occupied(&self) -> u32;

    /// The lowest slot that holds the key, or the one beyond the last. For the writer.
    #[inline]
    fn slot_of(&self, key: Self::Key) -> u32 {
        (self.matches(key) | 1 << Self::SLOTS).trailing_zeros()
    }

    /// The lowest empty slot, or the one beyond the last. For the writer.
    #[inline]
    fn empty_slot(&self) -> u32 {
        (!self.occupied() & Self::ALL | 1 << Self::SLOTS).trailing_zeros()
    }

    /// All slots.
    const ALL: u32 = (1 << Self::SLOTS) - 1;

    /// Version and filter.
    #[inline]
    fn meta(&self) -> &AtomicU32 {
        &self.tail()[Self::SLOTS]
    }

    /// Which slot holds the key; for readers, who stop at the first.
    #[inline]
    fn position(&self, key: Self::Key) -> Option<usize> {
        (0..Self::SLOTS).find(|&slot| self.key(slot) == Some(key))
    }

    /// A slot's value; of a slot that does not exist, any.
    #[inline]
    fn word(&self, slot: usize) -> Word {
        debug_assert!(slot < Self::SLOTS);
        Word(self.tail().get(slot).map_or(0, |word| word.load(Ordering::Relaxed)))
    }

    /// Changes a slot's value and not its key.
    #[inline]
    fn store_word(&self, slot: usize, word: Word) {
        debug_assert!(slot < Self::SLOTS);
        if let Some(value) = self.tail().get(slot) {
            value.store(word.0, Ordering::Relaxed);
        }
    }

    /// Changes keys under the lock.
    #[inline]
    fn edit(&self, change: impl FnOnce()) {
        let meta = load_own(self.meta());
        self.meta().store(meta.wrapping_add(VERSION), Ordering::Relaxed); // W-odd
        fence(Ordering::Release); // W-fence
        change();
        self.meta().store(meta.wrapping_add(2 * VERSION), Ordering::Release); // W-even
    }

    /// Fills a slot, whatever was in it.
    #[inline]
    fn fill(&self, slot: usize, key: Self::Key, word: Word) {
        self.edit(|| {
            self.store_key(slot, Some(key));
            self.store_word(slot, word);
        });
    }

    /// Empties slots, a bit each.
    #[inline]
    fn empty(&self, slots: u32) {
        self.edit(|| bits(slots).for_each(|slot| self.store_key(slot, None)));
    }

    /// Whether a key with this tag may have overflowed out of this bucket.
    #[inline]
    fn may_overflow(&self, tag: u32) -> bool {
        load_own(self.meta()) >> tag & 1 == 1
    }

    /// A key with this tag has overflowed out of this bucket, its primary one.
    #[inline]
    fn overflowed(&self, tag: u32) {
        let meta = load_own(self.meta());
        let counted = if meta & OVERFLOW_MASK == OVERFLOW_MASK { meta } else { meta + OVERFLOW };
        self.meta().store(counted | 1 << tag, Ordering::Release); // W-overflow
    }

    /// One of them is gone, or has come back. Without a branch: the line is rarely in the cache.
    #[inline]
    fn returned(&self) {
        let meta = load_own(self.meta());
        let count = meta & OVERFLOW_MASK;
        let is_known = count != OVERFLOW_MASK && count != 0;
        let left = meta.wrapping_sub(if is_known { OVERFLOW } else { 0 });
        let left = if count == OVERFLOW { meta & !OVERFLOW_ALL } else { left };
        self.meta().store(left, Ordering::Release); // W-overflow
    }

    /// How many there are; 15 for more.
    #[cfg(test)]
    fn overflow_count(&self) -> usize {
        ((load_own(self.meta()) & OVERFLOW_MASK) / OVERFLOW) as usize
    }

    /// All of them are gone.
    fn returned_all(&self) {
        let meta = load_own(self.meta());
        self.meta().store(meta & !OVERFLOW_ALL, Ordering::Release); // W-overflow
    }

    /// Takes an untouched bucket for a table, so that no other table does. False if it is not untouched.
    fn claim(&self) -> bool {
        let claim = (2 * VERSION) | MARK;
        self.meta().compare_exchange(0, claim, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            && self.occupied() == 0
    }

    /// Reads without the writer's knowledge. `None`: the writer was at work, try again. Else what was read, and
    /// the meta word it was read at.
    #[inline]
    fn read<R>(&self, reading: impl FnOnce() -> R) -> Option<(R, u32)> {
        let meta = self.meta().load(Ordering::Acquire); // R-begin
        if meta & VERSION != 0 {
            return None; // R-odd
        }
        let result = reading();
        fence(Ordering::Acquire); // R-fence
        (self.meta().load(Ordering::Relaxed) == meta).then_some((result, meta)) // R-end
    }
}

/// Five IPv4 flows. Key 0 is an empty slot.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct NarrowBucket {
    pub(crate) keys: [AtomicU64; 5],
    pub(crate) tail: [AtomicU32; 6],
}

/// Two flows of any kind. A middle of 0 is an empty slot.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct WideBucket {
    keys: [[AtomicU64; 3]; 2],
    /// The destination port of slot 0 in the low half, of slot 1 in the high.
    dports: AtomicU32,
    pub(crate) tail: [AtomicU32; 3],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<NarrowBucket>() == 64 && size_of::<WideBucket>() == 64);

impl Default for NarrowBucket {
    fn default() -> NarrowBucket {
        NarrowBucket {
            keys: core::array::from_fn(|_| AtomicU64::new(0)),
            tail: core::array::from_fn(|_| AtomicU32::new(0)),
        }
    }
}

impl Default for WideBucket {
    fn default() -> WideBucket {
        WideBucket {
            keys: core::array::from_fn(|_| core::array::from_fn(|_| AtomicU64::new(0))),
            dports: AtomicU32::new(0),
            tail: core::array::from_fn(|_| AtomicU32::new(0)),
        }
    }
}

impl Bucket for NarrowBucket {
    const SLOTS: usize = 5;
    const BUCKETS_MIN: usize = 64;
}

impl Line for NarrowBucket {
    type Key = u64;

    #[inline]
    fn tail(&self) -> &[AtomicU32] {
        &self.tail
    }

    #[inline]
    fn key(&self, slot: usize) -> Option<u64> {
        debug_assert!(slot < Self::SLOTS);
        let key = self.keys.get(slot)?.load(Ordering::Relaxed);
        (key != 0).then_some(key)
    }

    #[inline]
    fn store_key(&self, slot: usize, key: Option<u64>) {
        debug_assert!(slot < Self::SLOTS);
        if let Some(place) = self.keys.get(slot) {
            place.store(key.unwrap_or(0), Ordering::Relaxed);
        }
    }

    #[inline]
    fn is_key(key: u64) -> bool {
        key != 0
    }

    #[inline]
    fn hash(key: u64, hasher: &Hasher) -> u64 {
        hasher.narrow(key)
    }

    #[inline]
    fn matches(&self, key: u64) -> u32 {
        let mut mask = 0;
        for (slot, word) in self.keys.iter().enumerate() {
            mask |= u32::from(word.load(Ordering::Relaxed) == key) << slot;
        }
        mask
    }

    #[inline]
    fn occupied(&self) -> u32 {
        self.matches(0) ^ Self::ALL
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
    const SLOTS: usize = 2;
    const BUCKETS_MIN: usize = 512;
}

impl Line for WideBucket {
    type Key = WideKey;

    #[inline]
    fn tail(&self) -> &[AtomicU32] {
        &self.tail
    }

    #[inline]
    fn key(&self, slot: usize) -> Option<WideKey> {
        debug_assert!(slot < Self::SLOTS);
        let [high, low, middle] = self.keys.get(slot)?;
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
        debug_assert!(slot < Self::SLOTS);
        let Some([high, low, middle]) = self.keys.get(slot) else { return };
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
    fn hash(key: WideKey, hasher: &Hasher) -> u64 {
        hasher.wide(&key)
    }

    #[inline]
    fn matches(&self, key: WideKey) -> u32 {
        let mut mask = 0;
        for (slot, [high, low, middle]) in self.keys.iter().enumerate() {
            let difference = (high.load(Ordering::Relaxed) ^ key.src[0])
                | (low.load(Ordering::Relaxed) ^ key.src[1])
                | (middle.load(Ordering::Relaxed) ^ key.middle)
                | u64::from(self.dport(slot) ^ key.dport);
            mask |= u32::from(difference == 0) << slot;
        }
        mask
    }

    #[inline]
    fn occupied(&self) -> u32 {
        let mut mask = 0;
        for (slot, [_, _, middle]) in self.keys.iter().enumerate() {
            mask |= u32::from(middle.load(Ordering::Relaxed) != 0) << slot;
        }
        mask
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn overflow_is_counted_and_forgotten_at_zero() {
        let line = NarrowBucket::default();
        line.fill(0, 7, Word(1));
        let version = load_own(line.meta()) & !OVERFLOW_ALL;
        for tag in [3, 5, 3] {
            line.overflowed(tag);
        }
        assert!(line.may_overflow(3) && line.may_overflow(5) && !line.may_overflow(4));
        line.returned();
        line.returned();
        assert!(line.may_overflow(3) && line.may_overflow(5), "one of them is still out there");
        line.returned();
        assert_eq!(load_own(line.meta()), version, "nothing left, and the version untouched");
        line.returned();
        assert_eq!(load_own(line.meta()), version);
        // More than can be counted: for good, until all are gone.
        for tag in (0..8).cycle().take(20) {
            line.overflowed(tag);
        }
        for _ in 0..40 {
            line.returned();
        }
        assert!((0..8).all(|tag| line.may_overflow(tag)));
        line.returned_all();
        assert_eq!(load_own(line.meta()), version);
        assert_eq!((line.key(0), line.word(0)), (Some(7), Word(1)));
    }

    #[test]
    fn the_version_wraps_and_leaves_the_filter_alone() {
        let line = NarrowBucket::default();
        line.overflowed(6);
        for _ in 0..=1 << 16 {
            line.edit(|| {});
        }
        assert_eq!(load_own(line.meta()), (2 * VERSION) | OVERFLOW | (1 << 6));
    }

    #[test]
    fn a_bucket_is_claimed_once_and_only_when_empty() {
        let line = WideBucket::default();
        assert!(line.claim() && !line.claim());
        let line = NarrowBucket::default();
        line.keys[1].store(1, Ordering::Relaxed);
        assert!(!line.claim());
    }
}
