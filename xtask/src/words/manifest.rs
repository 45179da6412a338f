//! Which crates are built of which, from their `Cargo.toml`.

use std::collections::{BTreeMap, BTreeSet};

/// For each of some crates those of them that it is built of, itself aside.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dependencies(BTreeMap<String, BTreeSet<String>>);

impl Dependencies {
    /// From names and manifests.
    pub(super) fn of(manifests: &[(&str, String)]) -> Dependencies {
        let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (name, manifest) in manifests {
            let direct = direct(manifest).into_iter().filter(|d| manifests.iter().any(|(name, _)| name == d));
            all.insert((*name).to_owned(), direct.map(str::to_owned).collect());
        }
        loop {
            let before = all.clone();
            for direct in all.values_mut() {
                let further: Vec<String> =
                    direct.iter().filter_map(|name| before.get(name)).flatten().cloned().collect();
                direct.extend(further);
            }
            if all == before {
                return Dependencies(all);
            }
        }
    }

    /// Whether code can come to see both: they are the same crate, or one is built of the other.
    pub(super) fn are_related(&self, one: &str, other: &str) -> bool {
        let uses = |a: &str, b: &str| self.0.get(a).is_some_and(|of| of.contains(b));
        one == other || uses(one, other) || uses(other, one)
    }
}

/// What a manifest says that the crate itself is built of: not its tests, and not its build script.
fn direct(manifest: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    let mut is_inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_end_matches(']');
            let is_of_target = header.starts_with("target.") && header.ends_with(".dependencies");
            is_inside = header == "dependencies" || is_of_target;
            found.extend(header.strip_prefix("dependencies."));
        } else if is_inside && line.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            found.extend(line.split(['.', '=', ' ']).next());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_and_followed() {
        let text = r#"
            [package]
            name = "c"
            [dependencies]
            # b, too
            b.workspace = true
            serde = "1"
            [target.'cfg(loom)'.dependencies]
            loom = { version = "1" }
            [dependencies.d]
            path = "../d"
            [dev-dependencies]
            e.workspace = true
            [target.'cfg(loom)'.dev-dependencies]
            f = "1"
        "#;
        assert_eq!(direct(text), BTreeSet::from(["b", "d", "loom", "serde"]));
        let all = Dependencies::of(&[
            ("a", String::new()),
            ("b", "[dependencies]\na = \"1\"".to_owned()),
            ("c", text.to_owned()),
            ("d", String::new()),
            ("e", String::new()),
        ]);
        assert!(all.are_related("a", "c") && all.are_related("c", "a"), "by way of b");
        assert!(all.are_related("b", "c") && all.are_related("c", "d") && all.are_related("e", "e"));
        assert!(!all.are_related("a", "d"), "both in c, neither in the other");
        assert!(!all.are_related("c", "e"), "for tests only");
    }
}
