//! The build script of the programs (`build = "../../build.rs"` in their Cargo.toml): stamps what they answer to
//! `--version`: version, commit and, where DPDK is linked, the release it was built against.
//!
//! That libdpdk is missing is said once, by the build script of the crate that cannot do without it (dpdk-sys).

#[path = "crates/dpdk-sys/libdpdk.rs"]
mod libdpdk;

use std::env;
use std::process::Command;

/// The programs that link DPDK.
const LINK_DPDK: &[&str] = &["guidewayd", "guideway-bench"];

fn main() {
    println!("cargo::rerun-if-changed=../../build.rs");
    println!("cargo::rerun-if-changed=../../crates/dpdk-sys/libdpdk.rs");
    let variable = |name| env::var(name).unwrap_or_default();
    let mut stamps = Vec::new();
    // A build for tests says no commit: it would be built again after every one.
    match variable("PROFILE").as_str() {
        "release" => stamps.extend(commit().map(|commit| format!("commit {commit}"))),
        _ => stamps.push("development build".to_owned()),
    }
    if LINK_DPDK.contains(&variable("CARGO_PKG_NAME").as_str())
        && let Ok(library) = libdpdk::find(false)
    {
        stamps.push(format!("DPDK {}", library.version));
    }
    let version = variable("CARGO_PKG_VERSION");
    let stamped = if stamps.is_empty() { version } else { format!("{version} ({})", stamps.join(", ")) };
    println!("cargo::rustc-env=GUIDEWAY_VERSION={stamped}");
}

/// The commit that is checked out; `None` outside a repository.
fn commit() -> Option<String> {
    // Grows with every commit, checkout and reset.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo::rerun-if-changed={log}");
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
