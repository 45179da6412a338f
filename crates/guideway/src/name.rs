//! Names as typed: `SERVICE/BACKEND`, and their form in a request's path.

use std::fmt::Write;
use std::str::FromStr;

/// A backend of a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct BackendName {
    pub(crate) service: String,
    pub(crate) backend: String,
}

impl FromStr for BackendName {
    type Err = String;

    fn from_str(text: &str) -> Result<BackendName, String> {
        match text.split_once('/') {
            Some((service, backend))
                if !service.is_empty() && !backend.is_empty() && !backend.contains('/') =>
            {
                Ok(BackendName { service: service.into(), backend: backend.into() })
            }
            _ => Err("expected SERVICE/BACKEND, for example web/b1 (see: guideway show backends)".into()),
        }
    }
}

/// `text` as one segment or value of a request target (RFC 3986 section 2.3: what is not unreserved is escaped).
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            out.push(char::from(b));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_are_needed() {
        let name: BackendName = "web/b1".parse().unwrap();
        assert_eq!((name.service.as_str(), name.backend.as_str()), ("web", "b1"));
        for bad in ["web", "/b1", "web/", "a/b/c", ""] {
            assert!(bad.parse::<BackendName>().is_err(), "{bad}");
        }
        assert_eq!(escaped("a b/ä.1"), "a%20b%2F%C3%A4.1");
    }
}
