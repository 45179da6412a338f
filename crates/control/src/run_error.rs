//! Why the management core could not start or go on.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the management core could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No runtime.
    #[error("cannot start the management core: {0}")]
    Runtime(#[source] io::Error),
    /// The unix socket.
    #[error(
        "cannot listen on {}: {source}; check that its directory can be written, or set api.socket",
        path.display()
    )]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// Somebody answers on the unix socket.
    #[error("{holder} answers on {}; stop it, or set another api.socket or machine.name", path.display())]
    SocketInUse {
        /// The socket.
        path: PathBuf,
        /// The process that answers.
        holder: String,
    },
    /// A TCP listener.
    #[error("cannot listen on {address}: {source}; set another api.listen or metrics.listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
    /// A token, certificate or key file.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The configuration cannot be turned into a view.
    #[error("{0}")]
    Config(String),
    /// This machine cannot be a member of its cluster (any more).
    #[error("cluster: {0}")]
    Cluster(String),
}
