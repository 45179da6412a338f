//! `[cluster]`.

use super::kind::{AbsolutePath, List, Number, Secret, Sub, Text};
use super::machine::{Machine, is_published};
use super::read::{At, ReadValue, Reader, Scope, Span, shown};
use super::service::{SERVICES_MAX, Service};
use super::slots::MAGLEV_SIZE_DEFAULT;
use super::table::{keys, table};
use super::word::words;
use crate::text::{SERVICES_TEXT_MAX, services_of};
use serde::Serialize;
use std::net::IpAddr;
use std::path::PathBuf;
use toml::Spanned;

/// Slots of all services of a cluster: as many services as there can be, with `maglev_size` as it is by
/// default.
pub const CLUSTER_SLOTS_MAX: u64 = SERVICES_MAX as u64 * MAGLEV_SIZE_DEFAULT as u64;

table! {
    /// The cluster this machine is in; without it the machine is alone.
    #[derive(Eq)]
    pub struct Cluster(ClusterRaw, ClusterFound) given(cluster_key: [u8; 16]) {
        /// Its members, http://HOST:PORT or https://HOST:PORT, all of one kind.
        endpoints: List<Text, 1, 16> = Vec::new(),
            help "write the members of the etcd cluster, like endpoints = [\"https://10.0.0.5:2379\"]"
            => Restart;
        /// Certificates for https endpoints, which are not accepted without.
        tls: Sub<StoreTls> => Restart;
        /// Who logs in.
        user: Sub<StoreUser>, default "nobody" => Restart;
        /// UDP port of messages between the machines, at machine.address.
        port: Number<u16, 1, 65_535> = 7480, help "leave it out for {default}" => Restart;
        /// Secret that the tags of these messages are made with.
        sync_key: Secret = cluster_key, default "machine.cluster_key", check is_secret => Live;
        /// A second secret whose tags are taken, while sync_key changes.
        sync_key_accepted: Secret, default "none", check is_secret => Live;
    }
    read {
        /// What holds the cluster's state; without it the machine is alone.
        store: Store => Restart;
        /// Off leaves every flow to the table in force.
        #[cfg(feature = "negative-controls")]
        sync: Switch = Switch::On => Restart;
        /// Off tells nobody of the flows of slots that change.
        #[cfg(feature = "negative-controls")]
        export: Switch = Switch::On => Restart;
    }
    extra {
        /// Nothing, but in a build for negative controls.
        #[serde(skip)]
        left_out: LeftOut,
    }
}

words! {
    /// What can hold a cluster's state.
    pub(crate) enum Store {
        Etcd = "etcd",
    }
}

#[cfg(feature = "negative-controls")]
words! {
    /// On or off.
    pub(crate) enum Switch {
        On = "on",
        Off = "off",
    }
}

#[cfg(all(feature = "negative-controls", not(debug_assertions)))]
compile_error!(
    "the feature negative-controls lets [cluster] lose flows and is for tests; \
     build without it what is to be released: \
     cargo build --release, without --workspace"
);

/// What the machines of a cluster do not do for their flows. Only a build with the feature
/// `negative-controls` has keys for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LeftOut {
    /// `sync = "off"`: every flow is left to the table in force.
    #[cfg(feature = "negative-controls")]
    pub sync: bool,
    /// `export = "off"`: nobody is told of the flows of slots that change.
    #[cfg(feature = "negative-controls")]
    pub export: bool,
}

#[cfg(feature = "negative-controls")]
impl LeftOut {
    /// Whether flows are left to the table in force.
    pub const fn sync(self) -> bool {
        self.sync
    }

    /// Whether nobody is told of the flows of slots that change.
    pub const fn export(self) -> bool {
        self.export
    }
}

#[cfg(not(feature = "negative-controls"))]
impl LeftOut {
    /// Whether flows are left to the table in force.
    pub const fn sync(self) -> bool {
        false
    }

    /// Whether nobody is told of the flows of slots that change.
    pub const fn export(self) -> bool {
        false
    }
}

/// `tls = { ca = "…", cert = "…", key = "…" }`
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct StoreTls {
    /// PEM certificates of those who sign the endpoints'.
    pub ca: PathBuf,
    /// PEM chain and key that show who we are.
    pub identity: Option<(PathBuf, PathBuf)>,
}

