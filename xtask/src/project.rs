//! Where the project's things are.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("."))
}

/// Cargo's target directory.
pub(crate) fn target_directory() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => root().join(directory),
        None => root().join("target"),
    }
}

/// A program of the release build.
pub(crate) fn release(program: &str) -> PathBuf {
    target_directory().join("release").join(program)
}

/// The cargo that runs us, in the root, free of what the outer cargo put into the environment.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    for (key, _) in std::env::vars_os() {
        let ours = key.to_str().is_some_and(|k| {
            (k.starts_with("CARGO_PKG_") || k.starts_with("CARGO_MANIFEST_")) || k == "CARGO_PRIMARY_PACKAGE"
        });
        if ours {
            command.env_remove(key);
        }
    }
    command
}

/// Whether `cargo <name>` exists.
pub(crate) fn has_cargo_command(name: &str) -> bool {
    cargo().args([name, "--version"]).output().is_ok_and(|o| o.status.success())
}

/// How many commits there are up to the one that is checked out; 0 outside a repository.
pub(crate) fn commit_number() -> u64 {
    let output = Command::new("git").args(["rev-list", "--count", "HEAD"]).current_dir(root()).output();
    output.ok().and_then(|o| String::from_utf8_lossy(&o.stdout).trim().parse().ok()).unwrap_or(0)
}

/// The compiler, by version.
///
/// # Errors
/// There is none.
pub(crate) fn compiler() -> Result<String, String> {
    let output =
        Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("--version").output();
    let output = output.map_err(|e| format!("rustc: {e}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
