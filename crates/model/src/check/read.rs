//! Values out of cells: the type, the range, the name; and what to say when one is wrong.

use super::Span;
use crate::config::{Mac, Net, Payload};
use crate::diagnostic::Problems;
use crate::net::ParseNetError;
use crate::raw::{Cell, List};
use crate::suggest::nearest;
use std::collections::HashSet;
use std::net::IpAddr;
use toml::{Spanned, Value};

/// Where a key stands: the table's name in messages, and its header.
pub(super) struct Scope {
    pub(super) place: String,
    pub(super) span: Span,
}

impl Scope {
    pub(super) fn new(place: impl Into<String>, span: Span) -> Scope {
        Scope { place: place.into(), span }
    }
}

/// What became of a cell.
pub(super) enum Read<T> {
    /// Nothing is written.
    Absent,
    /// Something wrong is written, and was reported.
    Bad,
    /// A value, and its place.
    Given(T, Span),
}

impl<T> Read<T> {
    pub(super) fn or(self, default: T) -> T {
        self.ok().unwrap_or(default)
    }

    pub(super) fn ok(self) -> Option<T> {
        match self {
            Read::Given(value, _) => Some(value),
            Read::Absent | Read::Bad => None,
        }
    }

    pub(super) fn span(&self) -> Option<Span> {
        match self {
            Read::Given(_, span) => Some(span.clone()),
            Read::Absent | Read::Bad => None,
        }
    }

    pub(super) const fn is_absent(&self) -> bool {
        matches!(self, Read::Absent)
    }

    /// Converts a value; `None` means a problem was reported.
    pub(super) fn and_then<U>(self, f: impl FnOnce(T, &Span) -> Option<U>) -> Read<U> {
        match self {
            Read::Absent => Read::Absent,
            Read::Bad => Read::Bad,
            Read::Given(value, span) => match f(value, &span) {
                Some(value) => Read::Given(value, span),
                None => Read::Bad,
            },
        }
    }
}

pub(super) struct Reader<'p, 't> {
    pub(super) problems: &'p mut Problems<'t>,
    /// Keys that an unknown key nearly spells: their absence was reported already.
    pub(super) misspelt: HashSet<String>,
}

/// A wrong text, with quotes and without its tail if it is long.
pub(super) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

fn kind(value: &Value) -> String {
    match value {
        Value::String(s) => format!("the string {}", shown(s)),
        Value::Integer(i) => format!("the integer {i}"),
        Value::Float(f) => format!("the number {f}"),
        Value::Boolean(b) => format!("{b}"),
        Value::Datetime(_) => "a date".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
    }
}

impl Reader<'_, '_> {
    /// Reports that a required key is missing, unless a misspelt one was reported.
    pub(super) fn missing(&mut self, scope: &Scope, key: &str, help: &str) {
        if !self.misspelt.contains(key) {
            let place = &scope.place;
            self.problems.error(scope.span.clone(), format!("{place}: `{key}` is missing"), help);
        }
    }

    /// Text without control characters, not empty.
    pub(super) fn text(&mut self, scope: &Scope, key: &str, cell: Cell, help: &str) -> Read<String> {
        let Some(cell) = cell else { return Read::Absent };
        self.text_of(scope, key, cell, help)
    }

    fn text_of(&mut self, scope: &Scope, key: &str, cell: Spanned<Value>, help: &str) -> Read<String> {
        let span = cell.span();
        let place = &scope.place;
        match cell.into_inner() {
            Value::String(s) if s.is_empty() => {
                self.problems.error(span, format!("{place}: `{key}` is empty"), help);
                Read::Bad
            }
            Value::String(s) if s.chars().any(char::is_control) => {
                let message = format!("{place}: `{key}` has a control character: {}", shown(&s));
                self.problems.error(span, message, help);
                Read::Bad
            }
            Value::String(s) => Read::Given(s, span),
            other => {
                let found = kind(&other);
                self.problems.error(
                    span,
                    format!("{place}: `{key}` must be a string, found {found}"),
                    format!("put it in double quotes; {help}"),
                );
                Read::Bad
            }
        }
    }

