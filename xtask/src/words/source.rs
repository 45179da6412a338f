//! A crate's files as syntax trees, without what only tests have: files by the `#[cfg(test)]` of their `mod`,
//! items by their own.

use super::package::Package;
use crate::project;
use proc_macro2::TokenStream;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Attribute, ImplItem, Item, Meta, Token, TraitItem};

/// One file.
pub(super) struct Source {
    /// The crate it belongs to.
    pub(super) package: String,
    /// From the workspace's root.
    pub(super) path: String,
    /// Whether a library or a program begins here.
    pub(super) is_root: bool,
    /// All of it.
    pub(super) text: String,
    /// All of it, comments aside.
    pub(super) tokens: TokenStream,
    /// Without those that only tests have.
    pub(super) items: Vec<Item>,
    /// Where those were.
    test_lines: Vec<RangeInclusive<usize>>,
    /// Modules that only tests have, as paths of files without their ends.
    test_modules: Vec<String>,
}

impl Source {
    /// Parses a file.
    ///
    /// # Errors
    /// It is no Rust.
    pub(super) fn parse(package: &str, path: &str, text: &str) -> Result<Source, String> {
        let tokens: TokenStream = text
            .parse()
            .map_err(|e: proc_macro2::LexError| format!("{path}:{}: {e}", e.span().start().line))?;
        let file: syn::File =
            syn::parse2(tokens.clone()).map_err(|e| format!("{path}:{}: {e}", e.span().start().line))?;
        let mut source = Source {
            package: package.to_owned(),
            path: path.to_owned(),
            is_root: is_root(path),
            text: text.to_owned(),
            tokens,
            items: Vec::new(),
            test_lines: Vec::new(),
            test_modules: Vec::new(),
        };
        if is_test_only(&file.attrs) {
            source.test_modules.push(source.stem().to_owned());
        }
        let folder = source.folder().to_owned();
        let of_tests = file.items.iter().filter(|item| is_test_only(attributes(item)));
        for item in of_tests {
            if let Item::Mod(module) = item {
                source.test_modules.push(format!("{folder}/{}", module.ident));
            }
        }
        source.items = file.items;
        strip(&mut source.items, &mut source.test_lines);
        Ok(source)
    }

    /// Whether a line is part of an item that only tests have.
    pub(super) fn is_of_tests(&self, line: usize) -> bool {
        self.test_lines.iter().any(|lines| lines.contains(&line))
    }

    /// The folder with the files of its modules.
    pub(super) fn folder(&self) -> &str {
        match self.stem().rsplit_once('/') {
            Some((folder, "lib" | "main" | "mod")) => folder,
            _ => self.stem(),
        }
    }

    fn stem(&self) -> &str {
        self.path.strip_suffix(".rs").unwrap_or(&self.path)
    }
}

/// The files of a crate.
///
/// # Errors
/// One cannot be read, or is no Rust.
pub(super) fn read(package: &Package) -> Result<Vec<Source>, String> {
    let mut paths = Vec::new();
    list(&project::root().join(&package.code), &mut paths)?;
    paths.sort();
    let mut texts = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let path = path.strip_prefix(project::root()).unwrap_or(&path);
        texts.push((path.display().to_string(), text));
    }
    sources(package.name, &texts)
}

fn list(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            list(&path, found)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// The files of a crate, from their paths and texts.
///
/// # Errors
/// One is no Rust.
pub(super) fn sources(package: &str, texts: &[(String, String)]) -> Result<Vec<Source>, String> {
    let mut sources = Vec::new();
    for (path, text) in texts {
        sources.push(Source::parse(package, path, text)?);
    }
    let modules: Vec<String> = sources.iter().flat_map(|source| source.test_modules.clone()).collect();
    let of_tests = |source: &Source| {
        modules.iter().any(|module| source.stem() == module || source.path.starts_with(&format!("{module}/")))
    };
    sources.retain(|source| !of_tests(source));
    Ok(sources)
}

/// Whether a library or a program begins with a file: those of crates and of the lab.
fn is_root(path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    match name {
        "lib.rs" | "main.rs" => folder.ends_with("/src") || folder == "src" || folder == "tests/lab",
        "lab_demo.rs" | "lab_load.rs" => folder == "tests/lab",
        "simulate.rs" => folder == "crates/testkit/src",
        _ => false,
    }
}

/// Takes out what only tests have, and remembers where it was. Within functions nothing is looked for.
fn strip(items: &mut Vec<Item>, lines: &mut Vec<RangeInclusive<usize>>) {
    items.retain(|item| keep(attributes(item), item, lines));
    for item in items {
        match item {
            Item::Mod(module) => {
                if let Some((_, items)) = &mut module.content {
                    strip(items, lines);
                }
            }
            Item::Impl(block) => block.items.retain(|item| keep(attributes_in_impl(item), item, lines)),
            Item::Trait(block) => block.items.retain(|item| keep(attributes_in_trait(item), item, lines)),
            _ => {}
        }
    }
}

fn keep(attributes: &[Attribute], item: &impl Spanned, lines: &mut Vec<RangeInclusive<usize>>) -> bool {
    let is_kept = !is_test_only(attributes);
    if !is_kept {
        let span = item.span();
        lines.push(span.start().line..=span.end().line);
    }
    is_kept
}

/// Whether only tests have what carries these.
fn is_test_only(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || (attribute.path().is_ident("cfg")
                && attribute.parse_args::<Meta>().is_ok_and(|condition| needs_test(&condition)))
    })
}

