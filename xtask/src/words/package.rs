//! The packages that the rules hold for.

/// One of them.
pub(super) struct Package {
    pub(super) name: &'static str,
    /// Its `Cargo.toml`, from the workspace's root.
    pub(super) manifest: String,
    /// The folder of its code, from the workspace's root.
    pub(super) code: String,
}

/// The crates, in the order in which a packet meets them, and then those around it.
const CRATES: &[&str] = &[
    "wire",
    "steer",
    "flow",
    "statesync",
    "worker",
    "dpdk-sys",
    "dpdk",
    "model",
    "health",
    "control",
    "startup",
    "guidewayd",
    "guideway",
    "guideway-agent",
    "guideway-bench",
    "testkit",
];

/// Packages elsewhere: name, `Cargo.toml`, code.
const OTHERS: &[(&str, &str, &str)] =
    &[("xtask", "xtask/Cargo.toml", "xtask/src"), ("guideway-lab", "Cargo.toml", "tests/lab")];

/// A crate of the folder `crates`.
pub(super) fn in_crates(name: &'static str) -> Package {
    Package { name, manifest: format!("crates/{name}/Cargo.toml"), code: format!("crates/{name}/src") }
}

/// All of them.
pub(super) fn all() -> Vec<Package> {
    let elsewhere = |(name, manifest, code): &(&'static str, &str, &str)| Package {
        name,
        manifest: (*manifest).to_owned(),
        code: (*code).to_owned(),
    };
    CRATES.iter().map(|name| in_crates(name)).chain(OTHERS.iter().map(elsewhere)).collect()
}
