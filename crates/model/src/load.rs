//! Text to checked config.

use crate::config::Config;
use crate::diagnostic::{Diagnostic, Problems, Report};
use crate::keys::{self, ConfigRaw};
use crate::shape;
use crate::text::{TEXT_MAX, too_long};
use serde::Deserialize as _;
use toml::de::DeTable;

/// A config that passed every check.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// What deserves a look all the same, in the order of the places.
    pub warnings: Vec<Diagnostic>,
    /// Name of the text: the file name.
    pub name: String,
    /// The text itself.
    pub text: String,
}

impl Loaded {
    /// The warnings as one report, `None` when there are none.
    pub fn warning_report(&self) -> Option<Report> {
        (!self.warnings.is_empty()).then(|| Report::new(&self.name, &self.text, self.warnings.clone()))
    }
}

/// Reads and checks `text`; `name` is what reports call it.
///
/// # Errors
/// A report of all problems. Only bad TOML syntax hides others: its first error is reported alone.
pub fn load(name: &str, text: &str) -> Result<Loaded, Report> {
    if text.len() > TEXT_MAX {
        return Err(too_long(name));
    }
    let mut problems = Problems::new(text);
    match read(text, &mut problems) {
        Some(config) if !problems.has_errors() => {
            let mut warnings = problems.finish();
            warnings.sort_by_key(|d| d.offset);
            Ok(Loaded { config, warnings, name: name.to_owned(), text: text.to_owned() })
        }
        _ => Err(Report::new(name, text, problems.finish())),
    }
}

/// `None` only after an error was added.
fn read(text: &str, problems: &mut Problems<'_>) -> Option<Config> {
    let mut table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            syntax_error(&error, problems);
            return None;
        }
    };
    let misspelt = shape::prune(table.get_mut(), problems);
    match ConfigRaw::deserialize(toml::de::Deserializer::from(table)) {
        Ok(raw) => Some(keys::check(raw, misspelt, problems)),
        Err(error) => {
            syntax_error(&error, problems);
            None
        }
    }
}

fn syntax_error(error: &toml::de::Error, problems: &mut Problems<'_>) {
    let message = error.message().lines().collect::<Vec<_>>().join("; ");
    let help = if message.contains("duplicate key") {
        "keep one of the two"
    } else if message.contains("string values must be quoted") {
        "put the text in double quotes: key = \"text\""
    } else if message.contains("missing assignment") || message.contains("key with no value") {
        "write key = value, one to a line"
    } else if message.contains("unclosed") {
        "close it: strings end with the quote they began with, tables with ], tables of a list with ]]"
    } else {
        "this is not TOML (https://toml.io): write key = value lines below [table] or [[list]] headers"
    };
    problems.error(error.span().unwrap_or(0..0), format!("bad TOML: {message}"), help);
}
