//! Configurations from the API and from the file: checked, planned, applied, or refused as a whole.
//!
//! Rule of this module: whatever takes time (reading the file and the tokens, parsing, comparing, ids, slot tables) is done by
//! [`prepare`] on another thread; the controller only puts in force what was prepared.

use crate::agents::facts::AgentTokens;
use crate::agents::token_file;
use crate::api::credentials::Credentials;
use crate::caller::Caller;
use crate::claims::Claims;
use crate::cluster::adopt;
use crate::cluster::desire::Desire;
use crate::cluster::desired::{Desired, StoreHandle};
use crate::cluster::desires;
use crate::cluster::forecast;
use crate::cluster::forecast::FlowCensus;
use crate::compile::{CompileError, Making, Runtime, compile};
use crate::configure;
use crate::controller::Controller;
use crate::draft::{Draft, DraftBasis};
use crate::handle::Handle;
use crate::ids::Ids;
use crate::plan;
use crate::refusal::Refusal;
use crate::revision::ledger::ChangeOrigin;
use crate::revision::overrides::{ServiceChange, is_in_file};
use crate::revision::{Content, Ledger, RevisionRefusal};
use crate::state::saver::saved;
use crate::view;
use model::api::{ApplyResult, CheckedConfig, EventKind};
use model::config::Config;
use model::registered::{Registered, Skipped};
use model::{Diagnostic, Loaded, Severity};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use worker::view::PortView;

/// Most mistakes of a file that are told as events of their own.
const TOLD_MAX: usize = 20;
/// A trial that is over and could not go back is tried again after so long, twice as long after each further failure …
const TRIAL_AGAIN_MIN: Duration = Duration::from_secs(1);
/// … up to this.
const TRIAL_AGAIN_MAX: Duration = Duration::from_secs(60);
/// Name of a configuration that came by the API.
const REQUEST: &str = "request";

/// Where a configuration comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A request.
    Request(String),
    /// The file that the daemon was started with.
    File,
    /// What was in force before, by its number.
    Revision(u64),
    /// One service, otherwise than it is.
    Service {
        service: String,
        change: ServiceChange,
        /// The revision in which whoever asks has seen it.
        read_at: Option<u64>,
    },
}

impl Source {
    /// What events call it.
    fn name(&self, file: &Path) -> String {
        match self {
            Source::Request(_) => REQUEST.to_owned(),
            Source::File => file.display().to_string(),
            Source::Revision(number) => format!("revision {number}"),
            Source::Service { service, .. } => format!("service {service}"),
        }
    }
}

/// Who wants a configuration in force, and how.
#[derive(Debug)]
pub(crate) struct ApplyRequest {
    pub(crate) caller: Caller,
    pub(crate) source: Source,
    /// On trial: it goes back by itself when nobody confirms it within so long.
    pub(crate) confirm: Option<Duration>,
    /// Only while this revision is on trial.
    pub(crate) ends_trial: Option<u64>,
}

impl ApplyRequest {
    /// For good.
    pub(crate) fn of(caller: Caller, source: Source) -> ApplyRequest {
        ApplyRequest { caller, source, confirm: None, ends_trial: None }
    }
}

/// What a configuration is compared with.
#[derive(Debug)]
pub(crate) struct Basis {
    config: Arc<Config>,
    /// Stays, unless it does not fit any more.
    registered: Vec<Registered>,
    file: PathBuf,
    ports: Vec<PortView>,
    /// What else its view is made of, if it is to be in force here.
    known: Option<DraftBasis>,
    /// What is in force is made of, or what was, if that is wanted. Of a machine in a cluster nothing.
    content: Content,
}

