//! The JSON schema of the config file: for editors, and the one list of keys that the loader goes by.

use crate::config::Config;
use crate::keys::key::ConfigTable as _;
use schemars::generate::SchemaSettings;
use serde_json::Value;
use std::sync::OnceLock;

/// The schema (draft 7, nothing referenced). What it cannot say (sums, references, families)
/// [`crate::load()`] checks.
pub fn schema() -> Value {
    cached().clone()
}

pub(crate) fn cached() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let settings = SchemaSettings::draft07().with(|s| s.inline_subschemas = true);
        let mut generator = settings.into_generator();
        let mut schema = Config::schema(&mut generator);
        schema.insert("title".to_owned(), "Guideway configuration".into());
        schema.insert("$schema".to_owned(), "http://json-schema.org/draft-07/schema#".into());
        schema.to_value()
    })
}

/// The schema without what only a build for negative controls knows.
#[cfg(test)]
pub(crate) fn released() -> Value {
    let mut schema = schema();
    let cluster = schema.pointer_mut("/properties/cluster/properties").and_then(Value::as_object_mut);
    cluster.expect("[cluster] has keys").retain(|key, _| !["sync", "export"].contains(&key.as_str()));
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `UPDATE_SCHEMA=1 cargo test -p model` writes it anew.
    #[test]
    fn file_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/schema.json");
        let text = format!("{}\n", serde_json::to_string_pretty(&released()).unwrap());
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), text, "run UPDATE_SCHEMA=1 cargo test -p model");
    }
}
