//! The demo. The lab itself is the library of the root package.

use crate::project;
use guideway_lab::demo::{Options, USAGE};
use guideway_lab::{Binaries, demo};

/// Builds what the demo runs, then runs it. False when something was not as it should be.
pub(crate) fn demo(arguments: &[String]) -> Result<bool, String> {
    let options = match Options::parse(arguments) {
        Ok(options) => options,
        Err(help) if help == USAGE => {
            println!("{USAGE}");
            return Ok(true);
        }
        Err(mistake) => return Err(mistake),
    };
    let packages = ["-p", "guidewayd", "-p", "guideway", "-p", "guideway-agent", "-p", "guideway-lab"];
    let status = project::cargo()
        .args(["build", "--release", "--bins"])
        .args(packages)
        .status()
        .map_err(|e| format!("cargo: {e}"))?;
    if !status.success() {
        return Ok(false);
    }
    let binaries = Binaries {
        guidewayd: project::release("guidewayd"),
        guideway: project::release("guideway"),
        agent: project::release("guideway-agent"),
        lab_load: project::release("lab-load"),
    };
    match demo::run(&options, binaries) {
        Ok(()) => Ok(true),
        Err(error) => {
            eprintln!("demo: {error}");
            Ok(false)
        }
    }
}
