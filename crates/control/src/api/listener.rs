//! Where the API listens: a unix socket, and TCP with or without TLS.

use crate::run::RunError;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use model::config::Tls;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// Connections at once, per listener; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;
/// Longest time a request's head, or a TLS handshake, may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept (no file descriptors left).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The first line of the token file.
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
pub(crate) async fn serve_unix(listener: UnixListener, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    converse(stream, router).await;
                    drop(place);
                });
            }
            Err(error) => pause(&error).await,
        }
    }
}

/// Serves a TCP listener for ever.
pub(crate) async fn serve_tcp(listener: TcpListener, tls: Option<TlsAcceptor>, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (router, tls) = (router.clone(), tls.clone());
                tokio::spawn(async move {
                    let _ = stream.set_nodelay(true);
                    match tls {
                        None => converse(stream, router).await,
                        Some(tls) => {
                            if let Ok(Ok(stream)) =
                                tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)).await
                            {
                                converse(stream, router).await;
                            }
                        }
                    }
                    drop(place);
                });
            }
            Err(error) => pause(&error).await,
        }
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        tracing::debug!("API connection: {error}");
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!("API cannot accept: {error}");
    tokio::time::sleep(ACCEPT_RETRY).await;
}
