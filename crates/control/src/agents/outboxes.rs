//! Where what is to be told to agents waits for their connections.
//!
//! Rule of this module: telling never waits. What was told in one go travels as one piece; an agent that does not read its
//! pieces is let go.

use super::session::SessionId;
use model::agent::{ToAgent, encode};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;

/// OutboxReceiver that may wait for one connection.
pub(crate) const PIECES_MAX: usize = 256;
/// Bytes that may wait for one connection: sixteen of the longest messages.
const BYTES_MAX: usize = 4 << 20;

/// The way to a connection.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    pieces: mpsc::Sender<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
}

/// The connection's end of it.
#[derive(Debug)]
pub(crate) struct OutboxReceiver {
    pieces: mpsc::Receiver<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
}

/// An empty one.
pub(crate) fn outbox() -> (Outbox, OutboxReceiver) {
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    let waiting = Arc::new(AtomicUsize::new(0));
    (Outbox { pieces: sender, waiting: waiting.clone() }, OutboxReceiver { pieces, waiting })
}

impl OutboxReceiver {
    /// The next piece; `None`: there will be no more.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        let piece = self.pieces.recv().await?;
        self.waiting.fetch_sub(piece.len(), Ordering::Relaxed);
        Some(piece)
    }
}

impl Outbox {
    /// Whether there was room.
    fn put(&self, piece: Vec<u8>) -> bool {
        let length = piece.len();
        if self.waiting.load(Ordering::Relaxed) + length > BYTES_MAX {
            return false;
        }
        self.waiting.fetch_add(length, Ordering::Relaxed);
        // A connection that is gone takes nothing, and says so itself.
        !matches!(self.pieces.try_send(piece), Err(mpsc::error::TrySendError::Full(_)))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Outboxes {
    outboxes: BTreeMap<SessionId, Outbox>,
    drafts: BTreeMap<SessionId, Vec<u8>>,
    slow: Vec<SessionId>,
}

impl Outboxes {
    /// A connection can be told things from now on.
    pub(crate) fn open(&mut self, id: SessionId, outbox: Outbox) {
        self.outboxes.insert(id, outbox);
    }

    /// Something to be told.
    pub(crate) fn tell(&mut self, id: SessionId, message: &ToAgent) {
        if !self.outboxes.contains_key(&id) {
            return;
        }
        match encode(message) {
            Ok(frame) => self.drafts.entry(id).or_default().extend_from_slice(&frame),
            Err(_) => self.slow.push(id),
        }
    }

    /// Nothing more will be told; what was, still arrives.
    pub(crate) fn close(&mut self, id: SessionId) {
        self.send(id);
        self.outboxes.remove(&id);
    }

    /// Sends what was told. Connections that have no room for it are given back, and not told anything any more.
    pub(crate) fn flush(&mut self) -> Vec<SessionId> {
        let drafts: Vec<SessionId> = self.drafts.keys().copied().collect();
        for id in drafts {
            self.send(id);
        }
        let slow = std::mem::take(&mut self.slow);
        for id in &slow {
            self.outboxes.remove(id);
        }
        slow
    }

    fn send(&mut self, id: SessionId) {
        let (Some(draft), Some(outbox)) = (self.drafts.remove(&id), self.outboxes.get(&id)) else { return };
        if !outbox.put(draft) {
            self.slow.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_piece_for_what_is_told_at_once_and_no_more_than_there_is_room_for() {
        let (mut all, id) = (Outboxes::default(), SessionId(1));
        let (outbox, mut pieces) = outbox();
        all.open(id, outbox);
        for sequence in 0..1000 {
            all.tell(id, &ToAgent::Alive { sequence });
        }
        assert_eq!(all.flush(), []);
        let mut bytes = pieces.pieces.try_recv().unwrap();
        for expected in 0..1000 {
            let message = model::agent::decode::<ToAgent>(&mut bytes).unwrap();
            assert_eq!(message, Some(ToAgent::Alive { sequence: expected }));
        }
        for _ in 0..PIECES_MAX {
            all.tell(id, &ToAgent::Resync {});
            assert_eq!(all.flush(), []);
        }
        all.tell(id, &ToAgent::Resync {});
        assert_eq!(all.flush(), [id], "nobody reads");
        all.tell(id, &ToAgent::Resync {});
        assert_eq!(all.flush(), []);
    }
}
