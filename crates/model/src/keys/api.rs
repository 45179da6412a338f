//! `[api]`, `[metrics]`, and the files of a TLS listener.

use super::kind::{AbsolutePath, Listen, Sub};
use super::read::{At, ReadValue, Reader, Scope, Span, open};
use super::table::table;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// Longest path of a unix socket, bytes: `sun_path` less its final zero.
const SOCKET_PATH_MAX: usize = 107;

table! {
    /// HTTP/JSON API.
    pub struct Api(ApiRaw, ApiFound) given(socket_default: PathBuf) {
        /// Unix socket, mode 0660, group guideway where it exists.
        socket: AbsolutePath = socket_default, default "/run/guideway/NAME.sock" => Restart;
        /// TCP listener, address:port; needs token_file, and tls unless the address is loopback.
        listen: Listen => Restart;
        /// File whose first line is the bearer token.
        token_file: AbsolutePath => Restart;
        /// Certificate and key of the TCP listener.
        tls: Sub<Tls> => Restart;
    }
}

table! {
    /// TLS files, PEM.
    pub struct Tls(TlsRaw, TlsFound) {
        /// Certificate chain.
        cert: AbsolutePath = PathBuf::new(), required "tls needs the PEM files of cert and key" => Restart;
        /// Key.
        key: AbsolutePath = PathBuf::new(), required "tls needs the PEM files of cert and key" => Restart;
        /// When given, clients must present a certificate of this CA.
        client_ca: AbsolutePath => Restart;
    }
}

table! {
    /// Prometheus metrics over TCP; the API serves /metrics in any case.
    pub struct Metrics(MetricsRaw, MetricsFound) {
        /// Address:port.
        listen: Listen => Restart;
    }
}

pub(super) fn metrics(r: &mut Reader<'_, '_>, raw: Option<Spanned<MetricsRaw>>) -> Metrics {
    let (scope, raw) = open("metrics", raw);
    let found = MetricsFound::read(r, &scope, raw);
    if let ReadValue::Given(addr, span) = &found.listen
        && !addr.ip().is_loopback()
    {
        r.warning(
            span,
            format!("metrics: everyone who reaches {addr} can read the metrics; there is no login"),
            "listen on a management address or on loopback, or read /metrics through the API",
        );
    }
    found.finish()
}

pub(super) fn api(
    r: &mut Reader<'_, '_>,
    raw: Option<Spanned<ApiRaw>>,
    machine: &str,
    metrics: &Metrics,
) -> Api {
    let (scope, raw) = open("api", raw);
    let tls_span = raw.tls.as_ref().map(Spanned::span);
    if raw.listen.is_none() && !r.is_misspelt("listen") {
        for (key, span) in
            [("token_file", raw.token_file.as_ref().map(Spanned::span)), ("tls", tls_span.clone())]
        {
            if let Some(span) = span {
                let message = format!("api: `{key}` has no effect without `listen`");
                r.warning(&span, message, "add listen = \"127.0.0.1:8080\", or remove the key");
            }
        }
    }
    let mut found = ApiFound::read(r, &scope, raw);
    let default = PathBuf::from(format!("/run/guideway/{machine}.sock"));
    let at = At { place: &scope.place, key: &ApiRaw::socket };
    found.socket = found.socket.check(|path, span| fits_a_socket(r, &at, path, span, &default));
    listener(r, &found, tls_span.is_some(), metrics);
    found.tls.value = found.tls.raw.take().map(|raw| tls(r, "api.tls", raw));
    found.finish(default)
}

fn fits_a_socket(r: &mut Reader<'_, '_>, at: &At<'_>, path: &Path, span: &Span, example: &Path) -> bool {
    let len = path.as_os_str().len();
    if len > SOCKET_PATH_MAX {
        let example = example.display();
        let help = format!("the kernel allows {SOCKET_PATH_MAX}: choose a shorter path, like {example}");
        r.wrong(at, span, format_args!("has {len} bytes"), help);
    }
    len <= SOCKET_PATH_MAX
}

/// What a TCP listener needs.
fn listener(r: &mut Reader<'_, '_>, found: &ApiFound, has_tls: bool, metrics: &Metrics) {
    let has_token = found.token_file.written().is_some() || r.is_misspelt("token_file");
    let has_tls = has_tls || r.is_misspelt("tls");
    if let ReadValue::Given(addr, span) = &found.listen {
        if !has_token {
            let message = format!("api: `listen` {addr} needs `token_file`");
            let help = "write a secret into a file, name it as token_file, \
                and let clients send it as bearer token; or remove listen: the unix socket needs none";
            r.error(span, message, help);
        }
        if !has_tls && !addr.ip().is_loopback() {
            let message = format!("api: `listen` {addr} is not a loopback address and needs `tls`");
            let help = "add tls = { cert = \"/etc/guideway/cert.pem\", key = \"/etc/guideway/key.pem\" }, \
                or listen on 127.0.0.1";
            r.error(span, message, help);
        }
        if metrics.listen == Some(*addr) {
            let message = format!("api: `listen` {addr} is also metrics.listen");
            r.error(span, message, "choose another port for one; the API serves /metrics, too");
        }
    }
}

/// The files of a TLS listener.
pub(super) fn tls(r: &mut Reader<'_, '_>, place: &str, raw: Spanned<TlsRaw>) -> Tls {
    let scope = Scope::new(place, raw.span());
    TlsFound::read(r, &scope, raw.into_inner()).finish()
}
