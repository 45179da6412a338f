//! Configurations from the API and from the file: checked, planned, applied, or refused as a whole.
//!
//! Rule of this module: whatever takes time (reading the file and the tokens, parsing, comparing) is done by [`prepare`] on
//! another thread; the controller only puts in force what was prepared.

use crate::agents::facts::AgentTokens;
use crate::agents::token_file;
use crate::api::credentials::Credentials;
use crate::claims::Claims;
use crate::cluster::adopt;
use crate::cluster::desire::Desire;
use crate::cluster::desired::Desired;
use crate::cluster::desires;
use crate::cluster::forecast;
use crate::cluster::forecast::Count;
use crate::compile::{Making, Runtime, compile};
use crate::configure;
use crate::controller::Controller;
use crate::handle::Handle;
use crate::ids::Ids;
use crate::plan;
use crate::refusal::Refusal;
use crate::view;
use model::api::{ApplyResult, CheckedConfig, EventKind};
use model::config::Config;
use model::registered::{Registered, Skipped};
use model::{Diagnostic, Loaded, Severity};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use worker::view::PortView;

/// Most mistakes of a file that are told as events of their own.
const TOLD_MAX: usize = 20;
/// Name of a configuration that came by the API.
const REQUEST: &str = "request";

/// Where a configuration comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A request.
    Request(String),
    /// The file that the daemon was started with.
    File,
}

/// What a configuration is compared with.
#[derive(Debug)]
pub(crate) struct Basis {
    config: Arc<Config>,
    /// Stays, unless it does not fit any more.
    registered: Vec<Registered>,
    file: PathBuf,
    ports: Vec<PortView>,
}

/// A configuration that can be used as far as can be said without the controller.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Where it came from.
    name: String,
    is_file: bool,
    pub(crate) loaded: Loaded,
    /// With what had registered.
    merged: (Config, Vec<Skipped>),
    registered: Vec<Registered>,
    pub(crate) tokens: Result<AgentTokens, Refusal>,
    credentials: Result<Credentials, Refusal>,
    /// Its services, as they are a cluster's; of a machine alone nothing.
    services: Result<String, String>,
    /// What the files of tokens hold now that the services in force in a cluster name.
    tokens_in_force: Result<AgentTokens, Refusal>,
    pub(crate) plan: serde_json::Value,
    restart_keys: Vec<String>,
}

impl Prepared {
    /// Reads, checks and compares. Takes as long as it takes.
    fn of(source: Source, basis: &Basis) -> Result<Prepared, Refusal> {
        let (name, text, is_file) = match source {
            Source::Request(text) => (REQUEST.to_owned(), text, false),
            Source::File => {
                let path = &basis.file;
                let refused = |problem| Refusal::File { path: path.clone(), problem };
                let name = path.display().to_string();
                let text = model::text(&name, read(path).map_err(refused)?).map_err(Refusal::Config)?;
                (name, text, true)
            }
        };
        let loaded = model::load(&name, &text).map_err(Refusal::Config)?;
        let merged = loaded.config.with_registered(&basis.registered);
        let config = &merged.0;
        // What could not be compiled is not let in, and in a cluster not asked for. Only its ids are not known here.
        let trial = Runtime { making: Making::Nothing, ..Runtime::offline(&basis.ports) };
        compile(config, &mut Ids::default(), &trial).map_err(Refusal::Compile)?;
        let plan = plan::plan(&*basis.config, config);
        let is_cluster = loaded.config.cluster.is_some();
        Ok(Prepared {
            name,
            is_file,
            tokens: token_file::tokens(&loaded.config),
            credentials: Credentials::of(&loaded.config),
            services: if is_cluster { model::services_of(&loaded.text) } else { Ok(String::new()) },
            tokens_in_force: if is_cluster {
                token_file::tokens(&basis.config)
            } else {
                Ok(AgentTokens::new())
            },
            plan: serde_json::to_value(plan).unwrap_or(serde_json::Value::Null),
            restart_keys: basis.config.restart_keys(&loaded.config),
            merged,
            registered: basis.registered.clone(),
            loaded,
        })
    }

