//! `[cluster]`.

use super::Span;
use super::machine::{KEY_HELP, is_published, key};
#[cfg(feature = "negative-controls")]
use super::read::Read;
use super::read::{Reader, Scope, shown};
use crate::config::{Cluster, LeftOut, Machine, Service, StoreTls, StoreUser};
use crate::raw::{self, Cell};
use std::net::IpAddr;
use std::path::PathBuf;
use toml::Spanned;

/// Largest number of endpoints.
const ENDPOINTS_MAX: usize = 16;
/// UDP port of messages between machines.
const PORT_DEFAULT: u16 = 7480;

pub(super) fn cluster(
    r: &mut Reader<'_, '_>,
    raw: Option<Spanned<raw::Cluster>>,
    machine: &Machine,
) -> Option<Cluster> {
    let raw = raw?;
    let scope = Scope::new("cluster", raw.span());
    let raw = raw.into_inner();
    let store = r.choice(&scope, "store", raw.store, &[("etcd", ())]);
    if store.is_absent() {
        if !r.misspelt.contains("store") {
            let message = "cluster: nothing here has an effect without `store`: the machine is alone";
            r.problems.warning(
                scope.span,
                message,
                "add store = \"etcd\" and endpoints, or remove [cluster]",
            );
        }
        return None;
    }
    let no_endpoints = raw.endpoints.as_ref().is_none_or(|list| list.get_ref().is_empty());
    let help = "write the members of the etcd cluster, like endpoints = [\"https://10.0.0.5:2379\"]";
    let written = r.texts(&scope, "endpoints", raw.endpoints, ENDPOINTS_MAX, help);
    if no_endpoints {
        r.missing(&scope, "endpoints", help);
    }
    let mut secure = None;
    let mut endpoints = Vec::new();
    for (text, span) in written {
        let Some(is_secure) = endpoint(r, &text, &span, help) else { continue };
        if secure.is_some_and(|secure| secure != is_secure) {
            let message = "cluster: `endpoints` mix http and https";
            r.problems.error(span, message, "all members of an etcd cluster speak the same: write all alike");
            continue;
        }
        secure = Some(is_secure);
        endpoints.push(text);
    }
    let tls_span = raw.tls.as_ref().map(Spanned::span);
    let tls = raw.tls.and_then(|raw| tls(r, raw));
    match (secure, tls_span) {
        (Some(false), Some(span)) => {
            let message = "cluster: `tls` has no effect on http endpoints";
            r.problems.error(span, message, "write https:// in endpoints, or remove tls");
        }
        (Some(true), None) => {
            let message = "cluster: https endpoints need `tls`";
            let help = "add tls = { ca = \"/etc/guideway/etcd-ca.pem\" }, the certificate that signed the endpoints'";
            r.problems.error(scope.span.clone(), message, help);
        }
        _ => {}
    }
    let user_span = raw.user.as_ref().map(Spanned::span);
    let user = raw.user.and_then(|raw| user(r, raw));
    if let (Some(false), Some(span)) = (secure, user_span.clone()) {
        let message = "cluster: the password of `user` travels in the clear to http endpoints";
        r.problems.warning(span, message, "write https:// in endpoints and add tls");
    }
    let has_certificate = tls.as_ref().is_some_and(|tls| tls.identity.is_some());
    if let (Some(is_secure), None, false) = (secure, &user_span, has_certificate) {
        let message = "cluster: without `user` everyone who reaches the endpoints can change services and plan of the cluster";
        let help = if is_secure {
            "let etcd ask for a client certificate, and name it as cert and key in tls; or add user = { name = \"guideway\", password_file = \"…\" }"
        } else {
            "write https:// in endpoints and add tls, and user = { name = \"guideway\", password_file = \"…\" } (docs/operations.md says how etcd gets it)"
        };
        r.problems.warning(scope.span.clone(), message, help);
    }
    let port_help = format!("leave it out for {PORT_DEFAULT}");
    let port = r.number(&scope, "port", raw.port, (1, 65_535), &port_help).or(PORT_DEFAULT);
    let accepted_span = raw.sync_key_accepted.as_ref().map(Spanned::span);
    let sync_key = secret(r, &scope, "sync_key", raw.sync_key).unwrap_or(machine.cluster_key);
    let sync_key_accepted = secret(r, &scope, "sync_key_accepted", raw.sync_key_accepted);
    if sync_key_accepted == Some(sync_key) {
        let message = "cluster: `sync_key_accepted` is the key in use";
        let help = "write the key that the cluster changes to or comes from, or remove it";
        r.problems.warning(accepted_span.unwrap_or(0..0), message, help);
    }
    #[cfg(feature = "negative-controls")]
    let left_out = LeftOut {
        sync: is_off(r, &scope, "sync", raw.sync, "flows break when a table changes"),
        export: is_off(r, &scope, "export", raw.export, "silent flows may break when a table changes"),
    };
    #[cfg(not(feature = "negative-controls"))]
    let left_out = LeftOut::default();
    if machine.address.is_none() && machine.address6.is_none() {
        let help = "add address = \"…\" to [machine]: the other machines send their messages there";
        r.problems.error(scope.span, "cluster: `store` needs machine.address or machine.address6", help);
    }
    Some(Cluster { endpoints, tls, user, port, sync_key, sync_key_accepted, left_out })
}