    /// 1 to `max` bytes, as ASCII text under `key` or in hexadecimal digits under `key` with `_hex` behind it. Beyond ASCII a
    /// character of TOML is no byte.
    pub(super) fn payload(
        &mut self,
        scope: &Scope,
        key: &str,
        (text, hex): (Cell, Cell),
        max: usize,
    ) -> Read<Payload> {
        let place = &scope.place;
        let (cell, name, is_hex) = match (text, hex) {
            (None, None) => return Read::Absent,
            (Some(cell), None) => (cell, key.to_owned(), false),
            (None, Some(cell)) => (cell, format!("{key}_hex"), true),
            (Some(_), Some(cell)) => {
                let message = format!("{place}: `{key}` and `{key}_hex` are both written");
                self.problems.error(cell.span(), message, "keep the one that says all the bytes");
                return Read::Bad;
            }
        };
        let span = cell.span();
        let help = if is_hex {
            format!(
                "write 1 to {max} bytes as pairs of hexadecimal digits in double quotes, like \"12ff 00\""
            )
        } else {
            format!(
                "write 1 to {max} bytes in double quotes, with \\r \\n \\u0000 for what cannot be typed, or leave the key out"
            )
        };
        let message = match cell.into_inner() {
            Value::String(text) if is_hex => match from_hex(&text) {
                Some(bytes) if (1..=max).contains(&bytes.len()) => {
                    return Read::Given(Payload::from(bytes), span);
                }
                Some(bytes) => format!("{place}: `{name}` has {} bytes", bytes.len()),
                None => {
                    format!("{place}: `{name}` {} is no row of bytes in hexadecimal digits", shown(&text))
                }
            },
            Value::String(text) if !(1..=max).contains(&text.len()) => {
                format!("{place}: `{name}` has {} bytes", text.len())
            }
            Value::String(text) => {
                let Some(far) = text.chars().find(|c| !c.is_ascii()) else {
                    return Read::Given(Payload::from(text.into_bytes()), span);
                };
                let message = format!("{place}: `{name}` has {far:?}, which is no ASCII character");
                let help = format!(
                    "TOML text is UTF-8, so it would be sent as other bytes: write them as {key}_hex = \"…\""
                );
                self.problems.error(span, message, help);
                return Read::Bad;
            }
            other => format!("{place}: `{name}` must be a string, found {}", kind(&other)),
        };
        self.problems.error(span, message, help);
        Read::Bad
    }

    /// A name: 1 to 63 of `a-z A-Z 0-9 . _ -`, the first no `-`.
    pub(super) fn name(&mut self, scope: &Scope, cell: Cell) -> Read<String> {
        let help = "use 1 to 63 of the characters a-z A-Z 0-9 . _ -, not beginning with -";
        let read = self.text(scope, "name", cell, help);
        read.and_then(|name, span| {
            // Names become parts of paths and URLs, and words of command lines.
            if crate::registered::is_name(&name) {
                return Some(name);
            }
            self.problems.error(span.clone(), format!("{}: {} is no name", scope.place, shown(&name)), help);
            None
        })
    }

    /// An integer from `min` to `max`.
    pub(super) fn integer(
        &mut self,
        scope: &Scope,
        key: &str,
        cell: Cell,
        range: (i64, i64),
        help: &str,
    ) -> Read<i64> {
        let Some(cell) = cell else { return Read::Absent };
        self.integer_of(scope, key, cell, range, help)
    }

    fn integer_of(
        &mut self,
        scope: &Scope,
        key: &str,
        cell: Spanned<Value>,
        (min, max): (i64, i64),
        help: &str,
    ) -> Read<i64> {
        let span = cell.span();
        let place = &scope.place;
        match cell.into_inner() {
            Value::Integer(i) if (min..=max).contains(&i) => Read::Given(i, span),
            other => {
                let mut help = help.to_owned();
                if let Value::String(s) = &other
                    && let Ok(i) = s.parse::<i64>()
                {
                    help = format!("write it without quotes: {i}; {help}");
                }
                let message = format!(
                    "{place}: `{key}` must be an integer from {min} to {max}, found {}",
                    kind(&other)
                );
                self.problems.error(span, message, help);
                Read::Bad
            }
        }
    }

    /// As [`Self::integer`], narrowed to the field's type.
    pub(super) fn number<T: TryFrom<i64>>(
        &mut self,
        scope: &Scope,
        key: &str,
        cell: Cell,
        range: (i64, i64),
        help: &str,
    ) -> Read<T> {
        self.integer(scope, key, cell, range, help).and_then(|i, _| T::try_from(i).ok())
    }