    /// What `check` says of it.
    pub(crate) fn checked(self) -> CheckedConfig {
        let services = &self.loaded.config.services;
        CheckedConfig {
            services: services.len() as u64,
            backends: services.iter().map(|service| service.backends.len() as u64).sum(),
            restart_keys: self.restart_keys,
            warnings: self.loaded.warnings,
        }
    }
}

/// Prepares a configuration on another thread, a few at a time.
///
/// # Errors
/// What is wrong with it. Nothing has changed.
pub(crate) async fn prepare(handle: &Handle, source: Source) -> Result<Prepared, Refusal> {
    let _place = handle.preparing.acquire().await.map_err(|_| Refusal::Stopping)?;
    let basis = handle.ask(|controller| basis(controller)).await.ok_or(Refusal::Stopping)?;
    let prepared = tokio::task::spawn_blocking(move || Prepared::of(source, &basis));
    // It can fail only when the runtime ends.
    prepared.await.map_err(|_| Refusal::Stopping)?
}

/// Prepares a configuration and applies it; a refusal is told as an event.
///
/// # Errors
/// Why it was refused. Nothing has changed.
pub(crate) async fn apply(handle: &Handle, source: Source) -> Result<Applied, Refusal> {
    let is_file = matches!(source, Source::File);
    let prepared = prepare(handle, source).await;
    let claims = handle.claims.clone();
    let apply = move |controller: &mut Controller| match prepared {
        Ok(prepared) => take(controller, prepared, &claims),
        Err(refusal) => {
            let name = if is_file {
                controller.program.config_path.display().to_string()
            } else {
                REQUEST.to_owned()
            };
            refused(controller, &name, is_file, &refusal);
            Err(refusal)
        }
    };
    let Taken { result, desire, credentials } = handle.ask(apply).await.ok_or(Refusal::Stopping)??;
    handle.credentials.send_replace(credentials);
    let desired = desire.map(|desire| handle.desire(desire)).transpose()?;
    Ok(Applied { result, desired })
}

/// As SIGHUP asks for. Whatever comes of it is told as an event.
pub(crate) async fn reload(handle: Handle) {
    let Ok(_turn) = handle.applying.acquire().await else { return };
    let Ok(Applied { desired: Some(desired), .. }) = apply(&handle, Source::File).await else { return };
    if let Err(refusal) = desired.accepted().await {
        let message = format!("the reload was refused: {refusal}");
        let tell =
            move |controller: &mut Controller| controller.log.push(EventKind::Warning, None, None, message);
        let _ = handle.ask(tell).await;
    }
}

/// A configuration that was taken.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) result: ApplyResult,
    /// In a cluster: whether it takes what it was asked for. Nothing has changed here yet.
    pub(crate) desired: Option<Desired>,
}

/// A configuration that the controller has taken.
#[derive(Debug)]
pub(crate) struct Taken {
    result: ApplyResult,
    /// What a cluster is to be asked for.
    desire: Option<Desire>,
    credentials: Credentials,
}

/// What a configuration is to be compared with.
pub(crate) fn basis(controller: &Controller) -> Basis {
    let registered = match &controller.cluster {
        None => controller.agents.registry.heard().alive,
        Some(_) => controller.config.registered(),
    };
    let (config, file) = (Arc::clone(&controller.config), controller.program.config_path.clone());
    Basis { config, registered, file, ports: view::port_views(controller) }
}

/// What has to be counted to say what applying a configuration would do.
pub(crate) fn forecast_of(controller: &Controller, prepared: &Prepared) -> Option<Count> {
    controller.cluster.as_ref()?;
    forecast::forecast(controller, &prepared.loaded.config.with_registered(&controller.config.registered()).0)
}

/// Tells that a configuration was refused.
pub(crate) fn refused(controller: &mut Controller, name: &str, is_file: bool, refusal: &Refusal) {
    let message = match refusal {
        Refusal::File { .. } => format!("reload: {refusal}"),
        _ => format!("configuration from {name} refused: {refusal}"),
    };
    controller.log.push(EventKind::Refused, None, None, message);
    if let Refusal::Config(report) = refusal
        && is_file
    {
        tell(controller, name, EventKind::Refused, report.diagnostics());
    }
}

