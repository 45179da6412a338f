//! Frames in a small pool of buffers that stays in the cache, as packet buffers on a machine with little to do. They are
//! received and sent as DPDK's are: a full burst changes hands as a block of pointers, whatever is in the buffers.

use std::mem::take;
use wire::PortId;
use worker::io::NoRoom;
use worker::{BURST, Frame, Frames, PacketIo, RxMeta};

/// Room in front of a frame, as a DPDK buffer has.
const HEADROOM: usize = 128;
/// Data room of a buffer.
const ROOM: usize = 384;

#[derive(Debug)]
#[repr(align(64))]
struct FrameRoom([u8; ROOM]);

#[derive(Debug)]
struct Buffer {
    meta: RxMeta,
    start: u16,
    len: u16,
    room: FrameRoom,
}

/// An owned frame: one pointer, as a DPDK buffer is.
#[derive(Debug)]
pub(crate) struct BenchFrame(Box<Buffer>);

impl BenchFrame {
    fn new() -> BenchFrame {
        let room = FrameRoom([0; ROOM]);
        BenchFrame(Box::new(Buffer { meta: RxMeta::default(), start: HEADROOM as u16, len: 0, room }))
    }

    /// As fresh from the device, `len` bytes long.
    #[inline]
    fn reset(&mut self, len: usize) {
        self.0.start = HEADROOM as u16;
        self.0.len = len.min(ROOM - HEADROOM) as u16;
        self.0.meta = RxMeta::default();
    }
}

impl Frame for BenchFrame {
    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        let (start, len) = (usize::from(self.0.start), usize::from(self.0.len));
        self.0.room.0.get(start..start + len).unwrap_or_default()
    }
    #[inline(always)]
    fn bytes_mut(&mut self) -> &mut [u8] {
        let (start, len) = (usize::from(self.0.start), usize::from(self.0.len));
        self.0.room.0.get_mut(start..start + len).unwrap_or_default()
    }
    #[inline(always)]
    fn meta(&self) -> RxMeta {
        self.0.meta
    }
    #[inline(always)]
    fn set_meta(&mut self, meta: RxMeta) {
        self.0.meta = meta;
    }
    #[inline(always)]
    fn grow_front(&mut self, n: usize) -> Result<&mut [u8], NoRoom> {
        let n = u16::try_from(n).map_err(|_| NoRoom)?;
        self.0.start = self.0.start.checked_sub(n).ok_or(NoRoom)?;
        self.0.len += n;
        Ok(self.bytes_mut())
    }
    /// In one, as a DPDK buffer does it.
    #[inline(always)]
    fn cut_and_grow(&mut self, len: usize, n: usize) -> Result<&mut [u8], NoRoom> {
        let Buffer { start, len: before, .. } = &mut *self.0;
        if len > usize::from(*before) || n > usize::from(*start) {
            return Err(NoRoom);
        }
        // Both fit: `len` into a length, `n` into the room in front.
        (*before, *start) = ((len + n) as u16, *start - n as u16);
        Ok(self.bytes_mut())
    }
    #[inline(always)]
    fn set_len(&mut self, len: usize) -> Result<(), NoRoom> {
        if usize::from(self.0.start) + len > ROOM {
            return Err(NoRoom);
        }
        self.0.len = len as u16;
        Ok(())
    }
}

/// One port whose frames are put in and taken out by the measurement. What is sent to another one, the kernel's, is gone.
#[derive(Debug)]
pub(crate) struct BenchIo {
    /// Buffers without a frame, last in, first out.
    free: Vec<BenchFrame>,
    /// Frames to receive, by burst; the last burst comes first.
    ready: Vec<Frames<BenchFrame>>,
    /// Frames sent, by burst.
    sent: Vec<Frames<BenchFrame>>,
    /// Frames received at once at the most.
    burst: usize,
    /// Frames that may still be received.
    left: usize,
}

impl BenchIo {
    /// A pool of `buffers`; `burst` frames are received at once at the most.
    pub(crate) fn new(buffers: usize, burst: usize) -> BenchIo {
        let mut io = BenchIo {
            free: Vec::with_capacity(buffers),
            ready: Vec::with_capacity(buffers),
            sent: Vec::with_capacity(buffers),
            burst: burst.clamp(1, BURST),
            left: usize::MAX,
        };
        io.free.extend((0..buffers).map(|_| BenchFrame::new()));
        io
    }

    /// Puts a frame of `len` bytes into the receive queue; `write` fills it. False when the pool is empty.
    #[inline]
    pub(crate) fn offer(&mut self, len: usize, write: impl FnOnce(&mut [u8])) -> bool {
        let Some(mut frame) = self.free.pop() else { return false };
        frame.reset(len);
        write(frame.bytes_mut());
        match self.ready.last_mut().filter(|last| last.len() < self.burst) {
            Some(last) => last.push(frame),
            None => self.ready.push([frame].into_iter().collect()),
        }
        true
    }

