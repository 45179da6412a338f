//! Where a value stands, what became of it, and what to say when it is wrong.

use super::Surroundings;
use super::table::Key;
use crate::config::Net;
use crate::diagnostic::Problems;
use crate::net::ParseNetError;
use crate::suggest::nearest;
use std::collections::HashSet;
use std::fmt::Display;
use std::net::IpAddr;
use std::ops::Range;
use toml::{Spanned, Value};

/// Bytes of the text.
pub(crate) type Span = Range<usize>;

/// A table: its name in messages, and its header.
pub(crate) struct Scope {
    pub(crate) place: String,
    pub(crate) span: Span,
}

impl Scope {
    pub(crate) fn new(place: impl Into<String>, span: Span) -> Scope {
        Scope { place: place.into(), span }
    }

    /// One of a list of tables, by its name; if it has no good one, by its number.
    pub(crate) fn named(what: &str, number: usize, name: Option<&Spanned<Value>>, span: Span) -> Scope {
        let name =
            name.and_then(|name| name.get_ref().as_str()).filter(|name| crate::registered::is_name(name));
        Scope::new(name.map_or_else(|| format!("{what} {number}"), |name| format!("{what} \"{name}\"")), span)
    }
}

/// Opens a table; one that is not written is empty.
pub(crate) fn open<T: Default>(place: &str, raw: Option<Spanned<T>>) -> (Scope, T) {
    let span = raw.as_ref().map_or(0..0, Spanned::span);
    (Scope::new(place, span), raw.map(Spanned::into_inner).unwrap_or_default())
}

/// A key in its table.
pub(crate) struct At<'a> {
    pub(crate) place: &'a str,
    pub(crate) key: &'static Key,
}

impl At<'_> {
    /// The key's own remedy.
    pub(crate) fn help(&self) -> String {
        self.key.help.replace("{default}", &(self.key.default)().unwrap_or_default())
    }
}

/// What became of a value.
#[derive(Clone, Default)]
pub(crate) enum Read<T> {
    /// Nothing is written.
    #[default]
    Absent,
    /// Something wrong is written, and was reported.
    Bad(Span),
    /// A value, and its place.
    Given(T, Span),
}

impl<T> Read<T> {
    pub(crate) fn ok(self) -> Option<T> {
        match self {
            Read::Given(value, _) => Some(value),
            Read::Absent | Read::Bad(_) => None,
        }
    }

    pub(crate) const fn get(&self) -> Option<&T> {
        match self {
            Read::Given(value, _) => Some(value),
            Read::Absent | Read::Bad(_) => None,
        }
    }

    /// The value, or what holds instead.
    pub(crate) fn or(&self, default: T) -> T
    where
        T: Clone,
    {
        self.get().cloned().unwrap_or(default)
    }

    /// Where a good value stands.
    pub(crate) fn span(&self) -> Option<Span> {
        match self {
            Read::Given(_, span) => Some(span.clone()),
            Read::Absent | Read::Bad(_) => None,
        }
    }

    /// Where something is written, right or wrong.
    pub(crate) fn written(&self) -> Option<Span> {
        match self {
            Read::Given(_, span) | Read::Bad(span) => Some(span.clone()),
            Read::Absent => None,
        }
    }

    pub(crate) const fn is_absent(&self) -> bool {
        matches!(self, Read::Absent)
    }

    /// Keeps a value that may stay; what may not was reported.
    pub(crate) fn check(self, may_stay: impl FnOnce(&T, &Span) -> bool) -> Read<T> {
        match self {
            Read::Given(value, span) if !may_stay(&value, &span) => Read::Bad(span),
            other => other,
        }
    }
}

pub(crate) struct Reader<'p, 't> {
    pub(crate) problems: &'p mut Problems<'t>,
    /// Keys that an unknown key nearly spells: their absence was reported already.
    pub(crate) misspelt: HashSet<String>,
    pub(crate) around: Surroundings,
}

/// A wrong text, with quotes and without its tail if it is long.
pub(crate) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

