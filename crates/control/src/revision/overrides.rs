//! What the API says of single services, over what the file says of them.

use model::api::BackendPatch;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use toml::{Table, Value};

/// Services of which the API says something, at most.
pub(crate) const OVERRIDES_MAX: usize = 4096;
/// Bytes of all of it.
pub(crate) const BYTES_MAX: usize = 8 << 20;

/// The array of services in a configuration.
const SERVICES: &str = "service";
/// That of backends in a service.
const BACKENDS: &str = "backend";

/// By service.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Overrides {
    of: BTreeMap<String, Override>,
}

/// What the API says of one service.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Override {
    /// The service as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    whole: Option<Whole>,
    /// Of single backends, whoever says what the service is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    backends: BTreeMap<String, BackendPatch>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Whole {
    /// As a part of a configuration: `[[service]]` and what belongs to it.
    Set(String),
    Deleted,
}

/// A change of one service by the API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ServiceChange {
    /// It is to be as this part of a configuration says.
    Set(String),
    /// It is to be gone.
    Delete,
    /// One backend is to be otherwise.
    Patch { backend: String, patch: BackendPatch },
    /// What the file says of it is to hold again.
    Release,
}

/// Why a change cannot be made. Nothing changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum OverrideRefusal {
    #[error("the body is no TOML: {0}")]
    Syntax(String),
    #[error("the body is not one [[service]] with name = \"{0}\", and nothing else")]
    NotOneService(String),
    #[error("the API says something of {OVERRIDES_MAX} services already, or of {BYTES_MAX} bytes")]
    TooMany,
}

impl Overrides {
    pub(crate) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Whether the API says anything of a service.
    pub(crate) fn says_of(&self, service: &str) -> bool {
        self.of.contains_key(service)
    }

    /// Bytes, about.
    pub(crate) fn bytes(&self) -> usize {
        let of_patch = |(name, _): (&String, &BackendPatch)| name.len() + 32;
        let of_word = |(name, word): (&String, &Override)| {
            let whole = if let Some(Whole::Set(text)) = &word.whole { text.len() } else { 8 };
            name.len() + whole + word.backends.iter().map(of_patch).sum::<usize>()
        };
        self.of.iter().map(of_word).sum()
    }

    /// What the API says, by service: the service `set` or `deleted`, and backends of which something is said.
    pub(crate) fn held(&self) -> impl Iterator<Item = (&str, Option<&'static str>, Vec<&str>)> {
        self.of.iter().map(|(name, word)| {
            let whole = word.whole.as_ref().map(|whole| match whole {
                Whole::Set(_) => "set",
                Whole::Deleted => "deleted",
            });
            (name.as_str(), whole, word.backends.keys().map(String::as_str).collect())
        })
    }

    /// Those of the first services, and those of the others.
    pub(super) fn halves(mut self) -> (Overrides, Overrides) {
        let middle = self.of.keys().nth(self.of.len() / 2).cloned().unwrap_or_default();
        let others = self.of.split_off(&middle);
        (self, Overrides { of: others })
    }

    /// These words and those of other services.
    pub(super) fn and(&self, others: &Overrides) -> Overrides {
        let of = self.of.iter().chain(&others.of).map(|(name, word)| (name.clone(), word.clone()));
        Overrides { of: of.collect() }
    }

