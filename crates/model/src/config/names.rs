//! The config's words for its enums.

use super::{Mode, Protocol, Service, Tracking};

impl Mode {
    /// As written in the config.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mode::Ipip => "ipip",
            Mode::Gre => "gre",
            Mode::Gue => "gue",
            Mode::Vxlan => "vxlan",
            Mode::L2 => "l2",
        }
    }

    /// Bytes put in front of the inner IP header; the ports and the VNI do not matter.
    pub const fn overhead(self, outer_v6: bool) -> u16 {
        use wire::encap::Mode as Wire;
        match self {
            Mode::Ipip => Wire::Ipip.overhead(outer_v6),
            Mode::Gre => Wire::Gre.overhead(outer_v6),
            Mode::Gue => Wire::Gue { port: 0 }.overhead(outer_v6),
            Mode::Vxlan => Wire::Vxlan { port: 0, vni: 0 }.overhead(outer_v6),
            Mode::L2 => Wire::L2.overhead(outer_v6),
        }
    }
}

impl Tracking {
    /// As written in the config.
    pub const fn as_str(self) -> &'static str {
        match self {
            Tracking::All => "all",
            Tracking::Exceptions => "exceptions",
        }
    }
}

impl Service {
    /// Whether packets of untainted slots are steered without the flow table: `state = "exceptions"` over TCP. UDP has
    /// no packet that begins a flow, so its flows are tracked in any case.
    pub fn is_stateless(&self) -> bool {
        self.state == Tracking::Exceptions && self.protocol == Protocol::Tcp
    }
}

impl Protocol {
    /// As written in the config.
    pub const fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }

    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }
}
