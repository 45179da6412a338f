//! Configuration files: read, checked, and their mistakes told with place and remedy.

use crate::failure::Failure;
use model::{Diagnostic, Loaded};
use std::io::{Read, Write};
use std::path::Path;

/// Reads the text of a configuration; `-` is standard input. Refuses more than the daemon would take.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let name = path.display();
    let cannot = |e: std::io::Error| Failure::usage(format!("cannot read the configuration {name}: {e}"));
    let mut bytes = Vec::new();
    let limit = model::TEXT_MAX as u64 + 1;
    if path.as_os_str() == "-" {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(cannot)?;
    } else {
        std::fs::File::open(path).map_err(cannot)?.take(limit).read_to_end(&mut bytes).map_err(cannot)?;
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Failure::usage(format!("{name} is not UTF-8 text (byte {at})"))
            .help("a configuration is TOML, in UTF-8")
    })
}

/// Checks a text that was read from `path`.
pub(crate) fn check(path: &Path, text: &str) -> Result<Loaded, Failure> {
    model::load(&path.display().to_string(), text).map_err(|report| Failure::Config(report.into()))
}

/// Reads and checks.
pub(crate) fn load(path: &Path) -> Result<Loaded, Failure> {
    check(path, &read(path)?)
}

/// Tells warnings on standard error.
pub(crate) fn warn(warnings: &[Diagnostic]) {
    let mut err = std::io::stderr().lock();
    for w in warnings {
        // Nobody is left to be warned when standard error is closed.
        let _ = writeln!(err, "warning: {}", one_line(w));
    }
}

/// Tells the warnings of a configuration on standard error, with the lines concerned.
pub(crate) fn warn_loaded(loaded: &Loaded) {
    if let Some(report) = loaded.warning_report() {
        // As above.
        let _ = writeln!(std::io::stderr(), "{:?}", miette::Report::new(report));
    }
}

/// `line:column: message (help)`.
pub(crate) fn one_line(d: &Diagnostic) -> String {
    let help = if d.help.is_empty() { String::new() } else { format!(" ({})", d.help) };
    format!("{}:{}: {}{help}", d.line, d.column, d.message)
}