/// Applies what was prepared. `acknowledged` and `duration_ms` are the caller's to fill in.
pub(crate) fn take(
    controller: &mut Controller,
    prepared: Prepared,
    claims: &Claims,
) -> Result<Taken, Refusal> {
    let (name, is_file) = (prepared.name.clone(), prepared.is_file);
    let file_text = is_file.then(|| prepared.loaded.text.clone());
    match try_apply(controller, prepared, claims) {
        Ok(applied) => {
            if applied.desire.is_some() {
                let message = format!("configuration from {name} is what the cluster is asked for");
                controller.log.push(EventKind::Apply, None, None, message);
            } else {
                let generation = applied.result.generation;
                let message = format!("configuration from {name} applied as generation {generation}");
                controller.log.push(EventKind::Apply, None, None, message);
                controller.save();
            }
            if let Some(text) = file_text {
                tell(controller, &name, EventKind::Warning, &applied.result.warnings);
                controller.file_text = text;
            }
            Ok(applied)
        }
        Err(refusal) => {
            refused(controller, &name, is_file, &refusal);
            Err(refusal)
        }
    }
}

pub(crate) fn try_apply(
    controller: &mut Controller,
    prepared: Prepared,
    claims: &Claims,
) -> Result<Taken, Refusal> {
    if controller.program.stopping {
        return Err(Refusal::Stopping);
    }
    let Prepared {
        loaded,
        merged,
        registered,
        tokens,
        credentials,
        services,
        tokens_in_force,
        plan,
        restart_keys,
        ..
    } = prepared;
    if !restart_keys.is_empty() {
        return Err(Refusal::Restart(restart_keys));
    }
    // They are files of each machine: what this one cannot read is not asked for.
    let (tokens, credentials) = (tokens?, credentials?);
    let warnings = loaded.warnings.clone();
    let mut desire = None;
    if controller.cluster.is_some() {
        let services = services.map_err(Refusal::Store)?;
        desire = Some(desires::desire_services(controller, &loaded, services.clone())?);
        adopt::renew_own(controller, loaded, services, tokens_in_force);
        controller.settle();
    } else {
        let alive = controller.agents.registry.heard().alive;
        let merged = if alive == registered { merged } else { loaded.config.with_registered(&alive) };
        let ids = configure::ids_of(controller, &merged.0)?;
        claims.claim_vips(&loaded.config).map_err(Refusal::Claimed)?;
        configure::install(controller, loaded, merged, ids, &tokens);
    }
    let generation = controller.publication.next_generation();
    let result = ApplyResult { generation, acknowledged: false, duration_ms: 0, warnings, plan };
    Ok(Taken { result, desire, credentials })
}

/// Tells what is wrong with the file, errors first: nobody waits for the answer to a signal.
pub(crate) fn tell(controller: &mut Controller, name: &str, kind: EventKind, diagnostics: &[Diagnostic]) {
    let of = |severity| diagnostics.iter().filter(move |of| of.severity == severity);
    let errors = of(Severity::Error).map(|of| ("error", of));
    let all = errors.chain(of(Severity::Warning).map(|of| ("warning", of)));
    for (word, of) in all.take(TOLD_MAX) {
        let Diagnostic { line, column, message, help, .. } = of;
        controller.log.push(
            kind,
            None,
            None,
            format!("{name}:{line}:{column}: {word}: {message}; help: {help}"),
        );
    }
    if let Some(further @ 1..) = diagnostics.len().checked_sub(TOLD_MAX) {
        let message =
            format!("{name}: {further} further errors and warnings; guideway check {name} tells all");
        controller.log.push(kind, None, None, message);
    }
}

#[expect(clippy::disallowed_methods, reason = "on another thread")]
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(model::TEXT_MAX as u64 + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() > model::TEXT_MAX {
        return Err(format!("it is longer than {} bytes, which is what is read at most", model::TEXT_MAX));
    }
    Ok(bytes)
}
