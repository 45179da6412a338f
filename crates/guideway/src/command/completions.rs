//! `guideway completions`.

use crate::outcome::EXIT_CODES;
use crate::{CommandResult, Done, output};
use clap::Args;

/// Print the completion script of a shell
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES, after_long_help = format!(
    "Example: guideway completions bash > /etc/bash_completion.d/guideway\n\n{EXIT_CODES}"
))]
pub(crate) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Of the whole command line.
pub(crate) fn run(arguments: &Arguments, mut program: clap::Command) -> CommandResult {
    // Into memory first: the generator panics when it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut program, "guideway", &mut script);
    output::bytes(&script)?;
    Ok(Done::Well)
}
