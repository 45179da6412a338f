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

use siphasher::sip::SipHasher13;
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

/// Longest input of fixed length: a tuple with IPv6 addresses.
const INPUT_MAX: usize = 38;

/// An input under construction; longer than [`INPUT_MAX`] cannot happen, as every caller is in this file.
struct Input {
    bytes: [u8; INPUT_MAX],
    len: usize,
}

impl Input {
    fn new(domain: u8) -> Input {
        let mut bytes = [0; INPUT_MAX];
        bytes[0] = domain;
        Input { bytes, len: 1 }
    }

    fn put<const N: usize>(mut self, field: [u8; N]) -> Input {
        self.bytes[self.len..self.len + N].copy_from_slice(&field);
        self.len += N;
        self
    }

    fn hash(&self, key: &[u8; 16]) -> u64 {
        SipHasher13::new_with_key(key).hash(&self.bytes[..self.len])
    }
}

/// The address as 128 bits, IPv4 as IPv4-mapped.
const fn mapped(address: Addr) -> u128 {
    match address {
        Addr::V4(a) => 0xffff_0000_0000 | a as u128,
        Addr::V6(a) => a,
    }
}

/// Hash of a flow's whole tuple, for services with `hash = "tuple"`.
pub fn tuple(key: &[u8; 16], t: &Tuple) -> u64 {
    let begin =
        |domain| Input::new(domain).put([t.protocol]).put(t.sport.to_be_bytes()).put(t.dport.to_be_bytes());
    match (t.src, t.dst) {
        (Addr::V4(src), Addr::V4(dst)) => {
            begin(domain::TUPLE_V4).put(src.to_be_bytes()).put(dst.to_be_bytes()).hash(key)
        }
        (src, dst) => {
            begin(domain::TUPLE_V6).put(mapped(src).to_be_bytes()).put(mapped(dst).to_be_bytes()).hash(key)
        }
    }
}

/// Hash of the client's address alone, for services with `hash = "source"`.
pub fn source(key: &[u8; 16], source: Addr) -> u64 {
    match source {
        Addr::V4(a) => Input::new(domain::SOURCE_V4).put(a.to_be_bytes()).hash(key),
        Addr::V6(a) => Input::new(domain::SOURCE_V6).put(a.to_be_bytes()).hash(key),
    }
}

/// Hash that all fragments of one datagram share: they meet at the core that [`core_of`] makes of it. `id` is the
/// IPv4 identification or the 32-bit one of the IPv6 fragment header.
pub fn fragment(key: &[u8; 16], src: Addr, dst: Addr, id: u32, protocol: u8) -> u64 {
    let begin = |domain| Input::new(domain).put([protocol]).put(id.to_be_bytes());
    match (src, dst) {
        (Addr::V4(src), Addr::V4(dst)) => {
            begin(domain::FRAGMENT_V4).put(src.to_be_bytes()).put(dst.to_be_bytes()).hash(key)
        }
        (src, dst) => {
            begin(domain::FRAGMENT_V6).put(mapped(src).to_be_bytes()).put(mapped(dst).to_be_bytes()).hash(key)
        }
    }
}

/// Where a backend's permutation starts (Maglev's h1), before reduction.
pub(crate) fn maglev_offset(key: &[u8; 16], name: &str) -> u64 {
    named(key, domain::MAGLEV_OFFSET, name)
}

/// How far a backend's permutation steps (Maglev's h2), before reduction.
pub(crate) fn maglev_skip(key: &[u8; 16], name: &str) -> u64 {
    named(key, domain::MAGLEV_SKIP, name)
}

fn named(key: &[u8; 16], domain: u8, name: &str) -> u64 {
    use core::hash::Hasher as _;
    let mut hasher = SipHasher13::new_with_key(key);
    hasher.write(&[domain]);
    hasher.write(name.as_bytes());
    hasher.finish()
}

/// The `attempt`-th further place to look when the backend of `slot` cannot be used.
pub(crate) fn maglev_preference(key: &[u8; 16], slot: u32, attempt: u32) -> u64 {
    Input::new(domain::MAGLEV_PREFERENCE).put(slot.to_be_bytes()).put(attempt.to_be_bytes()).hash(key)
}

/// The core that owns a flow or datagram: the low 16 bits of a hash of this module, reduced to `0..cores`.
/// Core 0 when `cores` is 0.
#[expect(clippy::cast_possible_truncation, reason = "the product shifted by 16 is below cores")]
pub const fn core_of(hash: u64, cores: u8) -> CoreId {
    CoreId((((hash & 0xffff) * cores as u64) >> 16) as u8)
}

#[cfg(test)]
mod tests;
