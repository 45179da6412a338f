//! Bytes that a check sends or looks for.

use crate::hex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::ops::Deref;

/// Bytes. As JSON: a string if all of them are ASCII, else `{"hex": "…"}`; a string with other characters
/// stands for their UTF-8, as older versions wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Payload(Vec<u8>);

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Payload {
        Payload(bytes)
    }
}

impl From<&str> for Payload {
    fn from(text: &str) -> Payload {
        Payload(text.as_bytes().to_vec())
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum PayloadText {
    Text(String),
    Hex { hex: String },
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = std::str::from_utf8(&self.0).ok().filter(|text| text.is_ascii());
        let written = match text {
            Some(text) => PayloadText::Text(text.to_owned()),
            None => PayloadText::Hex { hex: hex::digits(&self.0) },
        };
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Payload, D::Error> {
        match PayloadText::deserialize(deserializer)? {
            PayloadText::Text(text) => Ok(Payload(text.into_bytes())),
            PayloadText::Hex { hex: digits } => hex::bytes(&digits)
                .map(Payload)
                .ok_or_else(|| serde::de::Error::custom("hex has other than pairs of hexadecimal digits")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Payload;

    #[test]
    fn as_json_it_is_text_where_that_says_it() {
        for (bytes, json) in [
            (&b"GET\r\n\0"[..], r#""GET\r\n\u0000""#),
            (&[0x12, 0xff, 0x80], r#"{"hex":"12ff80"}"#),
            ("ü".as_bytes(), r#"{"hex":"c3bc"}"#),
        ] {
            let payload = Payload::from(bytes.to_vec());
            assert_eq!(serde_json::to_string(&payload).unwrap(), json);
            assert_eq!(serde_json::from_str::<Payload>(json).unwrap(), payload);
        }
        assert_eq!(
            serde_json::from_str::<Payload>("\"ü\"").unwrap(),
            Payload::from("ü"),
            "of an older version"
        );
        for bad in [r#"{"hex":"1"}"#, r#"{"hex":"zz"}"#, "3"] {
            assert!(serde_json::from_str::<Payload>(bad).is_err());
        }
    }
}
