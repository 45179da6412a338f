//! A configuration as text: its longest length, from bytes, and the part that the machines of a cluster
//! share, the services.

use crate::diagnostic::{Problems, Report};
use toml::Table;

/// Longest config text, bytes.
pub const TEXT_MAX: usize = 16 << 20;

/// The key of the shared part.
const SERVICES: &str = "service";
/// Longest text of the services of a cluster, bytes: with what a machine says of itself it is a configuration
/// again.
pub const SERVICES_TEXT_MAX: usize = TEXT_MAX - (1 << 20);

/// A configuration's bytes as text; `name` is what reports call it.
///
/// # Errors
/// They are not UTF-8.
pub fn text(name: &str, bytes: Vec<u8>) -> Result<String, Report> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let good = bytes.get(..at).and_then(|good| std::str::from_utf8(good).ok()).unwrap_or("");
        let mut problems = Problems::new(good);
        let help = if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
            "it begins as UTF-16 does: save it as UTF-8"
        } else {
            "a configuration is TOML, which is UTF-8 text"
        };
        problems.error(at..at, format!("byte {at} is no UTF-8 text"), help);
        Report::new(name, good, problems.finish())
    })
}

/// The report on a text of more than [`TEXT_MAX`] bytes.
pub fn too_long(name: &str) -> Report {
    let mut problems = Problems::new("");
    problems.error(
        0..0,
        format!("the text is longer than {TEXT_MAX} bytes, which is what is read at most"),
        "check that this is a guideway config; 65,536 backends fit in 8 MiB",
    );
    Report::new(name, "", problems.finish())
}

/// The services of a configuration as text, one key a line: what a cluster keeps, and each machine adds to
/// what its own file says. Up to twice as long as in the file, where inline tables stand for headers.
///
/// # Errors
/// The text is no TOML.
pub fn services_of(text: &str) -> Result<String, String> {
    let mut table: Table = text.parse().map_err(|error| format!("{error}"))?;
    let mut shared = Table::new();
    if let Some(services) = table.remove(SERVICES) {
        shared.insert(SERVICES.to_owned(), services);
    }
    toml::to_string(&shared).map_err(|error| format!("{error}"))
}
