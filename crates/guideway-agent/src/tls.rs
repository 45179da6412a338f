//! TLS towards machines: their certificate is verified, our own is shown when there is one.

use crate::config::Tls;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;

/// How to connect with TLS.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// rustls's.
    pub(crate) config: Arc<ClientConfig>,
    name: Option<String>,
}

impl Client {
    /// Name that the certificate of `peer` (`host:port`) must have.
    ///
    /// # Errors
    /// It is no name.
    pub(crate) fn server_name(&self, peer: &str) -> Result<ServerName<'static>, String> {
        let host = peer.rsplit_once(':').map_or(peer, |(host, _)| host);
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = self.name.as_deref().unwrap_or(host);
        ServerName::try_from(name.to_owned()).map_err(|e| format!("TLS name {name:?}: {e}"))
    }
}

/// Reads the files.
///
/// # Errors
/// The file and its problem.
pub(crate) fn client(tls: &Tls) -> Result<Client, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&tls.ca)? {
        roots.add(certificate).map_err(|e| format!("{}: {e}", tls.ca.display()))?;
    }
    if let Some(name) = &tls.name {
        ServerName::try_from(name.clone()).map_err(|e| format!("name {name:?}: {e}"))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots);
    let config = match &tls.own {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let private = PrivateKeyDer::from_pem_file(key)
                .map_err(|e| format!("{}: no private key: {e}", key.display()))?;
            builder
                .with_client_auth_cert(certificates(chain)?, private)
                .map_err(|e| format!("{}: {e}", chain.display()))?
        }
    };
    Ok(Client { config: Arc::new(config), name: tls.name.clone() })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let problem = |problem: String| format!("{}: {problem}", path.display());
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| problem(format!("no certificate: {e}")))?;
    if chain.is_empty() { Err(problem("holds no certificate".to_owned())) } else { Ok(chain) }
}
