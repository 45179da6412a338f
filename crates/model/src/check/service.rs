//! `[[service]]`.

use super::read::{Read, Reader, Scope, not_unicast, shown};
use super::{
    BACKENDS_MAX, Places, SERVICES_MAX, Span, Surroundings, agents, backend, balance, health, tunnel,
};
use crate::config::{
    AdminState, Announce, Backend, Hash, Health, HealthKind, Mode, Net, OnDown, OnEmpty, Protocol, Service,
    ServiceAgents, Tracking,
};
use crate::raw::{self, Cell};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use toml::Spanned;

const MAGLEV_SIZE: (i64, i64) = (251, 5_000_011);
const MAGLEV_SIZE_DEFAULT: u32 = 65_537;

/// The services, and where their parts are written.
pub(super) fn services(
    r: &mut Reader<'_, '_>,
    raw: Vec<Spanned<raw::Service>>,
    around: &Surroundings,
) -> (Vec<Service>, Vec<Places>) {
    if let Some(service) = raw.get(SERVICES_MAX) {
        let message = format!("there are {} services", raw.len());
        r.problems.error(service.span(), message, format!("at most {SERVICES_MAX} are allowed"));
    }
    let mut names = HashSet::new();
    let mut backends = 0;
    let (mut services, mut places) = (Vec::new(), Vec::new());
    for raw in raw.into_iter().take(SERVICES_MAX) {
        let header = raw.span();
        let before = backends;
        backends += raw.get_ref().backend.len();
        if before <= BACKENDS_MAX && backends > BACKENDS_MAX {
            let message = format!("there are more than {BACKENDS_MAX} backends");
            r.problems.error(
                header,
                message,
                "remove some services or backends, or split them over two clusters",
            );
        }
        let (service, place, name_span) = service(r, raw, services.len(), around);
        if let Some(span) = name_span
            && !names.insert(service.name.clone())
        {
            let message = format!("service \"{}\": the name is taken", service.name);
            r.problems.error(span, message, "give every service a name of its own");
        }
        services.push(service);
        places.push(place);
    }
    (services, places)
}

