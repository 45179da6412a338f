//! Outer sources of a prefix: each flow has one of its own, so that routers and cards that spread packets by their addresses alone
//! spread the flows of a tunnel.

use core::fmt;
use core::net::IpAddr;

use crate::Addr;

/// Addresses that name no single host or are not routed: their first, and the length of their prefix.
const NOT_ROUTED_V4: [(u32, u8); 3] = [
    // "This network" and loopback (RFC 1122 section 3.2.1.3); multicast, reserved and broadcast (RFC 1112, RFC 919).
    (0x0000_0000, 8),
    (0x7f00_0000, 8),
    (0xe000_0000, 3),
];
const NOT_ROUTED_V6: [(u128, u8); 3] = [
    // Unspecified, loopback and mapped IPv4; link-local; multicast (RFC 4291 section 2.4).
    (0, 8),
    (0xfe80 << 112, 10),
    (0xff00 << 112, 8),
];

/// A prefix that outer sources are of: the flow's hash fills all bits behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SourcePrefix {
    pub(super) first: Addr,
    pub(super) len: u8,
}

/// Why no [`SourcePrefix`] can be made of an address and a length.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SourcePrefixError {
    /// Fewer than 256 sources of IPv4, or 2^32 of IPv6.
    #[error("{address}/{len} leaves too few addresses for flows")]
    TooLong {
        /// Its address.
        address: IpAddr,
        /// Its length, bits.
        len: u8,
    },
    /// The address has bits behind the prefix, where the flow's hash goes.
    #[error("{address}/{len} has bits set behind the prefix")]
    HostBits {
        /// Its address.
        address: IpAddr,
        /// Its length, bits.
        len: u8,
        /// The address without these bits.
        first: IpAddr,
    },
    /// It holds addresses that no packet may come from.
    #[error(
        "{address}/{len} holds addresses that are not one host's or not routed \
         (unspecified, loopback, link-local, multicast, reserved)"
    )]
    NotUnicast {
        /// Its address.
        address: IpAddr,
        /// Its length, bits.
        len: u8,
    },
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            SourcePrefixError::TooLong { address, .. } => {
                write!(f, "use a prefix of at most {} bits", SourcePrefix::len_max(address))
            }
            SourcePrefixError::HostBits { len, first, .. } => write!(f, "write {first}/{len}"),
            SourcePrefixError::NotUnicast { .. } => {
                f.write_str("use a unicast prefix that is routed to this machine")
            }
        }
    }
}

/// What to do about a [`SourcePrefixError`], in words.
#[derive(Clone, Copy, Debug)]
pub struct Remedy(SourcePrefixError);

impl SourcePrefixError {
    /// What to do about it.
    pub const fn remedy(self) -> Remedy {
        Remedy(self)
    }
}

impl SourcePrefix {
    /// The longest prefix of this address's family, bits.
    pub const fn len_max(address: IpAddr) -> u8 {
        match address {
            IpAddr::V4(_) => 24,
            IpAddr::V6(_) => 96,
        }
    }

    /// The addresses that begin with the first `len` bits of `address`, whose other bits are 0.
    ///
    /// # Errors
    /// [`SourcePrefixError`]: a prefix that is too long, bits behind it, or addresses that no packet may come from.
    pub fn new(address: IpAddr, len: u8) -> Result<SourcePrefix, SourcePrefixError> {
        if len > SourcePrefix::len_max(address) {
            return Err(SourcePrefixError::TooLong { address, len });
        }
        let (first, is_routed) = match address {
            IpAddr::V4(v4) => {
                let first = v4.to_bits() & !host_bits_v4(len);
                let is_apart = |&(other, of): &(u32, u8)| (first ^ other) & !host_bits_v4(len.min(of)) != 0;
                (Addr::V4(first), NOT_ROUTED_V4.iter().all(is_apart))
            }
            IpAddr::V6(v6) => {
                let first = v6.to_bits() & !host_bits_v6(len);
                let is_apart = |&(other, of): &(u128, u8)| (first ^ other) & !host_bits_v6(len.min(of)) != 0;
                (Addr::V6(first), NOT_ROUTED_V6.iter().all(is_apart))
            }
        };
        if !is_routed {
            return Err(SourcePrefixError::NotUnicast { address, len });
        }
        let prefix = SourcePrefix { first, len };
        if prefix.first() != address {
            return Err(SourcePrefixError::HostBits { address, len, first: prefix.first() });
        }
        Ok(prefix)
    }

    /// The address that all bits behind the prefix are 0 of.
    pub fn first(self) -> IpAddr {
        self.first.into()
    }

    /// Whether this may be an outer source.
    pub const fn contains(self, address: Addr) -> bool {
        match (self.first, address) {
            (Addr::V4(first), Addr::V4(bits)) => (first ^ bits) & !host_bits_v4(self.len) == 0,
            (Addr::V6(first), Addr::V6(bits)) => (first ^ bits) & !host_bits_v6(self.len) == 0,
            _ => false,
        }
    }
}

impl fmt::Display for SourcePrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first(), self.len)
    }
}

#[inline(always)]
const fn host_bits_v4(len: u8) -> u32 {
    match u32::MAX.checked_shr(len as u32) {
        Some(bits) => bits,
        None => 0,
    }
}

#[inline(always)]
const fn host_bits_v6(len: u8) -> u128 {
    match u128::MAX.checked_shr(len as u32) {
        Some(bits) => bits,
        None => 0,
    }
}

/// What stands behind a prefix of this length in the sources of a flow.
#[inline(always)]
pub(super) const fn host_v4(len: u8, entropy: u32) -> u32 {
    entropy & host_bits_v4(len)
}

/// See [`host_v4`]. There are more bits than entropy has: a product with an odd number (2^128 divided by the golden ratio) is another
/// one for each entropy in its last 32 bits, which are behind every prefix, and fills those before them.
#[inline(always)]
pub(super) const fn host_v6(len: u8, entropy: u32) -> u128 {
    const ODD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    (entropy as u128).wrapping_mul(ODD) & host_bits_v6(len)
}
