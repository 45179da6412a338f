//! Probes through the traffic's own encapsulation (`route = "tunnel"`): a probe goes to the VIP, and its source port
//! names the backend it must reach.

use crate::health::SourcePorts;
use model::config::Config;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use wire::BackendId;
use worker::view::TunnelProbe;

/// First reserved port. Below Linux' default ephemeral range (32,768 and up), so that no other socket of this
/// machine gets one by chance.
const FIRST: u16 = 16_384;
/// One past the last reserved port: room for 4096 backends of each VIP.
const END: u16 = 32_768;

/// Which source ports belong to which backend; reserved per VIP.
#[derive(Debug, Default)]
pub(crate) struct ProbePorts {
    given: BTreeMap<BackendId, (IpAddr, SourcePorts)>,
    /// What is left, per VIP that has been probed.
    free: BTreeMap<IpAddr, BTreeSet<u16>>,
}

impl ProbePorts {
    /// The ports of a backend; the same as before unless its VIP or our address has changed.
    ///
    /// # Errors
    /// Why it cannot be probed through the tunnel.
    pub(crate) fn source(
        &mut self,
        id: BackendId,
        vip: IpAddr,
        config: &Config,
    ) -> Result<SourcePorts, &'static str> {
        let Some(address) = source_address(vip, config) else {
            self.release(id);
            return Err("the machine has no address of the VIP's family; set machine.address or address6");
        };
        if let Some((old_vip, ports)) = self.given.get_mut(&id)
            && *old_vip == vip
        {
            ports.address = address;
            return Ok(*ports);
        }
        self.release(id);
        let all = || (FIRST..END).step_by(usize::from(SourcePorts::COUNT)).collect();
        let Some(first) = self.free.entry(vip).or_insert_with(all).pop_first() else {
            return Err("more than 4096 backends of one VIP are probed through the tunnel");
        };
        let ports = SourcePorts { address, first };
        self.given.insert(id, (vip, ports));
        Ok(ports)
    }

    /// Takes the ports of a backend back.
    pub(crate) fn release(&mut self, id: BackendId) {
        if let Some((vip, ports)) = self.given.remove(&id) {
            self.free.entry(vip).or_default().insert(ports.first);
        }
    }

    /// As workers are told.
    pub(crate) fn probes(&self) -> Vec<TunnelProbe> {
        self.given
            .iter()
            .flat_map(|(id, (vip, ports))| {
                (0..SourcePorts::COUNT).map(|step| TunnelProbe {
                    source: ports.address.into(),
                    source_port: ports.first + step,
                    vip: (*vip).into(),
                    backend: *id,
                })
            })
            .collect()
    }
}

/// The machine's address of the VIP's family: what the backend answers to.
fn source_address(vip: IpAddr, config: &Config) -> Option<IpAddr> {
    let own = match vip {
        IpAddr::V4(_) => config.machine.address.map(IpAddr::V4),
        IpAddr::V6(_) => config.machine.address6.map(IpAddr::V6),
    };
    own.or_else(|| {
        let nets = config.ports.iter().flat_map(|port| &port.exception_addresses);
        nets.map(|net| net.addr).find(|address| address.is_ipv4() == vip.is_ipv4())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_reserved_per_vip_given_back_and_run_out() {
        let text = "[machine]\nname = \"t\"\naddress = \"10.0.0.1\"\n\
                    next_hop_mac = \"02:00:00:00:00:01\"\n\
                    cluster_key = \"7d0c3a9be1d24776a8b9c0d1e2f30415\"\n\
                    [[port]]\nname = \"p\"\ndevice = \"net_null0\"\n";
        let config = model::load("t", text).unwrap_or_else(|report| panic!("{}", report.to_plain())).config;
        let (one, other) = (IpAddr::from([203, 0, 113, 1]), IpAddr::from([203, 0, 113, 2]));
        let mut ports = ProbePorts::default();
        let first = ports.source(BackendId(0), one, &config).unwrap();
        assert_eq!((first.address, first.first), (IpAddr::from([10, 0, 0, 1]), FIRST));
        assert_eq!(ports.source(BackendId(0), one, &config), Ok(first), "the same again");
        for id in 1..4096 {
            let next = ports.source(BackendId(id), one, &config).unwrap();
            assert_eq!(u32::from(next.first), u32::from(FIRST) + 4 * id);
        }
        assert!(ports.source(BackendId(4096), one, &config).is_err());
        assert_eq!(ports.source(BackendId(4096), other, &config).map(|p| p.first), Ok(FIRST));
        ports.release(BackendId(7));
        assert_eq!(ports.source(BackendId(5000), one, &config).map(|p| p.first), Ok(FIRST + 28));
        let named: BTreeSet<_> = ports.probes().iter().map(|p| (p.vip, p.source_port)).collect();
        assert_eq!(named.len(), ports.probes().len(), "no two backends share a port of a VIP");
        assert_eq!(ports.probes().len(), 4 * 4097);
        let six: IpAddr = "fd00::1".parse().unwrap();
        assert!(ports.source(BackendId(6000), six, &config).is_err(), "no address6");
    }
}
