//! `guideway doctor`: what of this machine helps or hinders the balancer.

mod config_checks;
mod devices;
mod finding;
mod host;
mod machine_checks;

use crate::configuration;
use crate::connection::Connection;
use crate::daemon::{self, Daemon};
use crate::failure::Failure;
use crate::outcome::EXIT_CODES;
use crate::{CommandResult, Done, output, secrets};
use clap::Args;
use finding::{Finding, Grade};
use host::Host;
use hyper::{Method, StatusCode};
use model::Config;
use model::api::Status;
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

/// A turn of the management thread that should not be: everything else waits meanwhile.
const LONG_TURN_US: u64 = 100_000;

/// What the answer is, as JSON.
#[derive(Debug, Serialize)]
struct DoctorReport {
    pass: usize,
    warn: usize,
    fail: usize,
    checks: Vec<Finding>,
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let host = Host::new(&arguments.root);
    let mut checks = Vec::new();
    let config = arguments.config.as_ref().and_then(|path| config(&host, path, &mut checks));
    checks.extend(machine_checks::all(&host, config.as_ref()));
    // Of the CPU that runs this, not of what the files say: it is what the daemon would choose here.
    checks.push(Finding::pass("flow table", format!("looks bursts up with {}", flow::isa().name())));
    if let Some(config) = &config {
        checks.extend(config_checks::all(&host, config));
    }
    checks.extend(daemon_checks(arguments, config.as_ref()));
    let count = |grade| checks.iter().filter(|f| f.grade == grade).count();
    let (pass, warn, fail) = (count(Grade::Pass), count(Grade::Warn), count(Grade::Fail));
    let report = DoctorReport { pass, warn, fail, checks };
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

fn daemon_checks(arguments: &Arguments, config: Option<&Config>) -> Vec<Finding> {
    let named = arguments.socket.clone().or_else(|| config.map(|c| c.api.socket.clone()));
    let connection = Connection { socket: named, config: None };
    match daemon::socket(&connection).and_then(Daemon::at) {
        Ok(daemon) => {
            let ready = ready_check(&daemon);
            // Nothing more is asked of one that does not answer.
            let store = ready.as_ref().is_ok().then(|| store_check(&daemon)).flatten();
            let management = ready.as_ref().is_ok().then(|| daemon.get("/v1/status").ok()).flatten();
            let ready = ready.unwrap_or_else(|e| not_reached(&e));
            [Some(ready), store, management.as_ref().map(management_check)].into_iter().flatten().collect()
        }
        Err(e) => vec![not_reached(&e)],
    }
}

const DAEMON: &str = "daemon";

fn ready_check(daemon: &Daemon) -> Result<Finding, Failure> {
    let answer = daemon.ask(Method::GET, "/v1/ready", Vec::new(), Duration::ZERO)?;
    let status = answer.status;
    let ready: model::api::Ready = answer.json()?;
    Ok(match status {
        StatusCode::OK => Finding::pass(DAEMON, format!("ready at {}", daemon.socket().display())),
        _ => {
            let see = "see: guideway show services, guideway show ports, guideway events";
            Finding::warn(DAEMON, format!("runs, but is not ready: {}", ready.reason), see)
        }
    })
}

/// Whether a machine in a cluster reaches the store; `None` for one that is alone.
fn store_check(daemon: &Daemon) -> Option<Finding> {
    const CHECK: &str = "cluster store";
    let answer = daemon.ask(Method::GET, "/v1/cluster", Vec::new(), Duration::ZERO).ok()?;
    if answer.status == StatusCode::CONFLICT {
        return None;
    }
    let cluster: Result<model::api::ClusterStatus, Failure> =
        answer.accepted().and_then(|answer| answer.json());
    Some(match cluster {
        Ok(cluster) if cluster.store_reached => Finding::pass(CHECK, "reached"),
        Ok(cluster) => Finding::warn(
            CHECK,
            format!("not reached: {}", cluster.store_problem.unwrap_or_default()),
            "see that etcd runs there and that nothing is in the way: etcdctl --endpoints=... endpoint \
             health",
        ),
        Err(e) => Finding::warn(CHECK, e.to_string(), "see: guideway show cluster"),
    })
}

/// Whether the daemon's management thread is held up by something, and whether what it says is lost.
fn management_check(status: &Status) -> Finding {
    const CHECK: &str = "management";
    let lost = [
        (status.log_lines_lost, "lines of the log"),
        (status.notices_lost, "messages to the service manager"),
    ];
    if let Some((count, what)) = lost.into_iter().find(|(count, _)| *count > 0) {
        let reason = format!("{count} {what} were lost: nobody took them in time");
        return Finding::warn(
            CHECK,
            reason,
            "look at what reads them: systemctl status systemd-journald guideway",
        );
    }
    match status.management.iter().max_by_key(|of| of.longest_us) {
        Some(of) if of.longest_us >= LONG_TURN_US => Finding::warn(
            CHECK,
            format!("its thread was once busy for {} ms with {}", of.longest_us / 1000, of.job),
            "give it a CPU that is not slow or shared (workers.management_cpus), and report it with \
             guideway_management_* of /metrics",
        ),
        Some(of) => {
            Finding::pass(CHECK, format!("longest turn {:.1} ms ({})", of.longest_us as f64 / 1000.0, of.job))
        }
        None => Finding::pass(CHECK, "the daemon does not tell how long its turns are"),
    }
}

/// A daemon that is not there is normal before the first start; one that answers nonsense is not.
fn not_reached(e: &Failure) -> Finding {
    match e {
        Failure::Usage { .. } => Finding::warn(DAEMON, e.to_string(), "choose one with --socket or --config"),
        e if e.to_string().contains("not understood") => {
            Finding::fail(DAEMON, e.to_string(), "install guideway and guidewayd of the same version")
        }
        e => {
            let start = "start it: systemctl start guideway; its log: journalctl -u guideway";
            Finding::warn(DAEMON, e.to_string(), start)
        }
    }
}

fn for_people(report: &DoctorReport) -> String {
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
