//! What a user sees who builds before DPDK is installed: one message, with the package and the script that installs it.
//! Here the workspace's build scripts are run by themselves, which takes no time; `tests/bare_machine.sh packages` does
//! the same with cargo on a machine without DPDK.

use crate::{project, tests};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the message names.
const NAMED: &[&str] = &["libdpdk-dev", "dpdk-setup/packages.sh"];

/// A build script of the workspace.
struct Script {
    package: String,
    program: PathBuf,
    directory: PathBuf,
}

/// Runs the build scripts where pkg-config finds nothing.
///
/// # Errors
/// They say something else than one message that names package and script.
pub(crate) fn check() -> Result<(), String> {
    let mut list = tests::build();
    list.args(["--message-format", "json-render-diagnostics"]).stderr(std::process::Stdio::inherit());
    let output = list.output().map_err(|e| format!("cargo: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let scripts: Vec<Script> = text.lines().filter_map(script).collect();
    let place = project::target_directory().join("without-dpdk");
    std::fs::create_dir_all(&place).map_err(|e| format!("{}: {e}", place.display()))?;
    let said = scripts.iter().map(|script| run(script, &place)).collect::<Result<Vec<String>, String>>();
    std::fs::remove_dir_all(&place).map_err(|e| format!("{}: {e}", place.display()))?;
    verdict(scripts.len(), &said?.concat())
}

/// From a line of cargo's.
fn script(line: &str) -> Option<Script> {
    let message: Value = serde_json::from_str(line).ok()?;
    let manifest = PathBuf::from(message["manifest_path"].as_str()?);
    let is_script =
        message["reason"] == "compiler-artifact" && message["target"]["kind"][0] == "custom-build";
    if !is_script || !manifest.starts_with(project::root()) {
        return None;
    }
    let directory = manifest.parent()?.to_owned();
    let package = directory.file_name()?.to_string_lossy().into_owned();
    Some(Script { package, program: message["filenames"][0].as_str()?.into(), directory })
}

fn run(script: &Script, out: &Path) -> Result<String, String> {
    let mut command = Command::new(&script.program);
    command.current_dir(&script.directory).env("CARGO_PKG_NAME", &script.package);
    command.env("OUT_DIR", out).env("TARGET", env!("XTASK_TARGET")).env("HOST", env!("XTASK_TARGET"));
    command.env("PKG_CONFIG_LIBDIR", out.join("nothing")).env_remove("PKG_CONFIG_PATH");
    let output = command.output().map_err(|e| format!("{}: {e}", script.program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn verdict(scripts: usize, text: &str) -> Result<(), String> {
    let errors: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("cargo::error=")).collect();
    match errors[..] {
        [message] if NAMED.iter().all(|name| message.contains(name)) => Ok(()),
        _ => Err(format!(
            "one message that names {} was expected of {scripts} build scripts:\n{text}",
            NAMED.join(" and ")
        )),
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn one_message_with_package_and_script() {
        let good =
            "cargo::error=libdpdk is missing: dpdk-setup/packages.sh installs it (Debian's libdpdk-dev)";
        assert_eq!(verdict(5, &format!("cargo::rustc-env=A=B\n{good}\n")), Ok(()));
        assert!(verdict(5, "cargo::rustc-env=A=B").is_err(), "not said");
        assert!(verdict(5, &format!("{good}\n{good}")).is_err(), "said twice");
        assert!(verdict(5, "cargo::error=libdpdk is missing").is_err(), "no remedy");
    }
}
