//! Addresses with a prefix length.

use serde::{Serialize, Serializer};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address with a prefix length; host bits allowed for interface addresses, refused for VIP prefixes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Net {
    /// Address.
    pub addr: IpAddr,
    /// Prefix length.
    pub len: u8,
}

/// Networks, each with something about it, that are asked which one holds an address.
#[derive(Clone, Debug)]
pub(crate) struct NetMap<T> {
    /// By prefix length, and the network's own address.
    nets: BTreeMap<u8, HashMap<IpAddr, T>>,
}

impl<T> Default for NetMap<T> {
    fn default() -> NetMap<T> {
        NetMap { nets: BTreeMap::new() }
    }
}

impl<T> NetMap<T> {
    /// Adds a network; of two that are equal the first stays.
    pub(crate) fn insert(&mut self, net: Net, value: T) {
        self.nets.entry(net.len).or_default().entry(net.network()).or_insert(value);
    }

    /// The longest prefix that holds the address. One look-up for each length there is.
    pub(crate) fn find(&self, addr: IpAddr) -> Option<(Net, &T)> {
        self.nets.iter().rev().filter(|(len, _)| **len <= Net::len_max(addr)).find_map(|(&len, nets)| {
            let addr = Net { addr, len }.network();
            Some((Net { addr, len }, nets.get(&addr)?))
        })
    }
}

/// Why a text is no network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseNetError {
    /// The part before the slash.
    #[error("not an IPv4 or IPv6 address")]
    Address,
    /// The part after the slash.
    #[error("the prefix length is not a number from 0 to {max}")]
    Length {
        /// 32 or 128.
        max: u8,
    },
}

impl Net {
    /// The longest prefix length of a family.
    pub const fn len_max(addr: IpAddr) -> u8 {
        if addr.is_ipv4() { 32 } else { 128 }
    }

    /// A single address.
    pub const fn host(addr: IpAddr) -> Net {
        Net { addr, len: Net::len_max(addr) }
    }

    /// Whether it holds exactly one address.
    pub const fn is_host(self) -> bool {
        self.len == Net::len_max(self.addr)
    }

    /// The network's own address: host bits cleared.
    pub const fn network(self) -> IpAddr {
        match self.addr {
            IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & mask4(self.len))),
            IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & mask6(self.len))),
        }
    }

    /// An address to probe a service by: the single address, or the first host's.
    pub const fn first_host(self) -> IpAddr {
        match self.network() {
            _ if self.is_host() => self.addr,
            IpAddr::V4(network) => IpAddr::V4(Ipv4Addr::from_bits(network.to_bits() | 1)),
            IpAddr::V6(network) => IpAddr::V6(Ipv6Addr::from_bits(network.to_bits() | 1)),
        }
    }

    /// Whether `addr` lies in it.
    pub fn contains(self, addr: IpAddr) -> bool {
        addr.is_ipv4() == self.addr.is_ipv4() && Net { addr, len: self.len }.network() == self.network()
    }

    /// Whether the two share an address.
    pub fn overlaps(self, other: Net) -> bool {
        if self.len <= other.len { self.contains(other.addr) } else { other.contains(self.addr) }
    }
}

const fn mask4(len: u8) -> u32 {
    if len == 0 { 0 } else { u32::MAX << (32 - if len > 32 { 32 } else { len }) }
}

const fn mask6(len: u8) -> u128 {
    if len == 0 { 0 } else { u128::MAX << (128 - if len > 128 { 128 } else { len }) }
}

/// Why no station on a network can have an address of `net`, if so.
pub(crate) fn not_unicast(net: Net) -> Option<&'static str> {
    const fn v4(a: u8, b: u8, c: u8, d: u8, len: u8) -> Net {
        Net { addr: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), len }
    }
    const fn v6(bits: u128, len: u8) -> Net {
        Net { addr: IpAddr::V6(Ipv6Addr::from_bits(bits)), len }
    }
    const SPECIAL: [(Net, &str); 9] = [
        (v4(0, 0, 0, 0, 8), "an unspecified address (0.0.0.0/8)"),
        (v4(127, 0, 0, 0, 8), "a loopback address (127.0.0.0/8)"),
        (v4(224, 0, 0, 0, 4), "a multicast address (224.0.0.0/4)"),
        (v4(255, 255, 255, 255, 32), "the broadcast address"),
        (v6(0, 128), "the unspecified address"),
        (v6(1, 128), "the loopback address"),
        (v6(0xff00 << 112, 8), "a multicast address (ff00::/8)"),
        (v6(0xffff << 32, 96), "an IPv4 address in IPv6 clothes: write it as IPv4"),
        (v6(0, 96), "in ::/96, which names no station"),
    ];
    SPECIAL.iter().find(|(special, _)| special.overlaps(net)).map(|&(_, what)| what)
}

