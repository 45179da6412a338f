//! `[service.health]`.

use super::kind::{AbsolutePath, Ascii, Hex, Number, Numbers, PAYLOAD_MAX, RawValue, Text, is_interface};
use super::read::{At, ReadValue, Reader, Scope, Span, shown};
use super::table::keys;
use super::word::words;
use crate::config::{Net, Payload};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use toml::{Spanned, Value};

/// Most entries of `expect_status`.
const STATUSES_MAX: usize = 16;

keys! {
    /// Health check of a service's backends.
    Health(HealthRaw, HealthFound) {
        /// What is probed; none: backends count as up.
        kind: CheckKind = CheckKind::None => Live;
        /// Between two probes of a backend.
        interval_ms: Number<u32, 10, 600_000> = INTERVAL_MS_DEFAULT, unit "milliseconds",
            help "milliseconds between two probes of a backend; leave it out for {default}" => Live;
        /// Until a probe has failed; not above interval_ms.
        timeout_ms: Number<u32, 10, 600_000>,
            default "500, or the interval if that is smaller", unit "milliseconds",
            help "milliseconds until a probe has failed; leave it out for 500" => Live;
        /// Failures in a row that make a backend down.
        fall: Number<u32, 1, 100> = FALL_DEFAULT,
            help "failures in a row until down; leave it out for {default}" => Live;
        /// Successes in a row that make a backend up.
        rise: Number<u32, 1, 100> = RISE_DEFAULT,
            help "successes in a row until up; leave it out for {default}" => Live;
        /// The probed port; must be given where the service takes any.
        port: Number<u16, 1, 65_535>,
            default "the service's", help "the probed port; leave it out for {default}" => Live;
        /// http, https.
        path: Text = "/".to_owned(),
            help "write what stands behind the host in a URL, beginning with /, like \"/healthz\"",
            check is_path
            => Live;
        /// http, https: Host header, a name or an address (IPv6 in brackets), with a port or without.
        host: Text, default "the VIP",
            help "write a name or an address, with a port where the server wants one, \
                like \"www.example.com\", \"10.0.2.21:8443\" or \"[2001:db8::10]:8443\"",
            check is_host => Live;
        /// http, https: 200, or [200, 204, "300-399"].
        expect_status: Statuses, default "200 to 399",
            help "write 200, or a list of statuses and ranges from 100 to 599 like [200, 204, \"300-399\"]"
            => Live;
        /// tcp, udp: what is sent, ASCII.
        send: Ascii => Live;
        /// tcp, udp: what is sent, as pairs of hexadecimal digits, for bytes that are no ASCII.
        send_hex: Hex => Live;
        /// What the answer (of http and https: the body) must contain, ASCII.
        expect: Ascii => Live;
        /// What the answer must contain, as pairs of hexadecimal digits.
        expect_hex: Hex => Live;
        /// https: TLS server name.
        sni: Text,
            default "host",
            help "write the name of the server, like \"www.example.com\"", check is_server_name
            => Live;
        /// https: PEM file of the certificate that is shown to a server that wants one; with key. Read by the
        /// machine, again every ten seconds.
        cert: AbsolutePath => Live;
        /// https: PEM file of its key.
        key: AbsolutePath => Live;
        /// https: PEM file of authorities, by one of which the server's certificate must be.
        ca: AbsolutePath, default "any certificate will do" => Live;
        /// udp: what no answer until the timeout means: fail, or pass, if only ICMP unreachable fails.
        silence: Silence = Silence::Fail => Live;
        /// Interface the probes leave by.
        via: Text, default "the first exception interface",
            help "interface names have 1 to 15 of the characters a-z A-Z 0-9 . _ -", check is_interface
            => Live;
        /// direct: to the backend's address; tunnel: to the VIP, encapsulated like the traffic.
        route: Route = Route::Direct => Live;
        /// exec: name of a command that the agents' own files define.
        command: Text<1, 63>,
            help "write the name of a [command] of the agents' files, like command = \"check-db\"",
            check is_command => Live;
        /// Who checks.
        checks: Checks, default "agent for services that agents may speak for, else machine" => Live;
    }
}

const INTERVAL_MS_DEFAULT: u32 = 1000;
const TIMEOUT_MS_DEFAULT: u32 = 500;
const FALL_DEFAULT: u32 = 3;
const RISE_DEFAULT: u32 = 2;