    /// These words after a change. `is_in_file`: the file says something of the service.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub(crate) fn after(
        &self,
        service: &str,
        change: ServiceChange,
        is_in_file: bool,
    ) -> Result<Overrides, OverrideRefusal> {
        let mut overrides = self.clone();
        let mut word = overrides.of.remove(service).unwrap_or_default();
        match change {
            ServiceChange::Set(text) => {
                check_part(service, &text)?;
                word = Override { whole: Some(Whole::Set(text)), ..Override::default() };
            }
            ServiceChange::Delete => {
                word = Override { whole: is_in_file.then_some(Whole::Deleted), ..Override::default() };
            }
            ServiceChange::Patch { backend, patch } => {
                let of = word.backends.entry(backend).or_default();
                of.weight = patch.weight.or(of.weight);
                of.state = patch.state.or(of.state);
            }
            ServiceChange::Release => word = Override::default(),
        }
        if word != Override::default() {
            overrides.of.insert(service.to_owned(), word);
        }
        if overrides.of.len() > OVERRIDES_MAX || overrides.bytes() > BYTES_MAX {
            return Err(OverrideRefusal::TooMany);
        }
        Ok(overrides)
    }

    /// The configuration that holds: the file's text with what the API says. Without words it is the text itself.
    ///
    /// # Errors
    /// A text is no TOML.
    pub(crate) fn over(&self, base: &str) -> Result<String, OverrideRefusal> {
        if self.is_empty() {
            return Ok(base.to_owned());
        }
        let mut table = parsed(base)?;
        let mut services = match table.remove(SERVICES) {
            None => Vec::new(),
            Some(Value::Array(services)) => services,
            Some(other) => {
                // The check of the whole says what is wrong with it.
                table.insert(SERVICES.to_owned(), other);
                return Ok(table.to_string());
            }
        };
        services
            .retain(|of| name_of(of).is_none_or(|name| self.of.get(name).is_none_or(|w| w.whole.is_none())));
        let mut notes = String::new();
        for (name, word) in &self.of {
            if let Some(Whole::Set(text)) = &word.whole
                && let Some(Value::Array(set)) = parsed(text)?.remove(SERVICES)
            {
                services.extend(set);
            }
            if let Some(service) = services.iter_mut().find(|of| name_of(of) == Some(name)) {
                patch_backends(service, &word.backends);
            }
            notes.push_str(&note(name, word));
        }
        table.insert(SERVICES.to_owned(), Value::Array(services));
        Ok(format!("{notes}{table}"))
    }
}

/// Whose word holds, as a comment.
fn note(name: &str, word: &Override) -> String {
    let whole = match &word.whole {
        Some(Whole::Set(_)) => "as the API has set it, not as the file says",
        Some(Whole::Deleted) => "deleted by the API, whatever the file says",
        None => "the file's, but for backends",
    };
    let backends: Vec<&str> = word.backends.keys().map(String::as_str).collect();
    let of_backends = match backends.len() {
        0 => String::new(),
        _ => format!("; weight or state by the API: {}", backends.join(", ")),
    };
    // A name has no line ends: it was checked when it came in.
    format!("# service {name}: {whole}{of_backends}\n")
}

fn patch_backends(service: &mut Value, patches: &BTreeMap<String, BackendPatch>) {
    let Some(Value::Array(backends)) = service.get_mut(BACKENDS) else { return };
    for backend in backends.iter_mut() {
        let Some(patch) = name_of(backend).and_then(|name| patches.get(name)) else { continue };
        let Value::Table(backend) = backend else { continue };
        if let Some(weight) = patch.weight {
            backend.insert("weight".to_owned(), Value::Integer(weight.into()));
        }
        if let Some(state) = patch.state {
            backend.insert("state".to_owned(), Value::String(state.as_str().to_owned()));
        }
    }
}

/// Whether a configuration's text says something of a service.
pub(crate) fn is_in_file(base: &str, service: &str) -> bool {
    let table = parsed(base).unwrap_or_default();
    let services = table.get(SERVICES).and_then(Value::as_array);
    services.is_some_and(|all| all.iter().any(|of| name_of(of) == Some(service)))
}

/// One service of a configuration, as a part of a configuration.
pub(crate) fn part_of(text: &str, service: &str) -> Option<String> {
    let mut table = parsed(text).ok()?;
    let Some(Value::Array(services)) = table.remove(SERVICES) else { return None };
    let found = services.into_iter().find(|of| name_of(of) == Some(service))?;
    let part: Table = [(SERVICES.to_owned(), Value::Array(vec![found]))].into_iter().collect();
    Some(part.to_string())
}

fn name_of(of: &Value) -> Option<&str> {
    of.get("name").and_then(Value::as_str)
}

fn check_part(service: &str, text: &str) -> Result<(), OverrideRefusal> {
    let table = parsed(text)?;
    let is_one = table.len() == 1
        && table.get(SERVICES).and_then(Value::as_array).is_some_and(|all| match all.as_slice() {
            [one] => name_of(one) == Some(service),
            _ => false,
        });
    if is_one { Ok(()) } else { Err(OverrideRefusal::NotOneService(service.to_owned())) }
}

fn parsed(text: &str) -> Result<Table, OverrideRefusal> {
    text.parse().map_err(|error: toml::de::Error| {
        // Not as it shows itself, which is with the line concerned: a key may stand there.
        let at = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = at.matches('\n').count() + 1;
        OverrideRefusal::Syntax(format!("line {line}: {}", error.message()))
    })
}
