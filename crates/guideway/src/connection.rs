//! Where the daemon listens, as an argument.

use clap::Args;
use std::path::PathBuf;

/// Where the daemon listens, for the commands that talk to it.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Connection {
    /// The daemon's socket [default: the one of --config, else the only one in /run/guideway]
    #[arg(long, env = "GUIDEWAY_SOCKET", value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Configuration to take the socket from
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}
