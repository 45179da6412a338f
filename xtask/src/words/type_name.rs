//! The name of a type means one thing in all crates that can see each other: whoever reads it need not ask
//! which. But for one: what clap parses for a command is `Arguments` of that command's module, everywhere.

use super::finding::{Finding, Rule};
use super::manifest::Dependencies;
use super::source::Source;
use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};
use std::collections::BTreeMap;
use syn::{Item, ItemMacro, ItemStruct};

/// A type at the level of a module.
struct Type {
    name: String,
    package: String,
    /// Path and line.
    place: String,
}

/// Finds names that several types have.
pub(super) fn check(sources: &[Source], dependencies: &Dependencies) -> Vec<Finding> {
    let mut by_name: BTreeMap<String, Vec<Type>> = BTreeMap::new();
    for source in sources {
        for declared in types(source) {
            by_name.entry(declared.name.clone()).or_default().push(declared);
        }
    }
    let mut findings = Vec::new();
    for (name, types) in by_name {
        let has_namesake = |(index, of): (usize, &Type)| {
            let mut others = types.iter().enumerate().filter(|(other, _)| *other != index);
            others.any(|(_, other)| dependencies.are_related(&of.package, &other.package))
        };
        let places: Vec<&str> = types
            .iter()
            .enumerate()
            .filter(|&(index, of)| has_namesake((index, of)))
            .map(|(_, of)| of.place.as_str())
            .collect();
        if !places.is_empty() {
            let message = format!("{name} is the name of {} types: {}", places.len(), places.join(", "));
            // With the files, so that what excuses these types excuses no others of the name.
            let files: Vec<&str> = places.iter().filter_map(|place| Some(place.split_once(':')?.0)).collect();
            let subject = format!("{name} {}", files.join(" "));
            findings.push(Finding { rule: Rule::TypeName, subject, message });
        }
    }
    findings
}

/// The types of a file, also those that its macros make, as far as their names are written there.
fn types(source: &Source) -> Vec<Type> {
    let mut names = Vec::new();
    declared(&source.items, &mut names);
    let of = |name: Ident| Type {
        name: name.to_string(),
        package: source.package.clone(),
        place: format!("{}:{}", source.path, name.span().start().line),
    };
    names.into_iter().map(of).collect()
}

fn declared(items: &[Item], names: &mut Vec<Ident>) {
    for item in items {
        match item {
            Item::Struct(item) if is_command_line(item) => {}
            Item::Struct(item) => names.push(item.ident.clone()),
            Item::Enum(item) => names.push(item.ident.clone()),
            Item::Union(item) => names.push(item.ident.clone()),
            Item::Trait(item) => names.push(item.ident.clone()),
            Item::TraitAlias(item) => names.push(item.ident.clone()),
            Item::Type(item) => names.push(item.ident.clone()),
            Item::Macro(item) => declared_by_macro(item, names),
            Item::Mod(item) => {
                if let Some((_, items)) = &item.content {
                    declared(items, names);
                }
            }
            _ => {}
        }
    }
}

/// Whether these are the arguments of a command, by their name and by what is derived.
fn is_command_line(item: &ItemStruct) -> bool {
    let mut is_parsed = false;
    for attribute in item.attrs.iter().filter(|attribute| attribute.path().is_ident("derive")) {
        // What is no list of names derives nothing.
        let _ = attribute.parse_nested_meta(|derived| {
            let name = derived.path.segments.last().map(|last| last.ident.to_string());
            is_parsed |= matches!(name.as_deref(), Some("Args" | "Parser"));
            Ok(())
        });
    }
    item.ident == "Arguments" && is_parsed
}

/// A macro's definition that holds `struct Name`, or a use of one that holds `Name { … }` first, as
/// `counters!` does.
fn declared_by_macro(item: &ItemMacro, names: &mut Vec<Ident>) {
    if item.mac.path.is_ident("macro_rules") {
        written_out(item.mac.tokens.clone(), names);
        return;
    }
    let mut trees = item.mac.tokens.clone().into_iter();
    let first = trees.find_map(|tree| match tree {
        TokenTree::Ident(name) => Some(name),
        _ => None,
    });
    let is_braced =
        matches!(trees.next(), Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace);
    names.extend(first.filter(|name| is_braced && name.to_string().starts_with(char::is_uppercase)));
}

