//! A back end whose transmit queue is its receive queue: a fixed number of buffers, no allocation, no atomics, so that
//! what is counted is the engine's.

use arrayvec::ArrayVec;
use std::ops::Range;
use wire::PortId;
use worker::{BURST, Frame, Frames, NoRoom, PacketIo, RxMeta};

/// Room in front of every frame, as a DPDK mbuf has.
const HEADROOM: u8 = 128;
/// Bytes of a buffer: more than the largest offset and the largest length come to, so that a frame is found in it with as
/// little work as in an mbuf.
const ROOM: usize = 2 * u8::MAX as usize + 1;
/// Buffers: a row of bursts on their way while one waits to be sent.
const BUFFERS: usize = 8 * BURST;
/// Where a frame of IPv4 without options has TCP's flags, and the one that begins a connection.
const FLAGS: usize = 47;
const SYN: u8 = 2;
const ACK: u8 = 16;

struct Buffer {
    bytes: [u8; ROOM],
    start: u8,
    len: u8,
    meta: RxMeta,
}

impl Buffer {
    #[inline(always)]
    fn range(&self) -> Range<usize> {
        let start = usize::from(self.start);
        start..start + usize::from(self.len)
    }
}

/// A frame: a buffer on loan, which lives as long as the program.
pub(crate) struct LoopFrame(&'static mut Buffer);

impl Drop for LoopFrame {
    /// A call into the driver, as a device's frame has it, so that the engine's code holds no allocator. The buffer is
    /// lost, which the count of frames sent will show.
    #[inline(never)]
    fn drop(&mut self) {
        self.0.len = 0;
    }
}

impl Frame for LoopFrame {
    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        &self.0.bytes[self.0.range()]
    }

    #[inline(always)]
    fn bytes_mut(&mut self) -> &mut [u8] {
        let range = self.0.range();
        &mut self.0.bytes[range]
    }

    fn meta(&self) -> RxMeta {
        self.0.meta
    }

    fn set_meta(&mut self, meta: RxMeta) {
        self.0.meta = meta;
    }

    #[inline(always)]
    fn grow_front(&mut self, n: usize) -> Result<&mut [u8], NoRoom> {
        self.cut_and_grow(usize::from(self.0.len), n)
    }

    fn set_len(&mut self, len: usize) -> Result<(), NoRoom> {
        self.0.len = u8::try_from(len).map_err(|_| NoRoom)?;
        Ok(())
    }

    #[inline(always)]
    fn cut_and_grow(&mut self, len: usize, n: usize) -> Result<&mut [u8], NoRoom> {
        let Buffer { start, len: before, .. } = &mut *self.0;
        if len > usize::from(*before) || n > usize::from(*start) {
            return Err(NoRoom);
        }
        *before = (len as u8).checked_add(n as u8).ok_or(NoRoom)?;
        *start -= n as u8;
        Ok(self.bytes_mut())
    }
}

/// The back end.
pub(crate) struct LoopIo {
    free: ArrayVec<LoopFrame, BUFFERS>,
    /// What is received, over and over.
    frames: Vec<Vec<u8>>,
    next: usize,
    /// Where given, each SYN gets the next source port.
    new_flow: Option<u32>,
    /// Flags of TCP of which one makes a frame one of those.
    new_flags: u8,
    /// Bursts of a turn: when so many were received, there is no other one until all were sent.
    bursts: usize,
    /// Of a turn, those received and those sent.
    received_bursts: usize,
    sent_bursts: usize,
    /// Frames sent so far.
    pub(crate) sent: u64,
}

impl LoopIo {
    /// Receives these frames in turn.
    pub(crate) fn new(frames: Vec<Vec<u8>>) -> LoopIo {
        let buffer = || Buffer { bytes: [0; ROOM], start: 0, len: 0, meta: RxMeta::default() };
        let free = (0..BUFFERS).map(|_| LoopFrame(Box::leak(Box::new(buffer())))).collect();
        LoopIo {
            free,
            frames,
            next: 0,
            new_flow: None,
            new_flags: SYN,
            bursts: 1,
            received_bursts: 0,
            sent_bursts: 0,
            sent: 0,
        }
    }

    /// From the next turn on receives these IPv4 frames in turn, so many bursts a turn; each SYN comes from another port.
    pub(crate) fn flood(&mut self, frames: Vec<Vec<u8>>, bursts: usize) {
        (self.frames, self.next, self.new_flow, self.bursts) = (frames, 0, Some(1), bursts);
    }
}

impl LoopIo {
    /// The same, but segments with ACK come from another port each.
    pub(crate) fn flood_of(&mut self, frames: Vec<Vec<u8>>, bursts: usize) {
        self.flood(frames, bursts);
        self.new_flags = ACK;
    }

    /// Receives again, although nothing was sent: for turns whose frames are dropped.
    pub(crate) fn begin_turn(&mut self) {
        (self.received_bursts, self.sent_bursts) = (0, 0);
    }
}

impl PacketIo for LoopIo {
    type Frame = LoopFrame;

    fn rx(&mut self, port: PortId, burst: &mut Frames<LoopFrame>) {
        if self.received_bursts == self.bursts {
            return;
        }
        self.received_bursts += 1;
        while burst.remaining_capacity() > 0 {
            let (Some(frame), Some(bytes)) = (self.free.pop(), self.frames.get(self.next)) else {
                return;
            };
            self.next = if self.next + 1 < self.frames.len() { self.next + 1 } else { 0 };
            let buffer = &mut *frame.0;
            (buffer.start, buffer.len) = (HEADROOM, bytes.len() as u8);
            let range = buffer.range();
            buffer.bytes[range].copy_from_slice(bytes);
            buffer.meta = RxMeta { port, ..RxMeta::default() };
            if let Some(flow) = &mut self.new_flow
                && bytes.get(FLAGS).is_some_and(|flags| flags & self.new_flags != 0)
            {
                // The source port: no checksum that a balancer looks at covers it.
                buffer.bytes[usize::from(HEADROOM) + 34..usize::from(HEADROOM) + 36]
                    .copy_from_slice(&(*flow as u16).to_be_bytes());
                *flow += 1;
            }
            burst.push(frame);
        }
    }

    fn tx(&mut self, _port: PortId, burst: &mut Frames<LoopFrame>) {
        self.sent_bursts += 1;
        if self.sent_bursts == self.bursts {
            (self.received_bursts, self.sent_bursts) = (0, 0);
        }
        self.sent += burst.len() as u64;
        burst.drain(..).for_each(|frame| self.free.push(frame));
    }

    fn alloc(&mut self, n: usize, burst: &mut Frames<LoopFrame>) {
        for _ in 0..n.min(burst.remaining_capacity()) {
            let Some(frame) = self.free.pop() else { return };
            (frame.0.start, frame.0.len) = (HEADROOM, 0);
            burst.push(frame);
        }
    }

    fn recycle(&mut self, burst: &mut Frames<LoopFrame>) {
        burst.drain(..).for_each(|frame| self.free.push(frame));
    }
}
