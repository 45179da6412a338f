//! A back end whose buffers hold any frame and can go to another engine: for what is rare, and is not counted but watched.

use std::collections::VecDeque;
use wire::PortId;
use worker::{Frame, Frames, NoRoom, PacketIo, RxMeta};

/// Room in front of every frame, as a DPDK mbuf has.
const HEADROOM: usize = 128;
/// Bytes of a buffer.
const ROOM: usize = 2048;
/// Buffers of an engine: also for frames that are held, and for those that are with another engine.
const BUFFERS: usize = 4096;
/// Where a frame of IPv4 without options has TCP's source port and flags.
const SOURCE_PORT: usize = 34;
const FLAGS: usize = 47;
const SYN: u8 = 2;

/// A frame: a buffer on loan, which lives as long as the program.
pub(crate) struct PoolFrame {
    buffer: &'static mut [u8; ROOM],
    start: usize,
    end: usize,
    meta: RxMeta,
}

impl Frame for PoolFrame {
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.end]
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
        let end = self.start + len;
        if end > ROOM {
            return Err(NoRoom);
        }
        self.end = end;
        Ok(())
    }
}

/// The back end. Nothing in it allocates after [`new`](PoolIo::new).
pub(crate) struct PoolIo {
    free: Vec<PoolFrame>,
    /// What is received, over and over: so many frames a turn.
    frames: Vec<Vec<u8>>,
    next: usize,
    left: usize,
    /// Each SYN gets the next source port.
    port: u16,
    /// Received first.
    pub(crate) inbox: VecDeque<PoolFrame>,
    /// What was sent in this turn.
    pub(crate) sent: VecDeque<PoolFrame>,
}

impl PoolIo {
    pub(crate) fn new(frames: Vec<Vec<u8>>) -> PoolIo {
        let frame = || PoolFrame {
            buffer: Box::leak(Box::new([0; ROOM])),
            start: HEADROOM,
            end: HEADROOM,
            meta: RxMeta::default(),
        };
        let mut free = Vec::with_capacity(2 * BUFFERS);
        free.extend((0..BUFFERS).map(|_| frame()));
        let (inbox, sent) = (VecDeque::with_capacity(2 * BUFFERS), VecDeque::with_capacity(2 * BUFFERS));
        PoolIo { free, frames, next: 0, left: 0, port: 1024, inbox, sent }
    }

    /// Lets this many frames arrive in the next turn.
    pub(crate) fn arrive(&mut self, frames: usize) {
        self.left = frames;
    }

    /// Takes a buffer back.
    pub(crate) fn free(&mut self, mut frame: PoolFrame) {
        (frame.start, frame.end, frame.meta) = (HEADROOM, HEADROOM, RxMeta::default());
        self.free.push(frame);
    }
}

impl PacketIo for PoolIo {
    type Frame = PoolFrame;

    fn rx(&mut self, port: PortId, burst: &mut Frames<PoolFrame>) {
        while burst.remaining_capacity() > 0 {
            if let Some(mut frame) = self.inbox.pop_front() {
                frame.meta = RxMeta { port, ..RxMeta::default() };
                burst.push(frame);
                continue;
            }
            let (Some(bytes), true) = (self.frames.get(self.next), self.left > 0) else { return };
            let Some(mut frame) = self.free.pop() else { return };
            self.left -= 1;
            self.next = (self.next + 1) % self.frames.len();
            frame.end = frame.start + bytes.len();
            frame.meta = RxMeta { port, ..RxMeta::default() };
            frame.bytes_mut().copy_from_slice(bytes);
            if bytes.get(FLAGS).is_some_and(|flags| *flags == SYN) {
                // No checksum that a balancer looks at covers it.
                frame.bytes_mut()[SOURCE_PORT..SOURCE_PORT + 2].copy_from_slice(&self.port.to_be_bytes());
                self.port = self.port.checked_add(1).unwrap_or(1024);
            }
            burst.push(frame);
        }
    }

    fn tx(&mut self, _port: PortId, burst: &mut Frames<PoolFrame>) {
        self.sent.extend(burst.drain(..));
    }

    fn alloc(&mut self, n: usize, burst: &mut Frames<PoolFrame>) {
        for _ in 0..n.min(burst.remaining_capacity()) {
            let Some(frame) = self.free.pop() else { return };
            burst.push(frame);
        }
    }

    fn recycle(&mut self, burst: &mut Frames<PoolFrame>) {
        while let Some(frame) = burst.pop() {
            self.free(frame);
        }
    }
}
