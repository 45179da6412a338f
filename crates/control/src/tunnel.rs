//! Probes through the traffic's own encapsulation (`route = "tunnel"`): a probe goes to the VIP, and its source port
//! names the backend it must reach.

use crate::health::SourcePorts;
use model::config::{Config, Net};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use wire::BackendId;
use worker::view::Probe;

/// First reserved port. Below Linux' default ephemeral range (32,768 and up), so that no other socket of this
/// machine gets one by chance.
const FIRST: u16 = 16_384;
/// One past the last reserved port: room for 4096 backends of each VIP.
const END: u16 = 32_768;

/// Which source ports belong to which backend; reserved per VIP.
#[derive(Debug, Default)]
pub(crate) struct ProbePorts {
    given: BTreeMap<BackendId, (IpAddr, SourcePorts)>,
    taken: BTreeSet<(IpAddr, u16)>,
}

impl ProbePorts {
    /// The ports of a backend; the same as before unless its VIP or our address has changed.
    pub(crate) fn source(&mut self, id: BackendId, vip: IpAddr, config: &Config) -> SourcePorts {
        let address = source_address(vip, config);
        if let Some((old_vip, ports)) = self.given.get_mut(&id)
            && *old_vip == vip
        {
            ports.address = address;
            return *ports;
        }
        self.release(id);
        let mut free = (FIRST..END).step_by(usize::from(SourcePorts::COUNT));
        // More backends than ports: the last ones share, and are told apart no more; 4096 are enough for anyone
        // who reads the answer of each probe.
        let first = free.find(|first| !self.taken.contains(&(vip, *first))).unwrap_or(END - SourcePorts::COUNT);
        let ports = SourcePorts { address, first };
        self.taken.insert((vip, first));
        self.given.insert(id, (vip, ports));
        ports
    }

    /// Takes the ports of a backend back.
    pub(crate) fn release(&mut self, id: BackendId) {
        if let Some((vip, ports)) = self.given.remove(&id) {
            self.taken.remove(&(vip, ports.first));
        }
    }

    /// As workers are told.
    pub(crate) fn probes(&self) -> Vec<Probe> {
        self.given
            .iter()
            .flat_map(|(id, (vip, ports))| {
                (0..SourcePorts::COUNT).map(|step| Probe {
                    source: ports.address.into(),
                    source_port: ports.first + step,
                    vip: (*vip).into(),
                    backend: *id,
                })
            })
            .collect()
    }
}

/// The machine's address of the VIP's family: what the backend answers to. Unspecified when it has none; then no
/// probe of that family can be told apart, and the check says that it cannot bind.
fn source_address(vip: IpAddr, config: &Config) -> IpAddr {
    let own = match vip {
        IpAddr::V4(_) => config.machine.address.map(IpAddr::V4),
        IpAddr::V6(_) => config.machine.address6.map(IpAddr::V6),
    };
    let of_interface = || {
        let nets = config.ports.iter().flat_map(|port| &port.exception_addresses);
        nets.map(|net| net.addr).find(|address| address.is_ipv4() == vip.is_ipv4())
    };
    own.or_else(of_interface).unwrap_or(match vip {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    })
}

/// An address to probe a service by: the VIP, or the first host address of a prefix.
pub(crate) fn representative(vip: Net) -> IpAddr {
    if vip.is_host() {
        return vip.addr;
    }
    match vip.network() {
        IpAddr::V4(network) => IpAddr::V4(Ipv4Addr::from_bits(network.to_bits() | 1)),
        IpAddr::V6(network) => IpAddr::V6(Ipv6Addr::from_bits(network.to_bits() | 1)),
    }
}
