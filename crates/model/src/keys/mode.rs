//! Forwarding modes and network identifiers as values of keys.

use super::kind::{Number, ValueKind};
use super::read::{At, Reader, Span};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::Serializer;
use toml::Value;
use wire::encap::{Mode, VNI_MAX};

impl ValueKind for Mode {
    type Value = Mode;

    fn label() -> String {
        "word".to_owned()
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        let one = |mode: Mode| {
            let (word, title) = (mode.as_str(), mode.title());
            serde_json::json!({ "type": "string", "const": word, "description": title })
        };
        json_schema!({ "oneOf": Mode::ALL.map(one) })
    }

    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<Mode> {
        r.choice(at, span, &value, &Mode::ALL.map(|mode| (mode.as_str(), mode)))
    }
}

/// A network identifier.
pub(crate) struct Vni;

impl ValueKind for Vni {
    type Value = u32;

    fn label() -> String {
        "integer".to_owned()
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        <Number<u32, 0, { VNI_MAX as i64 }> as ValueKind>::schema(generator)
    }

    /// The remedy names the protocol of the service's mode.
    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<u32> {
        let protocol = r.others.vni_of.and_then(Mode::header_name).unwrap_or_default();
        let help = format!("the {protocol} network identifier has 24 bits");
        u32::try_from(r.integer(at, span, &value, (0, i64::from(VNI_MAX)), help)?).ok()
    }
}

/// Serializes a mode as written in the config.
pub(super) fn as_text<S: Serializer>(mode: &Mode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(mode.as_str())
}
