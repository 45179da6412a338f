//! Why a command did not do what it was asked, in words for the person who typed it.

use std::process::ExitCode;

/// A failure; decides the exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A configuration was read and is wrong (exit code 2).
    #[error("the configuration is wrong")]
    Config(Box<model::Report>),
    /// The usage is wrong (exit code 2).
    #[error("{message}")]
    Usage { message: String, help: Option<String> },
    /// Something did not work (exit code 1).
    #[error("{message}")]
    Failed { message: String, help: Option<String> },
    /// Whoever read our output has enough (`guideway show … | head`).
    #[error("standard output was closed")]
    OutputClosed,
}

impl Failure {
    pub(crate) fn config(report: model::Report) -> Failure {
        Failure::Config(Box::new(report))
    }

    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::Usage { message: message.into(), help: None }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Failure {
        Failure::Failed { message: message.into(), help: None }
    }

    /// Adds what to do about it.
    pub(crate) fn help(mut self, text: impl Into<String>) -> Failure {
        match &mut self {
            Failure::Usage { help, .. } | Failure::Failed { help, .. } => *help = Some(text.into()),
            Failure::Config(_) | Failure::OutputClosed => {}
        }
        self
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Config(_) | Failure::Usage { .. } => ExitCode::from(2),
            Failure::Failed { .. } => ExitCode::FAILURE,
            Failure::OutputClosed => ExitCode::SUCCESS,
        }
    }

    /// Tells it on standard error.
    pub(crate) fn report(&self) {
        use std::io::Write;
        let mut err = std::io::stderr().lock();
        // Nobody is left to be told when standard error is closed too.
        let _ = match self {
            Failure::Config(report) => writeln!(err, "{:?}", miette::Report::new((**report).clone())),
            Failure::Usage { message, help } | Failure::Failed { message, help } => {
                let told = writeln!(err, "error: {message}");
                match help {
                    Some(help) => writeln!(err, "  help: {help}"),
                    None => told,
                }
            }
            Failure::OutputClosed => Ok(()),
        };
    }
}
