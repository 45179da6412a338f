//! docs/configuration.md is made of the keys, and configs/guideway.toml shows each of them.

use crate::Config;
use crate::keys::key::{ConfigKey, ConfigTable as _, RestartRule};
use schemars::SchemaGenerator;
use serde_json::Value;
use std::fmt::Write as _;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
const EXAMPLE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/guideway.toml"));
/// Keys of a build for negative controls alone.
const NOT_RELEASED: [&str; 2] = ["cluster.sync", "cluster.export"];

const HEAD: &str = "# Configuration

Every key of a configuration of guidewayd, made of the code by `cargo xtask docs`. `guideway check FILE` reads a configuration and
says what is wrong with it, and where; [configs/guideway.toml](../configs/guideway.toml) is a full example,
[configs/schema.json](../configs/schema.json) tells editors. Where neither a default nor `required` is said, nothing holds without the
key.

The column *change* says what it takes to change a key of a running guidewayd by `guideway apply`:

* **live**: nothing;
* **restart**: a restart; `apply` names such keys and changes nothing;
* **cluster**: nothing on a machine that is alone, in a cluster a restart;
* **stateless**: nothing but where the service has `state = \"exceptions\"`, then a restart;
* **new**: another name is another port, service or backend.
";

/// What values of a key may be, beside their type.
fn range(schema: &Value) -> String {
    let words = |list: &Value| {
        let list = list.as_array().into_iter().flatten();
        let words = list.filter_map(|of| of.get("const").unwrap_or(of).as_str());
        words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
    };
    let limits = |min: &str, max: &str| match (&schema[min], &schema[max]) {
        (Value::Null, Value::Null) => None,
        (Value::Null, max) => Some(format!("to {max}")),
        (min, Value::Null) => Some(format!("from {min}")),
        (min, max) if min == max => Some(min.to_string()),
        (min, max) => Some(format!("{min} to {max}")),
    };
    let long = |min, max, what: &str| limits(min, max).map(|of| format!("{of} {what}"));
    limits("minimum", "maximum")
        .or_else(|| long("minLength", "maxLength", "characters"))
        .or_else(|| long("minItems", "maxItems", "entries"))
        .unwrap_or_else(|| [&schema["enum"], &schema["oneOf"]].map(words).concat())
}

fn row(key: &ConfigKey) -> String {
    let schema = (key.schema)(&mut SchemaGenerator::default()).to_value();
    let unit = if key.unit.is_empty() { String::new() } else { format!(", {}", key.unit) };
    let default = (key.default)().unwrap_or_default();
    let default = if key.required { "required".to_owned() } else { default };
    let change = match key.change {
        RestartRule::Live => "live",
        RestartRule::Restart => "restart",
        RestartRule::InCluster => "cluster",
        RestartRule::WhileStateless => "stateless",
        RestartRule::Identity => "new",
    };
    let cells = [
        format!("`{}`", key.name),
        (key.label)() + &unit,
        range(&schema),
        default,
        change.to_owned(),
        key.doc.trim().to_owned(),
    ];
    assert!(cells.iter().all(|cell| cell.chars().count() <= 300 && !cell.contains('|')), "{cells:?}");
    format!("| {} |\n", cells.join(" | "))
}

/// The tables below one, each with its path, those in lists in double brackets.
fn tables(keys: &'static [ConfigKey], path: &str, each: &mut impl FnMut(&str, bool, &'static ConfigKey)) {
    for key in keys.iter().filter(|key| !key.keys.is_empty()) {
        let path = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
        each(&path, (key.label)() == "tables", key);
        tables(key.keys, &path, each);
    }
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    tables(Config::KEYS, "", &mut |path, is_list, table| {
        let header = if is_list { format!("[[{path}]]") } else { format!("[{path}]") };
        let schema = (table.schema)(&mut SchemaGenerator::default()).to_value();
        let doc =
            schema["description"].as_str().or(schema["items"]["description"].as_str()).unwrap_or_default();
        let doc = if table.doc.is_empty() { doc } else { table.doc.trim() };
        let _ = write!(page, "\n## `{header}`\n\n{doc}\n\n");
        page += "| key | type | range | default | change | meaning |\n|---|---|---|---|---|---|\n";
        let keys = table.keys.iter().filter(|key| key.keys.is_empty());
        page.extend(
            keys.filter(|key| !NOT_RELEASED.contains(&format!("{path}.{}", key.name).as_str())).map(row),
        );
    });
    page
}

/// `cargo xtask docs` sets `UPDATE_DOCS`: then the file is written.
#[test]
fn page_is_current() {
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, &page).unwrap();
    }
    assert_eq!(std::fs::read_to_string(PAGE).unwrap(), page, "run cargo xtask docs");
}

/// What the example says of a table: its sections, and its parent's, where it may stand within braces.
fn sections(path: &str) -> String {
    let parent = path.rsplit_once('.').map(|(parent, _)| parent);
    let mut at = String::new();
    let mut text = String::new();
    for line in EXAMPLE.lines() {
        let plain = line.trim_start_matches("# ");
        if plain.starts_with('[') {
            at = plain.trim_start_matches('[').split(']').next().unwrap_or_default().to_owned();
        } else if at == path || Some(at.as_str()) == parent {
            text += line;
            text.push('\n');
        }
    }
    text
}

/// Each key is set in the example, in its own table, or shown there in a comment; and what is set there
/// agrees with the schema.
#[test]
fn the_example_shows_every_key_in_its_table() {
    let is_shown = |text: &str, key: &str| {
        let is_part = |before: Option<char>| before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        text.match_indices(&format!("{key} = ")).any(|(at, _)| !is_part(text[..at].chars().next_back()))
    };
    let mut count = 0;
    let mut missing = Vec::new();
    tables(Config::KEYS, "", &mut |path, _, table| {
        let text = sections(path);
        for key in table.keys.iter().filter(|key| key.keys.is_empty()) {
            let name = format!("{path}.{}", key.name);
            if !NOT_RELEASED.contains(&name.as_str()) {
                count += 1;
                if !is_shown(&text, key.name) {
                    missing.push(name);
                }
            }
        }
    });
    assert!(count > 110, "{count}");
    assert_eq!(missing, Vec::<String>::new());
}
