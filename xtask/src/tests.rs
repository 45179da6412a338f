//! How tests are built and started.
//!
//! Always with the whole workspace selected: another selection unifies other features and would build dependencies once
//! more. The executables are started by us, those that start an EAL once for each test, because EAL starts once in a
//! process. (With cargo-nextest, which is not needed here, .config/nextest.toml does the same.)

use crate::project;
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

/// Packages whose tests start an EAL.
const EAL: &[&str] = &["dpdk-sys", "dpdk", "guidewayd"];
/// The root package, which owns tests/.
pub(crate) const LAB: &str = "guideway-lab";

/// Which tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Group {
    /// Anywhere, several at a time.
    Pure,
    /// One process each, one at a time.
    Eal,
    /// tests/scenarios.
    Scenarios,
    /// In namespaces, one at a time.
    Lab,
}

/// One test executable.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Executable {
    package: String,
    target: String,
    path: PathBuf,
    directory: PathBuf,
}

impl Executable {
    fn group(&self) -> Group {
        match (self.package.as_str(), self.target.as_str()) {
            (LAB, "scenarios") => Group::Scenarios,
            (LAB, _) => Group::Lab,
            (package, _) if EAL.contains(&package) => Group::Eal,
            _ => Group::Pure,
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.current_dir(&self.directory).env("CARGO_MANIFEST_DIR", &self.directory);
        command.env("CARGO", std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command
    }
}

/// The command that builds all test executables and the programs that the lab starts, in one go, so that both share
/// the features of every dependency.
pub(crate) fn build() -> Command {
    let mut command = project::cargo();
    command.args(["build", "--workspace", "--tests", "--bins"]);
    command
}

/// The commands that run a group.
///
/// # Errors
/// The executables cannot be built, or there is none of this group: no test is no success.
pub(crate) fn commands(group: Group) -> Result<Vec<Command>, String> {
    let mut commands = Vec::new();
    for executable in executables()?.iter().filter(|e| e.group() == group) {
        if group == Group::Eal {
            for test in names(executable)? {
                let mut command = executable.command();
                command.args(["--exact", &test]);
                commands.push(command);
            }
        } else {
            let mut command = executable.command();
            if group == Group::Lab {
                command.arg("--test-threads=1");
            }
            commands.push(command);
        }
    }
    if commands.is_empty() {
        return Err(format!("there are no tests of the group {group:?}"));
    }
    // Programs of the tests' own profile, not of the release build: no second build of all dependencies, and debug
    // assertions (conservation in every turn) hold in the lab too.
    let programs = project::target_directory().join("debug");
    for command in &mut commands {
        // What a passed test prints is shown: it says there what the CPU cannot run.
        command
            .arg("--show-output")
            .env("GUIDEWAY_BIN_DIR", &programs)
            .env("GUIDEWAY", programs.join("guideway"));
    }
    Ok(commands)
}

/// All test executables, as cargo names them; everything has been built by then.
fn executables() -> Result<Vec<Executable>, String> {
    let mut list = build();
    list.args(["--message-format", "json-render-diagnostics"]).stderr(std::process::Stdio::inherit());
    let output = list.output().map_err(|e| format!("cargo: {e}"))?;
    if !output.status.success() {
        return Err("the tests cannot be built".to_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(executable).collect())
}

fn executable(line: &str) -> Option<Executable> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let manifest = PathBuf::from(message["manifest_path"].as_str()?);
    let package = message["package_id"].as_str()?.rsplit(['/', '#']).find_map(|part| {
        let name = part.split('@').next()?;
        (!name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())).then(|| name.to_owned())
    })?;
    Some(Executable {
        // The root package's id ends in its directory's name, not in its own.
        package: if manifest.parent() == Some(project::root()) { LAB.to_owned() } else { package },
        target: message["target"]["name"].as_str()?.to_owned(),
        path: message["executable"].as_str()?.into(),
        directory: manifest.parent()?.to_owned(),
    })
}

fn names(executable: &Executable) -> Result<Vec<String>, String> {
    let output = executable.command().args(["--list", "--format", "terse"]).output();
    let output = output.map_err(|e| format!("{}: {e}", executable.path.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|l| l.strip_suffix(": test")).map(str::to_owned).collect())
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn reads_what_cargo_says() {
        let line = |package: &str, manifest: &str, target: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"{package}","manifest_path":"{manifest}",
                "target":{{"name":"{target}"}},"profile":{{"test":true}},"executable":"/t/x"}}"#
            )
        };
        let of = |text: &str| executable(text).expect("an executable");
        let dpdk = of(&line("path+file:///w/crates/dpdk#0.1.0", "/w/crates/dpdk/Cargo.toml", "ring"));
        assert_eq!((dpdk.package.as_str(), dpdk.group()), ("dpdk", Group::Eal));
        let wire = of(&line("path+file:///w/crates/wire#0.1.0", "/w/crates/wire/Cargo.toml", "wire"));
        assert_eq!((wire.package.as_str(), wire.group()), ("wire", Group::Pure));
        let root = format!("{}/Cargo.toml", project::root().display());
        let lab = of(&line("path+file:///w/main#guideway-lab@0.1.0", &root, "traffic"));
        assert_eq!((lab.package.as_str(), lab.group()), (LAB, Group::Lab));
        let lab = of(&line("path+file:///w/main#guideway-lab@0.1.0", &root, "scenarios"));
        assert_eq!(lab.group(), Group::Scenarios);
        assert_eq!(executable("   Compiling wire"), None);
    }
}
