//! The queue as it runs.

use ::rtrb::{Consumer, Producer, PushError, RingBuffer};

/// The writing end.
#[derive(Debug)]
pub struct Sender<T>(Producer<T>);

/// The reading end.
#[derive(Debug)]
pub struct Receiver<T>(Consumer<T>);

/// A queue of at most `depth` items; at least one, whatever was asked.
pub fn channel<T>(depth: usize) -> (Sender<T>, Receiver<T>) {
    let (producer, consumer) = RingBuffer::new(depth.max(1));
    (Sender(producer), Receiver(consumer))
}

impl<T> Sender<T> {
    /// Puts an item in.
    ///
    /// # Errors
    /// The queue is full; the item comes back.
    #[inline]
    pub fn push(&mut self, item: T) -> Result<(), T> {
        self.0.push(item).map_err(|PushError::Full(item)| item)
    }

    /// Takes from the front of `items` as many as fit, and returns how many. One exchange of cursors for all of them, and
    /// the reader's is looked at only when what was free at the last look does not suffice.
    #[inline]
    pub fn push_burst(&mut self, items: &mut impl ExactSizeIterator<Item = T>) -> usize {
        let want = items.len();
        let room = match self.0.cached_slots() {
            room if room >= want => want,
            _ => want.min(self.0.slots()),
        };
        if room == 0 {
            return 0;
        }
        match self.0.write_chunk_uninit(room) {
            Ok(chunk) => chunk.fill_from_iter(items),
            Err(_) => 0, // `slots` never promises too much
        }
    }

    /// Items that fit now; more may fit a moment later, never fewer.
    pub fn room(&self) -> usize {
        self.0.slots()
    }

    /// Items that the reader has not taken; it may be fewer a moment later, never more.
    pub fn waiting(&self) -> usize {
        self.0.buffer().capacity() - self.0.slots()
    }
}

impl<T> Receiver<T> {
    /// Takes the oldest item out.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        self.0.pop().ok()
    }

    /// Takes out up to `max` items, oldest first, and returns how many. One exchange of cursors for all of them:
    /// several times cheaper between cores than as many calls of `pop`. The writer's cursor is looked at only when what was
    /// waiting at the last look does not suffice.
    #[inline]
    pub fn drain(&mut self, max: usize, mut f: impl FnMut(T)) -> usize {
        let count = match self.0.cached_slots() {
            waiting if waiting >= max => max,
            _ => max.min(self.0.slots()),
        };
        if count == 0 {
            return 0;
        }
        match self.0.read_chunk(count) {
            Ok(chunk) => {
                // Not `for_each`, in which rtrb keeps a panic for an iterator that is too short.
                for item in chunk {
                    f(item);
                }
                count
            }
            Err(_) => 0, // `slots` never promises too much
        }
    }

    /// Items waiting now; more may arrive a moment later, never fewer.
    pub fn waiting(&self) -> usize {
        self.0.slots()
    }
}