/// The service, its places, and where its name stands if that is good.
fn service(
    r: &mut Reader<'_, '_>,
    raw: Spanned<raw::Service>,
    index: usize,
    around: &Surroundings,
) -> (Service, Places, Option<Span>) {
    let header = raw.span();
    let mut raw = raw.into_inner();
    let cells = balance::Cells::of(&mut raw);
    let tunnel_cells = tunnel::Cells::of(&mut raw);
    let number = index + 1;
    let name = r.name(&Scope::new(format!("service {number}"), header.clone()), raw.name);
    let place = match &name {
        Read::Given(name, _) => format!("service \"{name}\""),
        _ => format!("service {number}"),
    };
    let scope = Scope::new(place, header.clone());
    if name.is_absent() {
        r.missing(&scope, "name", "give the service a name, like name = \"web\"");
    }

    let vip_written = raw.vip.as_ref().map(Spanned::span);
    let vip = vip(r, &scope, raw.vip, around);
    if vip.is_absent() {
        r.missing(&scope, "vip", "write the address clients use, like vip = \"203.0.113.10\", or a prefix");
    }
    let vip_ok = vip.span().is_some();
    let vip = vip.or(Net::host(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));

    let port_help = "write the port clients use, like port = 80; port = 0 means any port";
    let port = r.number::<u16>(&scope, "port", raw.port, (0, 65_535), port_help);
    if port.is_absent() {
        r.missing(&scope, "port", port_help);
    }
    let port = port.or(1);
    let protocol = r
        .choice(&scope, "protocol", raw.protocol, &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)])
        .or(Protocol::Tcp);

    let modes = Mode::ALL.map(|mode| (mode.as_str(), mode));
    let mode = r.choice(&scope, "mode", raw.mode, &modes);
    let mode_ok = !matches!(mode, Read::Bad) && !r.misspelt.contains("mode");
    let mode = mode.or(Mode::Ipip);
    let (tunnel_ports, vni) = tunnel::keys(r, &scope, tunnel_cells, mode_ok.then_some(mode));

    let size_span = raw.maglev_size.as_ref().map(Spanned::span);
    let maglev_size = maglev_size(r, &scope, raw.maglev_size, raw.backend.len());
    let hash = r
        .choice(&scope, "hash", raw.hash, &[("tuple", Hash::Tuple), ("source", Hash::Source)])
        .or(Hash::Tuple);
    let on_down = on_down(r, &scope, raw.on_down, protocol);
    let on_empty = r
        .choice(&scope, "on_empty", raw.on_empty, &[("reset", OnEmpty::Reset), ("drop", OnEmpty::Drop)])
        .or(OnEmpty::Reset);
    let help = "percent of the backends; 0 = never disregard health; leave it out for 50";
    let panic_percent = r.number(&scope, "panic_percent", raw.panic_percent, (0, 100), help).or(50);
    let help = "milliseconds, at most a day; leave it out for 300000";
    let drain_timeout_ms =
        r.number(&scope, "drain_timeout_ms", raw.drain_timeout_ms, (0, 86_400_000), help).or(300_000);
    let tracking = tracking(r, &scope, raw.state, protocol);
    let announces = [("none", Announce::None), ("kernel", Announce::Kernel)];
    let announce = r.choice(&scope, "announce", raw.announce, &announces);
    if let Read::Given(Announce::Kernel, span) = &announce {
        if vip_ok && !vip.is_host() {
            let message = format!(
                "{}: `announce = \"kernel\"` cannot put the prefix {vip} on the loopback",
                scope.place
            );
            r.problems.error(span.clone(), message, "announce single addresses, or export the prefix by a routing daemon and write announce = \"none\"");
        }
        if !around.has_exception {
            let message = format!("{}: `announce = \"kernel\"` needs a port with `exception`", scope.place);
            r.problems.error(
                span.clone(),
                message,
                "the kernel answers ARP and ND through it: add exception = \"gw0\" to the [[port]]",
            );
        }
    }

    let rest = balance::Rest {
        hash,
        tracking,
        protocol,
        has_capacities: raw.backend.iter().any(|backend| backend.get_ref().capacity.is_some()),
    };
    let balance = balance::balance(r, &scope, cells, &rest);

    let agents_span = raw.agents.as_ref().map(Spanned::span);
    let agents = agents::of_service(r, &scope.place, raw.agents, around.has_agents);
    let health_scope = Scope::new(format!("{}: health", scope.place), header.clone());
    let service = health::ServiceFacts {
        vip: vip_ok.then_some(vip),
        port,
        has_agents: agents.is_some() || r.misspelt.contains("agents"),
    };
    let health = health::health(r, health_scope, raw.health, &service, around);
    registered_are_checked(r, &scope, agents_span, agents.as_ref(), &health);

    let mtu_help = format!(
        "bytes of IP to the backends, tunnel header included; leave it out for the port's {}",
        around.mtu_max
    );
    let mtu = r.number::<u16>(&scope, "mtu", raw.mtu, (576, 9000), &mtu_help).and_then(|mtu, span| {
        if mtu <= around.mtu_max {
            return Some(mtu);
        }
        let message = format!("{}: `mtu` {mtu} is larger than the port's {}", scope.place, around.mtu_max);
        r.problems.error(span.clone(), message, "raise the mtu of the [[port]], or lower this one");
        None
    });
    let mtu_span = mtu.span();

    let backend_scope = backend::Context {
        service: &scope.place,
        mode,
        mode_ok,
        vip: vip_ok.then_some(vip.addr),
        capacity: balance.capacity,
    };
    let (backends, backend_spans) = backend::backends(r, raw.backend, &backend_scope, &header, around);
    every_weight_has_a_slot(r, &scope, maglev_size, size_span, &backends);
    let mtu = mtu.ok();
    if vip_ok && vip.addr.is_ipv6() && mode_ok {
        let path = mtu.unwrap_or(around.mtu_min);
        let outer_v6 = backends.iter().any(|b| b.address.is_ipv6());
        let overhead = mode.overhead(outer_v6);
        let inner = path.saturating_sub(overhead);
        if inner < 1280 && path >= 1280 {
            let family = if outer_v6 { "IPv6" } else { "IPv4" };
            let message = format!(
                "{}: an IPv6 VIP needs 1280 bytes inside the tunnel; {path} minus {overhead} ({} over {family}) leaves {inner}",
                scope.place,
                mode.as_str()
            );
            let span = mtu_span.or(vip_written.clone()).unwrap_or(header.clone());
            r.problems.error(
                span,
                message,
                format!("raise the mtu of the port or service to at least {}", 1280 + overhead),
            );
        } else if path < 1280
            && let Some(span) = mtu_span
        {
            let message = format!("{}: `mtu` {path} is too small for an IPv6 VIP", scope.place);
            r.problems.error(span, message, format!("raise it to at least {}", 1280 + overhead));
        }
    }
    if agents.as_ref().is_none_or(|agents| agents.register.is_none()) {
        empty(r, &scope, &backends);
    }

    let name_span = name.span();
    let service = Service {
        name: name.or(format!("{number}")),
        vip,
        port,
        protocol,
        mode,
        maglev_size,
        hash,
        tunnel_ports,
        vni,
        mtu,
        on_down,
        on_empty,
        panic_percent,
        drain_timeout_ms,
        state: tracking,
        announce: announce.or(Announce::None),
        policy: balance.policy,
        weight_by: balance.weight_by,
        select: balance.select,
        join: balance.join,
        slow_start_ms: balance.slow_start_ms,
        capacity: balance.capacity,
        overload: balance.overload,
        churn_percent: balance.churn_percent,
        agents,
        health,
        backends,
    };
    (service, Places { vip: vip_written.unwrap_or(header), backends: backend_spans }, name_span)
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
    let misspelt = ["health", "kind"].iter().any(|key| r.misspelt.contains(*key));
    if let (Some(span), true, HealthKind::None, false) = (span, registers, &health.kind, misspelt) {
        let message = format!("{}: `agents.register` without a health check", scope.place);
        let help =
            "what registers takes traffic after its first good check: add [service.health] with a kind";
        r.problems.error(span, message, help);
    }
}

