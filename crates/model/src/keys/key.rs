//! What is known of a key of the configuration, and of a table of keys.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// What it takes to change a key of a running guidewayd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RestartRule {
    /// Nothing: it is read again.
    Live,
    /// A restart.
    Restart,
    /// In a cluster a restart: all its machines go by it.
    InCluster,
    /// A restart where `state = "exceptions"`: slots must keep their meaning.
    WhileStateless,
    /// Another name is another thing.
    Identity,
}

/// What is known of a key.
#[derive(Debug)]
pub struct ConfigKey {
    /// Its name in the file.
    pub name: &'static str,
    /// What it takes to change it.
    pub change: RestartRule,
    pub(crate) doc: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) help: &'static str,
    pub(crate) required: bool,
    /// Written in words; `None`: nothing holds where it is not written.
    pub(crate) default: fn() -> Option<String>,
    /// What its values are called.
    pub(crate) label: fn() -> String,
    pub(crate) schema: fn(&mut SchemaGenerator) -> Schema,
    /// Of a table.
    pub(crate) keys: &'static [ConfigKey],
}

impl ConfigKey {
    /// The document line of the schema.
    pub(crate) fn description(&self) -> String {
        let default = (self.default)().map(|of| format!("default {of}"));
        let unit = (!self.unit.is_empty()).then(|| format!("in {}", self.unit));
        let mut rest = unit.into_iter().chain(default).collect::<Vec<_>>().join("; ");
        if let Some(first) = rest.get_mut(..1) {
            first.make_ascii_uppercase();
            rest.push('.');
        }
        format!("{} {rest}", self.doc.trim()).trim().to_owned()
    }
}

/// A table of the file.
pub(crate) trait ConfigTable {
    /// Its keys with what is written.
    type Raw: DeserializeOwned;
    const DOC: &'static str;
    const KEYS: &'static [ConfigKey];

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let mut properties = Map::new();
        for key in Self::KEYS {
            let mut schema = (key.schema)(generator);
            if !key.doc.is_empty() {
                schema.insert("description".to_owned(), key.description().into());
            }
            if !key.required && key.keys.is_empty() {
                schema.insert("default".to_owned(), Value::Null);
            }
            properties.insert(key.name.to_owned(), schema.to_value());
        }
        let mut schema =
            json_schema!({ "type": "object", "additionalProperties": false, "properties": properties });
        schema.insert("description".to_owned(), Self::DOC.trim().into());
        let required: Vec<_> = Self::KEYS.iter().filter(|key| key.required).map(|key| key.name).collect();
        if !required.is_empty() {
            schema.insert("required".to_owned(), required.into());
        }
        schema
    }
}
