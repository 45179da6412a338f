//! What is in force after a start: the file, and over it what the API said before.

use super::ledger::{Content, Ledger};
use super::words::Words;
use model::Loaded;
use model::config::Config;
use std::sync::Arc;

/// A configuration to start with.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) loaded: Loaded,
    pub(crate) content: Content,
    /// What an operator should know.
    pub(crate) told: Option<String>,
}

/// The file's configuration with the words of the last revision. If they do not fit the file any more, it is in force without them: what
/// was to be forwarded before anything else counts is what the file says.
pub(crate) fn start(file: Loaded, ledger: &Ledger) -> Start {
    let base: Arc<str> = Arc::from(file.text.as_str());
    let words = ledger.content().map(|of| Arc::clone(&of.words)).unwrap_or_default();
    match with_words(&file, &words) {
        Ok(loaded) => {
            let told = (!words.is_empty()).then(|| {
                let names: Vec<&str> = words.held().map(|(name, ..)| name).take(NAMED_MAX).collect();
                format!("what the API said of single services holds over the file ({})", names.join(", "))
            });
            Start { loaded, content: Content { base, words }, told }
        }
        Err(problem) => {
            let told = format!(
                "what the API said of single services does not fit the file any more and was given up: {problem}"
            );
            Start { loaded: file, content: Content { base, words: Arc::default() }, told: Some(told) }
        }
    }
}

/// Services that a message names.
const NAMED_MAX: usize = 10;

fn with_words(file: &Loaded, words: &Words) -> Result<Loaded, String> {
    if words.is_empty() {
        return Ok(file.clone());
    }
    let text = words.over(&file.text).map_err(|error| error.to_string())?;
    let loaded = model::load(&file.name, &text).map_err(|report| first_line(&report.to_plain()))?;
    let differing: Vec<String> = Config::restart_keys(&file.config, &loaded.config);
    if !differing.is_empty() {
        return Err(format!("keys that need a restart differ: {}", differing.join(", ")));
    }
    crate::compile::offline(&loaded.config).map_err(|error| error.to_string())?;
    Ok(loaded)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
