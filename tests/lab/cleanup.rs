//! Undoing what a lab did. Rule of this module: it works from names alone, so that it can clean up after a process
//! that is gone, and it touches nothing that does not carry the lab's prefix.

use crate::command::{LabError, Result, Tried, run};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

/// Where all labs keep their files.
pub const RUN_DIR: &str = "/run/guideway-lab";
/// Environment variable with the mark of the run that a process belongs to; every process that the lab starts has it.
pub const RUN: &str = "GUIDEWAY_RUN";
/// First part of every namespace's name; the process id follows.
pub const PREFIX: &str = "gwl-";
const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";

/// Directory of a lab process.
pub fn run_dir(id: u32) -> PathBuf {
    Path::new(RUN_DIR).join(id.to_string())
}

/// Takes the lock that lets one lab run at a time on this machine, waiting for it. It is released when the file is
/// closed.
pub fn lock() -> Result<File> {
    fs::create_dir_all(RUN_DIR).tried(|| format!("creating {RUN_DIR}; the lab needs root"))?;
    let path = Path::new(RUN_DIR).join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .tried(|| format!("opening {}", path.display()))?;
    file.lock().tried(|| "waiting for the lab's lock".into())?;
    Ok(file)
}

/// Held while this process has a lab or a sandbox; what that left is undone when it is dropped.
#[derive(Debug)]
pub struct Guard {
    _lock: File,
}

impl Guard {
    /// Waits for the lock, and cleans up after processes that died.
    pub fn take() -> Result<Guard> {
        if !rustix::process::geteuid().is_root() {
            return Err(LabError::Missing {
                what: "the lab makes network namespaces".into(),
                remedy: "run it as root".into(),
            });
        }
        let lock = lock()?;
        on_signals();
        sweep_stale();
        // An earlier lab of this process, if its clean-up was cut short.
        sweep(std::process::id());
        Ok(Guard { _lock: lock })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        for error in sweep(std::process::id()) {
            eprintln!("lab: cleaning up: {error}");
        }
    }
}

/// The mark of the run that this process belongs to; it is its own where nobody set one.
pub fn run_mark() -> String {
    std::env::var(RUN).unwrap_or_else(|_| std::process::id().to_string())
}

/// Writes down who we are, so that a later process can tell whether we still live, and which run made this lab.
pub fn enroll() -> Result<PathBuf> {
    let id = std::process::id();
    let dir = run_dir(id);
    fs::create_dir_all(&dir).tried(|| format!("creating {}", dir.display()))?;
    fs::write(dir.join("started"), start_time(id).unwrap_or_default())
        .tried(|| "writing our start time".into())?;
    fs::write(dir.join("run"), run_mark()).tried(|| "writing our run's mark".into())?;
    Ok(dir)
}

/// Writes down how many huge pages are reserved, for [`sweep`] to restore, and returns it.
pub fn note_huge_pages(dir: &Path) -> Result<u64> {
    let before = huge_pages_reserved()?;
    let note = dir.join("nr_hugepages");
    if !note.exists() {
        fs::write(&note, before.to_string()).tried(|| format!("writing {}", note.display()))?;
    }
    Ok(before)
}

/// Reserves 2 MiB pages, so that at least `pages` are free, and mounts a hugetlbfs of our own, whose files go with it.
pub fn reserve_huge_pages(dir: &Path, pages: u64) -> Result<PathBuf> {
    let before = note_huge_pages(dir)?;
    // What others have reserved they may be using.
    let lacking = pages.saturating_sub(huge_pages_free()?);
    if lacking > 0 {
        let wanted = before + lacking;
        fs::write(HUGE_PAGES, wanted.to_string())
            .tried(|| format!("writing {HUGE_PAGES}; the lab needs root"))?;
        let now = huge_pages_reserved()?;
        if now < wanted {
            return Err(LabError::Missing {
                what: format!("only {now} of {wanted} huge pages of 2 MiB could be reserved"),
                remedy: "free memory, or `echo 1 > /proc/sys/vm/compact_memory` and try again".into(),
            });
        }
    }
    let mount = dir.join("huge");
    fs::create_dir_all(&mount).tried(|| format!("creating {}", mount.display()))?;
    let path = mount.to_string_lossy().into_owned();
    run(&["mount", "-t", "hugetlbfs", "-o", "pagesize=2M", "guideway-lab", &path])?;
    Ok(mount)
}

/// `vm.nr_hugepages`.
pub fn huge_pages_reserved() -> Result<u64> {
    let text = fs::read_to_string(HUGE_PAGES).tried(|| format!("reading {HUGE_PAGES}"))?;
    text.trim().parse().map_err(|_| LabError::Wrong(format!("{HUGE_PAGES} holds {text:?}")))
}

fn huge_pages_free() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").tried(|| "reading /proc/meminfo".into())?;
    let free = text.lines().find_map(|line| line.strip_prefix("HugePages_Free:")?.trim().parse().ok());
    free.ok_or_else(|| LabError::Missing {
        what: "no HugePages_Free in /proc/meminfo".into(),
        remedy: "the kernel needs CONFIG_HUGETLBFS".into(),
    })
}

