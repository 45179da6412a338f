//! A load job that runs in a namespace, seen from the test.

use crate::binaries::Binaries;
use crate::command::{LabError, Result, Tried};
use crate::load::bulk::{BulkLoad, BulkReport};
use crate::load::echo::{EchoLoad, EchoReport};
use crate::load::flood::{FloodLoad, FloodReport};
use crate::load::hold::{HoldLoad, HoldReport};
use crate::load::http::{HttpLoad, HttpReport};
use crate::load::short::{ShortLoad, ShortReport};
use crate::load::{Job, Line, Progress, WAKE, parse_line};
use crate::namespace::Namespace;
use crate::topology::Lab;
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A running load job whose report is an `R`. It is killed when dropped.
#[derive(Debug)]
pub struct LoadRun<R> {
    child: Child,
    stdin: Option<ChildStdin>,
    progress: Arc<Mutex<Progress>>,
    output: Option<JoinHandle<Result<Option<R>>>>,
    errors: Option<JoinHandle<String>>,
}

impl Lab {
    /// Starts HTTP load in the clients' namespace.
    pub fn http(&self, load: HttpLoad) -> Result<LoadRun<HttpReport>> {
        LoadRun::start(self.client(), self.binaries(), &Job::Http(load))
    }

    /// Starts long connections in the clients' namespace.
    pub fn echo(&self, load: EchoLoad) -> Result<LoadRun<EchoReport>> {
        LoadRun::start(self.client(), self.binaries(), &Job::Echo(load))
    }

    /// Starts held connections in the clients' namespace.
    pub fn hold(&self, load: HoldLoad) -> Result<LoadRun<HoldReport>> {
        LoadRun::start(self.client(), self.binaries(), &Job::Hold(load))
    }

    /// Starts short connections in the clients' namespace.
    pub fn short(&self, load: ShortLoad) -> Result<LoadRun<ShortReport>> {
        LoadRun::start(self.client(), self.binaries(), &Job::Short(load))
    }

    /// Starts a flood in the clients' namespace.
    pub fn flood(&self, load: FloodLoad) -> Result<LoadRun<FloodReport>> {
        LoadRun::start(self.client(), self.binaries(), &Job::Flood(load))
    }

    /// Starts a transfer in the clients' namespace.
    pub fn bulk(&self, load: BulkLoad) -> Result<LoadRun<BulkReport>> {
        LoadRun::start(self.client(), self.binaries(), &Job::Bulk(load))
    }
}

impl<R: DeserializeOwned + Send + 'static> LoadRun<R> {
    /// Starts a job in a namespace.
    pub fn start(namespace: &Namespace, binaries: &Binaries, job: &Job) -> Result<LoadRun<R>> {
        let job = job.to_json()?;
        let argv = namespace.argv(&[Binaries::existing(&binaries.lab_load)?, &job]);
        let mut child = Command::new(argv[0])
            .args(&argv[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .tried(|| "starting lab-load".into())?;
        let progress = Arc::new(Mutex::new(Progress::default()));
        let stdin = child.stdin.take();
        let output = child.stdout.take().map(|stdout| {
            let progress = Arc::clone(&progress);
            std::thread::spawn(move || {
                let mut report = None;
                for line in BufReader::new(stdout).lines() {
                    match parse_line::<R>(&line.tried(|| "reading lab-load's output".into())?)? {
                        Line::Progress(now) => *progress.lock().unwrap_or_else(PoisonError::into_inner) = now,
                        Line::Report(last) => report = Some(last),
                    }
                }
                Ok(report)
            })
        });
        let errors = child.stderr.take().map(|mut stderr| {
            std::thread::spawn(move || {
                let mut text = String::new();
                drop(stderr.read_to_string(&mut text));
                text
            })
        });
        Ok(LoadRun { child, stdin, progress, output, errors })
    }

    /// Where it stands; at most a quarter of a second old.
    pub fn progress(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Wakes what is silent in it.
    pub fn wake(&mut self) -> Result<()> {
        match &mut self.stdin {
            Some(stdin) => writeln!(stdin, "{WAKE}").tried(|| "waking lab-load".into()),
            None => Ok(()),
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to stop and takes its report.
    pub fn stop(mut self) -> Result<R> {
        self.stdin = None;
        self.finish(Duration::from_secs(20))
    }

    /// Waits for its end and takes its report.
    pub fn finish(mut self, limit: Duration) -> Result<R> {
        let begun = Instant::now();
        while self.is_running() {
            if begun.elapsed() > limit {
                return Err(LabError::Timeout {
                    what: "end of lab-load".into(),
                    limit_ms: limit.as_millis(),
                    last: format!("{:?}", self.progress()),
                });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let errors = self.errors.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        match self.output.take().map(JoinHandle::join) {
            Some(Ok(Ok(Some(report)))) => Ok(report),
            Some(Ok(Err(error))) => Err(error),
            _ => Err(LabError::Wrong(format!("lab-load gave no report: {}", errors.trim_end()))),
        }
    }
}

impl<R> Drop for LoadRun<R> {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
