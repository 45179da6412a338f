//! What decides is pure: a file, and all that it uses of its crate, names nothing that waits, asks the clock, draws
//! lots or touches what is outside. Time and events come in, effects go out.

use super::import::Import;
use super::module::leaves;
use super::source::Source;
use std::collections::BTreeSet;
use syn::visit::{self, Visit};
use syn::{Item, ItemUse};

/// Crates and parts of `std` that pure files do not name. Addresses are values, sockets are not.
const IMPURE: &[&[&str]] = &[
    &["tokio"],
    &["axum"],
    &["hyper"],
    &["hyper_util"],
    &["futures_util"],
    &["rustls"],
    &["tokio_rustls"],
    &["rtnetlink"],
    &["rustix"],
    &["etcd_client"],
    &["tracing"],
    &["rand"],
    &["fastrand"],
    &["std", "env"],
    &["std", "fs"],
    &["std", "hash", "RandomState"],
    &["std", "net", "TcpListener"],
    &["std", "net", "TcpStream"],
    &["std", "net", "ToSocketAddrs"],
    &["std", "net", "UdpSocket"],
    &["std", "os"],
    &["std", "process"],
    &["std", "sync", "mpsc"],
    &["std", "thread"],
    &["std", "time", "Instant"],
    &["std", "time", "SystemTime"],
];

/// What breaks the rule in the file that ends with `root`, and in those that it uses.
pub(super) fn check(root: &str, sources: &[Source], imports: &[Import]) -> Vec<String> {
    let Some(first) = sources.iter().position(|source| source.path.ends_with(root)) else {
        return vec![format!("{root}: there is no such file")];
    };
    let (mut reached, mut open) = (BTreeSet::from([first]), vec![first]);
    while let Some(file) = open.pop() {
        let used = imports.iter().filter(|import| import.from == file).map(|import| import.to);
        open.extend(used.filter(|to| reached.insert(*to)));
    }
    reached.iter().filter_map(|file| sources.get(*file)).flat_map(|source| impure(source, root)).collect()
}

fn impure(source: &Source, root: &str) -> Vec<String> {
    let mut named = Named(Vec::new());
    for item in &source.items {
        named.visit_item(item);
    }
    let is_impure = |path: &[String]| {
        IMPURE.iter().any(|of| path.len() >= of.len() && of.iter().zip(path).all(|(a, b)| *a == b))
    };
    let of_file = named.0.into_iter().filter(|(path, _)| is_impure(path));
    of_file
        .map(|(path, line)| {
            let path = path.join("::");
            format!("{}:{line}: names {path}; {root} uses this file, and is to be pure", source.path)
        })
        .collect()
}

/// Paths, and their lines.
struct Named(Vec<(Vec<String>, usize)>);

impl<'ast> Visit<'ast> for Named {
    fn visit_item(&mut self, item: &'ast Item) {
        // A module within a file is part of it.
        visit::visit_item(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.0.extend(leaves(item).into_iter().map(|leaf| (leaf.path, leaf.line)));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if let Some(first) = path.segments.first() {
            let names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.0.push((names, first.ident.span().start().line));
        }
        visit::visit_path(self, path);
    }
}

#[cfg(test)]
mod tests {
    use super::super::import::imports;
    use super::super::module::Modules;
    use super::super::source::sources;
    use super::*;

    fn problems(step: &str, clock: &str) -> Vec<String> {
        let file = |name: &str, text: &str| (format!("crates/x/src/{name}.rs"), text.to_owned());
        let files = [
            file("lib", "mod clock;\nmod shell;\nmod step;\n"),
            file("clock", clock),
            file("shell", "use crate::step::Step;\nuse tokio::sync::mpsc;\npub struct Shell(Step);\n"),
            file("step", step),
        ];
        let sources = sources("x", &files).expect("they are Rust");
        let imports = imports(&Modules::of(&sources).expect("a crate"));
        check("src/step.rs", &sources, &imports)
    }

    #[test]
    fn what_is_used_is_pure_and_what_uses_need_not_be() {
        let step = "use crate::clock::Clock;\npub struct Step(Clock);\n";
        let pure = "use std::net::IpAddr;\nuse std::time::Duration;\npub struct Clock(Duration, IpAddr);\n";
        assert!(problems(step, pure).is_empty());
        let found = problems(step, "pub struct Clock;\nfn now() { let _ = std::time::Instant::now(); }\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("crates/x/src/clock.rs:2: names std::time::Instant::now"), "{found:?}");
        assert_eq!(problems("use std::{fs, net::TcpStream};\npub struct Step;\n", pure).len(), 2);
        assert!(problems("use std::fs;\n#[cfg(test)]\nmod tests { use tokio::time; }\n", pure).len() == 1);
        assert_eq!(check("src/none.rs", &[], &[]).len(), 1);
    }
}
