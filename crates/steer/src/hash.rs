//! The cluster hash: SipHash-1-3 with the cluster's 128-bit key over a fixed byte layout.
//!
//! All machines of a cluster, whatever their CPU or version, must agree on these values for years, so the layout
//! is part of the protocol. Integers are big-endian. The first byte says what is hashed, so that two inputs of
//! different meaning never are the same bytes.
//!
//! | input | bytes |
//! |---|---|
//! | tuple, both IPv4 | `01` protocol:1 sport:2 dport:2 src:4 dst:4 |
//! | tuple, otherwise | `02` protocol:1 sport:2 dport:2 src:16 dst:16 |
//! | source IPv4 | `03` src:4 |
//! | source IPv6 | `04` src:16 |
//! | fragment, both IPv4 | `05` protocol:1 id:4 src:4 dst:4 |
//! | fragment, otherwise | `06` protocol:1 id:4 src:16 dst:16 |
//! | Maglev offset | `10` name:UTF-8 |
//! | Maglev skip | `11` name:UTF-8 |
//! | Maglev preference | `12` slot:4 attempt:4 |
//!
//! In a row "otherwise" an IPv4 address stands as its IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2).
//!
//! The 64 bits are shared out: 63..32 choose the slot ([`Maglev::slot`](crate::Maglev::slot)), 31..16 are kept for
//! the owner machine, 15..0 choose the owner core ([`core_of`]). Fields never overlap, or the flows of one
//! slot would crowd on one core.

pub mod lanes;
mod sip;

use sip::Sip;
use wire::{Addr, CoreId, Tuple};

/// First byte of each hashed input.
mod domain {
    pub(super) const TUPLE_V4: u8 = 0x01;
    pub(super) const TUPLE_V6: u8 = 0x02;
    pub(super) const SOURCE_V4: u8 = 0x03;
    pub(super) const SOURCE_V6: u8 = 0x04;
    pub(super) const FRAGMENT_V4: u8 = 0x05;
    pub(super) const FRAGMENT_V6: u8 = 0x06;
    pub(super) const MAGLEV_OFFSET: u8 = 0x10;
    pub(super) const MAGLEV_SKIP: u8 = 0x11;
    pub(super) const MAGLEV_PREFERENCE: u8 = 0x12;
}

/// Input of the form domain, protocol, four bytes, source, destination: a tuple or a fragment. Inlined, so that a caller
/// who knows the family pays for that one only.
#[inline(always)]
fn pair(key: &[u8; 16], domains: (u8, u8), protocol: u8, four: [u8; 4], src: Addr, dst: Addr) -> u64 {
    let head =
        |domain| u64::from(domain) | u64::from(protocol) << 8 | u64::from(u32::from_le_bytes(four)) << 16;
    if let (Addr::V4(src), Addr::V4(dst)) = (src, dst) {
        // First byte lowest, as SipHash reads.
        let (src, dst) = (u64::from(src.swap_bytes()), u64::from(dst.swap_bytes()));
        Sip::new(key).word(head(domains.0) | src << 48).finish(src >> 16 | dst << 16, 14)
    } else {
        pair_v6(Sip::new(key), head(domains.1), mapped(src), mapped(dst))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "an address in pieces")]
fn pair_v6(sip: Sip, head: u64, src: u128, dst: u128) -> u64 {
    let (src, dst) = (src.swap_bytes(), dst.swap_bytes());
    sip.word(head | (src as u64) << 48)
        .word((src >> 16) as u64)
        .word((src >> 80) as u64 | (dst as u64) << 48)
        .word((dst >> 16) as u64)
        .finish((dst >> 80) as u64, 38)
}

/// The address as 128 bits, IPv4 as IPv4-mapped.
const fn mapped(address: Addr) -> u128 {
    match address {
        Addr::V4(a) => 0xffff_0000_0000 | a as u128,
        Addr::V6(a) => a,
    }
}

/// Hash of a flow's whole tuple, for services with `hash = "tuple"`. For many at a time see [`lanes::tuples_v4`].
#[inline]
pub fn tuple(key: &[u8; 16], t: &Tuple) -> u64 {
    let ports = (u32::from(t.sport) << 16 | u32::from(t.dport)).to_be_bytes();
    pair(key, (domain::TUPLE_V4, domain::TUPLE_V6), t.protocol, ports, t.src, t.dst)
}

/// Hash of the client's address alone, for services with `hash = "source"`.
#[expect(clippy::cast_possible_truncation, reason = "an address in pieces")]
pub fn source(key: &[u8; 16], source: Addr) -> u64 {
    let sip = Sip::new(key);
    match source {
        Addr::V4(a) => sip.finish(u64::from(domain::SOURCE_V4) | u64::from(a.swap_bytes()) << 8, 5),
        Addr::V6(a) => {
            let a = a.swap_bytes();
            sip.word(u64::from(domain::SOURCE_V6) | (a as u64) << 8)
                .word((a >> 56) as u64)
                .finish((a >> 120) as u64, 17)
        }
    }
}

/// Hash that all fragments of one datagram share: they meet at the core that [`core_of`] makes of it. `id` is the
/// IPv4 identification or the 32-bit one of the IPv6 fragment header.
pub fn fragment(key: &[u8; 16], src: Addr, dst: Addr, id: u32, protocol: u8) -> u64 {
    pair(key, (domain::FRAGMENT_V4, domain::FRAGMENT_V6), protocol, id.to_be_bytes(), src, dst)
}

/// Where a backend's permutation starts and how far it steps (Maglev's h1 and h2), before reduction.
pub(crate) fn maglev_offset_and_skip(key: &[u8; 16], name: &str) -> (u64, u64) {
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    let bytes = name.as_bytes();
    let len = bytes.len() + 1;
    let (first, rest) = bytes.split_at(bytes.len().min(7));
    let first = word(first) << 8;
    let (words, last) = rest.as_chunks::<8>();
    let last = word(last);
    let hash = |domain: u8| {
        let first = first | u64::from(domain);
        if len < 8 {
            return Sip::new(key).finish(first, len);
        }
        let begun = Sip::new(key).word(first);
        words.iter().fold(begun, |sip, &word| sip.word(u64::from_le_bytes(word))).finish(last, len)
    };
    (hash(domain::MAGLEV_OFFSET), hash(domain::MAGLEV_SKIP))
}

/// The `attempt`-th further place to look when the backend of `slot` cannot be used.
pub(crate) fn maglev_preference(key: &[u8; 16], slot: u32, attempt: u32) -> u64 {
    let (slot, attempt) = (u64::from(slot.swap_bytes()), u64::from(attempt.swap_bytes()));
    let first = u64::from(domain::MAGLEV_PREFERENCE) | slot << 8 | attempt << 40;
    Sip::new(key).word(first).finish(attempt >> 24, 9)
}

/// The core that owns a flow or datagram: the low 16 bits of a hash of this module, reduced to `0..cores`.
/// Core 0 when `cores` is 0.
#[expect(clippy::cast_possible_truncation, reason = "the product shifted by 16 is below cores")]
pub const fn core_of(hash: u64, cores: u8) -> CoreId {
    CoreId((((hash & 0xffff) * cores as u64) >> 16) as u8)
}

#[cfg(test)]
mod tests;
