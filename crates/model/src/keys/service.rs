//! `[[service]]`.

use super::agents::{self, ServiceAgents};
use super::backend::{self, Backend};
use super::balance::{self, Join, Overload, Policy, Select, WeightBy};
use super::health::{self, Health};
use super::kind::{Kind, Many, Name, Number, Sub};
use super::read::{At, Read, Reader, Scope, Span, not_unicast, shown};
use super::table::table;
use super::word::words;
use super::{BACKENDS_MAX, Places, SERVICES_MAX, tunnel};
use crate::config::{AdminState, Checks, HealthKind, Mode, Net, names};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use toml::{Spanned, Value};
use wire::encap::VNI_DEFAULT;

const MAGLEV_SIZE_DEFAULT: u32 = 65_537;
const MAGLEV_SIZE_MAX: i64 = 5_000_011;
const CAPACITY_DEFAULT: u32 = 10_000;

table! {
    /// A service: (VIP, port, protocol) and its policy.
    pub struct Service(ServiceRaw, ServiceFound) given(number: usize) {
        /// Unique name.
        name: Name = number.to_string(), required "give the service a name, like name = \"web\"" => Identity;
        /// Address or prefix (IPv6: /96 or longer).
        vip: Vip = Net::host(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            required "write the address clients use, like vip = \"203.0.113.10\", or a prefix" => Live;
        /// 0 = any port.
        port: Number<u16, 0, 65_535> = 1,
            required "write the port clients use, like port = 80; port = 0 means any port" => Live;
        /// Transport protocol.
        protocol: Protocol = Protocol::Tcp => Live;
        /// How packets reach the backends.
        #[serde(serialize_with = "names::mode")]
        mode: Mode = Mode::Ipip, default "ipip" => Live;
        /// Slots: a prime, larger than the number of backends.
        maglev_size: Number<u32, 251, MAGLEV_SIZE_MAX> = MAGLEV_SIZE_DEFAULT,
            help "a prime, a hundred times the number of backends; leave it out for {default}",
            check is_a_prime => WhileStateless;
        /// What the slot is computed from.
        hash: Hash = Hash::Tuple => WhileStateless;
        /// Mode gue only.
        gue_port: Number<u16, 1, 65_535> = Mode::Gue.defaults().port,
            help "destination UDP port of the tunnel" => Live;
        /// Mode vxlan only.
        vxlan_port: Number<u16, 1, 65_535> = Mode::Vxlan.defaults().port,
            help "destination UDP port of the tunnel" => Live;
        /// Mode geneve only.
        geneve_port: Number<u16, 1, 65_535> = Mode::Geneve.defaults().port,
            help "destination UDP port of the tunnel" => Live;
        /// Network identifier; modes vxlan and geneve only.
        vni: tunnel::Vni = VNI_DEFAULT => Live;
        /// Path MTU to the backends.
        mtu: Mtu, default "the port's", unit "bytes" => Live;
        /// Fate of established flows of a backend that is down.
        on_down: OnDown = OnDown::default_of(protocol), default "keep for TCP, reselect for UDP" => Live;
        /// Answer when no backend is usable.
        on_empty: OnEmpty = OnEmpty::Reset => Live;
        /// Share of backends down above which, until all are, health is disregarded; 0 = never.
        panic_percent: Number<u8, 0, 100> = 50, unit "percent",
            help "percent of the backends; 0 = never disregard health; leave it out for {default}" => Live;
        /// How long flows of a removed backend may live on.
        drain_timeout_ms: Number<u64, 0, 86_400_000> = 300_000, unit "milliseconds",
            help "milliseconds, at most a day; leave it out for {default}" => Live;
        /// Which flows are tracked.
        state: Tracking = Tracking::All => Live;
        /// Whether the kernel holds the VIP while the service is ready.
        announce: Announce = Announce::None => Live;
        /// Who chooses the backend of a new flow.
        policy: Policy = Policy::Maglev => Live;
        /// Policy maglev: load lets weights follow the backends' load.
        weight_by "weight": WeightBy = WeightBy::Static => Live;
        /// Policy least-load: the least loaded of all, or the better of two.
        select: Select = Select::Min => Live;
        /// How a backend that comes up comes to its share; head: at once.
        join: Join = Join::Head => Live;
        /// Time over which its share grows; join slow-start only.
        slow_start_ms: Number<u32, 1000, 3_600_000> = 30_000, unit "milliseconds",
            help "milliseconds until a backend that came up has its whole share; leave it out for {default}"
            => Live;
        /// Flows that a backend of weight 1 is meant to carry.
        capacity: Number<u32, 1, 16_777_216> = CAPACITY_DEFAULT,
            help "flows that a backend of weight 1 is meant to carry; leave it out for {default}" => Live;
        /// Policy least-load: fate of new flows when every backend is full.
        overload: Overload = Overload::Spread => Live;
        /// Weight load: most slots moved a minute.
        churn_percent: Number<u8, 1, 100> = 5, unit "percent",
            help "percent of the slots that may move a minute; leave it out for {default}" => Live;
        agents: Sub<ServiceAgents> => Live;
        health: Sub<Health> = Health::unprobed(Checks::Machine), default "kind none" => Live;
        backends "backend": Many<Backend, 0, 65_535> = Vec::new() => Live;
    }
}

words! {
    /// Transport protocol of a service.
    #[derive(Hash, Deserialize)]
    pub enum Protocol {
        /// 6
        Tcp = "tcp",
        /// 17
        Udp = "udp",
    }

    /// What the slot is computed from.
    pub enum Hash {
        /// 5-tuple
        Tuple = "tuple",
        /// Source address
        Source = "source",
    }

    /// Which flows are tracked.
    pub enum Tracking {
        /// Every flow
        All = "all",
        /// TCP flows of slots whose backend changed lately, and all UDP flows
        Exceptions = "exceptions",
    }

    /// Fate of established flows of a down backend.
    pub enum OnDown {
        /// They stay
        Keep = "keep",
        /// Next packet steered anew
        Reselect = "reselect",
    }

    /// Fate of packets when no backend is usable.
    pub enum OnEmpty {
        /// RST or port unreachable
        Reset = "reset",
        /// Silence
        Drop = "drop",
    }

    /// Whether the VIP is put on the loopback while the service is ready.
    pub enum Announce {
        /// No
        None = "none",
        /// Yes: the kernel answers ARP and ND, a routing daemon can export it
        Kernel = "kernel",
    }
}

impl OnDown {
    /// A TCP connection is lost with its backend, so it may as well wait for it; a stream of datagrams is
    /// not, and would be sent to a
    /// dead backend for as long as it lasts.
    const fn default_of(protocol: Protocol) -> OnDown {
        match protocol {
            Protocol::Tcp => OnDown::Keep,
            Protocol::Udp => OnDown::Reselect,
        }
    }
}

impl Kind for Mode {
    type Value = Mode;

    fn label() -> String {
        "word".to_owned()
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        let one = |mode: Mode| serde_json::json!({ "type": "string", "const": mode.as_str(), "description": mode.title() });
        json_schema!({ "oneOf": Mode::ALL.map(one) })
    }

    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<Mode> {
        r.choice(at, span, &value, &Mode::ALL.map(|mode| (mode.as_str(), mode)))
    }
}

/// Where clients connect.
pub(crate) struct Vip;

impl Kind for Vip {
    type Value = Net;

    fn label() -> String {
        "address or prefix".to_owned()
    }

    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<Net> {
        let help =
            "write an address like \"203.0.113.10\" or \"2001:db8::10\", or a prefix like \"203.0.113.0/24\"";
        let text = r.text(at, span, value, help)?;
        let net = r.net(at, span, &text, true, help)?;
        if !r.prefix(at, span, net) {
            return None;
        }
        let (what, help) = if net.addr.is_ipv6() && net.len < 96 {
            let what = format!("{} is an IPv6 prefix shorter than /96", shown(&text));
            (what, "use /96 to /128: a flow is told apart by the last 32 bits")
        } else if let Some(what) = not_unicast(net).or_else(|| link_local(net)) {
            let verb = if net.is_host() { "is" } else { "holds" };
            (format!("{net} {verb} {what}"), "write an address that clients can reach")
        } else {
            let Some(local) = r.around.local.iter().find(|local| net.contains(**local)) else {
                return Some(net);
            };
            let verb = if net.is_host() { "is" } else { "contains" };
            let help = "a VIP belongs to no machine: choose another, or change machine.address or exception_addresses";
            (format!("{net} {verb} this machine's own address {local}"), help)
        };
        r.wrong(at, span, what, help);
        None
    }
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

/// Of a path: at most the largest of a port.
pub(crate) struct Mtu;

impl Kind for Mtu {
    type Value = u16;

    fn label() -> String {
        "integer".to_owned()
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        <Number<u16, 576, 9000> as Kind>::schema(generator)
    }

    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<u16> {
        let max = r.around.mtu_max;
        let help =
            format!("bytes of IP to the backends, tunnel header included; leave it out for the port's {max}");
        let mtu = u16::try_from(r.integer(at, span, &value, (576, 9000), help)?).ok()?;
        if mtu > max {
            let help = "raise the mtu of the [[port]], or lower this one";
            r.wrong(at, span, format_args!("{mtu} is larger than the port's {max}"), help);
            return None;
        }
        Some(mtu)
    }
}

fn is_a_prime(r: &mut Reader<'_, '_>, at: &At<'_>, size: &u32, span: &Span) -> bool {
    let good = is_prime(*size);
    if !good {
        let next = (*size..).find(|n| is_prime(*n)).unwrap_or(MAGLEV_SIZE_DEFAULT);
        r.wrong(at, span, format_args!("{size} is not a prime"), format!("the next prime is {next}"));
    }
    good
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
    let maglev_size = slots(r, &scope, &found.maglev_size, backends.len());
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
    every_weight_has_a_slot(r, &scope, maglev_size, found.maglev_size.written(), &backends);
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
    let path = found.mtu.or(r.around.mtu_min);
    let outer_v6 = backends.iter().any(|b| b.address.is_ipv6());
    let overhead = mode.overhead(outer_v6);
    let inner = path.saturating_sub(overhead);
    if inner < 1280 && path >= 1280 {
        let family = if outer_v6 { "IPv6" } else { "IPv4" };
        let message = format!(
            "{place}: an IPv6 VIP needs 1280 bytes inside the tunnel; {path} minus {overhead} ({} over {family}) leaves {inner}",
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

/// Slots of the table, checked against the number of backends.
fn slots(r: &mut Reader<'_, '_>, scope: &Scope, found: &Read<u32>, backends: usize) -> u32 {
    let size = found.or(MAGLEV_SIZE_DEFAULT);
    if matches!(found, Read::Bad(_)) {
        return size;
    }
    let span = found.span().unwrap_or(scope.span.clone());
    let place = &scope.place;
    if backends >= size as usize || backends >= usize::from(u16::MAX) {
        let message = format!("{place}: {backends} backends do not fit in `maglev_size` {size}");
        let help = match (backends.saturating_mul(100)..)
            .find_map(|n| u32::try_from(n).ok().filter(|n| is_prime(*n)))
        {
            _ if backends >= usize::from(u16::MAX) => "a service has at most 65,534 backends".to_owned(),
            Some(prime) if i64::from(prime) <= MAGLEV_SIZE_MAX => {
                format!("a hundred slots a backend keep shares even: {prime}")
            }
            _ => format!("the largest size is {MAGLEV_SIZE_MAX}"),
        };
        r.error(&span, message, help);
    } else if backends.saturating_mul(20) > size as usize {
        let (each, percent) = (size as usize / backends, 100 * backends / size as usize);
        let message = format!("{place}: {each} slots a backend: shares differ by {percent} %");
        let help = "a hundred slots a backend keep shares within 1 %: raise maglev_size";
        r.warning(&span, message, help);
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
        let slots = u32::try_from(slots).ok().filter(|&slots| i64::from(slots) <= MAGLEV_SIZE_MAX)?;
        (slots..).find(|n| is_prime(*n)).filter(|&n| i64::from(n) <= MAGLEV_SIZE_MAX)
    };
    let help = match (prime(sum.div_ceil(weight)), prime((sum * 100).div_ceil(weight))) {
        (Some(one), Some(even)) => {
            format!(
                "with maglev_size = {one} it has one slot, with {even} its share is met within 1 %; or raise its weight"
            )
        }
        (Some(one), None) => format!("with maglev_size = {one} it has one slot; or raise its weight"),
        (None, _) => {
            format!("not even the largest maglev_size, {MAGLEV_SIZE_MAX}, gives it a slot: raise its weight")
        }
    };
    let message = format!(
        "{}: backend \"{}\" with weight {weight} of {sum} has less than one of {size} slots, and may get no flow",
        scope.place, least.name
    );
    r.warning(&span.unwrap_or(scope.span.clone()), message, help);
}

fn is_prime(n: u32) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= u64::from(n)).all(|d| !u64::from(n).is_multiple_of(d))
}

fn tracking(r: &mut Reader<'_, '_>, scope: &Scope, found: &Read<Tracking>, protocol: Protocol) {
    if let (Read::Given(Tracking::Exceptions, span), Protocol::Udp) = (found, protocol) {
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
    let Read::Given(Announce::Kernel, span) = &found.announce else { return };
    let place = &scope.place;
    if let Some(vip) = found.vip.get().filter(|vip| !vip.is_host()) {
        let message = format!("{place}: `announce = \"kernel\"` cannot put the prefix {vip} on the loopback");
        let help = "announce single addresses, or export the prefix by a routing daemon and write announce = \"none\"";
        r.error(span, message, help);
    }
    if !r.around.has_exception {
        let message = format!("{place}: `announce = \"kernel\"` needs a port with `exception`");
        let help = "the kernel answers ARP and ND through it: add exception = \"gw0\" to the [[port]]";
        r.error(span, message, help);
    }
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
