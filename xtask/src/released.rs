//! What a release is built of: none of it has the feature that is wrong on purpose.
//!
//! The crates with the feature refuse to be built with it and without debug assertions; this names who turned it on, and
//! before anything is built.

use crate::project;

/// Lets tests break rules.
const FEATURE: &str = "negative-controls";
/// What is built for users: by the README, and by `./run demo`.
const BUILDS: &[&[&str]] = &[
    &[],
    &[
        "--package",
        "guidewayd",
        "--package",
        "guideway",
        "--package",
        "guideway-lab",
        "--no-default-features",
        "--features",
        "guideway/cli",
    ],
];

/// Checks the features of every crate in every build.
///
/// # Errors
/// The crates that have it.
pub(crate) fn check() -> Result<(), String> {
    for build in BUILDS {
        let mut command = project::cargo();
        command
            .args(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p} {f}"])
            .args(*build);
        let output = command.output().map_err(|e| format!("cargo: {e}"))?;
        if !output.status.success() {
            return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)));
        }
        verdict(&String::from_utf8_lossy(&output.stdout))
            .map_err(|e| format!("cargo build {}: {e}", build.join(" ")))?;
    }
    Ok(())
}

fn verdict(tree: &str) -> Result<(), String> {
    if !tree.lines().any(|line| line.starts_with("statesync ")) {
        return Err("the programs do not use statesync, which is strange".to_owned());
    }
    let having: Vec<&str> = tree.lines().filter(|line| line.contains(FEATURE)).collect();
    if having.is_empty() { Ok(()) } else { Err(format!("{FEATURE} is on: {}", having.join("; "))) }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn whoever_has_the_feature_is_named() {
        let good = "guidewayd v0.1.0 (/w) default,etcd\nstatesync v0.1.0 (/w) \n";
        assert_eq!(verdict(good), Ok(()));
        let found = verdict(&good.replace("(/w) \n", "(/w) negative-controls\n")).expect_err("it is on");
        assert!(found.contains("statesync") && !found.contains("guidewayd"), "{found}");
        assert!(verdict("").is_err(), "nothing was listed");
    }
}
