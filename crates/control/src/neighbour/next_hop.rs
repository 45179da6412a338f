//! Next hops: those that are wanted, and those that were found.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use wire::PortId;

/// What is to be resolved, and where.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct WantedNextHops {
    /// Addresses of backends.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Data ports and their exception interfaces.
    pub(crate) interfaces: Vec<(PortId, String)>,
}

/// The way to an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NextHop {
    /// Data port.
    pub(crate) port: PortId,
    /// Destination MAC.
    pub(crate) mac: [u8; 6],
}

/// Next hops by backend address; absent while unresolved.
pub(crate) type NextHops = HashMap<IpAddr, NextHop>;