/// A service that serves nobody is allowed (a rollout may begin with it) but worth a word.
fn empty(r: &mut Reader<'_, '_>, scope: &Scope, backends: &[crate::config::Backend]) {
    let message = if backends.is_empty() {
        if r.misspelt.contains("backend") {
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
    r.problems.warning(
        scope.span.clone(),
        format!("{}: {message}; new flows get what `on_empty` says", scope.place),
        "add a backend that takes new flows",
    );
}

fn vip(r: &mut Reader<'_, '_>, scope: &Scope, cell: Cell, around: &Surroundings) -> Read<Net> {
    let help =
        "write an address like \"203.0.113.10\" or \"2001:db8::10\", or a prefix like \"203.0.113.0/24\"";
    r.text(scope, "vip", cell, help).and_then(|text, span| {
        let place = &scope.place;
        let net = r.net(place, "vip", &text, span, true, help)?;
        let problem = if net.network() != net.addr {
            let right = Net { addr: net.network(), len: net.len };
            Some((
                format!("{place}: `vip` {net} has bits set behind the prefix"),
                format!("write \"{right}\" for the prefix or \"{}\" for the single address", net.addr),
            ))
        } else if net.addr.is_ipv6() && net.len < 96 {
            Some((
                format!("{place}: `vip` {} is an IPv6 prefix shorter than /96", shown(&text)),
                "use /96 to /128: a flow is told apart by the last 32 bits".to_owned(),
            ))
        } else if let Some(what) = not_unicast(net).or_else(|| link_local(net)) {
            let verb = if net.is_host() { "is" } else { "holds" };
            Some((format!("{place}: `vip` {net} {verb} {what}"), "write an address that clients can reach".to_owned()))
        } else {
            around.local.iter().find(|local| net.contains(**local)).map(|local| {
                let what = if net.is_host() { "is" } else { "contains" };
                (
                    format!("{place}: `vip` {net} {what} this machine's own address {local}"),
                    "a VIP belongs to no machine: choose another, or change machine.address or exception_addresses".to_owned(),
                )
            })
        };
        if let Some((message, help)) = problem {
            r.problems.error(span.clone(), message, help);
            return None;
        }
        Some(net)
    })
}

/// Why no client behind a router can reach an address of `net`, if so.
fn link_local(net: Net) -> Option<&'static str> {
    const V4: Net = Net { addr: IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), len: 16 };
    const V6: Net = Net { addr: IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), len: 10 };
    if V4.overlaps(net) {
        Some("a link-local address (169.254.0.0/16, RFC 3927)")
    } else if V6.overlaps(net) {
        Some("a link-local address (fe80::/10, RFC 4291)")
    } else {
        None
    }
}

fn maglev_size(r: &mut Reader<'_, '_>, scope: &Scope, cell: Cell, backends: usize) -> u32 {
    let cell_span = cell.as_ref().map(Spanned::span);
    let help = "a prime, a hundred times the number of backends; leave it out for 65537";
    let size = r.number::<u32>(scope, "maglev_size", cell, MAGLEV_SIZE, help).and_then(|size, span| {
        if is_prime(size) {
            return Some(size);
        }
        let next = (size..).find(|n| is_prime(*n)).unwrap_or(MAGLEV_SIZE_DEFAULT);
        let message = format!("{}: `maglev_size` {size} is not a prime", scope.place);
        r.problems.error(span.clone(), message, format!("the next prime is {next}"));
        None
    });
    if matches!(size, Read::Bad) {
        return MAGLEV_SIZE_DEFAULT;
    }
    let size = size.or(MAGLEV_SIZE_DEFAULT);
    let span = cell_span.unwrap_or(scope.span.clone());
    if backends >= size as usize || backends >= usize::from(u16::MAX) {
        let message = format!("{}: {backends} backends do not fit in `maglev_size` {size}", scope.place);
        let help = match (backends.saturating_mul(100)..)
            .find_map(|n| u32::try_from(n).ok().filter(|n| is_prime(*n)))
        {
            _ if backends >= usize::from(u16::MAX) => "a service has at most 65,534 backends".to_owned(),
            Some(prime) if i64::from(prime) <= MAGLEV_SIZE.1 => {
                format!("a hundred slots a backend keep shares even: {prime}")
            }
            _ => format!("the largest size is {}", MAGLEV_SIZE.1),
        };
        r.problems.error(span, message, help);
    } else if backends.saturating_mul(20) > size as usize {
        let message = format!(
            "{}: {} slots a backend: shares differ by {} %",
            scope.place,
            size as usize / backends,
            100 * backends / size as usize
        );
        r.problems.warning(
            span,
            message,
            "a hundred slots a backend keep shares within 1 %: raise maglev_size",
        );
    }
    size
}

