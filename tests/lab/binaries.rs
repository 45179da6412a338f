//! Where the programs under test are.

use crate::command::{LabError, Result};
use std::path::{Path, PathBuf};

/// The programs the lab starts.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// The balancer.
    pub guidewayd: PathBuf,
    /// The command line.
    pub guideway: PathBuf,
    /// The agent of backend hosts.
    pub agent: PathBuf,
    /// The lab's own load generator and server.
    pub lab_load: PathBuf,
}

impl Binaries {
    /// Finds the programs: where `GUIDEWAYD` and `GUIDEWAY` say (paths of programs), in `GUIDEWAY_BIN_DIR`, else in the
    /// cargo target directory that the running program lies in; of the balancer the release build is preferred. The
    /// balancer need not exist before it is started.
    pub fn locate() -> Result<Binaries> {
        let own = std::env::current_exe()
            .map_err(|source| LabError::Io { what: "finding the running program".into(), source })?;
        // target/<profile>/deps/<test> or target/<profile>/<program>
        let mut profile = own.parent().unwrap_or(Path::new("/")).to_owned();
        if profile.ends_with("deps") {
            profile.pop();
        }
        let release = profile.parent().unwrap_or(Path::new("/")).join("release");
        let given = std::env::var_os("GUIDEWAY_BIN_DIR").map(PathBuf::from);
        let find = |name: &str, variable: &str, order: [&PathBuf; 2]| {
            if let Some(path) = std::env::var_os(variable) {
                return PathBuf::from(path);
            }
            let places: Vec<&PathBuf> = given.iter().chain(order).collect();
            let there = places.iter().map(|place| place.join(name)).find(|path| path.is_file());
            there.unwrap_or_else(|| places[0].join(name))
        };
        Ok(Binaries {
            guidewayd: find("guidewayd", "GUIDEWAYD", [&release, &profile]),
            guideway: find("guideway", "GUIDEWAY", [&release, &profile]),
            agent: find("guideway-agent", "GUIDEWAY_AGENT", [&profile, &release]),
            lab_load: find("lab-load", "GUIDEWAY_LAB_LOAD", [&profile, &release]),
        })
    }

    /// The path as text, if there is a file.
    pub fn existing(path: &Path) -> Result<&str> {
        match path.to_str() {
            Some(text) if path.is_file() => Ok(text),
            _ => Err(LabError::Missing {
                what: format!("no program at {}", path.display()),
                remedy: "build it with `cargo build --release -p guidewayd -p guideway -p guideway-agent -p \
                     guideway-lab`, or set \
                         GUIDEWAY_BIN_DIR to the directory it is in"
                    .into(),
            }),
        }
    }
}