impl FromStr for Net {
    type Err = ParseNetError;

    /// `address` (then a host) or `address/len`.
    fn from_str(text: &str) -> Result<Net, ParseNetError> {
        let (addr, len) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len)),
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| ParseNetError::Address)?;
        let Some(len) = len else { return Ok(Net::host(addr)) };
        let max = Net::len_max(addr);
        let digits = !len.is_empty() && len.len() <= 3 && len.bytes().all(|b| b.is_ascii_digit());
        match len.parse::<u8>() {
            Ok(len) if digits && len <= max => Ok(Net { addr, len }),
            _ => Err(ParseNetError::Length { max }),
        }
    }
}

impl fmt::Display for Net {
    /// As it is written in the config: a host without its length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_host() { self.addr.fmt(f) } else { write!(f, "{}/{}", self.addr, self.len) }
    }
}

impl Serialize for Net {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_is_found() {
        let mut map = NetMap::default();
        for (text, value) in
            [("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.1.2.3", 3), ("2001:db8::/96", 4), ("10.1.2.3", 5)]
        {
            map.insert(text.parse().unwrap(), value);
        }
        let found =
            |text: &str| map.find(text.parse().unwrap()).map(|(net, value)| (net.to_string(), *value));
        assert_eq!(found("10.1.2.3"), Some(("10.1.2.3".to_owned(), 3)));
        assert_eq!(found("10.1.2.4"), Some(("10.1.0.0/16".to_owned(), 2)));
        assert_eq!(found("10.2.0.0"), Some(("10.0.0.0/8".to_owned(), 1)));
        assert_eq!(found("2001:db8::7"), Some(("2001:db8::/96".to_owned(), 4)));
        // A host's length of one family is a prefix length of the other.
        assert_eq!(found("a01:203::"), None);
        assert_eq!(found("11.0.0.1"), None);
    }

    fn net(text: &str) -> Net {
        text.parse().unwrap()
    }

    #[test]
    fn texts() {
        assert!(net("10.0.0.1").is_host() && net("::1/128").is_host());
        assert_eq!(net("10.0.2.11/24").network(), "10.0.2.0".parse::<IpAddr>().unwrap());
        assert_eq!(net("2001:db8::7/96").to_string(), "2001:db8::7/96");
        assert_eq!("10.0.0.1/33".parse::<Net>(), Err(ParseNetError::Length { max: 32 }));
        for bad in ["10.0.0.1/", "10.0.0.1/+8", "::/129", "10.0.0.1/0008"] {
            assert!(matches!(bad.parse::<Net>(), Err(ParseNetError::Length { .. })), "{bad}");
        }
        for bad in ["", "10.0.0", "10.0.0.1.2", "fe80::1%eth0", "/8", " 10.0.0.1"] {
            assert_eq!(bad.parse::<Net>(), Err(ParseNetError::Address), "{bad}");
        }
    }

    #[test]
    fn a_prefix_is_probed_at_its_first_host() {
        for (vip, address) in [
            ("203.0.113.10", "203.0.113.10"),
            ("203.0.113.16/28", "203.0.113.17"),
            ("fd00:9::/96", "fd00:9::1"),
        ] {
            assert_eq!(net(vip).first_host(), address.parse::<IpAddr>().unwrap());
        }
    }

    #[test]
    fn membership() {
        assert!(net("0.0.0.0/0").contains("255.1.2.3".parse().unwrap()));
        assert!(!net("0.0.0.0/0").contains("::1".parse().unwrap()));
        assert!(net("::/0").contains("::1".parse().unwrap()));
        assert!(!net("10.0.2.0/24").contains("10.0.3.0".parse().unwrap()));
        assert!(
            net("10.0.0.0/8").overlaps(net("10.1.0.0/16")) && net("10.1.0.0/16").overlaps(net("10.0.0.0/8"))
        );
        assert!(!net("10.0.0.0/16").overlaps(net("10.1.0.0/16")));
    }
}
