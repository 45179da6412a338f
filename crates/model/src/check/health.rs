//! `[service.health]`.

use super::read::{Read, Reader, Scope, shown};
use super::{Span, Surroundings};
use crate::config::{CheckFiles, Checks as By, Health, HealthKind, HttpCheck, Net, Payload, Route};
use crate::raw::{self, Cell};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use toml::{Spanned, Value};

const INTERVAL_MS_DEFAULT: u32 = 1000;
const TIMEOUT_MS_DEFAULT: u32 = 500;
/// Longest `send`, `expect` and `path`, bytes.
const PAYLOAD_MAX: usize = 1024;
/// Most entries of `expect_status`.
const STATUSES_MAX: usize = 16;

/// What the checks need to know of the service.
pub(super) struct ServiceFacts {
    /// If it is good.
    pub(super) vip: Option<Net>,
    pub(super) port: u16,
    /// Agents may speak for it.
    pub(super) has_agents: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    Tcp,
    Http,
    Https,
    Udp,
    Exec,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Kind::None => "none",
            Kind::Tcp => "tcp",
            Kind::Http => "http",
            Kind::Https => "https",
            Kind::Udp => "udp",
            Kind::Exec => "exec",
        }
    }
}

/// No probes: what a service without `[service.health]` has.
const fn unprobed(checks: By) -> Health {
    Health {
        kind: HealthKind::None,
        interval_ms: INTERVAL_MS_DEFAULT,
        timeout_ms: TIMEOUT_MS_DEFAULT,
        fall: 3,
        rise: 2,
        port: None,
        via: None,
        route: Route::Direct,
        checks,
    }
}

