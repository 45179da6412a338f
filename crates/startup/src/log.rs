//! The log: lines on standard error, written by a thread of its own.
//!
//! Rule of this module: a log line never stops, delays or ends the program. Whoever logs puts the line into a bounded queue;
//! one thread writes. What finds the queue full, or cannot be written (the reader is gone, the disk is full), is lost and
//! counted, and the count is told as a line once lines go out again.

use crate::arguments::{Filter, LogFormat};
use crate::writer::{self, LogWriter};
use std::io::{self, IsTerminal, Write as _};
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// Longest time that the end of the program waits for lines to be written.
const FLUSH: Duration = Duration::from_millis(300);

/// The running log. Dropping it waits up to 300 ms for the lines that were logged to be written.
#[derive(Clone, Debug)]
pub struct Log {
    writer: LogWriter,
}

impl Log {
    /// Starts the log of this process; once.
    ///
    /// # Errors
    /// No thread or descriptor.
    pub fn start(format: LogFormat, filter: &Filter) -> io::Result<Log> {
        let stderr = io::stderr();
        let has_colours = stderr.is_terminal();
        let writer = LogWriter::start(writer::second_stderr()?, format)?;
        let builder = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(filter.as_str()))
            .with_writer(writer.clone());
        match format {
            LogFormat::Text => builder.with_ansi(has_colours).init(),
            LogFormat::Json => builder.json().with_ansi(false).init(),
        }
        let last_words = writer.clone();
        // The default hook writes to standard error itself, and so waits for its reader, or panics in a panic.
        std::panic::set_hook(Box::new(move |panic| {
            let backtrace = std::backtrace::Backtrace::capture();
            tracing::error!("{panic}\n{backtrace}");
            last_words.flush(FLUSH);
        }));
        Ok(Log { writer })
    }

    /// Lines that were lost: the queue was full, or they could not be written.
    pub fn lost(&self) -> u64 {
        self.writer.lost()
    }

    /// Keeps the writing thread on these CPUs.
    pub fn pin(&self, cpus: &[u16]) {
        self.writer.pin(cpus);
    }

    /// Waits up to 300 ms until everything that was logged is written.
    pub fn flush(&self) {
        self.writer.flush(FLUSH);
    }
}

/// To people, on standard error. Whether they can be reached decides nothing.
pub fn say(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Logs a report: each diagnostic of a configuration as a line with its place, then what they amount to.
pub fn log_report(report: &miette::Report) {
    let Some(found) = report.downcast_ref::<model::Report>() else {
        let help = report.help().map(|help| help.to_string());
        tracing::error!(help, "{report}");
        return;
    };
    for of in found.diagnostics() {
        let (line, column, help) = (of.line, of.column, &of.help);
        match of.severity {
            model::Severity::Error => tracing::error!(line, column, help, "{of}"),
            model::Severity::Warning => tracing::warn!(line, column, help, "{of}"),
        }
    }
    tracing::error!("{found}");
}
