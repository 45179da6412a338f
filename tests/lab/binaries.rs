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
    /// The lab's own load generator and server.
    pub lab_load: PathBuf,
}

impl Binaries {
    /// Finds the programs: in `GUIDEWAY_BIN_DIR` if it is set, else in the cargo target directory that the running
    /// program lies in (the release build of the programs under test is preferred). They need not exist yet.
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
        let find = |name: &str, order: [&Path; 2]| {
            let mut places: Vec<&Path> = given.iter().map(PathBuf::as_path).collect();
            places.extend(order);
            places.iter().map(|place| place.join(name)).find(|path| path.is_file()).ok_or_else(|| LabError::Missing {
                what: format!("no program `{name}` in {places:?}"),
                remedy: "build it with `cargo build --release -p guidewayd -p guideway -p guideway-lab`, or set \
                         GUIDEWAY_BIN_DIR to the directory it is in"
                    .into(),
            })
        };
        let lab_load = find("lab-load", [&profile, &release])?;
        // What is not built yet is looked for once more when it is started.
        let or_release = |name: &str| find(name, [&release, &profile]).unwrap_or_else(|_| release.join(name));
        Ok(Binaries { guidewayd: or_release("guidewayd"), guideway: or_release("guideway"), lab_load })
    }

    /// The path as text, if there is a file.
    pub fn existing(path: &Path) -> Result<&str> {
        match path.to_str() {
            Some(text) if path.is_file() => Ok(text),
            _ => Err(LabError::Missing {
                what: format!("no program at {}", path.display()),
                remedy: "build it with `cargo build --release -p guidewayd -p guideway -p guideway-lab`, or set \
                         GUIDEWAY_BIN_DIR to the directory it is in"
                    .into(),
            }),
        }
    }
}
