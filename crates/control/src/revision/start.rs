//! What is in force after a start: the file, and over it what the API said before; or, where the file is what nobody confirmed, what was
//! in force before it.

use super::ledger::{Content, Ledger};
use model::Loaded;
use std::sync::Arc;

/// Services that a message names.
const NAMED_MAX: usize = 10;

/// A configuration to start with.
#[derive(Debug)]
pub(crate) struct StartConfig {
    pub(crate) loaded: Loaded,
    pub(crate) content: Content,
    /// What an operator should know.
    pub(crate) told: Vec<String>,
}

/// The configuration to start with. What does not fit is left out, and told: in the end the file alone is in force.
pub(crate) fn start(file: Loaded, ledger: &Ledger) -> StartConfig {
    let mut told = Vec::new();
    let mut content = ledger.at_start(&file.text);
    if *content.base != *file.text {
        let name = &file.name;
        match with_overrides(&file, &content) {
            Ok(loaded) => {
                told.push(format!(
                    "{name} is as nobody has confirmed it: what was in force before is in force; apply or reload it to take it"
                ));
                return StartConfig { loaded, content, told };
            }
            Err(problem) => told.push(format!(
                "{name} is as nobody has confirmed it, and in force all the same: what was before does not fit: {problem}"
            )),
        }
        content.base = Arc::from(file.text.as_str());
    }
    match with_overrides(&file, &content) {
        Ok(loaded) => {
            if !content.overrides.is_empty() {
                let names: Vec<&str> =
                    content.overrides.held().map(|(name, ..)| name).take(NAMED_MAX).collect();
                let names = names.join(", ");
                told.push(format!("what the API said of single services holds over the file ({names})"));
            }
            StartConfig { loaded, content, told }
        }
        Err(problem) => {
            told.push(format!(
                "what the API said of single services does not fit the file any more and was given up: {problem}"
            ));
            StartConfig { loaded: file, content: Content { overrides: Arc::default(), ..content }, told }
        }
    }
}

/// As the configuration of a daemon that was started with this file.
fn with_overrides(file: &Loaded, content: &Content) -> Result<Loaded, String> {
    let text = content.overrides.over(&content.base).map_err(|error| error.to_string())?;
    if text == file.text {
        return Ok(file.clone());
    }
    let loaded = model::load(&file.name, &text).map_err(|report| first_line(&report.to_plain()))?;
    let differing = file.config.restart_keys(&loaded.config);
    if !differing.is_empty() {
        return Err(format!("keys that need a restart differ: {}", differing.join(", ")));
    }
    crate::compile::offline(&loaded.config).map_err(|error| error.to_string())?;
    Ok(loaded)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
