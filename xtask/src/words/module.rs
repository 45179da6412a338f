//! The modules of a crate, the names in each of them, and where a path leads to: the file in which the thing
//! is written that it names, by way of all `use` in between.

use super::source::Source;
use std::collections::{BTreeMap, BTreeSet};
use syn::visit::{self, Visit};
use syn::{Expr, Item, ItemMod, ItemUse, Lit, Meta, UseTree};

/// What a name in a module stands for.
enum Binding {
    /// Something written there.
    Item,
    /// A module within.
    Module(usize),
    /// What a `use` in the module names.
    Import(Vec<String>),
}

/// A module: a file, or `mod name { … }` in one.
pub(super) struct Module<'s> {
    /// Index of the file.
    pub(super) file: usize,
    /// What is written there.
    pub(super) items: &'s [Item],
    parent: Option<usize>,
    /// Several things may have the same name: a function and a module, a type and a macro, what different
    /// `cfg` choose.
    names: BTreeMap<String, Vec<Binding>>,
    /// What all names are imported from.
    globs: Vec<Vec<String>>,
}

/// All modules of a package: its library's and its programs'.
pub(super) struct Modules<'s> {
    all: Vec<Module<'s>>,
}

/// Where a path leads to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Target {
    /// To a module itself.
    Module(usize),
    /// To something that is written in this file.
    File(usize),
}

/// A name that a `use` brings in.
pub(super) struct Leaf {
    /// As it is written.
    pub(super) path: Vec<String>,
    /// What it is called here; all names of `path` if there is none.
    pub(super) name: Option<String>,
    /// Where that is written.
    pub(super) line: usize,
}

/// The names that a `use` brings in, but for those that begin with `::`, which are other crates'.
pub(super) fn leaves(item: &ItemUse) -> Vec<Leaf> {
    let mut found = Vec::new();
    if item.leading_colon.is_none() {
        branch(&item.tree, &mut Vec::new(), &mut found);
    }
    found
}

fn branch(tree: &UseTree, path: &mut Vec<String>, found: &mut Vec<Leaf>) {
    let mut leaf = |written: &syn::Ident, name: &syn::Ident| {
        let mut path = path.clone();
        // `a::{self}` is `a`.
        let is_own = written == "self" && !path.is_empty();
        if !is_own {
            path.push(written.to_string());
        }
        let name = if name == "self" { path.last().cloned() } else { Some(name.to_string()) };
        found.push(Leaf { path, name, line: written.span().start().line });
    };
    match tree {
        UseTree::Path(step) => {
            path.push(step.ident.to_string());
            branch(&step.tree, path, found);
            path.pop();
        }
        UseTree::Name(end) => leaf(&end.ident, &end.ident),
        UseTree::Rename(end) => leaf(&end.ident, &end.rename),
        UseTree::Glob(star) => {
            let line = star.star_token.spans[0].start().line;
            found.push(Leaf { path: path.clone(), name: None, line });
        }
        UseTree::Group(group) => {
            for tree in &group.items {
                branch(tree, path, found);
            }
        }
    }
}

