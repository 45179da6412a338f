//! Where the API listens: a unix socket, and TCP with or without TLS.

use super::caller;
use super::connections::{ConnectionCounts, Connections, HEAD_TIMEOUT, Place};
use super::credentials::Credentials;
use crate::meter::{Job, Meter};
use crate::run_error::RunError;
use axum::Router;
use model::config::Tls;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// Pause after a failed accept (no file descriptors left).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How often it is said that connections cannot be accepted.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// The first line of the token file.
#[expect(
    clippy::disallowed_methods,
    reason = "called by what prepares a configuration, on another thread, and at the start"
)]
pub(crate) fn read_token(path: &Path) -> Result<String, RunError> {
    let text = fs::read_to_string(path)
        .map_err(|source| RunError::File { path: path.to_owned(), problem: source.to_string() })?;
    let token = text.lines().next().unwrap_or_default().trim();
    if token.is_empty() {
        let problem = "its first line, the API token, is empty".to_owned();
        return Err(RunError::File { path: path.to_owned(), problem });
    }
    Ok(token.to_owned())
}

/// TLS with the configured certificate.
pub(crate) fn tls(tls: &Tls) -> Result<TlsAcceptor, RunError> {
    let chain = read_certificates(&tls.cert)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key)
        .map_err(|e| RunError::File { path: tls.key.clone(), problem: format!("no private key: {e}") })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| RunError::File { path: tls.cert.clone(), problem: e.to_string() })?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let problem = |e: String| RunError::File { path: path.clone(), problem: e };
            let mut roots = RootCertStore::empty();
            for certificate in read_certificates(path)? {
                roots.add(certificate).map_err(|e| problem(e.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|e| problem(e.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|e| RunError::File { path: tls.cert.clone(), problem: e.to_string() })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RunError> {
    let problem = |problem: String| RunError::File { path: path.to_owned(), problem };
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| problem(format!("no certificate: {e}")))?;
    if chain.is_empty() { Err(problem("holds no certificate".to_owned())) } else { Ok(chain) }
}

/// Serves a unix socket for ever.
pub(crate) async fn serve_unix(listener: UnixListener, router: Router, serving: Serving) {
    loop {
        serving.connections.room().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let caller = caller::of_stream(&stream);
                serving.serve(None, |place| place.converse(stream, caller, router.clone()));
            }
            Err(error) => serving.cannot_accept(&error).await,
        }
    }
}

/// Serves a TCP listener for ever, with the certificate in force when a client comes.
pub(crate) async fn serve_tcp(
    listener: TcpListener,
    credentials: Option<watch::Receiver<Credentials>>,
    router: Router,
    serving: Serving,
) {
    loop {
        serving.connections.room().await;
        match listener.accept().await {
            Ok((stream, source)) => {
                let tls = credentials.as_ref().and_then(|of| of.borrow().api.clone());
                let (caller, router) = (caller::of_address(source), router.clone());
                serving.serve(Some(source.ip()), |place| async move {
                    let _ = stream.set_nodelay(true);
                    match tls {
                        None => place.converse(stream, caller, router).await,
                        Some(tls) => {
                            let shaken = tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)).await;
                            if let Ok(Ok(stream)) = shaken {
                                place.converse(stream, caller, router).await;
                            }
                        }
                    }
                });
            }
            Err(error) => serving.cannot_accept(&error).await,
        }
    }
}

/// What a listener serves with.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    connections: Connections,
    meter: Meter,
    complaints: Arc<Complaints>,
}

/// When it was last said that connections cannot be accepted.
#[derive(Debug, Default)]
struct Complaints {
    last: Mutex<Option<Instant>>,
}

impl Serving {
    /// A listener's own connections; `counts` are all listeners'.
    pub(crate) fn new(counts: Arc<ConnectionCounts>, meter: Meter) -> Serving {
        let connections = Connections::new(counts);
        tokio::spawn(connections.clone().watch());
        Serving { connections, meter, complaints: Arc::default() }
    }

    fn serve<F>(&self, source: Option<IpAddr>, talk: impl FnOnce(Place) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let place = self.connections.enter(source);
        let number = place.number();
        let task = tokio::spawn(self.meter.watch(Job::Conversation, talk(place)));
        self.connections.held_by(number, task.abort_handle());
    }

    /// No descriptors are left, as a rule: somebody who has not asked anything gives his.
    async fn cannot_accept(&self, error: &io::Error) {
        let has_room = self.connections.make_room();
        let now = Instant::now();
        {
            let mut last = self.complaints.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_none_or(|last| now.duration_since(last) >= COMPLAIN_EVERY) {
                *last = Some(now);
                tracing::warn!("API cannot accept: {error}; this is said once in {COMPLAIN_EVERY:?}");
            }
        }
        if has_room {
            // The closed connection's task runs first.
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(ACCEPT_RETRY).await;
        }
    }
}
