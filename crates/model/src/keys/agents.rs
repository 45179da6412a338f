//! `[agents]`, and what of a service agents may speak for.

use super::api::{Metrics, Tls, tls};
use super::kind::{AbsolutePath, List, Listen, Number, Numbers, Prefix, Sub, Text, ValueKind};
use super::read::{At, ReadValue, Reader, Scope, Span, shown};
use super::table::table;
use crate::config::Api;
use schemars::{Schema, SchemaGenerator};
use std::net::SocketAddr;
use std::path::PathBuf;
use toml::{Spanned, Value};

table! {
    /// Where agents of backend hosts connect; without it there are none.
    pub struct Agents(AgentsRaw, AgentsFound) {
        /// TCP listener, address:port.
        listen: Listen = SocketAddr::from(([127, 0, 0, 1], 7481)),
            required "write where agents connect, like listen = \"10.9.0.1:7481\", or remove [agents]"
            => Restart;
        /// Address:port that agents are told to connect to: an address of this machine, never a wildcard.
        advertise: Listen = listen, default "listen", check is_an_address => Live;
        /// Certificate and key of the listener; with client_ca agents must present a certificate.
        tls: Sub<Tls>, default "no TLS" => Restart;
        /// Connections at once; further ones are closed.
        connections: Number<u32, 1, 65_536> = 4096, help "agents at once; leave it out for {default}" => Live;
    }
}

table! {
    /// Agents may speak for the service's backends.
    #[derive(Eq)]
    pub struct ServiceAgents(ServiceAgentsRaw, ServiceAgentsFound) {
        /// File whose first line, 16 to 256 bytes, agents must know.
        token_file: AbsolutePath = PathBuf::new(),
            required "write 16 to 256 random bytes into a file (openssl rand -hex 32), name it here, \
                and give it to the backends' hosts"
            => Live;
        /// Silence after which an agent's backends are suspect.
        lease_ms: Number<u32, 500, 60_000> = 3000, unit "milliseconds",
            help "milliseconds of silence until backends are suspect; leave it out for {default}" => Live;
        register: Sub<Template> => Live;
    }
}

table! {
    /// What may register; without it nothing may.
    #[derive(Eq)]
    pub struct Template(TemplateRaw, TemplateFound) {
        /// Prefixes that hold every address that may register.
        addresses: List<Prefix, 1, 256> = Vec::new(),
            required "write the prefixes that backends come from, like addresses = [\"10.1.0.0/16\"]" => Live;
        /// What names look like, with at most one *.
        names: Text<1, 64> = "*".to_owned(),
            help "write a name, with one * for what may vary, like \"web-*\"; leave it out for any name",
            check is_pattern => Live;
        /// Ports a registration may ask to be checked, like [80, "8000-8999"].
        ports: List<Ports, 0, 64> = Vec::new(), default "none but the service's",
            help "write ports from 1 to 65535 and ranges of them, like [80, \"8000-8999\"]" => Live;
        /// Most registered backends at once.
        limit: Number<u32, 1, 65_535> = 256, help "at once; leave it out for {default}" => Live;
        /// Largest weight.
        weight_max: Number<u32, 1, 65_535> = 100,
            help "largest weight that may be asked for; leave it out for {default}" => Live;
    }
}

/// Ports, first and last.
pub(crate) struct Ports;

impl ValueKind for Ports {
    type Value = (u16, u16);

    fn label() -> String {
        "port or range of ports".to_owned()
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        Numbers::schema(1, 65_535, "^[0-9]{1,5}(-[0-9]{1,5})?$")
    }

    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<(u16, u16)> {
        let found = Numbers::of(&value, (1, u16::MAX)).map_err(|written| {
            r.wrong(at, span, format_args!("has {written}, which is no port or range of ports"), at.help());
        });
        found.ok()
    }
}

fn is_pattern(r: &mut Reader<'_, '_>, at: &At<'_>, names: &str, span: &Span) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"._-*".contains(&b);
    let good = names.len() <= 64 && names.bytes().all(known) && names.matches('*').count() <= 1;
    if !good {
        r.wrong(at, span, format_args!("{} is no pattern of names", shown(names)), at.help());
    }
    good
}

fn is_an_address(r: &mut Reader<'_, '_>, at: &At<'_>, address: &SocketAddr, span: &Span) -> bool {
    let is_wildcard = address.ip().is_unspecified();
    if is_wildcard {
        let help = "write one of this machine's own addresses and the port";
        r.wrong(at, span, format_args!("{address} is no address that agents can connect to"), help);
    }
    !is_wildcard
}

pub(super) fn agents(
    r: &mut Reader<'_, '_>,
    raw: Option<Spanned<AgentsRaw>>,
    api: &Api,
    metrics: &Metrics,
) -> Option<Agents> {
    let raw = raw?;
    let scope = Scope::new("agents", raw.span());
    let mut found = AgentsFound::read(r, &scope, raw.into_inner());
    if let ReadValue::Given(listen, span) = &found.listen {
        let others = [("api.listen", api.listen), ("metrics.listen", metrics.listen)];
        if let Some((other, _)) = others.into_iter().find(|(_, other)| *other == Some(*listen)) {
            let message = format!("agents: `listen` {listen} is also {other}");
            r.error(span, message, "choose another port for one; 7481 is usual for agents");
        }
        if listen.ip().is_unspecified() && found.advertise.is_absent() && !r.is_misspelt("advertise") {
            let message = format!("agents: `listen` {listen} is every address, so `advertise` is needed");
            let help = "say which one agents connect to, like advertise = \"10.9.0.1:7481\"";
            r.error(span, message, help);
        }
    }
    found.tls.value = found.tls.raw.take().map(|raw| tls(r, "agents.tls", raw));
    Some(found.finish())
}

/// `[service.agents]` of the service at `place`.
pub(super) fn of_service(
    r: &mut Reader<'_, '_>,
    place: &str,
    raw: Option<Spanned<ServiceAgentsRaw>>,
) -> Option<ServiceAgents> {
    let raw = raw?;
    let scope = Scope::new(format!("{place}: agents"), raw.span());
    if !r.others.has_agents {
        let message = format!("{place}: `agents` needs [agents]: nothing listens for them");
        let help = "add [agents] with listen = \"10.9.0.1:7481\", or remove [service.agents]";
        r.error(&scope.span, message, help);
    }
    let mut found = ServiceAgentsFound::read(r, &scope, raw.into_inner());
    found.register.value = found.register.raw.take().map(|raw| {
        let scope = Scope::new(format!("{}.register", scope.place), raw.span());
        TemplateFound::read(r, &scope, raw.into_inner()).finish()
    });
    Some(found.finish())
}