keys! {
    /// TLS files of the way to the store, PEM.
    StoreTls(StoreTlsRaw, StoreTlsFound) {
        /// Certificates of those who sign the endpoints'.
        ca: AbsolutePath,
            required "tls needs the PEM file of the certificate that signed the endpoints'" => Restart;
        /// Our certificate chain; goes with key.
        cert: AbsolutePath => Restart;
        /// Our key.
        key: AbsolutePath => Restart;
    }
}

table! {
    /// A user of the store.
    #[derive(Eq)]
    pub struct StoreUser(StoreUserRaw, StoreUserFound) {
        /// Name.
        name: Text = String::new(),
            required "write user = { name = \"guideway\", password_file = \"/etc/guideway/etcd-password\" }"
            => Restart;
        /// File whose first line is the password.
        password_file: AbsolutePath = PathBuf::new(),
            required "write user = { name = \"guideway\", password_file = \"/etc/guideway/etcd-password\" }"
            => Restart;
    }
}

pub(super) fn cluster(
    r: &mut Reader<'_, '_>,
    raw: Option<Spanned<ClusterRaw>>,
    machine: &Machine,
) -> Option<Cluster> {
    let raw = raw?;
    let scope = Scope::new("cluster", raw.span());
    let raw = raw.into_inner();
    if raw.store.is_none() {
        if !r.is_misspelt("store") {
            let message = "cluster: nothing here has an effect without `store`: the machine is alone";
            r.warning(&scope.span, message, "add store = \"etcd\" and endpoints, or remove [cluster]");
        }
        return None;
    }
    let mut found = ClusterFound::read(r, &scope, raw);
    let secure = endpoints(r, &scope, &mut found.endpoints);
    store_tls(r, &scope, secure, &mut found);
    store_user(r, &scope, secure, &mut found);
    if let (ReadValue::Given(accepted, span), key) =
        (&found.sync_key_accepted, found.sync_key.or(machine.cluster_key))
        && *accepted == key
    {
        let help = "write the key that the cluster changes to or comes from, or remove it";
        r.warning(span, "cluster: `sync_key_accepted` is the key in use", help);
    }
    let left_out = left_out(r, &found);
    if machine.address.is_none() && machine.address6.is_none() {
        let help = "add address = \"…\" to [machine]: the other machines send their messages there";
        r.error(&scope.span, "cluster: `store` needs machine.address or machine.address6", help);
    }
    Some(found.finish(machine.cluster_key, left_out))
}

/// Keeps the good ones. Whether they are https; `None`: there is none.
fn endpoints(
    r: &mut Reader<'_, '_>,
    scope: &Scope,
    written: &mut ReadValue<Vec<(String, Span)>>,
) -> Option<bool> {
    let key = &ClusterRaw::endpoints;
    if written.is_absent() || written.get().is_some_and(Vec::is_empty) {
        r.missing(scope, key);
    }
    let mut secure = None;
    if let ReadValue::Given(endpoints, _) = written {
        endpoints.retain(|(text, span)| {
            let Some(is_secure) = endpoint(r, text, span, key.help) else { return false };
            if secure.is_some_and(|secure| secure != is_secure) {
                let message = "cluster: `endpoints` mix http and https";
                r.error(span, message, "all members of an etcd cluster speak the same: write all alike");
                return false;
            }
            secure = Some(is_secure);
            true
        });
    }
    secure
}

/// Certificates: exactly for https.
fn store_tls(r: &mut Reader<'_, '_>, scope: &Scope, secure: Option<bool>, found: &mut ClusterFound) {
    let span = found.tls.raw.as_ref().map(Spanned::span);
    found.tls.value = found.tls.raw.take().and_then(|raw| tls(r, raw));
    match (secure, span) {
        (Some(false), Some(span)) => {
            let message = "cluster: `tls` has no effect on http endpoints";
            r.error(&span, message, "write https:// in endpoints, or remove tls");
        }
        (Some(true), None) => {
            let message = "cluster: https endpoints need `tls`";
            let help = "add tls = { ca = \"/etc/guideway/etcd-ca.pem\" }, \
                the certificate that signed the endpoints'";
            r.error(&scope.span, message, help);
        }
        _ => {}
    }
}

