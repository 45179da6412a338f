//! The keys of a service that belong to some modes alone: UDP ports and the network identifier.

use super::read::{Reader, Scope};
use crate::config::{Mode, TunnelPorts};
use crate::raw::{Cell, Service};
use wire::encap::{VNI_DEFAULT, VNI_MAX};

/// Their cells.
pub(super) struct Cells {
    /// By mode.
    ports: [Cell; Mode::ALL.len()],
    vni: Cell,
}

impl Cells {
    /// Takes them out of a service.
    pub(super) fn of(raw: &mut Service) -> Cells {
        Cells { ports: Mode::ALL.map(|mode| raw.take_port(mode)), vni: raw.vni.take() }
    }
}

/// Reads them. Without a `mode`, because it is wrong itself, none is said to belong to another.
pub(super) fn keys(
    r: &mut Reader<'_, '_>,
    scope: &Scope,
    cells: Cells,
    mode: Option<Mode>,
) -> (TunnelPorts, u32) {
    let Cells { mut ports, vni } = cells;
    let ports = TunnelPorts::each(|owner, key| {
        let cell = ports.get_mut(owner as usize).and_then(Option::take);
        belongs(r, scope, (key.name, &cell), mode, |mode| mode == owner);
        let help = "destination UDP port of the tunnel";
        r.number(scope, key.name, cell, (1, 65_535), help).or(key.default)
    });
    belongs(r, scope, ("vni", &vni), mode, Mode::has_vni);
    let named = mode.into_iter().chain(Mode::ALL).find(|mode| mode.has_vni());
    let protocol = named.and_then(Mode::header_name).unwrap_or_default();
    let help = format!("the {protocol} network identifier has 24 bits");
    let vni = r.number(scope, "vni", vni, (0, i64::from(VNI_MAX)), &help).or(VNI_DEFAULT);
    (ports, vni)
}

/// Reports a key that this mode does not have.
fn belongs(
    r: &mut Reader<'_, '_>,
    scope: &Scope,
    (key, cell): (&str, &Cell),
    mode: Option<Mode>,
    is_owner: impl Fn(Mode) -> bool,
) {
    if let (Some(cell), Some(mode)) = (cell, mode)
        && !is_owner(mode)
    {
        let owners = Mode::ALL.into_iter().filter(|mode| is_owner(*mode));
        let owners: Vec<_> = owners.map(|mode| format!("\"{}\"", mode.as_str())).collect();
        let (place, mode) = (&scope.place, mode.as_str());
        let modes = if owners.len() == 1 { "mode" } else { "modes" };
        let all = owners.join(" and ");
        let message = format!("{place}: `{key}` belongs to {modes} {all}, this service has \"{mode}\"");
        let help = format!("remove it, or write mode = {}", owners.join(" or "));
        r.problems.error(cell.span(), message, help);
    }
}