words! {
    /// Kinds of health check.
    pub(crate) enum CheckKind {
        None = "none",
        Tcp = "tcp",
        Http = "http",
        Https = "https",
        Udp = "udp",
        Exec = "exec",
    }

    /// What silence means.
    pub(crate) enum Silence {
        Fail = "fail",
        Pass = "pass",
    }

    /// Way of a probe.
    pub enum Route {
        /// To the backend's own address
        Direct = "direct",
        /// Encapsulated like the traffic
        Tunnel = "tunnel",
    }

    /// Who checks.
    #[derive(Hash)]
    pub enum Checks {
        /// Every machine
        Machine = "machine",
        /// The agent of the backend's host; while there is none, every machine
        Agent = "agent",
    }
}

/// `[service.health]`; times 10 to 600,000 ms, timeout not above interval.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Health {
    /// What is probed, with its parameters.
    pub kind: HealthKind,
    /// Default 1000.
    pub interval_ms: u32,
    /// Default 500 (or the interval, if smaller).
    pub timeout_ms: u32,
    /// Default 3; 1 to 100.
    pub fall: u32,
    /// Default 2; 1 to 100.
    pub rise: u32,
    /// Probed port; default the service's (must be given for any-port services).
    pub port: Option<u16>,
    /// Interface the probe leaves by; default the exception interface of the (first) port.
    pub via: Option<String>,
    /// direct: to the backend's address; tunnel: to the VIP through the traffic's own encapsulation.
    pub route: Route,
    /// Who checks; default agent where `[service.agents]` is, else machine.
    pub checks: Checks,
}

/// What is probed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum HealthKind {
    /// Always up.
    None,
    /// Connect; optionally send and expect a prefix of the answer.
    Tcp {
        /// Bytes to send.
        send: Option<Payload>,
        /// Bytes the answer must contain.
        expect: Option<Payload>,
    },
    /// GET.
    Http(HttpCheck),
    /// GET over TLS; the certificate is verified only where `ca` says by what.
    Https(HttpCheck),
    /// Datagram; passes on an answer (that contains `expect`), fails on ICMP unreachable, and on silence
    /// unless that passes.
    Udp {
        /// Bytes to send; default empty.
        send: Option<Payload>,
        /// Bytes the answer must contain.
        expect: Option<Payload>,
        /// No answer until the timeout passes: the server never answers what it does not understand. Only
        /// ICMP unreachable fails.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        silence_passes: bool,
    },
    /// A command on the backend's host, run by its agent; a machine that has to check by itself connects over
    /// TCP.
    Exec {
        /// Its name in the agent's file: never a command line.
        command: String,
    },
}

/// HTTP parameters.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HttpCheck {
    /// Default `/`.
    pub path: String,
    /// Host header, with a port where one is written; default the VIP.
    pub host: Option<String>,
    /// Accepted statuses; default 200 to 399.
    pub expect_status: Vec<(u16, u16)>,
    /// Bytes the body (first 64 KiB) must contain.
    pub expect: Option<Payload>,
    /// TLS server name; default `host`.
    pub sni: Option<String>,
    /// Of https; `None`: any certificate will do, and none is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Box<CheckFiles>>,
}

/// PEM files of an https check.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct CheckFiles {
    /// The certificate, and those above it, that is shown to a server that wants one; with `key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Authorities: the server's certificate must be by one of them, and for the TLS server name (else the
    /// VIP). `None`: any will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

impl Health {
    /// No probes: what a service without `[service.health]` has.
    pub(super) const fn unprobed(checks: Checks) -> Health {
        Health {
            kind: HealthKind::None,
            interval_ms: INTERVAL_MS_DEFAULT,
            timeout_ms: TIMEOUT_MS_DEFAULT,
            fall: FALL_DEFAULT,
            rise: RISE_DEFAULT,
            port: None,
            via: None,
            route: Route::Direct,
            checks,
        }
    }
}

/// What the checks need to know of the service.
pub(super) struct ServiceFacts {
    /// If it is good.
    pub(super) vip: Option<Net>,
    pub(super) port: u16,
    /// Agents may speak for it.
    pub(super) has_agents: bool,
}

