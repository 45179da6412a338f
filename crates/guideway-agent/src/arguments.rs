//! The command line.

use clap::{Args, Parser, Subcommand};
use startup::{Filter, LogFormat};
use std::net::IpAddr;
use std::path::PathBuf;

/// Where the file is, unless said otherwise.
const CONFIG: &str = "/etc/guideway-agent/agent.toml";
/// Where the local socket is, unless said otherwise.
pub(crate) const SOCKET: &str = "/run/guideway-agent/agent.sock";

/// The agent of a host of backends: registers them with the balancer, checks them, and tells it their load.
#[derive(Debug, Parser)]
#[command(name = "guideway-agent", version = env!("GUIDEWAY_VERSION"), after_long_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Subcommands,
}

const AFTER_HELP: &str = "\
Signals to `run`: SIGHUP reads the file again; SIGTERM and SIGINT deregister what the file registered (not \
with --keep), \
finish and exit with 0.

Exit status: 0 when it is done, 1 when something failed or was refused, 2 for a bad file or command line.";

#[derive(Debug, Subcommand)]
pub(crate) enum Subcommands {
    /// Run the agent.
    Run(Run),
    /// Register a backend with the agent that runs here. Again: nothing new, or new figures.
    Register(Register),
    /// Take a backend that was registered with `register` out: no new flows, the old ones live on.
    Deregister(Deregister),
    /// Show machines, backends and checks.
    Status(StatusArguments),
    /// Check a file, its token files and certificates.
    CheckConfig(CheckConfig),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Configuration file (TOML).
    #[arg(long, short, value_name = "FILE", default_value = CONFIG)]
    pub(crate) config: PathBuf,

    /// On SIGTERM, leave backends registered: the machines go on with their own checks.
    #[arg(long)]
    pub(crate) keep: bool,

    /// Form of the log lines on standard error.
    #[arg(
        long,
        value_enum,
        default_value_t = LogFormat::Text,
        env = "GUIDEWAY_LOG_FORMAT",
        hide_env_values = true,
    )]
    pub(crate) log_format: LogFormat,

    /// Least level that is logged: off, error, warn, info, debug, trace; or directives such as `info,control=debug`.
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "GUIDEWAY_LOG", hide_env_values = true)]
    pub(crate) log_level: Filter,
}

#[derive(Debug, Args)]
pub(crate) struct CheckConfig {
    /// Configuration file (TOML).
    #[arg(long, short, value_name = "FILE", default_value = CONFIG)]
    pub(crate) config: PathBuf,
}

/// Where the agent listens for commands.
#[derive(Debug, Args)]
pub(crate) struct AgentAddress {
    /// The agent's local socket.
    #[arg(
        long,
        value_name = "PATH",
        default_value = SOCKET,
        env = "GUIDEWAY_AGENT_SOCKET",
        hide_env_values = true,
    )]
    pub(crate) socket: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Register {
    #[command(flatten)]
    pub(crate) agent: AgentAddress,

    /// The service.
    #[arg(long, value_name = "NAME")]
    pub(crate) service: String,

    /// The backend's name, unique in the service.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,

    /// Its address, one of this host's.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) address: IpAddr,

    /// Share of new flows, 1 to 65535.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) weight: u32,

    /// Port that is checked [default: as the service says].
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,

    /// Flows that it is meant to carry [default: as the service says].
    #[arg(long, value_name = "FLOWS")]
    pub(crate) capacity: Option<u32>,

    /// A number that is larger at each start of the server [default: the time of the first registration].
    #[arg(long, value_name = "N")]
    pub(crate) incarnation: Option<u64>,

    /// File that holds its own figure of its load, 0 to 1000.
    #[arg(long, value_name = "FILE")]
    pub(crate) load_file: Option<PathBuf>,

    /// Wait until every connected machine (at least one) says that it is up, at most so many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) wait: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Deregister {
    #[command(flatten)]
    pub(crate) agent: AgentAddress,

    /// The service.
    #[arg(long, value_name = "NAME")]
    pub(crate) service: String,

    /// The backend.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub(crate) agent: AgentAddress,

    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
