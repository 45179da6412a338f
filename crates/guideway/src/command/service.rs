//! `guideway service` and `guideway backend`: one service, or one backend, by itself.

use super::revision::WaitArguments;
use crate::connection::Connection;
use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::name::{BackendName, escaped};
use crate::outcome::EXIT_CODES;
use crate::{CommandResult, Done, configuration, output};
use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;
use model::api::{ApplyResult, BackendPatch, ServiceConfig};
use model::config::AdminState;
use std::path::PathBuf;

#[derive(Subcommand, Debug)]
pub(crate) enum ServiceCommand {
    /// Show, set or delete one service, whatever the file says; or have it be as the file says again
    #[command(subcommand, after_help = EXIT_CODES)]
    Service(OneServiceCommand),
    /// Set weight or state of one backend, over what the file says
    #[command(subcommand, after_help = EXIT_CODES)]
    Backend(BackendCommand),
}

#[derive(Subcommand, Debug)]
pub(crate) enum OneServiceCommand {
    /// Print one service as it is in force, and whose word that is
    #[command(after_help = EXIT_CODES)]
    Show(ShowArguments),
    /// Set one service as FILE says: its table of a configuration, with all that belongs to it
    #[command(after_help = EXIT_CODES)]
    Set(SetArguments),
    /// Delete one service
    #[command(after_help = EXIT_CODES)]
    Delete(ChangeArguments),
    /// Have one service, and its backends, be as the daemon's file says again
    #[command(after_help = EXIT_CODES)]
    Release(ChangeArguments),
}

#[derive(Subcommand, Debug)]
pub(crate) enum BackendCommand {
    /// Set its weight, its state, or both
    #[command(after_help = EXIT_CODES)]
    Set(PatchArguments),
}

#[derive(Args, Debug)]
pub(crate) struct ShowArguments {
    /// Name of the service
    service: String,
    #[command(flatten)]
    connection: Connection,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct SetArguments {
    /// Name of the service
    service: String,
    /// The service; - reads standard input
    file: PathBuf,
    #[command(flatten)]
    change: ChangeOptions,
}

#[derive(Args, Debug)]
pub(crate) struct ChangeArguments {
    /// Name of the service
    service: String,
    #[command(flatten)]
    change: ChangeOptions,
}

#[derive(Args, Debug)]
pub(crate) struct PatchArguments {
    /// The backend, for example web/b1
    #[arg(value_name = "SERVICE/BACKEND")]
    backend: BackendName,
    /// Its weight; 0: no new flows
    #[arg(long, required_unless_present = "state")]
    weight: Option<u32>,
    /// Its state
    #[arg(long)]
    state: Option<DesiredState>,
    #[command(flatten)]
    change: ChangeOptions,
}

/// What a backend is to be, as in the configuration.
#[derive(ValueEnum, Clone, Copy, Debug)]
enum DesiredState {
    /// As health says
    Up,
    /// No new flows; old ones live on
    Drain,
    /// Down, whatever health says
    Down,
}

/// What all changes have in common.
#[derive(Args, Debug)]
struct ChangeOptions {
    /// Refuse if the service was changed after this revision: the one in which it was read, see guideway service show
    #[arg(long, value_name = "REVISION")]
    read_at: Option<u64>,
    #[command(flatten)]
    waiting: WaitArguments,
    #[command(flatten)]
    connection: Connection,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: &ServiceCommand) -> CommandResult {
    match command {
        ServiceCommand::Service(OneServiceCommand::Show(of)) => show(of),
        ServiceCommand::Service(OneServiceCommand::Set(of)) => {
            let text = configuration::read(&of.file)?.into_bytes();
            let target = format!("/v1/services/{}", escaped(&of.service));
            of.change.make(Method::PUT, &target, ("application/toml", text))
        }
        ServiceCommand::Service(OneServiceCommand::Delete(of)) => {
            let target = format!("/v1/services/{}", escaped(&of.service));
            of.change.make(Method::DELETE, &target, ("application/toml", Vec::new()))
        }
        ServiceCommand::Service(OneServiceCommand::Release(of)) => {
            let target = format!("/v1/services/{}/release", escaped(&of.service));
            of.change.make(Method::POST, &target, ("application/toml", Vec::new()))
        }
        ServiceCommand::Backend(BackendCommand::Set(of)) => patch(of),
    }
}

fn show(arguments: &ShowArguments) -> CommandResult {
    let daemon = Daemon::new(&arguments.connection)?;
    let shown: ServiceConfig = daemon.get(&format!("/v1/services/{}", escaped(&arguments.service)))?;
    if arguments.json {
        output::json(&shown)?;
        return Ok(Done::Well);
    }
    output::print(&format!("{}{}", heading(&shown), shown.config))?;
    Ok(Done::Well)
}

/// Whose word holds, as a comment, so that what is printed can be set again.
fn heading(of: &ServiceConfig) -> String {
    let whole = match of.whole {
        Some(_) => "as the API has set it",
        None => "as the file says",
    };
    let backends = match of.backends.len() {
        0 => String::new(),
        _ => format!("; weight or state by the API: {}", of.backends.join(", ")),
    };
    format!("# {}, in revision {}: {whole}{backends}\n", of.name, of.revision)
}

fn patch(arguments: &PatchArguments) -> CommandResult {
    let BackendName { service, backend } = &arguments.backend;
    let state = arguments.state.map(|state| match state {
        DesiredState::Up => AdminState::Up,
        DesiredState::Drain => AdminState::Drain,
        DesiredState::Down => AdminState::Down,
    });
    let patch = serde_json::to_vec(&BackendPatch { weight: arguments.weight, state })
        .map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))?;
    let target = format!("/v1/services/{}/backends/{}", escaped(service), escaped(backend));
    arguments.change.make(Method::PATCH, &target, ("application/json", patch))
}

impl ChangeOptions {
    fn make(&self, method: Method, target: &str, body: (&str, Vec<u8>)) -> CommandResult {
        let daemon = Daemon::new(&self.connection)?;
        let read_at = self.read_at.map_or_else(String::new, |revision| format!("&revision={revision}"));
        let target = format!("{target}?{}{read_at}", self.waiting.query());
        let result: ApplyResult = daemon.send(method, &target, body, self.waiting.longest())?;
        self.waiting.conclude(&result, self.json)
    }
}
