//! Why something cannot be had.

use std::io;

/// Why something cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another process has it.
    #[error("{what} is in use by {holder}; {remedy}")]
    Held {
        /// What is claimed.
        what: String,
        /// Who has it.
        holder: String,
        /// What to do.
        remedy: &'static str,
    },
    /// An interface that is to be made is there already.
    #[error(
        "port {port:?}: interface {interface} exists already, and guidewayd makes it itself; remove it \
         (ip link delete {interface}) if nobody needs it, or set another name"
    )]
    Exists {
        /// The port.
        port: String,
        /// The interface.
        interface: String,
    },
    /// Neither.
    #[error("cannot claim {what}: {source}")]
    Failed {
        /// What is claimed.
        what: String,
        /// What the kernel says.
        source: io::Error,
    },
}
