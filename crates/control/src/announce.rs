//! Announcement: a ready service's VIP is put on the loopback, so that the kernel answers ARP for it and a routing
//! daemon (`protocol direct` in BIRD, `redistribute connected` in FRR) exports it; see docs/adr/0011. [`crate::reconcile`] does it.

use model::config::Net;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Where VIPs are put.
pub(crate) const LOOPBACK: &str = "lo";

/// What the kernel is to have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct WantedVips {
    /// VIPs of ready services.
    pub(crate) vips: BTreeSet<Vip>,
    /// Exception interfaces with their subnets.
    pub(crate) subnets: Vec<(String, Net)>,
    /// Exception interfaces that must accept packets from our own VIPs: answers to probes through the tunnel.
    pub(crate) accept_local: BTreeSet<String>,
}

/// A VIP, ordered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Vip {
    /// Address.
    pub(crate) address: IpAddr,
    /// Prefix length.
    pub(crate) length: u8,
}

impl From<Net> for Vip {
    fn from(net: Net) -> Vip {
        Vip { address: net.addr, length: net.len }
    }
}

impl std::fmt::Display for Vip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}
