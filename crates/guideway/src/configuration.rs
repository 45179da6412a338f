//! Configuration files: read, checked, and their mistakes told with place and remedy.

use crate::failure::Failure;
use model::{Diagnostic, Loaded};
use std::io::{Read, Write};
use std::path::Path;

/// Reads the text of a configuration; `-` is standard input. Refuses more than the daemon would take.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let name = path.display().to_string();
    let cannot = |e: std::io::Error| {
        Failure::failed(format!("cannot read the configuration {name}: {e}"))
            .help("name a file that is there and that you may read, or - for standard input")
    };
    let mut bytes = Vec::new();
    let limit = model::TEXT_MAX as u64 + 1;
    if path.as_os_str() == "-" {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(cannot)?;
    } else {
        std::fs::File::open(path).map_err(cannot)?.take(limit).read_to_end(&mut bytes).map_err(cannot)?;
    }
    // Cut by the limit in a character, it is too long before anything else.
    if bytes.len() > model::TEXT_MAX {
        return Err(Failure::config(model::too_long(&name)));
    }
    model::text(&name, bytes).map_err(Failure::config)
}

/// Checks a text that was read from `path`.
pub(crate) fn check(path: &Path, text: &str) -> Result<Loaded, Failure> {
    model::load(&path.display().to_string(), text).map_err(Failure::config)
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
        let _ = writeln!(err, "warning: {}", w.one_line());
    }
}

/// Tells the warnings of a configuration on standard error, with the lines concerned.
pub(crate) fn warn_loaded(loaded: &Loaded) {
    if let Some(report) = loaded.warning_report() {
        // As above.
        let _ = writeln!(std::io::stderr(), "{:?}", miette::Report::new(report));
    }
}
