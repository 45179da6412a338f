//! Commands and processes. Rule of this module: nothing waits without a limit, and a failure says which command
//! failed and what it printed.

use crate::cleanup;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What can go wrong in the lab.
#[derive(thiserror::Error)]
pub enum LabError {
    /// A command could not be started or ended badly.
    #[error("`{command}` failed ({status}): {output}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status, or why it could not be started.
        status: String,
        /// What it printed.
        output: String,
    },
    /// A file or socket operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Something did not happen in time.
    #[error("{what}: not within {limit_ms} ms; last seen: {last}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long, milliseconds.
        limit_ms: u128,
        /// The last observation.
        last: String,
    },
    /// Something is missing on this machine.
    #[error("{what}; {remedy}")]
    Missing {
        /// What is missing.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// The system under test did something it must not do.
    #[error("{0}")]
    Wrong(String),
}

/// In words as well: tests unwrap, and then a log of 30 lines must be readable.
impl std::fmt::Debug for LabError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Shorthand of this crate.
pub type Result<T> = std::result::Result<T, LabError>;

/// Adds what was tried to an I/O error.
pub trait Tried<T> {
    /// Names the attempt.
    fn tried(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Tried<T> for std::io::Result<T> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| LabError::Io { what: what(), source })
    }
}

/// Runs a command to its end and returns its standard output. The limit is 60 s.
pub fn run(argv: &[&str]) -> Result<String> {
    run_with(argv, "", Duration::from_secs(60))
}

/// Like [`run`], with standard input.
pub fn run_input(argv: &[&str], input: &str) -> Result<String> {
    run_with(argv, input, Duration::from_secs(60))
}

/// Like [`run_input`], with a limit on the time it may take.
pub fn run_with(argv: &[&str], input: &str, limit: Duration) -> Result<String> {
    let failed =
        |status: String, output: String| LabError::Command { command: argv.join(" "), status, output };
    let (program, arguments) = argv.split_first().ok_or_else(|| failed("empty".into(), String::new()))?;
    let mut child = Command::new(program)
        .args(arguments)
        .env(cleanup::RUN, cleanup::run_mark())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| unstarted(argv, error))?;
    let stdin = child.stdin.take();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || {
        if let Some(mut stdin) = stdin {
            // A program that does not read its input to the end is not an error.
            drop(stdin.write_all(input.as_bytes()));
        }
    });
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let status = wait(&mut child, limit);
    if status.is_none() {
        drop(child.kill());
        drop(child.wait());
    }
    drop(writer.join());
    let stdout = stdout.join().unwrap_or_default();
    let stderr = stderr.join().unwrap_or_default();
    match status {
        Some(status) if status.success() => Ok(stdout),
        Some(status) => Err(failed(status.to_string(), format!("{stderr}{stdout}"))),
        None => Err(failed(format!("no end within {} s", limit.as_secs()), format!("{stderr}{stdout}"))),
    }
}

