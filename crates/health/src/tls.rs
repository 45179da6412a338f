//! How checks speak TLS.
//!
//! Rule of this module: a check asks whether the backend serves, from a network that clients' secrets do not pass, and backends
//! commonly have certificates for names, not for the addresses probed; so any certificate will do unless `ca` says otherwise.

use crate::probe::{CheckFailure, unprepared};
use model::config::{CheckFiles, HttpCheck};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;

/// How long what was read of files holds: certificates are renewed without a word.
const READ_AGAIN: Duration = Duration::from_secs(10);
/// Longest file, bytes.
const FILE_MAX: u64 = 1 << 20;

/// Configurations by their files, and when these were read.
type Read = HashMap<CheckFiles, (Instant, Arc<ClientConfig>)>;

/// Those of all checks of this process. There are no more than services.
static READ: Mutex<Option<Read>> = Mutex::new(None);

/// The TLS configuration of a check.
///
/// # Errors
/// A file cannot be read, or is not what it should be.
pub(crate) async fn client_config(http: &HttpCheck) -> Result<Arc<ClientConfig>, CheckFailure> {
    let files = http.files.as_deref().cloned().unwrap_or_default();
    {
        let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
        let read = read.get_or_insert_default();
        read.retain(|files, (at, _)| at.elapsed() < READ_AGAIN || *files == CheckFiles::default());
        if let Some((_, config)) = read.get(&files) {
            return Ok(Arc::clone(config));
        }
    }
    let config = Arc::new(build(&files).await?);
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    read.get_or_insert_default().insert(files, (Instant::now(), Arc::clone(&config)));
    Ok(config)
}

async fn build(CheckFiles { cert, key, ca }: &CheckFiles) -> Result<ClientConfig, CheckFailure> {
    let local = |error: rustls::Error| CheckFailure::Local(format!("tls: {error}"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match ca {
        None => Arc::new(AnyCertificate::new(&provider)),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path).await? {
                roots.add(authority).map_err(|e| unfit(path, &e))?;
            }
            let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            built.build().map_err(|e| unfit(path, &e))?
        }
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(local)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let (Some(cert), Some(key)) = (cert, key) else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(cert).await?;
    let secret = PrivateKeyDer::from_pem_slice(&read(key).await?).map_err(|e| unfit(key, &e))?;
    builder.with_client_auth_cert(chain, secret).map_err(|e| unfit(key, &e))
}

/// All certificates of a PEM file, at least one.
async fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CheckFailure> {
    let text = read(path).await?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|e| unfit(path, &e))?;
    if found.is_empty() { Err(unfit(path, &"no certificate in it")) } else { Ok(found) }
}

async fn read(path: &Path) -> Result<Vec<u8>, CheckFailure> {
    let failed = |error| unprepared(&path.display().to_string(), &error);
    let mut bytes = Vec::new();
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    file.take(FILE_MAX).read_to_end(&mut bytes).await.map_err(failed)?;
    if bytes.len() as u64 == FILE_MAX { Err(unfit(path, &"longer than 1 MiB")) } else { Ok(bytes) }
}

fn unfit(path: &Path, problem: &dyn std::fmt::Display) -> CheckFailure {
    CheckFailure::Local(format!("{}: {problem}", path.display()))
}

/// Accepts every certificate.
#[derive(Debug)]
struct AnyCertificate {
    schemes: Vec<SignatureScheme>,
}

impl AnyCertificate {
    fn new(provider: &CryptoProvider) -> AnyCertificate {
        let mut schemes = provider.signature_verification_algorithms.supported_schemes();
        // Signatures are not looked at, so that the provider need not know them.
        schemes.push(SignatureScheme::ECDSA_NISTP521_SHA512);
        AnyCertificate { schemes }
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
