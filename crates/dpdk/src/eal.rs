//! The environment abstraction layer: starts once per process, owns huge pages, lcores and the bus of devices.

mod arguments;
mod diagnosis;
mod files;

pub use arguments::{ArgumentError, EalArguments, is_hardware, quote};

use crate::errno::Errno;
use crate::log::{self, Level, Sink};
use core::ffi::{CStr, c_char, c_int};
use std::ffi::CString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// EAL can be started once in a process, even after it was stopped.
static STARTED: AtomicBool = AtomicBool::new(false);
/// Set when memory of EAL is referenced by something that ownership does not track: it must stay mapped.
static PINNED: AtomicBool = AtomicBool::new(false);

/// Keeps EAL's memory mapped until the process ends.
pub(crate) fn pin_memory() {
    PINNED.store(true, SeqCst);
}

/// Why EAL did not start.
#[derive(Debug, thiserror::Error)]
pub enum EalError {
    /// Second start in one process.
    #[error("EAL was started before in this process, and it starts once only")]
    AlreadyStarted,
    /// An argument contains a NUL byte.
    #[error("EAL argument {0:?} contains a NUL byte; remove it")]
    NulByte(String),
    /// `rte_eal_init` refused.
    #[error("EAL does not start: {reason} [{errno}]\n  EAL arguments: {arguments}{lines}\n  {help}")]
    Refused {
        /// The line that explains it best.
        reason: String,
        /// What `rte_errno` said.
        errno: Errno,
        /// The arguments, quoted for a shell.
        arguments: String,
        /// EAL's last warnings and errors, each on a line of its own.
        lines: String,
        /// What to do.
        help: String,
    },
}

/// A running EAL. Cloning shares it; the last one stops it and removes the files it left.
#[derive(Clone, Debug)]
pub struct Eal {
    _inner: Arc<EalHandle>,
}

#[derive(Debug)]
struct EalHandle {
    prefix: Option<String>,
    runtime_dir: Option<PathBuf>,
}

impl Eal {
    /// Starts EAL with `arguments` (program name first). DPDK's log lines go to `sink` from the end of the start on.
    /// `memory_bytes` is the huge-page memory the caller will want, named in the remedy when there is none.
    ///
    /// The calling thread becomes the main lcore and is pinned to its CPUs. Call it before threads are started that read
    /// the environment through C.
    ///
    /// # Errors
    /// [`EalError`], with EAL's own words and a remedy.
    pub fn start(arguments: &[String], memory_bytes: u64, sink: Sink) -> Result<Eal, EalError> {
        let strings = arguments
            .iter()
            .map(|argument| CString::new(argument.as_str()).map_err(|_| EalError::NulByte(argument.clone())))
            .collect::<Result<Vec<_>, _>>()?;
        if STARTED.swap(true, SeqCst) {
            return Err(EalError::AlreadyStarted);
        }
        log::capture();
        // getopt permutes the array, so the owned strings are kept apart from it. EAL keeps pointers into them
        // (for secondary processes and telemetry), so they live as long as the process.
        let strings: &'static [CString] = Vec::leak(strings);
        let mut argv: Vec<*mut c_char> = strings.iter().map(|string| string.as_ptr().cast_mut()).collect();
        argv.push(std::ptr::null_mut());
        let count = c_int::try_from(strings.len()).unwrap_or(c_int::MAX);

        // systemd sets it for a unit with RuntimeDirectory=, and EAL would put its files there: DPDK's tools, and the lock
        // that refuses a second instance, look in the default place.
        // SAFETY: the first thing that a process does with DPDK; no thread is there that reads the environment through C.
        unsafe { std::env::remove_var("RUNTIME_DIRECTORY") };

        // On a bad argument EAL prints three screens of help to standard output, and what is fatal to standard error as well,
        // in a form of its own: both are in what was captured.
        let muted = mute();
        // SAFETY: argv holds `count` C strings and a null pointer, all alive during the call; first start in this process.
        let result = unsafe { dpdk_sys::rte_eal_init(count, argv.as_mut_ptr()) };
        let errno = Errno::last();
        drop(muted);

        if result < 0 {
            return Err(diagnosis::refused(errno, arguments, &log::captured(), memory_bytes));
        }
        let prefix = arguments::file_prefix(arguments);
        // SAFETY: EAL is started, so the directory is set.
        let directory = unsafe { dpdk_sys::rte_eal_get_runtime_dir() };
        let eal = Eal { _inner: Arc::new(EalHandle { prefix, runtime_dir: path(directory) }) };
        for (level, line) in log::release(sink) {
            sink(level.max(Level::Warning), &line);
        }
        Ok(eal)
    }

