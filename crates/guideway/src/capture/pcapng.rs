//! pcapng (draft-ietf-opsawg-pcapng): blocks; only section headers, interfaces and packets matter here.

use super::error::{CaptureError, FRAME_SIZE_MAX};
use super::link::LinkType;
use super::record::{ByteOrder, FileRecords, FrameRecord};

use std::ops::Range;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const OLD_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const OPTION_END: u16 = 0;
const OPTION_RESOLUTION: u16 = 9;
const OPTION_OFFSET: u16 = 14;
/// More interfaces than any capture has.
const INTERFACES_MAX: usize = 4096;

/// What is known of an interface.
#[derive(Clone, Copy)]
struct Interface {
    /// Stamp units a second.
    units: u64,
    /// Seconds added to every stamp.
    offset_s: i64,
    /// 0 = no limit.
    snap_len: u32,
    /// Of what its frames are; one that is not read matters only if it has frames.
    link_type: u32,
}

pub(super) fn is_pcapng(bytes: &[u8]) -> bool {
    ByteOrder { big: true }.u32(bytes, 0) == Some(SECTION_HEADER)
}

pub(super) fn records(bytes: &[u8]) -> Result<FileRecords, CaptureError> {
    let mut reader = BlockReader {
        order: ByteOrder { big: false },
        interfaces: Vec::new(),
        records: Vec::new(),
        fine: false,
    };
    let (mut at, mut cut) = (0, None);
    while at < bytes.len() {
        match reader.block(bytes, at) {
            Ok(next) => at = next,
            // The first block says that it is a capture at all.
            Err(truncated @ CaptureError::Truncated { .. }) if at > 0 => {
                cut = Some(truncated);
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(FileRecords { records: reader.records, nanoseconds: reader.fine, cut })
}

struct BlockReader {
    order: ByteOrder,
    interfaces: Vec<Interface>,
    records: Vec<FrameRecord>,
    fine: bool,
}

impl BlockReader {
    /// Reads the block at `at`; returns where the next one starts.
    fn block(&mut self, bytes: &[u8], at: usize) -> Result<usize, CaptureError> {
        let truncated = |what| CaptureError::Truncated { what, offset: at };
        // A section header's type reads the same in both orders; its third word tells which one it is.
        let kind = self.order.u32(bytes, at).ok_or_else(|| truncated("a block"))?;
        if kind == SECTION_HEADER {
            let orders = [false, true].map(|big| ByteOrder { big });
            let mut found = orders.into_iter().filter(|o| o.u32(bytes, at + 8) == Some(BYTE_ORDER));
            if bytes.len() < at + 12 {
                return Err(truncated("a section header"));
            }
            self.order = found.next().ok_or_else(|| damaged(at + 8, "an unknown byte order"))?;
            self.interfaces.clear();
        }
        let len = self.order.u32(bytes, at + 4).ok_or_else(|| truncated("a block"))? as usize;
        if len < 12 || !len.is_multiple_of(4) {
            return Err(damaged(at + 4, format!("a block of {len} bytes")));
        }
        let end =
            at.checked_add(len).filter(|&end| end <= bytes.len()).ok_or_else(|| truncated("a block"))?;
        if self.order.u32(bytes, end - 4) != Some(len as u32) {
            return Err(damaged(end - 4, "a block whose two lengths differ"));
        }
        let body = at + 8..end - 4;
        match kind {
            SECTION_HEADER => self.section(bytes, body.start, body.end)?,
            INTERFACE => self.interface(bytes, body.start, body.end)?,
            ENHANCED_PACKET | OLD_PACKET => self.packet(bytes, body.start, body.end, kind)?,
            SIMPLE_PACKET => self.simple_packet(bytes, body.start, body.end)?,
            _ => {}
        }
        Ok(end)
    }

    fn section(&self, bytes: &[u8], start: usize, end: usize) -> Result<(), CaptureError> {
        if end - start < 16 {
            return Err(damaged(start, "a section header that is too short"));
        }
        match self.order.u16(bytes, start + 4) {
            Some(1) => Ok(()),
            other => {
                Err(CaptureError::Unsupported(format!("pcapng version {} is not 1", other.unwrap_or(0))))
            }
        }
    }

    fn interface(&mut self, bytes: &[u8], start: usize, end: usize) -> Result<(), CaptureError> {
        let short = || damaged(start, "an interface block that is too short");
        if end - start < 8 {
            return Err(short());
        }
        let link_type = u32::from(self.order.u16(bytes, start).ok_or_else(short)?);
        if self.interfaces.len() >= INTERFACES_MAX {
            return Err(damaged(start, format!("more than {INTERFACES_MAX} interfaces")));
        }
        let snap_len = self.order.u32(bytes, start + 4).ok_or_else(short)?;
        let mut interface = Interface { units: 1_000_000, offset_s: 0, snap_len, link_type };
        let mut at = start + 8;
        while at + 4 <= end {
            let code = self.order.u16(bytes, at).ok_or_else(short)?;
            let len = usize::from(self.order.u16(bytes, at + 2).ok_or_else(short)?);
            if code == OPTION_END {
                break;
            }
            let value = bytes.get(at + 4..at + 4 + len).filter(|_| at + 4 + len <= end);
            let value = value.ok_or_else(|| damaged(at, "an option that leaves its block"))?;
            match (code, value) {
                (OPTION_RESOLUTION, &[v]) => {
                    interface.units =
                        units(v).ok_or_else(|| damaged(at, format!("a stamp resolution of {v}")))?;
                }
                (OPTION_OFFSET, v) if v.len() == 8 => {
                    let word = |i| self.order.u32(v, i).map(u64::from);
                    let (Some(a), Some(b)) = (word(0), word(4)) else { return Err(short()) };
                    let offset = if self.order.big { a << 32 | b } else { b << 32 | a };
                    interface.offset_s = offset.cast_signed();
                }
                (OPTION_RESOLUTION | OPTION_OFFSET, _) => {
                    return Err(damaged(at, format!("option {code} with a length of {len}")));
                }
                _ => {}
            }
            at += 4 + len.next_multiple_of(4);
        }
        self.interfaces.push(interface);
        Ok(())
    }

    fn packet(&mut self, bytes: &[u8], start: usize, end: usize, kind: u32) -> Result<(), CaptureError> {
        let short = || damaged(start, "a packet block that is too short");
        if end - start < 20 {
            return Err(short());
        }
        let word = |offset| self.order.u32(bytes, start + offset).ok_or_else(short);
        // The old form has a 16-bit interface number and a drop count in the first word.
        let number = if kind == OLD_PACKET {
            u32::from(self.order.u16(bytes, start).ok_or_else(short)?)
        } else {
            word(0)?
        };
        let interface = self.interface_at(number, start)?;
        let ticks = u64::from(word(4)?) << 32 | u64::from(word(8)?);
        let (len, wire_len) = (word(12)?, word(16)?);
        let stamp_ns = interface.stamp_ns(ticks);
        self.push(start + 20..end, (len, wire_len), stamp_ns, interface)
    }

    fn simple_packet(&mut self, bytes: &[u8], start: usize, end: usize) -> Result<(), CaptureError> {
        if end - start < 4 {
            return Err(damaged(start, "a packet block that is too short"));
        }
        let wire_len = self.order.u32(bytes, start).unwrap_or(0);
        let interface = self.interface_at(0, start)?;
        let len = if interface.snap_len == 0 { wire_len } else { wire_len.min(interface.snap_len) };
        // It has no stamp: it came with the frame before it.
        let stamp_ns = self.records.last().map_or(0, |r| r.stamp_ns);
        self.push(start + 4..end, (len, wire_len), stamp_ns, interface)
    }

    fn interface_at(&self, number: u32, offset: usize) -> Result<Interface, CaptureError> {
        let found = usize::try_from(number).ok().and_then(|n| self.interfaces.get(n));
        found
            .copied()
            .ok_or_else(|| damaged(offset, format!("a packet of interface {number}, which is not described")))
    }

    fn push(
        &mut self,
        place: Range<usize>,
        (len, wire_len): (u32, u32),
        stamp_ns: u64,
        interface: Interface,
    ) -> Result<(), CaptureError> {
        let start = place.start;
        if len > FRAME_SIZE_MAX || len as usize > place.len() {
            return Err(damaged(start, format!("a frame of {len} bytes that leaves its block")));
        }
        let link = LinkType::of(interface.link_type)?;
        self.fine |= interface.units > 1_000_000;
        self.records.push(FrameRecord { start, len: len as usize, wire_len, stamp_ns, link });
        Ok(())
    }
}

impl Interface {
    fn stamp_ns(self, ticks: u64) -> u64 {
        let ns = i128::from(ticks) * 1_000_000_000 / i128::from(self.units);
        let ns = ns + i128::from(self.offset_s) * 1_000_000_000;
        u64::try_from(ns.max(0)).unwrap_or(u64::MAX)
    }
}

/// Units a second of an `if_tsresol` byte: a power of ten, or of two when the top bit is set.
fn units(resolution: u8) -> Option<u64> {
    let exponent = u32::from(resolution & 0x7f);
    if resolution & 0x80 == 0 { 10_u64.checked_pow(exponent) } else { 2_u64.checked_pow(exponent) }
}

fn damaged(offset: usize, problem: impl Into<String>) -> CaptureError {
    CaptureError::Damaged { problem: problem.into(), offset }
}
