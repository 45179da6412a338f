//! Huge pages for the time of a measurement: reserved before it, given back after it, however it ends.
//!
//! The measurement runs in a child process, because the C library reads its tunables at start and because the pages must be
//! given back even when it is killed or aborts.

use crate::failure::Failure;
use dpdk::huge_pages::HugePages;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Set in the child.
const CHILD: &str = "GUIDEWAY_BENCH_CHILD";
/// Where the number of huge pages of 2 MiB is set.
const KNOB: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
const PAGE: u64 = 2 << 20;

/// Whether this process is the one that measures.
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Pages reserved in addition; given back when dropped.
#[derive(Debug)]
struct Reservation {
    pages: u64,
}

impl Reservation {
    /// Makes sure that `bytes` are free, if this process may.
    fn make(bytes: u64) -> Reservation {
        let wanted = bytes.div_ceil(PAGE);
        let Some(size) = HugePages::all().into_iter().find(|size| size.page_bytes == PAGE) else {
            return Reservation { pages: 0 };
        };
        let missing = wanted.saturating_sub(size.free);
        // Half of what is available stays with everybody else.
        if missing == 0 || missing * PAGE > available_bytes() / 4 * 3 {
            return Reservation { pages: 0 };
        }
        if fs::write(KNOB, (size.total + missing).to_string()).is_err() {
            return Reservation { pages: 0 };
        }
        let reservation = Reservation { pages: total().saturating_sub(size.total) };
        if reservation.pages < missing {
            // Too fragmented. Some pages are no help: a table is in huge pages as a whole.
            drop(reservation);
            return Reservation { pages: 0 };
        }
        reservation
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.pages > 0 {
            // Others may have changed the number meanwhile. It fails only where it could not be set.
            let _ = fs::write(KNOB, total().saturating_sub(self.pages).to_string());
        }
    }
}

fn total() -> u64 {
    fs::read_to_string(KNOB).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn available_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0) * 1024
}

/// Runs this program again with the same arguments and up to `bytes` of huge pages; gives its exit code.
///
/// # Errors
/// It cannot be started.
pub fn run(bytes: u64) -> Result<ExitCode, Failure> {
    let failed = |e: std::io::Error| Failure::Machine(format!("cannot start the measurement: {e}"));
    // The terminal sends both signals to the child too; this process stays to give the pages back.
    let told = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&told)).map_err(failed)?;
    }
    let reservation = Reservation::make(bytes);
    let huge = HugePages::all().iter().any(|size| size.page_bytes == PAGE && size.free * PAGE >= bytes);
    // 2: reserved huge pages for large allocations of the C library, 1: transparent ones on advice (glibc 2.35).
    let tunables = format!("glibc.malloc.hugetlb={}", if huge { 2 } else { 1 });
    let program = std::env::current_exe().map_err(failed)?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(CHILD, "1")
        .env("GLIBC_TUNABLES", tunables)
        .spawn()
        .map_err(failed)?;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if told.load(std::sync::atomic::Ordering::Relaxed) {
            // A polite signal may have reached this process only.
            child.kill().map_err(failed)?;
            break child.wait().map_err(failed)?;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    drop(reservation);
    if let Some(signal) = status.signal() {
        return Err(Failure::Machine(format!("the measurement was ended by signal {signal}")));
    }
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
