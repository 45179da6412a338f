//! What a packet is sent to, and what that matches.

/// What a destination matched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Match {
    /// The rule with this index.
    Service(u16),
    /// No rule, but the destination is a VIP, so the packet is ours to answer or drop.
    NoService,
    /// Not a VIP: not our packet.
    NotVip,
}

/// Both in one word: the port above the protocol.
pub(super) const fn port_and_protocol(port: u16, protocol: u8) -> u32 {
    (port as u32) << 8 | protocol as u32
}
