//! Writes fuzz/seeds: named for what they are, made by testkit.

use crate::project;

/// Runs testkit's generator.
///
/// # Errors
/// It cannot be built or run.
pub(crate) fn run() -> Result<(), String> {
    let mut command = project::cargo();
    command.args(["run", "--quiet", "--package", "testkit", "--example", "seeds", "--"]);
    command.arg(project::root().join("fuzz/seeds"));
    let status = command.status().map_err(|e| e.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("the generator of the seeds: {status}")) }
}
