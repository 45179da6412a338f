//! The commands that talk to a running agent.

use crate::arguments::{AgentAddress, Deregister, Register, StatusArguments};
use crate::host::phase_word;
use crate::request::{self, Outcome, RegisteredStatus, Reply, Request};
use model::agent::Phase;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Time for the agent to answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Time between two looks while waiting.
const LOOK: Duration = Duration::from_millis(100);
/// Longest answer, bytes.
const ANSWER_MAX: u64 = 64 << 20;

/// What went wrong: problem and remedy.
pub(crate) type Failed = (String, String);

/// Prints what went wrong.
pub(crate) fn finish(result: Result<(), Failed>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((problem, help)) => {
            startup::say(format_args!("guideway-agent: {problem}\n  help: {help}"));
            ExitCode::FAILURE
        }
    }
}

/// `guideway-agent register`.
pub(crate) fn register(of: &Register) -> Result<(), Failed> {
    // The agent runs elsewhere in the file system than whoever calls.
    let load_file = match &of.load_file {
        Some(file) => Some(std::path::absolute(file).map_err(|e| {
            (format!("{}: {e}", file.display()), "name the file with its whole path".to_owned())
        })?),
        None => None,
    };
    let reply = ask(
        &of.agent.socket,
        &Request::Register {
            service: of.service.clone(),
            name: of.name.clone(),
            address: of.address,
            weight: of.weight,
            port: of.port,
            capacity: of.capacity,
            incarnation: of.incarnation,
            load_file,
        },
    )?;
    println!("{}/{}: {}", of.service, of.name, word(reply.outcome));
    match of.wait {
        Some(seconds) => wait(of, Duration::from_secs(u64::from(seconds))),
        None => Ok(()),
    }
}

/// `guideway-agent deregister`.
pub(crate) fn deregister(of: &Deregister) -> Result<(), Failed> {
    let request = Request::Deregister { service: of.service.clone(), name: of.name.clone() };
    let reply = ask(&of.agent.socket, &request)?;
    println!("{}/{}: {}", of.service, of.name, word(reply.outcome));
    Ok(())
}

/// `guideway-agent status`.
pub(crate) fn status(of: &StatusArguments) -> Result<(), Failed> {
    let status = ask_status(&of.agent)?;
    if of.json {
        let text = serde_json::to_string_pretty(&status).map_err(|e| (e.to_string(), String::new()))?;
        println!("{text}");
    } else {
        print!("{}", picture(&status));
    }
    Ok(())
}

fn word(outcome: Option<Outcome>) -> &'static str {
    match outcome {
        Some(Outcome::Registered) => "registered",
        Some(Outcome::Updated) => "updated",
        Some(Outcome::Replaced) => "replaced",
        Some(Outcome::Unchanged) => "unchanged",
        Some(Outcome::Deregistered) => "deregistered",
        None => "done",
    }
}

/// Waits until every connected machine says that it is up.
fn wait(of: &Register, limit: Duration) -> Result<(), Failed> {
    let begun = Instant::now();
    loop {
        let status = ask_status(&of.agent)?;
        let backend = status.backends.iter().find(|backend| {
            let this = &backend.registration.backend;
            this.service == of.service && this.name == of.name
        });
        let Some(backend) = backend else {
            return Err(("it is not registered any more".to_owned(), "register it again".to_owned()));
        };
        if is_up(backend) {
            let names: Vec<_> = backend.machines.iter().map(|word| word.machine.as_str()).collect();
            println!("{}/{}: up on {}", of.service, of.name, names.join(", "));
            return Ok(());
        }
        if begun.elapsed() >= limit {
            let words: Vec<_> = backend.machines.iter().map(machine_word).collect();
            let said = if words.is_empty() { "no machine is connected".to_owned() } else { words.join("; ") };
            let help = "guideway-agent status shows machines and checks".to_owned();
            return Err((format!("not up after {} s: {said}", limit.as_secs()), help));
        }
        std::thread::sleep(LOOK);
    }
}

fn is_up(backend: &RegisteredStatus) -> bool {
    !backend.machines.is_empty()
        && backend.machines.iter().all(|word| word.state == Some(Phase::Up) && word.refused.is_none())
}

fn machine_word(word: &request::BackendAtMachine) -> String {
    let state = match (word.refused, word.state) {
        (Some(_), _) => "refused",
        (None, Some(state)) => phase_word(state),
        (None, None) => "nothing said",
    };
    let reason = if word.reason.is_empty() { String::new() } else { format!(" ({})", word.reason) };
    format!("{}: {state}{reason}", word.machine)
}

fn picture(status: &request::HostStatus) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = writeln!(out, "agent {} (incarnation {})", status.agent, status.incarnation);
    let _ = writeln!(out, "\nmachines");
    for machine in &status.machines {
        let name = machine.machine.as_deref().unwrap_or("?");
        let state = match (machine.connected, machine.leads) {
            (true, true) => "connected, leads",
            (true, false) => "connected",
            (false, _) => "not connected",
        };
        let problem = machine.problem.as_ref().map_or_else(String::new, |problem| format!(": {problem}"));
        let _ = writeln!(out, "  {name} {} {state}{problem}", machine.address);
    }
    let _ = writeln!(out, "\nbackends");
    for backend in &status.backends {
        let of = &backend.registration.backend;
        let words: Vec<_> = backend.machines.iter().map(machine_word).collect();
        let words = if words.is_empty() { "no machine is connected".to_owned() } else { words.join("; ") };
        let _ = writeln!(out, "  {}/{} {} weight {}: {words}", of.service, of.name, of.address, of.weight);
    }
    let _ = writeln!(out, "\nchecks");
    for check in &status.checks {
        let verdict = match check.up {
            Some(true) => "up",
            Some(false) => "down",
            None => "no verdict yet",
        };
        let _ = writeln!(
            out,
            "  {}/{} {} port {}: {verdict}, last {} ({} passed, {} failed; for {})",
            check.service,
            check.backend,
            check.address,
            check.port,
            check.reason,
            check.passed,
            check.failed,
            check.machines.join(", ")
        );
    }
    out
}

fn ask_status(agent: &AgentAddress) -> Result<request::HostStatus, Failed> {
    ask(&agent.socket, &Request::Status {})?
        .status
        .ok_or_else(|| ("an answer without a status".to_owned(), "is the agent of this version?".to_owned()))
}

fn ask(socket: &Path, request: &Request) -> Result<Reply, Failed> {
    let problem = |e: std::io::Error| {
        let help = "is guideway-agent running, and may this user write to its socket (--socket)?";
        (format!("{}: {e}", socket.display()), help.to_owned())
    };
    let mut stream = UnixStream::connect(socket).map_err(problem)?;
    stream.set_read_timeout(Some(LIMIT)).map_err(problem)?;
    stream.set_write_timeout(Some(LIMIT)).map_err(problem)?;
    let mut text = serde_json::to_vec(request).map_err(|e| (e.to_string(), String::new()))?;
    text.push(b'\n');
    stream.write_all(&text).map_err(problem)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).map_err(problem)?;
    let reply: Reply = serde_json::from_slice(&answer)
        .map_err(|e| (format!("not an answer: {e}"), "is the agent of this version?".to_owned()))?;
    if reply.ok {
        Ok(reply)
    } else {
        Err((reply.error.unwrap_or_else(|| "refused".to_owned()), reply.help.unwrap_or_default()))
    }
}