pub(super) fn health(
    r: &mut Reader<'_, '_>,
    scope: Scope,
    raw: Option<Spanned<raw::Health>>,
    service: &ServiceFacts,
    around: &Surroundings,
) -> Health {
    let by_default = if service.has_agents { By::Agent } else { By::Machine };
    let Some(raw) = raw else { return unprobed(by_default) };
    let scope = Scope::new(scope.place, raw.span());
    let raw = raw.into_inner();
    let kinds =
        [Kind::None, Kind::Tcp, Kind::Http, Kind::Https, Kind::Udp, Kind::Exec].map(|k| (k.as_str(), k));
    let kind_span = raw.kind.as_ref().map_or(scope.span.clone(), Spanned::span);
    let kind = r.choice(&scope, "kind", raw.kind.clone(), &kinds);
    let kind_ok = !matches!(kind, Read::Bad) && !r.misspelt.contains("kind");
    let kind = kind.or(Kind::None);
    if kind_ok {
        keys_of_kind(r, &scope, kind, &raw);
    }

    let help = "milliseconds between two probes of a backend; leave it out for 1000";
    let interval_ms =
        r.number(&scope, "interval_ms", raw.interval_ms, (10, 600_000), help).or(INTERVAL_MS_DEFAULT);
    let help = "milliseconds until a probe has failed; leave it out for 500";
    let timeout = r.number::<u32>(&scope, "timeout_ms", raw.timeout_ms, (10, 600_000), help);
    let timeout = timeout.and_then(|timeout, span| {
        if timeout <= interval_ms {
            return Some(timeout);
        }
        let message =
            format!("{}: `timeout_ms` {timeout} is longer than `interval_ms` {interval_ms}", scope.place);
        r.problems.error(
            span.clone(),
            message,
            "a probe must end before the next begins: lower timeout_ms or raise interval_ms",
        );
        None
    });
    let timeout_ms = timeout.or(TIMEOUT_MS_DEFAULT.min(interval_ms));
    let fall = r
        .number(&scope, "fall", raw.fall, (1, 100), "failures in a row until down; leave it out for 3")
        .or(3);
    let rise =
        r.number(&scope, "rise", raw.rise, (1, 100), "successes in a row until up; leave it out for 2").or(2);
    let port =
        r.number(&scope, "port", raw.port, (1, 65_535), "the probed port; leave it out for the service's");
    if port.is_absent() && service.port == 0 && kind != Kind::None && !r.misspelt.contains("port") {
        let message = format!("{}: `port` is missing: the service takes any port", scope.place);
        r.problems.error(kind_span.clone(), message, "say which port is probed, like port = 80");
    }

    let silence = r.choice(&scope, "silence", raw.silence, &[("fail", false), ("pass", true)]);
    let mut file = |name: &str, cell: Cell| {
        let span = cell.as_ref().map(Spanned::span);
        (r.path(&scope, name, cell).ok().map(PathBuf::from), span)
    };
    let ((cert, cert_span), (key, key_span), (ca, ca_span)) =
        (file("cert", raw.cert), file("key", raw.key), file("ca", raw.ca));
    for (missing, given) in [("key", &cert_span), ("cert", &key_span)] {
        if let (Some(span), false) = (given, cert_span.is_some() && key_span.is_some()) {
            let message =
                format!("{}: `{missing}` is missing: a certificate is shown with its key", scope.place);
            r.problems.error(
                span.clone(),
                message,
                format!("add {missing} = \"/etc/guideway/…\", or remove the other"),
            );
        }
    }
    let files = CheckFiles { cert, key, ca };
    let files = (files != CheckFiles::default()).then(|| Box::new(files));
    let files_span = cert_span.or(key_span).or(ca_span);
    let checks = Checks {
        silence_passes: silence.or(false),
        http: HttpCheck {
            path: path(r, &scope, raw.path),
            host: host(r, &scope, raw.host),
            expect_status: statuses(r, &scope, raw.expect_status),
            expect: None,
            sni: sni(r, &scope, raw.sni),
            files,
        },
        command: command(r, &scope, raw.command, kind, kind_ok, &kind_span),
        send: r.payload(&scope, "send", (raw.send, raw.send_hex), PAYLOAD_MAX).ok(),
        expect: r.payload(&scope, "expect", (raw.expect, raw.expect_hex), PAYLOAD_MAX).ok(),
    };
    let by = r.choice(&scope, "checks", raw.checks, &[("machine", By::Machine), ("agent", By::Agent)]);
    if kind_ok {
        checked_by(r, &scope, kind, &kind_span, &by, service.has_agents);
    }
    let by = by.or(by_default);
    if let Some(span) = files_span
        && by == By::Agent
    {
        let message =
            format!("{}: `cert`, `key` and `ca` are read by machines, and agents check", scope.place);
        r.problems.error(
            span,
            message,
            "write checks = \"machine\", or let agents run a command (kind exec)",
        );
    }
    let via = via(r, &scope, raw.via, kind, &kind_span, around);
    let route = r.choice(&scope, "route", raw.route, &[("direct", Route::Direct), ("tunnel", Route::Tunnel)]);
    if let Read::Given(Route::Tunnel, span) = &route
        && kind != Kind::None
    {
        tunnel(r, &scope, span, service, via.as_deref(), around);
    }
    Health {
        kind: checks.of(kind),
        interval_ms,
        timeout_ms,
        fall,
        rise,
        port: port.ok(),
        via,
        route: route.or(Route::Direct),
        checks: by,
    }
}

/// The parameters of all kinds, before one kind takes its own.
struct Checks {
    http: HttpCheck,
    command: String,
    send: Option<Payload>,
    expect: Option<Payload>,
    silence_passes: bool,
}

impl Checks {
    fn of(self, kind: Kind) -> HealthKind {
        let http = HttpCheck { expect: self.expect.clone(), ..self.http };
        match kind {
            Kind::None => HealthKind::None,
            Kind::Tcp => HealthKind::Tcp { send: self.send, expect: self.expect },
            Kind::Http => HealthKind::Http(http),
            Kind::Https => HealthKind::Https(http),
            Kind::Udp => {
                HealthKind::Udp { send: self.send, expect: self.expect, silence_passes: self.silence_passes }
            }
            Kind::Exec => HealthKind::Exec { command: self.command },
        }
    }
}

