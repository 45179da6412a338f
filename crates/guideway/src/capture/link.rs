//! Link types: what stands in front of a captured packet, and the Ethernet header that stands there instead.
//!
//! The header is written over bytes in front of the packet that have been read already: the link's own header, or that
//! of the record, which is longer than an Ethernet header together with what ends the block before it.

use super::error::CaptureError;
use super::record::FrameRecord;

/// An Ethernet header.
const ETHERNET_HEADER: usize = 14;
/// The MAC that receives what was captured without an address, and the one that sends it. A replay takes frames for any MAC.
const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);

/// The link types that are read (<https://www.tcpdump.org/linktypes.html>).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LinkType {
    /// LINKTYPE_ETHERNET.
    Ethernet,
    /// LINKTYPE_RAW, and what systems write for it; LINKTYPE_IPV4, LINKTYPE_IPV6: no header at all.
    RawIp,
    /// LINKTYPE_LINUX_SLL: what `tcpdump -i any` writes.
    Cooked,
    /// LINKTYPE_LINUX_SLL2: the same of newer versions.
    Cooked2,
}

impl LinkType {
    pub(super) fn of(number: u32) -> Result<LinkType, CaptureError> {
        match number {
            1 => Ok(LinkType::Ethernet),
            12 | 14 | 101 | 228 | 229 => Ok(LinkType::RawIp),
            113 => Ok(LinkType::Cooked),
            276 => Ok(LinkType::Cooked2),
            other => Err(CaptureError::LinkType(other)),
        }
    }

    /// Length of its header, bytes.
    fn header_len(self) -> usize {
        match self {
            LinkType::Ethernet => ETHERNET_HEADER,
            LinkType::RawIp => 0,
            LinkType::Cooked => 16,
            LinkType::Cooked2 => 20,
        }
    }

    /// The type of the packet that follows `header`: whether it went to a group, and its EtherType.
    fn describe(self, header: &[u8], packet: &[u8]) -> Option<(bool, [u8; 2])> {
        // Of a packet's way: 1 and 2 are broadcast and multicast (packet(7), PACKET_BROADCAST).
        let is_group = |way: u8| matches!(way, 1 | 2);
        match self {
            LinkType::Ethernet => None,
            LinkType::RawIp => {
                let is_v6 = packet.first().is_some_and(|first| first >> 4 == 6);
                Some((false, if is_v6 { [0x86, 0xdd] } else { [0x08, 0x00] }))
            }
            LinkType::Cooked => Some((is_group(*header.get(1)?), [*header.get(14)?, *header.get(15)?])),
            LinkType::Cooked2 => Some((is_group(*header.get(10)?), [*header.first()?, *header.get(1)?])),
        }
    }
}

/// Makes an Ethernet frame of a record.
pub(super) fn make_ethernet(bytes: &mut [u8], record: &mut FrameRecord) -> Result<(), CaptureError> {
    if record.link == LinkType::Ethernet {
        return Ok(());
    }
    let (offset, len) = (record.start, record.link.header_len());
    let short =
        || CaptureError::Damaged { problem: "a frame that is shorter than its link's header".into(), offset };
    let captured = bytes.get(offset..offset + record.len).ok_or_else(short)?;
    let (header, packet) = match captured.split_at_checked(len) {
        Some(split) => split,
        // The capture cut it: it ends as that.
        None if record.wire_len as usize > record.len => return Ok(()),
        None => return Err(short()),
    };
    let (is_group, ether_type) = record.link.describe(header, packet).ok_or_else(short)?;
    let (to, from) = MACS;
    let to = if is_group { [0xff; 6] } else { to };
    let packet_len = packet.len();
    let start = (offset + len).checked_sub(ETHERNET_HEADER).ok_or_else(short)?;
    let place = bytes.get_mut(start..offset + len).ok_or_else(short)?;
    place.copy_from_slice(&[&to[..], &from, &ether_type].concat());
    record.start = start;
    record.len = ETHERNET_HEADER + packet_len;
    #[expect(clippy::cast_possible_truncation, reason = "both are lengths of headers")]
    let (link_len, ethernet_len) = (len as u32, ETHERNET_HEADER as u32);
    record.wire_len = record.wire_len.saturating_sub(link_len).saturating_add(ethernet_len);
    Ok(())
}
