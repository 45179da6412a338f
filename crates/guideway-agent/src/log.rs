//! Logging to standard error.

use crate::arguments::LogFormat;
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
