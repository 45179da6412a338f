//! Which files of a crate use what is written in which others: by `use`, and by paths in types, expressions
//! and macros. Not by `mod`, not by documentation, and not by `pub(in path)`.

use super::module::{Leaf, Modules, Target, leaves};
use proc_macro2::{TokenStream, TokenTree};
use std::collections::BTreeMap;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemUse, Macro, Visibility};

/// One file's use of another: the names, and the line of the first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Import {
    /// Index of the file that uses.
    pub(super) from: usize,
    /// Index of the file that is used.
    pub(super) to: usize,
    /// Where it is first.
    pub(super) line: usize,
    /// What is used.
    pub(super) names: Vec<String>,
}

/// All of a crate.
pub(super) fn imports(modules: &Modules<'_>) -> Vec<Import> {
    let mut found: BTreeMap<(usize, usize), Import> = BTreeMap::new();
    for (number, module) in modules.iter() {
        let mut paths = Paths(Vec::new());
        // A module within is one of its own.
        for item in module.items.iter().filter(|item| !matches!(item, Item::Mod(_))) {
            paths.visit_item(item);
        }
        paths.0.retain(|leaf| !is_within_item(modules, number, &leaf.path));
        for Leaf { path, name, line } in paths.0 {
            for target in modules.resolve(number, &path) {
                let to = match (target, &name) {
                    (Target::File(file), _) => file,
                    // All names of a module may be any of them, a module itself is not yet what is in it.
                    (Target::Module(of), None) => modules.file(of),
                    (Target::Module(_), Some(_)) => continue,
                };
                if to == module.file {
                    continue;
                }
                let new = Import { from: module.file, to, line, names: Vec::new() };
                let import = found.entry((module.file, to)).or_insert(new);
                import.line = import.line.min(line);
                let used = if name.is_none() { Some("*") } else { path.last().map(String::as_str) };
                let used = used.unwrap_or_default();
                if !import.names.iter().any(|name| name == used) {
                    import.names.push(used.to_owned());
                }
            }
        }
    }
    found.into_values().collect()
}

/// Whether a path begins with the name of a thing, not of a module: `Worker::new` says no more than the `use`
/// of `Worker`.
fn is_within_item(modules: &Modules<'_>, module: usize, path: &[String]) -> bool {
    let [first, _, ..] = path else { return false };
    let starts = modules.resolve(module, std::slice::from_ref(first));
    !starts.is_empty() && starts.iter().all(|start| matches!(start, Target::File(_)))
}

/// The paths of a module that have several parts: one part alone names what is there, or what a `use`
/// brought.
struct Paths(Vec<Leaf>);

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.0.extend(leaves(item));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none()
            && let Some(first) = path.segments.first()
        {
            let names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.path(names, first.ident.span().start().line);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        self.tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }

    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}

impl Paths {
    fn path(&mut self, path: Vec<String>, line: usize) {
        if path.len() > 1 {
            let name = path.last().cloned();
            self.0.push(Leaf { path, name, line });
        }
    }

