//! Reads `[[service]]`, the whole list, and checks what the keys of one cannot be together.

use super::agents::{self, ServiceAgents};
use super::backend::{self, AdminState, BACKENDS_MAX, Backend};
use super::health::{self, Health, HealthKind};
use super::read::{ReadValue, Reader, Scope, Span};
use super::service::{
    Announce, CAPACITY_DEFAULT, Protocol, SERVICES_MAX, Service, ServiceFound, ServiceRaw, Tracking,
};
use super::{balance, slots, tunnel};
use std::collections::HashSet;
use toml::Spanned;
use wire::encap::Mode;

/// Where parts of a service are written.
pub(crate) struct Places {
    pub(super) vip: Span,
    pub(super) backends: Vec<Span>,
}

/// The services, and where their parts are written.
pub(super) fn services(r: &mut Reader<'_, '_>, raw: Vec<Spanned<ServiceRaw>>) -> (Vec<Service>, Vec<Places>) {
    if let Some(service) = raw.get(SERVICES_MAX) {
        let message = format!("there are {} services", raw.len());
        r.error(&service.span(), message, format!("at most {SERVICES_MAX} are allowed"));
    }
    let mut names = HashSet::new();
    let mut backends = 0;
    let (mut services, mut places) = (Vec::new(), Vec::new());
    for (number, raw) in (1..).zip(raw.into_iter().take(SERVICES_MAX)) {
        let before = backends;
        backends += raw.get_ref().backends.len();
        if before <= BACKENDS_MAX && backends > BACKENDS_MAX {
            let message = format!("there are more than {BACKENDS_MAX} backends");
            let help = "remove some services or backends, or split them over two clusters";
            r.error(&raw.span(), message, help);
        }
        let (service, place, name_span) = service(r, raw, number);
        if let Some(span) = name_span
            && !names.insert(service.name.clone())
        {
            let message = format!("service \"{}\": the name is taken", service.name);
            r.error(&span, message, "give every service a name of its own");
        }
        services.push(service);
        places.push(place);
    }
    (services, places)
}

/// The service, its places, and where its name stands if that is good.
fn service(
    r: &mut Reader<'_, '_>,
    raw: Spanned<ServiceRaw>,
    number: usize,
) -> (Service, Places, Option<Span>) {
    let scope = Scope::named("service", number, raw.get_ref().name.as_ref(), raw.span());
    let mut raw = raw.into_inner();
    tunnel::belong(r, &scope, &raw);
    on_down_is_available(r, &scope, &mut raw);
    let mut found = ServiceFound::read(r, &scope, raw);
    let backends = found.backends.raw.take().unwrap_or_default();
    let (name_span, vip_written) = (found.name.span(), found.vip.written());
    let protocol = found.protocol.or(Protocol::Tcp);
    let maglev_size = slots::slots(r, &scope, &found.maglev_size, backends.len());
    tracking(r, &scope, &found.state, protocol);
    announce(r, &scope, &found);
    balance::together(r, &scope, &found, backends.iter().any(|backend| backend.get_ref().capacity.is_some()));

    let agents_span = found.agents.raw.as_ref().map(Spanned::span);
    found.agents.value =
        found.agents.raw.take().and_then(|raw| agents::of_service(r, &scope.place, Some(raw)));
    let facts = health::ServiceFacts {
        vip: found.vip.get().copied(),
        port: found.port.or(1),
        has_agents: found.agents.value.is_some() || r.is_misspelt("agents"),
    };
    let health = health::health(r, &scope.place, found.health.raw.take(), &facts);
    registered_are_checked(r, &scope, agents_span, found.agents.value.as_ref(), &health);
    found.health.value = Some(health);

    let context = backend::Context {
        service: &scope.place,
        mode: found.mode.or(Mode::Ipip),
        mode_ok: r.is_known("mode", &found.mode),
        vip: found.vip.get().map(|vip| vip.addr),
        capacity: found.capacity.or(CAPACITY_DEFAULT),
    };
    let (backends, backend_spans) = backend::backends(r, backends, &context, &scope.span);
    slots::every_weight_has_a_slot(r, &scope, maglev_size, found.maglev_size.written(), &backends);
    fits_ipv6(r, &scope, &found, &context, &backends);
    if found.agents.value.as_ref().is_none_or(|agents| agents.register.is_none()) {
        empty(r, &scope, &backends);
    }
    found.backends.value = Some(backends);
    let places = Places { vip: vip_written.unwrap_or(scope.span), backends: backend_spans };
    (found.finish(number), places, name_span)
}