/// Reports keys of another kind; for kind none, says that the general ones have no effect.
fn keys_of_kind(r: &mut Reader<'_, '_>, scope: &Scope, kind: Kind, raw: &raw::Health) {
    use Kind::{Exec, Http, Https, Tcp, Udp};
    let owned: [(&str, &Cell, &[Kind]); 13] = [
        ("command", &raw.command, &[Exec]),
        ("path", &raw.path, &[Http, Https]),
        ("host", &raw.host, &[Http, Https]),
        ("expect_status", &raw.expect_status, &[Http, Https]),
        ("send", &raw.send, &[Tcp, Udp]),
        ("send_hex", &raw.send_hex, &[Tcp, Udp]),
        ("expect", &raw.expect, &[Tcp, Udp, Http, Https]),
        ("expect_hex", &raw.expect_hex, &[Tcp, Udp, Http, Https]),
        ("sni", &raw.sni, &[Https]),
        ("cert", &raw.cert, &[Https]),
        ("key", &raw.key, &[Https]),
        ("ca", &raw.ca, &[Https]),
        ("silence", &raw.silence, &[Udp]),
    ];
    for (key, cell, owners) in owned {
        if let Some(cell) = cell
            && !owners.contains(&kind)
        {
            let owners = owners.iter().map(|k| k.as_str()).collect::<Vec<_>>();
            let list = owners.join(", ");
            let message = format!(
                "{}: `{key}` belongs to kind {list}; this check is of kind {}",
                scope.place,
                kind.as_str()
            );
            r.problems.error(cell.span(), message, format!("remove it, or write kind = \"{}\"", owners[0]));
        }
    }
    if kind == Kind::None {
        let general = [
            &raw.interval_ms,
            &raw.timeout_ms,
            &raw.fall,
            &raw.rise,
            &raw.port,
            &raw.via,
            &raw.route,
            &raw.checks,
        ];
        if let Some(cell) = general.into_iter().flatten().next() {
            let message = format!("{}: nothing is probed (kind none): backends count as up", scope.place);
            r.problems.warning(
                cell.span(),
                message,
                "add kind = \"tcp\", \"http\", \"https\", \"udp\" or \"exec\", or remove these keys",
            );
        }
    }
}

/// The name of a command of kind exec.
fn command(
    r: &mut Reader<'_, '_>,
    scope: &Scope,
    cell: Cell,
    kind: Kind,
    kind_ok: bool,
    kind_span: &Span,
) -> String {
    let help = "write the name of a [command] of the agents' files, like command = \"check-db\"";
    let read = r.text(scope, "command", cell, help).and_then(|name, span| {
        let known = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if name.len() <= 63 && name.bytes().all(known) {
            return Some(name);
        }
        let message = format!("{}: `command` {} is no name of a command", scope.place, shown(&name));
        r.problems.error(span.clone(), message, format!("{help}; what it runs stands in those files alone"));
        None
    });
    if kind_ok && kind == Kind::Exec && read.is_absent() && !r.misspelt.contains("command") {
        let message = format!("{}: kind exec needs `command`", scope.place);
        r.problems.error(kind_span.clone(), message, help);
    }
    read.or(String::new())
}

