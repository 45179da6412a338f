//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are of big-endian 16-bit words and stay small (17 bits at most), so partial sums of several slices can be
//! added before [`fold`]; only the last slice may have an odd length.

use crate::Addr;

/// Ones' complement sum of `bytes`, not complemented, at most 0xffff; an odd last byte is padded with zero.
pub fn sum(bytes: &[u8]) -> u32 {
    // 32-bit words at a time: 2^32 is 1 modulo 2^16 - 1, so the halves may be folded together at the end.
    let (words, rest) = bytes.as_chunks::<4>();
    let total: u64 = words.iter().map(|w| u64::from(u32::from_be_bytes(*w))).sum();
    let tail = match *rest {
        [a] => [a, 0, 0, 0],
        [a, b] => [a, b, 0, 0],
        [a, b, c] => [a, b, c, 0],
        _ => [0; 4],
    };
    fold_words(total + u64::from(u32::from_be_bytes(tail)))
}

/// [`sum`] of a whole number of 32-bit words, unrolled where the number is known when this is compiled.
#[inline(always)]
pub(crate) fn sum_words(words: &[[u8; 4]]) -> u32 {
    fold_words(words.iter().map(|w| u64::from(u32::from_be_bytes(*w))).sum())
}

/// Folds a sum of 32-bit words to 16 bits.
#[expect(clippy::cast_possible_truncation, reason = "the folds leave 33, 18 and 17 bits, the last 16")]
pub(crate) const fn fold_words(total: u64) -> u32 {
    let total = (total >> 32) + (total & 0xffff_ffff);
    let total = (total >> 16) + (total & 0xffff);
    let total = (total >> 16) + (total & 0xffff);
    ((total >> 16) + (total & 0xffff)) as u32
}

/// Folds carries into 16 bits; not complemented. A slice that contains its own valid checksum folds to 0xffff.
#[expect(clippy::cast_possible_truncation, reason = "two folds leave 16 bits")]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum >> 16) + (sum & 0xffff);
    ((once >> 16) + (once & 0xffff)) as u16
}

/// The checksum of `bytes`, in which the checksum field is zero.
pub fn checksum(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// Sum of the pseudo-header of TCP, UDP (RFC 9293, 768) and, over IPv6, ICMPv6 (RFC 8200 section 8.1); `len` is the length of
/// the transport header and its payload in bytes.
pub fn pseudo_header_sum(src: Addr, dst: Addr, protocol: u8, len: u32) -> u32 {
    address_sum(src) + address_sum(dst) + u32::from(protocol) + (len >> 16) + (len & 0xffff)
}

fn address_sum(address: Addr) -> u32 {
    match address {
        Addr::V4(a) => sum(&a.to_be_bytes()),
        Addr::V6(a) => sum(&a.to_be_bytes()),
    }
}

/// The checksum after a 16-bit field changed from `old` to `new` (RFC 1624 equation 3).
///
/// Equals a recomputed checksum unless all summed bytes are zero, which no IP, TCP or UDP header is.
pub const fn update16(check: u16, old: u16, new: u16) -> u16 {
    !fold(!check as u32 + !old as u32 + new as u32)
}

/// The checksum after an aligned 32-bit field changed from `old` to `new` (RFC 1624 equation 3).
pub const fn update32(check: u16, old: u32, new: u32) -> u16 {
    let (old, new) = (!old, new);
    !fold(!check as u32 + (old >> 16) + (old & 0xffff) + (new >> 16) + (new & 0xffff))
}

#[cfg(test)]
mod tests;
