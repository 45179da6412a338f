//! `[[service.backend]]`.

use super::balance::CAPACITY;
use super::read::{Read, Reader, Scope};
use super::{Span, Surroundings};
use crate::config::{AdminState, Backend, Mode};
use crate::raw;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use toml::Spanned;

/// What the checks need to know of the service.
pub(super) struct Context<'a> {
    /// `service "web"`.
    pub(super) service: &'a str,
    pub(super) mode: Mode,
    /// The mode is as written, not a stand-in for a wrong one.
    pub(super) mode_ok: bool,
    /// The VIP's address, if it is good.
    pub(super) vip: Option<IpAddr>,
    /// The service's capacity.
    pub(super) capacity: u32,
}

/// The backends, and where the address of each is written.
pub(super) fn backends(
    r: &mut Reader<'_, '_>,
    raw: Vec<Spanned<raw::Backend>>,
    context: &Context<'_>,
    header: &Span,
    around: &Surroundings,
) -> (Vec<Backend>, Vec<Span>) {
    let mut names = HashSet::new();
    let mut addresses: HashMap<IpAddr, String> = HashMap::new();
    let mut source_missing = [None, None];
    let mut mac_missing: Option<(Span, String)> = None;
    let mut inner_mac_missing = 0;
    let (mut backends, mut spans): (Vec<Backend>, Vec<Span>) = (Vec::new(), Vec::new());
    let mac_misspelt = r.misspelt.contains("mac");

    for raw in raw {
        let span = raw.span();
        let mac_written = raw.get_ref().mac.is_some() || mac_misspelt;
        let (backend, name_span, address_span) = backend(r, raw, backends.len(), context, around);
        let name = &backend.name;
        if let Some(span) = name_span
            && !names.insert(name.clone())
        {
            let message = format!("{}: the backend name \"{name}\" is taken", context.service);
            r.problems.error(span, message, "give every backend of a service a name of its own");
        }
        if let Some(span) = &address_span {
            if let Some(other) = addresses.insert(backend.address, name.clone()) {
                let message =
                    format!("{}: backend \"{name}\" has the address of \"{other}\"", context.service);
                r.problems.error(
                    span.clone(),
                    message,
                    "name every backend once; for a larger share raise its weight",
                );
            }
            if context.mode_ok && context.mode != Mode::L2 {
                let v6 = backend.address.is_ipv6();
                let has = if v6 { around.has_address6 } else { around.has_address };
                if !has {
                    source_missing[usize::from(v6)].get_or_insert((span.clone(), name.clone()));
                }
            }
            if context.mode_ok
                && context.mode == Mode::L2
                && context.vip.is_some_and(|vip| vip.is_ipv4() != backend.address.is_ipv4())
            {
                let message = format!("{}: backend \"{name}\" is not of the VIP's family", context.service);
                r.problems.error(span.clone(), message, "mode l2 leaves the packet as it is: give the backend's address of the VIP's family, or use a tunnel mode");
            }
        }
        if !mac_written {
            inner_mac_missing += 1;
            if !around.has_exception && !around.has_next_hop_mac {
                mac_missing.get_or_insert((span.clone(), name.clone()));
            }
        }
        spans.push(address_span.unwrap_or(span));
        backends.push(backend);
    }

    for (found, key, family) in source_missing
        .into_iter()
        .zip([("address", "IPv4"), ("address6", "IPv6")])
        .map(|(f, (k, n))| (f, k, n))
    {
        if let Some((span, name)) = found {
            let mode = context.mode.as_str();
            let message =
                format!("{}: mode {mode} to backend \"{name}\" needs `machine.{key}`", context.service);
            let help = format!(
                "give the machine an {family} address as source of the tunnel: {key} = \"…\" under [machine]"
            );
            r.problems.error(span, message, help);
        }
    }
    if let Some((span, name)) = mac_missing {
        let message = format!("{}: the next hop of backend \"{name}\" is not known", context.service);
        let help = "without an exception port there are no routes and neighbours: give every backend a mac, or set machine.next_hop_mac";
        r.problems.error(span, message, help);
    }
    if context.mode_ok
        && context.mode.carries_ethernet()
        && let Some(protocol) = context.mode.header_name()
        && inner_mac_missing > 0
        && !r.misspelt.contains("backend")
    {
        let (service, all, mode) = (context.service, backends.len(), context.mode.as_str());
        let message = format!("{service}: {inner_mac_missing} of {all} {mode} backends have no `mac`");
        let help = format!(
            "their inner frames are sent to the next hop's MAC: set mac to that of the {protocol} interface, unless the next hop is the backend itself"
        );
        r.problems.warning(header.clone(), message, help);
    }
    (backends, spans)
}

/// The backend, and where its name and address stand if those are good.
fn backend(
    r: &mut Reader<'_, '_>,
    raw: Spanned<raw::Backend>,
    index: usize,
    context: &Context<'_>,
    around: &Surroundings,
) -> (Backend, Option<Span>, Option<Span>) {
    let span = raw.span();
    let raw = raw.into_inner();
    let number = index + 1;
    let name = r.name(&Scope::new(format!("{}: backend {number}", context.service), span.clone()), raw.name);
    let place = match &name {
        Read::Given(name, _) => format!("{}: backend \"{name}\"", context.service),
        _ => format!("{}: backend {number}", context.service),
    };
    let scope = Scope::new(place, span);
    if name.is_absent() {
        r.missing(&scope, "name", "give the backend a name, like name = \"b1\"; its slots depend on it");
    }
    let help = "write the backend's own address, like \"10.0.2.21\" or \"fd00:2::21\"";
    let address = r.address(&scope, "address", raw.address, help);
    if address.is_absent() {
        r.missing(&scope, "address", help);
    }
    let address = address.and_then(|addr, span| {
        if !around.local.contains(&addr) {
            return Some(addr);
        }
        let message = format!("{}: {addr} is this machine's own address", scope.place);
        r.problems.error(span.clone(), message, help);
        None
    });
    let help = "share of new flows compared with the other backends; 0 = none; leave it out for 1";
    let weight = r.number(&scope, "weight", raw.weight, (0, 65_535), help).or(1);
    let mac = r.mac(&scope, "mac", raw.mac).ok();
    let states = [("up", AdminState::Up), ("down", AdminState::Down), ("drain", AdminState::Drain)];
    let state = r.choice(&scope, "state", raw.state, &states).or(AdminState::Up);
    let help = "flows that it is meant to carry at weight 1; leave it out for the service's";
    let capacity = r.number(&scope, "capacity", raw.capacity, CAPACITY, help).or(context.capacity);
    let (name_span, address_span) = (name.span(), address.span());
    let backend = Backend {
        name: name.or(format!("{number}")),
        address: address.or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        weight,
        mac,
        state,
        capacity,
        registration: None,
    };
    (backend, name_span, address_span)
}
