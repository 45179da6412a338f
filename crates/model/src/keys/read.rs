//! Where a value stands, what became of it, and what to say when it is wrong.

use super::key::ConfigKey;
use super::other_tables::OtherTables;
use crate::diagnostic::Problems;
use crate::name::is_name;
use crate::net::{Net, ParseNetError, not_unicast};
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
        let name = name.and_then(|name| name.get_ref().as_str()).filter(|name| is_name(name));
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
    pub(crate) key: &'static ConfigKey,
}

impl At<'_> {
    /// The key's own remedy.
    pub(crate) fn help(&self) -> String {
        self.key.help.replace("{default}", &(self.key.default)().unwrap_or_default())
    }
}

/// What became of a value.
#[derive(Clone, Default)]
pub(crate) enum ReadValue<T> {
    /// Nothing is written.
    #[default]
    Absent,
    /// Something wrong is written, and was reported.
    Bad(Span),
    /// A value, and its place.
    Given(T, Span),
}

impl<T> ReadValue<T> {
    pub(crate) fn ok(self) -> Option<T> {
        match self {
            ReadValue::Given(value, _) => Some(value),
            ReadValue::Absent | ReadValue::Bad(_) => None,
        }
    }

    pub(crate) const fn get(&self) -> Option<&T> {
        match self {
            ReadValue::Given(value, _) => Some(value),
            ReadValue::Absent | ReadValue::Bad(_) => None,
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
            ReadValue::Given(_, span) => Some(span.clone()),
            ReadValue::Absent | ReadValue::Bad(_) => None,
        }
    }

    /// Where something is written, right or wrong.
    pub(crate) fn written(&self) -> Option<Span> {
        match self {
            ReadValue::Given(_, span) | ReadValue::Bad(span) => Some(span.clone()),
            ReadValue::Absent => None,
        }
    }

    pub(crate) const fn is_absent(&self) -> bool {
        matches!(self, ReadValue::Absent)
    }

    /// Keeps a value that may stay; what may not was reported.
    pub(crate) fn check(self, may_stay: impl FnOnce(&T, &Span) -> bool) -> ReadValue<T> {
        match self {
            ReadValue::Given(value, span) if !may_stay(&value, &span) => ReadValue::Bad(span),
            other => other,
        }
    }
}

pub(crate) struct Reader<'p, 't> {
    pub(crate) problems: &'p mut Problems<'t>,
    /// Keys that an unknown key nearly spells: their absence was reported already.
    pub(crate) misspelt: HashSet<String>,
    pub(crate) others: OtherTables,
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
    pub(crate) fn is_known<T>(&self, key: &str, found: &ReadValue<T>) -> bool {
        !matches!(found, ReadValue::Bad(_)) && !self.is_misspelt(key)
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
    pub(crate) fn missing(&mut self, scope: &Scope, key: &ConfigKey) {
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
