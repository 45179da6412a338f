//! How a job is woken and stopped, and what it says meanwhile.

use crate::command::{LabError, Result, Tried};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Where a job stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Requests (or echoes, or bytes) that succeeded.
    pub done: u64,
    /// Of requests or connections: those that failed.
    pub failed: u64,
}

/// One line of output.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line<R> {
    /// Four times a second.
    Progress(Progress),
    /// The last line.
    Report(R),
}

/// Something that failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// When the request or connection began, Unix time, milliseconds.
    pub started_unix_ms: u64,
    /// When it failed.
    pub ended_unix_ms: u64,
    /// Client address and port.
    pub source: String,
    /// The backend, where it was known already.
    pub backend: Option<String>,
    /// What happened.
    pub reason: String,
}

/// The line that wakes a job.
pub const WAKE: &str = "wake";

/// At most this many failures are reported in detail.
pub const FAILURES_MAX: usize = 10_000;

/// Requests by the backend that answered.
pub type PerBackend = BTreeMap<String, u64>;

/// Unix time, milliseconds.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn print_line<R: Serialize>(line: &Line<R>) -> Result<()> {
    let mut text = serde_json::to_string(line).map_err(|error| LabError::Wrong(error.to_string()))?;
    text.push('\n');
    std::io::stdout().lock().write_all(text.as_bytes()).tried(|| "writing to standard output".into())
}

/// How a job is woken and stopped, and how it tells where it stands.
#[derive(Clone, Debug)]
pub struct Control {
    woken: watch::Receiver<bool>,
    stopped: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl Control {
    pub(super) fn start() -> Control {
        let (wake, woken) = watch::channel(false);
        let control = Control {
            woken,
            stopped: Arc::default(),
            done: Arc::new(AtomicU64::new(0)),
            failed: Arc::new(AtomicU64::new(0)),
        };
        let input = control.clone();
        std::thread::spawn(move || {
            // Whether it ends by an end of file or an error, there is nobody left who wants the result of more.
            for line in std::io::stdin().lock().lines().map_while(std::result::Result::ok) {
                if line == WAKE {
                    wake.send_replace(true);
                }
            }
            input.stopped.store(true, Ordering::Relaxed);
            // What sleeps has to end too.
            wake.send_replace(true);
        });
        let output = control.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(250));
                let progress = Progress {
                    done: output.done.load(Ordering::Relaxed),
                    failed: output.failed.load(Ordering::Relaxed),
                };
                if print_line(&Line::<()>::Progress(progress)).is_err() {
                    output.stopped.store(true, Ordering::Relaxed);
                    return;
                }
            }
        });
        control
    }

    /// Returns when the job is woken or stopped.
    pub(super) async fn woken(&mut self) {
        // The sender ends after it has woken us.
        drop(self.woken.wait_for(|woken| *woken).await);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    pub(super) fn add_done(&self, count: u64) {
        self.done.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn add_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}
