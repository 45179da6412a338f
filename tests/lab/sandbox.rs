//! A place for commands that are written for a whole machine, such as those of a tutorial.

use crate::binaries::Binaries;
use crate::cleanup;
use crate::command::{LabError, Result, require, run_with};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file system that commands in the sandbox see: the machine's own, below a mount point, because `ip
/// netns` needs a root that is one; with a `/run` of its own, so that nothing meets what is there. It is
/// mounted where only the sandbox sees it: below a mount that tells no other namespace. In a chroot, whose root
/// may be no mount point, that is `/run`.
const SET_UP: &str = "{ mount --make-rprivate / 2>/dev/null || mount --make-rprivate /run; } \
                      && mount --rbind / \"$3\" && mount -t proc proc \"$3/proc\" \
                      && mount -t tmpfs tmpfs \"$3/run\" \
                      && exec chroot \"$3\" env --chdir=\"$1\" bash -c \"$2\"";

/// Namespaces (network, processes, mounts) in which commands run as root. When they end, or fail, or take too
/// long, what they started is killed and what they mounted is gone; the number of huge pages is put back when
/// this is dropped.
#[derive(Debug)]
pub struct Sandbox {
    binaries: Binaries,
    /// Where the file system is mounted, in the sandbox alone.
    root: PathBuf,
    _guard: cleanup::Guard,
}

impl Sandbox {
    /// One at a time exists on a machine, as of labs: making a second one waits.
    pub fn new() -> Result<Sandbox> {
        let guard = cleanup::Guard::take()?;
        let dir = cleanup::enroll()?;
        cleanup::note_huge_pages(&dir)?;
        let root = dir.join("root");
        std::fs::create_dir_all(&root)
            .map_err(|error| LabError::Wrong(format!("cannot make {}: {error}", root.display())))?;
        Ok(Sandbox { binaries: Binaries::locate()?, root, _guard: guard })
    }

    /// Runs a script of bash in a directory to its end and returns its standard output; the programs under
    /// test are first in the search path. A failure holds what was printed until then.
    pub fn run(&self, script: &str, directory: &Path, limit: Duration) -> Result<String> {
        for program in ["bash", "chroot", "mount", "timeout", "unshare"] {
            require(&[program])?;
        }
        let mut path = String::new();
        for program in [&self.binaries.guideway, &self.binaries.guidewayd] {
            let directory = Path::new(Binaries::existing(program)?).parent().unwrap_or(Path::new("/"));
            path += &format!("{}:", directory.display());
        }
        path += &std::env::var("PATH").unwrap_or_default();
        let (path, directory) = (format!("PATH={path}"), directory.to_string_lossy());
        let root = self.root.to_string_lossy();
        // It ends by itself also if this process is killed, and everything in it with its first process.
        let seconds = limit.as_secs().to_string();
        let argv = [
            "env",
            &path,
            "timeout",
            "--signal=KILL",
            &seconds,
            "unshare",
            "--mount",
            "--propagation",
            "unchanged",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            SET_UP,
            "sh",
            &directory,
            script,
            &root,
        ];
        run_with(&argv, "", limit + Duration::from_secs(5)).map_err(|error| match error {
            LabError::Command { status, output, .. } => {
                LabError::Command { command: "the script".into(), status, output }
            }
            other => other,
        })
    }
}
