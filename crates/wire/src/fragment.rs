//! Cutting an IPv4 datagram into fragments (RFC 791 section 3.2), for inner packets without DF that do not fit.

use crate::parse::{IPV4_LEN, Parsed};
use crate::{checksum, field};
use core::num::NonZeroUsize;

/// Why a datagram cannot be cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CannotFragment {
    /// IPv6: only its source may cut (RFC 8200 section 4.5).
    #[error("only the source of an IPv6 packet may fragment it: answer packet too big")]
    NotIpv4,
    /// Don't-fragment is set.
    #[error("don't-fragment is set: answer fragmentation needed")]
    DontFragment,
    /// The MTU is below 68 bytes, which every link carries (RFC 791): the longest header and eight bytes.
    #[error("MTU of {0} bytes is below 68, the least that IPv4 allows")]
    MtuTooSmall(u16),
    /// The frame is not the one that was parsed.
    #[error("the frame is not the one that was parsed")]
    WrongFrame,
}

/// The smallest MTU of IPv4 (RFC 791 section 3.2).
const MTU_MIN: u16 = 68;
const IPV4_HEADER_MAX: usize = 60;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// A plan: how many pieces, and what stands in each. Holds no packet bytes but the header of later pieces.
///
/// A datagram that fits is one piece. A fragment can be cut again: offsets go on from its own, and the last piece has
/// more-fragments set if it had.
#[derive(Clone, Copy, Debug)]
pub struct FragmentPlan {
    /// Offset of the IPv4 header in the frame.
    l3: usize,
    /// Length of the first piece's header, which has all options.
    first_header_len: usize,
    /// Header of the later pieces, with the options that are copied.
    later: [u8; IPV4_HEADER_MAX],
    later_header_len: usize,
    /// Payload of the whole, of the first piece, and of each later piece but the last.
    payload_len: usize,
    first_payload_len: usize,
    later_payload_len: usize,
    count: usize,
}

impl FragmentPlan {
    /// Plans pieces of at most `mtu` bytes of IP for the datagram that `parsed` describes in `frame`.
    ///
    /// # Errors
    /// [`CannotFragment`]; [`WrongFrame`](CannotFragment::WrongFrame) only for a mismatch of `frame` and `parsed`.
    pub fn plan(parsed: &Parsed, frame: &[u8], mtu: u16) -> Result<FragmentPlan, CannotFragment> {
        if parsed.is_v6() {
            return Err(CannotFragment::NotIpv4);
        }
        if parsed.dont_fragment {
            return Err(CannotFragment::DontFragment);
        }
        if mtu < MTU_MIN {
            return Err(CannotFragment::MtuTooSmall(mtu));
        }
        let (l3, l4, end) = (usize::from(parsed.l3), usize::from(parsed.l4), usize::from(parsed.end));
        let (Some(header), Some(payload)) = (frame.get(l3..l4), frame.get(l4..end)) else {
            return Err(CannotFragment::WrongFrame);
        };
        let (later, later_header_len) = later_header(header).ok_or(CannotFragment::WrongFrame)?;
        let too_small = CannotFragment::MtuTooSmall(mtu);
        let mtu = usize::from(mtu);
        // Not zero: the longest header and eight bytes fit the smallest MTU.
        let later_payload_len = NonZeroUsize::new((mtu - later_header_len) & !7).ok_or(too_small)?;
        let mut pieces = FragmentPlan {
            l3,
            first_header_len: header.len(),
            later,
            later_header_len,
            payload_len: payload.len(),
            first_payload_len: payload.len(),
            later_payload_len: later_payload_len.get(),
            count: 1,
        };
        if header.len() + payload.len() > mtu {
            pieces.first_payload_len = (mtu - header.len()) & !7;
            let rest = payload.len() - pieces.first_payload_len;
            // The last piece need not be a multiple of eight, so it may be a little longer than the others.
            let last_max = mtu - later_header_len;
            pieces.count = 2 + rest.saturating_sub(last_max).div_ceil(later_payload_len.get());
        }
        Ok(pieces)
    }