fn written_out(tokens: TokenStream, names: &mut Vec<Ident>) {
    let mut is_keyword_before = false;
    for tree in tokens {
        match tree {
            TokenTree::Ident(word) => {
                if is_keyword_before {
                    names.push(word.clone());
                }
                is_keyword_before =
                    ["struct", "enum", "union", "trait"].iter().any(|keyword| word == keyword);
            }
            TokenTree::Group(group) => {
                is_keyword_before = false;
                written_out(group.stream(), names);
            }
            _ => is_keyword_before = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(texts: &[(&str, &str)]) -> Vec<Finding> {
        let dependencies = Dependencies::of(&[
            ("wire", String::new()),
            ("steer", "[dependencies]\nwire = \"1\"".to_owned()),
            ("flow", "[dependencies]\nwire = \"1\"".to_owned()),
        ]);
        let parse = |&(package, text): &(&str, &str)| {
            Source::parse(package, &format!("crates/{package}/src/a.rs"), text).unwrap()
        };
        check(&texts.iter().map(parse).collect::<Vec<_>>(), &dependencies)
    }

    fn names(texts: &[(&str, &str)]) -> Vec<String> {
        let name = |finding: Finding| finding.subject.split(' ').next().unwrap_or_default().to_owned();
        found(texts).into_iter().map(name).collect()
    }

    #[test]
    fn a_name_of_two_crates_is_found_where_one_uses_the_other() {
        let found = found(&[("wire", "pub struct Packet;"), ("flow", "\nenum Packet {}"), ("steer", "")]);
        let message = "Packet is the name of 2 types: crates/wire/src/a.rs:1, crates/flow/src/a.rs:2";
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].message, message);
        assert_eq!(found[0].subject, "Packet crates/wire/src/a.rs crates/flow/src/a.rs");
        assert!(names(&[("steer", "struct A;"), ("flow", "struct A;")]).is_empty(), "neither sees the other");
    }

    #[test]
    fn every_kind_of_type_counts_and_so_does_one_crate() {
        let kinds = [
            "struct A;",
            "enum A {}",
            "union A { a: u8 }",
            "trait A {}",
            "type A = u8;",
            "mod m { struct A; }",
        ];
        for kind in kinds {
            assert_eq!(names(&[("wire", &format!("{kind} mod n {{ pub struct A; }}"))]), ["A"], "{kind}");
        }
        let not_types =
            "struct A; fn f() { struct A; } impl B for C { type A = u8; } const A: u8 = 1; use x::A;";
        assert!(names(&[("wire", not_types)]).is_empty());
        assert!(names(&[("wire", "struct A; #[cfg(test)] mod tests { struct A; }")]).is_empty());
    }

    #[test]
    fn arguments_of_commands_may_share_their_name() {
        let apply = "mod apply { #[derive(clap::Args, Debug)] pub struct Arguments; }";
        let plan = "mod plan { #[derive(Debug)] #[derive(Parser)] struct Arguments; }";
        assert!(names(&[("wire", &format!("{apply} {plan}"))]).is_empty());
        let other = "mod a { struct Arguments; } mod b { #[derive(Debug)] struct Arguments; }";
        assert_eq!(names(&[("wire", &format!("{apply} {other}"))]), ["Arguments"], "those of functions");
        assert_eq!(names(&[("wire", "#[derive(Args)] struct A; mod b { struct A; }")]), ["A"]);
    }

    #[test]
    fn types_that_macros_make_count() {
        let macros =
            "macro_rules! m { ($a:ident) => { pub enum A { $a } pub struct $a; } }\nm! { /// B.\n B { c, } }";
        assert_eq!(names(&[("wire", macros), ("flow", "struct A; struct B; struct C;")]), ["A", "B"]);
    }
}