/// Who logs in, and what is to be said of nobody.
fn store_user(r: &mut Reader<'_, '_>, scope: &Scope, secure: Option<bool>, found: &mut ClusterFound) {
    let span = found.user.raw.as_ref().map(Spanned::span);
    found.user.value = found.user.raw.take().map(|raw| {
        let scope = Scope::new("cluster.user", raw.span());
        StoreUserFound::read(r, &scope, raw.into_inner()).finish()
    });
    if let (Some(false), Some(span)) = (secure, &span) {
        let message = "cluster: the password of `user` travels in the clear to http endpoints";
        r.warning(span, message, "write https:// in endpoints and add tls");
    }
    let has_certificate = found.tls.value.as_ref().is_some_and(|tls| tls.identity.is_some());
    if let (Some(is_secure), None, false) = (secure, span, has_certificate) {
        let message = "cluster: without `user` everyone who reaches the endpoints can \
            change services and plan of the cluster";
        let help = if is_secure {
            "let etcd ask for a client certificate, and name it as cert and key in tls; \
            or add user = { name = \"guideway\", password_file = \"…\" }"
        } else {
            "write https:// in endpoints and add tls, \
            and user = { name = \"guideway\", password_file = \"…\" } \
            (docs/operations.md says how etcd gets it)"
        };
        r.warning(&scope.span, message, help);
    }
}

/// A key that not everyone knows.
fn is_secret(r: &mut Reader<'_, '_>, at: &At<'_>, key: &[u8; 16], span: &Span) -> bool {
    let is_known = is_published(key);
    if is_known {
        let what = "is a key that is published with this program: anyone could speak as a machine";
        r.wrong(at, span, what, Secret::HELP);
    }
    !is_known
}

/// What is off, which deserves a warning that says what then happens.
#[cfg(feature = "negative-controls")]
fn left_out(r: &mut Reader<'_, '_>, found: &ClusterFound) -> LeftOut {
    let mut is_off = |key: &str, switch: &ReadValue<Switch>, what: &str| {
        let ReadValue::Given(Switch::Off, span) = switch else { return false };
        r.warning(span, format!("cluster: with `{key}` off {what}"), "remove the key; it is for tests");
        true
    };
    LeftOut {
        sync: is_off("sync", &found.sync, "flows break when a table changes"),
        export: is_off("export", &found.export, "silent flows may break when a table changes"),
    }
}

#[cfg(not(feature = "negative-controls"))]
const fn left_out(_: &mut Reader<'_, '_>, _: &ClusterFound) -> LeftOut {
    LeftOut {}
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
        r.error(span, message, help);
        return None;
    }
    Some(is_secure)
}

fn tls(r: &mut Reader<'_, '_>, raw: Spanned<StoreTlsRaw>) -> Option<StoreTls> {
    let scope = Scope::new("cluster.tls", raw.span());
    let found = StoreTlsFound::read(r, &scope, raw.into_inner());
    if found.cert.is_absent() != found.key.is_absent() {
        r.error(&scope.span, "cluster.tls: `cert` and `key` go together", "write both, or neither");
    }
    Some(StoreTls { ca: found.ca.ok()?, identity: found.cert.ok().zip(found.key.ok()) })
}

/// A cluster remembers slots by itself, on all machines alike; what a service remembers on one machine alone
/// would contradict it.
pub(super) fn tracks_every_flow(r: &mut Reader<'_, '_>, span: &Span, services: &[Service]) {
    if let Some(service) = services.iter().find(|service| service.is_stateless()) {
        let message = format!("cluster: service \"{}\" has `state = \"exceptions\"`", service.name);
        let help = "write state = \"all\": in a cluster every flow is tracked where its packets arrive";
        r.error(span, message, help);
    }
}

/// What a cluster keeps is bounded by more than what a machine alone can have.
pub(super) fn fits_the_store(r: &mut Reader<'_, '_>, span: &Span, services: &[Service]) {
    let slots: u64 = services.iter().map(|service| u64::from(service.maglev_size)).sum();
    if slots > CLUSTER_SLOTS_MAX {
        let message = format!("cluster: the services have {slots} slots in all");
        let help = format!("a cluster has room for {CLUSTER_SLOTS_MAX}: use a smaller maglev_size");
        r.error(span, message, help);
    }
    let text = r.problems.text();
    // Written one key a line, inline tables are up to twice as long; and nobody is to wait for what cannot
    // be.
    if text.len() < SERVICES_TEXT_MAX / 4 {
        return;
    }
    let size = services_of(text).map_or(0, |services| services.len());
    if size > SERVICES_TEXT_MAX {
        let message = format!(
            "cluster: the services have {size} bytes, written one key a line as the cluster keeps them"
        );
        let help = format!(
            "at most {SERVICES_TEXT_MAX}: use shorter names, leave out keys that have their default, \
            or split the services over two clusters"
        );
        r.error(span, message, help);
    }
}
