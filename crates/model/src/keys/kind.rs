//! Kinds of values: what may be written under a key, how it is read, and what the schema and the documents
//! say of it.

use super::key::{ConfigKey, ConfigTable};
use super::read::{At, ReadValue, Reader, Span, range_of, shown, sort};
use crate::config::{Mac, Net, Payload};
use crate::hex;
use crate::name::is_name;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use toml::{Spanned, Value};

/// A value as it is written, and its place; or nothing.
pub(crate) type RawValue = Option<Spanned<Value>>;

/// A single value.
pub(crate) trait ValueKind {
    type Value;

    /// What its values are called.
    fn label() -> String;

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }

    /// Reads one; of `None` the reason was reported.
    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<Self::Value>;
}

/// What stands under a key: a value, a list of values, a table, a list of tables.
pub(crate) trait KeyContent {
    /// As it is written, with its place. The values stay TOML's, so that a wrong type is reported like any
    /// other mistake, next to the others, and not by the first serde error alone.
    type Raw: DeserializeOwned + Default;
    type Found: Default;
    type Value;
    /// Of a table.
    const KEYS: &'static [ConfigKey] = &[];

    fn label() -> String;
    fn schema(generator: &mut SchemaGenerator) -> Schema;
    fn take(r: &mut Reader<'_, '_>, at: &At<'_>, raw: Self::Raw) -> Self::Found;
    fn is_absent(found: &Self::Found) -> bool;
    fn finish(found: Self::Found) -> Option<Self::Value>;
}

impl<K: ValueKind> KeyContent for K {
    type Raw = RawValue;
    type Found = ReadValue<K::Value>;
    type Value = K::Value;

    fn label() -> String {
        <K as ValueKind>::label()
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        <K as ValueKind>::schema(generator)
    }

    fn take(r: &mut Reader<'_, '_>, at: &At<'_>, raw: Self::Raw) -> Self::Found {
        let Some(raw) = raw else { return ReadValue::Absent };
        let span = raw.span();
        match K::read(r, at, &span, raw.into_inner()) {
            Some(value) => ReadValue::Given(value, span),
            None => ReadValue::Bad(span),
        }
    }

    fn is_absent(found: &Self::Found) -> bool {
        found.is_absent()
    }

    fn finish(found: Self::Found) -> Option<K::Value> {
        found.ok()
    }
}

/// A list of at most `MAX` values; whether the schema says so, too. Found are the good ones, with their
/// places.
pub(crate) struct List<K, const MIN: usize, const MAX: usize, const IN_SCHEMA: bool = true>(PhantomData<K>);

impl<K: ValueKind, const MIN: usize, const MAX: usize, const IN_SCHEMA: bool> KeyContent
    for List<K, MIN, MAX, IN_SCHEMA>
{
    type Raw = Option<Spanned<Vec<Spanned<Value>>>>;
    type Found = ReadValue<Vec<(K::Value, Span)>>;
    type Value = Vec<K::Value>;

    fn label() -> String {
        format!("list: {}", K::label())
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let max = if IN_SCHEMA { MAX } else { 0 };
        array(&K::schema(generator), MIN, max)
    }

    fn take(r: &mut Reader<'_, '_>, at: &At<'_>, raw: Self::Raw) -> Self::Found {
        let Some(raw) = raw else { return ReadValue::Absent };
        let (span, items) = (raw.span(), raw.into_inner());
        if items.len() > MAX {
            r.wrong(
                at,
                &span,
                format_args!("has {} entries", items.len()),
                format!("at most {MAX} are allowed"),
            );
            return ReadValue::Bad(span);
        }
        let is_empty = items.is_empty();
        let read = |item: Spanned<Value>| {
            let span = item.span();
            Some((K::read(r, at, &span, item.into_inner())?, span))
        };
        let good: Vec<_> = items.into_iter().filter_map(read).collect();
        if good.is_empty() && !is_empty { ReadValue::Bad(span) } else { ReadValue::Given(good, span) }
    }

    /// Or empty; one of which no value is good is neither.
    fn is_absent(found: &Self::Found) -> bool {
        found.is_absent() || found.get().is_some_and(Vec::is_empty)
    }

    fn finish(found: Self::Found) -> Option<Self::Value> {
        Some(found.ok()?.into_iter().map(|(value, _)| value).collect())
    }
}

fn array(items: &Schema, min: usize, max: usize) -> Schema {
    let mut schema = json_schema!({ "type": "array", "items": items });
    for (limit, value) in [("minItems", min), ("maxItems", max)] {
        if value > 0 {
            schema.insert(limit.to_owned(), value.into());
        }
    }
    schema
}

/// A table or a list of tables, which whoever reads the table above reads, too, when it knows what these hang
/// on.
pub(crate) struct Nested<C, V> {
    pub(crate) raw: Option<C>,
    pub(crate) value: Option<V>,
}

impl<C, V> Default for Nested<C, V> {
    fn default() -> Nested<C, V> {
        Nested { raw: None, value: None }
    }
}

/// A table.
pub(crate) struct Sub<T>(PhantomData<T>);

impl<T: ConfigTable> KeyContent for Sub<T> {
    type Raw = Option<Spanned<T::Raw>>;
    type Found = Nested<Spanned<T::Raw>, T>;
    type Value = T;
    const KEYS: &'static [ConfigKey] = T::KEYS;

