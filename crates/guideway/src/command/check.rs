//! `guideway check`.

use crate::failure::Failure;
use crate::outcome::EXIT_CODES;
use crate::{CommandResult, Done, configuration, output, secrets};
use clap::Args;
use model::Loaded;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Check a configuration file; every mistake with line, column and remedy
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// The configuration; - reads standard input
    #[arg(value_name = "FILE", required_unless_present = "schema")]
    file: Option<PathBuf>,
    /// Print JSON, the mistakes included
    #[arg(long)]
    json: bool,
    /// Print the JSON schema of the configuration instead (for editors)
    #[arg(long, conflicts_with_all = ["file", "json"])]
    schema: bool,
}

/// What passes the check must also be usable: the same compiler builds the daemon's tables.
fn checked(file: &Path) -> Result<Loaded, Failure> {
    let loaded = configuration::load(file)?;
    control::compile::offline(&loaded.config).map_err(|e| Failure::usage(e.to_string()))?;
    Ok(loaded)
}

/// As JSON: mistakes in the text by their places, anything else as the error that it is.
fn refused(failure: &Failure) -> Value {
    match failure {
        Failure::Config(report) => json!({ "ok": false, "diagnostics": report.diagnostics() }),
        Failure::Usage { message, help } | Failure::Failed { message, help } => {
            json!({ "ok": false, "error": message, "help": help, "diagnostics": [] })
        }
        Failure::OutputClosed => json!({ "ok": false, "diagnostics": [] }),
    }
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let Some(file) = &arguments.file else {
        output::json(&model::schema())?;
        return Ok(Done::Well);
    };
    let mut loaded = match checked(file) {
        Ok(loaded) => loaded,
        Err(failure) => {
            if arguments.json {
                output::json(&refused(&failure))?;
            }
            return Err(failure);
        }
    };
    loaded.warnings.extend(secrets::warnings(&loaded));
    loaded.warnings.sort_by_key(|of| of.offset);
    let config = &loaded.config;
    let backends: usize = config.services.iter().map(|s| s.backends.len()).sum();
    if arguments.json {
        output::json(&json!({
            "ok": true,
            "services": config.services.len(),
            "backends": backends,
            "ports": config.ports.len(),
            "workers": config.workers.cpus.len(),
            "diagnostics": loaded.warnings,
        }))?;
        return Ok(Done::Well);
    }
    configuration::warn_loaded(&loaded);
    let count = |n: usize, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    output::line(&format!(
        "{}: good: {}, {}, {}, {}",
        file.display(),
        count(config.services.len(), "service"),
        count(backends, "backend"),
        count(config.ports.len(), "port"),
        count(config.workers.cpus.len(), "worker"),
    ))?;
    Ok(Done::Well)
}
