//! Capture files in (pcap and pcapng, either byte order, microseconds or nanoseconds) and out (classic pcap).
//!
//! Rule of this module: a file is either understood from the first byte to the last or refused with the offset of the
//! defect, before anything is replayed. One thing alone may be missing: the rest of the record with which the file ends, as
//! when its writer was killed or its disk was full; what comes before is the capture, and that it is cut is said.
//! Link types other than Ethernet become Ethernet here, as far as they carry IP. The `pcap-file` crate is not used for reading, because it refuses every
//! classic capture with a frame longer than the snapshot length and takes pcapng stamps for nanoseconds whatever the
//! interface says (version 2.0.0); the tests compare with it where it is right.

mod error;
mod link;
mod pcap;
mod pcapng;
mod record;
mod writer;

pub use error::{CaptureError, FILE_SIZE_MAX, FRAME_SIZE_MAX};
pub use writer::CaptureWriter;

use record::{FileRecords, FrameRecord};

/// How what is compressed begins, what it is called, and what unpacks it.
const COMPRESSED: [(&[u8], &str, &str); 5] = [
    (&[0x1f, 0x8b], "gzip", "gunzip -c"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd", "zstd -dc"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz", "xz -dc"),
    (b"BZh", "bzip2", "bunzip2 -c"),
    (&[0x04, 0x22, 0x4d, 0x18], "lz4", "lz4 -dc"),
];

/// A capture in memory.
#[derive(Debug)]
pub struct Capture {
    bytes: Vec<u8>,
    records: Vec<FrameRecord>,
    /// Whether the stamps are finer than a microsecond.
    nanoseconds: bool,
    /// Where the file ends inside a record.
    cut: Option<CaptureError>,
}

/// One captured frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured<'a> {
    /// What was captured, from the Ethernet header on.
    pub bytes: &'a [u8],
    /// Length on the wire; more than `bytes` when the capture cut it.
    pub wire_len: u32,
    /// Nanoseconds since 1970.
    pub stamp_ns: u64,
}

impl Captured<'_> {
    /// Whether the capture cut the frame.
    pub fn is_truncated(&self) -> bool {
        u64::from(self.wire_len) > self.bytes.len() as u64
    }
}

impl Capture {
    /// Checks a whole file that is in memory already.
    ///
    /// # Errors
    /// See [`CaptureError`].
    pub fn parse(mut bytes: Vec<u8>) -> Result<Capture, CaptureError> {
        if bytes.len() as u64 > FILE_SIZE_MAX {
            return Err(CaptureError::TooLarge);
        }
        let begins = |magic: &[u8]| bytes.starts_with(magic);
        if let Some(&(_, with, unpack)) = COMPRESSED.iter().find(|(magic, ..)| begins(magic)) {
            return Err(CaptureError::Compressed { with, unpack });
        }
        let found = if pcapng::is_pcapng(&bytes) { pcapng::records(&bytes)? } else { pcap::records(&bytes)? };
        let FileRecords { mut records, nanoseconds, cut } = found;
        for record in &mut records {
            link::make_ethernet(&mut bytes, record)?;
        }
        Ok(Capture { bytes, records, nanoseconds, cut })
    }

    /// Where the file ends inside a record: what comes before that is the capture.
    pub fn cut(&self) -> Option<&CaptureError> {
        self.cut.as_ref()
    }

    /// How many frames there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether the stamps are finer than a microsecond.
    pub fn is_nanoseconds(&self) -> bool {
        self.nanoseconds
    }

    /// The frame at `index`, counted from 0.
    pub fn get(&self, index: usize) -> Option<Captured<'_>> {
        let r = self.records.get(index)?;
        let bytes = self.bytes.get(r.start..r.start + r.len)?;
        Some(Captured { bytes, wire_len: r.wire_len, stamp_ns: r.stamp_ns })
    }

    /// All frames in file order.
    pub fn iter(&self) -> impl Iterator<Item = Captured<'_>> {
        (0..self.len()).filter_map(|i| self.get(i))
    }
}

#[cfg(test)]
mod tests;