    /// How many pieces: 1 when the datagram fits, at most 8,190.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Length of piece `index` in bytes, Ethernet and tags included, padding not; 0 past the last.
    pub fn piece_len(&self, index: usize) -> usize {
        self.piece(index).map_or(0, |piece| self.l3 + piece.header_len + piece.len)
    }

    /// Writes piece `index` of `original`, the frame that was planned, as a complete frame into `out`, and returns its length.
    /// `None` when there is no such piece, or `out` is shorter than [`piece_len`](FragmentPlan::piece_len).
    pub fn write(&self, index: usize, original: &[u8], out: &mut [u8]) -> Option<usize> {
        let piece = self.piece(index)?;
        let out = out.get_mut(..self.piece_len(index))?;
        let l4 = self.l3 + self.first_header_len;
        let payload = original.get(l4 + piece.at..)?.get(..piece.len)?;
        field::put(out, 0, original.get(..self.l3)?)?;
        let header =
            if index == 0 { original.get(self.l3..l4)? } else { self.later.get(..piece.header_len)? };
        field::put(out, self.l3, header)?;
        field::put(out, self.l3 + piece.header_len, payload)?;

        // The later header was made from the original's, so both hold the original's flags and offset.
        let flags = field::word(header, 6)?;
        let more = if index + 1 < self.count { MORE_FRAGMENTS } else { flags & MORE_FRAGMENTS };
        let offset = (flags & OFFSET) + u16::try_from(piece.at / 8).ok()?;
        let flags = flags & !(OFFSET | MORE_FRAGMENTS) | more | offset & OFFSET;
        let total_len = u16::try_from(piece.header_len + piece.len).ok()?;
        let header = out.get_mut(self.l3..self.l3 + piece.header_len)?;
        field::put(header, 2, &total_len.to_be_bytes())?;
        field::put(header, 6, &flags.to_be_bytes())?;
        field::put(header, 10, &[0, 0])?;
        let check = checksum::checksum(header);
        field::put(header, 10, &check.to_be_bytes())?;
        Some(out.len())
    }

    fn piece(&self, index: usize) -> Option<PieceRange> {
        match index {
            0 => Some(PieceRange { header_len: self.first_header_len, at: 0, len: self.first_payload_len }),
            _ if index < self.count => {
                let at = self.first_payload_len + (index - 1) * self.later_payload_len;
                let rest = self.payload_len.saturating_sub(at);
                let len = if index + 1 == self.count { rest } else { self.later_payload_len };
                Some(PieceRange { header_len: self.later_header_len, at, len })
            }
            _ => None,
        }
    }
}

struct PieceRange {
    header_len: usize,
    /// Where its payload starts in the original's payload.
    at: usize,
    len: usize,
}

/// The header of pieces after the first: options without the copied flag left out, padded to a multiple of four.
fn later_header(header: &[u8]) -> Option<([u8; IPV4_HEADER_MAX], usize)> {
    const COPIED: u8 = 0x80;
    let (fixed, mut options) = header.split_first_chunk::<IPV4_LEN>()?;
    let mut later = [0; IPV4_HEADER_MAX];
    field::put(&mut later, 0, fixed)?;
    let mut len = IPV4_LEN;
    while let Some((&kind, after_kind)) = options.split_first() {
        options = match kind {
            0 => break,
            1 => after_kind,
            _ => {
                let (option, rest) = options.split_at_checked(usize::from(*after_kind.first()?).max(2))?;
                if kind & COPIED != 0 {
                    field::put(&mut later, len, option)?;
                    len += option.len();
                }
                rest
            }
        };
    }
    let len = len.next_multiple_of(4);
    let words = u8::try_from(len / 4).ok()?;
    field::put(&mut later, 0, &[0x40 | words])?;
    Some((later, len))
}

#[cfg(test)]
mod tests;
