//! What a run must leave as it found it. Others use the machine too, so only what this run made itself can be left
//! behind by it: processes that carry its mark in their environment, and labs (namespaces, mounts, huge pages), which
//! write the mark down before they make anything.

use guideway_lab::cleanup;
use std::collections::BTreeSet;
use std::process::Command;

/// Checks that nothing of the run `mark` is left.
///
/// # Errors
/// The list of what is, one sentence each.
pub(crate) fn nothing_left(mark: &str) -> Result<(), String> {
    let mut left = Vec::new();
    // A daemon that was told to stop may need a moment for its last file.
    for _ in 0..20 {
        left = cleanup::traces_of_run(mark);
        left.extend(marked(mark).into_iter().map(|(pid, name)| format!("process {name} ({pid})")));
        if left.is_empty() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(250));
    }
    Err(format!("left behind: {}", left.join("; ")))
}

/// Processes, other than this one, of the run `mark`.
fn marked(mark: &str) -> BTreeSet<(u32, String)> {
    let wanted = format!("{}={mark}", cleanup::RUN);
    let mut all = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Ok(name) = std::fs::read_to_string(format!("/proc/{pid}/comm")) else { continue };
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let ours = environment.split(|b| *b == 0).any(|v| v == wanted.as_bytes());
        if ours && pid != std::process::id() {
            all.insert((pid, name.trim_end().to_owned()));
        }
    }
    all
}

/// Prints what this machine is, so that a log says where its numbers come from.
pub(crate) fn describe() {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().next().map(str::to_owned)
    };
    println!(
        "{cpus} CPUs, kernel {}, {}, DPDK {}",
        kernel.trim(),
        version("cargo", "--version").unwrap_or_else(|| "no cargo".to_owned()),
        Command::new("pkg-config")
            .args(["--modversion", "libdpdk"])
            .output()
            .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
            .unwrap_or_else(|_| "not found".to_owned())
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Stdio};

    /// A process that ends by itself after a while.
    fn sleeper(name: &str, mark: Option<&str>) -> Child {
        let mut command = Command::new(name);
        command.arg("20").stdout(Stdio::null());
        match mark {
            Some(mark) => command.env(cleanup::RUN, mark),
            None => command.env_remove(cleanup::RUN),
        };
        command.spawn().expect("it starts")
    }

    #[test]
    fn what_the_run_made_is_found_and_what_others_made_is_not() {
        let mark = format!("test-{}", std::process::id());
        let mut others = [sleeper("sleep", None), sleeper("sleep", Some("another-run"))];
        assert_eq!(nothing_left(&mark), Ok(()));
        let mut ours = sleeper("sleep", Some(&mark));
        // The environment is visible once the program is executed.
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert_eq!(marked(&mark), BTreeSet::from([(ours.id(), "sleep".to_owned())]));
        for child in others.iter_mut().chain([&mut ours]) {
            child.kill().expect("it dies");
            child.wait().expect("it is reaped");
        }
        assert_eq!(nothing_left(&mark), Ok(()));
    }
}
