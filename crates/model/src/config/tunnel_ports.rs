//! UDP ports of tunnels.

use super::Mode;
use serde::{Serialize, Serializer};
use wire::encap::PortKey;

/// The UDP port of every mode that has one. In JSON it is the modes' keys with their ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TunnelPorts([u16; Mode::ALL.len()]);

impl TunnelPorts {
    /// Asks for the port of each mode that has one.
    pub(crate) fn each(mut port: impl FnMut(Mode, PortKey) -> u16) -> TunnelPorts {
        TunnelPorts(Mode::ALL.map(|mode| mode.port_key().map_or(0, |key| port(mode, key))))
    }

    /// The port of a mode; 0: it does not use UDP.
    pub fn of(&self, mode: Mode) -> u16 {
        self.0.get(mode as usize).copied().unwrap_or_default()
    }

    /// Every key with its port.
    pub fn keys(&self) -> impl Iterator<Item = (&'static str, u16)> {
        Mode::ALL.into_iter().filter_map(|mode| Some((mode.port_key()?.name, self.of(mode))))
    }
}

impl Serialize for TunnelPorts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.keys())
    }
}
