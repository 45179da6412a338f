//! The keys of a service that belong to some modes alone: UDP ports and the network identifier.

use super::kind::RawValue;
use super::read::{Reader, Scope};
use super::service::{Service, ServiceRaw};
use crate::config::Mode;

impl Service {
    /// The UDP port of a mode; 0: it does not use UDP.
    pub const fn tunnel_port(&self, mode: Mode) -> u16 {
        match mode {
            Mode::Gue => self.gue_port,
            Mode::Vxlan => self.vxlan_port,
            Mode::Geneve => self.geneve_port,
            Mode::Ipip | Mode::Gre | Mode::L2 => 0,
        }
    }
}

/// Reports keys that the service's mode does not have. Without a `mode`, because it is wrong itself, none is
/// said to belong to another.
pub(super) fn belong(r: &mut Reader<'_, '_>, scope: &Scope, raw: &ServiceRaw) {
    let mode = match &raw.mode {
        None => Some(Mode::Ipip),
        Some(cell) => Mode::ALL.into_iter().find(|mode| cell.get_ref().as_str() == Some(mode.as_str())),
    };
    let mode = mode.filter(|_| !r.is_misspelt("mode"));
    r.others.vni_of = mode.into_iter().chain(Mode::ALL).find(|mode| mode.has_vni());
    let Some(mode) = mode else { return };
    let owned: [(&str, &RawValue, Vec<Mode>); 4] = [
        ("gue_port", &raw.gue_port, vec![Mode::Gue]),
        ("vxlan_port", &raw.vxlan_port, vec![Mode::Vxlan]),
        ("geneve_port", &raw.geneve_port, vec![Mode::Geneve]),
        ("vni", &raw.vni, Mode::ALL.into_iter().filter(|mode| mode.has_vni()).collect()),
    ];
    for (key, cell, owners) in owned {
        let Some(cell) = cell.as_ref().filter(|_| !owners.contains(&mode)) else { continue };
        let owners: Vec<_> = owners.into_iter().map(|mode| format!("\"{}\"", mode.as_str())).collect();
        let modes = if owners.len() == 1 { "mode" } else { "modes" };
        let (place, all, mode) = (&scope.place, owners.join(" and "), mode.as_str());
        let message = format!("{place}: `{key}` belongs to {modes} {all}, this service has \"{mode}\"");
        r.error(&cell.span(), message, format!("remove it, or write mode = {}", owners.join(" or ")));
    }
}
