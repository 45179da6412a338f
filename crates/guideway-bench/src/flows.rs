//! Flows by number: a cheap bijection from a number to the client's address and port, and what the balancer should do with it.

use wire::hash::mix;
use wire::{Addr, FlowKey, ServiceId, Tuple};

/// Clients are in 10.0.0.0/8.
const NETWORK: u32 = 0x0a00_0000;
/// Bits of address and port that vary.
const BITS: u32 = 38;
const MASK: u64 = (1 << BITS) - 1;
/// Ports start here and use 14 bits.
const PORT_BASE: u16 = 0x4000;
/// IPv6 clients are in 2001:db8:1::/64, numbered by their IPv4 address.
const NETWORK6: u128 = 0x2001_0db8_0001_0000_0000_0000_0000_0000;
/// The IPv6 VIP, 2001:db8:f::10.
pub const VIP6: u128 = 0x2001_0db8_000f_0000_0000_0000_0000_0010;
/// Most flows a measurement can name.
pub const FLOWS_MAX: u64 = 1 << 28;

/// A flow's client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Client {
    /// IPv4 address, host order.
    pub address: u32,
    /// Port.
    pub port: u16,
}

impl Client {
    /// Its IPv6 address.
    #[inline]
    pub fn address6(self) -> u128 {
        NETWORK6 | u128::from(self.address)
    }
}

/// The client of flow `number` (below [`FLOWS_MAX`]). Different numbers have different clients.
#[inline]
pub fn client(number: u64) -> Client {
    // Odd factors and xor-shifts by half the width are bijections modulo 2^38.
    let mut z = number & MASK;
    z = z.wrapping_mul(0x1d_8e4e_27c7) & MASK;
    z ^= z >> (BITS / 2);
    z = z.wrapping_mul(0x2b_7c1d_0e65) & MASK;
    z ^= z >> (BITS / 2);
    Client { address: NETWORK | (z >> 14) as u32, port: PORT_BASE | (z & 0x3fff) as u16 }
}

/// The exact key of a flow of the only service.
#[inline]
pub fn key(number: u64, service: ServiceId) -> FlowKey {
    let client = client(number);
    FlowKey::narrow(client.address, client.port, service)
}

/// The exact key of an IPv6 TCP flow to port `port` of [`VIP6`].
#[inline]
pub fn wide_key(number: u64, port: u16, service: ServiceId) -> FlowKey {
    let client = client(number);
    let tuple = Tuple {
        src: Addr::V6(client.address6()),
        dst: Addr::V6(VIP6),
        sport: client.port,
        dport: port,
        protocol: 6,
    };
    FlowKey::wide(&tuple, service)
}

/// The key of a flow as a plain number, for tables that know nothing of flows.
#[inline]
pub fn plain_key(number: u64) -> u64 {
    let client = client(number);
    u64::from(client.address) << 32 | u64::from(client.port) << 16 | 1
}

/// What is stored for a flow, below `values`. Has nothing to do with any slot table, so that an answer can only come from
/// the flow table.
#[inline]
pub fn value(number: u64, values: u32) -> u32 {
    (((mix(number ^ 0xf10f) >> 32) * u64::from(values)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn clients_are_distinct_and_valid() {
        let near: HashSet<Client> = (0..200_000).map(client).collect();
        assert_eq!(near.len(), 200_000);
        let far: HashSet<Client> = (FLOWS_MAX - 200_000..FLOWS_MAX).map(client).collect();
        assert_eq!(far.len(), 200_000);
        assert!(near.is_disjoint(&far));
        assert!(near.iter().all(|c| c.address >> 24 == 10 && c.port >= PORT_BASE && c.port < 0x8000));
    }

    #[test]
    fn keys_agree_and_values_spread() {
        assert_eq!(key(77, ServiceId(1)), FlowKey::Narrow(plain_key(77)));
        let mut counts = [0_u32; 10];
        for number in 0..100_000 {
            counts[value(number, 10) as usize] += 1;
        }
        assert!(counts.iter().all(|&count| (9_500..10_500).contains(&count)), "{counts:?}");
    }
}
