//! How tests are built and started.
//!
//! Always with the whole workspace selected: another selection unifies other features and would build every dependency
//! once more. With nextest each test has a process of its own. Without it the executables are started by us, those
//! that start an EAL once for each test, because EAL starts once in a process.

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

/// Tests of the workspace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tests {
    /// Whether nextest starts them.
    pub(crate) nextest: bool,
}

impl Tests {
    /// The command that builds the programs that the lab starts.
    pub(crate) fn programs() -> Command {
        let mut command = project::cargo();
        command.args(["build", "--workspace", "--bins"]);
        command
    }

    /// The command that builds all of them.
    pub(crate) fn build(self) -> Command {
        let mut command = project::cargo();
        if self.nextest {
            command.args(["nextest", "run", "--workspace", "--no-run"]);
        } else {
            command.args(["test", "--workspace", "--tests", "--no-run"]);
        }
        command
    }

    /// The commands that run a group.
    pub(crate) fn commands(self, group: Group) -> Vec<Command> {
        let mut commands = if self.nextest { vec![nextest(group)] } else { by_hand(group) };
        // Programs of the tests' own profile, not of the release build: no second build of all dependencies, and debug
        // assertions (conservation in every turn) hold in the lab too.
        let programs = project::target_directory().join("debug");
        for command in &mut commands {
            command.env("GUIDEWAY_BIN_DIR", &programs).env("GUIDEWAY", programs.join("guideway"));
        }
        commands
    }
}

fn nextest(group: Group) -> Command {
    let eal: Vec<String> = EAL.iter().map(|p| format!("package({p})")).collect();
    let eal = eal.join(" or ");
    let filter = match group {
        Group::Pure => format!("not ({eal} or package({LAB}))"),
        Group::Eal => eal,
        Group::Scenarios => format!("package({LAB}) and binary(scenarios)"),
        Group::Lab => format!("package({LAB}) and not binary(scenarios)"),
    };
    let mut command = project::cargo();
    command.args(["nextest", "run", "--workspace", "--no-fail-fast", "--no-tests=pass", "-E", &filter]);
    if group != Group::Pure {
        command.arg("--test-threads=1");
    }
    command
}

fn by_hand(group: Group) -> Vec<Command> {
    let mut commands = Vec::new();
    for executable in executables().iter().filter(|e| e.group() == group) {
        if group == Group::Eal {
            for test in names(executable) {
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
        // What cannot be built shall be seen in the step's log.
        commands.push(Tests { nextest: false }.build());
    }
    commands
}

/// All test executables, as cargo names them; everything has been built by then.
fn executables() -> Vec<Executable> {
    let mut list = Tests { nextest: false }.build();
    list.arg("--message-format=json");
    let output = list.output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    output.lines().filter_map(executable).collect()
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

fn names(executable: &Executable) -> Vec<String> {
    let output = executable.command().args(["--list", "--format", "terse"]).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().filter_map(|l| l.strip_suffix(": test")).map(str::to_owned).collect()
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
