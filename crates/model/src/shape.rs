//! The first look at a parsed text: are the keys known, and are tables and lists where they belong?
//!
//! Whatever is not gets reported and cut out, so that one unknown key does not hide the next problem.

use crate::diagnostic::Problems;
use crate::schema;
use crate::suggest::nearest;
use serde_json::{Map, Value};
use std::collections::HashSet;
use toml::de::{DeTable, DeValue};

/// Reports and removes what does not belong. Returns the keys that were misspelt or of the wrong shape:
/// nobody need hear that those are missing.
pub(crate) fn prune(table: &mut DeTable<'_>, problems: &mut Problems<'_>) -> HashSet<String> {
    let mut walk = Walk { problems, misspelt: HashSet::new() };
    walk.table(table, schema::cached(), "");
    walk.misspelt
}

struct Walk<'p, 't> {
    problems: &'p mut Problems<'t>,
    misspelt: HashSet<String>,
}

impl Walk<'_, '_> {
    fn table(&mut self, table: &mut DeTable<'_>, schema: &Value, place: &str) {
        let empty = Map::new();
        let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        let mut rejected = Vec::new();
        for (key, value) in table.iter_mut() {
            let name: &str = key.get_ref();
            let ok = match known.get(name) {
                None => {
                    self.unknown(name, key.span(), known, place);
                    false
                }
                Some(schema) => {
                    let span = value.span();
                    let path = if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
                    self.value(value.get_mut(), span, schema, &path, name)
                }
            };
            if !ok {
                rejected.push(key.clone());
            }
        }
        for key in rejected {
            table.remove(&key);
        }
    }

    fn unknown(&mut self, name: &str, span: std::ops::Range<usize>, known: &Map<String, Value>, place: &str) {
        let shown: String = name.chars().take(64).collect();
        let message = if place.is_empty() {
            format!("unknown table or key `{shown}`")
        } else {
            format!("unknown key `{shown}` in [{place}]")
        };
        let keys = || known.keys().map(String::as_str);
        let help = match nearest(name, keys()) {
            Some(key) => {
                self.misspelt.insert(key.to_owned());
                format!("did you mean `{key}`?")
            }
            None => {
                let home = schema_home(name).filter(|home| home != place);
                let list = format!("known here: {}", keys().collect::<Vec<_>>().join(", "));
                match home {
                    Some(home) => format!("`{shown}` belongs to [{home}]; {list}"),
                    None => list,
                }
            }
        };
        self.problems.error(span, message, help);
    }

    /// Whether the value may stay.
    fn value(
        &mut self,
        value: &mut DeValue<'_>,
        span: std::ops::Range<usize>,
        schema: &Value,
        path: &str,
        name: &str,
    ) -> bool {
        let wanted = schema.get("type").and_then(Value::as_str).unwrap_or("");
        let items = schema.get("items").filter(|items| items.get("properties").is_some());
        let problem = match (wanted, items, &mut *value) {
            ("object", _, DeValue::Table(table)) => {
                self.table(table, schema, path);
                None
            }
            ("object", _, DeValue::Array(_)) => Some((
                format!("{path} is one table, not a list"),
                format!("write [{path}] with single brackets, once"),
            )),
            ("object", _, other) => Some((
                format!("{path} is a table, found {}", kind(other)),
                format!("write [{path}] on a line of its own and its keys below"),
            )),
            ("array", Some(items), DeValue::Array(list)) => {
                let mut ok = true;
                for item in list.iter_mut() {
                    let span = item.span();
                    if let DeValue::Table(table) = item.get_mut() {
                        self.table(table, items, path);
                    } else {
                        ok = false;
                        let message = format!("{path} is a list of tables, found {}", kind(item.get_ref()));
                        self.problems.error(span, message, format!("write [[{path}]] and the keys below"));
                    }
                }
                if !ok {
                    self.misspelt.insert(name.to_owned());
                }
                return ok;
            }
            ("array", Some(_), other) => Some((
                format!("{path} is a list of tables, found {}", kind(other)),
                format!("write [[{path}]] with double brackets before each one"),
            )),
            ("array", None, DeValue::Array(_)) => None,
            ("array", None, other) => Some((
                format!("{path} is a list, found {}", kind(other)),
                format!("put the value in brackets: {name} = [ … ]"),
            )),
            _ => None,
        };
        if let Some((message, help)) = problem {
            self.misspelt.insert(name.to_owned());
            self.problems.error(span, message, help);
            return false;
        }
        true
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The table that knows a key of this name.
fn schema_home(name: &str) -> Option<String> {
    fn search(schema: &Value, path: &str, name: &str) -> Option<String> {
        let known = schema.get("properties")?.as_object()?;
        if !path.is_empty() && known.contains_key(name) {
            return Some(path.to_owned());
        }
        known.iter().find_map(|(key, inner)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            search(inner.get("items").unwrap_or(inner), &path, name)
        })
    }
    search(schema::cached(), "", name)
}