/// What a value is, in messages.
pub(crate) fn sort(value: &Value) -> String {
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
    /// Whether an unknown key nearly spells this one.
    pub(crate) fn is_misspelt(&self, key: &str) -> bool {
        self.misspelt.contains(key)
    }

    /// Whether a key was written as it should be, or not at all: what hangs on it is known only then.
    pub(crate) fn is_known<T>(&self, key: &str, found: &Read<T>) -> bool {
        !matches!(found, Read::Bad(_)) && !self.is_misspelt(key)
    }

    pub(crate) fn error(&mut self, span: &Span, message: impl Into<String>, help: impl Into<String>) {
        self.problems.error(span.clone(), message, help);
    }

    pub(crate) fn warning(&mut self, span: &Span, message: impl Into<String>, help: impl Into<String>) {
        self.problems.warning(span.clone(), message, help);
    }

    /// Reports that a value is wrong.
    pub(crate) fn wrong(&mut self, at: &At<'_>, span: &Span, what: impl Display, help: impl Into<String>) {
        self.error(span, format!("{}: `{}` {what}", at.place, at.key.name), help);
    }

    /// Reports that a required key is missing, unless a misspelt one was reported.
    pub(crate) fn missing(&mut self, scope: &Scope, key: &Key) {
        let (place, name) = (&scope.place, key.name);
        if !self.is_misspelt(name) {
            let message = match (place.as_str(), (key.label)().as_str()) {
                ("", "tables") => format!("there is no [[{name}]]"),
                ("", _) => format!("there is no [{name}]"),
                _ => format!("{place}: `{name}` is missing"),
            };
            self.error(&scope.span, message, key.help);
        }
    }

    /// Text without control characters, not empty.
    pub(crate) fn text(&mut self, at: &At<'_>, span: &Span, value: Value, help: &str) -> Option<String> {
        match value {
            Value::String(s) if s.is_empty() => self.wrong(at, span, "is empty", help),
            Value::String(s) if s.chars().any(char::is_control) => {
                self.wrong(at, span, format_args!("has a control character: {}", shown(&s)), help);
            }
            Value::String(s) => return Some(s),
            other => {
                let what = format!("must be a string, found {}", sort(&other));
                self.wrong(at, span, what, format!("put it in double quotes; {help}"));
            }
        }
        None
    }

    /// An integer from `min` to `max`.
    pub(crate) fn integer(
        &mut self,
        at: &At<'_>,
        span: &Span,
        value: &Value,
        (min, max): (i64, i64),
        mut help: String,
    ) -> Option<i64> {
        match value {
            Value::Integer(i) if (min..=max).contains(i) => return Some(*i),
            Value::String(s) => {
                if let Ok(i) = s.parse::<i64>() {
                    help = format!("write it without quotes: {i}; {help}");
                }
            }
            _ => {}
        }
        let what = format!("must be an integer from {min} to {max}, found {}", sort(value));
        self.wrong(at, span, what, help);
        None
    }

    /// One of `choices`.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        at: &At<'_>,
        span: &Span,
        value: &Value,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let list = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        let Some(s) = value.as_str() else {
            let what = format!("must be a string, found {}", sort(value));
            self.wrong(at, span, what, format!("allowed: {list}"));
            return None;
        };
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == s) {
            return Some(*value);
        }
        let help = match nearest(s, choices.iter().map(|c| c.0)) {
            Some(name) => format!("did you mean \"{name}\"? Allowed: {list}"),
            None => format!("allowed: {list}"),
        };
        self.wrong(at, span, format_args!("cannot be {}", shown(s)), help);
        None
    }

    /// An address that one station can have.
    pub(crate) fn address(&mut self, at: &At<'_>, span: &Span, value: Value, help: &str) -> Option<IpAddr> {
        let text = self.text(at, span, value, help)?;
        let Ok(addr) = text.parse::<IpAddr>() else {
            self.wrong(at, span, format_args!("{} is no IPv4 or IPv6 address", shown(&text)), help);
            return None;
        };
        self.unicast(at, addr, span, help).then_some(addr)
    }

    /// Reports an address that no station on a network can have.
    pub(crate) fn unicast(&mut self, at: &At<'_>, addr: IpAddr, span: &Span, help: &str) -> bool {
        let Some(what) = not_unicast(Net::host(addr)) else { return true };
        self.wrong(at, span, format_args!("{addr} is {what}"), help);
        false
    }

    /// An address with a prefix length. `bare` allows an address alone.
    pub(crate) fn net(
        &mut self,
        at: &At<'_>,
        span: &Span,
        text: &str,
        bare: bool,
        help: &str,
    ) -> Option<Net> {
        let what = match text.parse::<Net>() {
            Ok(_) if !bare && !text.contains('/') => format!("{} has no prefix length", shown(text)),
            Ok(net) => return Some(net),
            Err(error @ ParseNetError::Address) => format!("{} is {error}", shown(text)),
            Err(error @ ParseNetError::Length { .. }) => format!("{}: {error}", shown(text)),
        };
        self.wrong(at, span, what, help);
        None
    }

    /// Reports bits behind a prefix.
    pub(crate) fn prefix(&mut self, at: &At<'_>, span: &Span, net: Net) -> bool {
        if net.network() == net.addr {
            return true;
        }
        let right = Net { addr: net.network(), len: net.len };
        let help = format!("write \"{right}\" for the prefix or \"{}\" for the single address", net.addr);
        self.wrong(at, span, format_args!("{net} has bits set behind the prefix"), help);
        false
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

/// The first and the last of a range that is written as one number, or as text: `"300-399"`.
pub(crate) fn range_of(value: &Value) -> Option<(u16, u16)> {
    match value {
        Value::Integer(one) => u16::try_from(*one).ok().map(|one| (one, one)),
        Value::String(text) => match text.split_once('-') {
            Some((first, last)) => first.parse().ok().zip(last.parse().ok()),
            None => text.parse().ok().map(|one| (one, one)),
        },
        _ => None,
    }
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
