//! Logging to standard error; DPDK's lines included.

use crate::arguments::LogFormat;
use dpdk::log::Level;
use tracing_subscriber::EnvFilter;

/// Starts the log. A level that cannot be understood is reported and replaced by `info`.
pub(crate) fn start(format: LogFormat, level: &str) {
    let (filter, complaint) = match EnvFilter::try_new(level) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().init(),
    }
    if let Some(error) = complaint {
        tracing::warn!("log level {level:?} is not understood ({error}); info is used");
    }
}

/// DPDK's own lines. What it calls information is chatter of a normal start.
pub(crate) fn dpdk_line(level: Level, line: &str) {
    match level {
        Level::Error => tracing::error!(target: "dpdk", "{line}"),
        Level::Warning => tracing::warn!(target: "dpdk", "{line}"),
        Level::Notice | Level::Info => tracing::debug!(target: "dpdk", "{line}"),
        Level::Debug => tracing::trace!(target: "dpdk", "{line}"),
    }
}
