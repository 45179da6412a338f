//! Where buckets live: huge pages in production, the heap in tests and in replay.

use crate::bucket::Bucket;
use core::ops::Deref;
use std::sync::Arc;

/// Buckets, all empty at first, shared by the writer and its readers.
#[derive(Debug)]
pub enum Memory<B: 'static> {
    /// Memory that lives as long as the process, such as huge pages. Zeroed memory is empty buckets.
    Static(&'static [B]),
    /// Memory that is freed with the last of table and readers.
    Shared(Arc<[B]>),
}

impl<B> Clone for Memory<B> {
    fn clone(&self) -> Memory<B> {
        match self {
            Memory::Static(buckets) => Memory::Static(buckets),
            Memory::Shared(buckets) => Memory::Shared(Arc::clone(buckets)),
        }
    }
}

impl<B> Deref for Memory<B> {
    type Target = [B];

    #[inline]
    fn deref(&self) -> &[B] {
        match self {
            Memory::Static(buckets) => buckets,
            Memory::Shared(buckets) => buckets,
        }
    }
}

impl<B: Bucket> Memory<B> {
    /// On the heap, for this many flows.
    pub fn heap(flows: usize) -> Memory<B> {
        Memory::Shared((0..Self::buckets_for(flows)).map(|_| B::default()).collect())
    }

    /// How many buckets hold this many flows at load 0.8, which placement always reaches; at least
    /// [`Bucket::BUCKETS_MIN`].
    pub const fn buckets_for(flows: usize) -> usize {
        let buckets = flows.saturating_mul(5).div_ceil(4 * B::SLOTS);
        if buckets < B::BUCKETS_MIN { B::BUCKETS_MIN } else { buckets }
    }

    /// How many flows these buckets hold at load 0.8.
    pub fn flows(&self) -> usize {
        self.len() * B::SLOTS * 4 / 5
    }

    /// Size, bytes.
    pub fn bytes(&self) -> usize {
        size_of_val::<[B]>(self)
    }
}