/// Agents check only where they may speak, and a command is run by them alone.
fn checked_by(
    r: &mut Reader<'_, '_>,
    scope: &Scope,
    kind: Kind,
    kind_span: &Span,
    by: &Read<By>,
    has_agents: bool,
) {
    let place = &scope.place;
    match by {
        Read::Given(By::Agent, span) if !has_agents => {
            let message = format!("{place}: `checks = \"agent\"` needs [service.agents]");
            let help = "add [service.agents] with a token_file, or write checks = \"machine\"";
            r.problems.error(span.clone(), message, help);
        }
        Read::Given(By::Machine, span) if kind == Kind::Exec => {
            let message =
                format!("{place}: kind exec with `checks = \"machine\"`: commands are run by agents only");
            r.problems.error(span.clone(), message, "remove checks, or choose another kind");
        }
        Read::Absent if kind == Kind::Exec && !has_agents => {
            let message =
                format!("{place}: kind exec needs [service.agents]: commands are run by agents only");
            let help = "add [service.agents] with a token_file, or choose another kind";
            r.problems.error(kind_span.clone(), message, help);
        }
        _ => {}
    }
}

fn path(r: &mut Reader<'_, '_>, scope: &Scope, cell: Cell) -> String {
    let help = "write what stands behind the host in a URL, beginning with /, like \"/healthz\"";
    let read = r.text(scope, "path", cell, help).and_then(|path, span| {
        if path.len() <= PAYLOAD_MAX && is_request_path(&path) {
            return Some(path);
        }
        let message = format!("{}: `path` {} is no path of a request", scope.place, shown(&path));
        let help = if path.contains('#') {
            "what follows a # is for browsers and never sent: end the path before it, or write %23".to_owned()
        } else {
            format!("{help}; other characters as %20")
        };
        r.problems.error(span.clone(), message, help);
        None
    });
    read.or("/".to_owned())
}

/// Path and query as they stand in a request (RFC 3986 section 3.3 and 3.4): what is no such character would be refused, or cut off, when
/// it is sent.
fn is_request_path(path: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?".contains(&b);
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        let is_hex = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_hexdigit());
        let ok = if byte == b'%' { is_hex(rest.next()) && is_hex(rest.next()) } else { known(byte) };
        if !ok {
            return false;
        }
    }
    path.starts_with('/')
}

/// The `Host` header.
fn host(r: &mut Reader<'_, '_>, scope: &Scope, cell: Cell) -> Option<String> {
    let help = "write a name or an address, with a port where the server wants one, like \"www.example.com\", \"10.0.2.21:8443\" or \"[2001:db8::10]:8443\"";
    let read = r.text(scope, "host", cell, help).and_then(|text, span| {
        if is_host(&text) {
            return Some(text);
        }
        let help = if text.parse::<Ipv6Addr>().is_ok() {
            format!("put an IPv6 address in brackets: \"[{text}]\"")
        } else {
            help.to_owned()
        };
        r.problems.error(span.clone(), format!("{}: `host` {} is no host", scope.place, shown(&text)), help);
        None
    });
    read.ok()
}

/// The server name of TLS.
fn sni(r: &mut Reader<'_, '_>, scope: &Scope, cell: Cell) -> Option<String> {
    let help = "write the name of the server, like \"www.example.com\"";
    let read = r.text(scope, "sni", cell, help).and_then(|text, span| {
        if is_dns_name(&text) {
            return Some(text);
        }
        let help = if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
            "an address is never sent as server name (RFC 6066 section 3): write a name, or leave it out"
        } else if text.contains('*') {
            "a certificate may be for *.example.com, a client asks for one name: write that"
        } else {
            help
        };
        let message = format!("{}: `sni` {} is no name of a server", scope.place, shown(&text));
        r.problems.error(span.clone(), message, help);
        None
    });
    read.ok()
}

/// A name or an address, with a port or without (RFC 9110 section 7.2).
fn is_host(text: &str) -> bool {
    let is_port = |text: &str| text.parse::<u16>().is_ok_and(|port| port > 0) && !text.starts_with('+');
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, rest)| {
            let port_ok = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
            address.parse::<Ipv6Addr>().is_ok() && port_ok
        });
    }
    let (name, port_ok) = text.split_once(':').map_or((text, true), |(name, port)| (name, is_port(port)));
    port_ok && (name.parse::<Ipv4Addr>().is_ok() || is_dns_name(name))
}

