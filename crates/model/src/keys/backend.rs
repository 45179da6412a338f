//! `[[service.backend]]`.

use super::kind::{Address, Name, Number};
use super::read::{At, ReadValue, Reader, Scope, Span};
use super::table::table;
use super::word::words;
use crate::config::{Mac, Mode};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use toml::Spanned;

/// Largest number of backends of all services.
pub(crate) const BACKENDS_MAX: usize = 65_536;

table! {
    /// A backend of a service.
    pub struct Backend(BackendRaw, BackendFound) given(number: usize, service_capacity: u32) {
        /// Unique within the service; its identity in the Maglev table.
        name: Name = number.to_string(),
            required "give the backend a name, like name = \"b1\"; its slots depend on it" => Identity;
        /// IPv4 or IPv6; in mode l2 of the VIP's family.
        address: Address = IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            required "write the backend's own address, like \"10.0.2.21\" or \"fd00:2::21\"",
            check is_not_ours => Live;
        /// Share of new flows; 0 = none.
        weight: Number<u32, 0, 65_535> = 1,
            help "share of new flows compared with the other backends; 0 = none; leave it out for {default}"
            => Live;
        /// Next hop; in modes vxlan and geneve the inner destination.
        mac: Mac => Live;
        /// What the operator wants.
        state: AdminState = AdminState::Up => Live;
        /// Flows that it is meant to carry at weight 1.
        capacity: Number<u32, 1, 16_777_216> = service_capacity, default "the service's",
            help "flows that it is meant to carry at weight 1; leave it out for {default}" => Live;
    }
    extra {
        /// `Some`: it registered; `None`: it is the configuration's, a registration without an end.
        registration: Option<Registration>,
    }
}

words! {
    /// What the operator wants.
    #[derive(serde::Deserialize)]
    pub enum AdminState {
        /// As health says.
        Up = "up",
        /// Down whatever health says.
        Down = "down",
        /// No new flows.
        Drain = "drain",
    }
}

/// Who registered a backend.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Registration {
    /// Name of the agent.
    pub agent: String,
    /// The backend's start.
    pub incarnation: u64,
    /// Port that is checked; `None`: as the service says.
    pub port: Option<u16>,
}

fn is_not_ours(r: &mut Reader<'_, '_>, at: &At<'_>, addr: &IpAddr, span: &Span) -> bool {
    let is_ours = r.others.local.contains(addr);
    if is_ours {
        r.error(span, format!("{}: {addr} is this machine's own address", at.place), at.help());
    }
    !is_ours
}

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

/// What the backends of a service lack: of each the first that does.
#[derive(Default)]
struct Lacking {
    /// An outer source: of IPv4, of IPv6.
    sources: [Option<(Span, String)>; 2],
    next_hop: Option<(Span, String)>,
    inner_macs: usize,
}

/// The backends, and where the address of each is written.
pub(super) fn backends(
    r: &mut Reader<'_, '_>,
    raw: Vec<Spanned<BackendRaw>>,
    context: &Context<'_>,
    header: &Span,
) -> (Vec<Backend>, Vec<Span>) {
    let mut names = HashSet::new();
    let mut addresses: HashMap<IpAddr, String> = HashMap::new();
    let mut lacking = Lacking::default();
    let (mut backends, mut spans): (Vec<Backend>, Vec<Span>) = (Vec::new(), Vec::new());
    for (number, raw) in (1..).zip(raw) {
        let span = raw.span();
        let scope = Scope::named(
            &format!("{}: backend", context.service),
            number,
            raw.get_ref().name.as_ref(),
            span.clone(),
        );
        let found = BackendFound::read(r, &scope, raw.into_inner());
        let name = found.name.or(number.to_string());
        if let ReadValue::Given(name, span) = &found.name
            && !names.insert(name.clone())
        {
            let message = format!("{}: the backend name \"{name}\" is taken", context.service);
            r.error(span, message, "give every backend of a service a name of its own");
        }
        if let ReadValue::Given(address, span) = &found.address {
            if let Some(other) = addresses.insert(*address, name.clone()) {
                let message =
                    format!("{}: backend \"{name}\" has the address of \"{other}\"", context.service);
                r.error(span, message, "name every backend once; for a larger share raise its weight");
            }
            fits_mode(r, context, &name, *address, span, &mut lacking);
        }
        if found.mac.is_absent() && !r.is_misspelt("mac") {
            lacking.inner_macs += 1;
            if !r.others.has_exception && !r.others.has_next_hop_mac {
                lacking.next_hop.get_or_insert((span.clone(), name));
            }
        }
        spans.push(found.address.span().unwrap_or(span));
        backends.push(found.finish(number, context.capacity, None));
    }
    report(r, context, lacking, backends.len(), header);
    (backends, spans)
}

/// Whether packets reach an address by the service's mode.
fn fits_mode(
    r: &mut Reader<'_, '_>,
    context: &Context<'_>,
    name: &str,
    address: IpAddr,
    span: &Span,
    lacking: &mut Lacking,
) {
    if !context.mode_ok {
        return;
    }
    if context.mode != Mode::L2 {
        let [v4, v6] = &mut lacking.sources;
        let (has, source) =
            if address.is_ipv6() { (r.others.has_address6, v6) } else { (r.others.has_address, v4) };
        if !has {
            source.get_or_insert((span.clone(), name.to_owned()));
        }
    } else if context.vip.is_some_and(|vip| vip.is_ipv4() != address.is_ipv4()) {
        let message = format!("{}: backend \"{name}\" is not of the VIP's family", context.service);
        let help = "mode l2 leaves the packet as it is: give the backend's address of the VIP's family, \
            or use a tunnel mode";
        r.error(span, message, help);
    }
}

fn report(r: &mut Reader<'_, '_>, context: &Context<'_>, lacking: Lacking, all: usize, header: &Span) {
    let (service, mode) = (context.service, context.mode.as_str());
    for (found, (key, family)) in lacking.sources.into_iter().zip([("address", "IPv4"), ("address6", "IPv6")])
    {
        if let Some((span, name)) = found {
            let message = format!("{service}: mode {mode} to backend \"{name}\" needs `machine.{key}`");
            let help = format!(
                "give the machine an {family} address as source of the tunnel: {key} = \"…\" under [machine]"
            );
            r.error(&span, message, help);
        }
    }
    if let Some((span, name)) = lacking.next_hop {
        let message = format!("{service}: the next hop of backend \"{name}\" is not known");
        let help = "without an exception port there are no routes and neighbours: give every backend a mac, \
            or set machine.next_hop_mac";
        r.error(&span, message, help);
    }
    if context.mode_ok
        && context.mode.carries_ethernet()
        && let Some(protocol) = context.mode.header_name()
        && lacking.inner_macs > 0
        && !r.is_misspelt("backend")
    {
        let message = format!("{service}: {} of {all} {mode} backends have no `mac`", lacking.inner_macs);
        let help = format!(
            "their inner frames are sent to the next hop's MAC: set mac to that of the {protocol} interface, \
            unless the next hop is the backend itself"
        );
        r.warning(header, message, help);
    }
}
