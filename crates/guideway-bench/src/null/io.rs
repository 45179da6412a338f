//! A null device whose frames of zeros are made packets of real flows before the engine sees them.

use crate::engine::{Expected, Family, FrameWriter, Scene};
use crate::failure::Failure;
use crate::random::{Picker, Spread};
use dpdk::{DpdkIo, Mbuf};
use wire::PortId;
use worker::{BURST, BURSTS_MAX, Frame, Frames, PacketIo};

/// One output in so many is kept and decoded after the window.
const SAMPLE: usize = 1000;
/// Longest output that is kept.
const SAMPLE_LEN: usize = 160;
/// Outputs kept of a window at the most.
const SAMPLES: usize = 16;

/// The device.
#[derive(Debug)]
pub(super) struct NullIo {
    device: DpdkIo,
    writer: FrameWriter,
    picker: Picker,
    /// Flows of the packets to come, chosen before the window.
    numbers: Vec<u64>,
    next: usize,
    until_sample: usize,
    samples: Vec<([u8; SAMPLE_LEN], usize)>,
    expected: Expected,
    decoded: u64,
}

impl NullIo {
    pub(super) fn new(device: DpdkIo, scene: &Scene, spread: Spread, flows: u64, frame_len: usize) -> NullIo {
        let writer = FrameWriter::new(Family::V4, frame_len);
        NullIo {
            device,
            expected: Expected::new(scene, writer.clone()),
            writer,
            picker: Picker::new(spread, flows, 5),
            numbers: Vec::new(),
            next: 0,
            until_sample: SAMPLE,
            samples: Vec::with_capacity(SAMPLES),
            decoded: 0,
        }
    }

    /// Chooses the flows of the next `packets` packets.
    pub(super) fn prepare(&mut self, packets: usize) {
        self.numbers.clear();
        // A turn more: the last may begin one packet before the end of the window.
        let picker = &mut self.picker;
        self.numbers.extend((0..packets + BURSTS_MAX * BURST).map(|_| picker.next_flow()));
        self.next = 0;
    }

    /// The device itself.
    pub(super) fn device(&mut self) -> &mut DpdkIo {
        &mut self.device
    }

    /// Decodes the outputs kept.
    ///
    /// # Errors
    /// One is not what it must be.
    pub(super) fn check_samples(&mut self) -> Result<(), Failure> {
        for (bytes, len) in self.samples.drain(..) {
            self.expected.check_in_full(&bytes[..len])?;
            self.decoded += 1;
        }
        Ok(())
    }

    /// Outputs decoded.
    pub(super) fn decoded(&self) -> u64 {
        self.decoded
    }
}

impl PacketIo for NullIo {
    type Frame = Mbuf;

    #[inline]
    fn rx(&mut self, port: PortId, burst: &mut Frames<Mbuf>) {
        self.device.rx(port, burst);
        let numbers = self.numbers.get(self.next..).unwrap_or_default();
        for (frame, &number) in burst.iter_mut().zip(numbers) {
            self.writer.write(frame.bytes_mut(), number);
        }
        self.next += burst.len();
    }

    #[inline]
    fn tx(&mut self, port: PortId, burst: &mut Frames<Mbuf>) {
        if let Some(frame) = self.until_sample.checked_sub(1).and_then(|index| burst.get(index)) {
            let frame = frame.bytes();
            let len = frame.len().min(SAMPLE_LEN);
            let mut bytes = [0; SAMPLE_LEN];
            bytes[..len].copy_from_slice(&frame[..len]);
            if self.samples.len() < SAMPLES {
                self.samples.push((bytes, len));
            }
            self.until_sample += SAMPLE;
        }
        self.until_sample -= burst.len();
        self.device.tx(port, burst);
    }

    fn alloc(&mut self, n: usize, burst: &mut Frames<Mbuf>) {
        self.device.alloc(n, burst);
    }

    fn recycle(&mut self, burst: &mut Frames<Mbuf>) {
        self.device.recycle(burst);
    }
}
