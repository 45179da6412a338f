//! A check by a command of the host's own: status 0 passes.
//!
//! Rule of this module: what is run comes from a file on the host, never from the network; the network names it.

use crate::probe::CheckFailure;
use rustix::process::{Pid, Signal, kill_process_group};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

/// Commands that run at once in this process, at most. A further one waits; the wait is not held against it.
pub const EXEC_AT_ONCE_MAX: usize = 64;

static PLACES: Semaphore = Semaphore::const_new(EXEC_AT_ONCE_MAX);

/// A command, run without a shell, in an environment of its own, with nothing to read and nobody to read what it prints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exec {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// All of its environment but `PATH`, which is `/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`.
    pub environment: Vec<(String, String)>,
    /// Time it may take, milliseconds; then it is killed, and all processes of its group with it.
    pub timeout_ms: u32,
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Exec {
    /// Runs it once. Dropped in the middle, it kills the command.
    ///
    /// # Errors
    /// Why it did not pass.
    pub async fn run(&self) -> Result<(), CheckFailure> {
        let _place = PLACES.acquire().await.map_err(|e| CheckFailure::Local(e.to_string()))?;
        let Some((program, arguments)) = self.argv.split_first() else {
            return Err(CheckFailure::Local("a command without a program".to_owned()));
        };
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|error| crate::probe::unprepared(program, &error))?;
        let mut group = Group(child);
        let limit = Duration::from_millis(u64::from(self.timeout_ms));
        match tokio::time::timeout(limit, group.0.wait()).await {
            Ok(Ok(status)) => verdict(status),
            Ok(Err(error)) => Err(CheckFailure::Local(format!("{program}: {error}"))),
            Err(_) => Err(CheckFailure::Timeout),
        }
    }
}

fn verdict(status: ExitStatus) -> Result<(), CheckFailure> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(CheckFailure::Exit(code)),
        (None, signal) => Err(CheckFailure::Signal(signal.unwrap_or(0))),
    }
}

/// The leader of a process group. Dropped before its end was seen, it is killed with its group; the number of a group
/// whose leader was not waited for cannot be another's.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let leader = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(leader) = leader {
            // It may have ended a moment ago; the runtime waits for what is left.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn shell(script: &str) -> Exec {
        Exec {
            argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            environment: vec![("GUIDEWAY_PORT".to_owned(), "8080".to_owned())],
            timeout_ms: 5000,
        }
    }

    async fn words(exec: &Exec) -> String {
        exec.run().await.map_or_else(|failure| failure.to_string(), |()| "ok".to_owned())
    }

    #[tokio::test]
    async fn status_0_passes_and_others_are_told() {
        assert_eq!(words(&shell("exit 0")).await, "ok");
        assert_eq!(words(&shell("echo noise; echo more >&2; exit 3")).await, "exit status 3");
        assert_eq!(words(&shell("kill -9 $$")).await, "ended by signal 9");
        assert_eq!(words(&shell("read line || exit 7")).await, "exit status 7", "nothing to read");
        let missing = Exec { argv: vec!["/no/such/program".to_owned()], ..shell("") };
        let got = words(&missing).await;
        assert!(got.starts_with("cannot probe: /no/such/program: "), "{got}");
        assert_eq!(
            words(&Exec { argv: vec![], ..shell("") }).await,
            "cannot probe: a command without a program"
        );
    }

    #[tokio::test]
    async fn its_environment_is_its_own() {
        assert_eq!(words(&shell("test \"$GUIDEWAY_PORT\" = 8080")).await, "ok");
        // Cargo sets this for tests.
        assert_eq!(words(&shell("test -z \"$CARGO_MANIFEST_DIR\"")).await, "ok");
    }

    #[tokio::test]
    async fn a_slow_one_is_killed_and_its_children_too() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("child");
        let script = format!("(sleep 30) & echo $! > {}; wait", file.display());
        let begun = Instant::now();
        assert_eq!(words(&Exec { timeout_ms: 500, ..shell(&script) }).await, "timeout");
        assert!(begun.elapsed() < Duration::from_secs(10));
        gone(&file).await;
    }

    #[tokio::test]
    async fn dropped_in_the_middle_it_is_killed() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("child");
        let exec = shell(&format!("echo $$ > {}; exec sleep 30", file.display()));
        let task = tokio::spawn(async move { exec.run().await });
        while std::fs::read_to_string(&file).unwrap_or_default().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        task.abort();
        gone(&file).await;
    }

    /// Waits until the process whose number is in `file` is dead (a zombie is).
    async fn gone(file: &std::path::Path) {
        let pid = std::fs::read_to_string(file).unwrap().trim().to_owned();
        for _ in 0..500 {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("process {pid} lives");
    }

    #[tokio::test]
    async fn no_more_than_so_many_at_once() {
        let place = tempfile::tempdir().unwrap();
        // Each leaves a file while it runs and fails when it sees more than may be.
        let script = format!(
            "cd {}; touch $$; test $(ls | wc -l) -le {EXEC_AT_ONCE_MAX}; ok=$?; sleep 0.2; rm $$; exit $ok",
            place.path().display()
        );
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..EXEC_AT_ONCE_MAX + 16 {
            let exec = Exec { timeout_ms: 30_000, ..shell(&script) };
            all.spawn(async move { exec.run().await.is_ok() });
        }
        assert!(all.join_all().await.into_iter().all(|passed| passed));
    }
}
