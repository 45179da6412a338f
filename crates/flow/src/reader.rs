//! The view that other threads have of a table.

use crate::ageing::Shared;
use crate::bucket::{NarrowBucket, WideBucket};
use crate::cells::Cells;
use crate::state::{Hit, Word};
use std::sync::Arc;
use wire::{FlowKey, Tick};

/// Reads a table without locks and without being noticed by its writer. Clone it freely.
///
/// A live key is always found, also while it moves; a torn entry is never seen. If the writer is stopped by the
/// operating system in the very middle of a change, or does nothing but change the buckets in question, the reader gives
/// up after some thousand tries and reports a miss, rather than wait.
#[derive(Clone, Debug)]
pub struct Reader {
    narrow: Cells<NarrowBucket>,
    wide: Cells<WideBucket>,
    ageing: Arc<Shared>,
}

impl Reader {
    pub(crate) fn new(narrow: Cells<NarrowBucket>, wide: Cells<WideBucket>, ageing: Arc<Shared>) -> Reader {
        Reader { narrow, wide, ageing }
    }

    /// The flow's entry, unless it is expired at `now`. A `now` that is a little behind the writer's is fine.
    pub fn get(&self, key: &FlowKey, now: Tick) -> Option<Hit> {
        let found = match *key {
            FlowKey::Narrow(key) => self.narrow.read(key),
            FlowKey::Wide(key) => self.wide.read(key),
        };
        let (place, word) = found.ok()??;
        self.hit(place.bucket, word, now)
    }

    fn hit(&self, bucket: u32, word: Word, now: Tick) -> Option<Hit> {
        let idle_us = self.ageing.idle_us(word, now)?;
        Some(Hit::new(bucket, word, idle_us))
    }

    /// Number of buckets: narrow ones first, then wide ones.
    pub fn buckets(&self) -> usize {
        self.narrow.len() + self.wide.len()
    }

    /// Shows the live flows of `buckets` buckets from `from_bucket` on; those beyond the end are left out. Each bucket
    /// is a picture of one moment, the whole is not: an entry that moves meanwhile can be shown twice or not at all.
    #[expect(clippy::cast_possible_truncation, reason = "a table has less than 2^32 buckets of a kind")]
    pub fn dump(&self, from_bucket: usize, buckets: usize, now: Tick, mut f: impl FnMut(FlowKey, Hit)) {
        let end = from_bucket.saturating_add(buckets).min(self.buckets());
        for index in from_bucket..end {
            match index.checked_sub(self.narrow.len()) {
                None => {
                    let index = index as u32;
                    let entries = self.narrow.copy(index).unwrap_or_default();
                    for (key, word) in entries.into_iter().flatten() {
                        if let Some(hit) = self.hit(index, word, now) {
                            f(FlowKey::Narrow(key), hit);
                        }
                    }
                }
                Some(index) => {
                    let index = index as u32;
                    let entries = self.wide.copy(index).unwrap_or_default();
                    for (key, word) in entries.into_iter().flatten() {
                        if let Some(hit) = self.hit(index, word, now) {
                            f(FlowKey::Wide(key), hit);
                        }
                    }
                }
            }
        }
    }
}
