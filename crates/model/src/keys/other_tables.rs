//! What the tables read so far say that the checks of the next ones need.

use std::collections::HashSet;
use std::net::IpAddr;
use wire::encap::Mode;

/// What the checks of a table need to know of the others.
#[derive(Default)]
pub(crate) struct OtherTables {
    /// `machine.address` is written, right or wrong.
    pub(super) has_address: bool,
    /// `machine.address6` is written, right or wrong.
    pub(super) has_address6: bool,
    /// `machine.next_hop_mac` is written, right or wrong.
    pub(super) has_next_hop_mac: bool,
    /// Some port has an exception interface, rightly or wrongly written.
    pub(super) has_exception: bool,
    /// The exception interfaces.
    pub(super) exceptions: Vec<String>,
    /// Smallest and largest MTU of the ports.
    pub(super) mtu_min: u16,
    pub(super) mtu_max: u16,
    /// Addresses of this machine.
    pub(super) local: HashSet<IpAddr>,
    /// `[agents]` is written, rightly or wrongly.
    pub(super) has_agents: bool,
    /// The mode by whose protocol the network identifier of the service at hand is called.
    pub(super) vni_of: Option<Mode>,
}
