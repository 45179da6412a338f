//! `[agents]` and `[service.agents]`.

use super::Span;
use super::machine::{listen, tls};
use super::read::{Read, Reader, Scope, shown};
use crate::config::{Agents, Api, Metrics, Net, ServiceAgents, Template};
use crate::raw::{self, Cell, List};
use std::net::SocketAddr;
use std::path::PathBuf;
use toml::{Spanned, Value};

const CONNECTIONS: (i64, i64) = (1, 65_536);
const CONNECTIONS_DEFAULT: u32 = 4096;
const LEASE_MS: (i64, i64) = (500, 60_000);
const LEASE_MS_DEFAULT: u32 = 3000;
/// Largest number of prefixes of a template.
const ADDRESSES_MAX: usize = 256;
/// Largest number of ports and ranges of a template.
const PORTS_MAX: usize = 64;
const REGISTERED: (i64, i64) = (1, 65_535);
const LIMIT_DEFAULT: u32 = 256;
const WEIGHT_MAX_DEFAULT: u32 = 100;

pub(super) fn agents(
    r: &mut Reader<'_, '_>,
    raw: Option<Spanned<raw::Agents>>,
    api: &Api,
    metrics: &Metrics,
) -> Option<Agents> {
    let raw = raw?;
    let scope = Scope::new("agents", raw.span());
    let raw = raw.into_inner();
    let address = listen(r, &scope, "listen", raw.listen);
    if address.is_absent() {
        let help = "write where agents connect, like listen = \"10.9.0.1:7481\", or remove [agents]";
        r.missing(&scope, "listen", help);
    }
    let others = [("api.listen", api.listen), ("metrics.listen", metrics.listen)];
    if let Read::Given(address, span) = &address
        && let Some((other, _)) = others.into_iter().find(|(_, other)| *other == Some(*address))
    {
        let message = format!("agents: `listen` {address} is also {other}");
        r.problems.error(span.clone(), message, "choose another port for one; 7481 is usual for agents");
    }
    let advertise_is_misspelt = r.misspelt.contains("advertise");
    let advertise = listen(r, &scope, "advertise", raw.advertise).and_then(|address, span| {
        if !address.ip().is_unspecified() {
            return Some(address);
        }
        let message = format!("agents: `advertise` {address} is no address that agents can connect to");
        r.problems.error(span.clone(), message, "write one of this machine's own addresses and the port");
        None
    });
    if let (Read::Given(listen, span), true) = (&address, advertise.is_absent() && !advertise_is_misspelt)
        && listen.ip().is_unspecified()
    {
        let message = format!("agents: `listen` {listen} is every address, so `advertise` is needed");
        let help = "say which one agents connect to, like advertise = \"10.9.0.1:7481\"";
        r.problems.error(span.clone(), message, help);
    }
    let tls = raw.tls.and_then(|raw| tls(r, "agents.tls", raw));
    let help = format!("agents at once; leave it out for {CONNECTIONS_DEFAULT}");
    let connections = r.number(&scope, "connections", raw.connections, CONNECTIONS, &help);
    let listen = address.or(SocketAddr::from(([127, 0, 0, 1], 7481)));
    Some(Agents {
        listen,
        advertise: advertise.or(listen),
        tls,
        connections: connections.or(CONNECTIONS_DEFAULT),
    })
}

/// `[service.agents]` of the service at `place`.
pub(super) fn of_service(
    r: &mut Reader<'_, '_>,
    place: &str,
    raw: Option<Spanned<raw::ServiceAgents>>,
    has_listener: bool,
) -> Option<ServiceAgents> {
    let raw = raw?;
    let scope = Scope::new(format!("{place}: agents"), raw.span());
    let raw = raw.into_inner();
    if !has_listener {
        let message = format!("{place}: `agents` needs [agents]: nothing listens for them");
        let help = "add [agents] with listen = \"10.9.0.1:7481\", or remove [service.agents]";
        r.problems.error(scope.span.clone(), message, help);
    }
    let token_file = r.path(&scope, "token_file", raw.token_file);
    if token_file.is_absent() {
        let help = "write 16 to 256 random bytes into a file (openssl rand -hex 32), name it here, and give it to the backends' hosts";
        r.missing(&scope, "token_file", help);
    }
    let help =
        format!("milliseconds of silence until backends are suspect; leave it out for {LEASE_MS_DEFAULT}");
    let lease_ms = r.number(&scope, "lease_ms", raw.lease_ms, LEASE_MS, &help).or(LEASE_MS_DEFAULT);
    let register = raw.register.map(|raw| template(r, place, raw));
    Some(ServiceAgents { token_file: PathBuf::from(token_file.or(String::new())), lease_ms, register })
}