/// A key that not everyone knows.
fn secret(r: &mut Reader<'_, '_>, scope: &Scope, name: &str, cell: Cell) -> Option<[u8; 16]> {
    let read = key(r, scope, name, cell).and_then(|key, span| {
        if !is_published(&key) {
            return Some(key);
        }
        let message = format!(
            "cluster: `{name}` is a key that is published with this program: anyone could speak as a machine"
        );
        r.problems.error(span.clone(), message, KEY_HELP);
        None
    });
    read.ok()
}

/// The address in an endpoint; `None`: it has a name, or is none.
pub(super) fn address_of(endpoint: &str) -> Option<IpAddr> {
    let (_, rest) = endpoint.split_once("://")?;
    let (host, _) = rest.rsplit_once(':')?;
    host.trim_matches(['[', ']']).parse().ok()
}

/// Whether an endpoint is https.
fn endpoint(r: &mut Reader<'_, '_>, text: &str, span: &Span, help: &str) -> Option<bool> {
    let (is_secure, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => (false, ""),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let well = rest.rsplit_once(':').is_some_and(|(host, port)| {
        let ok = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b);
        !host.is_empty() && host.bytes().all(ok) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if !well {
        let message = format!("cluster: `endpoints` has {}, which is no http://HOST:PORT", shown(text));
        r.problems.error(span.clone(), message, help);
        return None;
    }
    Some(is_secure)
}

/// Whether it is off, which deserves a warning that says what then happens.
#[cfg(feature = "negative-controls")]
fn is_off(r: &mut Reader<'_, '_>, scope: &Scope, key: &str, cell: Cell, what: &str) -> bool {
    let read = r.choice(scope, key, cell, &[("on", false), ("off", true)]);
    if let Read::Given(true, span) = &read {
        let message = format!("cluster: with `{key}` off {what}");
        r.problems.warning(span.clone(), message, "remove the key; it is for tests");
    }
    read.or(false)
}

fn tls(r: &mut Reader<'_, '_>, raw: Spanned<raw::StoreTls>) -> Option<StoreTls> {
    let scope = Scope::new("cluster.tls", raw.span());
    let raw = raw.into_inner();
    let ca = r.path(&scope, "ca", raw.ca);
    if ca.is_absent() {
        r.missing(&scope, "ca", "tls needs the PEM file of the certificate that signed the endpoints'");
    }
    let (cert, key) = (r.path(&scope, "cert", raw.cert), r.path(&scope, "key", raw.key));
    if cert.is_absent() != key.is_absent() {
        let message = "cluster.tls: `cert` and `key` go together";
        r.problems.error(scope.span, message, "write both, or neither");
    }
    let identity = cert.ok().zip(key.ok()).map(|(cert, key)| (cert.into(), key.into()));
    Some(StoreTls { ca: ca.ok()?.into(), identity })
}

fn user(r: &mut Reader<'_, '_>, raw: Spanned<raw::StoreUser>) -> Option<StoreUser> {
    let scope = Scope::new("cluster.user", raw.span());
    let raw = raw.into_inner();
    let help = "write user = { name = \"guideway\", password_file = \"/etc/guideway/etcd-password\" }";
    let name = r.text(&scope, "name", raw.name, help);
    let file = r.path(&scope, "password_file", raw.password_file);
    for (key, is_absent) in [("name", name.is_absent()), ("password_file", file.is_absent())] {
        if is_absent {
            r.missing(&scope, key, help);
        }
    }
    Some(StoreUser { name: name.ok()?, password_file: PathBuf::from(file.ok()?) })
}

/// A cluster remembers slots by itself, on all machines alike; what a service remembers on one machine alone would contradict it.
pub(super) fn tracks_every_flow(r: &mut Reader<'_, '_>, span: &Span, services: &[Service]) {
    if let Some(service) = services.iter().find(|service| service.is_stateless()) {
        let message = format!("cluster: service \"{}\" has `state = \"exceptions\"`", service.name);
        let help = "write state = \"all\": in a cluster every flow is tracked where its packets arrive";
        r.problems.error(span.clone(), message, help);
    }
}