fn needs_test(condition: &Meta) -> bool {
    match condition {
        Meta::Path(path) => path.is_ident("test"),
        Meta::NameValue(_) => false,
        Meta::List(list) => {
            let parts = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
            let Ok(parts) = parts else { return false };
            if list.path.is_ident("all") {
                parts.iter().any(needs_test)
            } else {
                list.path.is_ident("any") && !parts.is_empty() && parts.iter().all(needs_test)
            }
        }
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn attributes_in_impl(item: &ImplItem) -> &[Attribute] {
    match item {
        ImplItem::Const(item) => &item.attrs,
        ImplItem::Fn(item) => &item.attrs,
        ImplItem::Type(item) => &item.attrs,
        ImplItem::Macro(item) => &item.attrs,
        _ => &[],
    }
}

fn attributes_in_trait(item: &TraitItem) -> &[Attribute] {
    match item {
        TraitItem::Const(item) => &item.attrs,
        TraitItem::Fn(item) => &item.attrs,
        TraitItem::Type(item) => &item.attrs,
        TraitItem::Macro(item) => &item.attrs,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(texts: &[(&str, &str)]) -> Vec<String> {
        let texts: Vec<(String, String)> =
            texts.iter().map(|&(path, text)| (path.to_owned(), text.to_owned())).collect();
        sources("wire", &texts).unwrap().into_iter().map(|source| source.path).collect()
    }

    #[test]
    fn files_of_tests_are_left_out() {
        let found = paths(&[
            (
                "crates/wire/src/lib.rs",
                "mod a;\n#[cfg(test)]\nmod sample;\n#[cfg(loom)]\n#[cfg(test)]\nmod loom_tests;",
            ),
            ("crates/wire/src/a.rs", "#[cfg(all(test, unix))]\nmod rig;\nmod b;\n#[cfg(test)]\nmod tests;"),
            ("crates/wire/src/a/b.rs", "#[cfg(test)]\nmod tests;"),
            ("crates/wire/src/a/rig.rs", ""),
            ("crates/wire/src/a/rig/part.rs", ""),
            ("crates/wire/src/a/tests.rs", ""),
            ("crates/wire/src/a/tests/more.rs", ""),
            ("crates/wire/src/c.rs", "#![cfg(test)]"),
            ("crates/wire/src/loom_tests.rs", ""),
            ("crates/wire/src/sample.rs", ""),
        ]);
        assert_eq!(found, ["crates/wire/src/lib.rs", "crates/wire/src/a.rs", "crates/wire/src/a/b.rs"]);
    }

    #[test]
    fn items_of_tests_are_left_out() {
        let text = [
            "struct A;",
            "impl A {",
            "    /// Looks.",
            "    #[cfg(test)]",
            "    fn look(&self) {",
            "    }",
            "    fn f() {}",
            "}",
            "#[cfg(any(test, unix))]",
            "fn g() {}",
            "#[cfg(not(test))]",
            "fn h() {}",
            "#[cfg(test)]",
            "mod tests {",
            "}",
        ];
        let source = Source::parse("wire", "crates/wire/src/a.rs", &text.join("\n")).unwrap();
        assert_eq!(source.items.len(), 4);
        let Item::Impl(block) = &source.items[1] else { panic!("no impl") };
        assert_eq!(block.items.len(), 1);
        let lines: Vec<usize> = (1..=15).filter(|line| source.is_of_tests(*line)).collect();
        assert_eq!(lines, [3, 4, 5, 6, 13, 14, 15]);
    }

    #[test]
    fn what_is_no_rust_is_named_with_its_line() {
        let failure = |text: &str| Source::parse("wire", "a.rs", text).err().unwrap_or_default();
        assert!(failure("fn f() {}\nfn {}\n").starts_with("a.rs:2: "), "{}", failure("fn f() {}\nfn {}\n"));
        assert!(failure("\n\"").starts_with("a.rs:"), "{}", failure("\n\""));
    }
}
