//! What the specification says about a flow's slot and backend, computed apart from the balancer's own tables.

use crate::stage::is_full;
use guideway_lab::config::{Config, Member};
use guideway_lab::topology::{ECHO_PORT, VIP};
use statesync::owners::rank;
use statesync::{Member as Machine, Members};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use steer::{Maglev, Weighted};
use wire::{Addr, ServiceId, Tuple};

/// The key in every configuration of the lab.
const KEY: [u8; 16] = [0xa0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Slots of a table: as many as there are by default in a test at full length. Else fewer, because the programs are not optimized
/// and take seconds for what an optimized one does in a hundredth.
pub(crate) fn slots() -> u32 {
    if is_full() { 65_537 } else { 4_099 }
}

/// A service's table.
pub(crate) struct Table {
    maglev: Maglev,
    names: Vec<String>,
}

impl Table {
    /// The table of these backends; those that are drained have no slots.
    pub(crate) fn of(members: &[Member]) -> Table {
        let mut up: Vec<&Member> = members.iter().filter(|member| member.state.is_none()).collect();
        up.sort_by(|a, b| a.name.cmp(&b.name));
        let weighted: Vec<Weighted<'_>> =
            up.iter().map(|member| Weighted { name: &member.name, weight: member.weight }).collect();
        let maglev = Maglev::build(&weighted, slots(), &KEY).unwrap();
        Table { maglev, names: up.iter().map(|member| member.name.clone()).collect() }
    }

    /// The slot of a client's flow to the echo service.
    pub(crate) fn slot(&self, client: SocketAddr, protocol: u8) -> u32 {
        let SocketAddr::V4(client) = client else { panic!("{client} is not IPv4") };
        let vip: Ipv4Addr = VIP.parse().unwrap();
        let tuple = Tuple {
            src: Addr::V4(client.ip().to_bits()),
            dst: Addr::V4(vip.to_bits()),
            sport: client.port(),
            dport: ECHO_PORT,
            protocol,
        };
        self.maglev.slot(steer::hash::tuple(&KEY, &tuple))
    }

    /// The backend of a client's flow.
    pub(crate) fn backend(&self, client: SocketAddr, protocol: u8) -> &str {
        &self.names[usize::from(self.maglev.at(self.slot(client, protocol)).unwrap())]
    }

    /// Slots whose backend is another than in `other`.
    pub(crate) fn changed(&self, other: &Table) -> usize {
        let at = |table: &Table, slot| table.names[usize::from(table.maglev.at(slot).unwrap())].clone();
        (0..slots()).filter(|&slot| at(self, slot) != at(other, slot)).count()
    }
}

/// Who answers for the slots of a service.
pub(crate) struct Owners {
    members: BTreeMap<u8, Machine>,
    ranked: Members,
    service: ServiceId,
}

impl Owners {
    /// Among these machines (by their numbers in the lab) for a service.
    pub(crate) fn new(members: BTreeMap<u8, Machine>, service: u16) -> Owners {
        let ranked = Members::new(members.values().copied());
        Owners { members, ranked, service: ServiceId(service) }
    }

    /// Whether a machine is one of the two owners of a slot.
    pub(crate) fn contains(&self, index: u8, slot: u32) -> bool {
        rank(&self.ranked, self.service, slot).contains(self.members[&index].machine)
    }
}

/// The keys that decide a slot, in a configuration: the oracle assumes them.
pub(crate) fn check(config: &Config) {
    let text = config.render();
    assert!(text.contains("cluster_key = \"a00102030405060708090a0b0c0d0e0f\""), "{text}");
    assert!(text.contains(&format!("maglev_size = {}\n", slots())) && !text.contains("hash ="), "{text}");
}
