//! The queue as loom explores it: rtrb's two cursors and their orderings, without its cached copies of the other
//! side's cursor and its wrapping arithmetic, which only save time.
//!
//! The writer owns `tail` and reads `head`; the reader owns `head` and reads `tail`. As in rtrb, each side knows its own
//! cursor without loading it. A slot is written before `tail`
//! is published (release) and read after `tail` was seen (acquire); the same holds backwards for reuse of the slot.
#![expect(unsafe_code, reason = "a slot is shared between two threads; loom checks every access to it")]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};

struct Ring<T> {
    slots: Vec<UnsafeCell<Option<T>>>,
    head: AtomicUsize,
    tail: AtomicUsize,
}

// SAFETY: a slot is touched by the writer only while it lies outside head..tail and by the reader only while it lies
// inside; the cursors' orderings hand it over.
unsafe impl<T: Send> Sync for Ring<T> {}

/// The writing end.
pub struct Sender<T> {
    ring: Arc<Ring<T>>,
    tail: usize,
}

/// The reading end.
pub struct Receiver<T> {
    ring: Arc<Ring<T>>,
    head: usize,
}

impl<T> core::fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Sender")
    }
}

impl<T> core::fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Receiver")
    }
}

/// A queue of at most `depth` items; at least one, whatever was asked.
pub fn channel<T>(depth: usize) -> (Sender<T>, Receiver<T>) {
    let ring = Arc::new(Ring {
        slots: (0..depth.max(1)).map(|_| UnsafeCell::new(None)).collect(),
        head: AtomicUsize::new(0),
        tail: AtomicUsize::new(0),
    });
    (Sender { ring: Arc::clone(&ring), tail: 0 }, Receiver { ring, head: 0 })
}

impl<T> Sender<T> {
    /// Puts an item in.
    ///
    /// # Errors
    /// The queue is full; the item comes back.
    pub fn push(&mut self, item: T) -> Result<(), T> {
        let (ring, tail) = (&*self.ring, self.tail);
        let head = ring.head.load(Ordering::Acquire); // writer-sees-head
        if tail - head == ring.slots.len() {
            return Err(item);
        }
        // SAFETY: the slot at `tail` is outside head..tail, so the reader does not touch it.
        ring.slots[tail % ring.slots.len()].with_mut(|slot| unsafe { *slot = Some(item) });
        self.tail = tail + 1;
        ring.tail.store(self.tail, Ordering::Release); // writer-publishes-tail
        Ok(())
    }

    /// Takes from the front of `items` as many as fit, and returns how many. The reader sees all of them at once.
    pub fn push_burst(&mut self, items: &mut impl ExactSizeIterator<Item = T>) -> usize {
        let ring = &*self.ring;
        let from = self.tail;
        for item in items.take(self.room()) {
            let slot = &ring.slots[self.tail % ring.slots.len()];
            // SAFETY: less than `room` slots lie between `from` and `tail`, so this one is outside head..tail.
            slot.with_mut(|slot| unsafe { *slot = Some(item) });
            self.tail += 1;
        }
        if self.tail > from {
            ring.tail.store(self.tail, Ordering::Release); // writer-publishes-tail
        }
        self.tail - from
    }

    /// Items that fit now; more may fit a moment later, never fewer.
    pub fn room(&self) -> usize {
        self.ring.slots.len() - self.waiting()
    }

    /// Items that the reader has not taken; it may be fewer a moment later, never more.
    pub fn waiting(&self) -> usize {
        self.tail - self.ring.head.load(Ordering::Acquire)
    }
}

impl<T> Receiver<T> {
    /// Takes the oldest item out.
    pub fn pop(&mut self) -> Option<T> {
        let (ring, head) = (&*self.ring, self.head);
        let tail = ring.tail.load(Ordering::Acquire); // reader-sees-tail
        if head == tail {
            return None;
        }
        // SAFETY: the slot at `head` is inside head..tail, so the writer does not touch it.
        let item = ring.slots[head % ring.slots.len()].with_mut(|slot| unsafe { (*slot).take() });
        self.head = head + 1;
        ring.head.store(self.head, Ordering::Release); // reader-publishes-head
        item
    }

    /// Takes out up to `max` items, oldest first, and returns how many. The writer sees all their slots free at once.
    pub fn drain(&mut self, max: usize, mut f: impl FnMut(T)) -> usize {
        let ring = &*self.ring;
        let count = max.min(self.waiting());
        for at in self.head..self.head + count {
            // SAFETY: the slot is inside head..tail, so the writer does not touch it.
            let item = ring.slots[at % ring.slots.len()].with_mut(|slot| unsafe { (*slot).take() });
            item.into_iter().for_each(&mut f);
        }
        if count > 0 {
            self.head += count;
            ring.head.store(self.head, Ordering::Release); // reader-publishes-head
        }
        count
    }

    /// Items waiting now; more may arrive a moment later, never fewer.
    pub fn waiting(&self) -> usize {
        self.ring.tail.load(Ordering::Acquire) - self.head
    }
}
