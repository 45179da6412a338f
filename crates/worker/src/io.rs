//! The narrow edge between the engine and whatever moves frames: DPDK, a pcap file, memory.

pub mod memory;

use crate::{Action, DropReason};
use wire::{BackendId, PortId, ServiceId};

/// Frames handled together.
pub const BURST: usize = 32;

/// Bursts received from a port in one turn at the most, when each but the last is full.
pub const BURSTS_MAX: usize = 8;

/// The owned frames of a burst.
pub type Frames<F> = arrayvec::ArrayVec<F, BURST>;

/// What the receiver knows about a frame besides its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RxMeta {
    /// The port it came from.
    pub port: PortId,
    /// Input position, for back ends that report outcomes in input order (pcap); 0 elsewhere.
    pub index: u32,
    /// The frame consists of several segments (an mbuf chain); only the first is visible, so it is dropped by name.
    pub multi_segment: bool,
    /// Captured shorter than it was on the wire (pcap only); dropped by name.
    pub truncated: bool,
}

/// An owned frame. Dropping one gives its memory back, but the engine uses [`PacketIo::recycle`] for bursts.
pub trait Frame: Send {
    /// The frame's bytes, from the Ethernet header on.
    fn bytes(&self) -> &[u8];
    /// The frame's bytes, from the Ethernet header on, for editing in place.
    fn bytes_mut(&mut self) -> &mut [u8];
    /// What the receiver knew.
    fn meta(&self) -> RxMeta;
    /// Replaces the receiver's knowledge (an answer takes over the index of the frame it answers).
    fn set_meta(&mut self, meta: RxMeta);
    /// Makes `n` bytes of room in front and returns the whole frame; contents of the new room are arbitrary.
    ///
    /// # Errors
    /// The headroom is smaller than `n`; the frame is unchanged.
    fn grow_front(&mut self, n: usize) -> Result<&mut [u8], NoRoom>;
    /// Sets the length, by cutting the tail or taking tailroom (whose contents are arbitrary).
    ///
    /// # Errors
    /// The tailroom is too small; the frame is unchanged.
    fn set_len(&mut self, len: usize) -> Result<(), NoRoom>;
    /// Cuts the frame to `len` bytes, makes `n` bytes of room in front of them, and returns the whole frame: what
    /// encapsulation does to every packet, in one.
    ///
    /// # Errors
    /// The frame is shorter than `len` or the headroom than `n`; the frame is unchanged.
    #[inline(always)]
    fn cut_and_grow(&mut self, len: usize, n: usize) -> Result<&mut [u8], NoRoom> {
        let before = self.bytes().len();
        if len > before {
            return Err(NoRoom);
        }
        self.grow_front(n)?;
        self.set_len(len + n)?;
        Ok(self.bytes_mut())
    }
}

/// The buffer has no room for what was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRoom;

/// Moves bursts of frames. One instance belongs to one worker: its queues on every port.
pub trait PacketIo {
    /// The frame type.
    type Frame: Frame;
    /// Appends up to the remaining capacity of `burst` received frames.
    fn rx(&mut self, port: PortId, burst: &mut Frames<Self::Frame>);
    /// Sends from the front of `burst`; what the queue does not accept stays in it, in order.
    fn tx(&mut self, port: PortId, burst: &mut Frames<Self::Frame>);
    /// Appends up to `n` empty frames (length 0, full headroom) for packets we originate; may give fewer.
    fn alloc(&mut self, n: usize, burst: &mut Frames<Self::Frame>);
    /// Frees all frames of `burst`.
    fn recycle(&mut self, burst: &mut Frames<Self::Frame>);
    /// Whether [`observe`](PacketIo::observe) does anything.
    const OBSERVES: bool = false;
    /// Told once per received frame how it ended, if [`OBSERVES`](PacketIo::OBSERVES); for replay and tests.
    #[inline(always)]
    fn observe(&mut self, _meta: RxMeta, _outcome: Outcome) {}
}

/// How a received frame ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Sent to a backend.
    Sent,
    /// Relayed to another machine.
    Relayed,
    /// Given to the kernel.
    Punted,
    /// Dropped, for a reason.
    Dropped(DropReason),
}

/// A frame's end, with what was decided on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// What was done with it; of a frame that was held or relayed, in the end.
    pub action: Action,
    /// The service it matched, if any.
    pub service: Option<ServiceId>,
    /// The backend it was steered to, if any.
    pub backend: Option<BackendId>,
}