impl<'s> Modules<'s> {
    /// From all files of a crate.
    ///
    /// # Errors
    /// There is neither a `lib.rs` nor a `main.rs`, or a file that no `mod` leads to, whose paths nobody could
    /// follow.
    pub(super) fn of(sources: &'s [Source]) -> Result<Modules<'s>, String> {
        let mut modules = Modules { all: Vec::new() };
        for (file, root) in sources.iter().enumerate().filter(|(_, source)| source.is_root) {
            modules.add(sources, file, None, root.folder(), &root.items);
        }
        if modules.all.is_empty() {
            return Err("there is neither a lib.rs nor a main.rs".to_owned());
        }
        for (file, source) in sources.iter().enumerate() {
            if !modules.all.iter().any(|module| module.file == file) {
                return Err(format!("{}: no `mod` leads to it", source.path));
            }
        }
        Ok(modules)
    }

    fn add(
        &mut self,
        sources: &'s [Source],
        file: usize,
        parent: Option<usize>,
        folder: &str,
        items: &'s [Item],
    ) -> usize {
        let own = self.all.len();
        self.all.push(Module { file, items, parent, names: BTreeMap::new(), globs: Vec::new() });
        for item in items {
            if let Item::Mod(module) = item {
                let folder_within = format!("{folder}/{}", module.ident);
                let within = match &module.content {
                    Some((_, items)) => Some(self.add(sources, file, Some(own), &folder_within, items)),
                    // There is none for what was left out: tests.
                    None => file_of(module, folder, &sources[file].path, sources).map(|file| {
                        let source = &sources[file];
                        self.add(sources, file, Some(own), source.folder(), &source.items)
                    }),
                };
                if let Some(within) = within {
                    self.bind(own, module.ident.to_string(), Binding::Module(within));
                }
                continue;
            }
            if let Some(name) = name(item) {
                self.bind(own, name, Binding::Item);
            }
            let mut uses = Uses(Vec::new());
            uses.visit_item(item);
            for Leaf { path, name, .. } in uses.0 {
                match name {
                    Some(name) => self.bind(own, name, Binding::Import(path)),
                    None => self.all[own].globs.push(path),
                }
            }
        }
        own
    }

    fn bind(&mut self, module: usize, name: String, binding: Binding) {
        self.all[module].names.entry(name).or_default().push(binding);
    }

    /// All modules with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Module<'s>)> {
        self.all.iter().enumerate()
    }

    /// The file of a module.
    pub(super) fn file(&self, module: usize) -> usize {
        self.all[module].file
    }

    /// The module that `crate` is in a module.
    fn root(&self, module: usize) -> usize {
        let mut root = module;
        while let Some(parent) = self.all[root].parent {
            root = parent;
        }
        root
    }

    /// Where a path leads to that stands in a module: nowhere if to another crate.
    pub(super) fn resolve(&self, module: usize, path: &[String]) -> BTreeSet<Target> {
        self.follow(module, path, &mut Vec::new())
    }

    /// As [`Modules::resolve`]; `on_the_way` is what is being followed, so that `use` that lead to each other
    /// end.
    fn follow<'p>(
        &'p self,
        module: usize,
        path: &'p [String],
        on_the_way: &mut Vec<(usize, &'p [String])>,
    ) -> BTreeSet<Target> {
        let Some(first) = path.first() else { return BTreeSet::from([Target::Module(module)]) };
        if on_the_way.contains(&(module, path)) {
            return BTreeSet::new();
        }
        on_the_way.push((module, path));
        let found = match first.as_str() {
            "crate" => self.descend(self.root(module), &path[1..], on_the_way),
            "self" | "super" => self.descend(module, path, on_the_way),
            // Of the names that nothing here binds those of other crates are left, and what macros make in
            // this file.
            name => match self.lookup(module, name, on_the_way) {
                None => BTreeSet::new(),
                Some(starts) => self.descend_from(&starts, &path[1..], on_the_way),
            },
        };
        on_the_way.pop();
        found
    }

    fn descend<'p>(
        &'p self,
        module: usize,
        path: &'p [String],
        on_the_way: &mut Vec<(usize, &'p [String])>,
    ) -> BTreeSet<Target> {
        let Some((first, rest)) = path.split_first() else { return BTreeSet::from([Target::Module(module)]) };
        match first.as_str() {
            "self" => self.descend(module, rest, on_the_way),
            "super" => match self.all[module].parent {
                Some(parent) => self.descend(parent, rest, on_the_way),
                None => BTreeSet::new(),
            },
            name => match self.lookup(module, name, on_the_way) {
                Some(starts) => self.descend_from(&starts, rest, on_the_way),
                // It is there, or the crate would not build: a macro of this file made it.
                None => BTreeSet::from([Target::File(self.all[module].file)]),
            },
        }
    }