    /// One of `choices`.
    pub(super) fn choice<T: Copy>(
        &mut self,
        scope: &Scope,
        key: &str,
        cell: Cell,
        choices: &[(&str, T)],
    ) -> Read<T> {
        let Some(cell) = cell else { return Read::Absent };
        let span = cell.span();
        let list = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        let place = &scope.place;
        match cell.into_inner() {
            Value::String(s) => {
                if let Some((_, value)) = choices.iter().find(|(name, _)| *name == s) {
                    return Read::Given(*value, span);
                }
                let help = match nearest(&s, choices.iter().map(|c| c.0)) {
                    Some(name) => format!("did you mean \"{name}\"? Allowed: {list}"),
                    None => format!("allowed: {list}"),
                };
                self.problems.error(span, format!("{place}: `{key}` cannot be {}", shown(&s)), help);
            }
            other => {
                let message = format!("{place}: `{key}` must be a string, found {}", kind(&other));
                self.problems.error(span, message, format!("allowed: {list}"));
            }
        }
        Read::Bad
    }

    /// A station's MAC address.
    pub(super) fn mac(&mut self, scope: &Scope, key: &str, cell: Cell) -> Read<Mac> {
        let help = "write six pairs of hexadecimal digits joined by colons, like \"02:00:00:00:00:21\"";
        let read = self.text(scope, key, cell, help);
        read.and_then(|text, span| {
            let place = &scope.place;
            let (message, help) = match text.parse::<Mac>() {
                Err(_) => (format!("{place}: `{key}` {} is no MAC address", shown(&text)), help),
                Ok(mac) if mac.is_group() => (
                    format!("{place}: `{key}` {mac} is a multicast address"),
                    "a next hop is one station: the lowest bit of the first byte must be 0, as in 02:…",
                ),
                Ok(mac) if mac.0 == [0; 6] => (
                    format!("{place}: `{key}` is all zeros"),
                    "write the station's address, or leave the key out",
                ),
                Ok(mac) => return Some(mac),
            };
            self.problems.error(span.clone(), message, help);
            None
        })
    }

    /// An address that one station can have.
    pub(super) fn address(&mut self, scope: &Scope, key: &str, cell: Cell, help: &str) -> Read<IpAddr> {
        let read = self.text(scope, key, cell, help);
        read.and_then(|text, span| {
            let place = &scope.place;
            let Ok(addr) = text.parse::<IpAddr>() else {
                let message = format!("{place}: `{key}` {} is no IPv4 or IPv6 address", shown(&text));
                self.problems.error(span.clone(), message, help);
                return None;
            };
            self.unicast(place, key, addr, span, help).then_some(addr)
        })
    }

    /// Reports an address that no station on a network can have.
    pub(super) fn unicast(&mut self, place: &str, key: &str, addr: IpAddr, span: &Span, help: &str) -> bool {
        let Some(what) = not_unicast(Net::host(addr)) else { return true };
        self.problems.error(span.clone(), format!("{place}: `{key}` {addr} is {what}"), help);
        false
    }

    /// An address with a prefix length. `bare` allows an address alone.
    pub(super) fn net(
        &mut self,
        place: &str,
        key: &str,
        text: &str,
        span: &Span,
        bare: bool,
        help: &str,
    ) -> Option<Net> {
        let message = match text.parse::<Net>() {
            Ok(_) if !bare && !text.contains('/') => {
                format!("{place}: `{key}` {} has no prefix length", shown(text))
            }
            Ok(net) => return Some(net),
            Err(error @ ParseNetError::Address) => format!("{place}: `{key}` {} is {error}", shown(text)),
            Err(error @ ParseNetError::Length { .. }) => format!("{place}: `{key}` {}: {error}", shown(text)),
        };
        self.problems.error(span.clone(), message, help);
        None
    }

    /// An absolute path without control characters.
    pub(super) fn path(&mut self, scope: &Scope, key: &str, cell: Cell) -> Read<String> {
        let help = "write the whole path, beginning with /";
        let read = self.text(scope, key, cell, help);
        read.and_then(|path, span| {
            if path.starts_with('/') {
                return Some(path);
            }
            let message = format!("{}: `{key}` {} is not an absolute path", scope.place, shown(&path));
            self.problems.error(span.clone(), message, help);
            None
        })
    }

