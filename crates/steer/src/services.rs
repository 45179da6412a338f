//! Which service a packet belongs to.
//!
//! Rules of one prefix length are one group of exact maps, so a look-up costs one probe for the usual case (VIP and
//! port) and two per further prefix length in use. The exact address is the longest prefix.

use alloc::vec::Vec;
use core::hash::Hash;
use hashbrown::{HashMap, HashSet};
use wire::Addr;

/// A rule: packets to these addresses, this port and this protocol belong to the service of the rule's index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The VIP, or the network of a VIP prefix; bits beyond `len` are ignored.
    pub vip: Addr,
    /// Prefix length, bits: 0 to 32 for IPv4, 96 to 128 for IPv6.
    pub len: u8,
    /// Destination port; 0 means any.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

/// Why rules were refused. Indices count the rules from 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RulesError {
    /// Two rules match exactly the same packets.
    #[error("rules {0} and {1} have the same VIP, port and protocol; remove one of them")]
    Duplicate(usize, usize),
    /// An IPv6 prefix shorter than 96: the flow key names a destination by its low 32 bits only.
    #[error("rule {0}: an IPv6 VIP prefix must be /96 or longer")]
    PrefixTooShort(usize),
    /// A prefix longer than the address.
    #[error("rule {0}: the prefix is longer than the address (at most /32 for IPv4, /128 for IPv6)")]
    PrefixTooLong(usize),
    /// More rules than indices.
    #[error("{0} rules, but at most {max} are possible", max = Services::RULES_MAX)]
    TooMany(usize),
}

/// What a destination matched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Match {
    /// The rule with this index.
    Service(u16),
    /// No rule, but the destination is a VIP, so the packet is ours to answer or drop.
    NoService,
    /// Not a VIP: not our packet.
    NotVip,
}

/// Hashing inside one process; the seeds are fixed because keys come from the configuration, not from packets.
type Seeded = ahash::RandomState;

fn seeded() -> Seeded {
    Seeded::with_seeds(
        0x9ae1_6a3b_2f90_404f,
        0xc2b2_ae3d_27d4_eb4f,
        0x1656_67b1_9e37_79f9,
        0x27d4_eb2f_1656_67c5,
    )
}

/// Rules of one prefix length over addresses of type `A`.
#[derive(Debug)]
struct Group<A> {
    len: u8,
    mask: A,
    with_port: HashMap<(A, u32), u16, Seeded>,
    any_port: HashMap<(A, u32), u16, Seeded>,
    vips: HashSet<A, Seeded>,
}

/// An address as an integer.
trait Bits: Copy + Eq + Hash + core::ops::BitAnd<Output = Self> {
    /// All ones in the first `len` bits; `len` is at most the width.
    fn mask(len: u8) -> Self;
}

impl Bits for u32 {
    fn mask(len: u8) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
    }
}

impl Bits for u128 {
    fn mask(len: u8) -> u128 {
        u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
    }
}

const fn port_and_protocol(port: u16, protocol: u8) -> u32 {
    (port as u32) << 8 | protocol as u32
}

impl<A: Bits> Group<A> {
    fn new(len: u8) -> Group<A> {
        Group {
            len,
            mask: A::mask(len),
            with_port: HashMap::with_hasher(seeded()),
            any_port: HashMap::with_hasher(seeded()),
            vips: HashSet::with_hasher(seeded()),
        }
    }

    /// Adds a rule; `Err` is the index of the rule that is already there.
    fn add(&mut self, address: A, port: u16, protocol: u8, index: u16) -> Result<(), u16> {
        let network = address & self.mask;
        let map = if port == 0 { &mut self.any_port } else { &mut self.with_port };
        if let Some(&first) = map.get(&(network, port_and_protocol(port, protocol))) {
            return Err(first);
        }
        map.insert((network, port_and_protocol(port, protocol)), index);
        self.vips.insert(network);
        Ok(())
    }

