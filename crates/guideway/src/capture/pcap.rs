//! Classic pcap: a 24-byte file header, then records of a 16-byte header and the frame.

use super::error::{CaptureError, FRAME_SIZE_MAX};
use super::link::LinkType;
use super::record::{ByteOrder, FileRecords, FrameRecord};

const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
/// Variants of others with longer record headers.
const MAGIC_MODIFIED: [u32; 2] = [0xa1b2_cd34, 0xa1b2_34cd];
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;

pub(super) fn records(bytes: &[u8]) -> Result<FileRecords, CaptureError> {
    let (order, nanoseconds) = magic(bytes)?;
    let truncated = CaptureError::Truncated { what: "the file header", offset: 0 };
    let (Some(major), Some(link)) = (order.u16(bytes, 4), order.u32(bytes, 20)) else {
        return Err(truncated);
    };
    if major != 2 {
        return Err(CaptureError::Unsupported(format!("pcap version {major} is not 2")));
    }
    // The upper bits tell the length of a frame check sequence, which the engine treats as padding.
    let link = LinkType::of(link & 0xffff)?;
    let mut read = FileRecords { records: Vec::new(), nanoseconds, cut: None };
    let mut at = FILE_HEADER;
    while at < bytes.len() {
        match record(bytes, at, order, nanoseconds, link) {
            Ok(record) => {
                at = record.start + record.len;
                read.records.push(record);
            }
            Err(cut @ CaptureError::Truncated { .. }) => {
                read.cut = Some(cut);
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

fn magic(bytes: &[u8]) -> Result<(ByteOrder, bool), CaptureError> {
    for big in [false, true] {
        let order = ByteOrder { big };
        match order.u32(bytes, 0) {
            Some(MAGIC_MICROSECONDS) => return Ok((order, false)),
            Some(MAGIC_NANOSECONDS) => return Ok((order, true)),
            Some(m) if MAGIC_MODIFIED.contains(&m) => {
                return Err(CaptureError::Unsupported("a modified pcap format".into()));
            }
            _ => {}
        }
    }
    Err(CaptureError::NotACapture)
}

fn record(
    bytes: &[u8],
    at: usize,
    order: ByteOrder,
    nanoseconds: bool,
    link: LinkType,
) -> Result<FrameRecord, CaptureError> {
    let field = |offset| order.u32(bytes, at + offset);
    let (Some(seconds), Some(fraction), Some(len), Some(wire_len)) =
        (field(0), field(4), field(8), field(12))
    else {
        return Err(CaptureError::Truncated { what: "a record header", offset: at });
    };
    if len > FRAME_SIZE_MAX {
        return Err(CaptureError::Damaged { problem: format!("a frame of {len} bytes"), offset: at });
    }
    let start = at + RECORD_HEADER;
    if bytes.len() - start < len as usize {
        return Err(CaptureError::Truncated { what: "a frame", offset: start });
    }
    let unit_ns = if nanoseconds { 1 } else { 1000 };
    let stamp_ns = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * unit_ns;
    Ok(FrameRecord { start, len: len as usize, wire_len, stamp_ns, link })
}
