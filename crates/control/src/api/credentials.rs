//! What the TCP listeners prove themselves with, and what they ask for: files, read at the start and again with every
//! configuration, so that a new token or certificate needs no restart.

use crate::refusal::Refusal;
use crate::run_error::RunError;
use model::Config;
use model::config::Tls;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// What is in force.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    /// The bearer token of `api.listen`.
    pub(crate) token: Option<Arc<str>>,
    /// The certificate of `api.listen`.
    pub(crate) api: Option<TlsAcceptor>,
    /// The certificate of `agents.listen`.
    pub(crate) agents: Option<TlsAcceptor>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    /// Reads the files that a configuration names. May block.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub(crate) fn read(config: &Config) -> Result<Credentials, RunError> {
        let mut read = Credentials::default();
        if config.api.listen.is_some() {
            let Some(path) = &config.api.token_file else {
                let problem = "api.listen needs it".to_owned();
                return Err(RunError::File { path: PathBuf::from("api.token_file"), problem });
            };
            read.token = Some(read_token(path)?.into());
            read.api = config.api.tls.as_ref().map(tls).transpose()?;
        }
        if let Some(agents) = &config.agents {
            read.agents = agents.tls.as_ref().map(tls).transpose()?;
        }
        Ok(read)
    }

    /// As [`read`](Self::read), for a configuration that is on its way in.
    pub(crate) fn of(config: &Config) -> Result<Credentials, Refusal> {
        Credentials::read(config).map_err(|error| match error {
            RunError::File { path, problem } => {
                Refusal::NamedFile { of: key_of(config, &path).to_owned(), path, problem }
            }
            other => Refusal::File { path: PathBuf::new(), problem: other.to_string() },
        })
    }
}

/// The table whose key names a file of listeners.
fn key_of(config: &Config, path: &Path) -> &'static str {
    let names =
        |tls: &Tls| [&tls.cert, &tls.key].into_iter().chain(&tls.client_ca).any(|named| named == path);
    if config.api.token_file.as_deref() == Some(path) {
        "api.token_file"
    } else if config.api.tls.as_ref().is_some_and(names) {
        "api.tls"
    } else {
        "agents.tls"
    }
}

/// The first line of the token file.
#[expect(
    clippy::disallowed_methods,
    reason = "called by what prepares a configuration, on another thread, and at the start"
)]
fn read_token(path: &Path) -> Result<String, RunError> {
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
fn tls(tls: &Tls) -> Result<TlsAcceptor, RunError> {
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