    fn label() -> String {
        "table".to_owned()
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        T::schema(generator)
    }

    fn take(_: &mut Reader<'_, '_>, _: &At<'_>, raw: Self::Raw) -> Self::Found {
        Nested { raw, value: None }
    }

    fn is_absent(found: &Self::Found) -> bool {
        found.raw.is_none()
    }

    fn finish(found: Self::Found) -> Option<T> {
        found.value
    }
}

/// A list of tables; the limits are the schema's.
pub(crate) struct Many<T, const MIN: usize, const MAX: usize>(PhantomData<T>);

impl<T: ConfigTable, const MIN: usize, const MAX: usize> KeyContent for Many<T, MIN, MAX> {
    type Raw = Vec<Spanned<T::Raw>>;
    type Found = Nested<Vec<Spanned<T::Raw>>, Vec<T>>;
    type Value = Vec<T>;
    const KEYS: &'static [ConfigKey] = T::KEYS;

    fn label() -> String {
        "tables".to_owned()
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        array(&T::schema(generator), MIN, MAX)
    }

    fn take(_: &mut Reader<'_, '_>, _: &At<'_>, raw: Self::Raw) -> Self::Found {
        Nested { raw: (!raw.is_empty()).then_some(raw), value: None }
    }

    fn is_absent(found: &Self::Found) -> bool {
        found.raw.is_none()
    }

    fn finish(found: Self::Found) -> Option<Vec<T>> {
        found.value
    }
}

/// A value where none is written, as it would be.
pub(crate) fn shown_default(value: &impl serde::Serialize) -> Option<String> {
    match serde_json::to_value(value).ok()? {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Array(list) if list.is_empty() => None,
        other => Some(other.to_string()),
    }
}

/// An integer.
pub(crate) struct Number<T, const MIN: i64, const MAX: i64>(PhantomData<T>);

impl<T: TryFrom<i64> + schemars::JsonSchema, const MIN: i64, const MAX: i64> ValueKind
    for Number<T, MIN, MAX>
{
    type Value = T;

    fn label() -> String {
        "integer".to_owned()
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = T::json_schema(generator);
        schema.insert("minimum".to_owned(), MIN.into());
        schema.insert("maximum".to_owned(), MAX.into());
        schema
    }

    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<T> {
        T::try_from(r.integer(at, span, &value, (MIN, MAX), at.help())?).ok()
    }
}

/// Text; the limits are the schema's, a `check` is the loader's.
pub(crate) struct Text<const MIN: usize = 0, const MAX: usize = 0>;

impl<const MIN: usize, const MAX: usize> ValueKind for Text<MIN, MAX> {
    type Value = String;

    fn label() -> String {
        "text".to_owned()
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        text(MIN, MAX)
    }

    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<String> {
        r.text(at, span, value, &at.help())
    }
}

fn text(min: usize, max: usize) -> Schema {
    let mut schema = json_schema!({ "type": "string" });
    for (limit, value) in [("minLength", min), ("maxLength", max)] {
        if value > 0 {
            schema.insert(limit.to_owned(), value.into());
        }
    }
    schema
}

/// A name: 1 to 63 of `a-z A-Z 0-9 . _ -`, the first no `-`.
pub(crate) struct Name;

impl ValueKind for Name {
    type Value = String;

