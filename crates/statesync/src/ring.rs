//! The mesh: one queue for each ordered pair of workers, so that no queue ever has two writers.
//!
//! A worker holds the [`Ports`] of its core. Draining has a budget, and the turn starts where the last one stopped:
//! neither can relays starve receive, nor one busy sender the others.

use crate::spsc::{Receiver, Sender, channel};
use wire::CoreId;

/// One worker's ends of the mesh.
#[derive(Debug)]
pub struct Ports<T> {
    core: CoreId,
    /// By receiving core; `None` for our own.
    to: Vec<Option<Sender<T>>>,
    /// By sending core; `None` for our own.
    from: Vec<Option<Receiver<T>>>,
    /// Whom `receive` asks first.
    first: usize,
}

/// The ports of `cores` workers (at most 256, as a [`CoreId`] is 8 bits), in order of their cores; each queue holds
/// `depth` items, at least one. All memory is allocated here: `cores * (cores - 1) * depth` items.
pub fn mesh<T>(cores: usize, depth: usize) -> Vec<Ports<T>> {
    let ids = || (0..=u8::MAX).map(CoreId).take(cores);
    let cores = ids().count();
    let mut ports: Vec<Ports<T>> = ids()
        .map(|core| Ports { core, to: Vec::with_capacity(cores), from: Vec::with_capacity(cores), first: 0 })
        .collect();
    for writer in 0..cores {
        for reader in 0..cores {
            let (to, from) = if writer == reader {
                (None, None)
            } else {
                let (sender, receiver) = channel(depth);
                (Some(sender), Some(receiver))
            };
            ports[writer].to.push(to);
            ports[reader].from.push(from);
        }
    }
    ports
}

impl<T> Ports<T> {
    /// The core these ports belong to.
    pub fn core(&self) -> CoreId {
        self.core
    }

    /// Number of workers in the mesh, this one included.
    pub fn cores(&self) -> usize {
        self.to.len()
    }

    /// Sends to another core.
    ///
    /// # Errors
    /// The queue is full, or `to` is this core or none of the mesh; the item comes back.
    #[inline]
    pub fn send(&mut self, to: CoreId, item: T) -> Result<(), T> {
        match self.to.get_mut(usize::from(to.0)) {
            Some(Some(sender)) => sender.push(item),
            _ => Err(item),
        }
    }

    /// Takes up to `budget` items from the other cores and returns how many; `f` is told the sender. Items of one
    /// sender come in the order in which they were sent.
    #[inline]
    pub fn receive(&mut self, budget: usize, mut f: impl FnMut(CoreId, T)) -> usize {
        let cores = self.from.len();
        let mut left = budget;
        for i in 0..cores {
            if left == 0 {
                break;
            }
            let at = (self.first + i) % cores;
            let Some(Some(receiver)) = self.from.get_mut(at) else { continue };
            #[expect(clippy::cast_possible_truncation, reason = "the mesh has at most 256 cores")]
            let sender = CoreId(at as u8);
            left -= receiver.drain(left, |item| f(sender, item));
            if left == 0 {
                self.first = (at + 1) % cores;
            }
        }
        budget - left
    }

    /// Items on their way to this core.
    pub fn waiting(&self) -> usize {
        self.from.iter().flatten().map(Receiver::waiting).sum()
    }
}

#[cfg(test)]
mod tests;
