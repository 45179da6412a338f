//! The part of a configuration that the machines of a cluster share: its services.

use crate::load::TEXT_MAX;
use toml::Table;

/// The key of the shared part.
const SERVICES: &str = "service";
/// Longest text of the services of a cluster, bytes: with what a machine says of itself it is a configuration again.
pub const SERVICES_TEXT_MAX: usize = TEXT_MAX - (1 << 20);

/// The services of a configuration as text, one key a line: what a cluster keeps, and each machine adds to what its own file says. Up to twice
/// as long as in the file, where inline tables stand for headers.
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
