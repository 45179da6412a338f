//! How a command ends, and what its exit code says.

use crate::failure::Failure;
use std::process::ExitCode;

/// Shown below every command's help.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: a file cannot be read or written or is no capture, the daemon cannot be reached or refuses,
     doctor found a failure
  2  the usage is wrong, or a configuration was read and is refused";

/// How a command ended that did what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Done {
    /// All is well.
    Well,
    /// The answer is bad news, already told (doctor found a failure).
    BadNews,
}

impl Done {
    pub(crate) fn exit_code(self) -> ExitCode {
        match self {
            Done::Well => ExitCode::SUCCESS,
            Done::BadNews => ExitCode::FAILURE,
        }
    }
}

/// What every command returns.
pub(crate) type CommandResult = Result<Done, Failure>;
