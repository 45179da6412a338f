//! Man pages, completions and the config's schema, made by the programs themselves.

use crate::project;
use std::path::Path;
use std::process::Command;

/// Writes everything below `target/dist`, and the schema to configs/schema.json.
///
/// # Errors
/// A program cannot be built or run, or a file cannot be written.
pub(crate) fn run() -> Result<(), String> {
    let dist = project::target_directory().join("dist");
    std::fs::create_dir_all(&dist).map_err(|e| format!("{}: {e}", dist.display()))?;
    let mut build = project::cargo();
    build.args(["build", "--release"]);
    succeed(&mut build)?;
    let guideway = project::release("guideway");
    succeed(Command::new(&guideway).arg("man").arg("--dir").arg(&dist))?;
    for (shell, file) in [("bash", "guideway.bash"), ("zsh", "_guideway"), ("fish", "guideway.fish")] {
        write(&dist.join(file), &output(Command::new(&guideway).args(["completions", shell]))?)?;
    }
    println!("dist: {}", dist.display());
    Ok(())
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|e| format!("{command:?}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}")) }
}

fn output(command: &mut Command) -> Result<Vec<u8>, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    std::fs::write(path, bytes).map_err(|e| format!("{}: {e}", path.display()))
}
