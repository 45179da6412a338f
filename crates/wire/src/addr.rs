//! An IP address, small and `Copy`, in host integer form.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 or IPv6 address as an integer (big-endian value: 10.0.0.1 is `0x0a000001`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Addr {
    /// IPv4.
    V4(u32),
    /// IPv6.
    V6(u128),
}

impl Addr {
    /// Whether this is an IPv6 address.
    pub const fn is_v6(self) -> bool {
        matches!(self, Addr::V6(_))
    }

    /// The low 32 bits (the whole address for IPv4).
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are what is asked for")]
    pub const fn low32(self) -> u32 {
        match self {
            Addr::V4(a) => a,
            Addr::V6(a) => a as u32,
        }
    }
}

impl From<IpAddr> for Addr {
    fn from(a: IpAddr) -> Addr {
        match a {
            IpAddr::V4(a) => Addr::V4(a.to_bits()),
            IpAddr::V6(a) => Addr::V6(a.to_bits()),
        }
    }
}

impl From<Addr> for IpAddr {
    fn from(a: Addr) -> IpAddr {
        match a {
            Addr::V4(a) => IpAddr::V4(Ipv4Addr::from_bits(a)),
            Addr::V6(a) => IpAddr::V6(Ipv6Addr::from_bits(a)),
        }
    }
}

impl core::fmt::Display for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}