fn template(r: &mut Reader<'_, '_>, place: &str, raw: Spanned<raw::Register>) -> Template {
    let scope = Scope::new(format!("{place}: agents.register"), raw.span());
    let raw = raw.into_inner();
    let help = "write the prefixes that backends come from, like addresses = [\"10.1.0.0/16\"]";
    let no_addresses = raw.addresses.as_ref().is_none_or(|list| list.get_ref().is_empty());
    let written = r.texts(&scope, "addresses", raw.addresses, ADDRESSES_MAX, help);
    if no_addresses {
        r.missing(&scope, "addresses", help);
    }
    let addresses = written.into_iter().filter_map(|(text, span)| prefix(r, &scope, &text, &span, help));
    let addresses = addresses.collect();
    let help = format!("at once; leave it out for {LIMIT_DEFAULT}");
    let limit = r.number(&scope, "limit", raw.limit, REGISTERED, &help).or(LIMIT_DEFAULT);
    let help = format!("largest weight that may be asked for; leave it out for {WEIGHT_MAX_DEFAULT}");
    let weight_max = r.number(&scope, "weight_max", raw.weight_max, REGISTERED, &help).or(WEIGHT_MAX_DEFAULT);
    Template {
        addresses,
        names: names(r, &scope, raw.names),
        ports: ports(r, &scope, raw.ports),
        limit,
        weight_max,
    }
}

fn prefix(r: &mut Reader<'_, '_>, scope: &Scope, text: &str, span: &Span, help: &str) -> Option<Net> {
    let net = r.net(&scope.place, "addresses", text, span, true, help)?;
    if net.network() == net.addr {
        return Some(net);
    }
    let message = format!("{}: `addresses` {net} has bits set behind the prefix", scope.place);
    let right = Net { addr: net.network(), len: net.len };
    r.problems.error(
        span.clone(),
        message,
        format!("write \"{right}\" for the prefix or \"{}\" for the single address", net.addr),
    );
    None
}

fn names(r: &mut Reader<'_, '_>, scope: &Scope, cell: Cell) -> String {
    let help = "write a name, with one * for what may vary, like \"web-*\"; leave it out for any name";
    let read = r.text(scope, "names", cell, help).and_then(|names, span| {
        let known = |b: u8| b.is_ascii_alphanumeric() || b"._-*".contains(&b);
        if names.len() <= 64 && names.bytes().all(known) && names.matches('*').count() <= 1 {
            return Some(names);
        }
        let message = format!("{}: `names` {} is no pattern of names", scope.place, shown(&names));
        r.problems.error(span.clone(), message, help);
        None
    });
    read.or("*".to_owned())
}

fn ports(r: &mut Reader<'_, '_>, scope: &Scope, list: List) -> Vec<(u16, u16)> {
    let help = "write ports from 1 to 65535 and ranges of them, like [80, \"8000-8999\"]";
    let mut ports = Vec::new();
    for item in r.items(scope, "ports", list, PORTS_MAX).unwrap_or_default() {
        let range = match item.get_ref() {
            Value::Integer(port) => u16::try_from(*port).ok().map(|port| (port, port)),
            Value::String(text) => match text.split_once('-') {
                Some((first, last)) => first.parse().ok().zip(last.parse().ok()),
                None => text.parse().ok().map(|port| (port, port)),
            },
            _ => None,
        };
        match range {
            Some((first, last)) if 1 <= first && first <= last => ports.push((first, last)),
            _ => {
                let written = shown(&item.get_ref().to_string().replace('"', ""));
                let message =
                    format!("{}: `ports` has {written}, which is no port or range of ports", scope.place);
                r.problems.error(item.span(), message, help);
            }
        }
    }
    ports
}