/// An IPv6 packet of 1280 bytes has room in the tunnel (RFC 8200 section 5).
fn fits_ipv6(
    r: &mut Reader<'_, '_>,
    scope: &Scope,
    found: &ServiceFound,
    context: &backend::Context<'_>,
    backends: &[Backend],
) {
    if !context.mode_ok || !context.vip.is_some_and(|vip| vip.is_ipv6()) {
        return;
    }
    let (place, mode) = (&scope.place, context.mode);
    let path = found.mtu.or(r.others.mtu_min);
    let outer_v6 = backends.iter().any(|b| b.address.is_ipv6());
    let overhead = mode.overhead(outer_v6);
    let inner = path.saturating_sub(overhead);
    if inner < 1280 && path >= 1280 {
        let family = if outer_v6 { "IPv6" } else { "IPv4" };
        let message = format!(
            "{place}: an IPv6 VIP needs 1280 bytes inside the tunnel; \
            {path} minus {overhead} ({} over {family}) leaves {inner}",
            mode.as_str()
        );
        let span = found.mtu.span().or(found.vip.written()).unwrap_or(scope.span.clone());
        let help = format!("raise the mtu of the port or service to at least {}", 1280 + overhead);
        r.error(&span, message, help);
    } else if path < 1280
        && let Some(span) = found.mtu.span()
    {
        let message = format!("{place}: `mtu` {path} is too small for an IPv6 VIP");
        r.error(&span, message, format!("raise it to at least {}", 1280 + overhead));
    }
}

/// A registered backend takes flows after a good check, so there must be one.
fn registered_are_checked(
    r: &mut Reader<'_, '_>,
    scope: &Scope,
    span: Option<Span>,
    agents: Option<&ServiceAgents>,
    health: &Health,
) {
    let registers = agents.is_some_and(|agents| agents.register.is_some());
    let misspelt = ["health", "kind"].iter().any(|key| r.is_misspelt(key));
    if let (Some(span), true, HealthKind::None, false) = (span, registers, &health.kind, misspelt) {
        let message = format!("{}: `agents.register` without a health check", scope.place);
        let help =
            "what registers takes traffic after its first good check: add [service.health] with a kind";
        r.error(&span, message, help);
    }
}

/// A service that serves nobody is allowed (a rollout may begin with it) but worth a word.
fn empty(r: &mut Reader<'_, '_>, scope: &Scope, backends: &[Backend]) {
    let message = if backends.is_empty() {
        if r.is_misspelt("backend") {
            return;
        }
        "there is no [[service.backend]]"
    } else if backends.iter().all(|b| b.weight == 0) {
        "every backend has weight 0"
    } else if backends.iter().all(|b| b.weight == 0 || b.state != AdminState::Up) {
        "no backend with a weight has state \"up\""
    } else {
        return;
    };
    r.warning(
        &scope.span,
        format!("{}: {message}; new flows get what `on_empty` says", scope.place),
        "add a backend that takes new flows",
    );
}

fn tracking(r: &mut Reader<'_, '_>, scope: &Scope, found: &ReadValue<Tracking>, protocol: Protocol) {
    if let (ReadValue::Given(Tracking::Exceptions, span), Protocol::Udp) = (found, protocol) {
        let message =
            format!("{}: `state = \"exceptions\"` is for TCP; UDP flows are all tracked", scope.place);
        r.warning(span, message, "leave it out, or write state = \"all\"");
    }
}

/// What others call reset is refused by name.
fn on_down_is_available(r: &mut Reader<'_, '_>, scope: &Scope, raw: &mut ServiceRaw) {
    if let Some(cell) = raw.on_down.take_if(|cell| cell.get_ref().as_str() == Some("reset")) {
        let message = format!("{}: `on_down = \"reset\"` is not available", scope.place);
        let help = "it comes with connection redistribution; use \"keep\" or \"reselect\"";
        r.error(&cell.span(), message, help);
    }
}

/// The kernel holds single addresses, and hears of packets through an exception interface.
fn announce(r: &mut Reader<'_, '_>, scope: &Scope, found: &ServiceFound) {
    let ReadValue::Given(Announce::Kernel, span) = &found.announce else { return };
    let place = &scope.place;
    if let Some(vip) = found.vip.get().filter(|vip| !vip.is_host()) {
        let message = format!("{place}: `announce = \"kernel\"` cannot put the prefix {vip} on the loopback");
        let help = "announce single addresses, or export the prefix by a routing daemon \
            and write announce = \"none\"";
        r.error(span, message, help);
    }
    if !r.others.has_exception {
        let message = format!("{place}: `announce = \"kernel\"` needs a port with `exception`");
        let help = "the kernel answers ARP and ND through it: add exception = \"gw0\" to the [[port]]";
        r.error(span, message, help);
    }
}