    fn descend_from<'p>(
        &'p self,
        starts: &BTreeSet<Target>,
        rest: &'p [String],
        on_the_way: &mut Vec<(usize, &'p [String])>,
    ) -> BTreeSet<Target> {
        // What stands before `::` is the module where a function has the same name.
        let is_module = |start: &Target| matches!(start, Target::Module(_));
        let modules_only = !rest.is_empty() && starts.iter().any(is_module);
        let mut found = BTreeSet::new();
        for start in starts.iter().filter(|start| !modules_only || is_module(start)) {
            match *start {
                Target::Module(module) => found.extend(self.descend(module, rest, on_the_way)),
                // A type's own functions, constants and variants are where the type is.
                Target::File(file) => {
                    found.insert(Target::File(file));
                }
            }
        }
        found
    }

    /// What a name in a module stands for: nothing if it is another crate's, `None` if nothing is known of
    /// it.
    fn lookup<'p>(
        &'p self,
        module: usize,
        name: &str,
        on_the_way: &mut Vec<(usize, &'p [String])>,
    ) -> Option<BTreeSet<Target>> {
        let of = &self.all[module];
        if let Some(bindings) = of.names.get(name) {
            let mut found = BTreeSet::new();
            for binding in bindings {
                match binding {
                    Binding::Item => {
                        found.insert(Target::File(of.file));
                    }
                    Binding::Module(within) => {
                        found.insert(Target::Module(*within));
                    }
                    Binding::Import(path) => found.extend(self.follow(module, path, on_the_way)),
                }
            }
            return Some(found);
        }
        for glob in &of.globs {
            for target in self.follow(module, glob, on_the_way) {
                let Target::Module(from) = target else { continue };
                // A glob of a parent's names, among which is this module, which has a glob …
                if from != module && self.all[from].names.contains_key(name) {
                    return self.lookup(from, name, on_the_way);
                }
            }
        }
        None
    }
}