/// A configuration that can be used as far as can be said without the controller.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Where it came from.
    name: String,
    is_file: bool,
    /// The one service that it is about.
    service: Option<String>,
    content: Content,
    /// It was in force before: to put it in force again ends a trial.
    is_rollback: bool,
    /// What it changes, in short, and the services that it does.
    change: ChangeOrigin,
    pub(crate) loaded: Loaded,
    /// With what had registered.
    merged: (Config, Vec<Skipped>),
    registered: Vec<Registered>,
    /// What its view is made of; `None`: it is not to be in force here, or there are no ids yet.
    draft: Option<Draft>,
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
    fn of(source: Source, mut basis: Basis) -> Result<Prepared, Refusal> {
        let (name, is_file) = (source.name(&basis.file), matches!(source, Source::File));
        let service =
            if let Source::Service { service, .. } = &source { Some(service.clone()) } else { None };
        let is_rollback = matches!(source, Source::Revision(_));
        let (content, warnings) = wanted(source, &name, &basis)?;
        let text = content.overrides.over(&content.base).map_err(Refusal::Override)?;
        let mut loaded = if content.overrides.is_empty() {
            model::load(&name, &text)
        } else {
            // Its lines are not those of any file.
            model::load(&format!("{name} with what the API said"), &text)
        }
        .map_err(Refusal::Config)?;
        if let Some(warnings) = warnings {
            loaded.warnings = warnings;
        }
        let merged = loaded.config.with_registered(&basis.registered);
        let config = &merged.0;
        let draft = compiled(config, basis.known.take(), &basis.ports).map_err(Refusal::Compile)?;
        let mut plan = plan::plan(&*basis.config, config);
        plan.held = content.overrides.held().map(plan::HeldService::from).collect();
        let is_cluster = loaded.config.cluster.is_some();
        Ok(Prepared {
            name,
            is_file,
            service,
            content,
            is_rollback,
            change: ChangeOrigin {
                what: plan.in_short(),
                services: Some(plan.touched()),
                ..ChangeOrigin::default()
            },
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
            registered: basis.registered,
            draft,
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

/// What could not be compiled is not let in, and in a cluster not asked for. Only where it is `known` what the view is made of does anything
/// come of it.
fn compiled(
    config: &Config,
    known: Option<DraftBasis>,
    ports: &[PortView],
) -> Result<Option<Draft>, CompileError> {
    match known.map(|known| known.draft(config, ports)) {
        Some(Ok(draft)) => Ok(Some(draft)),
        // They may be there when flows are counted, which is done where it is put in force.
        Some(Err(CompileError::NoId(_))) | None => {
            let trial = Runtime { making: Making::Nothing, ..Runtime::offline(ports) };
            compile(config, &mut Ids::default(), &trial).map(|_| None)
        }
        Some(Err(error)) => Err(error),
    }
}

/// What a source wants in force, and where the API said something over a file, the file's own warnings. May read the file.
fn wanted(source: Source, name: &str, basis: &Basis) -> Result<(Content, Option<Vec<Diagnostic>>), Refusal> {
    let Content { base, overrides } = basis.content.clone();
    let text = match source {
        Source::Revision(_) => return Ok((Content { base, overrides }, None)),
        Source::Service { service, change, .. } => {
            if let ServiceChange::Patch { backend, .. } = &change {
                basis.find(&service, backend)?;
            }
            let is_in_file = is_in_file(&base, &service);
            if matches!(change, ServiceChange::Delete | ServiceChange::Release)
                && !is_in_file
                && !overrides.says_of(&service)
            {
                return Err(Refusal::UnknownService(service));
            }
            let overrides = overrides.after(&service, change, is_in_file).map_err(Refusal::Override)?;
            return Ok((Content { base, overrides: Arc::new(overrides) }, None));
        }
        Source::Request(text) => text,
        Source::File => {
            let refused = |problem| Refusal::File { path: basis.file.clone(), problem };
            model::text(name, read(&basis.file).map_err(refused)?).map_err(Refusal::Config)?
        }
    };
    // Mistakes and warnings by their places in it, not in what is made of it.
    let own =
        (!overrides.is_empty()).then(|| model::load(name, &text)).transpose().map_err(Refusal::Config)?;
    Ok((Content { base: Arc::from(text), overrides }, own.map(|loaded| loaded.warnings)))
}

impl Basis {
    /// Whether a backend is configured by its file or by the API.
    fn find(&self, service: &str, backend: &str) -> Result<(), Refusal> {
        let Some(found) = self.config.services.iter().find(|of| of.name == service) else {
            return Err(Refusal::UnknownService(service.to_owned()));
        };
        match found.backends.iter().find(|of| of.name == backend) {
            None => {
                let (service, backend) = (service.to_owned(), backend.to_owned());
                Err(Refusal::UnknownBackend { service, backend })
            }
            Some(of) if of.registration.is_some() => Err(Refusal::Registered(backend.to_owned())),
            Some(_) => Ok(()),
        }
    }
}

/// Prepares a configuration on another thread, a few at a time; `is_to_be`: as one to be put in force, with all that its view is made of.
///
/// # Errors
/// What is wrong with it. Nothing has changed.
pub(crate) async fn prepare(handle: &Handle, source: Source, is_to_be: bool) -> Result<Prepared, Refusal> {
    let _place = handle.preparing.acquire().await.map_err(|_| Refusal::Stopping)?;
    let basis = handle.ask(move |controller| {
        let basis = basis(controller, &source)?;
        let known = (is_to_be && controller.cluster.is_none()).then(|| DraftBasis::of(controller));
        Ok::<_, Refusal>((Basis { known, ..basis }, source))
    });
    let (basis, source) = basis.await.ok_or(Refusal::Stopping)??;
    let prepared = tokio::task::spawn_blocking(move || Prepared::of(source, basis));
    // It can fail only when the runtime ends.
    prepared.await.map_err(|_| Refusal::Stopping)?
}

/// Prepares a configuration and applies it; a refusal is told as an event.
///
/// # Errors
/// Why it was refused. Nothing has changed.
pub(crate) async fn apply(handle: &Handle, order: ApplyRequest) -> Result<Applied, Refusal> {
    let ApplyRequest { caller, source, confirm, ends_trial } = order;
    let is_file = matches!(source, Source::File);
    let named = handle.ask(move |controller| (source.name(&controller.program.config_path), source));
    let (name, source) = named.await.ok_or(Refusal::Stopping)?;
    let prepared = match (prepare(handle, source, true).await, confirm) {
        (Ok(prepared), Some(within)) => on_trial(handle, prepared, within).await,
        (prepared, _) => prepared.map(|prepared| (prepared, None)),
    };
    // Before anything is changed: what the store cannot be asked for is refused as a whole.
    let (prepared, place) = match (prepared, handle.store.as_ref().map(StoreHandle::place).transpose()) {
        (Ok(prepared), Ok(place)) => (Ok(prepared), place),
        (Err(refusal), _) | (_, Err(refusal)) => (Err(refusal), None),
    };
    let claims = handle.claims.clone();
    let is_over = move |revisions: &Ledger| {
        ends_trial.is_some_and(|number| revisions.number() != number || revisions.trial().is_none())
    };
    let apply = move |controller: &mut Controller| match prepared {
        // Somebody confirmed it, or went back, while this was prepared.
        _ if is_over(&controller.revisions) => Err(Refusal::Revision(RevisionRefusal::NoTrial)),
        Ok((prepared, trial)) => take(controller, &caller, prepared, trial, &claims),
        Err(refusal) => {
            refused(controller, &caller, &name, is_file, &refusal);
            Err(refusal)
        }
    };
    let Taken { result, desire, credentials, saving } =
        handle.ask(apply).await.ok_or(Refusal::Stopping)??;
    handle.credentials.send_replace(credentials);
    let desired = place.zip(desire).map(|(place, desire)| place.desire(desire));
    Ok(Applied { result, desired, saving })
}

/// A configuration that is to be in force on trial.
#[derive(Debug)]
pub(crate) struct OnTrial {
    within: Duration,
    /// What was doubted before.
    doubted: Option<Arc<str>>,
}

/// Puts on the disk that a text is on trial, before it is in force: a daemon that dies in between does not begin with it.
async fn on_trial(
    handle: &Handle,
    prepared: Prepared,
    within: Duration,
) -> Result<(Prepared, Option<OnTrial>), Refusal> {
    let base = Arc::clone(&prepared.content.base);
    let doubted = handle.ask(move |controller| {
        if controller.cluster.is_some() {
            return Err(Refusal::Clustered);
        }
        let doubted = controller.revisions.doubt(&base).map_err(Refusal::Revision)?;
        Ok((doubted, controller.save()))
    });
    let (doubted, number) = doubted.await.ok_or(Refusal::Stopping)??;
    let (is_saved, problem) = saved(number, &mut handle.written.clone()).await;
    if is_saved {
        return Ok((prepared, Some(OnTrial { within, doubted })));
    }
    let trust = handle.ask(move |controller| {
        controller.revisions.trust(doubted);
        controller.save();
    });
    trust.await.ok_or(Refusal::Stopping)?;
    Err(Refusal::Unsaved(problem.unwrap_or_default()))
}

/// Goes back to what was in force before a trial when nobody has confirmed it in time; ends when it is over.
pub(crate) async fn watch_trial(handle: Handle, number: u64, within: Duration) {
    let (mut pause, mut again, mut is_told) = (within, TRIAL_AGAIN_MIN, false);
    loop {
        tokio::time::sleep(pause).await;
        let Ok(_turn) = handle.applying.acquire().await else { return };
        let now = handle.ask(move |controller| {
            let revisions = &controller.revisions;
            let is_on = revisions.number() == number && revisions.trial().is_some();
            is_on.then(|| revisions.overdue(controller.uptime_ms()))
        });
        match now.await.flatten() {
            None => return,
            Some(None) => pause = TRIAL_AGAIN_MIN,
            Some(Some(confirmed)) => {
                let caller = Caller::named("nobody");
                if !std::mem::replace(&mut is_told, true) {
                    tell_unconfirmed(&handle, &caller, number, confirmed).await;
                }
                let order = ApplyRequest::of(caller, Source::Revision(confirmed));
                let order = ApplyRequest { ends_trial: Some(number), ..order };
                // A refusal is told as an event, and tried again: a file may be missing for a while.
                let _ = apply(&handle, order).await;
                (pause, again) = (again, (again * 2).min(TRIAL_AGAIN_MAX));
            }
        }
    }
}

async fn tell_unconfirmed(handle: &Handle, caller: &Caller, number: u64, confirmed: u64) {
    let by = caller.clone();
    let message = format!("nobody confirmed revision {number}: revision {confirmed} is to be in force again");
    let tell = move |controller: &mut Controller| {
        controller.log.push_by(Some(&by), EventKind::Unconfirmed, (None, None), message);
    };
    let _ = handle.ask(tell).await;
}

/// As SIGHUP asks for. Whatever comes of it is told as an event.
pub(crate) async fn reload(handle: Handle) {
    let Ok(_turn) = handle.applying.acquire().await else { return };
    let caller = Caller::named("SIGHUP");
    let order = ApplyRequest::of(caller.clone(), Source::File);
    let applied = apply(&handle, order).await;
    let Ok(Applied { desired: Some(desired), .. }) = applied else { return };
    if let Err(refusal) = desired.accepted().await {
        let message = format!("the reload was refused: {refusal}");
        let tell = move |controller: &mut Controller| {
            controller.log.push_by(Some(&caller), EventKind::Warning, (None, None), message);
        };
        let _ = handle.ask(tell).await;
    }
}

/// A configuration that was taken.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) result: ApplyResult,
    /// In a cluster: whether it takes what it was asked for. Nothing has changed here yet.
    pub(crate) desired: Option<Desired>,
    /// Number of the state to be saved.
    pub(crate) saving: u64,
}

/// A configuration that the controller has taken.
#[derive(Debug)]
pub(crate) struct Taken {
    result: ApplyResult,
    /// What a cluster is to be asked for.
    desire: Option<Desire>,
    credentials: Credentials,
    /// Number of the state to be saved.
    saving: u64,
}

/// What a configuration is to be compared with.
///
/// # Errors
/// What the source names is not to be had.
fn basis(controller: &Controller, source: &Source) -> Result<Basis, Refusal> {
    let revisions = &controller.revisions;
    let content = match source {
        Source::Request(_) | Source::File => revisions.content(),
        _ if controller.cluster.is_some() => return Err(Refusal::Clustered),
        Source::Revision(number) => Some(&revisions.get(*number).map_err(Refusal::Revision)?.content),
        Source::Service { service, read_at, .. } => {
            if let Some(read_at) = read_at {
                revisions.unchanged_since(service, *read_at).map_err(Refusal::Revision)?;
            }
            revisions.content()
        }
    };
    let content = content.cloned().unwrap_or_default();
    let registered = match &controller.cluster {
        None => controller.agents.registry.received().alive,
        Some(_) => controller.config.registered(),
    };
    let (config, file) = (Arc::clone(&controller.config), controller.program.config_path.clone());
    Ok(Basis { config, registered, file, ports: view::port_views(controller), known: None, content })
}

/// What has to be counted to say what applying a configuration would do.
pub(crate) fn forecast_of(controller: &Controller, prepared: &Prepared) -> Option<FlowCensus> {
    controller.cluster.as_ref()?;
    forecast::forecast(controller, &prepared.loaded.config.with_registered(&controller.config.registered()).0)
}

/// Tells that a configuration was refused.
fn refused(controller: &mut Controller, caller: &Caller, name: &str, is_file: bool, refusal: &Refusal) {
    let message = match refusal {
        Refusal::File { .. } => format!("reload: {refusal}"),
        _ => format!("configuration from {name} refused: {refusal}"),
    };
    controller.log.push_by(Some(caller), EventKind::Refused, (None, None), message);
    if let Refusal::Config(report) = refusal
        && is_file
    {
        tell(controller, report.name(), EventKind::Refused, report.diagnostics());
    }
}

/// Applies what was prepared. What is waited for (`acknowledged`, `duration_ms`, `saved`) is the caller's to fill in.
fn take(
    controller: &mut Controller,
    caller: &Caller,
    prepared: Prepared,
    trial: Option<OnTrial>,
    claims: &Claims,
) -> Result<Taken, Refusal> {
    let (name, is_file, service) = (prepared.name.clone(), prepared.is_file, prepared.service.clone());
    let file_text = is_file.then(|| prepared.content.base.to_string());
    let (within, doubted) = trial.map(|of| (of.within, of.doubted)).unzip();
    match try_apply(controller, caller, prepared, within, claims) {
        Ok(applied) => {
            let ApplyResult { generation, revision, .. } = applied.result;
            let message = match &applied.desire {
                Some(_) => format!("configuration from {name} is what the cluster is asked for"),
                None => {
                    format!(
                        "configuration from {name} applied as generation {generation}, revision {revision}"
                    )
                }
            };
            controller.log.push_by(Some(caller), EventKind::Apply, (service.as_deref(), None), message);
            if let Some(text) = file_text {
                tell(controller, &name, EventKind::Warning, &applied.result.warnings);
                controller.file_text = text;
            }
            Ok(applied)
        }
        Err(refusal) => {
            if let Some(doubted) = doubted {
                controller.revisions.trust(doubted);
                controller.save();
            }
            refused(controller, caller, &name, is_file, &refusal);
            Err(refusal)
        }
    }
}

/// How long the revision in force still waits to be confirmed, if it does, milliseconds.
pub(crate) fn trial_left_ms(controller: &Controller) -> Option<u64> {
    controller.revisions.trial().map(|trial| trial.until_ms.saturating_sub(controller.uptime_ms()))
}

/// The revision in force is to stay. Returns its number, and that of the state to be saved.
pub(crate) fn confirm(
    controller: &mut Controller,
    caller: &Caller,
    number: Option<u64>,
) -> Result<(u64, u64), Refusal> {
    if controller.cluster.is_some() {
        return Err(Refusal::Clustered);
    }
    let number = controller.revisions.confirm(number).map_err(Refusal::Revision)?;
    let message = format!("revision {number} is confirmed");
    controller.log.push_by(Some(caller), EventKind::Confirmed, (None, None), message);
    Ok((number, controller.save()))
}

fn try_apply(
    controller: &mut Controller,
    caller: &Caller,
    prepared: Prepared,
    confirm: Option<Duration>,
    claims: &Claims,
) -> Result<Taken, Refusal> {
    if controller.program.stopping {
        return Err(Refusal::Stopping);
    }
    let Prepared {
        content,
        is_rollback,
        change,
        loaded,
        merged,
        registered,
        draft,
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
    if !is_rollback {
        controller.revisions.may_change().map_err(Refusal::Revision)?;
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
        let alive = controller.agents.registry.received().alive;
        let is_same = alive == registered;
        let merged = if is_same { merged } else { loaded.config.with_registered(&alive) };
        let ids = match draft.and_then(|draft| draft.ids(controller)).filter(|_| is_same) {
            Some(ids) => ids,
            None => configure::ids_of(controller, &merged.0)?,
        };
        claims.claim_vips(&loaded.config).map_err(Refusal::Claimed)?;
        configure::install(controller, loaded, merged, ids, &tokens);
        let change =
            ChangeOrigin { unix_ms: controller.now.unix_ms, caller: caller.as_str().to_owned(), ..change };
        record(controller, content, change, confirm);
    }
    let result = ApplyResult {
        generation: controller.publication.next_generation(),
        revision: controller.revisions.number(),
        acknowledged: false,
        duration_ms: 0,
        warnings,
        plan,
        saved: false,
        unsaved_because: None,
        confirm_within_ms: trial_left_ms(controller),
    };
    // What the cluster is asked for is the store's to keep.
    let saving = if desire.is_none() { controller.save() } else { 0 };
    Ok(Taken { result, desire, credentials, saving })
}

/// `confirm`: in which time somebody has to confirm it.
fn record(controller: &mut Controller, content: Content, change: ChangeOrigin, confirm: Option<Duration>) {
    let now_ms = controller.uptime_ms();
    match confirm {
        None => controller.revisions.record(content, change),
        Some(within) => {
            let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
            controller.revisions.record_on_trial(content, change, now_ms.saturating_add(within_ms))
        }
    };
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
