//! Frames in memory: the back end of tests, fuzzers, replay and simulation. Counts the frames in existence, so that a
//! leak shows.

use crate::io::{BURST, Frame, Frames, NoRoom, Outcome, PacketIo, RxMeta};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use wire::PortId;

/// Room in front of every frame, as a DPDK mbuf has.
pub const HEADROOM: usize = 128;
/// Longest frame of our own.
pub const ROOM: usize = 9_216;

/// A frame in memory.
#[derive(Debug)]
pub struct MemFrame {
    buffer: Vec<u8>,
    start: usize,
    meta: RxMeta,
    live: Arc<AtomicUsize>,
}

impl MemFrame {
    fn new(bytes: &[u8], meta: RxMeta, live: &Arc<AtomicUsize>) -> MemFrame {
        live.fetch_add(1, Relaxed);
        let mut buffer = vec![0xA5; HEADROOM];
        buffer.extend_from_slice(bytes);
        MemFrame { buffer, start: HEADROOM, meta, live: Arc::clone(live) }
    }
}

impl Drop for MemFrame {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Relaxed);
    }
}

impl Frame for MemFrame {
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..]
    }
    fn meta(&self) -> RxMeta {
        self.meta
    }
    fn set_meta(&mut self, meta: RxMeta) {
        self.meta = meta;
    }
    fn grow_front(&mut self, n: usize) -> Result<&mut [u8], NoRoom> {
        self.start = self.start.checked_sub(n).ok_or(NoRoom)?;
        Ok(self.bytes_mut())
    }
    fn set_len(&mut self, len: usize) -> Result<(), NoRoom> {
        if len > self.bytes().len().max(ROOM) {
            return Err(NoRoom);
        }
        // Arbitrary contents are promised; a pattern shows where somebody relied on zeros.
        self.buffer.resize(self.start + len, 0xA5);
        Ok(())
    }
}

/// Queues of frames in memory, one pair a port.
#[derive(Debug)]
pub struct MemIo {
    received: Vec<VecDeque<MemFrame>>,
    /// What was sent: port, what was known of the frame, bytes.
    pub sent: Vec<(PortId, RxMeta, Vec<u8>)>,
    /// How every received frame ended.
    pub outcomes: Vec<(RxMeta, Outcome)>,
    /// Frames a transmit queue accepts in one call; the default is a whole burst.
    pub tx_room: usize,
    /// Buffers left for packets of our own; the default is no limit.
    pub buffers: usize,
    live: Arc<AtomicUsize>,
}

impl MemIo {
    /// Empty queues for this many ports.
    pub fn new(ports: usize) -> MemIo {
        MemIo {
            received: (0..ports).map(|_| VecDeque::new()).collect(),
            sent: Vec::new(),
            outcomes: Vec::new(),
            tx_room: BURST,
            buffers: usize::MAX,
            live: Arc::default(),
        }
    }

    /// Appends a frame to a port's receive queue; a port that does not exist receives nothing.
    pub fn push(&mut self, port: PortId, bytes: &[u8], meta: RxMeta) {
        let frame = MemFrame::new(bytes, RxMeta { port, ..meta }, &self.live);
        if let Some(queue) = self.received.get_mut(port.index()) {
            queue.push_back(frame);
        }
    }

    /// Frames in existence: waiting to be received, or somewhere in the engine.
    pub fn live(&self) -> usize {
        self.live.load(Relaxed)
    }
}

impl PacketIo for MemIo {
    type Frame = MemFrame;
    const OBSERVES: bool = true;

    fn rx(&mut self, port: PortId, burst: &mut Frames<MemFrame>) {
        if let Some(queue) = self.received.get_mut(port.index()) {
            let count = queue.len().min(burst.remaining_capacity());
            burst.extend(queue.drain(..count));
        }
    }

    fn tx(&mut self, port: PortId, burst: &mut Frames<MemFrame>) {
        let count = burst.len().min(self.tx_room);
        for frame in burst.drain(..count) {
            self.sent.push((port, frame.meta(), frame.bytes().to_vec()));
        }
    }

    fn alloc(&mut self, n: usize, burst: &mut Frames<MemFrame>) {
        let count = n.min(burst.remaining_capacity()).min(self.buffers);
        self.buffers -= if self.buffers == usize::MAX { 0 } else { count };
        for _ in 0..count {
            burst.push(MemFrame::new(&[], RxMeta::default(), &self.live));
        }
    }

    fn recycle(&mut self, burst: &mut Frames<MemFrame>) {
        burst.clear();
    }

    fn observe(&mut self, meta: RxMeta, outcome: Outcome) {
        self.outcomes.push((meta, outcome));
    }
}