    /// Logical core ids of the workers, in order; the main lcore is not among them.
    pub fn worker_lcores(&self) -> Vec<u32> {
        let mut lcores = Vec::new();
        let mut lcore = u32::MAX; // the first call wraps to 0
        loop {
            // SAFETY: EAL is started.
            lcore = unsafe { dpdk_sys::rte_get_next_lcore(lcore, 1, 0) };
            if lcore >= dpdk_sys::RTE_MAX_LCORE {
                return lcores;
            }
            lcores.push(lcore);
        }
    }

    /// NUMA socket of a logical core.
    pub fn socket_of(&self, lcore: u32) -> Option<u16> {
        // SAFETY: EAL is started; ids past the limit give a defined answer.
        let socket = unsafe { dpdk_sys::rte_lcore_to_socket_id(lcore.min(dpdk_sys::RTE_MAX_LCORE - 1)) };
        u16::try_from(socket).ok()
    }

    /// Whether memory comes from huge pages (not with `--no-huge`).
    pub fn has_huge_pages(&self) -> bool {
        // SAFETY: EAL is started.
        unsafe { dpdk_sys::rte_eal_has_hugepages() != 0 }
    }

    /// DPDK's version, as it names itself.
    pub fn version(&self) -> String {
        // SAFETY: no preconditions; gives a static C string.
        let version = unsafe { dpdk_sys::rte_version() };
        // SAFETY: a NUL-terminated string that lives as long as the process.
        unsafe { CStr::from_ptr(version) }.to_string_lossy().into_owned()
    }
}

impl Drop for EalHandle {
    fn drop(&mut self) {
        // After rte_eal_cleanup the memory is unmapped, so it is skipped while anything may still point there; the
        // kernel takes everything back a moment later, when the process ends.
        if !PINNED.load(SeqCst) {
            // SAFETY: ports, pools and lcores hold a reference to this, so none of them is alive.
            unsafe { dpdk_sys::rte_eal_cleanup() };
        }
        // rte_eal_cleanup leaves both behind (22.11, without --in-memory).
        if let Some(prefix) = &self.prefix {
            files::remove(prefix, self.runtime_dir.as_deref());
        }
    }
}

fn path(text: *const c_char) -> Option<PathBuf> {
    if text.is_null() {
        return None;
    }
    // SAFETY: a NUL-terminated string that EAL keeps.
    Some(PathBuf::from(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()))
}

/// Standard output and standard error point to /dev/null while this lives.
struct Muted {
    stdout: std::os::fd::OwnedFd,
    stderr: std::os::fd::OwnedFd,
}

fn mute() -> Option<Muted> {
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null").ok()?;
    let stdout = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3).ok()?;
    let stderr = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3).ok()?;
    let muted = Muted { stdout, stderr };
    rustix::stdio::dup2_stdout(&null).ok()?;
    rustix::stdio::dup2_stderr(&null).ok()?;
    Some(muted)
}

impl Drop for Muted {
    fn drop(&mut self) {
        // C's stdio may hold help text that must not appear once the descriptor is back.
        // SAFETY: a null pointer flushes all streams; no preconditions.
        unsafe { dpdk_sys::fflush(std::ptr::null_mut()) };
        // Nothing better can be done when a descriptor cannot be put back.
        let _ = rustix::stdio::dup2_stdout(&self.stdout);
        let _ = rustix::stdio::dup2_stderr(&self.stderr);
    }
}