/// Debian packages of the programs that the lab calls, for a machine that lacks one.
const PACKAGES: &[(&str, &str)] = &[
    ("bpftool", "bpftool"),
    ("clang", "clang"),
    ("curl", "curl"),
    ("dpdk-dumpcap", "dpdk"),
    ("dpdk-proc-info", "dpdk"),
    ("dpdk-telemetry.py", "dpdk"),
    ("etcd", "etcd-server"),
    ("etcdctl", "etcd-client"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("jq", "jq"),
    ("mount", "mount"),
    ("nft", "nftables"),
    ("nginx", "nginx-light"),
    ("nstat", "iproute2"),
    ("nsenter", "util-linux"),
    ("ping", "iputils-ping"),
    ("promtool", "prometheus"),
    ("python3", "python3"),
    ("ss", "iproute2"),
    ("sysctl", "procps"),
    ("tc", "iproute2"),
    ("tcpdump", "tcpdump"),
    ("tshark", "tshark"),
    ("umount", "mount"),
    ("unshare", "util-linux"),
    ("wrk", "wrk"),
];

/// Fails if a program that another one will start, such as `ip netns exec`, is not there.
pub fn require(argv: &[&str]) -> Result<()> {
    let program = argv.first().copied().unwrap_or_default();
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = program.contains('/')
        || std::env::split_paths(&paths).any(|directory| directory.join(program).is_file());
    if found { Ok(()) } else { Err(missing(argv)) }
}

/// Why a program could not be started.
fn unstarted(argv: &[&str], error: std::io::Error) -> LabError {
    match error.kind() {
        std::io::ErrorKind::NotFound => missing(argv),
        _ => LabError::Io { what: format!("starting `{}`", argv.join(" ")), source: error },
    }
}

fn missing(argv: &[&str]) -> LabError {
    let program = argv.first().copied().unwrap_or_default();
    let package = PACKAGES.iter().find(|(name, _)| *name == program).map(|(_, package)| *package);
    let package = package.map_or_else(String::new, |package| format!(" (Debian's {package})"));
    LabError::Missing {
        what: format!("the program `{program}` is missing, for `{}`", argv.join(" ")),
        remedy: format!("dpdk-setup/packages.sh --development installs it{package}"),
    }
}

fn reader(source: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut source) = source {
            drop(source.read_to_end(&mut bytes));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_micros(500);
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Asks `probe` every 20 ms until it gives a value; its errors are what was last seen.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> std::result::Result<T, String>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(last) if start.elapsed() >= limit => {
                return Err(LabError::Timeout { what: what.to_owned(), limit_ms: limit.as_millis(), last });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A process that the lab started. It is killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts a program with its output in a log file.
    pub fn start(name: &str, argv: &[&str], log: &Path) -> Result<Process> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .tried(|| format!("opening the log {}", log.display()))?;
        let errors = output.try_clone().tried(|| "duplicating a log handle".into())?;
        let (program, arguments) =
            argv.split_first().ok_or_else(|| LabError::Wrong("an empty command line".into()))?;
        let child = Command::new(program)
            .args(arguments)
            .env(cleanup::RUN, cleanup::run_mark())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(|error| unstarted(argv, error))?;
        Ok(Process { child, name: name.to_owned(), log: log.to_owned() })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal; nothing happens if it has ended.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // The only error is that it is gone already.
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait(&mut self.child, limit).ok_or_else(|| LabError::Timeout {
            what: format!("end of {}", self.name),
            limit_ms: limit.as_millis(),
            last: self.log_tail(20),
        })
    }

    /// Kills it and takes its exit status, so that no zombie stays.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// The last lines it printed.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        for (program, package) in PACKAGES {
            let text = unstarted(&[program, "-t", "x"], std::io::ErrorKind::NotFound.into()).to_string();
            assert!(
                text.contains(&format!("`{program}` is missing"))
                    && text.contains(&format!("Debian's {package})")),
                "{text}"
            );
        }
        assert!(missing(&["own"]).to_string().ends_with("packages.sh --development installs it"));
        require(&["sh", "-c", "true"]).unwrap();
        assert!(matches!(require(&["guideway-no-such-program"]), Err(LabError::Missing { .. })));
        match run(&["guideway-no-such-program"]) {
            Err(LabError::Missing { what, .. }) => {
                assert!(what.contains("guideway-no-such-program"), "{what}");
            }
            other => panic!("{other:?}"),
        }
    }

    /// What the lab calls is what the script installs.
    #[test]
    fn packages_are_installed_by_the_script() {
        let script =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/dpdk-setup/packages.sh")).unwrap();
        let listed: Vec<&str> = script
            .lines()
            .filter_map(|line| line.split_once("=(")?.1.strip_suffix(')'))
            .flat_map(str::split_whitespace)
            .collect();
        for (program, package) in PACKAGES {
            assert!(
                listed.contains(package),
                "{program} comes with {package}, which packages.sh does not install"
            );
        }
    }
}
