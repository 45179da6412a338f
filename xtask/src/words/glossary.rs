//! What operators read and write is in docs/glossary.md: commands, tables of the configuration, and the states
//! in answers.

use crate::project;
use std::collections::BTreeSet;
use syn::Item;

const GLOSSARY: &str = "docs/glossary.md";
/// Enums whose variants are words, and how a variant becomes one.
const ENUMS: &[(&str, &str, char)] = &[
    ("crates/guideway/src/arguments.rs", "Subcommands", '-'),
    ("crates/guideway/src/command/revision.rs", "RevisionCommand", '-'),
    ("crates/guideway/src/command/service.rs", "ServiceCommand", '-'),
    ("crates/guideway-agent/src/arguments.rs", "Subcommands", '-'),
    ("crates/model/src/api.rs", "ServiceState", '_'),
    ("crates/model/src/api.rs", "BackendState", '_'),
    ("crates/model/src/api.rs", "Word", '_'),
];
/// Files that have every table of a configuration.
const CONFIGURATIONS: &[&str] = &["configs/guideway.toml", "configs/agent.toml"];

/// Says what has no entry.
///
/// # Errors
/// A file cannot be read or understood.
pub(super) fn check() -> Result<Vec<String>, String> {
    let text = read(GLOSSARY)?;
    let entries = entries(&text);
    let mut problems = Vec::new();
    let mut look_up = |word: &str, source: &str| {
        if !entries.contains(word) {
            problems.push(format!("{GLOSSARY}: no entry for `{word}` of {source}"));
        }
    };
    for (path, name, between) in ENUMS {
        let file = syn::parse_file(&read(path)?).map_err(|e| format!("{path}: {e}"))?;
        let words = variants(&file.items, name, *between);
        if words.is_empty() {
            return Err(format!("{path}: there is no enum {name}"));
        }
        words.iter().for_each(|word| look_up(word, path));
    }
    for path in CONFIGURATIONS {
        tables(&read(path)?).iter().for_each(|table| look_up(table, path));
    }
    Ok(problems)
}

fn read(path: &str) -> Result<String, String> {
    std::fs::read_to_string(project::root().join(path)).map_err(|e| format!("{path}: {e}"))
}

/// What stands in backticks in the first cell of a table's row.
fn entries(glossary: &str) -> BTreeSet<&str> {
    let rows = glossary.lines().filter_map(|line| line.strip_prefix('|'));
    let cells = rows.filter_map(|row| row.split('|').next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

/// An enum's variants, in lower case with `between` before what was a capital.
fn variants(items: &[Item], name: &str, between: char) -> Vec<String> {
    let of_enum = |item: &Item| match item {
        Item::Enum(item) if item.ident == name => {
            let own = item.variants.iter().filter(|variant| !is_flattened(variant));
            Some(own.map(|variant| lower(&variant.ident.to_string(), between)).collect())
        }
        _ => None,
    };
    items.iter().find_map(of_enum).unwrap_or_default()
}

/// Whether a variant stands for the commands of another enum.
fn is_flattened(variant: &syn::Variant) -> bool {
    let is_flatten = |attribute: &syn::Attribute| {
        attribute.path().is_ident("command")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|word| word == "flatten")
    };
    variant.attrs.iter().any(is_flatten)
}

fn lower(name: &str, between: char) -> String {
    let mut word = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !word.is_empty() {
            word.push(between);
        }
        word.extend(letter.to_lowercase());
    }
    word
}

/// The tables of a configuration, also those that are commented out; of one with names of its own
/// (`command.check-db`) what comes before.
fn tables(configuration: &str) -> BTreeSet<String> {
    let headers = configuration.lines().filter_map(|line| {
        let line = line.trim_start_matches(['#', ' ']).strip_prefix('[')?;
        let name = line.trim_start_matches('[').split(']').next()?;
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || "._-".contains(c));
        is_name.then_some(name)
    });
    let known =
        headers.map(|name| if name.contains('-') { name.split('.').next().unwrap_or(name) } else { name });
    known.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_in_the_first_cells() {
        let text = "# `a`\n| word | meaning |\n|---|---|\n| `b`, `c.d` | as `e` |\n| **f** | g |";
        assert_eq!(entries(text), BTreeSet::from(["b", "c.d"]));
    }

    #[test]
    fn words_come_from_variants_and_tables() {
        let file =
            syn::parse_file("enum B { X } enum A { CheckConfig(u8), #[command(flatten)] More(B), Up }")
                .unwrap();
        assert_eq!(variants(&file.items, "A", '-'), ["check-config", "up"]);
        assert!(variants(&file.items, "C", '-').is_empty());
        let text = "[a]  # [not this]\nx = [1]\n# [b]\n[[c.d]]\n#[e.an-own]\n# ranges [0, 1]\n";
        assert_eq!(tables(text), ["a", "b", "c.d", "e"].map(str::to_owned).into());
    }
}