    /// Name of a kernel interface.
    pub(super) fn interface(&mut self, scope: &Scope, key: &str, cell: Cell) -> Read<String> {
        let help = "interface names have 1 to 15 of the characters a-z A-Z 0-9 . _ -";
        let read = self.text(scope, key, cell, help);
        read.and_then(|name, span| {
            let chars = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            let message = if name.len() > 15 {
                format!("{}: `{key}` {} has {} bytes", scope.place, shown(&name), name.len())
            } else if !chars || name == "." || name == ".." {
                format!("{}: `{key}` {} is no interface name", scope.place, shown(&name))
            } else {
                return Some(name);
            };
            self.problems.error(span.clone(), message, help);
            None
        })
    }

    /// The texts of a list, each with its place.
    pub(super) fn texts(
        &mut self,
        scope: &Scope,
        key: &str,
        list: List,
        max: usize,
        help: &str,
    ) -> Vec<(String, Span)> {
        let Some(items) = self.items(scope, key, list, max) else { return Vec::new() };
        let read = |cell| match self.text_of(scope, key, cell, help) {
            Read::Given(text, span) => Some((text, span)),
            Read::Absent | Read::Bad => None,
        };
        items.into_iter().filter_map(read).collect()
    }

    /// The integers of a list, each with its place.
    pub(super) fn integers(
        &mut self,
        scope: &Scope,
        key: &str,
        items: Vec<Spanned<Value>>,
        range: (i64, i64),
        help: &str,
    ) -> Vec<(i64, Span)> {
        let read = |cell| match self.integer_of(scope, key, cell, range, help) {
            Read::Given(value, span) => Some((value, span)),
            Read::Absent | Read::Bad => None,
        };
        items.into_iter().filter_map(read).collect()
    }

    /// The items of a list, at most `max`.
    pub(super) fn items(
        &mut self,
        scope: &Scope,
        key: &str,
        list: List,
        max: usize,
    ) -> Option<Vec<Spanned<Value>>> {
        let list = list?;
        let span = list.span();
        let items = list.into_inner();
        if items.len() > max {
            let message = format!("{}: `{key}` has {} entries", scope.place, items.len());
            self.problems.error(span, message, format!("at most {max} are allowed"));
            return None;
        }
        Some(items)
    }
}

/// Bytes of pairs of hexadecimal digits; white space between pairs is passed over.
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Vec::new();
    for run in text.split_ascii_whitespace() {
        let (pairs, rest) = run.as_bytes().as_chunks::<2>();
        if !rest.is_empty() {
            return None;
        }
        for [high, low] in pairs {
            bytes.push(digit(*high)? << 4 | digit(*low)?);
        }
    }
    Some(bytes)
}

/// Why no station on a network can have an address of `net`, if so.
pub(crate) fn not_unicast(net: Net) -> Option<&'static str> {
    const fn v4(a: u8, b: u8, c: u8, d: u8, len: u8) -> Net {
        Net { addr: IpAddr::V4(std::net::Ipv4Addr::new(a, b, c, d)), len }
    }
    const fn v6(bits: u128, len: u8) -> Net {
        Net { addr: IpAddr::V6(std::net::Ipv6Addr::from_bits(bits)), len }
    }
    const SPECIAL: [(Net, &str); 9] = [
        (v4(0, 0, 0, 0, 8), "an unspecified address (0.0.0.0/8)"),
        (v4(127, 0, 0, 0, 8), "a loopback address (127.0.0.0/8)"),
        (v4(224, 0, 0, 0, 4), "a multicast address (224.0.0.0/4)"),
        (v4(255, 255, 255, 255, 32), "the broadcast address"),
        (v6(0, 128), "the unspecified address"),
        (v6(1, 128), "the loopback address"),
        (v6(0xff00 << 112, 8), "a multicast address (ff00::/8)"),
        (v6(0xffff << 32, 96), "an IPv4 address in IPv6 clothes: write it as IPv4"),
        (v6(0, 96), "in ::/96, which names no station"),
    ];
    SPECIAL.iter().find(|(special, _)| special.overlaps(net)).map(|&(_, what)| what)
}
