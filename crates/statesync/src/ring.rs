//! The mesh: one queue for each ordered pair of workers, so that no queue ever has two writers.
//!
//! A worker holds the [`Ports`] of its core. Draining has a budget, and the turn starts where the last one stopped:
//! neither can relays starve receive, nor one busy sender the others.

use crate::spsc::{Receiver, Sender, channel};
use crossbeam_utils::CachePadded;
use wire::CoreId;

/// One worker's ends of the mesh.
#[derive(Debug)]
pub struct Ports<T> {
    core: CoreId,
    /// By core; `None` for our own. They are written to with every burst, so they share no cache lines with what another
    /// core writes to.
    peers: Vec<Option<CachePadded<Peer<T>>>>,
    /// Whom `receive` asks first.
    first: usize,
}

/// Our ends of the two queues between us and another core.
#[derive(Debug)]
struct Peer<T> {
    to: Sender<T>,
    from: Receiver<T>,
}

/// The ports of `cores` workers (at most 256, as a [`CoreId`] is 8 bits), in order of their cores; each queue holds
/// `depth` items, at least one. All memory is allocated here: `cores * (cores - 1) * depth` items.
pub fn mesh<T>(cores: usize, depth: usize) -> Vec<Ports<T>> {
    let ids = || (0..=u8::MAX).map(CoreId).take(cores);
    let cores = ids().count();
    let row = || (0..cores).map(|_| (None, None)).collect();
    let mut ends: Vec<Vec<_>> = (0..cores).map(|_| row()).collect();
    for (writer, reader) in (0..cores).flat_map(|writer| (0..cores).map(move |reader| (writer, reader))) {
        if writer != reader {
            let (sender, receiver) = channel(depth);
            ends[writer][reader].0 = Some(sender);
            ends[reader][writer].1 = Some(receiver);
        }
    }
    let padded = |(to, from)| CachePadded::new(Peer { to, from });
    let peer = |(to, from): (Option<_>, Option<_>)| to.zip(from).map(padded);
    let ports = ids().zip(ends);
    ports.map(|(core, row)| Ports { core, peers: row.into_iter().map(peer).collect(), first: 0 }).collect()
}

impl<T> Ports<T> {
    /// Of a core that has nobody to send to: nothing can be sent, and nothing comes.
    pub fn alone(core: CoreId) -> Ports<T> {
        Ports { core, peers: Vec::new(), first: 0 }
    }

    /// The core these ports belong to.
    pub fn core(&self) -> CoreId {
        self.core
    }

    /// Number of workers in the mesh, this one included.
    pub fn cores(&self) -> usize {
        self.peers.len()
    }

    /// Sends to another core.
    ///
    /// # Errors
    /// The queue is full, or `to` is this core or none of the mesh; the item comes back.
    #[inline]
    pub fn send(&mut self, to: CoreId, item: T) -> Result<(), T> {
        match self.peers.get_mut(usize::from(to.0)) {
            Some(Some(peer)) => peer.to.push(item),
            _ => Err(item),
        }
    }

    /// Sends to another core from the front of `items` as many as fit, in order, and returns how many; none if `to` is
    /// this core or none of the mesh. The rest is left in the iterator. The other core sees all of them at once.
    #[inline]
    pub fn send_burst(&mut self, to: CoreId, items: &mut impl ExactSizeIterator<Item = T>) -> usize {
        match self.peers.get_mut(usize::from(to.0)) {
            Some(Some(peer)) => peer.to.push_burst(items),
            _ => 0,
        }
    }

    /// Takes up to `budget` items from the other cores and returns how many; `f` is told the sender. Items of one
    /// sender come in the order in which they were sent.
    #[inline]
    pub fn receive(&mut self, budget: usize, mut f: impl FnMut(CoreId, T)) -> usize {
        let cores = self.peers.len();
        let mut left = budget;
        let mut at = self.first;
        for _ in 0..cores {
            if left == 0 {
                break;
            }
            #[expect(clippy::cast_possible_truncation, reason = "the mesh has at most 256 cores")]
            let sender = CoreId(at as u8);
            let peer = self.peers.get_mut(at);
            at = if at + 1 < cores { at + 1 } else { 0 };
            if let Some(Some(peer)) = peer {
                left -= peer.from.drain(left, |item| f(sender, item));
                if left == 0 {
                    self.first = at;
                }
            }
        }
        budget - left
    }

    /// Cores that have not taken yet all that was sent to them from here.
    pub fn unread(&self) -> impl Iterator<Item = CoreId> {
        let unread = |peer: &CachePadded<Peer<T>>| peer.to.waiting() > 0;
        let peers = (0..=u8::MAX).map(CoreId).zip(&self.peers);
        peers.filter(move |(_, peer)| peer.as_ref().is_some_and(unread)).map(|(core, _)| core)
    }

    /// Items on their way to this core.
    pub fn waiting(&self) -> usize {
        self.peers.iter().flatten().map(|peer| peer.from.waiting()).sum()
    }
}

#[cfg(test)]
mod tests;