/// The check of the service at `place`.
pub(super) fn health(
    r: &mut Reader<'_, '_>,
    place: &str,
    raw: Option<Spanned<HealthRaw>>,
    service: &ServiceFacts,
) -> Health {
    let by_default = if service.has_agents { Checks::Agent } else { Checks::Machine };
    let Some(raw) = raw else { return Health::unprobed(by_default) };
    let scope = Scope::new(format!("{place}: health"), raw.span());
    let mut raw = raw.into_inner();
    if !r.is_misspelt("kind")
        && let Some(kind) = kind_of(&raw)
    {
        keys_of_kind(r, &scope, kind, &raw);
    }
    let both = [("send", &mut raw.send, &mut raw.send_hex), ("expect", &mut raw.expect, &mut raw.expect_hex)];
    for (key, text, hex) in both {
        only_one(r, &scope, key, text, hex);
    }
    let found = HealthFound::read(r, &scope, raw);
    let kind = found.kind.or(CheckKind::None);
    let kind_ok = r.is_known("kind", &found.kind);
    let kind_span = found.kind.written().unwrap_or(scope.span.clone());
    let probe = Probe { scope: &scope, kind, kind_ok, kind_span: &kind_span };

    let interval_ms = found.interval_ms.or(INTERVAL_MS_DEFAULT);
    let timeout =
        found.timeout_ms.clone().check(|timeout, span| probe.ends_in_time(r, *timeout, interval_ms, span));
    if found.port.is_absent() && service.port == 0 && kind != CheckKind::None && !r.is_misspelt("port") {
        let message = format!("{}: `port` is missing: the service takes any port", scope.place);
        r.error(&kind_span, message, "say which port is probed, like port = 80");
    }
    probe.has_both_files(r, &found);
    probe.has_command(r, &found);
    if kind_ok {
        checked_by(r, &scope, kind, &kind_span, &found.checks, service.has_agents);
    }
    let checks = found.checks.or(by_default);
    let files_span = found.cert.written().or(found.key.written()).or(found.ca.written());
    if let (Some(span), Checks::Agent) = (files_span, checks) {
        let message =
            format!("{}: `cert`, `key` and `ca` are read by machines, and agents check", scope.place);
        let help = "write checks = \"machine\", or let agents run a command (kind exec)";
        r.error(&span, message, help);
    }
    let via = probe.via(r, &found.via);
    if let ReadValue::Given(Route::Tunnel, span) = &found.route
        && kind != CheckKind::None
    {
        tunnel(r, &scope, span, service, via.as_deref());
    }
    Health {
        interval_ms,
        timeout_ms: timeout.or(TIMEOUT_MS_DEFAULT.min(interval_ms)),
        fall: found.fall.or(FALL_DEFAULT),
        rise: found.rise.or(RISE_DEFAULT),
        port: found.port.get().copied(),
        via,
        route: found.route.or(Route::Direct),
        checks,
        kind: parameters(kind, found),
    }
}

/// The kind as far as it can be told before anything is checked; `None`: it is wrong.
fn kind_of(raw: &HealthRaw) -> Option<CheckKind> {
    let kinds =
        [CheckKind::None, CheckKind::Tcp, CheckKind::Http, CheckKind::Https, CheckKind::Udp, CheckKind::Exec];
    raw.kind.as_ref().map_or(Some(CheckKind::None), |cell| {
        kinds.into_iter().find(|kind| cell.get_ref().as_str() == Some(kind.as_str()))
    })
}

/// A kind with its own parameters.
fn parameters(kind: CheckKind, found: HealthFound) -> HealthKind {
    let send = found.send.ok().or(found.send_hex.ok());
    let expect = found.expect.ok().or(found.expect_hex.ok());
    let files = CheckFiles { cert: found.cert.ok(), key: found.key.ok(), ca: found.ca.ok() };
    let http = |expect| HttpCheck {
        path: found.path.ok().unwrap_or_else(|| "/".to_owned()),
        host: found.host.ok(),
        expect_status: found.expect_status.ok().unwrap_or_else(|| vec![(200, 399)]),
        expect,
        sni: found.sni.ok(),
        files: (files != CheckFiles::default()).then(|| Box::new(files)),
    };
    match kind {
        CheckKind::None => HealthKind::None,
        CheckKind::Tcp => HealthKind::Tcp { send, expect },
        CheckKind::Http => HealthKind::Http(http(expect)),
        CheckKind::Https => HealthKind::Https(http(expect)),
        CheckKind::Udp => {
            HealthKind::Udp { send, expect, silence_passes: found.silence.get() == Some(&Silence::Pass) }
        }
        CheckKind::Exec => HealthKind::Exec { command: found.command.ok().unwrap_or_default() },
    }
}

/// Reports bytes that are written as text and in digits, and takes both away.
fn only_one(r: &mut Reader<'_, '_>, scope: &Scope, key: &str, text: &mut RawValue, hex: &mut RawValue) {
    if let (Some(_), Some(cell)) = (&text, &hex) {
        let message = format!("{}: `{key}` and `{key}_hex` are both written", scope.place);
        r.error(&cell.span(), message, "keep the one that says all the bytes");
        (*text, *hex) = (None, None);
    }
}

