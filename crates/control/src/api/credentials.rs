//! What the TCP listeners prove themselves with, and what they ask for: files, read at the start and again with every
//! configuration, so that a new token or certificate needs no restart.

use super::listener::{read_token, tls};
use crate::refusal::Refusal;
use crate::run_error::RunError;
use model::Config;
use std::path::PathBuf;
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
            RunError::File { path, problem } => Refusal::File { path, problem },
            other => Refusal::File { path: PathBuf::new(), problem: other.to_string() },
        })
    }
}