/// The file that `mod name;` leads to.
fn file_of(module: &ItemMod, folder: &str, declared_in: &str, sources: &[Source]) -> Option<usize> {
    let written = module.attrs.iter().find_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(path) => Some(path.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    let beside = declared_in.rsplit_once('/').map_or("", |(folder, _)| folder);
    let candidates = match written {
        Some(path) => vec![format!("{beside}/{path}")],
        None => vec![format!("{folder}/{}.rs", module.ident), format!("{folder}/{}/mod.rs", module.ident)],
    };
    sources.iter().position(|source| candidates.contains(&source.path))
}

fn name(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

/// Every `use`, also within functions: as if these stood in the module, whose names they may not contradict
/// in a way that matters here.
struct Uses(Vec<Leaf>);

impl<'ast> Visit<'ast> for Uses {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.0.extend(leaves(item));
        visit::visit_item_use(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::sources;
    use super::*;

    /// Where a path leads that stands in the file `from`: paths of files, and of modules' files with "mod"
    /// before them.
    fn led(files: &[(&str, &str)], from: &str, path: &str) -> Vec<String> {
        let texts: Vec<(String, String)> =
            files.iter().map(|&(file, text)| (format!("crates/x/src/{file}"), text.to_owned())).collect();
        let sources = sources("x", &texts).unwrap();
        let modules = Modules::of(&sources).unwrap();
        let short = |file: usize| sources[file].path["crates/x/src/".len()..].to_owned();
        let (number, _) = modules.iter().find(|(_, module)| short(module.file) == from).unwrap();
        let path: Vec<String> = path.split("::").map(str::to_owned).collect();
        let shown = |target: Target| match target {
            Target::Module(module) => format!("mod {}", short(modules.file(module))),
            Target::File(file) => short(file),
        };
        modules.resolve(number, &path).into_iter().map(shown).collect()
    }

    const CRATE: &[(&str, &str)] = &[
        (
            "lib.rs",
            "mod a; mod b; pub mod inner { pub struct I; pub use super::a::A as J; }
             pub use a::{A, c::*}; use flow::F; fn l() {}",
        ),
        ("a.rs", "pub(crate) mod c; pub struct A; pub use c::c; pub use flow::F; m! { Made {} }"),
        ("a/c.rs", "pub fn c() {} pub enum E { V } use super::*; const K: u8 = 1;"),
        (
            "b.rs",
            "use crate::a::{self, c as d}; use crate::A as First; fn f() { use d::E; }
             use crate::b as own; use around;",
        ),
    ];

    #[test]
    fn paths_lead_to_where_a_thing_is_written() {
        let cases = [
            ("a.rs", "crate::l", "lib.rs"),
            ("b.rs", "crate::A", "a.rs"),
            ("b.rs", "crate::A::new", "a.rs"),
            ("b.rs", "crate::inner::I", "lib.rs"),
            ("b.rs", "crate::inner::J", "a.rs"),
            ("b.rs", "super::a::c::K", "a/c.rs"),
            ("b.rs", "self::super::a::A", "a.rs"),
            ("a/c.rs", "super::super::b::f", "b.rs"),
            ("a/c.rs", "A", "a.rs"),
            ("b.rs", "a::A", "a.rs"),
            ("b.rs", "d::E::V", "a/c.rs"),
            ("b.rs", "First", "a.rs"),
            ("b.rs", "E::V", "a/c.rs"),
        ];
        for (from, path, expected) in cases {
            assert_eq!(led(CRATE, from, path), [expected], "{path} in {from}");
        }
    }

    #[test]
    fn names_that_lead_nowhere_and_names_with_two_meanings() {
        assert_eq!(led(CRATE, "b.rs", "crate::a"), ["mod a.rs"]);
        assert_eq!(led(CRATE, "b.rs", "own::f"), ["b.rs"]);
        assert_eq!(led(CRATE, "b.rs", "crate::a::c"), ["mod a/c.rs", "a/c.rs"], "a module and a function");
        assert_eq!(led(CRATE, "b.rs", "crate::a::c::K"), ["a/c.rs"], "the module");
        assert_eq!(led(CRATE, "b.rs", "crate::E"), ["a/c.rs"], "by way of a glob");
        assert_eq!(led(CRATE, "b.rs", "crate::a::Made"), ["a.rs"], "made by a macro");
        assert!(led(CRATE, "b.rs", "crate::F").is_empty(), "another crate's");
        assert!(led(CRATE, "b.rs", "crate::a::F::new").is_empty(), "another crate's, by way of us");
        assert!(led(CRATE, "b.rs", "std::mem::take").is_empty());
        assert!(led(CRATE, "b.rs", "around").is_empty(), "itself");
        assert!(led(CRATE, "lib.rs", "super::x").is_empty());
    }

    #[test]
    fn files_with_paths_of_their_own_are_found_and_none_is_forgotten() {
        let files = [
            ("lib.rs", "mod q; mod folder;"),
            (
                "q.rs",
                "#[cfg(loom)]\n#[path = \"q/model.rs\"]\nmod queue;
                 #[cfg(not(loom))]\n#[path = \"q/real.rs\"]\nmod queue;",
            ),
            ("q/model.rs", "pub struct Q;"),
            ("q/real.rs", "pub struct Q;"),
            ("folder/mod.rs", "mod part;"),
            ("folder/part.rs", ""),
        ];
        assert_eq!(led(&files, "lib.rs", "q::queue::Q"), ["q/model.rs", "q/real.rs"]);
        let texts = [("crates/x/src/lib.rs", ""), ("crates/x/src/stray.rs", "")];
        let sources = sources("x", &texts.map(|(path, text)| (path.to_owned(), text.to_owned()))).unwrap();
        let failure = Modules::of(&sources).err();
        assert_eq!(failure.as_deref(), Some("crates/x/src/stray.rs: no `mod` leads to it"));
    }
}