    /// So many frames are received, and no more until this is called again.
    pub(crate) fn set_left(&mut self, frames: usize) {
        self.left = frames;
    }

    /// The frames sent since the last [`reclaim`](BenchIo::reclaim).
    pub(crate) fn sent(&self) -> impl Iterator<Item = &[u8]> {
        self.sent.iter().flatten().map(Frame::bytes)
    }

    /// How many.
    pub(crate) fn sent_count(&self) -> usize {
        self.sent.iter().map(Frames::len).sum()
    }

    /// Frames not yet received.
    pub(crate) fn waiting(&self) -> usize {
        self.ready.iter().map(Frames::len).sum()
    }

    /// Puts the buffers of all frames sent back into the pool.
    pub(crate) fn reclaim(&mut self) {
        self.free.extend(self.sent.drain(..).flatten());
    }

    /// Buffers in the pool.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// Receives up to `room` frames one by one, of as many bursts as it takes.
    fn receive_some(&mut self, room: usize, burst: &mut Frames<BenchFrame>) {
        for _ in 0..room {
            while self.ready.last().is_some_and(Frames::is_empty) {
                self.ready.pop();
            }
            let Some(frame) = self.ready.last_mut().and_then(Frames::pop) else { return };
            burst.push(frame);
        }
    }
}

impl PacketIo for BenchIo {
    type Frame = BenchFrame;

    #[inline]
    fn rx(&mut self, port: PortId, burst: &mut Frames<BenchFrame>) {
        if port != PortId(0) {
            return;
        }
        let room = self.burst.min(burst.remaining_capacity()).min(self.left);
        if burst.is_empty()
            && let Some(next) = self.ready.pop_if(|next| next.len() == room)
        {
            *burst = next;
        } else {
            self.receive_some(room, burst);
        }
        self.left -= burst.len().min(self.left);
    }

    #[inline]
    fn tx(&mut self, port: PortId, burst: &mut Frames<BenchFrame>) {
        if port == PortId(0) {
            self.sent.push(take(burst));
        } else {
            self.recycle(burst);
        }
    }

    fn alloc(&mut self, n: usize, burst: &mut Frames<BenchFrame>) {
        for _ in 0..n.min(burst.remaining_capacity()) {
            let Some(mut frame) = self.free.pop() else { return };
            frame.reset(0);
            burst.push(frame);
        }
    }

    #[inline]
    fn recycle(&mut self, burst: &mut Frames<BenchFrame>) {
        self.free.extend(burst.drain(..));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_pass_and_none_is_lost() {
        let mut io = BenchIo::new(4, 2);
        for byte in 0..3_u8 {
            assert!(io.offer(60, |frame| frame.fill(byte)));
        }
        let mut burst = Frames::new();
        io.rx(PortId(0), &mut burst);
        assert_eq!((burst.len(), io.waiting()), (2, 1), "the last burst offered is not full");
        io.recycle(&mut burst);
        assert!(io.offer(60, |frame| frame.fill(3)));
        io.rx(PortId(0), &mut burst);
        assert_eq!((burst.len(), io.waiting()), (2, 0), "a full one changes hands as it is");
        assert_eq!(burst[0].grow_front(20).map(|frame| frame.len()), Ok(80));
        assert!(burst[0].grow_front(109).is_err());
        assert!(burst[0].set_len(500).is_err());
        assert_eq!(burst[0].bytes().len(), 80);
        io.tx(PortId(0), &mut burst);
        assert_eq!(io.sent().map(<[u8]>::len).collect::<Vec<_>>(), [80, 60]);
        io.reclaim();
        io.alloc(9, &mut burst);
        assert_eq!((burst.len(), io.free()), (4, 0));
        assert!(!io.offer(60, |_| ()));
        io.recycle(&mut burst);
        assert_eq!((io.sent_count(), io.free()), (0, 4));
    }

    #[test]
    fn parts_of_bursts_are_received_too() {
        let mut io = BenchIo::new(10, 4);
        for byte in 0..10_u8 {
            assert!(io.offer(60, |frame| frame.fill(byte)));
        }
        let mut burst = Frames::new();
        let mut seen = Vec::new();
        for limit in [3, 0, 1, 4, 32] {
            io.set_left(limit);
            io.rx(PortId(0), &mut burst);
            assert!(burst.len() <= limit);
            seen.extend(burst.iter().map(|frame| frame.bytes()[0]));
            io.tx(PortId(0), &mut burst);
        }
        while io.waiting() > 0 {
            io.rx(PortId(0), &mut burst);
            seen.extend(burst.iter().map(|frame| frame.bytes()[0]));
            io.tx(PortId(0), &mut burst);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
        assert_eq!(io.sent_count(), 10);
        io.reclaim();
        assert_eq!(io.free(), 10);
    }
}