    fn label() -> String {
        "name".to_owned()
    }

    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<String> {
        let help = "use 1 to 63 of the characters a-z A-Z 0-9 . _ -, not beginning with -";
        let name = r.text(at, span, value, help)?;
        // Names become parts of paths and URLs, and words of command lines.
        if is_name(&name) {
            return Some(name);
        }
        r.error(span, format!("{}: {} is no name", at.place, shown(&name)), help);
        None
    }
}

/// Name of a kernel interface.
pub(crate) fn is_interface(r: &mut Reader<'_, '_>, at: &At<'_>, name: &str, span: &Span) -> bool {
    let chars = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    let what = if name.len() > 15 {
        format!("{} has {} bytes", shown(name), name.len())
    } else if !chars || name == "." || name == ".." {
        format!("{} is no interface name", shown(name))
    } else {
        return true;
    };
    r.wrong(at, span, what, at.help());
    false
}

/// An absolute path without control characters.
pub(crate) struct AbsolutePath;

impl ValueKind for AbsolutePath {
    type Value = PathBuf;

    fn label() -> String {
        "path".to_owned()
    }

    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<PathBuf> {
        let help = "write the whole path, beginning with /";
        let path = r.text(at, span, value, help)?;
        if path.starts_with('/') {
            return Some(path.into());
        }
        r.wrong(at, span, format_args!("{} is not an absolute path", shown(&path)), help);
        None
    }
}

/// A station's MAC address.
impl ValueKind for Mac {
    type Value = Mac;

    fn label() -> String {
        "MAC address".to_owned()
    }

    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<Mac> {
        let help = "write six pairs of hexadecimal digits joined by colons, like \"02:00:00:00:00:21\"";
        let text = r.text(at, span, value, help)?;
        let (what, help) = match text.parse::<Mac>() {
            Err(_) => (format!("{} is no MAC address", shown(&text)), help),
            Ok(mac) if mac.is_group() => (
                format!("{mac} is a multicast address"),
                "a next hop is one station: the lowest bit of the first byte must be 0, as in 02:…",
            ),
            Ok(mac) if mac.0 == [0; 6] => {
                ("is all zeros".to_owned(), "write the station's address, or leave the key out")
            }
            Ok(mac) => return Some(mac),
        };
        r.wrong(at, span, what, help);
        None
    }
}

/// An address that one station can have.
pub(crate) struct Address;

impl ValueKind for Address {
    type Value = IpAddr;

    fn label() -> String {
        "address".to_owned()
    }

    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<IpAddr> {
        r.address(at, span, value, &at.help())
    }
}

/// An IPv4 address under `key`, beside an IPv6 address under `key6`. `REASON`: whether the remedy says what
/// the key is for.
pub(crate) struct Address4<const REASON: bool>;

impl<const REASON: bool> ValueKind for Address4<REASON> {
    type Value = Ipv4Addr;

    fn label() -> String {
        "IPv4 address".to_owned()
    }

    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<Ipv4Addr> {
        match r.address(at, span, value, &at.help())? {
            IpAddr::V4(addr) => Some(addr),
            IpAddr::V6(addr) => {
                let reason = if REASON { format!("{} is for IPv4; ", at.key.name) } else { String::new() };
                let help = format!("{reason}move it to {}6", at.key.name);
                r.wrong(at, span, format_args!("{addr} is an IPv6 address"), help);
                None
            }
        }
    }
}

/// An IPv6 address under `key6`, beside an IPv4 address under `key`. `REASON`: whether the remedy says what
/// the key is for.
pub(crate) struct Address6<const REASON: bool>;

impl<const REASON: bool> ValueKind for Address6<REASON> {
    type Value = Ipv6Addr;

    fn label() -> String {
        "IPv6 address".to_owned()
    }

    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<Ipv6Addr> {
        match r.address(at, span, value, &at.help())? {
            IpAddr::V6(addr) => Some(addr),
            IpAddr::V4(addr) => {
                let reason = if REASON { format!("{} is for IPv6; ", at.key.name) } else { String::new() };
                let help = format!("{reason}move it to {}", at.key.name.trim_end_matches('6'));
                r.wrong(at, span, format_args!("{addr} is an IPv4 address"), help);
                None
            }
        }
    }
}

/// A prefix, or a single address.
pub(crate) struct Prefix;

impl ValueKind for Prefix {
    type Value = Net;

    fn label() -> String {
        "address or prefix".to_owned()
    }

    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<Net> {
        let text = r.text(at, span, value, &at.help())?;
        let net = r.net(at, span, &text, true, &at.help())?;
        r.prefix(at, span, net).then_some(net)
    }
}

/// An address and a port.
pub(crate) struct Listen;

impl ValueKind for Listen {
    type Value = SocketAddr;

