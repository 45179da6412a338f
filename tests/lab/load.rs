//! Load on real TCP, and the server behind it. A job is described by JSON on the command line; while it runs a line
//! of progress is printed four times a second, and its last line is the report. It ends when its work is done or when
//! its standard input ends, so it never outlives the test that started it. The line `wake` on its standard input wakes
//! what is silent.

pub mod bulk;
mod control;
pub mod echo;
pub mod flood;
pub mod hold;
pub mod http;
pub mod serve;
pub mod short;
pub mod site;
mod socket;

pub use control::{Control, FAILURES_MAX, Failure, Line, PerBackend, Progress, WAKE, unix_ms};

use crate::command::{LabError, Result, Tried};
use control::print_line;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

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