/// Slots are shared out by weight; who has less than one slot may have none, and takes no new flow then.
fn every_weight_has_a_slot(
    r: &mut Reader<'_, '_>,
    scope: &Scope,
    size: u32,
    span: Option<Span>,
    backends: &[Backend],
) {
    let weighted = || backends.iter().filter(|backend| backend.weight > 0);
    let sum: u64 = weighted().map(|backend| u64::from(backend.weight)).sum();
    // More backends than slots is an error of its own.
    let Some(least) =
        weighted().min_by_key(|backend| backend.weight).filter(|_| backends.len() < size as usize)
    else {
        return;
    };
    let weight = u64::from(least.weight);
    if u64::from(size) * weight >= sum {
        return;
    }
    let prime = |slots: u64| {
        let slots = u32::try_from(slots).ok().filter(|&slots| i64::from(slots) <= MAGLEV_SIZE.1)?;
        (slots..).find(|n| is_prime(*n)).filter(|&n| i64::from(n) <= MAGLEV_SIZE.1)
    };
    let help = match (prime(sum.div_ceil(weight)), prime((sum * 100).div_ceil(weight))) {
        (Some(one), Some(even)) => {
            format!(
                "with maglev_size = {one} it has one slot, with {even} its share is met within 1 %; or raise its weight"
            )
        }
        (Some(one), None) => format!("with maglev_size = {one} it has one slot; or raise its weight"),
        (None, _) => {
            format!("not even the largest maglev_size, {}, gives it a slot: raise its weight", MAGLEV_SIZE.1)
        }
    };
    let message = format!(
        "{}: backend \"{}\" with weight {weight} of {sum} has less than one of {size} slots, and may get no flow",
        scope.place, least.name
    );
    r.problems.warning(span.unwrap_or(scope.span.clone()), message, help);
}

fn is_prime(n: u32) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= u64::from(n)).all(|d| !u64::from(n).is_multiple_of(d))
}

fn tracking(r: &mut Reader<'_, '_>, scope: &Scope, cell: Cell, protocol: Protocol) -> Tracking {
    let read =
        r.choice(scope, "state", cell, &[("all", Tracking::All), ("exceptions", Tracking::Exceptions)]);
    if let Read::Given(Tracking::Exceptions, span) = &read
        && protocol == Protocol::Udp
    {
        r.problems.warning(
            span.clone(),
            format!("{}: `state = \"exceptions\"` is for TCP; UDP flows are all tracked", scope.place),
            "leave it out, or write state = \"all\"",
        );
    }
    read.or(Tracking::All)
}

/// A TCP connection is lost with its backend, so it may as well wait for it; a stream of datagrams is not, and would be sent to a
/// dead backend for as long as it lasts.
fn on_down(r: &mut Reader<'_, '_>, scope: &Scope, cell: Cell, protocol: Protocol) -> OnDown {
    let default = match protocol {
        Protocol::Tcp => OnDown::Keep,
        Protocol::Udp => OnDown::Reselect,
    };
    if let Some(cell) = &cell
        && cell.get_ref().as_str() == Some("reset")
    {
        let message = format!("{}: `on_down = \"reset\"` is not available", scope.place);
        r.problems.error(
            cell.span(),
            message,
            "it comes with connection redistribution; use \"keep\" or \"reselect\"",
        );
        return default;
    }
    let choices = [("keep", OnDown::Keep), ("reselect", OnDown::Reselect)];
    r.choice(scope, "on_down", cell, &choices).or(default)
}

#[cfg(test)]
mod tests {
    #[test]
    fn primes() {
        let sieve = |n: u32| n >= 2 && !(2..n).any(|d| n.is_multiple_of(d));
        for n in 0..2000 {
            assert_eq!(super::is_prime(n), sieve(n), "{n}");
        }
        assert!(super::is_prime(65_537) && super::is_prime(5_000_011) && super::is_prime(4_294_967_291));
    }
}