/// Reports keys of another kind; for kind none, says that the general ones have no effect.
fn keys_of_kind(r: &mut Reader<'_, '_>, scope: &Scope, kind: CheckKind, raw: &HealthRaw) {
    use CheckKind::{Exec, Http, Https, Tcp, Udp};
    let owned: [(&str, &RawValue, &[CheckKind]); 13] = [
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
    let place = &scope.place;
    for (key, cell, owners) in owned {
        let Some(cell) = cell.as_ref().filter(|_| !owners.contains(&kind)) else { continue };
        let list = owners.iter().map(|k| k.as_str()).collect::<Vec<_>>().join(", ");
        let message =
            format!("{place}: `{key}` belongs to kind {list}; this check is of kind {}", kind.as_str());
        let first = owners.first().map_or("", |kind| kind.as_str());
        r.error(&cell.span(), message, format!("remove it, or write kind = \"{first}\""));
    }
    if kind == CheckKind::None {
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
            let message = format!("{place}: nothing is probed (kind none): backends count as up");
            let help = "add kind = \"tcp\", \"http\", \"https\", \"udp\" or \"exec\", or remove these keys";
            r.warning(&cell.span(), message, help);
        }
    }
}

/// A check as far as its kind is known.
struct Probe<'a> {
    scope: &'a Scope,
    kind: CheckKind,
    kind_ok: bool,
    kind_span: &'a Span,
}

impl Probe<'_> {
    fn ends_in_time(&self, r: &mut Reader<'_, '_>, timeout: u32, interval_ms: u32, span: &Span) -> bool {
        let good = timeout <= interval_ms;
        if !good {
            let place = &self.scope.place;
            let message =
                format!("{place}: `timeout_ms` {timeout} is longer than `interval_ms` {interval_ms}");
            let help = "a probe must end before the next begins: lower timeout_ms or raise interval_ms";
            r.error(span, message, help);
        }
        good
    }

    fn has_both_files(&self, r: &mut Reader<'_, '_>, found: &HealthFound) {
        let (cert, key) = (found.cert.written(), found.key.written());
        let has_both = cert.is_some() && key.is_some();
        for (missing, given) in [("key", cert), ("cert", key)] {
            if let (Some(span), false) = (given, has_both) {
                let place = &self.scope.place;
                let message = format!("{place}: `{missing}` is missing: a certificate is shown with its key");
                r.error(&span, message, format!("add {missing} = \"/etc/guideway/…\", or remove the other"));
            }
        }
    }

    fn has_command(&self, r: &mut Reader<'_, '_>, found: &HealthFound) {
        let is_missing = found.command.is_absent() && !r.is_misspelt("command");
        if self.kind_ok && self.kind == CheckKind::Exec && is_missing {
            let message = format!("{}: kind exec needs `command`", self.scope.place);
            r.error(self.kind_span, message, HealthRaw::command.help);
        }
    }

    /// The interface that is named, else the first one there is.
    fn via(&self, r: &mut Reader<'_, '_>, found: &ReadValue<String>) -> Option<String> {
        if !found.is_absent() || self.kind == CheckKind::None {
            return found.get().cloned();
        }
        if !r.others.has_exception && !r.is_misspelt("via") {
            let (place, kind) = (&self.scope.place, self.kind.as_str());
            let message = format!("{place}: kind {kind} needs `via`: there is no exception interface");
            let help = "name the kernel interface the probes leave by, like via = \"eth1\"; \
                or add exception = \"gw0\" to the [[port]]; or write kind = \"none\"";
            r.error(self.kind_span, message, help);
        }
        r.others.exceptions.first().cloned()
    }
}

/// The name of a command of kind exec.
fn is_command(r: &mut Reader<'_, '_>, at: &At<'_>, name: &str, span: &Span) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let good = name.len() <= 63 && name.bytes().all(known);
    if !good {
        let help = format!("{}; what it runs stands in those files alone", at.help());
        r.wrong(at, span, format_args!("{} is no name of a command", shown(name)), help);
    }
    good
}

/// Agents check only where they may speak, and a command is run by them alone.
fn checked_by(
    r: &mut Reader<'_, '_>,
    scope: &Scope,
    kind: CheckKind,
    kind_span: &Span,
    by: &ReadValue<Checks>,
    has_agents: bool,
) {
    let place = &scope.place;
    match by {
        ReadValue::Given(Checks::Agent, span) if !has_agents => {
            let message = format!("{place}: `checks = \"agent\"` needs [service.agents]");
            let help = "add [service.agents] with a token_file, or write checks = \"machine\"";
            r.error(span, message, help);
        }
        ReadValue::Given(Checks::Machine, span) if kind == CheckKind::Exec => {
            let message =
                format!("{place}: kind exec with `checks = \"machine\"`: commands are run by agents only");
            r.error(span, message, "remove checks, or choose another kind");
        }
        ReadValue::Absent if kind == CheckKind::Exec && !has_agents => {
            let message =
                format!("{place}: kind exec needs [service.agents]: commands are run by agents only");
            let help = "add [service.agents] with a token_file, or choose another kind";
            r.error(kind_span, message, help);
        }
        _ => {}
    }
}

