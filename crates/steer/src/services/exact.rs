//! An open-addressed table from destinations to rules, read only after it is built.
//!
//! At most a quarter full, so that the first entry looked at nearly always decides, and built from the configuration,
//! not from packets: nobody can choose keys that collide.

use super::destination::port_and_protocol;
use alloc::vec::Vec;

/// Spreads keys over the upper bits: 2^64 divided by the golden ratio (Knuth, volume 3, section 6.4), and two more odd
/// numbers without a pattern.
const SPREAD: [u64; 3] = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f, 0x1656_67b1_9e37_79f9];

/// A destination and, in the table, the rule it belongs to. Aligned to its size, so that it lies in one cache line.
pub(super) trait Entry: Copy {
    /// One that equals no packet's destination.
    const EMPTY: Self;
    /// Spreads the destination over 64 bits, of which the upper ones are used.
    fn spread(&self) -> u64;
    /// Whether the destinations are the same.
    fn same(&self, other: &Self) -> bool;
    /// The rule.
    fn rule(&self) -> u16;
}

/// IPv4: address 32, port 16, protocol 8 bits.
#[derive(Clone, Copy, Debug)]
#[repr(align(16))]
pub(super) struct Entry4 {
    key: u64,
    rule: u16,
}

impl Entry4 {
    #[inline(always)]
    pub(super) fn new(address: u32, port: u16, protocol: u8, rule: u16) -> Entry4 {
        Entry4 { key: u64::from(address) << 24 | u64::from(port_and_protocol(port, protocol)), rule }
    }
}

impl Entry for Entry4 {
    const EMPTY: Entry4 = Entry4 { key: u64::MAX, rule: 0 };

    #[inline(always)]
    fn spread(&self) -> u64 {
        self.key.wrapping_mul(SPREAD[0])
    }

    #[inline(always)]
    fn same(&self, other: &Entry4) -> bool {
        self.key == other.key
    }

    #[inline(always)]
    fn rule(&self) -> u16 {
        self.rule
    }
}

/// IPv6.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub(super) struct Entry6 {
    high: u64,
    low: u64,
    port_and_protocol: u32,
    rule: u16,
}

impl Entry6 {
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the address in halves")]
    pub(super) fn new(address: u128, port: u16, protocol: u8, rule: u16) -> Entry6 {
        let (high, low) = ((address >> 64) as u64, address as u64);
        Entry6 { high, low, port_and_protocol: port_and_protocol(port, protocol), rule }
    }
}

impl Entry for Entry6 {
    const EMPTY: Entry6 = Entry6 { high: 0, low: 0, port_and_protocol: u32::MAX, rule: 0 };

    #[inline(always)]
    fn spread(&self) -> u64 {
        self.low.wrapping_mul(SPREAD[0])
            ^ self.high.wrapping_mul(SPREAD[1])
            ^ u64::from(self.port_and_protocol).wrapping_mul(SPREAD[2])
    }

    #[inline(always)]
    fn same(&self, other: &Entry6) -> bool {
        // One decision instead of three.
        let low = self.low ^ other.low;
        let high = self.high ^ other.high;
        low | high | u64::from(self.port_and_protocol ^ other.port_and_protocol) == 0
    }

    #[inline(always)]
    fn rule(&self) -> u16 {
        self.rule
    }
}

/// The table. An entry stands at the place its destination names or in the run of entries after it, which ends at an
/// empty one or, as runs do not wrap round, with the table.
#[derive(Debug)]
pub(super) struct Exact<E> {
    entries: Vec<E>,
    /// From 64 bits down to a place.
    shift: u32,
}

impl<E> Default for Exact<E> {
    fn default() -> Exact<E> {
        Exact { entries: Vec::new(), shift: 63 }
    }
}

impl<E: Entry> Exact<E> {
    /// A table of these destinations; of the same ones the first counts.
    pub(super) fn new(rules: impl Iterator<Item = E> + Clone) -> Exact<E> {
        let count = rules.clone().count();
        if count == 0 {
            return Exact::default();
        }
        let bits = (4 * count).next_power_of_two().trailing_zeros();
        let mut table = Exact { entries: alloc::vec![E::EMPTY; 1 << bits], shift: 64 - bits };
        for rule in rules {
            let mut at = table.place(&rule);
            while !table.entries[at].same(&E::EMPTY) {
                at += 1;
                if at == table.entries.len() {
                    table.entries.push(E::EMPTY);
                }
            }
            table.entries[at] = rule;
        }
        table
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "usize has 64 bits")]
    fn place(&self, of: &E) -> usize {
        (of.spread() >> self.shift) as usize
    }

    /// The rule of a destination, whose own rule is ignored, if it stands at the place it names, as nearly all do.
    #[inline(always)]
    pub(super) fn find_first(&self, wanted: &E) -> Option<u16> {
        let entry = self.entries.get(self.place(wanted))?;
        entry.same(wanted).then_some(entry.rule())
    }

    /// The rule of a destination wherever in its run it stands.
    pub(super) fn find(&self, wanted: &E) -> Option<u16> {
        let mut run =
            self.entries.get(self.place(wanted)..)?.iter().take_while(|entry| !entry.same(&E::EMPTY));
        run.find(|entry| entry.same(wanted)).map(E::rule)
    }
}