    fn label() -> String {
        "address:port".to_owned()
    }

    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<SocketAddr> {
        let help = "write address:port, like \"127.0.0.1:8080\" or \"[::1]:8080\"";
        let text = r.text(at, span, value, help)?;
        match text.parse::<SocketAddr>() {
            Ok(addr) if addr.port() != 0 => return Some(addr),
            Ok(_) => r.wrong(at, span, "has port 0", "choose a port from 1 to 65535"),
            Err(_) => r.wrong(at, span, format_args!("{} is no address and port", shown(&text)), help),
        }
        None
    }
}

/// A secret of 16 bytes that all machines of a cluster have.
pub(crate) struct Secret;

impl Secret {
    pub(crate) const HELP: &str =
        "make one with `openssl rand -hex 16` and give it to every machine of the cluster";
}

impl ValueKind for Secret {
    type Value = [u8; 16];

    fn label() -> String {
        "32 hexadecimal digits".to_owned()
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        text(32, 32)
    }

    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<[u8; 16]> {
        let text = r.text(at, span, value, Secret::HELP)?;
        let is_hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let key = u128::from_str_radix(&text, 16).ok().filter(|_| is_hex).map(u128::to_be_bytes);
        if key.is_none() {
            let what = format!("is not 32 hexadecimal digits ({} characters)", text.chars().count());
            r.wrong(at, span, what, Secret::HELP);
        }
        key
    }
}

/// Ports or statuses: one number, or the first and the last as text.
pub(crate) struct Numbers;

impl Numbers {
    /// One of them, from `min` to `max`, or what is written instead.
    pub(crate) fn of(value: &Value, (min, max): (u16, u16)) -> Result<(u16, u16), String> {
        let range = range_of(value).filter(|&(first, last)| min <= first && first <= last && last <= max);
        range.ok_or_else(|| shown(&value.to_string().replace('"', "")))
    }

    /// As the schema says it.
    pub(crate) fn schema(min: u16, max: u16, pattern: &str) -> Schema {
        json_schema!({ "oneOf": [
            { "type": "integer", "minimum": min, "maximum": max },
            { "type": "string", "pattern": pattern },
        ] })
    }
}

/// Longest bytes that a check sends or looks for, and longest path of a request.
pub(crate) const PAYLOAD_MAX: usize = 1024;

/// 1 to [`PAYLOAD_MAX`] bytes, as ASCII text: beyond ASCII a character of TOML is no byte.
pub(crate) struct Ascii;

impl ValueKind for Ascii {
    type Value = Payload;

    fn label() -> String {
        "ASCII text".to_owned()
    }

    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<Payload> {
        let help = format!(
            "write 1 to {PAYLOAD_MAX} bytes in double quotes, with \\r \\n \\u0000 for what cannot be typed, \
            or leave the key out"
        );
        let text = match value {
            Value::String(text) if (1..=PAYLOAD_MAX).contains(&text.len()) => text,
            Value::String(text) => {
                r.wrong(at, span, format_args!("has {} bytes", text.len()), help);
                return None;
            }
            other => {
                r.wrong(at, span, format_args!("must be a string, found {}", sort(&other)), help);
                return None;
            }
        };
        let Some(far) = text.chars().find(|c| !c.is_ascii()) else { return Some(text.into_bytes().into()) };
        let name = at.key.name;
        let help = format!(
            "TOML text is UTF-8, so it would be sent as other bytes: write them as {name}_hex = \"…\""
        );
        r.wrong(at, span, format_args!("has {far:?}, which is no ASCII character"), help);
        None
    }
}

/// 1 to [`PAYLOAD_MAX`] bytes, as pairs of hexadecimal digits.
pub(crate) struct Hex;

impl ValueKind for Hex {
    type Value = Payload;

    fn label() -> String {
        "pairs of hexadecimal digits".to_owned()
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        text(2, 0)
    }

    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<Payload> {
        let what = match &value {
            Value::String(text) => match hex::bytes(text) {
                Some(bytes) if (1..=PAYLOAD_MAX).contains(&bytes.len()) => return Some(bytes.into()),
                Some(bytes) => format!("has {} bytes", bytes.len()),
                None => format!("{} is no row of bytes in hexadecimal digits", shown(text)),
            },
            other => format!("must be a string, found {}", sort(other)),
        };
        let help = format!(
            "write 1 to {PAYLOAD_MAX} bytes as pairs of hexadecimal digits in double quotes, like \"12ff 00\""
        );
        r.wrong(at, span, what, help);
        None
    }
}