/// Undoes everything a lab of process `id` left: kills what runs in its namespaces, deletes these, unmounts its
/// hugetlbfs, restores the page count, removes its files. Carries on after an error and returns all of them.
pub fn sweep(id: u32) -> Vec<String> {
    let mut errors = Vec::new();
    let mut note = |result: Result<()>| {
        if let Err(error) = result {
            errors.push(error.to_string());
        }
    };
    let names = namespaces(id);
    for name in &names {
        note(kill_all_in(name));
    }
    for name in &names {
        note(run(&["ip", "netns", "del", name]).map(drop));
    }
    let dir = run_dir(id);
    let mount = dir.join("huge");
    if is_mounted(&mount) {
        note(run(&["umount", &mount.to_string_lossy()]).map(drop));
    }
    let noted = dir.join("nr_hugepages");
    if let Ok(before) = fs::read_to_string(&noted) {
        note(fs::write(HUGE_PAGES, before.trim()).tried(|| format!("restoring {HUGE_PAGES}")));
    }
    // EAL's runtime directory of each balancer; its name holds ours.
    if let Ok(entries) = fs::read_dir("/var/run/dpdk") {
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&format!("guideway-{PREFIX}{id}-")) {
                note(
                    fs::remove_dir_all(entry.path()).tried(|| format!("removing {}", entry.path().display())),
                );
            }
        }
    }
    // While something is left, who made it stays written down.
    if errors.is_empty() && dir.exists() {
        errors.extend(
            fs::remove_dir_all(&dir).map_err(|error| format!("removing {}: {error}", dir.display())).err(),
        );
    }
    errors
}

/// Cleans up after lab processes that died without doing so. Returns their ids.
pub fn sweep_stale() -> Vec<u32> {
    let mut ids: Vec<u32> = Vec::new();
    if let Ok(entries) = fs::read_dir(RUN_DIR) {
        ids.extend(
            entries.flatten().filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok()),
        );
    }
    if let Ok(entries) = fs::read_dir("/run/netns") {
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            ids.extend(
                name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok()),
            );
        }
    }
    ids.sort_unstable();
    ids.dedup();
    ids.retain(|&id| id != std::process::id() && !is_alive(id));
    for &id in &ids {
        for error in sweep(id) {
            eprintln!("lab: cleaning up after process {id}: {error}");
        }
    }
    ids
}

/// What a lab of process `id` still has on this machine; empty after a clean end. For tests.
pub fn traces(id: u32) -> Vec<String> {
    let mut found: Vec<String> = namespaces(id).into_iter().map(|name| format!("namespace {name}")).collect();
    if run_dir(id).exists() {
        found.push(format!("directory {}", run_dir(id).display()));
    }
    if is_mounted(&run_dir(id).join("huge")) {
        found.push("a mounted hugetlbfs".into());
    }
    found
}

/// What labs of the run `mark` still have on this machine; empty after a clean end. Other runs' labs do not count.
pub fn traces_of_run(mark: &str) -> Vec<String> {
    let entries = fs::read_dir(RUN_DIR).into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    ids.filter(|&id| fs::read_to_string(run_dir(id).join("run")).is_ok_and(|run| run == mark))
        .flat_map(traces)
        .collect()
}

/// On SIGINT, SIGTERM and SIGHUP: clean up, then end as the signal says. Installed once a process.
pub fn on_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        match signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]) {
            Ok(mut signals) => {
                std::thread::spawn(move || {
                    if let Some(signal) = signals.forever().next() {
                        eprintln!("lab: signal {signal}, cleaning up");
                        for error in sweep(std::process::id()) {
                            eprintln!("lab: {error}");
                        }
                        std::process::exit(128 + signal);
                    }
                });
            }
            Err(error) => eprintln!("lab: no clean-up on signals: {error}"),
        }
    });
}

fn namespaces(id: u32) -> Vec<String> {
    let prefix = format!("{PREFIX}{id}-");
    let Ok(entries) = fs::read_dir("/run/netns") else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name.starts_with(&prefix));
    names.sort();
    names
}

fn kill_all_in(namespace: &str) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(3);
    loop {
        let listed = run(&["ip", "netns", "pids", namespace])?;
        let pids: Vec<i32> = listed.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids {
            if let Some(pid) = Pid::from_raw(pid) {
                // The only error is that it is gone already.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if Instant::now() >= end {
            return Err(LabError::Timeout {
                what: format!("end of the processes in {namespace}"),
                limit_ms: 3000,
                last: listed.replace('\n', " "),
            });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_mounted(path: &Path) -> bool {
    let path = path.to_string_lossy();
    fs::read_to_string("/proc/mounts")
        .is_ok_and(|mounts| mounts.lines().any(|line| line.split(' ').nth(1) == Some(&path)))
}

/// A process lives, and is the one that enrolled (ids are reused).
fn is_alive(id: u32) -> bool {
    match (start_time(id), fs::read_to_string(run_dir(id).join("started"))) {
        (None, _) => false,
        (Some(now), Ok(then)) => now == then,
        (Some(_), Err(_)) => true,
    }
}

/// Start time of a process in clock ticks since boot (field 22 of its stat file), as text.
fn start_time(id: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name in parentheses may hold spaces; fields are counted behind it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}
