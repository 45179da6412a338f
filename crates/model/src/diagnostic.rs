//! What is wrong with a config, where, and what to do about it.

mod excerpt;

use excerpt::Excerpt;
use miette::{LabeledSpan, SourceCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// Most problems a report names; the rest are counted in a last one.
pub const PROBLEMS_MAX: usize = 200;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The config is refused.
    Error,
    /// The config is taken; the operator should look.
    Warning,
}

/// One problem: place, what is wrong, remedy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong, naming the port, service or backend it is about.
    pub message: String,
    /// The remedy.
    pub help: String,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// Byte offset in the text.
    #[serde(skip)]
    pub offset: usize,
    /// Bytes it covers; may be 0.
    #[serde(skip)]
    pub length: usize,
}

impl Diagnostic {
    /// On one line: `line:column: message (help)`.
    pub fn one_line(&self) -> String {
        let help = if self.help.is_empty() { String::new() } else { format!(" ({})", self.help) };
        format!("{}:{}: {}{help}", self.line, self.column, self.message)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Every problem of a text, in the order of their places. An error for whoever asked for the config; `miette`
/// shows it with the lines concerned, of long ones the part around the place.
#[derive(Clone, Debug)]
pub struct Report {
    name: String,
    diagnostics: Vec<Diagnostic>,
    /// Each of `diagnostics` with the lines that are shown with it.
    shown: Vec<ShownDiagnostic>,
}

impl Report {
    /// Of `diagnostics` about `text`, called `name` (its file name).
    pub fn new(name: &str, text: &str, mut diagnostics: Vec<Diagnostic>) -> Report {
        diagnostics.sort_by_key(|d| d.offset);
        let shown = diagnostics
            .iter()
            .map(|of| ShownDiagnostic { excerpt: Excerpt::new(name, text, of), of: of.clone() });
        Report { name: name.to_owned(), shown: shown.collect(), diagnostics }
    }

    /// Name of the text: the file name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All problems, warnings included, in the order of their places.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// The same as plain lines: `name:line:column: error: message`, and `  help: …` below each.
    pub fn to_plain(&self) -> String {
        use fmt::Write as _;
        let mut out = String::new();
        for d in &self.diagnostics {
            let severity = match d.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            // Writing into a String cannot fail.
            let _ = writeln!(out, "{}:{}:{}: {severity}: {}", self.name(), d.line, d.column, d.message);
            let _ = writeln!(out, "  help: {}", d.help);
        }
        out
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |severity| self.diagnostics.iter().filter(|d| d.severity == severity).count();
        let plural = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        match (errors, warnings) {
            (_, 0) => write!(f, "{}: {}", self.name(), plural(errors, "error")),
            (0, _) => write!(f, "{}: {}", self.name(), plural(warnings, "warning")),
            _ => write!(f, "{}: {}, {}", self.name(), plural(errors, "error"), plural(warnings, "warning")),
        }
    }
}

impl std::error::Error for Report {}

impl miette::Diagnostic for Report {
    fn severity(&self) -> Option<miette::Severity> {
        let error = self.diagnostics.iter().any(|d| d.severity == Severity::Error);
        Some(if error { miette::Severity::Error } else { miette::Severity::Warning })
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn miette::Diagnostic> + 'a>> {
        Some(Box::new(self.shown.iter().map(|d| d as &dyn miette::Diagnostic)))
    }
}

/// A problem and what of the text is shown with it.
#[derive(Clone, Debug)]
struct ShownDiagnostic {
    of: Diagnostic,
    excerpt: Excerpt,
}

impl fmt::Display for ShownDiagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.of.fmt(f)
    }
}

impl std::error::Error for ShownDiagnostic {}

impl miette::Diagnostic for ShownDiagnostic {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.of.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(&self.of.help))
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let label = LabeledSpan::new(Some("here".to_owned()), self.excerpt.offset, self.excerpt.length);
        Some(Box::new(std::iter::once(label)))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.excerpt)
    }
}

/// Collects problems and turns byte ranges into lines and columns. For every TOML file of ours.
#[derive(Debug)]
pub struct Problems<'t> {
    text: &'t str,
    line_starts: Vec<usize>,
    found: Vec<Diagnostic>,
    errors: usize,
    further: usize,
}

impl<'t> Problems<'t> {
    /// Of `text`.
    pub fn new(text: &'t str) -> Problems<'t> {
        let ends = text.bytes().enumerate().filter(|&(_, b)| b == b'\n').map(|(i, _)| i + 1);
        Problems {
            text,
            line_starts: std::iter::once(0).chain(ends).collect(),
            found: Vec::new(),
            errors: 0,
            further: 0,
        }
    }

    /// The whole text.
    pub(crate) const fn text(&self) -> &'t str {
        self.text
    }

    /// The config will be refused because of `span`, a byte range of the text.
    pub fn error(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.errors += 1;
        if self.errors > PROBLEMS_MAX {
            self.further += 1;
        } else {
            self.add(Severity::Error, span, message.into(), help.into());
        }
    }

    /// The config is taken, but `span` deserves a look.
    pub fn warning(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        if self.found.len() < 2 * PROBLEMS_MAX {
            self.add(Severity::Warning, span, message.into(), help.into());
        }
    }

    /// Whether the config will be refused.
    pub const fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// All that was found, in the order in which it was.
    pub fn finish(mut self) -> Vec<Diagnostic> {
        if self.further > 0 {
            let (further, end) = (self.further, self.text.len());
            self.add(
                Severity::Error,
                end..end,
                format!("{further} further errors are not shown"),
                "correct the ones above and check again".to_owned(),
            );
        }
        self.found
    }

    fn add(&mut self, severity: Severity, span: Range<usize>, message: String, help: String) {
        let boundary = |mut at: usize| {
            at = at.min(self.text.len());
            while !self.text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let (start, end) = (boundary(span.start), boundary(span.end.max(span.start)));
        let line = self.line_starts.partition_point(|&s| s <= start);
        let line_start = self.line_starts.get(line.wrapping_sub(1)).copied().unwrap_or(0);
        let column = self.text.get(line_start..start).unwrap_or("").chars().count() + 1;
        self.found.push(Diagnostic {
            severity,
            message,
            help,
            line,
            column,
            offset: start,
            length: end - start,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let text = "äb\nc = 1\n";
        let mut problems = Problems::new(text);
        problems.error(2..3, "b", "h");
        problems.error(4..5, "c", "h");
        problems.error(1..2, "inside a character", "h");
        problems.warning(900..901, "far", "h");
        let found = problems.finish();
        let places: Vec<_> = found.iter().map(|d| (d.line, d.column, d.offset, d.length)).collect();
        assert_eq!(places, [(1, 2, 2, 1), (2, 1, 4, 1), (1, 1, 0, 2), (3, 1, 10, 0)]);
    }

    #[test]
    fn limit() {
        let mut problems = Problems::new("x");
        for _ in 0..PROBLEMS_MAX + 7 {
            problems.error(0..1, "m", "h");
        }
        let found = problems.finish();
        assert_eq!(found.len(), PROBLEMS_MAX + 1);
        assert_eq!(found.last().unwrap().message, "7 further errors are not shown");
    }
}
