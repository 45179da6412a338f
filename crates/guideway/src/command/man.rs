//! `guideway man`.

use crate::failure::Failure;
use crate::outcome::EXIT_CODES;
use crate::{CommandResult, Done, output};
use clap::Args;
use std::path::PathBuf;

/// Print the manual page, or write those of all commands to a directory
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Directory to write guideway.1, guideway-apply.1 and so on to; created if needed
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Of the whole command line.
pub(crate) fn run(arguments: &Arguments, program: clap::Command) -> CommandResult {
    let mut root = program.disable_help_subcommand(true);
    root.build();
    let Some(dir) = &arguments.dir else {
        output::bytes(&page(root)?)?;
        return Ok(Done::Well);
    };
    let cannot = |what: &std::path::Path, e: &std::io::Error| {
        Failure::failed(format!("cannot write {}: {e}", what.display()))
    };
    std::fs::create_dir_all(dir).map_err(|e| cannot(dir, &e))?;
    let mut pending = vec![("guideway".to_owned(), root)];
    while let Some((name, command)) = pending.pop() {
        for sub in command.get_subcommands().filter(|s| !s.is_hide_set()) {
            pending.push((format!("{name}-{}", sub.get_name()), sub.clone()));
        }
        let file = dir.join(format!("{name}.1"));
        // The page is named like the file; what to type stays as clap knows it.
        let command = command.name(name.clone().leak() as &str);
        std::fs::write(&file, page(command)?).map_err(|e| cannot(&file, &e))?;
    }
    Ok(Done::Well)
}

fn page(command: clap::Command) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut text)
        .map_err(|e| Failure::failed(format!("cannot make the manual page: {e}")))?;
    Ok(text)
}
