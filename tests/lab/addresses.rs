//! Every address, MAC and port of the lab: fixed, so that a test, a capture and a log can be read side by side.

use crate::cleanup;
use std::net::IpAddr;

/// First and last client address: the last byte, in 10.0.1.0/24 and, as hexadecimal digits, in fd00:1::/64.
pub const CLIENTS: std::ops::RangeInclusive<u8> = 100..=200;
/// VIPs outside every subnet, which the router sends to the balancers.
pub const VIP: &str = "203.0.113.10";
/// A second one.
pub const VIP_OTHER: &str = "203.0.113.11";
/// An IPv6 one.
pub const VIP6: &str = "2001:db8:113::10";
/// A VIP in the balancers' own subnet, which only ARP can find.
pub const VIP_NEAR: &str = "10.0.2.100";
/// The router's address and MAC on the servers' link.
pub const ROUTER: &str = "10.0.2.1";
/// Its IPv6 address.
pub const ROUTER6: &str = "fd00:2::1";
/// Its MAC.
pub const ROUTER_MAC: &str = "02:00:00:00:00:01";
/// Address of the client on the servers' link.
pub const NEAR: &str = "10.0.2.200";
/// Address of the store on the management network.
pub const STORE: &str = "10.0.3.1";
/// Port of nginx on every backend.
pub const HTTP_PORT: u16 = 80;
/// Port of our own server on every backend (echo and bulk).
pub const ECHO_PORT: u16 = 7000;
/// Network identifier of VXLAN; the decapsulation program has the same for Geneve.
pub const VNI: u32 = 100;

/// Client addresses, IPv4 or IPv6.
pub fn sources(v4: bool) -> Vec<IpAddr> {
    CLIENTS
        .filter_map(|last| {
            if v4 { format!("10.0.1.{last}").parse() } else { format!("fd00:1::{last}").parse() }.ok()
        })
        .collect()
}

/// Address of a balancer's exception interface.
pub fn balancer_address(index: u8) -> String {
    format!("10.0.2.{}", 10 + index)
}

/// Its IPv6 address.
pub fn balancer_address6(index: u8) -> String {
    format!("fd00:2::{}", 10 + index)
}

/// Address of a balancer on the management network.
pub fn management_address(index: u8) -> String {
    format!("10.0.3.{}", 10 + index)
}

/// Address of a backend on the management network.
pub fn management_address_of_backend(index: u8) -> String {
    format!("10.0.3.{}", 20 + index)
}

/// MAC of a balancer's port and exception interface.
pub fn balancer_mac(index: u8) -> String {
    format!("02:00:00:00:00:{}", 10 + index)
}

/// Address of a backend.
pub fn backend_address(index: u8) -> String {
    format!("10.0.2.{}", 20 + index)
}

/// Its IPv6 address.
pub fn backend_address6(index: u8) -> String {
    format!("fd00:2::{}", 20 + index)
}

/// MAC of a backend's interface and of its VXLAN device.
pub fn backend_mac(index: u8) -> String {
    format!("02:00:00:00:00:{}", 20 + index)
}

/// Name of a namespace of this process.
pub fn namespace_name(role: &str) -> String {
    format!("{}{}-{role}", cleanup::PREFIX, std::process::id())
}
