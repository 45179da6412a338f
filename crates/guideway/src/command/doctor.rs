//! `guideway doctor`: what of this machine helps or hinders the balancer.

mod config_checks;
mod devices;
mod host;
mod machine_checks;

use crate::arguments::{Connection, EXIT_CODES};
use crate::configuration;
use crate::daemon::{self, Daemon};
use crate::failure::Failure;
use crate::{Done, Outcome, output, secrets};
use clap::Args;
use host::Host;
use hyper::{Method, StatusCode};
use model::Config;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Check this machine: hugepages, IOMMU, isolation, NUMA, drivers, offloads, configuration, daemon
///
/// With --config it knows which CPUs, devices and interfaces matter. Ends with 1 if anything fails; warnings do not
/// count.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// The configuration that is or will be in use
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The daemon's socket [default: the one of --config, else the only one in /run/guideway]
    #[arg(long, env = "GUIDEWAY_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Look at the file system below this directory instead of / (for images and tests)
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

/// How a check ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    Pass,
    Warn,
    Fail,
}

/// One check: what was looked at, how it ended and why, and what to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Finding {
    check: &'static str,
    grade: Grade,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    fn pass(check: &'static str, reason: impl Into<String>) -> Finding {
        Finding { check, grade: Grade::Pass, reason: reason.into(), remedy: None }
    }

    fn warn(check: &'static str, reason: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { check, grade: Grade::Warn, reason: reason.into(), remedy: Some(remedy.into()) }
    }

    fn fail(check: &'static str, reason: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { check, grade: Grade::Fail, reason: reason.into(), remedy: Some(remedy.into()) }
    }
}

/// What the answer is, as JSON.
#[derive(Debug, Serialize)]
struct Report {
    pass: usize,
    warn: usize,
    fail: usize,
    checks: Vec<Finding>,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let host = Host::new(&arguments.root);
    let mut checks = Vec::new();
    let config = arguments.config.as_ref().and_then(|path| config(&host, path, &mut checks));
    checks.extend(machine_checks::all(&host, config.as_ref()));
    // Of the CPU that runs this, not of what the files say: it is what the daemon would choose here.
    checks.push(Finding::pass("flow table", format!("looks bursts up with {}", flow::isa().name())));
    if let Some(config) = &config {
        checks.extend(config_checks::all(&host, config));
    }
    checks.push(daemon_check(arguments, config.as_ref()));
    let count = |grade| checks.iter().filter(|f| f.grade == grade).count();
    let (pass, warn, fail) = (count(Grade::Pass), count(Grade::Warn), count(Grade::Fail));
    let report = Report { pass, warn, fail, checks };
    if arguments.json {
        output::json(&report)?;
    } else {
        output::print(&for_people(&report))?;
    }
    Ok(if report.fail > 0 { Done::BadNews } else { Done::Well })
}

/// Warnings of a configuration that are named; the rest is counted.
const WARNINGS_MAX: usize = 20;

fn config(host: &Host, path: &Path, checks: &mut Vec<Finding>) -> Option<Config> {
    const CHECK: &str = "configuration";
    let name = path.display();
    let wrong =
        |what: String| Finding::fail(CHECK, what, format!("correct it: guideway check {}", path.display()));
    let text = match configuration::read(path) {
        Ok(text) => text,
        Err(e) => {
            checks.push(wrong(match &e {
                Failure::Config(report) => report.to_plain().lines().next().unwrap_or_default().to_owned(),
                other => other.to_string(),
            }));
            return None;
        }
    };
    match model::load(&path.display().to_string(), &text) {
        Err(report) => {
            let first = report
                .diagnostics()
                .first()
                .map_or(String::new(), |d| format!(": {}:{}: {d}", d.line, d.column));
            checks.push(wrong(format!("{report}{first}")));
            None
        }
        Ok(mut loaded) => {
            if host.is_live() {
                loaded.warnings.extend(secrets::warnings(&loaded));
                if secrets::is_public(path) {
                    let reason =
                        format!("every user of this machine may read {name}, which has the cluster's key");
                    checks.push(Finding::warn(CHECK, reason, format!("take that away: chmod o= {name}")));
                }
            }
            if loaded.warnings.is_empty() {
                checks.push(Finding::pass(CHECK, format!("{name} is good")));
            }
            for w in loaded.warnings.iter().take(WARNINGS_MAX) {
                let reason = format!("{name}:{}:{}: {}", w.line, w.column, w.message);
                checks.push(Finding::warn(CHECK, reason, w.help.clone()));
            }
            if let Some(further @ 1..) = loaded.warnings.len().checked_sub(WARNINGS_MAX) {
                let all = format!("see all: guideway check {name}");
                checks.push(Finding::warn(CHECK, format!("{further} further warnings"), all));
            }
            Some(loaded.config)
        }
    }
}

fn daemon_check(arguments: &Arguments, config: Option<&Config>) -> Finding {
    const CHECK: &str = "daemon";
    let start = "start it: systemctl start guideway; its log: journalctl -u guideway";
    let named = arguments.socket.clone().or_else(|| config.map(|c| c.api.socket.clone()));
    let connection = Connection { socket: named, config: None };
    let daemon = daemon::socket(&connection).and_then(Daemon::at);
    let asked = daemon.and_then(|d| {
        let answer = d.ask(Method::GET, "/v1/ready", Vec::new(), Duration::ZERO)?;
        let ready: model::api::Ready = answer.json()?;
        Ok((answer.status, ready, d.socket().to_owned()))
    });
    match asked {
        Ok((StatusCode::OK, _, socket)) => Finding::pass(CHECK, format!("ready at {}", socket.display())),
        Ok((_, ready, _)) => {
            let see = "see: guideway show services, guideway events";
            Finding::warn(CHECK, format!("runs, but is not ready: {}", ready.reason), see)
        }
        // A daemon that is not there is normal before the first start; one that answers nonsense is not.
        Err(e @ Failure::Usage { .. }) => {
            Finding::warn(CHECK, e.to_string(), "choose one with --socket or --config")
        }
        Err(e) if e.to_string().contains("not understood") => {
            Finding::fail(CHECK, e.to_string(), "install guideway and guidewayd of the same version")
        }
        Err(e) => Finding::warn(CHECK, e.to_string(), start),
    }
}

fn for_people(report: &Report) -> String {
    let mut text = String::new();
    for f in &report.checks {
        let grade = match f.grade {
            Grade::Pass => "pass",
            Grade::Warn => "WARN",
            Grade::Fail => "FAIL",
        };
        text += &format!("{grade}  {:<16}  {}\n", f.check, f.reason);
        if let Some(remedy) = &f.remedy {
            text += &format!("{:24}-> {remedy}\n", "");
        }
    }
    text + &format!("{} passed, {} warnings, {} failed\n", report.pass, report.warn, report.fail)
}

#[cfg(test)]
mod tests;
