//! Load on real TCP, and the server behind it. A job is described by JSON on the command line; while it runs a line
//! of progress is printed four times a second, and its last line is the report. It ends when its work is done or when
//! its standard input ends, so it never outlives the test that started it. The line `wake` on its standard input wakes
//! what is silent.

pub mod bulk;
pub mod echo;
pub mod flood;
pub mod hold;
pub mod http;
pub mod serve;
pub mod short;
pub mod site;
mod socket;

use crate::command::{LabError, Result, Tried};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// What `lab-load` is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// HTTP requests, each on a new connection.
    Http(http::HttpLoad),
    /// Long connections with an echo now and then.
    Echo(echo::EchoLoad),
    /// Long connections, each with its own outcome; some of them silent until woken.
    Hold(hold::HoldLoad),
    /// New connections at a fixed rate.
    Short(short::ShortLoad),
    /// ACKs of no connection.
    Flood(flood::FloodLoad),
    /// One large transfer.
    Bulk(bulk::BulkLoad),
    /// A web server whose health can be told, and which writes down who asked it what.
    Site(site::SiteServer),
    /// The server for all of these but HTTP. TCP on every address, UDP echo on those listed (so that answers leave from the
    /// address that was asked).
    Serve(serve::Server),
}

impl Job {
    /// As the command line argument.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| LabError::Wrong(error.to_string()))
    }

    /// From the command line argument.
    pub fn from_json(text: &str) -> Result<Job> {
        serde_json::from_str(text).map_err(|error| LabError::Wrong(format!("not a job: {error}")))
    }
}

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

/// Runs a job to its end, printing to standard output.
pub fn run(job: Job) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .tried(|| "starting the runtime".into())?;
    match job {
        Job::Http(load) => report(&runtime.block_on(http::run(load, &Control::start()))?),
        Job::Echo(load) => report(&runtime.block_on(echo::run(load, &Control::start()))?),
        Job::Hold(load) => report(&runtime.block_on(hold::run(load, &Control::start()))?),
        Job::Short(load) => report(&runtime.block_on(short::run(load, &Control::start()))?),
        Job::Flood(load) => report(&flood::run(&load, &Control::start())?),
        Job::Bulk(load) => report(&runtime.block_on(bulk::run(load, &Control::start()))?),
        Job::Site(server) => runtime.block_on(site::run(server)),
        Job::Serve(server) => runtime.block_on(serve::run(server)),
    }
}

/// Reads one line of a job's output.
pub fn parse_line<R: DeserializeOwned>(text: &str) -> Result<Line<R>> {
    serde_json::from_str(text)
        .map_err(|error| LabError::Wrong(format!("not a line of lab-load ({error}): {text}")))
}

fn report<R: Serialize>(report: &R) -> Result<()> {
    print_line(&Line::Report(report))
}

fn print_line<R: Serialize>(line: &Line<R>) -> Result<()> {
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
    fn start() -> Control {
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
    async fn woken(&mut self) {
        // The sender ends after it has woken us.
        drop(self.woken.wait_for(|woken| *woken).await);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn add_done(&self, count: u64) {
        self.done.fetch_add(count, Ordering::Relaxed);
    }

    fn add_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_described_by_json() {
        let job = Job::Serve(serve::Server {
            name: "b1".into(),
            port: 7000,
            udp: vec!["203.0.113.10".parse().unwrap()],
            ..serve::Server::default()
        });
        let text = job.to_json().unwrap();
        assert_eq!(Job::from_json(&text).unwrap().to_json().unwrap(), text);
        assert!(Job::from_json("{}").is_err());
    }
}