    #[inline]
    fn find(&self, address: A, port: u16, protocol: u8) -> Option<u16> {
        let network = address & self.mask;
        let exact = if self.with_port.is_empty() {
            None
        } else {
            self.with_port.get(&(network, port_and_protocol(port, protocol)))
        };
        match exact {
            Some(&index) => Some(index),
            None if self.any_port.is_empty() => None,
            None => self.any_port.get(&(network, port_and_protocol(0, protocol))).copied(),
        }
    }
}

/// Groups in the order in which they are asked: longest prefix first.
#[derive(Debug)]
struct Groups<A>(Vec<Group<A>>);

// Not derived: `A` has no default of its own.
impl<A> Default for Groups<A> {
    fn default() -> Groups<A> {
        Groups(Vec::new())
    }
}

impl<A: Bits> Groups<A> {
    fn of_len(&mut self, len: u8) -> &mut Group<A> {
        let at = self.0.partition_point(|group| group.len > len);
        if self.0.get(at).is_none_or(|group| group.len != len) {
            self.0.insert(at, Group::new(len));
        }
        &mut self.0[at]
    }

    #[inline]
    fn find(&self, address: A, port: u16, protocol: u8) -> Match {
        for group in &self.0 {
            if let Some(index) = group.find(address, port, protocol) {
                return Match::Service(index);
            }
        }
        if self.is_vip(address) { Match::NoService } else { Match::NotVip }
    }

    #[inline]
    fn is_vip(&self, address: A) -> bool {
        self.0.iter().any(|group| group.vips.contains(&(address & group.mask)))
    }
}

/// The rules, ready for look-up. The default has none: nothing is a VIP.
#[derive(Debug, Default)]
pub struct Services {
    v4: Groups<u32>,
    v6: Groups<u128>,
}

impl Services {
    /// Most rules: their indices are 16 bits, and one is left free.
    pub const RULES_MAX: usize = u16::MAX as usize;

    /// Shortest IPv6 prefix, bits.
    pub const PREFIX_V6_MIN: u8 = 96;

    /// Builds the maps.
    ///
    /// # Errors
    /// The first rule, in order, that cannot stand; see [`RulesError`].
    pub fn build(rules: &[Rule]) -> Result<Services, RulesError> {
        let mut services = Services::default();
        if rules.len() > Self::RULES_MAX {
            return Err(RulesError::TooMany(rules.len()));
        }
        for (i, (index, rule)) in (0..=u16::MAX).zip(rules).enumerate() {
            let added = match rule.vip {
                Addr::V4(_) if rule.len > 32 => return Err(RulesError::PrefixTooLong(i)),
                Addr::V6(_) if rule.len > 128 => return Err(RulesError::PrefixTooLong(i)),
                Addr::V6(_) if rule.len < Self::PREFIX_V6_MIN => return Err(RulesError::PrefixTooShort(i)),
                Addr::V4(a) => services.v4.of_len(rule.len).add(a, rule.port, rule.protocol, index),
                Addr::V6(a) => services.v6.of_len(rule.len).add(a, rule.port, rule.protocol, index),
            };
            added.map_err(|first| RulesError::Duplicate(usize::from(first), i))?;
        }
        Ok(services)
    }

    /// The service of a packet. The longest prefix that has a rule for this protocol and port wins; within one
    /// prefix a rule with the port beats one for any port.
    #[inline]
    pub fn find(&self, dst: Addr, dport: u16, protocol: u8) -> Match {
        match dst {
            Addr::V4(a) => self.v4.find(a, dport, protocol),
            Addr::V6(a) => self.v6.find(a, dport, protocol),
        }
    }

    /// Whether any rule, of any protocol and port, covers this address.
    #[inline]
    pub fn is_vip(&self, dst: Addr) -> bool {
        match dst {
            Addr::V4(a) => self.v4.is_vip(a),
            Addr::V6(a) => self.v6.is_vip(a),
        }
    }
}

#[cfg(test)]
mod tests;
