//! Classic pcap out, little endian.

use super::error::FRAME_SIZE_MAX;
use std::io::{Result, Write};

/// The link type of what is written: Ethernet (LINKTYPE_ETHERNET).
const ETHERNET: u32 = 1;

/// Writes frames to a classic pcap file.
#[derive(Debug)]
pub struct CaptureWriter<W: Write> {
    to: W,
    nanoseconds: bool,
}

impl<W: Write> CaptureWriter<W> {
    /// Writes the file header. Stamps are in microseconds unless `nanoseconds`.
    ///
    /// # Errors
    /// Whatever `to` says.
    pub fn new(mut to: W, nanoseconds: bool) -> Result<CaptureWriter<W>> {
        let magic: u32 = if nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
        to.write_all(&magic.to_le_bytes())?;
        to.write_all(&[2, 0, 4, 0])?; // version 2.4
        to.write_all(&[0; 8])?; // time zone and accuracy, always 0
        to.write_all(&FRAME_SIZE_MAX.to_le_bytes())?;
        to.write_all(&ETHERNET.to_le_bytes())?;
        Ok(CaptureWriter { to, nanoseconds })
    }

    /// Appends a frame with its stamp, nanoseconds since 1970 (clamped to the format's end in 2106).
    ///
    /// # Errors
    /// Whatever the file says; a frame longer than [`FRAME_SIZE_MAX`].
    pub fn write(&mut self, stamp_ns: u64, frame: &[u8]) -> Result<()> {
        let len = u32::try_from(frame.len()).ok().filter(|&len| len <= FRAME_SIZE_MAX);
        let len = len.ok_or_else(|| std::io::Error::other("the frame is too long for a capture file"))?;
        let seconds = u32::try_from(stamp_ns / 1_000_000_000).unwrap_or(u32::MAX);
        let fraction = (stamp_ns % 1_000_000_000) / if self.nanoseconds { 1 } else { 1000 };
        for word in [seconds, u32::try_from(fraction).unwrap_or(0), len, len] {
            self.to.write_all(&word.to_le_bytes())?;
        }
        self.to.write_all(frame)
    }

    /// Flushes and gives the underlying writer back.
    ///
    /// # Errors
    /// Whatever the file says.
    pub fn finish(mut self) -> Result<W> {
        self.to.flush()?;
        Ok(self.to)
    }
}
