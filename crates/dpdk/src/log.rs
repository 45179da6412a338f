//! DPDK's log lines: captured while EAL starts, so that an error can quote them, and handed to the program's own log
//! afterwards. Without this, 22.11 writes them to standard output and to syslog.

use core::ffi::{c_char, c_void};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Lines kept while EAL starts; a chatty driver cannot fill memory.
const LINES_MAX: usize = 512;

/// Warnings and errors that mean nothing here and are taken for information: we have no program of DPDK's former
/// telemetry, and use no flow rules on exception ports (which need a queueing discipline that not every kernel has).
const HARMLESS: &[&str] = &[
    "TELEMETRY: No legacy callbacks",
    "tap_nl_dump_ext_ack(): Specified qdisc kind is unknown",
    "qdisc_create_multiq()",
    "failed to create multiq qdisc",
    "Disabling rte flow support",
];

/// How urgent a line is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warning,
    /// Worth knowing.
    Notice,
    /// Chatter of a normal start.
    Info,
    /// For DPDK's developers.
    Debug,
}

impl Level {
    /// From DPDK's `RTE_LOG_*`.
    fn from_dpdk(level: i32) -> Level {
        match level {
            ..=4 => Level::Error,
            5 => Level::Warning,
            6 => Level::Notice,
            7 => Level::Info,
            _ => Level::Debug,
        }
    }
}

/// Takes DPDK's log lines; called from any thread.
pub type Sink = fn(Level, &str);

struct LogState {
    captured: Vec<(Level, String)>,
    sink: Option<Sink>,
}

static STATE: Mutex<LogState> = Mutex::new(LogState { captured: Vec::new(), sink: None });

fn state() -> MutexGuard<'static, LogState> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Directs DPDK's log into this module. Called once, before EAL starts.
pub(crate) fn capture() {
    let functions = dpdk_sys::cookie_io_functions_t { write: Some(write), ..Default::default() };
    // SAFETY: the mode is a C string, and `write` ignores the cookie.
    let stream = unsafe { dpdk_sys::fopencookie(ptr::null_mut(), c"w".as_ptr(), functions) };
    if stream.is_null() {
        return; // out of memory: lines go where DPDK sends them by itself
    }
    // SAFETY: the stream was opened above and nothing was written to it yet.
    unsafe { dpdk_sys::setvbuf(stream, ptr::null_mut(), dpdk_sys::_IOLBF.cast_signed(), 0) };
    // SAFETY: the stream stays open for the life of the process.
    unsafe { dpdk_sys::rte_openlog_stream(stream) };
}

/// From now on lines go to `sink`; gives what was captured.
pub(crate) fn release(sink: Sink) -> Vec<(Level, String)> {
    let mut state = state();
    state.sink = Some(sink);
    state.captured.clone()
}

/// What was captured while EAL started.
pub(crate) fn captured() -> Vec<(Level, String)> {
    state().captured.clone()
}

/// The stream's writer: DPDK flushes after every message, so `bytes` is whole lines.
unsafe extern "C" fn write(_cookie: *mut c_void, bytes: *const c_char, len: usize) -> i64 {
    // SAFETY: stdio gives `len` readable bytes.
    let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), len) };
    // SAFETY: reads a per-thread variable; no preconditions.
    let level = Level::from_dpdk(unsafe { dpdk_sys::rte_log_cur_msg_loglevel() });
    for line in String::from_utf8_lossy(bytes).lines().map(str::trim_end).filter(|line| !line.is_empty()) {
        let harmless = HARMLESS.iter().any(|text| line.contains(text));
        let level = if harmless { level.max(Level::Info) } else { level };
        let sink = {
            let mut state = state();
            if state.sink.is_none() && state.captured.len() < LINES_MAX {
                state.captured.push((level, line.to_owned()));
            }
            state.sink
        };
        if let Some(sink) = sink {
            sink(level, line);
        }
    }
    i64::try_from(len).unwrap_or(i64::MAX)
}
