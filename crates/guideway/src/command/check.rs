//! `guideway check`.

use crate::arguments::EXIT_CODES;
use crate::failure::Failure;
use crate::{Done, Outcome, configuration, output};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

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

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let Some(file) = &arguments.file else {
        output::json(&model::schema())?;
        return Ok(Done::Well);
    };
    let text = configuration::read(file)?;
    let loaded = match model::load(&file.display().to_string(), &text) {
        Ok(loaded) => loaded,
        Err(report) => {
            if arguments.json {
                output::json(&json!({ "ok": false, "diagnostics": report.diagnostics() }))?;
            }
            return Err(Failure::Config(report.into()));
        }
    };
    let config = &loaded.config;
    // What passes the check must also be usable: the same compiler builds the daemon's tables.
    control::compile::offline(config).map_err(|e| Failure::usage(e.to_string()))?;
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