fn is_path(r: &mut Reader<'_, '_>, at: &At<'_>, path: &str, span: &Span) -> bool {
    let good = path.len() <= PAYLOAD_MAX && is_request_path(path);
    if !good {
        let help = if path.contains('#') {
            "what follows a # is for browsers and never sent: end the path before it, or write %23".to_owned()
        } else {
            format!("{}; other characters as %20", at.help())
        };
        r.wrong(at, span, format_args!("{} is no path of a request", shown(path)), help);
    }
    good
}

/// Path and query as they stand in a request (RFC 3986 section 3.3 and 3.4): what is no such character would
/// be refused, or cut off, when it is sent.
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

fn is_host(r: &mut Reader<'_, '_>, at: &At<'_>, text: &str, span: &Span) -> bool {
    let good = is_authority(text);
    if !good {
        let help = if text.parse::<Ipv6Addr>().is_ok() {
            format!("put an IPv6 address in brackets: \"[{text}]\"")
        } else {
            at.help()
        };
        r.wrong(at, span, format_args!("{} is no host", shown(text)), help);
    }
    good
}

fn is_server_name(r: &mut Reader<'_, '_>, at: &At<'_>, text: &str, span: &Span) -> bool {
    let good = is_dns_name(text);
    if !good {
        let help = if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
            "an address is never sent as server name (RFC 6066 section 3): write a name, or leave it out"
        } else if text.contains('*') {
            "a certificate may be for *.example.com, a client asks for one name: write that"
        } else {
            at.key.help
        };
        r.wrong(at, span, format_args!("{} is no name of a server", shown(text)), help);
    }
    good
}

/// A name or an address, with a port or without (RFC 9110 section 7.2).
fn is_authority(text: &str) -> bool {
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

/// Labels of letters, digits, hyphens and underscores (RFC 1123 section 2.1); the last is not all digits,
/// which would be an address.
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

/// Accepted statuses, first and last of each range.
pub(crate) struct Statuses;

impl super::kind::ValueKind for Statuses {
    type Value = Vec<(u16, u16)>;

    fn label() -> String {
        "status, or list of statuses and ranges".to_owned()
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        let one = || Numbers::schema(100, 599, "^[1-5][0-9][0-9](-[1-5][0-9][0-9])?$");
        let list = json_schema!({ "type": "array", "items": one(), "minItems": 1, "maxItems": STATUSES_MAX });
        json_schema!({ "anyOf": [one(), list] })
    }

    /// Of a list the good ones.
    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<Self::Value> {
        let items = match value {
            Value::Array(items) => items,
            one => vec![one],
        };
        if items.is_empty() || items.len() > STATUSES_MAX {
            let help = format!("at least 1, at most {STATUSES_MAX}; {}", at.help());
            r.wrong(at, span, format_args!("has {} entries", items.len()), help);
            return None;
        }
        let found = items.iter().filter_map(|item| {
            let written = Numbers::of(item, (100, 599)).map_err(|item| {
                r.wrong(at, span, format_args!("{item} is no status or range of statuses"), at.help());
            });
            written.ok()
        });
        Some(found.collect())
    }
}

/// A probe through the tunnel is sent by the kernel to the VIP and comes to us by an exception port.
fn tunnel(r: &mut Reader<'_, '_>, scope: &Scope, span: &Span, service: &ServiceFacts, via: Option<&str>) {
    let place = &scope.place;
    if !r.others.has_exception {
        let message = format!("{place}: `route = \"tunnel\"` needs a port with `exception`");
        let help = "the kernel's probes reach the tunnel through it: \
            add exception = \"gw0\" to the [[port]], or write route = \"direct\"";
        r.error(span, message, help);
    } else if let Some(via) = via
        && !r.others.exceptions.iter().any(|e| e == via)
    {
        let list = r.others.exceptions.join(", ");
        let message = format!("{place}: `route = \"tunnel\"` cannot leave by \"{via}\"");
        r.error(span, message, format!("via must be an exception interface ({list}); leave it out"));
    }
    if let Some(vip) = service.vip.filter(|vip| !vip.is_host()) {
        let message = format!("{place}: `route = \"tunnel\"` cannot probe the prefix {vip}");
        r.error(span, message, "a probe goes to one address: write route = \"direct\"");
    }
}