    /// What looks like a path in what a macro is given, or in its definition (`$crate::a::b`).
    fn tokens(&mut self, tokens: TokenStream) {
        let trees: Vec<TokenTree> = tokens.into_iter().collect();
        let mut rest = trees.as_slice();
        while let Some((first, behind)) = rest.split_first() {
            rest = behind;
            match first {
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Ident(name) => {
                    let mut path = vec![name.to_string()];
                    while let [
                        TokenTree::Punct(one),
                        TokenTree::Punct(two),
                        TokenTree::Ident(name),
                        behind @ ..,
                    ] = rest
                        && one.as_char() == ':'
                        && two.as_char() == ':'
                    {
                        path.push(name.to_string());
                        rest = behind;
                    }
                    self.path(path, name.span().start().line);
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::sources;
    use super::*;

    /// "a.rs -> b.rs", "line: names" for each import.
    fn shown(files: &[(&str, &str)]) -> Vec<(String, String)> {
        let texts: Vec<(String, String)> =
            files.iter().map(|&(file, text)| (format!("crates/x/src/{file}"), text.to_owned())).collect();
        let sources = sources("x", &texts).unwrap();
        let modules = Modules::of(&sources).unwrap();
        let short = |file: usize| sources[file].path["crates/x/src/".len()..].to_owned();
        imports(&modules)
            .into_iter()
            .map(|import| {
                let edge = format!("{} -> {}", short(import.from), short(import.to));
                (edge, format!("{}: {}", import.line, import.names.join(", ")))
            })
            .collect()
    }

    /// What `a.rs` uses, in a crate in which each of the files `b.rs` and `b/c.rs` has a struct.
    fn used(text: &str) -> Vec<String> {
        let files = [
            ("lib.rs", "mod a; mod b; pub use b::B; pub struct L;"),
            ("a.rs", text),
            ("b.rs", "pub mod c; pub struct B; pub use c::C as D;"),
            ("b/c.rs", "pub struct C; pub fn f() {}"),
        ];
        let of_a = |(edge, _): (String, String)| edge.strip_prefix("a.rs -> ").map(str::to_owned);
        shown(&files).into_iter().filter_map(of_a).collect()
    }

    #[test]
    fn names_are_followed_to_the_files_they_come_from() {
        assert_eq!(used("use crate::B;"), ["b.rs"], "not lib.rs");
        assert_eq!(used("use crate::L;"), ["lib.rs"]);
        assert_eq!(used("use crate::b::D;"), ["b/c.rs"], "not b.rs");
        assert_eq!(used("use super::{b::{self, c::f}, L as M};"), ["lib.rs", "b/c.rs"]);
        assert_eq!(used("use crate::b::*;"), ["b.rs"]);
        assert!(used("use crate::b; use std::mem; pub(in crate::b) struct A; use ::b::B;").is_empty());
    }

    #[test]
    fn paths_without_use_count_wherever_they_are() {
        let uses = [
            "fn f(of: crate::b::c::C) {}",
            "fn f() { let _ = super::b::c::f(); }",
            "use crate::b; fn f() { b::c::f() }",
            "fn f() -> Vec<Option<crate::b::D>> { g() }",
            "impl From<crate::b::c::C> for A {}",
            "fn f() { assert!(x(1, [crate::b::c::f()])); }",
            "macro_rules! m { () => { $crate::b::c::f() } }",
            "fn f() { match x { crate::b::c::C => {} } }",
            "mod inner { fn f() { super::super::b::c::f() } }",
            "struct A { of: <crate::b::c::C as T>::X }",
        ];
        for text in uses {
            assert_eq!(used(text), ["b/c.rs"], "{text}");
        }
    }

    #[test]
    fn documentation_tests_and_modules_do_not_count() {
        let no_uses = [
            "/// [`crate::b::B`]\nstruct A;",
            "#[doc = \"x\"] #[derive(crate::b::B)] struct A;",
            "#[cfg(test)] mod tests { use crate::b::B; }",
            "impl A { #[cfg(test)] fn f() { crate::b::c::f() } }",
            "mod inner { pub struct I; } use inner::I; use self::inner::I as J;",
            "impl A { fn f(&self) { self.b(); Self::f() } }",
        ];
        for text in no_uses {
            assert!(used(text).is_empty(), "{text}");
        }
        let files = [("lib.rs", "pub mod a;"), ("a.rs", "mod b;"), ("a/b.rs", "use super::A;")];
        assert_eq!(shown(&files), [("a/b.rs -> a.rs".to_owned(), "1: A".to_owned())]);
    }

    #[test]
    fn the_first_line_and_all_names_are_told() {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "\nfn f(b: crate::b::B) {}\nuse crate::b::B;\nuse crate::b::f;"),
            ("b.rs", "pub struct B; pub fn f() {}"),
        ];
        assert_eq!(shown(&files), [("a.rs -> b.rs".to_owned(), "2: B, f".to_owned())]);
    }
}
