//! Publishing immutable values from control to a worker, so that **the worker never frees one**.
//!
//! Two queues: values go out, values come home. The worker takes the newest, sends the one it used before back, and
//! control drops what comes home: freeing a View with its Maglev tables takes far longer than a burst may. A value that
//! comes home also acknowledges that the worker has moved on.
//!
//! ```text
//! control                                             worker
//! Publisher::publish ──── depth + 1 values ────▶ Inbox::newest      (between two bursts)
//! Publisher::collect ◀─── depth + 2 values ───── Inbox::give_back
//! ```
//!
//! The publisher counts what is out (queued, or in use by the worker) and refuses above `depth + 1`; the way home has
//! room for all of these and for one value that did not come through the mailbox (the one the worker was born with), so
//! `give_back` finds room as long as the worker gives back each value once.

use statesync::spsc::{Receiver, Sender, channel};
use std::sync::Arc;

/// The worker has not yet given back enough; collect, and publish again later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MailboxFull;

impl std::fmt::Display for MailboxFull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the worker has not yet taken the values published before; try again after its next turn")
    }
}

impl std::error::Error for MailboxFull {}

/// Control's end.
#[derive(Debug)]
pub struct Publisher<T> {
    out: Sender<Arc<T>>,
    home: Receiver<Arc<T>>,
    /// Values queued or in use.
    pending: usize,
    /// Most of them.
    pending_max: usize,
}

/// The worker's end.
#[derive(Debug)]
pub struct Inbox<T> {
    from: Receiver<Arc<T>>,
    home: Sender<Arc<T>>,
}

/// A mailbox in which `depth` values (at least one) may wait besides the one in use.
pub fn mailbox<T>(depth: usize) -> (Publisher<T>, Inbox<T>) {
    let pending_max = depth.max(1).saturating_add(1);
    let (out, from) = channel(pending_max);
    let (to_home, home) = channel(pending_max.saturating_add(1));
    (Publisher { out, home, pending: 0, pending_max }, Inbox { from, home: to_home })
}

impl<T> Publisher<T> {
    /// Publishes a value. Call [`collect`](Publisher::collect) until it gives `None` first: what has come home makes
    /// room.
    ///
    /// # Errors
    /// [`MailboxFull`]: nothing was published, and our reference to the value is dropped here, on control.
    pub fn publish(&mut self, value: Arc<T>) -> Result<(), MailboxFull> {
        if self.pending >= self.pending_max {
            return Err(MailboxFull);
        }
        self.out.push(value).map_err(|_| MailboxFull)?;
        self.pending += 1;
        Ok(())
    }

    /// The next value that came home; drop it.
    pub fn collect(&mut self) -> Option<Arc<T>> {
        let value = self.home.pop()?;
        self.pending = self.pending.saturating_sub(1);
        Some(value)
    }
}

impl<T> Inbox<T> {
    /// The newest published value, or `None` when there is no new one. Values that were overtaken on the way go
    /// home unused. Two loads when nothing is new.
    #[inline]
    pub fn newest(&mut self) -> Option<Arc<T>> {
        let mut newest = self.from.pop()?;
        while let Some(newer) = self.from.pop() {
            let overtaken = std::mem::replace(&mut newest, newer);
            if let Err(overtaken) = self.home.push(overtaken) {
                // Only when more was given back than came. Leaking is the lesser evil: a worker frees nothing.
                std::mem::forget(overtaken);
            }
        }
        Some(newest)
    }

    /// Sends a value home that is no longer used.
    ///
    /// # Errors
    /// No room, which means that more was given back than came; the value is returned, to be kept, not dropped.
    #[inline]
    pub fn give_back(&mut self, value: Arc<T>) -> Result<(), Arc<T>> {
        self.home.push(value)
    }
}

#[cfg(test)]
mod tests;
