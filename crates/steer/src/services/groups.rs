//! Rules by prefix length: the general way to find a service, and the whole truth about VIPs.

use super::destination::{Match, port_and_protocol};
use alloc::vec::Vec;
use core::hash::Hash;
use hashbrown::{HashMap, HashSet};

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
pub(super) trait Bits: Copy + Eq + Hash + core::ops::BitAnd<Output = Self> {
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
pub(super) struct Groups<A>(Vec<Group<A>>);

// Not derived: `A` has no default of its own.
impl<A> Default for Groups<A> {
    fn default() -> Groups<A> {
        Groups(Vec::new())
    }
}

impl<A: Bits> Groups<A> {
    /// Adds a rule; `Err` is the index of the rule that is already there. `len` is at most the address's width.
    pub(super) fn add(
        &mut self,
        address: A,
        len: u8,
        (port, protocol): (u16, u8),
        index: u16,
    ) -> Result<(), u16> {
        self.of_len(len).add(address, port, protocol, index)
    }

    fn of_len(&mut self, len: u8) -> &mut Group<A> {
        let at = self.0.partition_point(|group| group.len > len);
        if self.0.get(at).is_none_or(|group| group.len != len) {
            self.0.insert(at, Group::new(len));
        }
        &mut self.0[at]
    }

    /// The rule of the longest prefix; in one prefix the rule with the port first.
    pub(super) fn find(&self, address: A, port: u16, protocol: u8) -> Match {
        for group in &self.0 {
            if let Some(index) = group.find(address, port, protocol) {
                return Match::Service(index);
            }
        }
        if self.is_vip(address) { Match::NoService } else { Match::NotVip }
    }

    /// Whether any prefix covers the address.
    pub(super) fn is_vip(&self, address: A) -> bool {
        self.0.iter().any(|group| group.vips.contains(&(address & group.mask)))
    }
}
