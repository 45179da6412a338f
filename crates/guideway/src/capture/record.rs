//! Where the frames of a file are, and how its integers are read.

use super::error::CaptureError;
use super::link::LinkType;

/// What is read of a file: its frames, whether stamps are finer than a microsecond, and where it is cut.
pub(super) struct FileRecords {
    pub(super) records: Vec<FrameRecord>,
    pub(super) nanoseconds: bool,
    pub(super) cut: Option<CaptureError>,
}

/// Where a frame is, and when it was.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameRecord {
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) wire_len: u32,
    pub(super) stamp_ns: u64,
    pub(super) link: LinkType,
}

/// Integers of one byte order out of a slice; `None` past its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct ByteOrder {
    pub(super) big: bool,
}

impl ByteOrder {
    pub(super) fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let b: [u8; 2] = bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if self.big { u16::from_be_bytes(b) } else { u16::from_le_bytes(b) })
    }

    pub(super) fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let b: [u8; 4] = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.big { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) })
    }
}
