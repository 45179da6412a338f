//! The command line.

use clap::Parser;
use startup::{Filter, LogFormat};
use std::path::PathBuf;

/// A layer-4 load balancer on DPDK.
#[derive(Debug, Parser)]
#[command(name = "guidewayd", version = env!("GUIDEWAY_VERSION"), after_long_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Configuration file (TOML).
    #[arg(long, short, value_name = "FILE", default_value = "/etc/guideway/guideway.toml")]
    pub(crate) config: PathBuf,

    /// Check the configuration and the EAL arguments, and exit: 0 if they are fine, 2 if not, 1 if the file cannot be read.
    #[arg(long, conflicts_with = "print_eal_args")]
    check: bool,

    /// Print the EAL command line, ready to paste into dpdk-testpmd, and exit.
    #[arg(long)]
    print_eal_args: bool,

    /// Form of the log lines on standard error.
    #[arg(
        long,
        value_enum,
        default_value_t = LogFormat::Text,
        env = "GUIDEWAY_LOG_FORMAT",
        hide_env_values = true,
    )]
    pub(crate) log_format: LogFormat,

    /// Least level that is logged: off, error, warn, info, debug, trace; or directives such as `info,dpdk=debug`.
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "GUIDEWAY_LOG", hide_env_values = true)]
    pub(crate) log_level: Filter,

    /// Arguments for EAL, added behind those from the configuration.
    #[arg(last = true, value_name = "EAL ARGUMENTS")]
    pub(crate) eal: Vec<String>,
}

const AFTER_HELP: &str = "\
Order of arguments: DPDK programs usually read `program [EAL] -- [program's own]`. Here it is the other way \
round, \
`guidewayd --config FILE -- [EAL]`, because the configuration names ports and CPUs and most people need no \
EAL argument \
at all. Keep permanent ones in `dpdk.eal_args`. Refused on both ways, since they follow from the \
configuration: -l, \
--lcores, -c, -s, -S, --main-lcore, --file-prefix, --proc-type.

Signals: SIGHUP reads the configuration again; SIGTERM and SIGINT withdraw announcements, finish and exit \
with 0.

Exit status: 0 after a stop, 1 when something failed or the configuration cannot be read, 2 for a bad \
configuration.";

/// What was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Invocation {
    Check,
    PrintEalArguments,
    Run,
}

impl Arguments {
    pub(crate) fn action(&self) -> Invocation {
        match (self.check, self.print_eal_args) {
            (true, _) => Invocation::Check,
            (_, true) => Invocation::PrintEalArguments,
            _ => Invocation::Run,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn what_follows_two_dashes_is_eals() {
        Arguments::command().debug_assert();
        let got =
            Arguments::try_parse_from(["guidewayd", "--config", "x.toml", "--", "--no-huge", "-m", "64"])
                .unwrap();
        assert_eq!(got.action(), Invocation::Run);
        assert_eq!(got.config, PathBuf::from("x.toml"));
        assert_eq!(got.eal, ["--no-huge", "-m", "64"]);
        assert!(Arguments::try_parse_from(["guidewayd", "--no-huge"]).is_err());
        assert!(Arguments::try_parse_from(["guidewayd", "--check", "--print-eal-args"]).is_err());
    }
}
