//! Which service a packet belongs to.
//!
//! The usual rule, an address with a port, is found by one probe of one cache line. Every other packet goes
//! through the rules by prefix length: one group of exact maps for each length in use, two probes each.

mod destination;
mod exact;
mod groups;

pub use destination::Match;

use exact::{Entry4, Entry6, Exact};
use groups::Groups;
use wire::Addr;

/// A rule: packets to these addresses, this port and this protocol belong to the service of the rule's index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServiceRule {
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

/// The rules, ready for look-up. The default has none: nothing is a VIP.
#[derive(Debug, Default)]
pub struct Services {
    /// The rules with a whole address and a port, once more: nothing comes before them.
    exact_v4: Exact<Entry4>,
    exact_v6: Exact<Entry6>,
    v4: Groups<u32>,
    v6: Groups<u128>,
}

impl Services {
    /// Most rules: their indices are 16 bits, and one is left free.
    pub const RULES_MAX: usize = u16::MAX as usize;

    /// Shortest IPv6 prefix, bits.
    pub const PREFIX_V6_MIN: u8 = 96;

    /// Builds the tables.
    ///
    /// # Errors
    /// The first rule, in order, that cannot stand; see [`RulesError`].
    pub fn build(rules: &[ServiceRule]) -> Result<Services, RulesError> {
        let mut services = Services::default();
        if rules.len() > Self::RULES_MAX {
            return Err(RulesError::TooMany(rules.len()));
        }
        for (i, (index, rule)) in (0..=u16::MAX).zip(rules).enumerate() {
            let of = (rule.port, rule.protocol);
            let added = match rule.vip {
                Addr::V4(_) if rule.len > 32 => return Err(RulesError::PrefixTooLong(i)),
                Addr::V6(_) if rule.len > 128 => return Err(RulesError::PrefixTooLong(i)),
                Addr::V6(_) if rule.len < Self::PREFIX_V6_MIN => return Err(RulesError::PrefixTooShort(i)),
                Addr::V4(a) => services.v4.add(a, rule.len, of, index),
                Addr::V6(a) => services.v6.add(a, rule.len, of, index),
            };
            added.map_err(|first| RulesError::Duplicate(usize::from(first), i))?;
        }
        let exact = || (0..=u16::MAX).zip(rules).filter(|(_, rule)| rule.port != 0);
        services.exact_v4 = Exact::new(exact().filter_map(|(index, rule)| match rule.vip {
            Addr::V4(a) if rule.len == 32 => Some(Entry4::new(a, rule.port, rule.protocol, index)),
            _ => None,
        }));
        services.exact_v6 = Exact::new(exact().filter_map(|(index, rule)| match rule.vip {
            Addr::V6(a) if rule.len == 128 => Some(Entry6::new(a, rule.port, rule.protocol, index)),
            _ => None,
        }));
        Ok(services)
    }

    /// The service of a packet. The longest prefix that has a rule for this protocol and port wins; within one
    /// prefix a rule with the port beats one for any port.
    #[inline]
    pub fn find(&self, dst: Addr, dport: u16, protocol: u8) -> Match {
        match dst {
            Addr::V4(a) => self.find_v4(a, dport, protocol),
            Addr::V6(a) => self.find_v6(a, dport, protocol),
        }
    }

    /// [`Services::find`] for IPv4: some 15 instructions and one cache line for a rule with address and port.
    #[inline]
    pub fn find_v4(&self, dst: u32, dport: u16, protocol: u8) -> Match {
        match self.exact_v4.find_first(&Entry4::new(dst, dport, protocol, 0)) {
            Some(index) => Match::Service(index),
            None => self.find_any_v4(dst, dport, protocol),
        }
    }

    /// The service of a rule with this address and port, which comes before any other. `None`: other rules, or none, may
    /// match.
    #[inline(always)]
    pub fn exact_v4(&self, dst: u32, dport: u16, protocol: u8) -> Option<u16> {
        self.exact_v4.find_first(&Entry4::new(dst, dport, protocol, 0))
    }

    /// [`Services::find`] for IPv6: some 25 instructions and half a cache line for a rule with address and port.
    #[inline]
    pub fn find_v6(&self, dst: u128, dport: u16, protocol: u8) -> Match {
        match self.exact_v6.find_first(&Entry6::new(dst, dport, protocol, 0)) {
            Some(index) => Match::Service(index),
            None => self.find_any_v6(dst, dport, protocol),
        }
    }

    // The rest of a look-up starts anew from plain numbers, so that the entry above need never lie in memory.

    #[cold]
    #[inline(never)]
    fn find_any_v4(&self, dst: u32, dport: u16, protocol: u8) -> Match {
        match self.exact_v4.find(&Entry4::new(dst, dport, protocol, 0)) {
            Some(index) => Match::Service(index),
            None => self.v4.find(dst, dport, protocol),
        }
    }

    #[cold]
    #[inline(never)]
    fn find_any_v6(&self, dst: u128, dport: u16, protocol: u8) -> Match {
        match self.exact_v6.find(&Entry6::new(dst, dport, protocol, 0)) {
            Some(index) => Match::Service(index),
            None => self.v6.find(dst, dport, protocol),
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
