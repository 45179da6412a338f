//! Frames in a small pool of buffers that stays in the cache, as packet buffers on a machine with little to do.

use wire::PortId;
use worker::io::NoRoom;
use worker::{BURST, Burst, Frame, PacketIo, RxMeta};

/// Room in front of a frame, as a DPDK buffer has.
const HEADROOM: usize = 128;
/// Data room of a buffer.
const ROOM: usize = 384;

#[derive(Debug)]
#[repr(align(64))]
struct Room([u8; ROOM]);

#[derive(Debug)]
struct Buffer {
    meta: RxMeta,
    start: u16,
    len: u16,
    room: Room,
}

/// An owned frame: one pointer, as a DPDK buffer is.
#[derive(Debug)]
pub(crate) struct BenchFrame(Box<Buffer>);

impl BenchFrame {
    fn new() -> BenchFrame {
        let room = Room([0; ROOM]);
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
    #[inline(always)]
    fn set_len(&mut self, len: usize) -> Result<(), NoRoom> {
        if usize::from(self.0.start) + len > ROOM {
            return Err(NoRoom);
        }
        self.0.len = len as u16;
        Ok(())
    }
}

/// One port whose frames are put in and taken out by the measurement.
#[derive(Debug)]
pub(crate) struct BenchIo {
    /// Buffers without a frame, last in, first out.
    free: Vec<BenchFrame>,
    /// Frames to receive.
    ready: Vec<BenchFrame>,
    /// Frames sent.
    sent: Vec<BenchFrame>,
    burst: usize,
}

impl BenchIo {
    /// A pool of `buffers`; `burst` frames are received at once at the most.
    pub(crate) fn new(buffers: usize, burst: usize) -> BenchIo {
        let list = || Vec::with_capacity(buffers);
        let mut io = BenchIo { free: list(), ready: list(), sent: list(), burst: burst.min(BURST) };
        io.free.extend((0..buffers).map(|_| BenchFrame::new()));
        io
    }

    /// Puts a frame of `len` bytes into the receive queue; `write` fills it. False when the pool is empty.
    #[inline]
    pub(crate) fn offer(&mut self, len: usize, write: impl FnOnce(&mut [u8])) -> bool {
        let Some(mut frame) = self.free.pop() else { return false };
        frame.reset(len);
        write(frame.bytes_mut());
        self.ready.push(frame);
        true
    }

    /// The frames sent since the last [`reclaim`](BenchIo::reclaim).
    pub(crate) fn sent(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.sent.iter().map(Frame::bytes)
    }

    /// Frames not yet received.
    pub(crate) fn waiting(&self) -> usize {
        self.ready.len()
    }

    /// Puts the buffers of all frames sent back into the pool.
    pub(crate) fn reclaim(&mut self) {
        self.free.append(&mut self.sent);
    }

    /// Buffers in the pool.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }
}

impl PacketIo for BenchIo {
    type Frame = BenchFrame;

    #[inline]
    fn rx(&mut self, _port: PortId, burst: &mut Burst<BenchFrame>) {
        let count = self.ready.len().min(burst.remaining_capacity()).min(self.burst);
        burst.extend(self.ready.drain(self.ready.len() - count..));
    }

    #[inline]
    fn tx(&mut self, _port: PortId, burst: &mut Burst<BenchFrame>) {
        self.sent.extend(burst.drain(..));
    }

    fn alloc(&mut self, n: usize, burst: &mut Burst<BenchFrame>) {
        for _ in 0..n.min(burst.remaining_capacity()) {
            let Some(mut frame) = self.free.pop() else { return };
            frame.reset(0);
            burst.push(frame);
        }
    }

    #[inline]
    fn recycle(&mut self, burst: &mut Burst<BenchFrame>) {
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
        let mut burst = Burst::new();
        io.rx(PortId(0), &mut burst);
        assert_eq!((burst.len(), io.waiting()), (2, 1));
        assert_eq!(burst[0].grow_front(20).map(|frame| frame.len()), Ok(80));
        assert!(burst[0].grow_front(109).is_err());
        assert!(burst[0].set_len(500).is_err());
        assert_eq!(burst[0].bytes().len(), 80);
        io.tx(PortId(0), &mut burst);
        assert_eq!(io.sent().map(<[u8]>::len).collect::<Vec<_>>(), [80, 60]);
        io.reclaim();
        io.alloc(9, &mut burst);
        assert_eq!((burst.len(), io.free()), (3, 0));
        assert!(!io.offer(60, |_| ()));
        io.recycle(&mut burst);
        assert_eq!((io.sent().len(), io.free()), (0, 3));
    }
}