/// Labels of letters, digits, hyphens and underscores (RFC 1123 section 2.1); the last is not all digits, which would be an address.
fn is_dns_name(text: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(known)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    text.len() <= 253 && text.split('.').all(is_label) && !text.rsplit('.').next().is_some_and(is_number)
}

fn statuses(r: &mut Reader<'_, '_>, scope: &Scope, cell: Cell) -> Vec<(u16, u16)> {
    let default = vec![(200, 399)];
    let Some(cell) = cell else { return default };
    let span = cell.span();
    let items = match cell.into_inner() {
        Value::Array(items) => items,
        one => vec![one],
    };
    let help = "write 200, or a list of statuses and ranges from 100 to 599 like [200, 204, \"300-399\"]";
    if items.is_empty() || items.len() > STATUSES_MAX {
        let message = format!("{}: `expect_status` has {} entries", scope.place, items.len());
        r.problems.error(span, message, format!("at least 1, at most {STATUSES_MAX}; {help}"));
        return default;
    }
    let mut statuses = Vec::new();
    for item in items {
        let range = match &item {
            Value::Integer(status) => u16::try_from(*status).ok().map(|s| (s, s)),
            Value::String(text) => match text.split_once('-') {
                Some((first, last)) => first.parse().ok().zip(last.parse().ok()),
                None => text.parse().ok().map(|s| (s, s)),
            },
            _ => None,
        };
        match range {
            Some((first, last)) if 100 <= first && first <= last && last <= 599 => {
                statuses.push((first, last));
            }
            _ => {
                let item = shown(&item.to_string().replace('"', ""));
                let message =
                    format!("{}: `expect_status` {item} is no status or range of statuses", scope.place);
                r.problems.error(span.clone(), message, help);
            }
        }
    }
    statuses
}

fn via(
    r: &mut Reader<'_, '_>,
    scope: &Scope,
    cell: Cell,
    kind: Kind,
    kind_span: &Span,
    around: &Surroundings,
) -> Option<String> {
    let via = r.interface(scope, "via", cell);
    if !via.is_absent() || kind == Kind::None {
        return via.ok();
    }
    if !around.has_exception && !r.misspelt.contains("via") {
        let message =
            format!("{}: kind {} needs `via`: there is no exception interface", scope.place, kind.as_str());
        let help = "name the kernel interface the probes leave by, like via = \"eth1\"; or add exception = \"gw0\" to the [[port]]; or write kind = \"none\"";
        r.problems.error(kind_span.clone(), message, help);
    }
    around.exceptions.first().cloned()
}

/// A probe through the tunnel is sent by the kernel to the VIP and comes to us by an exception port.
fn tunnel(
    r: &mut Reader<'_, '_>,
    scope: &Scope,
    span: &Span,
    service: &ServiceFacts,
    via: Option<&str>,
    around: &Surroundings,
) {
    let place = &scope.place;
    if !around.has_exception {
        let message = format!("{place}: `route = \"tunnel\"` needs a port with `exception`");
        let help = "the kernel's probes reach the tunnel through it: add exception = \"gw0\" to the [[port]], or write route = \"direct\"";
        r.problems.error(span.clone(), message, help);
    } else if let Some(via) = via
        && !around.exceptions.iter().any(|e| e == via)
    {
        let list = around.exceptions.join(", ");
        let message = format!("{place}: `route = \"tunnel\"` cannot leave by \"{via}\"");
        r.problems.error(
            span.clone(),
            message,
            format!("via must be an exception interface ({list}); leave it out"),
        );
    }
    if let Some(vip) = service.vip.filter(|vip| !vip.is_host()) {
        let message = format!("{place}: `route = \"tunnel\"` cannot probe the prefix {vip}");
        r.problems.error(span.clone(), message, "a probe goes to one address: write route = \"direct\"");
    }
}
